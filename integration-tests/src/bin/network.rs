//! `make network`: whole servers on simulated networks, one run after another on every core, each from its own seed.
#![allow(clippy::print_stdout, reason = "it is a command")]

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Parser;
use integration_tests::network::{self, Report};
use tokio::time::Instant;

/// Runs whole servers over the networks of consecutive seeds.
#[derive(Parser)]
struct Cli {
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

fn main() -> ExitCode {
    let cli = Cli::parse();
    let threads = cli.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    let (next, total, wrong) = (AtomicU64::new(cli.seed), Mutex::new(Report::default()), Mutex::new(Vec::new()));
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= cli.seed + cli.seeds || !wrong.lock().expect("no thread panics with it").is_empty() {
                        return;
                    }
                    match one(seed, &cli) {
                        Ok(report) => *total.lock().expect("no thread panics with it") += &report,
                        Err(reason) => wrong.lock().expect("no thread panics with it").push((seed, reason)),
                    }
                }
            });
        }
    });
    let (total, wrong) = (total.into_inner().expect("all threads have ended"), wrong.into_inner().expect("all threads have ended"));
    print!("{total}");
    let seconds = started.elapsed().as_secs_f64();
    println!("{seconds:.1} s, {:.2} ms of a core per run", seconds * 1000.0 * threads as f64 / (total.sim.runs.max(1)) as f64);
    for (seed, reason) in &wrong {
        println!("seed {seed}: {reason}\nreplay with: make network SEED={seed} SEEDS=1 TRACE=1");
    }
    if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn one(seed: u64, cli: &Cli) -> Result<Report, String> {
    let run =
        |printed| std::panic::catch_unwind(|| network::simulate(seed, printed)).unwrap_or_else(|_| Err("a panic, see above".to_owned()));
    let report = run(cli.trace)?;
    if cli.twice {
        let again = run(cli.trace)?;
        if again.sim.digest != report.sim.digest {
            return Err(format!("two runs differ: {} and {}", report.sim.digest, again.sim.digest));
        }
    }
    Ok(report)
}
