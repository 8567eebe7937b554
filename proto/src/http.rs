//! What a server tells over HTTP: `/healthz`, `/readyz` and `/metrics`, on a listener of its own, with a bound on everything; and beside
//! them, from its start on, what its layer has for browsers.
//!
//! It is there from the start of the process to its end: while a log is replayed or calls in flight come to theirs, `/healthz` says that
//! the process lives, and `/readyz` says 503 and why, in words.

/// The connection of a request.
mod line;
/// Whose pages may call.
mod origins;

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tower::ServiceExt;
use tracing::{debug, warn};

pub use line::{Kept, Line};
pub use origins::{Caller, Origins};

use crate::auth::Refusal;
use crate::metrics::{Numbers, text};
use crate::server::{Peer, Share, Shares, age_of_next, share_of_handles};
use crate::tls::{Door, ServerTls};

/// Connections at once, if there are file handles enough: scrapers, probes and browsers, which make up to six each. The next one waits
/// until one of them ends, unless its host has its share of them.
const MAX_CONNECTIONS: usize = 128;
/// Of the file handles, one in so many goes to them at most.
const HANDLES_PER_CONNECTION: usize = 8;
/// Of the connections, one in so many may outlive the others: it carries a stream of answers.
const CONNECTIONS_PER_STREAM: usize = 2;
/// Headers of a request are there by then; a connection that asks for nothing more is closed after as long.
const HEADER_PATIENCE: Duration = Duration::from_secs(5);
/// A connection ends then, whatever it is at; unless it is kept for a stream, which has the age of a gRPC connection.
const MAX_AGE: Duration = Duration::from_secs(60);
/// Bytes of a request's headers.
const MAX_HEADER_BYTES: usize = 16 << 10;
/// Wait after an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What is being answered when the server ends, or the connection is too old, has so long.
const STOP_PATIENCE: Duration = Duration::from_secs(1);
/// Prometheus reads this format, as every scraper that knows OpenMetrics.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN_TEXT: &str = "text/plain; charset=utf-8";

/// A layer that has started.
pub trait Started: Numbers {
    /// Why it should be asked for nothing now; none if it is ready.
    fn not_ready(&self) -> Option<String>;

    /// Whether whoever sends these headers may read the numbers.
    ///
    /// # Errors
    /// Why not.
    fn may_read_metrics(&self, headers: &HeaderMap, peer: &Peer) -> Result<(), Refusal>;
}

/// The HTTP server of a layer. Ends when it is dropped.
pub struct Http {
    layer: Arc<OnceLock<Layer>>,
    pages: Arc<OnceLock<Router>>,
    stop: CancellationToken,
    server: Option<AbortOnDropHandle<()>>,
}

#[derive(Clone)]
struct Layer {
    started: Arc<dyn Started>,
    numbers: Arc<dyn Numbers>,
}

/// What the answers are made of.
#[derive(Clone)]
struct Told {
    layer: Arc<OnceLock<Layer>>,
    /// What the layer answers itself.
    pages: Arc<OnceLock<Router>>,
    /// What the layer does until it has started.
    starting: &'static str,
    shutdown: CancellationToken,
}

impl Http {
    /// Serves on `listener`, if there is one, over `tls` if there is any. Until [`Self::started`] the layer is not ready for the reason `starting`; from
    /// `shutdown` on it is not because it stops.
    #[must_use]
    pub fn start(listener: Option<TcpListener>, tls: Option<ServerTls>, starting: &'static str, shutdown: CancellationToken) -> Self {
        let (layer, pages, stop) = (Arc::new(OnceLock::new()), Arc::new(OnceLock::new()), CancellationToken::new());
        let told = Told { layer: Arc::clone(&layer), pages: Arc::clone(&pages), starting, shutdown: shutdown.clone() };
        let routes = Router::new()
            .route("/healthz", get(async || "alive\n"))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .fallback(other)
            .with_state(told);
        let ends = Ends { shutdown, stop: stop.clone() };
        let server = listener.map(|listener| AbortOnDropHandle::new(tokio::spawn(serve(routes, listener, tls, ends))));
        Self { layer, pages, stop, server }
    }

    /// The layer has started.
    pub fn started(&self, layer: Arc<impl Started>) {
        let numbers: Arc<dyn Numbers> = Arc::clone(&layer) as Arc<dyn Numbers>;
        self.layer.get_or_init(|| Layer { started: layer, numbers });
    }

    /// Answers `routes` too, from now on. Each request has its [`Line`] among its extensions. Once only.
    pub fn also(&self, routes: Router) {
        self.pages.get_or_init(|| routes);
    }

    /// Ends the server, and lets go of the layer.
    pub async fn close(mut self) {
        self.stop.cancel();
        if let Some(server) = self.server.take() {
            // It has nothing to say.
            let _ended = server.await;
        }
    }
}

