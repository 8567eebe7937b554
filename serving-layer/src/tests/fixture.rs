//! A store with published versions, a speed layer that folds a list, and the real server between them.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use futures::stream::{self, BoxStream, Empty};
use merganser_proto::Transport;
use merganser_proto::v1::realtime_view_service_server::{RealtimeViewService, RealtimeViewServiceServer};
use merganser_proto::v1::user_stats_service_client::UserStatsServiceClient;
use merganser_proto::v1::{
    CutRequest, CutResponse, EraseUserRequest, EraseUserResponse, ExportStatesRequest, ExportStatesResponse, GetStatesRequest,
    GetStatesResponse, PartitionOffset, PrepareVersionRequest, PrepareVersionResponse, SliceRows, StreamStatesRequest,
    StreamStatesResponse,
};
use storage::batch_view::ViewWriter;
use storage::config::{Period, ServingConfig};
use storage::machine::RealMachine;
use storage::manifest::{DefinitionFile, Definitions, FORMAT_VERSION, Manifest, Manifests, PublishOutcome};
use storage::paths::{ViewFilePath, ViewName};
use storage::store::Store;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};
use views::columns::{self, Position};
use views::{Definition, Event, EventSchema, fold, shard_of, wire};

use crate::{ServingError, ServingLayer};

pub(super) const DAY_US: i64 = 86_400_000_000;
pub(super) const LOG_ID: &str = "a1b2";
const SHARDS: u32 = 2;

/// Event number `offset` of the one partition: one of three users, days 0 to 4, one and a half a piece.
pub(super) fn event(offset: i64) -> Event {
    Event {
        event_id: format!("e{offset}"),
        user_id: format!("user-{}", offset % 3),
        event_time_us: (offset * 7 % 5) * DAY_US + offset,
        event_type: String::new(),
        amount: Some(15_000),
        attributes: [].into(),
    }
}

/// States of the events `[start, end)`.
pub(super) fn states(definition: &Definition, start: i64, end: i64) -> RecordBatch {
    let events: Vec<Event> = (start..end).map(event).collect();
    let place = |offset| Position { partition: 0, offset, append_time_us: 0, content_hash: 0 };
    let rows = columns::to_batch(events.iter().zip((start..end).map(place)), definition.schema());
    fold::partial(definition, &rows).unwrap()
}

fn of_keys(states: &RecordBatch, wanted: impl Fn(&str) -> bool) -> RecordBatch {
    let keys = states.column(0).as_string::<i32>();
    let kept: BooleanArray = keys.iter().map(|key| key.map(&wanted)).collect();
    filter_record_batch(states, &kept).unwrap()
}

fn view() -> ViewName {
    "user_stats".parse().unwrap()
}

/// What the fake speed layer says, changed by tests as they go.
#[derive(Debug, Default)]
pub(crate) struct Speed {
    pub(super) head: i64,
    /// Questions from a lower boundary are refused.
    pub(super) oldest_boundary: i64,
    pub(crate) down: bool,
    /// Whether it is not ready for any version.
    pub(super) unprepared: bool,
    /// What it says of slices, if it knows of them: start, end and rows.
    pub(super) slices: Vec<(i64, i64, i64)>,
    /// Questions that were answered, whatever the answer.
    pub(super) questions: usize,
    /// Questions that came, those at the gate too.
    pub(super) arrived: usize,
    /// After so many messages a stream of states is at its end, without a word.
    pub(super) messages: Option<usize>,
    /// Whether it knows its answer before the gate, and not behind it.
    pub(super) reads_early: bool,
}

#[derive(Clone, Debug)]
pub(super) struct FakeSpeed {
    state: Arc<Mutex<Speed>>,
    /// A question waits for a permit.
    pub(super) gate: Arc<Semaphore>,
    definition: Arc<Definition>,
}

