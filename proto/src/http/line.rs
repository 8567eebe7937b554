//! The connection that a request came on, as far as its answer has a say in it.
//!
//! HTTP/1.1 has one call at a time on a connection, so a long answer is a long connection. One that says so may outlive the others, to
//! an age that makes its client come again; how many do at once is bounded, so that probes and scrapers find a place beside them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// A connection, seen from a request on it: each has one among its extensions. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Line(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    cut: CancellationToken,
    stop: CancellationToken,
    places: Arc<Semaphore>,
    is_kept: watch::Sender<bool>,
}

/// A connection that lives on. Ends when it is dropped.
#[derive(Debug)]
pub struct Kept {
    line: Line,
    _place: OwnedSemaphorePermit,
}

impl Line {
    /// Of a new connection. `places` are for those that live longer; `stop` is cancelled when it has to end.
    pub(crate) fn new(places: Arc<Semaphore>, stop: CancellationToken) -> Self {
        Self(Arc::new(Shared { cut: CancellationToken::new(), stop, places, is_kept: watch::Sender::new(false) }))
    }

    /// Keeps the connection while what is given is kept, though it is older than others may be. None where as many are kept as there
    /// may be.
    #[must_use]
    pub fn keep(&self) -> Option<Kept> {
        let place = Arc::clone(&self.0.places).try_acquire_owned().ok()?;
        self.0.is_kept.send_replace(true);
        Some(Kept { line: self.clone(), _place: place })
    }

    /// Cancel it to end the connection at once.
    #[must_use]
    pub fn cut(&self) -> CancellationToken {
        self.0.cut.clone()
    }

    /// Is cancelled when an answer without an end of its own has to come to one: the server stops, or the connection is too old.
    #[must_use]
    pub fn stop(&self) -> CancellationToken {
        self.0.stop.clone()
    }

    /// Returns when the connection has come to its `age`, or, kept until then, to the end of that, at `kept_age` at the latest.
    pub(super) async fn grows_old(&self, age: Duration, kept_age: Duration) {
        sleep(age).await;
        let mut is_kept = self.0.is_kept.subscribe();
        // The sender is here.
        let _ended = timeout(kept_age.saturating_sub(age), is_kept.wait_for(|is_kept| !is_kept)).await;
        self.0.stop.cancel();
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.line.0.is_kept.send_replace(false);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    /// Proves that a connection lives as long as others, one that is kept as long as it is kept, and none for ever; and that places come
    /// back.
    #[tokio::test(start_paused = true)]
    async fn ages() {
        let (age, kept_age) = (Duration::from_secs(60), Duration::from_secs(1800));
        let places = Arc::new(Semaphore::new(1));
        for (kept_for, expected) in [(None, 60), (Some(10), 60), (Some(100), 100), (Some(10_000), 1800)] {
            let (line, started) = (Line::new(Arc::clone(&places), CancellationToken::new()), Instant::now());
            let kept = kept_for.map(|seconds| {
                let kept = line.keep().unwrap();
                assert!(line.keep().is_none(), "there is one place");
                tokio::spawn(async move {
                    sleep(Duration::from_secs(seconds)).await;
                    drop(kept);
                })
            });
            line.grows_old(age, kept_age).await;
            assert_eq!(started.elapsed().as_secs(), expected, "{kept_for:?}");
            assert!(line.stop().is_cancelled());
            if let Some(kept) = kept {
                kept.await.unwrap();
            }
        }
    }
}
