//! The bytes that a client's events take from what it may send in a second.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body::{Frame, SizeHint};
use tokio::time::{Sleep, sleep};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Bytes;

use crate::auth::Allowance;

/// A body whose bytes are taken from an allowance as they come. A stream waits while there is debt, which holds its client back; one message
/// comes through whole, and the next call waits for it.
pub(super) struct Metered {
    body: Body,
    allowance: Allowance,
    holds_back: bool,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Metered {
    pub(super) fn new(body: Body, allowance: Allowance, holds_back: bool) -> Self {
        Self { body, allowance, holds_back, waiting: None }
    }
}

impl http_body::Body for Metered {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        while this.holds_back {
            if let Some(waiting) = &mut this.waiting {
                ready!(waiting.as_mut().poll(cx));
                this.waiting = None;
            }
            // Other calls of the same client may have taken what came in meanwhile.
            let Some(debt) = this.allowance.debt() else { break };
            this.waiting = Some(Box::pin(sleep(debt)));
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        if let Some(bytes) = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()) {
            this.allowance.take(bytes.len());
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
