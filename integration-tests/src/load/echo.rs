//! Servers that do nothing but answer: what the machine, the network stack and gRPC leave to anybody.
//!
//! The *back* answers everything at once. The *front* answers questions by asking the back first, as the serving layer asks the speed
//! layer, and for all who wait at the same time together. Answers have the bytes of a real one, which the load test recorded.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use anyhow::{Context, Result};
use futures::{Stream, StreamExt};
use merganser_proto::v1 as pb;
use merganser_proto::v1::ingest_service_server::{IngestService, IngestServiceServer};
use merganser_proto::v1::realtime_view_service_client::RealtimeViewServiceClient;
use merganser_proto::v1::realtime_view_service_server::{RealtimeViewService, RealtimeViewServiceServer};
use merganser_proto::v1::user_stats_service_server::{UserStatsService, UserStatsServiceServer};
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

/// Bytes of one key's states, about.
const KEY_BYTES: usize = 100;
/// Most keys of one call to the back.
const KEYS: usize = 1_000;
/// Calls to the back at the same time.
const CALLS: usize = 2;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Answers of a real server, to be given to everyone.
#[derive(Clone, PartialEq, Message)]
pub struct Recorded {
    /// Of one user's total.
    #[prost(message, optional, tag = "1")]
    pub total: Option<pb::GetUserStatsResponse>,
    /// Of one user's buckets.
    #[prost(message, optional, tag = "2")]
    pub buckets: Option<pb::GetUserStatsResponse>,
    /// Of many users.
    #[prost(message, optional, tag = "3")]
    pub many: Option<pb::BatchGetUserStatsResponse>,
}

impl Recorded {
    /// Keeps them in a file.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(&self, path: &Path) -> Result<()> {
        std::fs::write(path, self.encode_to_vec()).with_context(|| path.display().to_string())
    }

    /// Those of a file.
    ///
    /// # Errors
    /// It is not there, or not one of [`Self::write`].
    pub fn read(path: &Path) -> Result<Self> {
        Ok(Self::decode(std::fs::read(path).with_context(|| path.display().to_string())?.as_slice())?)
    }
}

/// Serves as the back, or, with a back's address, as the front, until the process is ended. Says where it listens.
///
/// # Errors
/// No port is free.
#[allow(clippy::print_stdout, reason = "whoever started this reads the address")]
pub async fn serve(recorded: Recorded, back: Option<&str>) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("echo listening on http://{}", listener.local_addr()?);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let back = back.map(|address| Back::to(Endpoint::from_shared(address.to_owned())?.tcp_nodelay(true).connect_lazy())).transpose()?;
    let echo = Echo { recorded: Arc::new(recorded), back };
    Server::builder()
        .add_service(UserStatsServiceServer::new(echo.clone()))
        .add_service(RealtimeViewServiceServer::new(echo.clone()))
        .add_service(IngestServiceServer::new(echo).max_decoding_message_size(64 << 20))
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}

/// Asks the back for the keys of all who wait.
#[derive(Clone, Debug)]
struct Back(mpsc::UnboundedSender<Waiting>);

/// Keys, and whoever wants them.
type Waiting = (Vec<String>, oneshot::Sender<Result<(), Status>>);

impl Back {
    fn to(channel: Channel) -> Result<Self> {
        let (waiting, mut queue) = mpsc::unbounded_channel::<Waiting>();
        tokio::spawn(async move {
            let calls = Arc::new(Semaphore::new(CALLS));
            while let Ok(permit) = Arc::clone(&calls).acquire_owned().await {
                let Some((mut keys, reply)) = queue.recv().await else { return };
                let mut replies = vec![reply];
                while keys.len() < KEYS
                    && let Ok((more, reply)) = queue.try_recv()
                {
                    keys.extend(more);
                    replies.push(reply);
                }
                let mut client = RealtimeViewServiceClient::new(channel.clone());
                tokio::spawn(async move {
                    let answer = client.get_states(pb::GetStatesRequest { keys, ..Default::default() }).await.map(drop);
                    drop(permit);
                    for reply in replies {
                        let _gone = reply.send(answer.clone());
                    }
                });
            }
        });
        Ok(Self(waiting))
    }

