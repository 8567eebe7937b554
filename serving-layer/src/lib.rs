//! The serving layer: one question about some users, one answer merged from both halves.
//!
//! It opens the newest version of the batch view, asks the speed layer for the states from that version's boundary on, merges
//! the two per key and finishes. An answer reads one version from beginning to end and says which in its provenance. A
//! watcher looks for the next version and swaps it in when its files are verified and the speed layer can answer from its
//! boundary; nobody who asks notices. While nothing is published, the built-in view answers from the speed layer alone.
//!
//! ```text
//! request ─► service ─► question ─► answer ─┬─ version: state rows below the boundary (Parquet, cached blocks)
//!                                           └─ speed:   state rows from the boundary on (gRPC)
//! response ◄─ service ◄─ finished rows ◄────── merged per key by views::fold
//! ```
//!
//! It never writes, never reads events, and never turns a failure into an empty answer: what cannot be read is an error, or, if
//! the client has asked for that, an answer that says it is incomplete and why.

#![cfg_attr(test, allow(clippy::unwrap_used))]

/// Question → answer.
mod answer;
/// What can go wrong.
mod error;
/// Places in the log.
mod position;
/// What is asked.
mod question;
/// The gRPC surface.
mod service;
/// The other half.
mod speed;
/// State rows by key.
mod states;
#[cfg(test)]
mod tests;
/// One version, open.
mod version;
/// Which version answers now.
mod versions;

use std::sync::Arc;
use std::time::Duration;

use merganser_proto::descriptors_of;
use merganser_proto::v1::user_stats_service_server::UserStatsServiceServer;
use merganser_proto::v1::view_service_server::ViewServiceServer;
use storage::batch_view::BlockCache;
use storage::config::ServingConfig;
use storage::store::Store;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Server;
use tonic::transport::server::{Router, TcpIncoming};
use tracing::{info, warn};
use views::EventSchema;

pub use error::ServingError;
pub use position::Position;

use answer::Answers;
use service::{MAX_REQUEST_BYTES, Service};
use speed::SpeedClient;
use versions::Versions;

/// A poll interval of nothing at all would only ask the store.
const POLL_INTERVAL_MIN: Duration = Duration::from_millis(10);
/// The view that is served.
const VIEW: &str = "user_stats";
/// A question that takes longer is given up.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// What of [`REQUEST_TIMEOUT`] the speed layer may use up at most: the rest is for saying that it did not answer.
const SPEED_TIMEOUT_MAX: Duration = Duration::from_millis(4500);
/// How long calls in flight may go on after the order to stop.
const GRACE: Duration = Duration::from_secs(5);
const MAX_STREAMS_PER_CONNECTION: u32 = 128;
const MAX_HEADER_BYTES: u32 = 8 << 10;
/// Streams that a connection may make us reset before it is closed.
const MAX_RESET_STREAMS: usize = 256;
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves the view from `store` on `listener` until `shutdown`, then lets calls in flight end within five seconds.
///
/// Connections are accepted once the first version is verified. `events` is the schema of the built-in view, which answers
/// while nothing is published; a published version brings its own.
///
/// # Errors
/// Only what keeps it from starting, and a listener that fails: the address of the speed layer is none, or the newest version
/// cannot be read or understood. Later versions that are no better are logged, and the one before goes on answering.
pub async fn run(
    config: ServingConfig,
    store: Store,
    events: EventSchema,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), ServingError> {
    let speed = SpeedClient::new(&config.speed_layer)?;
    let speed_timeout = config.speed_timeout.0.min(SPEED_TIMEOUT_MAX);
    let cache = BlockCache::new(config.cache_bytes.0);
    let view = VIEW.parse().expect("the name of the built-in view is one");
    let opening = Versions::open(view, store, cache, speed.clone(), speed_timeout, &events);
    let versions = tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        opened = opening => Arc::new(opened?),
    };

    let watched = Arc::clone(&versions);
    let period = config.poll_interval.0.max(POLL_INTERVAL_MIN);
    let _watcher = AbortOnDropHandle::new(tokio::spawn(async move { watched.watch(period).await }));

    let router = router(Service(Answers { versions, speed, speed_timeout })).await;
    if let Ok(address) = listener.local_addr() {
        info!(%address, "serving");
    }
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let served = router.serve_with_incoming_shutdown(incoming, shutdown.cancelled());
    tokio::select! {
        ended = served => ended.map_err(ServingError::Server),
        () = after(&shutdown, GRACE) => {
            warn!(grace_ms = GRACE.as_millis() as u64, "stopped with calls in flight");
            Ok(())
        }
    }
}

async fn router(service: Service) -> Router {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<UserStatsServiceServer<Service>>().await;
    let reflection = || {
        let builder = tonic_reflection::server::Builder::configure()
            .register_file_descriptor_set(descriptors_of(&["UserStatsService", "ViewService"]));
        builder.register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let built = "generated descriptors are whole";
    Server::builder()
        .timeout(REQUEST_TIMEOUT)
        .max_concurrent_streams(MAX_STREAMS_PER_CONNECTION)
        .concurrency_limit_per_connection(MAX_STREAMS_PER_CONNECTION as usize)
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .http2_max_local_error_reset_streams(Some(MAX_RESET_STREAMS))
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .add_service(health_service)
        .add_service(reflection().build_v1().expect(built))
        .add_service(reflection().build_v1alpha().expect(built))
        .add_service(UserStatsServiceServer::new(service.clone()).max_decoding_message_size(MAX_REQUEST_BYTES))
        .add_service(ViewServiceServer::new(service).max_decoding_message_size(MAX_REQUEST_BYTES))
}

/// tonic waits for ever on one idle stream, so its graceful end has an end.
async fn after(shutdown: &CancellationToken, grace: Duration) {
    shutdown.cancelled().await;
    tokio::time::sleep(grace).await;
}
