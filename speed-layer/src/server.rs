//! The gRPC server of this layer: which services, and what each of their methods may take.
//!
//! Producers and the serving layer are counted apart, so that events coming in three times too fast leave answers alone.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use merganser_proto::auth::Authority;
use merganser_proto::server::{CallCounts, Room, Rule, Rules, Shape};
use merganser_proto::tls::ServerTls;
use merganser_proto::v1::ingest_service_server::IngestServiceServer;
use merganser_proto::v1::realtime_view_service_server::RealtimeViewServiceServer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::server::Connected;
use tonic_health::server::HealthReporter;
use tracing::error;

use crate::service::{IngestAdapter, RealtimeAdapter};

/// Appends in flight. Those that wait share a sync, so that some at once are what makes the log fast; more only wait longer.
const APPENDS: usize = 64;
/// A sync or two: what an append waits for at most before its turn.
const APPEND_PATIENCE: Duration = Duration::from_millis(10);
/// Streams of producers. Each may have a message of 4 MiB half read.
const STREAMS: usize = 64;
/// Questions of the other layers. The serving layer bounds its own; these are so many that it is not refused.
const QUESTIONS: usize = 256;
/// Cuts and exports in flight: those of one batch run, or two. They may take minutes, so questions do not share their places.
const EXPORTS: usize = 64;
/// Whoever shows people how the layer is asks now and then. One that reads the dead letters may take seconds.
const STATES: usize = 8;
/// Streams of all states in flight. Each keeps the states of its moment in memory, whatever takes their place meanwhile. The serving layer
/// has as many exports; a second one finds room too.
const STATE_STREAMS: usize = 4;
/// Calls that nobody should have to make often: health watches, reflection, paths that are none.
const OTHERS: usize = 64;
/// A burst of them is over by then.
const PATIENCE: Duration = Duration::from_millis(20);

/// An append is answered by then, or the producer sends it again.
const APPEND_TIME: Duration = Duration::from_secs(10);
/// A question is answered by then: longer than the serving layer waits.
const QUESTION_TIME: Duration = Duration::from_secs(5);
/// A cut puts segments into the object store, an export folds; the batch layer waits for both.
const BATCH_TIME: Duration = Duration::from_secs(10 * 60);
/// Whoever does not read an answer for so long is gone.
const UNREAD_TIME: Duration = Duration::from_secs(30);
/// The batch layer reads exports side by side, and may leave one alone for a while.
const UNREAD_EXPORT_TIME: Duration = Duration::from_secs(10 * 60);

/// Where the calls of this layer's methods are counted.
pub(crate) fn calls() -> CallCounts {
    CallCounts::of(&[
        "/merganser.v1.IngestService/AppendEvents",
        "/merganser.v1.IngestService/StreamEvents",
        "/merganser.v1.RealtimeViewService/GetStates",
        "/merganser.v1.RealtimeViewService/PrepareVersion",
        "/merganser.v1.RealtimeViewService/EraseUser",
        "/merganser.v1.RealtimeViewService/Cut",
        "/merganser.v1.RealtimeViewService/ExportStates",
        "/merganser.v1.SpeedStatusService/GetSpeedStatus",
        "/merganser.v1.RealtimeViewService/StreamStates",
    ])
}

/// Serves until `shutdown` whom `authority` lets in, and counts calls in `calls`. While `log_failed` says so, the health of `IngestService` is NOT_SERVING.
pub(crate) async fn serve<IO, I>(
    routes: Routes,
    calls: CallCounts,
    authority: Arc<Authority>,
    tls: Option<ServerTls>,
    log_failed: watch::Receiver<bool>,
    incoming: I,
    shutdown: CancellationToken,
) where
    I: Stream<Item = io::Result<IO>>,
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let (health, health_service) = tonic_health::server::health_reporter();
    // Whoever gets an answer at all gets it from a layer that has replayed its log.
    health.set_serving::<RealtimeViewServiceServer<RealtimeAdapter>>().await;
    health.set_serving::<IngestServiceServer<IngestAdapter>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_file_descriptor_set(merganser_proto::descriptors_of(&["IngestService", "RealtimeViewService", "SpeedStatusService"]))
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let valid = "the descriptor set was generated with the code";
    let routes = routes
        .add_service(health_service)
        .add_service(reflection().build_v1().expect(valid))
        .add_service(reflection().build_v1alpha().expect(valid));
    tokio::select! {
        biased;
        () = merganser_proto::server::serve(routes, rules(calls, authority), tls, incoming, shutdown) => {}
        () = report(health, log_failed) => {}
    }
}

/// Keeps the health of `IngestService` as the log is. Does not end.
async fn report(health: HealthReporter, mut log_failed: watch::Receiver<bool>) {
    loop {
        if *log_failed.borrow_and_update() {
            error!("the log takes no more events until a restart");
            health.set_not_serving::<IngestServiceServer<IngestAdapter>>().await;
        } else {
            health.set_serving::<IngestServiceServer<IngestAdapter>>().await;
        }
        if log_failed.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

fn rules(calls: CallCounts, authority: Arc<Authority>) -> Rules {
    let appends = Room::new("appends", APPENDS, APPEND_PATIENCE);
    let streams = Room::new("streams", STREAMS, PATIENCE);
    let questions = Room::new("questions", QUESTIONS, PATIENCE);
    let exports = Room::new("cuts and exports", EXPORTS, PATIENCE);
    let states = Room::new("questions about the state", STATES, PATIENCE);
    let state_streams = Room::new("streams of states", STATE_STREAMS, PATIENCE);
    let others = Room::new("calls", OTHERS, PATIENCE).for_strangers();
    Arc::new(move |path| {
        let (room, shape, within, unread) = match path {
            "/merganser.v1.IngestService/AppendEvents" => (Some(&appends), Shape::Call, Some(APPEND_TIME), UNREAD_TIME),
            // Its time is that of each message, see `service`.
            "/merganser.v1.IngestService/StreamEvents" => (Some(&streams), Shape::Stream, None, UNREAD_TIME),
            "/merganser.v1.RealtimeViewService/GetStates" | "/merganser.v1.RealtimeViewService/PrepareVersion" => {
                (Some(&questions), Shape::Call, Some(QUESTION_TIME), UNREAD_TIME)
            }
            "/merganser.v1.SpeedStatusService/GetSpeedStatus" => (Some(&states), Shape::Call, Some(QUESTION_TIME), UNREAD_TIME),
            "/merganser.v1.RealtimeViewService/EraseUser" => (Some(&exports), Shape::Call, Some(BATCH_TIME), UNREAD_TIME),
            "/merganser.v1.RealtimeViewService/Cut" | "/merganser.v1.RealtimeViewService/ExportStates" => {
                (Some(&exports), Shape::Export, Some(BATCH_TIME), UNREAD_EXPORT_TIME)
            }
            // The serving layer reads on when its own client does, who has to every thirty seconds.
            "/merganser.v1.RealtimeViewService/StreamStates" => {
                (Some(&state_streams), Shape::Export, Some(QUESTION_TIME), UNREAD_EXPORT_TIME)
            }
            // Whoever asks for it would end a busy server.
            "/grpc.health.v1.Health/Check" => (None, Shape::Call, Some(QUESTION_TIME), UNREAD_TIME),
            // Health watches and reflection are streams.
            _ => (Some(&others), Shape::Stream, Some(QUESTION_TIME), UNREAD_TIME),
        };
        Rule { room: room.cloned(), shape, within, unread, counts: Some(calls.method(path)), authority: Arc::clone(&authority) }
    })
}
