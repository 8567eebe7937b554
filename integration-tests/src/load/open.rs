//! The open loop: calls start when their time has come.
//!
//! A thread of its own keeps the time, in steps of 0.2 ms: what is due in one is sent at its end, and counts from when it was due. So
//! much is in every latency here, of the echo as of the servers.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::tally::{Checked, Tally};

/// The finest step of time.
const STEP: Duration = Duration::from_micros(200);
/// Calls that may wait for their answers. What is due beyond is skipped, and counted.
const IN_FLIGHT: usize = 2_000;

/// Sends `per_second` calls for `time`, or until told to stop, and waits for their answers. Gives the seconds in which they were sent.
///
/// # Panics
/// If the thread that keeps the time does.
pub async fn run<A, F>(ask: A, per_second: f64, time: Duration, stop: CancellationToken) -> (Tally, f64)
where
    A: Fn(&mut StdRng) -> F + Send + 'static,
    F: Future<Output = Result<Checked, Status>> + Send + 'static,
{
    let runtime = Handle::current();
    let keeper = move || keep_time(&ask, per_second, time, &stop, &runtime);
    tokio::task::spawn_blocking(keeper).await.expect("the keeper of the time does not panic")
}

fn keep_time<A, F>(ask: &A, per_second: f64, time: Duration, stop: &CancellationToken, runtime: &Handle) -> (Tally, f64)
where
    A: Fn(&mut StdRng) -> F,
    F: Future<Output = Result<Checked, Status>> + Send + 'static,
{
    let (mut random, mut skipped) = (StdRng::seed_from_u64(per_second as u64), 0);
    let room = Arc::new(Semaphore::new(IN_FLIGHT));
    let (outcomes, ended) = mpsc::channel();
    let started = Instant::now();
    let calls = (per_second * time.as_secs_f64()) as u64;
    for call in 0..calls {
        let due = started + Duration::from_secs_f64(call as f64 / per_second);
        if stop.is_cancelled() {
            break;
        }
        if due > Instant::now() {
            std::thread::sleep((due - Instant::now()).max(STEP));
        }
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            skipped += 1;
            continue;
        };
        let (asked, outcomes) = (ask(&mut random), outcomes.clone());
        runtime.spawn(async move {
            let outcome = asked.await;
            let _counted = outcomes.send((due.elapsed(), outcome));
            drop::<OwnedSemaphorePermit>(permit);
        });
    }
    let seconds = started.elapsed().as_secs_f64();
    drop(outcomes);
    let mut tally = Tally { skipped, ..Tally::default() };
    ended.into_iter().for_each(|(took, outcome)| tally.add(took, outcome));
    (tally, seconds)
}
