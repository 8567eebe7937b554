//! The gRPC server of this layer: which services, and what each of their methods may take.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use merganser_proto::auth::Authority;
use merganser_proto::descriptors_of;
use merganser_proto::http::Origins;
use merganser_proto::server::{CallCounts, Room, Rule, Rules, Shape, Web};
use merganser_proto::tls::ServerTls;
use merganser_proto::v1::user_stats_service_server::UserStatsServiceServer;
use merganser_proto::v1::view_service_server::ViewServiceServer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::transport::server::Connected;
use tonic_health::server::HealthReporter;
use tracing::{info, warn};

use crate::service::{MAX_ANSWER_BYTES, MAX_REQUEST_BYTES, Service};

/// Questions about one user in flight for each core. They mostly wait, for the speed layer and for company on the way there.
const POINT_QUESTIONS_PER_CORE: usize = 64;
/// What one waits for its turn at most: so many are through by then.
const POINT_QUESTION_PATIENCE: Duration = Duration::from_millis(20);
/// Questions about many keys in flight for each core. They mostly compute; more would all be late together.
const QUESTIONS_PER_CORE: usize = 4;
/// What one waits for its turn at most: a burst of small ones is through by then.
const QUESTION_PATIENCE: Duration = Duration::from_millis(5);
/// Each reads a whole view, up to a million rows.
const RANKINGS: usize = 1;
/// What one waits for its turn: it takes as long as all others.
const RANKING_PATIENCE: Duration = Duration::from_secs(1);
/// Each reads a whole view, and keeps what the speed layer has pinned for it in memory.
const EXPORTS: usize = 2;
/// What one waits for its turn; more would be for minutes.
const EXPORT_PATIENCE: Duration = Duration::from_secs(1);
/// Watches at once. Each asks once in its interval, so that this many with the usual one are a thousand questions a second.
const WATCHES: usize = 1000;
/// Calls that nobody should have to make often: health watches, reflection, paths that are none.
const OTHERS: usize = 64;
/// A burst of them is over by then.
const PATIENCE: Duration = Duration::from_millis(20);

/// A question that takes longer is given up.
pub(crate) const QUESTION_TIME: Duration = Duration::from_secs(5);
/// Whoever does not read an answer for so long is gone.
const UNREAD_TIME: Duration = Duration::from_secs(30);

/// What is served.
pub(crate) fn services(service: Service) -> Routes {
    let stats = UserStatsServiceServer::new(service.clone())
        .max_decoding_message_size(MAX_REQUEST_BYTES)
        .max_encoding_message_size(MAX_ANSWER_BYTES);
    let views = ViewServiceServer::new(service).max_decoding_message_size(MAX_REQUEST_BYTES).max_encoding_message_size(MAX_ANSWER_BYTES);
    Routes::new(stats).add_service(views)
}

/// Where the calls of this layer's methods are counted.
pub(crate) fn calls() -> CallCounts {
    CallCounts::of(&[
        "/merganser.v1.UserStatsService/GetUserStats",
        "/merganser.v1.UserStatsService/BatchGetUserStats",
        "/merganser.v1.UserStatsService/WatchUserStats",
        "/merganser.v1.ViewService/ListViews",
        "/merganser.v1.ViewService/GetViewRows",
        "/merganser.v1.ViewService/GetTopRows",
        "/merganser.v1.ViewService/ExportViewRows",
        "/merganser.v1.ViewService/ListVersions",
    ])
}

/// What pages in a browser may call, behind `rules`, which are those of [`serve`].
pub(crate) fn web(routes: Routes, rules: &Rules, web_origins: &str) -> Web {
    Web::new(routes, Arc::clone(rules), Origins::of(web_origins))
}

/// The services that [`web`] has.
pub(crate) const WEB_SERVICES: [&str; 2] = [UserStatsServiceServer::<Service>::NAME, ViewServiceServer::<Service>::NAME];

