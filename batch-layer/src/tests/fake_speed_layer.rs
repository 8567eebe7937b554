//! A speed layer that says what a test wants it to say.

use futures::stream::{self, BoxStream, Empty};
use merganser_proto::v1::realtime_view_service_server::{RealtimeViewService, RealtimeViewServiceServer};
use merganser_proto::v1::{
    CutRequest, CutResponse, EraseUserRequest, EraseUserResponse, ErasedUser, ExportStatesRequest, ExportStatesResponse, GetStatesRequest,
    GetStatesResponse, PartitionOffset, PrepareVersionRequest, PrepareVersionResponse, StreamStatesRequest, StreamStatesResponse,
};
use std::collections::HashMap;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};
use views::definition::USER_STATS_SQL;
use views::wire;

use super::*;

/// What the fake answers.
#[derive(Clone)]
pub(super) struct FakeSpeedLayer {
    pub(super) log_id: String,
    pub(super) boundary: Vec<i64>,
    /// The log that it folds, as it believes it to be; `None` holds no range.
    pub(super) log: Option<Vec<Vec<Event>>>,
    /// What it folds with.
    pub(super) sql: &'static str,
    /// What it takes the first offset of a range for, less that offset.
    pub(super) shift: i64,
    /// What becomes of states on their way.
    pub(super) tamper: fn(&Definition, RecordBatch) -> RecordBatch,
}

impl FakeSpeedLayer {
    /// An honest one over what is in the master dataset.
    pub(super) fn of(master: &Master) -> Self {
        let (log_id, log) = ("log-1".to_owned(), Some(master.log.clone()));
        Self { log_id, boundary: master.boundary(), log, sql: USER_STATS_SQL, shift: 0, tamper: |_, states| states }
    }

    /// Serves until the test ends; the answer is the address.
    pub(super) async fn serve(self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tonic::transport::Server::builder().add_service(RealtimeViewServiceServer::new(self));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        url
    }
}

#[tonic::async_trait]
impl RealtimeViewService for FakeSpeedLayer {
    type ExportStatesStream = BoxStream<'static, Result<ExportStatesResponse, Status>>;
    type StreamStatesStream = Empty<Result<StreamStatesResponse, Status>>;

    async fn cut(&self, _: Request<CutRequest>) -> Result<Response<CutResponse>, Status> {
        let boundary = (0..).zip(&self.boundary).map(|(partition, offset)| PartitionOffset { partition, offset: *offset }).collect();
        Ok(Response::new(CutResponse { log_id: self.log_id.clone(), boundary }))
    }

    async fn prepare_version(&self, _: Request<PrepareVersionRequest>) -> Result<Response<PrepareVersionResponse>, Status> {
        Err(Status::unimplemented("no test asks"))
    }

    async fn erase_user(&self, _: Request<EraseUserRequest>) -> Result<Response<EraseUserResponse>, Status> {
        Err(Status::unimplemented("no test asks"))
    }

    async fn get_states(&self, _: Request<GetStatesRequest>) -> Result<Response<GetStatesResponse>, Status> {
        Err(Status::unimplemented("no test asks"))
    }

    async fn stream_states(&self, _: Request<StreamStatesRequest>) -> Result<Response<Self::StreamStatesStream>, Status> {
        Err(Status::unimplemented("no test asks"))
    }

    /// Two messages, so that a key comes in several.
    async fn export_states(&self, request: Request<ExportStatesRequest>) -> Result<Response<Self::ExportStatesStream>, Status> {
        let request = request.into_inner();
        let Some(log) = &self.log else {
            let details = ErrorDetails::with_error_info("BOUNDARY_RETIRED", "merganser", HashMap::new());
            return Err(Status::with_error_details(tonic::Code::FailedPrecondition, "the range is retired", details));
        };
        let definition = Definition::parse(self.sql, &schema()).unwrap();
        assert_eq!((request.fingerprint.as_str(), &request.log_id), (definition.fingerprint(), &self.log_id));
        let log = &log[request.partition as usize];
        let mut erased = std::collections::BTreeMap::new();
        for (offset, event) in (0..).zip(log).filter(|(offset, event)| is_erasure(event) && *offset >= request.start_offset) {
            erased.insert(event.user_id.clone(), offset);
        }
        if !definition.is_by_user() {
            erased.clear();
        }
        let events = &log[(request.start_offset + self.shift) as usize..request.end_offset as usize];
        let position = |offset| Position { partition: request.partition, offset, append_time_us: 0, content_hash: 0 };
        let placed = events.iter().zip((request.start_offset..).map(position)).filter(|(event, _)| !is_erasure(event));
        let placed: Vec<_> = placed.filter(|(event, at)| erased.get(&event.user_id).is_none_or(|erased| at.offset >= *erased)).collect();
        let (first, second) = placed.split_at(placed.len() / 2);
        let message = |events: &[(&Event, Position)]| {
            let states = fold::partial(&definition, &to_batch(events.iter().copied(), &schema())).unwrap();
            let states = (self.tamper)(&definition, states);
            Ok(ExportStatesResponse { states: wire::encode(&[states]).unwrap().into(), erased: Vec::new() })
        };
        let erased = erased.into_iter().map(|(user_id, offset)| ErasedUser { user_id, partition: request.partition, offset });
        let told = ExportStatesResponse { erased: erased.collect(), ..Default::default() };
        let states = [first, second].into_iter().filter(|events| !events.is_empty()).map(message);
        let messages: Vec<_> = std::iter::once(Ok(told)).chain(states).collect();
        Ok(Response::new(Box::pin(stream::iter(messages))))
    }
}
