//! Calls to the object store that are repeated when it has a bad moment: a few times, ever more slowly, never for long.
//!
//! Only what may pass by itself is repeated ([`StoreError::is_transient`]). The wait before each further try is drawn between the
//! half and the whole of a bound that doubles, so that many who failed together do not come back together (Brooker, *Exponential
//! Backoff and Jitter*, AWS Architecture Blog, 2015). A local disk is never tried again: after a failed sync nobody knows what it
//! holds.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use twox_hash::XxHash3_64;

use super::StoreError;

/// How often and how long a call is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Calls in all, the first one included.
    pub tries: u32,
    /// The longest first wait; each further one may be twice as long.
    pub first_wait: Duration,
    /// No further try is begun after so long.
    pub budget: Duration,
    /// What the waits are drawn from: the same seed gives the same waits.
    pub seed: u64,
}

impl Retry {
    /// Every call is made once.
    pub const NONE: Self = Self { tries: 1, first_wait: Duration::ZERO, budget: Duration::ZERO, seed: 0 };

    /// Five tries within ten seconds.
    #[must_use]
    pub const fn seeded(seed: u64) -> Self {
        Self { tries: 5, first_wait: Duration::from_millis(500), budget: Duration::from_secs(10), seed }
    }

    /// Makes `call` until it succeeds, fails for good, or the tries are used up; the answer is that of the last one.
    pub(super) async fn run<T, F>(&self, name: &str, mut call: impl FnMut() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut tries = self.begin(name);
        loop {
            match call().await {
                Err(e) if e.is_transient() && tries.again().await => {}
                done => return done,
            }
        }
    }

    /// The tries of one call; `name` sets its waits apart from those of others.
    pub(super) fn begin(&self, name: &str) -> Tries {
        let seed = XxHash3_64::oneshot_with_seed(self.seed, name.as_bytes());
        Tries { retry: *self, seed, made: 1, began: Instant::now() }
    }
}

/// The tries of one call.
#[derive(Debug)]
pub(super) struct Tries {
    retry: Retry,
    seed: u64,
    /// Calls that were made, or are being made.
    made: u32,
    began: Instant,
}

impl Tries {
    /// Waits for the time of the next try; false if there is none.
    pub(super) async fn again(&mut self) -> bool {
        let wait = self.wait();
        if self.made >= self.retry.tries || self.began.elapsed() + wait > self.retry.budget {
            return false;
        }
        sleep(wait).await;
        self.made += 1;
        true
    }

    fn wait(&self) -> Duration {
        let bound = self.retry.first_wait.saturating_mul(1 << (self.made - 1).min(16));
        let draw = XxHash3_64::oneshot_with_seed(self.seed, &self.made.to_le_bytes()) % 1024;
        bound.mul_f64(0.5 + draw as f64 / 2048.0)
    }
}
