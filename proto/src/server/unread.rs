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

/// Small frames need not wait for the peer: what a connection's streams have of them is little.
const SMALL_BYTES: usize = 1 << 10;

/// The body of an answer, which keeps a `P` while it is there.
pub(super) struct Unread<P> {
    /// What comes before the next frame of `body`.
    next: Option<Result<Frame<Bytes>, Status>>,
    body: Body,
    /// Whether `body` gives something more often than `patience`: a peer that asks for nothing does not wait for us then.
    is_never_silent: bool,
    /// Since when the peer has been waited for; absent while it waits for us.
    since: Arc<Mutex<Option<Instant>>>,
    _watch: AbortOnDropHandle<()>,
    _place: P,
}

impl<P> Unread<P> {
    /// Cancels `cut` when the peer has not read on for `patience`. `next` is what `body` has given already.
    pub(super) fn new(
        next: Option<Result<Frame<Bytes>, Status>>,
        body: Body,
        is_never_silent: bool,
        place: P,
        patience: Duration,
        cut: CancellationToken,
    ) -> Self {
        let since = Arc::new(Mutex::new(Some(Instant::now())));
        let watch = AbortOnDropHandle::new(tokio::spawn(watch(Arc::clone(&since), patience, cut)));
        Self { next, body, is_never_silent, since, _watch: watch, _place: place }
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

/// Takes the last byte off a frame that is large. hyper hands a frame on as soon as the peer has room for one byte of it and asks
/// for what comes next: only when it asks for this byte the peer has room for all before it.
fn last_byte(frame: &mut Frame<Bytes>) -> Option<Bytes> {
    let data = frame.data_mut().filter(|data| data.len() > SMALL_BYTES)?;
    let last = data.split_off(data.len() - 1);
    // It must not keep all of them.
    Some(Bytes::copy_from_slice(&last))
}

impl<P: Unpin> http_body::Body for Unread<P> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut polled = match self.next.take() {
            Some(next) => Poll::Ready(Some(next)),
            None => Pin::new(&mut self.body).poll_frame(cx),
        };
        if let Poll::Ready(Some(Ok(frame))) = &mut polled {
            self.next = last_byte(frame).map(|byte| Ok(Frame::data(byte)));
        }
        self.waits_for_peer((self.is_never_silent || polled.is_ready()).then(Instant::now));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.next.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.next {
            Some(_) => SizeHint::default(),
            None => self.body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body::Body as _;

    /// Never gives anything.
    struct Silent;

    impl http_body::Body for Silent {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Pending
        }
    }

    /// Proves that a body which has nothing to say may take its time, and that one which is never silent is given up when nobody has asked
    /// it for anything for the time it may stay unread.
    #[tokio::test(start_paused = true)]
    async fn nobody_asks() {
        for is_never_silent in [false, true] {
            let (cut, patience) = (CancellationToken::new(), Duration::from_secs(30));
            let mut unread = Unread::new(None, Body::new(Silent), is_never_silent, (), patience, cut.clone());
            for _ in 0..3 {
                tokio::time::sleep(patience / 2).await;
                assert!(Pin::new(&mut unread).poll_frame(&mut Context::from_waker(std::task::Waker::noop())).is_pending());
            }
            assert!(!cut.is_cancelled());
            tokio::time::sleep(patience * 3).await;
            assert_eq!(cut.is_cancelled(), is_never_silent);
        }
    }
}