/// Everything of one test.
pub(super) struct Fixture {
    pub(super) client: UserStatsServiceClient<Channel>,
    pub(super) channel: Channel,
    pub(super) store: Store,
    pub(super) definition: Arc<Definition>,
    pub(super) gate: Arc<Semaphore>,
    state: Arc<Mutex<Speed>>,
    shutdown: CancellationToken,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Publishes `version`, the states of `[0, end)`, under `definition`.
pub(super) async fn publish(store: &Store, definition: &Definition, version: i64, end: i64) {
    let run_id = format!("run-{version}");
    let states = states(definition, 0, end);
    let mut files = Vec::new();
    for shard in 0..SHARDS {
        let path = ViewFilePath { view: view(), version, run_id: run_id.parse().unwrap(), part: shard };
        let mut writer = ViewWriter::create(store, &path, Arc::clone(definition.state_schema()), shard).await.unwrap();
        writer.write(&of_keys(&states, |key| shard_of(key, SHARDS) == shard)).unwrap();
        files.push(writer.finish().await.unwrap());
    }
    let stored = DefinitionFile {
        format_version: FORMAT_VERSION,
        sql: definition.sql().to_owned(),
        fingerprint: definition.fingerprint().to_owned(),
        schema: serde_json::to_value(definition.schema()).unwrap(),
    };
    Definitions::new(store.clone(), view()).put(&stored).await.unwrap();
    let manifest = Manifest {
        format_version: FORMAT_VERSION,
        view: view(),
        version,
        parent: (version > 1).then(|| version - 1),
        built_upon: None,
        run_id,
        created_time: "2026-11-21T02:00:00Z".to_owned(),
        log_id: LOG_ID.to_owned(),
        boundary: vec![end],
        imports: vec![],
        boundary_records: vec![],
        lease: 0,
        fingerprint: definition.fingerprint().to_owned(),
        as_of: None,
        withdrawn: false,
        digest: String::new(),
        event_count: end,
        row_count: files.iter().map(|file| file.rows).sum(),
        late_duplicate_count: 0,
        conflict_count: 0,
        engine: String::new(),
        files,
        audit: None,
        accepted_difference: None,
    };
    let outcome = Manifests::new(store.clone(), view()).publish(&manifest).await.unwrap();
    assert_eq!(outcome, PublishOutcome::Published);
}

/// An address that nobody listens on.
pub(super) async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// Starts the server over `store` with the speed layer at `address`.
pub(super) async fn serve(
    store: &Store,
    address: &str,
    poll_interval: Duration,
    shutdown: &CancellationToken,
) -> (Channel, tokio::task::JoinHandle<Result<(), ServingError>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Channel::from_shared(format!("http://{}", listener.local_addr().unwrap())).unwrap();
    let scrub_interval = Period::from_millis(20);
    let config =
        ServingConfig { speed_layer: address.to_owned(), poll_interval: Period(poll_interval), scrub_interval, ..ServingConfig::default() };
    let server = crate::run(config, store.clone(), EventSchema::default(), listener, shutdown.clone());
    let server = tokio::spawn(server);
    (endpoint.connect_lazy(), server)
}

impl Fixture {
    /// A server that looks for versions only when a question makes it, after `published` ends were published.
    pub(super) async fn new(published: &[i64], head: i64) -> Self {
        Self::with(views::definition::USER_STATS_SQL, published, head, Duration::from_secs(3600)).await
    }

    pub(super) async fn with(sql: &str, published: &[i64], head: i64, poll_interval: Duration) -> Self {
        let definition = Arc::new(Definition::parse(sql, &EventSchema::default()).unwrap());
        let store = Store::open("memory://").unwrap();
        for (version, end) in (1..).zip(published) {
            publish(&store, &definition, version, *end).await;
        }
        let state = Arc::new(Mutex::new(Speed { head, ..Speed::default() }));
        let gate = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        let shutdown = CancellationToken::new();

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let fake = FakeSpeed { state: Arc::clone(&state), gate: Arc::clone(&gate), definition: Arc::clone(&definition) };
        let stop = shutdown.clone().cancelled_owned();
        let speed = Server::builder().add_service(RealtimeViewServiceServer::new(fake));
        tokio::spawn(speed.serve_with_incoming_shutdown(TcpIncoming::from(listener), stop));

        let (channel, _) = serve(&store, &address, poll_interval, &shutdown).await;
        Self { client: UserStatsServiceClient::new(channel.clone()), channel, store, definition, gate, state, shutdown }
    }

    /// The fake speed layer. Do not hold it across an await.
    pub(super) fn speed(&self) -> MutexGuard<'_, Speed> {
        self.state.lock().unwrap()
    }

    pub(super) async fn publish(&self, version: i64, end: i64) {
        publish(&self.store, &self.definition, version, end).await;
    }
}

/// The same without sockets, for a clock that is told the time; it looks for versions every second.
pub(crate) struct InProcess {
    pub(super) client: UserStatsServiceClient<Transport>,
    pub(super) store: Store,
    pub(super) definition: Arc<Definition>,
    state: Arc<Mutex<Speed>>,
    pub(crate) layer: ServingLayer,
}

impl InProcess {
    pub(crate) async fn new(published: &[i64], head: i64) -> Self {
        let speed = FakeSpeed::new(head);
        let (definition, state) = (Arc::clone(&speed.definition), Arc::clone(&speed.state));
        let store = Store::open("memory://").unwrap();
        for (version, end) in (1..).zip(published) {
            publish(&store, &definition, version, *end).await;
        }
        let speed = speed.transport();
        let config = ServingConfig { poll_interval: Period::from_millis(1000), ..ServingConfig::default() };
        let layer = ServingLayer::open(Arc::new(RealMachine), &config, store.clone(), &EventSchema::default(), speed).await.unwrap();
        let client = UserStatsServiceClient::new(Transport::new(layer.routes()));
        Self { client, store, definition, state, layer }
    }

    /// The fake speed layer. Do not hold it across an await.
    pub(crate) fn speed(&self) -> MutexGuard<'_, Speed> {
        self.state.lock().unwrap()
    }

    pub(super) fn state(&self) -> Arc<Mutex<Speed>> {
        Arc::clone(&self.state)
    }
}