/// Serves until `shutdown`. While `speed_reachable` says no, the health of `UserStatsService` is NOT_SERVING, though questions
/// that need the batch half alone are answered.
pub(crate) async fn serve<IO, I>(
    routes: Routes,
    rules: Rules,
    tls: Option<ServerTls>,
    speed_reachable: watch::Receiver<bool>,
    incoming: I,
    shutdown: CancellationToken,
) where
    I: Stream<Item = io::Result<IO>>,
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let (health, health_service) = tonic_health::server::health_reporter();
    let reachable = *speed_reachable.borrow();
    match reachable {
        true => health.set_serving::<UserStatsServiceServer<Service>>().await,
        false => health.set_not_serving::<UserStatsServiceServer<Service>>().await,
    }
    let reflection = || {
        let builder = tonic_reflection::server::Builder::configure()
            .register_file_descriptor_set(descriptors_of(&["UserStatsService", "ViewService"]));
        builder.register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let built = "generated descriptors are whole";
    let routes = routes
        .add_service(health_service)
        .add_service(reflection().build_v1().expect(built))
        .add_service(reflection().build_v1alpha().expect(built));
    tokio::select! {
        biased;
        () = merganser_proto::server::serve(routes, rules, tls, incoming, shutdown) => {}
        () = report(health, speed_reachable) => {}
    }
}

/// Keeps the health of `UserStatsService` as the way to the speed layer is. Does not end.
async fn report(health: HealthReporter, mut speed_reachable: watch::Receiver<bool>) {
    let mut said = true;
    loop {
        let reachable = *speed_reachable.borrow_and_update();
        if reachable {
            health.set_serving::<UserStatsServiceServer<Service>>().await;
        } else {
            health.set_not_serving::<UserStatsServiceServer<Service>>().await;
        }
        match (said, reachable) {
            (true, false) => warn!("the speed layer cannot be reached; only the batch half is answered"),
            (false, true) => info!("the speed layer is reached again"),
            _ => {}
        }
        said = reachable;
        if speed_reachable.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// What each method may take, of whom `authority` lets in; its calls are counted in `calls`.
pub(crate) fn rules(calls: CallCounts, authority: Arc<Authority>) -> Rules {
    let questions = Room::per_core("questions", QUESTIONS_PER_CORE, QUESTION_PATIENCE);
    let point_questions = Room::per_core("questions about one user", POINT_QUESTIONS_PER_CORE, POINT_QUESTION_PATIENCE);
    let rankings = Room::new("rankings", RANKINGS, RANKING_PATIENCE);
    let exports = Room::new("exports", EXPORTS, EXPORT_PATIENCE);
    let watches = Room::new("watches", WATCHES, PATIENCE);
    let others = Room::new("calls", OTHERS, PATIENCE).for_strangers();
    Arc::new(move |path| {
        let (room, shape) = match path {
            // Whoever asks for it would end a busy server.
            "/grpc.health.v1.Health/Check" => (None, Shape::Call),
            "/merganser.v1.UserStatsService/GetUserStats" => (Some(&point_questions), Shape::Call),
            "/merganser.v1.ViewService/GetTopRows" => (Some(&rankings), Shape::Call),
            // How long it takes is bounded where it is read.
            "/merganser.v1.ViewService/ExportViewRows" => (Some(&exports), Shape::Export),
            // How many look at the same time is bounded where they look.
            "/merganser.v1.UserStatsService/WatchUserStats" => (Some(&watches), Shape::Watch),
            _ if path.starts_with("/merganser.v1.") => (Some(&questions), Shape::Call),
            // Health watches and reflection are streams.
            _ => (Some(&others), Shape::Stream),
        };
        let (counts, authority) = (Some(calls.method(path)), Arc::clone(&authority));
        Rule { room: room.cloned(), shape, within: Some(QUESTION_TIME), unread: UNREAD_TIME, counts, authority }
    })
}
