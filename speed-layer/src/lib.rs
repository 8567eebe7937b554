//! Takes events in durably, keeps the partial states of those that no batch view covers yet, and hands them out by key.
//!
//! An event comes in through `service`, is checked row by row in `ingest`, and goes to the one thread of its `partition`. That
//! thread looks it up in the `dedup` window, folds it with the definition of every kept version, appends it to the log
//! together with whatever else waits, syncs once, and then shows its states in `slices` and acknowledges it, in this order.
//! A refused row is durable as a dead letter before the answer. Closed log segments go to the object store (`archive`);
//! a cut is a closed segment on every partition. `realtime` answers the other layers from a boundary on.
//!
//! What this layer never does: acknowledge before the sync, show what is not synced, guess at a boundary it does not keep,
//! delete anything from the log.

#![cfg_attr(test, allow(clippy::unwrap_used))]

/// Closed segments into the object store.
mod archive;
/// Identities among the newest records.
mod dedup;
/// What can go wrong.
mod error;
/// Events in, row by row.
mod ingest;
/// The layer without its network.
mod layer;
/// `speed-layer load`.
pub mod load;
/// One partition's thread.
mod partition;
/// Questions from the other layers.
mod realtime;
/// The gRPC surface.
mod service;
/// The realtime view of one partition.
mod slices;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use merganser_proto::v1::ingest_service_server::IngestServiceServer;
use merganser_proto::v1::realtime_view_service_server::RealtimeViewServiceServer;
use storage::config::Config;
use storage::machine::{Machine, RealMachine};
use storage::store::Store;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::server::Connected;

pub use error::SpeedError;
pub use layer::SpeedLayer;

use service::{IngestAdapter, RealtimeAdapter};

/// Streams of one connection.
const MAX_STREAMS: u32 = 128;
/// How long open calls may take to end after a stop; an idle stream would hold a server for ever.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Serves until `shutdown`: replays the log, then takes events on `listener`.
///
/// # Errors
/// The log is damaged, locked by another server, or not the one that the store's versions were made from; the store cannot be
/// read. Nothing was acknowledged then.
pub async fn run(config: Config, store: Store, listener: TcpListener, shutdown: CancellationToken) -> Result<(), SpeedError> {
    run_on(Arc::new(RealMachine), config, store, TcpListenerStream::new(listener), shutdown).await
}

/// [`run`] on a machine and a network that the caller brings.
///
/// # Errors
/// As [`run`].
pub async fn run_on<IO>(
    machine: Arc<dyn Machine>,
    config: Config,
    store: Store,
    incoming: impl Stream<Item = io::Result<IO>>,
    shutdown: CancellationToken,
) -> Result<(), SpeedError>
where
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let layer = SpeedLayer::open(machine, config, store).await?;
    let served = serve(incoming, layer.routes(), shutdown).await;
    layer.close().await;
    served
}

async fn serve<IO>(incoming: impl Stream<Item = io::Result<IO>>, routes: Routes, shutdown: CancellationToken) -> Result<(), SpeedError>
where
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<IngestServiceServer<IngestAdapter>>().await;
    health.set_serving::<RealtimeViewServiceServer<RealtimeAdapter>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_file_descriptor_set(merganser_proto::descriptors_of(&["IngestService", "RealtimeViewService"]))
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let valid = "the descriptor set was generated with the code";
    let server = tonic::transport::Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .add_routes(routes)
        .add_service(health_service)
        .add_service(reflection().build_v1().expect(valid))
        .add_service(reflection().build_v1alpha().expect(valid))
        .serve_with_incoming_shutdown(incoming, shutdown.clone().cancelled_owned());
    let give_up = async {
        shutdown.cancelled().await;
        tokio::time::sleep(STOP_PATIENCE).await;
    };
    tokio::select! {
        served = server => Ok(served?),
        () = give_up => Ok(()),
    }
}
