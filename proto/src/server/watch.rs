//! A stream without an end of its own: it is given one when its connection takes no more calls.
//!
//! A server that stops waits for calls in flight, and then cuts them; so does a connection that is too old. A watcher would see a
//! broken connection. Here it is told instead, between two messages, by a status that says to watch again.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::body::Body;
use tonic::codegen::Bytes;
use tonic::codegen::http::HeaderMap;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::calls::{Shape, refusal};
use crate::http::{Kept, Line};

/// Watches of one connection, half of its streams: the other calls of a client find a stream too.
const WATCHES_PER_CONNECTION: usize = 64;
/// What a client should wait before it watches or asks again.
const RETRY_DELAY: Duration = Duration::from_millis(200);

/// The answers of a watch, until `stop`.
pub(super) struct Ending {
    body: Body,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    has_ended: bool,
}

impl Ending {
    pub(super) fn new(body: Body, stop: CancellationToken) -> Self {
        Self { body, stop: Box::pin(stop.cancelled_owned()), has_ended: false }
    }
}

impl http_body::Body for Ending {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        if self.stop.as_mut().poll(cx).is_ready() {
            self.has_ended = true;
            // Whatever the watch holds is let go now.
            self.body = Body::empty();
            return Poll::Ready(Some(Ok(Frame::trailers(trailers()))));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

fn trailers() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    // It fails for a text that is no header, which this one is.
    let _written = stopping().add_header(&mut trailers);
    trailers
}

/// UNAVAILABLE, and when to watch or to ask again.
pub(super) fn stopping() -> Status {
    let mut details = ErrorDetails::with_error_info("STOPPING", "merganser", []);
    details.set_retry_info(Some(RETRY_DELAY));
    Status::with_error_details(Code::Unavailable, "the server stops, or the connection is too old; try again", details)
}

/// Where a connection's long answers find a place. Cheap to clone.
#[derive(Clone)]
pub(super) enum Lane {
    /// Beside each other, so many watches at once.
    Shared(Arc<Semaphore>),
    /// One after the other: each keeps its connection.
    Single(Line),
}

/// The place of a long answer. It is given back when this is dropped.
pub(super) enum Held {
    Place { _permit: OwnedSemaphorePermit },
    Connection { _kept: Kept },
}

impl Lane {
    /// Of a connection over HTTP/2.
    pub(super) fn shared() -> Self {
        Self::Shared(Arc::new(Semaphore::new(WATCHES_PER_CONNECTION)))
    }

    /// A place for an answer of this shape, if it needs one.
    pub(super) fn hold(&self, shape: Shape) -> Result<Option<Held>, Status> {
        match (self, shape) {
            (_, Shape::Call) => Ok(None),
            (Self::Shared(places), Shape::Watch) => match Arc::clone(places).try_acquire_owned() {
                Ok(permit) => Ok(Some(Held::Place { _permit: permit })),
                Err(_) => Err(too_many_watches(&format!(
                    "{WATCHES_PER_CONNECTION} watches are open on this connection; end one, or open another connection"
                ))),
            },
            (Self::Shared(_), Shape::Export | Shape::Stream) => Ok(None),
            (Self::Single(line), _) => match line.keep() {
                Some(kept) => Ok(Some(Held::Connection { _kept: kept })),
                None => Err(too_many_watches("as many browsers watch as there may; try again")),
            },
        }
    }
}

fn too_many_watches(message: &str) -> Status {
    refusal("TOO_MANY_WATCHES", message)
}
