//! Calls: which are let in, and how long they may take.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::future::BoxFuture;
use http_body::Body as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::Bytes;
use tonic::codegen::http::header::{AUTHORIZATION, CONTENT_TYPE};
use tonic::codegen::http::{HeaderValue, Method, Request, Response, StatusCode};
use tonic::service::Routes;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use tower::Service;
use tracing::{Instrument, Span};

use super::counts::{MethodCounts, code};
use super::memory::{Memory, Taken, Weighed};
use super::metered::Metered;
use super::peer::Peer;
use super::pushback;
use super::shares::{Share, Shares};
use super::unread::Unread;
use super::watch::{Ending, Lane};
use crate::auth::{Admitted, Authority};
use crate::traces;

/// What a client that was refused for load should wait.
const RETRY_DELAY: Duration = Duration::from_millis(200);

/// Calls that may wait for a place, for each place there is: they wait for a short time only.
const WAITING_PER_PLACE: usize = 1;
/// Answers that may wait to be read, for each place there is. Whoever does not read keeps memory, but keeps no small answer from
/// being given.
const UNREAD_PER_PLACE: usize = 8;
/// What is read and thrown away of a question that is refused: as much as may be on its way, which is the window of a stream.
/// Refusing it in the middle would leave that over, and a connection with enough of it is closed as an attacker's.
const DRAINED_BYTES: usize = 1 << 20;
/// How long the rest of a refused question may be on its way.
const DRAIN_PATIENCE: Duration = Duration::from_secs(1);

/// Places for the calls of one kind, on all connections together.
#[derive(Clone, Debug)]
pub struct Room {
    kind: &'static str,
    places: usize,
    patience: Duration,
    free: Arc<Semaphore>,
    line: Arc<Semaphore>,
    unread: Arc<Semaphore>,
    shares: Option<Arc<Shares>>,
    questions: Memory,
    answers: Memory,
}

impl Room {
    /// So many places for `kind`, a plural noun. A call waits for one for `patience`, so that a burst is no overload; then it is
    /// refused, for the server has more to do than it can, and more waiting would be only that.
    #[must_use]
    pub fn new(kind: &'static str, places: usize, patience: Duration) -> Self {
        let [free, line, unread] = [1, WAITING_PER_PLACE, UNREAD_PER_PLACE].map(|each| Arc::new(Semaphore::new(places * each)));
        let [questions, answers] = [Memory::new(kind, places), Memory::new(kind, places)];
        Self { kind, places, patience, free, line, unread, shares: None, questions, answers }
    }

    /// As many for each core, for calls that mostly compute: more at once would all be late together.
    #[must_use]
    pub fn per_core(kind: &'static str, places: usize, patience: Duration) -> Self {
        Self::new(kind, places * std::thread::available_parallelism().map_or(1, usize::from), patience)
    }

    /// For calls that strangers may make, and need not end: no host has all of the places.
    #[must_use]
    pub fn for_strangers(self) -> Self {
        Self { shares: Some(Shares::of(self.kind, self.places)), ..self }
    }

    /// A place for `peer`, at once or soon.
    async fn enter(&self, peer: &Peer) -> Option<(OwnedSemaphorePermit, Option<Share>)> {
        let share = match &self.shares {
            None => None,
            Some(shares) => Some(shares.take(peer.address)?),
        };
        if let Ok(place) = Arc::clone(&self.free).try_acquire_owned() {
            return Some((place, share));
        }
        let _in_line = self.line.try_acquire().ok()?;
        let place = timeout(self.patience, Arc::clone(&self.free).acquire_owned()).await.ok()?.ok()?;
        Some((place, share))
    }

    /// A place for an answer of so many bytes until it has been read.
    fn keep(&self, answer_bytes: usize) -> Result<UnreadPlace, Status> {
        let place = Arc::clone(&self.unread).try_acquire_owned().map_err(|_| self.refusal())?;
        let memory = self.answers.take(answer_bytes).ok_or_else(|| self.answers.refusal())?;
        Ok((place, memory))
    }

    fn refusal(&self) -> Status {
        refusal("OVERLOADED", format!("{} {} are in flight; try again", self.places, self.kind))
    }
}

/// A place among the answers that wait to be read, and memory.
type UnreadPlace = (OwnedSemaphorePermit, Taken);

/// What goes to and fro in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One question, one answer. The place is given back when it is answered; the answer has another until it is read.
    Call,
    /// One question, and a stream of answers or a long wait for one. It keeps its place to its end.
    Export,
    /// A stream of questions, each of them bounded by its service. It keeps its place to its end.
    Stream,
    /// One question, and answers for as long as the client likes, the next one sooner than [`Rule::unread`]. It keeps its place to its end,
    /// and one of its connection's; when the connection takes no more calls it ends with UNAVAILABLE.
    Watch,
}

/// What one method may take.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Where its calls are counted. Without one they are let in always.
    pub room: Option<Room>,
    /// What goes to and fro.
    pub shape: Shape,
    /// From the first byte of the question to the answer, or for a stream to the first of its answers: reading a slow question is
    /// part of it.
    pub within: Option<Duration>,
    /// Whoever does not read its answer for so long loses the connection, for there is no other way to get the memory back.
    pub unread: Duration,
    /// Where its calls are counted by their codes, if they are.
    pub counts: Option<MethodCounts>,
    /// Who decides whether a call is let in, before anything else and before anything of its body is read.
    pub authority: Arc<Authority>,
}

/// The rule of a method by its path, `/package.Service/Method`. Unknown paths have one too.
pub type Rules = Arc<dyn Fn(&str) -> Rule + Send + Sync>;

