//! Takes events in durably, keeps the partial states of those that no batch view covers yet, and hands them out by key.
//!
//! An event comes in through `service`, is checked row by row in `ingest`, and goes to the one thread of its `partition`. That
//! thread looks it up in the `dedup` window, folds it with the definition of every kept version, appends it to the log
//! together with whatever else waits, syncs once, and then shows its states in `slices` and acknowledges it, in this order.
//! A refused row is durable as a dead letter before the answer. Closed log segments go to the object store (`archive`);
//! a cut is a closed segment on every partition. `realtime` answers the other layers from a boundary on. A log that is not the one
//! that the store was filled from is refused (`check`), a damaged segment is found (`scrub`) and written afresh (`restore`).
//!
//! What this layer never does: acknowledge before the sync, show what is not synced, guess at a boundary it does not keep,
//! delete from the log what a kept version or the dedup window needs or what was not read back from the store right before (`trim`).

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::disallowed_methods))]

/// Closed segments into the object store.
mod archive;
/// Whether the log is the one that the store was filled from.
mod check;
/// `speed-layer dead-letter`.
pub mod dead_letter;
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
/// What is counted as it happens.
mod metrics;
/// One partition's thread.
mod partition;
/// Questions from the other layers.
mod realtime;
/// From the log back into memory.
mod recover;
/// Refused rows: kept, bounded, counted.
mod refused;
/// Damaged segments, written afresh.
mod restore;
/// Reading again what was written.
mod scrub;
/// Which services, within which bounds.
mod server;
/// The gRPC surface.
mod service;
/// The realtime view of one partition.
mod slices;
/// Readiness and numbers, for HTTP.
mod told;
/// Letting go of the log.
mod trim;

use std::io;
use std::sync::Arc;

use futures::Stream;
use merganser_proto::http::Http;
use merganser_proto::server::Doors;
use merganser_proto::tls::ServerTls;
use storage::config::Config;
use storage::machine::{Machine, RealMachine};
use storage::store::Store;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::{Connected, TcpIncoming};

pub use error::SpeedError;
pub use layer::SpeedLayer;
pub use refused::RefusedCount;

/// Serves until `shutdown`: replays the log, then takes events on `listener`, in plaintext.
///
/// # Errors
/// The log is damaged, locked by another server, or not the one that the store's versions were made from; the store cannot be
/// read. Nothing was acknowledged then. Later, a thread or task without which it cannot go on ended by itself.
pub async fn run(config: Config, store: Store, listener: TcpListener, shutdown: CancellationToken) -> Result<(), SpeedError> {
    run_then(config, store, Doors::plain(listener), shutdown, || {}).await
}

/// [`run`] behind `doors`, which calls `ready` once the log is replayed and calls are answered. Who connects earlier waits. Over HTTP, health,
/// readiness and metrics are told meanwhile, and until the last call has ended.
///
/// # Errors
/// As [`run`].
pub async fn run_then(
    config: Config,
    store: Store,
    doors: Doors,
    shutdown: CancellationToken,
    ready: impl FnOnce(),
) -> Result<(), SpeedError> {
    let Doors { grpc, http, tls } = doors;
    let incoming = TcpIncoming::from(grpc).with_nodelay(Some(true));
    run_and_tell(Arc::new(RealMachine), config, store, incoming, http, tls, shutdown, ready).await
}

/// [`run`] on a machine and a network that the caller brings, in plaintext.
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
    run_and_tell(machine, config, store, incoming, None, None, shutdown, || {}).await
}

#[expect(clippy::too_many_arguments, reason = "it is where the two ways to run meet")]
async fn run_and_tell<IO>(
    machine: Arc<dyn Machine>,
    config: Config,
    store: Store,
    incoming: impl Stream<Item = io::Result<IO>>,
    http: Option<TcpListener>,
    tls: Option<ServerTls>,
    shutdown: CancellationToken,
    ready: impl FnOnce(),
) -> Result<(), SpeedError>
where
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let http = Http::start(http, tls.clone(), "the log is being replayed", shutdown.clone());
    let mut layer = SpeedLayer::open(machine, config, store).await?;
    http.started(layer.told(tls.clone()));
    ready();
    let serving = server::serve(layer.routes(), layer.calls().clone(), layer.authority(), tls, layer.log_failed(), incoming, shutdown);
    let served = tokio::select! {
        biased;
        () = serving => Ok(()),
        ended = layer.first_end() => Err(ended),
    };
    http.close().await;
    layer.close().await;
    served
}