async fn readyz(State(told): State<Told>) -> Response {
    let reason = match told.layer.get() {
        _ if told.shutdown.is_cancelled() => Some("the server is stopping".to_owned()),
        None => Some(told.starting.to_owned()),
        Some(layer) => layer.started.not_ready(),
    };
    match reason {
        None => (StatusCode::OK, "ready\n").into_response(),
        Some(reason) => not_ready(&reason),
    }
}

async fn metrics(State(told): State<Told>, peer: Option<Extension<Peer>>, headers: HeaderMap) -> Response {
    let Some(layer) = told.layer.get() else { return not_ready(told.starting) };
    let Extension(peer) = peer.unwrap_or_default();
    if let Err(refusal) = layer.started.may_read_metrics(&headers, &peer) {
        let challenge = [(WWW_AUTHENTICATE, "Bearer"), (CONTENT_TYPE, PLAIN_TEXT)];
        return (refusal.http_status(), challenge, format!("{refusal}\n")).into_response();
    }
    let numbers = Arc::clone(&layer.numbers);
    match tokio::task::spawn_blocking(move || text(&numbers)).await {
        Ok(Ok(text)) => ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Ok(Err(_)) | Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be read\n").into_response(),
    }
}

/// Whatever the layer answers itself, once it has started.
async fn other(State(told): State<Told>, request: Request) -> Response {
    match (told.pages.get(), told.layer.get()) {
        (Some(routes), _) => routes.clone().oneshot(request).await.into_response(),
        (None, Some(_)) => StatusCode::NOT_FOUND.into_response(),
        (None, None) => not_ready(told.starting),
    }
}

fn not_ready(reason: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, [(CONTENT_TYPE, PLAIN_TEXT)], format!("not ready: {reason}\n")).into_response()
}

/// The two ends of a server: from the first on streams of answers end, the second ends the rest.
#[derive(Clone)]
struct Ends {
    shutdown: CancellationToken,
    stop: CancellationToken,
}

/// Serves until its end.
async fn serve(routes: Router, listener: TcpListener, tls: Option<ServerTls>, ends: Ends) {
    let places = share_of_handles(HANDLES_PER_CONNECTION, MAX_CONNECTIONS);
    let kept = Arc::new(Semaphore::new(places / CONNECTIONS_PER_STREAM));
    let (places, shares) = (Arc::new(Semaphore::new(places)), Shares::of("HTTP connections", places));
    let connections = TaskTracker::new();
    while let Some(accepted) = ends.stop.run_until_cancelled(next(&places, &listener)).await {
        match accepted {
            Ok((io, place)) => {
                let address = io.peer_addr().ok();
                let Some(share) = shares.take(address) else { continue };
                let place = (place, share);
                let peer = Peer { address, ..Peer::default() };
                let line = Line::new(Arc::clone(&kept), ends.shutdown.child_token());
                connections.spawn(connection(io, peer, tls.clone(), routes.clone(), line, ends.stop.clone(), place));
            }
            Err(error) => {
                warn!(%error, "an HTTP connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    connections.close();
    let _late = timeout(2 * STOP_PATIENCE, connections.wait()).await;
}

/// The place first: whoever finds none waits in the system's line.
async fn next(places: &Arc<Semaphore>, listener: &TcpListener) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    Ok((listener.accept().await?.0, place))
}

async fn connection(
    io: TcpStream,
    mut peer: Peer,
    tls: Option<ServerTls>,
    routes: Router,
    line: Line,
    stop: CancellationToken,
    _place: (OwnedSemaphorePermit, Share),
) {
    let Some(tls) = tls else { return answer(io, routes.layer(Extension(peer)), line, stop).await };
    match stop.run_until_cancelled(tls.accept(io, Door::Http)).await {
        None => {}
        Some(Err(error)) => debug!(%error, "a TLS handshake failed"),
        Some(Ok((stream, certificate))) => {
            (peer.over_tls, peer.certificate) = (true, certificate);
            answer(stream, routes.layer(Extension(peer)), line, stop).await;
        }
    }
}

/// Serves one connection to its end.
async fn answer(io: impl AsyncRead + AsyncWrite + Unpin, routes: Router, line: Line, stop: CancellationToken) {
    let answer = |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(line.clone());
        let routes = routes.clone();
        async move { Ok::<_, Infallible>(routes.oneshot(request).await.into_response()) }
    };
    let mut served = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_PATIENCE)
            .max_buf_size(MAX_HEADER_BYTES)
            .serve_connection(TokioIo::new(io), service_fn(answer))
    );
    let cut = line.cut();
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = cut.cancelled() => return,
        () = either(line.grows_old(MAX_AGE, age_of_next()), stop.cancelled()) => {
            served.as_mut().graceful_shutdown();
            timeout(STOP_PATIENCE, served).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        debug!(%error, "an HTTP connection failed");
    }
}

/// Returns when one of them does.
async fn either(first: impl Future<Output = ()>, second: impl Future<Output = ()>) {
    tokio::select! {
        () = first => {}
        () = second => {}
    }
}

#[cfg(test)]
mod tests;