    async fn ask(&self, keys: Vec<String>) -> Result<(), Status> {
        let (reply, answer) = oneshot::channel();
        let _gone = self.0.send((keys, reply));
        answer.await.map_err(|_| Status::unavailable("the echo stops"))?
    }
}

#[derive(Clone, Debug)]
struct Echo {
    recorded: Arc<Recorded>,
    back: Option<Back>,
}

impl Echo {
    async fn ask_back(&self, keys: Vec<String>) -> Result<(), Status> {
        match &self.back {
            Some(back) => back.ask(keys).await,
            None => Ok(()),
        }
    }
}

#[tonic::async_trait]
impl UserStatsService for Echo {
    type WatchUserStatsStream = Answers<pb::WatchUserStatsResponse>;

    async fn get_user_stats(&self, request: Request<pb::GetUserStatsRequest>) -> Result<Response<pb::GetUserStatsResponse>, Status> {
        let request = request.into_inner();
        let by_bucket = request.granularity() == pb::Granularity::Bucket;
        self.ask_back(vec![request.user_id]).await?;
        let recorded = if by_bucket { &self.recorded.buckets } else { &self.recorded.total };
        Ok(Response::new(recorded.clone().unwrap_or_default()))
    }

    async fn batch_get_user_stats(
        &self,
        request: Request<pb::BatchGetUserStatsRequest>,
    ) -> Result<Response<pb::BatchGetUserStatsResponse>, Status> {
        self.ask_back(request.into_inner().user_ids).await?;
        Ok(Response::new(self.recorded.many.clone().unwrap_or_default()))
    }

    async fn watch_user_stats(&self, _: Request<pb::WatchUserStatsRequest>) -> Result<Response<Self::WatchUserStatsStream>, Status> {
        Err(Status::unimplemented("an echo changes nothing"))
    }
}

#[tonic::async_trait]
impl RealtimeViewService for Echo {
    type ExportStatesStream = Answers<pb::ExportStatesResponse>;
    type StreamStatesStream = Answers<pb::StreamStatesResponse>;

    async fn get_states(&self, request: Request<pb::GetStatesRequest>) -> Result<Response<pb::GetStatesResponse>, Status> {
        let keys = request.into_inner().keys.len();
        Ok(Response::new(pb::GetStatesResponse { states: vec![0; keys * KEY_BYTES].into(), ..Default::default() }))
    }

    async fn cut(&self, _: Request<pb::CutRequest>) -> Result<Response<pb::CutResponse>, Status> {
        Err(Status::unimplemented("an echo keeps nothing"))
    }

    async fn prepare_version(&self, _: Request<pb::PrepareVersionRequest>) -> Result<Response<pb::PrepareVersionResponse>, Status> {
        Err(Status::unimplemented("an echo keeps nothing"))
    }

    async fn export_states(&self, _: Request<pb::ExportStatesRequest>) -> Result<Response<Self::ExportStatesStream>, Status> {
        Err(Status::unimplemented("an echo keeps nothing"))
    }

    async fn stream_states(&self, _: Request<pb::StreamStatesRequest>) -> Result<Response<Self::StreamStatesStream>, Status> {
        Err(Status::unimplemented("an echo keeps nothing"))
    }

    async fn erase_user(&self, _: Request<pb::EraseUserRequest>) -> Result<Response<pb::EraseUserResponse>, Status> {
        Err(Status::unimplemented("an echo keeps nothing"))
    }
}

#[tonic::async_trait]
impl IngestService for Echo {
    type StreamEventsStream = Answers<pb::StreamEventsResponse>;

    async fn append_events(&self, request: Request<pb::AppendEventsRequest>) -> Result<Response<pb::AppendEventsResponse>, Status> {
        let accepted_count = request.into_inner().events.len() as i64;
        Ok(Response::new(pb::AppendEventsResponse { accepted_count, ..Default::default() }))
    }

    async fn stream_events(
        &self,
        requests: Request<Streaming<pb::StreamEventsRequest>>,
    ) -> Result<Response<Self::StreamEventsStream>, Status> {
        let answers = requests.into_inner().map(|request| {
            let accepted_count = request?.events.len() as i64;
            Ok(pb::StreamEventsResponse { accepted_count, ..Default::default() })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}
