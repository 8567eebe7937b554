//! An answer on its way: it keeps a place until the peer has read it, and the peer may not take for ever.
//!
//! HTTP/2 lets a peer that answers every sign of life stop reading one stream. Nothing asks the body for more then, so a clock
//! within it would stand still; a task beside it looks.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Frame, SizeHint};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Bytes;
use tracing::debug;

/// The body of an answer, which keeps a `P` while it is there.
pub(super) struct Unread<P> {
    /// What `body` has given already.
    first: Option<Result<Frame<Bytes>, Status>>,
    body: Body,
    /// Since when the peer has been waited for; absent while it waits for us.
    since: Arc<Mutex<Option<Instant>>>,
    _watch: AbortOnDropHandle<()>,
    _place: P,
}

impl<P> Unread<P> {
    /// Cancels `cut` when the peer has not read on for `patience`.
    pub(super) fn new(
        first: Option<Result<Frame<Bytes>, Status>>,
        body: Body,
        place: P,
        patience: Duration,
        cut: CancellationToken,
    ) -> Self {
        let since = Arc::new(Mutex::new(Some(Instant::now())));
        let watch = AbortOnDropHandle::new(tokio::spawn(watch(Arc::clone(&since), patience, cut)));
        Self { first, body, since, _watch: watch, _place: place }
    }

    fn waits_for_peer(&self, since: Option<Instant>) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }
}

async fn watch(since: Arc<Mutex<Option<Instant>>>, patience: Duration, cut: CancellationToken) {
    loop {
        let waited_since = *since.lock().unwrap_or_else(PoisonError::into_inner);
        let end = waited_since.unwrap_or_else(Instant::now) + patience;
        if end <= Instant::now() {
            debug!("a peer does not read its answer; its connection is cut");
            cut.cancel();
            return;
        }
        sleep_until(end).await;
    }
}

impl<P: Unpin> http_body::Body for Unread<P> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = match self.first.take() {
            Some(first) => Poll::Ready(Some(first)),
            None => Pin::new(&mut self.body).poll_frame(cx),
        };
        self.waits_for_peer(polled.is_ready().then(Instant::now));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.first {
            Some(_) => SizeHint::default(),
            None => self.body.size_hint(),
        }
    }
}
