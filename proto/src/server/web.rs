//! The calls of pages in a browser: gRPC-Web, over HTTP/1.1 and without trailers, behind the rules that the same calls have over HTTP/2.
//!
//! ```text
//! page ─► origin: may it call at all? ─► deadline ─► gRPC-Web to gRPC (tonic-web) ─► calls, with the rooms of the other door ─► the services
//! ```
//!
//! One connection is one call at a time here, so a stream keeps its connection, see [`Line`].

/// How long a page waits.
mod deadline;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Extension, Request, State};
use axum::response::IntoResponse;
use axum::routing::any;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::codegen::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_MAX_AGE, CONTENT_TYPE, VARY,
};
use tonic::codegen::http::{HeaderValue, Method, Response, StatusCode};
use tonic::service::Routes;
use tonic_web::GrpcWebLayer;
use tower::{Layer, ServiceExt};

use super::STOP_PATIENCE;
use super::calls::{Calls, Rules, too_late};
use super::peer::Peer;
use super::watch::{Lane, stopping};
use crate::http::{Caller, Line, Origins};

/// What a page may send beside what every page may.
const ASKED_HEADERS: HeaderValue = HeaderValue::from_static("authorization, content-type, grpc-timeout, x-grpc-web, x-user-agent");
/// Where the status is when there is no answer.
const SHOWN_HEADERS: HeaderValue = HeaderValue::from_static("grpc-status, grpc-message, grpc-status-details-bin");
/// A browser need not ask again for so many seconds whether a page may call.
const ASKED_FOR: HeaderValue = HeaderValue::from_static("600");

/// Services as pages call them. Cheap to clone.
#[derive(Clone)]
pub struct Web {
    routes: Routes,
    rules: Rules,
    origins: Origins,
    in_flight: TaskTracker,
}

impl Web {
    /// `rules` are those of the server that answers the same over HTTP/2, the very same, so that both share their rooms.
    #[must_use]
    pub fn new(routes: Routes, rules: Rules, origins: Origins) -> Self {
        Self { routes: routes.prepare(), rules, origins, in_flight: TaskTracker::new() }
    }

    /// Answers the methods of these services, given as `package.Service`, and nothing else.
    pub fn router(&self, services: &[&str]) -> Router {
        let paths = services.iter().map(|service| format!("/{service}/{{method}}"));
        paths.fold(Router::new(), |router, path| router.route(&path, any(answer))).with_state(self.clone())
    }

    /// Waits for the answers of calls in flight, as long as a stop waits for them.
    pub async fn end(&self) {
        self.in_flight.close();
        let _late = timeout(STOP_PATIENCE, self.in_flight.wait()).await;
    }

    async fn call(&self, line: Line, request: Request) -> Response<Body> {
        let Ok(limit) = deadline::of(request.headers()) else { return deadline::refusal().into_http() };
        let limit = limit.unwrap_or(Duration::MAX);
        let peer = request.extensions().get::<Peer>().cloned().unwrap_or_default();
        let lane = Lane::Single(line.clone());
        let calls = Calls::new(self.routes.clone(), Arc::clone(&self.rules), peer, line.cut(), line.stop(), lane);
        let answer = GrpcWebLayer::new().layer(calls).oneshot(request);
        let Ok(response) = timeout(limit, answer).await.unwrap_or_else(|_| Ok(too_late(limit).into_http()));
        response
    }
}

async fn answer(State(web): State<Web>, Extension(line): Extension<Line>, request: Request) -> axum::response::Response {
    let caller = match web.origins.judge(request.headers()) {
        Ok(caller) => caller,
        Err(why) => return (StatusCode::FORBIDDEN, why).into_response(),
    };
    let mut response = match *request.method() {
        Method::OPTIONS => may_call(),
        _ if !is_web(&request) => status(StatusCode::UNSUPPORTED_MEDIA_TYPE),
        _ if line.stop().is_cancelled() => stopping().into_http(),
        _ => web.in_flight.track_future(web.call(line, request)).await,
    };
    if let Caller::OtherPage(origin) = caller {
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, SHOWN_HEADERS);
        headers.insert(VARY, HeaderValue::from_static("origin"));
    }
    response.map(axum::body::Body::new)
}

/// What a browser asks before a page of another origin may call.
fn may_call() -> Response<Body> {
    let mut response = status(StatusCode::NO_CONTENT);
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, ASKED_HEADERS);
    headers.insert(ACCESS_CONTROL_MAX_AGE, ASKED_FOR);
    response
}

/// Pages cannot send this type to another origin without having asked.
fn is_web(request: &Request) -> bool {
    request.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc-web"))
}

fn status(code: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = code;
    response
}
