//! The closed loop: a fixed number of callers, each asks again as soon as it is answered.

use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Status;

use super::tally::{Checked, Tally};

/// Calls of `callers` for `time`, and how many seconds that took.
///
/// # Panics
/// If a caller does.
pub async fn run<A, F>(ask: A, callers: usize, time: Duration) -> (Tally, f64)
where
    A: Fn(&mut StdRng) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Checked, Status>> + Send + 'static,
{
    let started = Instant::now();
    let mut loops = JoinSet::new();
    for caller in 0..callers {
        let (ask, mut random) = (ask.clone(), StdRng::seed_from_u64(caller as u64));
        loops.spawn(async move {
            let mut tally = Tally::default();
            while started.elapsed() < time {
                let sent = Instant::now();
                let outcome = ask(&mut random).await;
                tally.add(sent.elapsed(), outcome);
            }
            tally
        });
    }
    let tally = loops.join_all().await.into_iter().fold(Tally::default(), Tally::and);
    (tally, started.elapsed().as_secs_f64())
}