/// The services of one connection, behind the rules.
#[derive(Clone)]
pub(super) struct Calls {
    routes: Routes,
    rules: Rules,
    peer: Peer,
    cut: CancellationToken,
    stop: CancellationToken,
    lane: Lane,
}

impl Calls {
    /// `cut` ends the connection of `peer`; `stop` tells that it takes no more calls; long answers find a place in `lane`.
    pub(super) fn new(routes: Routes, rules: Rules, peer: Peer, cut: CancellationToken, stop: CancellationToken, lane: Lane) -> Self {
        Self { routes, rules, peer, cut, stop, lane }
    }
}

impl Service<Request<Body>> for Calls {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        <Routes as Service<Request<Body>>>::poll_ready(&mut self.routes, cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Some(status) = is_not_grpc(&request) {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = status;
            return Box::pin(std::future::ready(Ok(response)));
        }
        request.extensions_mut().insert(self.peer.clone());
        let Rule { room, shape, within, unread, counts, authority } = (self.rules)(request.uri().path());
        // Whoever is not let in has no place, and no trace.
        let admitted = authority.admit(request.uri().path(), request.headers(), &self.peer);
        let admitted = admitted.map(|admitted| (admitted, self.lane.hold(shape)));
        let span = match counts.as_ref().and_then(MethodCounts::name) {
            Some(method) if admitted.is_ok() && traces::are_on() => traces::of_call(method, request.headers()),
            _ => Span::none(),
        };
        let begun = counts.map(MethodCounts::begin);
        let (mut routes, peer, cut, stop) = (self.routes.clone(), self.peer.clone(), self.cut.clone(), self.stop.clone());
        let answer = async move {
            let (Admitted { identity, allowance }, held) = match admitted {
                Ok(admitted) => admitted,
                Err(refusal) => {
                    drain(request.into_body()).await;
                    return Ok(refusal.status().into_http());
                }
            };
            // What a service may know is who calls, not how that was shown.
            request.headers_mut().remove(AUTHORIZATION);
            identity.into_iter().for_each(|identity| drop(request.extensions_mut().insert(identity)));
            let held = match held {
                Ok(held) => held,
                Err(refused) => {
                    drain(request.into_body()).await;
                    return Ok(refused.into_http());
                }
            };
            let mut place = None;
            if let Some(room) = &room {
                place = room.enter(&peer).await;
                if place.is_none() {
                    drain(request.into_body()).await;
                    return Ok(room.refusal().into_http());
                }
            }
            // Given back when the call is over.
            let memory = room.as_ref().map(|room| Arc::new(Mutex::new(room.questions.nothing())));
            if shape != Shape::Stream {
                request = request.map(|body| Body::new(Weighed::new(body, memory.clone())));
            }
            if let Some(allowance) = allowance {
                request = request.map(|body| Body::new(Metered::new(body, allowance, shape == Shape::Stream)));
            }
            // It is ready whenever its clone was.
            let answer = routes.call(request);
            let response = match within {
                None => answer.await?,
                Some(limit) => match timeout(limit, answer).await {
                    Ok(answered) => answered?,
                    Err(_) => return Ok(too_late(limit).into_http()),
                },
            };
            drop(memory);
            if shape == Shape::Watch {
                let place = (place, held);
                return Ok(response.map(|body| Body::new(Unread::new(None, Body::new(Ending::new(body, stop)), true, place, unread, cut))));
            }
            let (Some(room), Shape::Call) = (room, shape) else {
                let place = (place, held);
                return Ok(response.map(|body| Body::new(Unread::new(None, body, false, place, unread, cut))));
            };
            let (head, mut body) = response.into_parts();
            // All of it: there is one message. Only encoded can it be weighed.
            let first = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
            let bytes = first.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()).map_or(0, Bytes::len);
            // What was done stays done: to ask again is safe.
            let unread_place = match room.keep(bytes) {
                Ok(unread_place) => unread_place,
                Err(refused) => return Ok(refused.into_http()),
            };
            drop(place);
            Ok(Response::from_parts(head, Body::new(Unread::new(first, body, false, unread_place, unread, cut))))
        };
        let call = span.clone();
        let answer = async move {
            let response: Result<Response<Body>, Infallible> = answer.await;
            let Ok(mut response) = response;
            pushback::tell(&mut response);
            if let Some(begun) = begun {
                traces::failed(&call, code(&response));
                begun.answered(&response);
            }
            Ok(response)
        };
        if span.is_none() { Box::pin(answer) } else { Box::pin(answer.instrument(span)) }
    }
}

/// Reads the rest of a question, within bounds.
pub(super) async fn drain(mut body: Body) {
    let mut bytes = 0;
    let read = poll_fn(|cx| {
        while let Some(Ok(frame)) = ready!(Pin::new(&mut body).poll_frame(cx)) {
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > DRAINED_BYTES {
                break;
            }
        }
        Poll::Ready(())
    });
    let _late = timeout(DRAIN_PATIENCE, read).await;
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
pub(super) fn refusal(reason: &str, message: impl Into<String>) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, "merganser", []);
    details.set_retry_info(Some(RETRY_DELAY));
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// For a method that takes small questions only.
pub(super) fn too_large() -> Status {
    Status::with_error_details(
        Code::InvalidArgument,
        "the question is too large",
        ErrorDetails::with_error_info("TOO_LARGE", "merganser", []),
    )
}

pub(super) fn too_late(limit: Duration) -> Status {
    let details = ErrorDetails::with_error_info("TOO_LATE", "merganser", []);
    let message = format!("the call took longer than {} s, from its first byte on", limit.as_secs());
    Status::with_error_details(Code::DeadlineExceeded, message, details)
}
