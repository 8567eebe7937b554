//! The serving layer: one question about some keys of a view, one answer merged from both halves.
//!
//! It opens the newest version of each batch view, asks the speed layer for the states from that version's boundary on, merges
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

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::disallowed_methods))]

/// Question → answer.
mod answer;
/// Pages for people.
pub mod console;
/// Versions that answered before.
mod earlier;
/// Users who were erased.
mod erasures;
/// What can go wrong.
mod error;
/// How an answer came to be.
mod explain;
/// Every row of a view.
mod export;
/// Buckets, periods, windows.
mod grouping;
/// What is counted as it happens.
mod metrics;
/// Places in the log.
mod position;
/// What is asked.
mod question;
/// Which views there are.
mod served;
/// Which services, within which bounds.
mod server;
/// The gRPC surface.
mod service;
/// The other half.
mod speed;
/// State rows by key.
mod states;
#[cfg(test)]
mod tests;
/// Readiness and numbers, for HTTP.
mod told;
/// One version, open.
mod version;
/// Which version answers now.
mod versions;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use cli::{auth, tls};
use futures::Stream;
use merganser_proto::Transport;
use merganser_proto::auth::Authority;
use merganser_proto::http::Http;
use merganser_proto::server::{CallCounts, Doors};
use merganser_proto::tls::{ClientTls, ServerTls};
use storage::batch_view::BlockCache;
use storage::config::{Config, ServingConfig};
use storage::machine::{Machine, RealMachine};
use storage::paths::ViewName;
use storage::store::Store;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::service::Routes;
use tonic::transport::server::{Connected, TcpIncoming};
use tracing::info;
use views::EventSchema;

pub use error::ServingError;
pub use position::Position;

use console::{Console, ConsoleOptions};
use earlier::Turns;
use erasures::Known;
use metrics::Metrics;
use served::{Opening, Served};
use service::{Service, Watches};
use speed::SpeedClient;
use told::Told;

/// A poll interval of nothing at all would only ask the store.
const POLL_INTERVAL_MIN: Duration = Duration::from_millis(10);
/// What of [`server::QUESTION_TIME`] the speed layer may use up at most: the rest is for saying that it did not answer.
const SPEED_TIMEOUT_MAX: Duration = Duration::from_millis(4500);

/// Serves the view from `store` on `listener` until `shutdown`, in plaintext, then lets calls in flight end within five seconds.
///
/// Connections are accepted once the first version is verified. `events` is the schema of the built-in view, which answers
/// while nothing is published; a published version brings its own.
///
/// # Errors
/// What keeps it from starting: the address of the speed layer is none, or the newest version cannot be read or understood.
/// Later versions that are no better are logged, and the one before goes on answering.
pub async fn run(
    config: ServingConfig,
    store: Store,
    events: EventSchema,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), ServingError> {
    let config = Config { serving_layer: config, events, ..Config::default() };
    Box::pin(run_then(config, store, Doors::plain(listener), shutdown, || {})).await
}

/// [`run`] with all settings and behind `doors`, which calls `ready` once the first version is verified and questions are answered. Who connects
/// earlier waits. Over HTTP, health, readiness and metrics are told meanwhile, and until the last call has ended; once `ready` is called the console
/// is there too, if there is to be one, and pages in a browser may ask.
///
/// # Errors
/// As [`run`]; the files of `[tls]` cannot be used.
pub async fn run_then(
    config: Config,
    store: Store,
    doors: Doors,
    shutdown: CancellationToken,
    ready: impl FnOnce(),
) -> Result<(), ServingError> {
    let Config { serving_layer, events, tls, auth, client, console, store: store_config, .. } = config;
    let calls = tls::calls(&tls)?;
    let token = auth::token(&client, &serving_layer.speed_layer)?;
    let speed = speed::connection(&serving_layer.speed_layer, &calls)?.carrying(token);
    let authority = auth::authority("serving-layer", &auth, Arc::new(RealMachine))?;
    let console = ConsoleOptions {
        config: console,
        store_url: store_config.url,
        speed_layer: serving_layer.speed_layer.clone(),
        grpc_address: doors.grpc.local_addr().map(|address| address.to_string()).unwrap_or_default(),
        has_tls: doors.tls.is_some(),
        authority: Some(Arc::clone(&authority)),
    };
    let console = Some(console).filter(|console| doors.http.is_some() && console.config.enabled);
    let incoming = TcpIncoming::from(doors.grpc).with_nodelay(Some(true));
    let front = Front { http: doors.http, tls: doors.tls, calls: Some(calls), authority, console };
    Box::pin(run_and_tell(Arc::new(RealMachine), serving_layer, store, events, speed, incoming, front, shutdown, ready)).await
}

