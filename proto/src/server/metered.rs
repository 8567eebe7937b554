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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::convert::Infallible;
    use std::future::poll_fn;
    use std::time::Duration;

    use http_body::Body as _;
    use tokio::time::Instant;

    use super::*;
    use crate::auth::Allowance;

    /// As many frames of 1 KiB, at once.
    struct Frames(usize);

    impl http_body::Body for Frames {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let Some(left) = self.0.checked_sub(1) else { return Poll::Ready(None) };
            self.0 = left;
            Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![0; 1024])))))
        }
    }

    async fn read(allowance: Allowance, holds_back: bool) -> Duration {
        let begin = Instant::now();
        let mut body = Metered::new(Body::new(Frames(10)), allowance, holds_back);
        let mut bytes = 0;
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            bytes += frame.unwrap().into_data().unwrap().len();
        }
        assert_eq!(bytes, 10 * 1024);
        begin.elapsed()
    }

    /// Proves that a stream comes through whole at its rate and no faster, and that one message comes through at once and leaves a debt.
    #[tokio::test(start_paused = true)]
    async fn held_back() {
        let took = read(Allowance::of(1024), true).await;
        // One second's worth is saved up, and one frame is debt.
        assert!(took > Duration::from_millis(7900) && took < Duration::from_millis(9100), "{took:?}");
        let message = Allowance::of(1024);
        assert_eq!(read(message.clone(), false).await, Duration::ZERO);
        assert!(message.debt().unwrap() > Duration::from_millis(8900), "{:?}", message.debt());
    }
}
