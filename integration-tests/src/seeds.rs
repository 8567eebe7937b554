//! Consecutive seeds, one run after another on every core: what `make sim` and `make network` share.

#![allow(clippy::print_stdout, reason = "it is what both commands print")]

use std::fmt::Display;
use std::ops::AddAssign;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;

/// Which seeds, and how.
#[derive(Debug, clap::Args)]
pub struct Seeds {
    /// The first seed.
    #[arg(long, env = "SEED", default_value_t = 1)]
    seed: u64,
    /// How many seeds.
    #[arg(long, env = "SEEDS", default_value_t = 300)]
    seeds: u64,
    /// Threads; all cores unless told otherwise.
    #[arg(long)]
    threads: Option<usize>,
    /// Prints every step; for one seed.
    #[arg(long)]
    trace: bool,
    /// Runs every seed twice and compares the two, byte for byte.
    #[arg(long)]
    twice: bool,
}

/// What a run reports; reports add up.
pub trait Tally: Default + Display + Send + for<'a> AddAssign<&'a Self> {
    /// How many runs are in it.
    fn runs(&self) -> u64;

    /// Of the trace of one run.
    fn digest(&self) -> &str;
}

impl Seeds {
    /// Runs `simulate(seed, printed)` for every seed up to the first that fails, and prints the sum of the reports. `command` is
    /// the make target that replays a seed.
    ///
    /// # Panics
    /// Never: a run that panics has failed.
    pub fn run<R: Tally>(&self, command: &str, simulate: impl Fn(u64, bool) -> Result<R, String> + Sync) -> ExitCode {
        let threads = self.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
        let (next, total, wrong) = (AtomicU64::new(self.seed), Mutex::new(R::default()), Mutex::new(Vec::new()));
        let started = Instant::now();
        let work = || {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= self.seed + self.seeds || !wrong.lock().expect("no thread panics with it").is_empty() {
                    return;
                }
                match self.one(seed, &simulate) {
                    Ok(report) => *total.lock().expect("no thread panics with it") += &report,
                    Err(reason) => wrong.lock().expect("no thread panics with it").push((seed, reason)),
                }
            }
        };
        std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
        let (total, wrong) = (total.into_inner().expect("all threads have ended"), wrong.into_inner().expect("all threads have ended"));
        print!("{total}");
        let seconds = started.elapsed().as_secs_f64();
        println!("{seconds:.1} s, {:.2} ms of a core per run", seconds * 1000.0 * threads as f64 / (total.runs().max(1)) as f64);
        for (seed, reason) in &wrong {
            println!("seed {seed}: {reason}\nreplay with: make {command} SEED={seed} SEEDS=1 TRACE=1");
        }
        if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn one<R: Tally>(&self, seed: u64, simulate: &impl Fn(u64, bool) -> Result<R, String>) -> Result<R, String> {
        let run = || {
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| simulate(seed, self.trace)));
            caught.unwrap_or_else(|_| Err("a panic, see above".to_owned()))
        };
        let report = run()?;
        if self.twice {
            let again = run()?;
            if again.digest() != report.digest() {
                return Err(format!("two runs differ: {} and {}", report.digest(), again.digest()));
            }
        }
        Ok(report)
    }
}