impl FakeSpeed {
    /// One that is not reached over a network.
    pub(super) fn new(head: i64) -> Self {
        let definition = Arc::new(Definition::user_stats(&EventSchema::default()));
        let gate = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        Self { state: Arc::new(Mutex::new(Speed { head, ..Speed::default() })), gate, definition }
    }

    pub(super) fn transport(&self) -> Transport {
        Transport::new(Routes::new(RealtimeViewServiceServer::new(self.clone())))
    }

    /// Do not hold it across an await.
    pub(super) fn state(&self) -> MutexGuard<'_, Speed> {
        self.state.lock().unwrap()
    }

    fn answer(&self, request: &GetStatesRequest) -> Result<GetStatesResponse, Status> {
        let (boundary, head) = self.pin(&request.log_id, &request.fingerprint, &request.boundary)?;
        let state = self.state.lock().unwrap();
        let states = of_keys(&states(&self.definition, boundary, head), |key| request.keys.iter().any(|asked| asked == key));
        let head = vec![PartitionOffset { partition: 0, offset: head }];
        let told = state.slices.iter().filter(|_| request.by_slice);
        let slices = told.map(|&(start_offset, end_offset, row_count)| SliceRows { partition: 0, start_offset, end_offset, row_count });
        Ok(GetStatesResponse { states: wire::encode(&[states]).unwrap().into(), head, slices: slices.collect(), erased: Vec::new() })
    }

    /// Where the states begin and end.
    fn pin(&self, log_id: &str, fingerprint: &str, boundary: &[PartitionOffset]) -> Result<(i64, i64), Status> {
        let mut state = self.state.lock().unwrap();
        state.questions += 1;
        let refuse =
            |reason| Status::with_error_details(Code::FailedPrecondition, reason, ErrorDetails::with_error_info(reason, "merganser", []));
        if state.down {
            return Err(Status::unavailable("down for a test"));
        }
        if !log_id.is_empty() && log_id != LOG_ID {
            return Err(refuse("OTHER_LOG"));
        }
        if fingerprint != self.definition.fingerprint() {
            return Err(refuse("UNKNOWN_DEFINITION"));
        }
        let boundary = boundary.first().map_or(0, |at| at.offset);
        if boundary < state.oldest_boundary {
            return Err(refuse("BOUNDARY_RETIRED"));
        }
        Ok((boundary, state.head))
    }
}

#[tonic::async_trait]
impl RealtimeViewService for FakeSpeed {
    type ExportStatesStream = Empty<Result<ExportStatesResponse, Status>>;
    type StreamStatesStream = BoxStream<'static, Result<StreamStatesResponse, Status>>;

    async fn cut(&self, _: Request<CutRequest>) -> Result<Response<CutResponse>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }

    async fn prepare_version(&self, _: Request<PrepareVersionRequest>) -> Result<Response<PrepareVersionResponse>, Status> {
        let state = self.state.lock().unwrap();
        if state.down || state.unprepared { Err(Status::unavailable("not ready")) } else { Ok(Response::new(PrepareVersionResponse {})) }
    }

    async fn erase_user(&self, _: Request<EraseUserRequest>) -> Result<Response<EraseUserResponse>, Status> {
        Err(Status::unimplemented("no test asks"))
    }

    async fn get_states(&self, request: Request<GetStatesRequest>) -> Result<Response<GetStatesResponse>, Status> {
        let reads_early = {
            let mut state = self.state();
            state.arrived += 1;
            state.reads_early
        };
        let request = request.into_inner();
        let early = reads_early.then(|| self.answer(&request));
        let _permit = self.gate.acquire().await.unwrap();
        early.unwrap_or_else(|| self.answer(&request)).map(Response::new)
    }

    /// Two rows a message.
    async fn stream_states(&self, request: Request<StreamStatesRequest>) -> Result<Response<Self::StreamStatesStream>, Status> {
        let request = request.into_inner();
        let (boundary, head) = self.pin(&request.log_id, &request.fingerprint, &request.boundary)?;
        let states = states(&self.definition, boundary, head);
        let head = vec![PartitionOffset { partition: 0, offset: head }];
        let mut messages = vec![StreamStatesResponse { head, ..Default::default() }];
        for start in (0..states.num_rows()).step_by(2) {
            let rows = states.slice(start, 2.min(states.num_rows() - start));
            messages.push(StreamStatesResponse { states: wire::encode(&[rows]).unwrap().into(), ..Default::default() });
        }
        messages.push(StreamStatesResponse { is_last: true, row_count: states.num_rows() as i64, ..Default::default() });
        messages.truncate(self.state().messages.unwrap_or(usize::MAX));
        Ok(Response::new(Box::pin(stream::iter(messages.into_iter().map(Ok)))))
    }

    async fn export_states(&self, _: Request<ExportStatesRequest>) -> Result<Response<Self::ExportStatesStream>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }
}
