//! Calls: which are let in, and how long they may take.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::http::header::CONTENT_TYPE;
use tonic::codegen::http::{HeaderValue, Method, Request, Response, StatusCode};
use tonic::service::Routes;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use tower::Service;

use super::unread::Unread;

/// What a client that was refused for load should wait.
const RETRY_DELAY: Duration = Duration::from_millis(200);

/// Places for the calls of one kind, on all connections together.
#[derive(Clone, Debug)]
pub struct Room {
    kind: &'static str,
    places: usize,
    free: Arc<Semaphore>,
}

impl Room {
    /// So many places for `kind`, a plural noun.
    #[must_use]
    pub fn new(kind: &'static str, places: usize) -> Self {
        Self { kind, places, free: Arc::new(Semaphore::new(places)) }
    }
}

/// What one method may take.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Where its calls are counted, from the first byte of the question until the answer is read. Without one they are let in
    /// always.
    pub room: Option<Room>,
    /// From the first byte of the question to the answer, or for a stream to the first of its answers: reading a slow question is
    /// part of it.
    pub within: Option<Duration>,
    /// Whoever does not read its answer for so long loses the connection, for there is no other way to get the memory back.
    pub unread: Duration,
}

/// The rule of a method by its path, `/package.Service/Method`. Unknown paths have one too.
pub type Rules = Arc<dyn Fn(&str) -> Rule + Send + Sync>;

/// The services of one connection, behind the rules.
#[derive(Clone)]
pub(super) struct Calls {
    routes: Routes,
    rules: Rules,
    cut: CancellationToken,
}

impl Calls {
    /// `cut` ends the connection.
    pub(super) fn new(routes: Routes, rules: Rules, cut: CancellationToken) -> Self {
        Self { routes, rules, cut }
    }
}

impl Service<Request<Body>> for Calls {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        <Routes as Service<Request<Body>>>::poll_ready(&mut self.routes, cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if let Some(status) = is_not_grpc(&request) {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = status;
            return Box::pin(std::future::ready(Ok(response)));
        }
        let Rule { room, within, unread } = (self.rules)(request.uri().path());
        let place = match room.map(|room| (Arc::clone(&room.free).try_acquire_owned(), room)) {
            None => None,
            Some((Ok(place), _)) => Some(place),
            Some((Err(_), Room { kind, places, .. })) => {
                let refused = refusal("OVERLOADED", format!("{places} {kind} are in flight; try again"));
                return Box::pin(std::future::ready(Ok(refused.into_http())));
            }
        };
        let cut = self.cut.clone();
        let answer = self.routes.call(request);
        Box::pin(async move {
            let response = match within {
                None => answer.await?,
                Some(limit) => match timeout(limit, answer).await {
                    Ok(answered) => answered?,
                    Err(_) => return Ok(too_late(limit).into_http()),
                },
            };
            Ok(response.map(|body| Body::new(Unread::new(body, place, unread, cut))))
        })
    }
}

/// What the gRPC protocol says to a request that is none; tonic would answer it.
fn is_not_grpc(request: &Request<Body>) -> Option<StatusCode> {
    let content_type = request.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    match content_type.strip_prefix(b"application/grpc") {
        Some([] | [b'+' | b';', ..]) if request.method() == Method::POST => None,
        Some([] | [b'+' | b';', ..]) => Some(StatusCode::METHOD_NOT_ALLOWED),
        _ => Some(StatusCode::UNSUPPORTED_MEDIA_TYPE),
    }
}

/// RESOURCE_EXHAUSTED, and when to try again.
fn refusal(reason: &str, message: impl Into<String>) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, "merganser", []);
    details.set_retry_info(Some(RETRY_DELAY));
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

fn too_late(limit: Duration) -> Status {
    let details = ErrorDetails::with_error_info("TOO_LATE", "merganser", []);
    let message = format!("the call took longer than {} s, from its first byte on", limit.as_secs());
    Status::with_error_details(Code::DeadlineExceeded, message, details)
}
