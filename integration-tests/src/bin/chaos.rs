//! `make chaos`: real processes killed at random and at named points while events come in and versions are published; then a
//! recorded run and power cuts in it. Exit code 0 only if nothing was lost, counted twice or left unexplained.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use integration_tests::chaos::killer::Pace;
use integration_tests::chaos::loader::Shared;
use integration_tests::chaos::power;
use integration_tests::chaos::run::{self, Size};
use integration_tests::chaos::world::{Programs, Role, World};

/// Kills real processes and pulls the plug, and holds every answer against a plain model.
#[derive(Parser)]
struct Options {
    /// How long processes are killed, in seconds; 0 leaves that part out.
    #[arg(long, env = "CHAOS_SECONDS", default_value_t = 600)]
    seconds: u64,
    /// Power cuts whose log is read back; 0 leaves that part out.
    #[arg(long, env = "POWER_CUTS", default_value_t = 400)]
    power_cuts: usize,
    /// Power cuts after which whole servers are started.
    #[arg(long, env = "POWER_SERVERS", default_value_t = 40)]
    power_servers: usize,
    /// Of an unsynced write only the last sectors may be missing, not any.
    #[arg(long)]
    first_sectors: bool,
    /// What happens when, and what a cut leaves; random if absent.
    #[arg(long, env = "SEED")]
    seed: Option<u64>,
    /// Keep the folders of a run that failed.
    #[arg(long)]
    keep: bool,
}

/// Records of a partition by which a repeated event is known: several times what may come in while one client waits for its
/// answer, and little enough for the log to be trimmed and for a server to be up again at once.
const WINDOW_ROWS: u32 = 50_000;
/// Lives of a few seconds, so that every kill meets a process at work.
const PACE: Pace = Pace { life_ms: (800, 5000), between_runs_ms: (200, 2500), stop_ms: (500, 8000) };

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let seed = options.seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("SEED={seed}");
    match Box::pin(everything(&options, seed)).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}\nrepeat with SEED={seed}");
            ExitCode::FAILURE
        }
    }
}

async fn everything(options: &Options, seed: u64) -> Result<bool> {
    let programs = Programs::build()?;
    let mut right = true;
    if options.seconds > 0 {
        let folder = tempfile::Builder::new().prefix("merganser-chaos-").tempdir()?;
        let mut world = World::new(&programs, folder.path())?;
        world.set("LOG__DEDUP_WINDOW_ROWS", WINDOW_ROWS);
        let shared = Shared::new(world, 300, None);
        let met = Box::pin(run::births(&programs, &shared, seed, usize::MAX)).await?;
        println!("{met} deaths of a speed layer while it made its folder, each followed by one that took events");
        let size = Size { connections: 6, readers: 4, users: 300, pace: PACE };
        let outcome = Box::pin(run::run(&shared, size, Duration::from_secs(options.seconds), seed)).await;
        print!("{}", shared.figures);
        for role in [Role::Speed, Role::Serving, Role::Batch] {
            let errors = shared.world.errors_logged(role);
            println!("{:>9}  lines at ERROR from {}", errors.len(), role.program());
            errors.iter().take(5).for_each(|line| println!("    {line}"));
        }
        right &= outcome.is_ok() && shared.figures.wrongs() == 0;
        if !right && options.keep {
            println!("kept in {}", folder.keep().display());
        }
        outcome?;
    }
    if options.power_cuts > 0 {
        let cuts = power::Cuts { logs: options.power_cuts, servers: options.power_servers, any_sector: !options.first_sectors };
        let report = Box::pin(power::play(&programs, cuts, Duration::from_secs(15), seed)).await?;
        print!("{report}");
        right &= report.wrong_cuts == 0;
    }
    Ok(right)
}
