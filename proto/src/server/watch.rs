//! A stream without an end of its own: it is given one when its connection takes no more calls.
//!
//! A server that stops waits for calls in flight, and then cuts them; so does a connection that is too old. A watcher would see a
//! broken connection. Here it is told instead, between two messages, by a status that says to watch again.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Frame, SizeHint};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::body::Body;
use tonic::codegen::Bytes;
use tonic::codegen::http::HeaderMap;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// Watches of one connection, half of its streams: the other calls of a client find a stream too.
pub(super) const WATCHES_PER_CONNECTION: usize = 64;
/// What a watcher should wait before it watches again.
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

/// UNAVAILABLE, and when to watch again.
fn trailers() -> HeaderMap {
    let mut details = ErrorDetails::with_error_info("STOPPING", "merganser", []);
    details.set_retry_info(Some(RETRY_DELAY));
    let message = "the server stops, or the connection is too old; watch again";
    let mut trailers = HeaderMap::new();
    // It fails for a text that is no header, which this one is.
    let _written = Status::with_error_details(Code::Unavailable, message, details).add_header(&mut trailers);
    trailers
}