/// What there is on a real network only.
struct Front {
    http: Option<TcpListener>,
    tls: Option<ServerTls>,
    /// Of calls to the speed layer.
    calls: Option<ClientTls>,
    /// Who decides what clients may do.
    authority: Arc<Authority>,
    /// The pages for people, if there are to be any.
    console: Option<ConsoleOptions>,
}

impl Default for Front {
    fn default() -> Self {
        Self { http: None, tls: None, calls: None, authority: Authority::off(), console: None }
    }
}

/// [`run`] on a machine and a network that the caller brings: `speed` carries calls to the speed layer, `incoming` are connections of clients.
///
/// # Errors
/// As [`run`].
pub async fn run_on<IO>(
    machine: Arc<dyn Machine>,
    config: ServingConfig,
    store: Store,
    events: EventSchema,
    speed: Transport,
    incoming: impl Stream<Item = io::Result<IO>>,
    shutdown: CancellationToken,
) -> Result<(), ServingError>
where
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    run_and_tell(machine, config, store, events, speed, incoming, Front::default(), shutdown, || {}).await
}

#[expect(clippy::too_many_arguments, reason = "it is where the two ways to run meet")]
async fn run_and_tell<IO>(
    machine: Arc<dyn Machine>,
    config: ServingConfig,
    store: Store,
    events: EventSchema,
    speed: Transport,
    incoming: impl Stream<Item = io::Result<IO>>,
    front: Front,
    shutdown: CancellationToken,
    ready: impl FnOnce(),
) -> Result<(), ServingError>
where
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let Front { http, tls, calls, authority, console } = front;
    let http = Http::start(http, tls.clone(), "the newest version is being opened and verified", shutdown.clone());
    let layer = tokio::select! {
        biased;
        () = shutdown.cancelled() => return Ok(()),
        opened = ServingLayer::open(machine, &config, store, &events, speed) => opened?,
    };
    let (reachable, _probe) = layer.speed.watch_health();
    http.started(layer.told(Arc::clone(&authority), reachable.clone(), tls.clone(), calls));
    let rules = server::rules(layer.calls.clone(), authority);
    let web = server::web(layer.routes(), &rules, &config.web_origins);
    let asked_by_pages = web.router(&server::WEB_SERVICES);
    http.also(match console {
        Some(options) => asked_by_pages.merge(layer.console(options, reachable.clone(), &shutdown).router()),
        None => asked_by_pages,
    });
    info!("serving");
    ready();
    server::serve(layer.routes(), rules, tls, reachable, incoming, shutdown).await;
    web.end().await;
    http.close().await;
    Ok(())
}

/// The layer without its network: it watches for new versions, and answers through its services.
pub struct ServingLayer {
    service: Service,
    speed: SpeedClient,
    calls: CallCounts,
    /// Looks for new views.
    _watcher: AbortOnDropHandle<()>,
}

impl ServingLayer {
    /// Opens and verifies the first version.
    ///
    /// # Errors
    /// As [`run`].
    pub async fn open(
        machine: Arc<dyn Machine>,
        config: &ServingConfig,
        store: Store,
        events: &EventSchema,
        speed: Transport,
    ) -> Result<Self, ServingError> {
        let metrics = Arc::new(Metrics::default());
        let speed = SpeedClient::new(speed, Arc::clone(&metrics));
        let opening = Opening {
            store,
            events: events.clone(),
            cache: BlockCache::new(config.cache_bytes.0),
            speed: speed.clone(),
            speed_timeout: config.speed_timeout.0.min(SPEED_TIMEOUT_MAX),
            poll_interval: config.poll_interval.0.max(POLL_INTERVAL_MIN),
            scrub_interval: config.scrub_interval.0,
            turns: Turns::default(),
            erased: Known::default(),
            metrics,
        };
        let served = Arc::new(Served::open(opening).await?);
        let stats = served.view(ViewName::user_stats().as_str())?;
        let watched = Arc::clone(&served);
        let watcher = AbortOnDropHandle::new(tokio::spawn(async move { watched.watch().await }));
        let service = Service { stats, served, machine, watches: Watches::default() };
        Ok(Self { service, speed, calls: server::calls(), _watcher: watcher })
    }

    /// What it tells over HTTP.
    fn told(
        &self,
        authority: Arc<Authority>,
        speed_reachable: watch::Receiver<bool>,
        tls: Option<ServerTls>,
        call_tls: Option<ClientTls>,
    ) -> Arc<Told> {
        Arc::new(Told { service: self.service.clone(), calls: self.calls.clone(), authority, speed_reachable, tls, call_tls })
    }

    /// What it shows people.
    fn console(&self, options: ConsoleOptions, speed_reachable: watch::Receiver<bool>, shutdown: &CancellationToken) -> Console {
        Console::new(options, self.service.clone(), self.speed.clone(), self.calls.clone(), speed_reachable, shutdown)
    }

    /// `UserStatsService` and `ViewService`.
    pub fn routes(&self) -> Routes {
        server::services(self.service.clone())
    }
}
