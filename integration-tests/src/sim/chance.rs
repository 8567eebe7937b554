//! Chance, all of it from one seed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// The one source of chance of a run. Clones draw from the same stream: on one thread, in an order that the seed decides.
#[derive(Clone, Debug)]
pub(crate) struct Chance(Arc<Mutex<StdRng>>);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    fn draw<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// True about `per_mille` times in a thousand.
    pub(crate) fn happens(&self, per_mille: u32) -> bool {
        per_mille > 0 && self.draw(|rng| rng.random_range(0..1000)) < per_mille
    }

    /// One of `0..end`.
    pub(crate) fn below(&self, end: usize) -> usize {
        self.draw(|rng| rng.random_range(0..end))
    }

    /// One of them.
    pub(crate) fn pick<T: Copy>(&self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// A time up to so many microseconds.
    pub(crate) fn micros(&self, up_to: u64) -> Duration {
        Duration::from_micros(self.draw(|rng| rng.random_range(0..=up_to)))
    }

    pub(crate) fn bits(&self) -> u128 {
        self.draw(Rng::random)
    }

    /// A generator of its own, for who needs one.
    pub(crate) fn fork(&self) -> StdRng {
        StdRng::seed_from_u64(self.draw(Rng::random))
    }
}
