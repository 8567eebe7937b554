//! `make run`: speed-layer and serving-layer on their default ports with `./data`, until Ctrl-C.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;
use integration_tests::processes::{Binaries, Server, interrupted};

/// Runs speed-layer and serving-layer until Ctrl-C, with their data in ./data, as merganser.toml and MERGANSER_… say.
///
/// It is what `make run` calls, for a first look; to keep them running, let a service manager start `speed-layer serve` and `serving-layer serve`.
#[derive(Parser)]
#[command(version)]
struct Cli {}

#[tokio::main]
async fn main() -> ExitCode {
    let Cli {} = Cli::parse();
    match serve().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn serve() -> Result<()> {
    let binaries = Binaries::beside_this(Path::new("data/logs"))?;
    let mut speed = binaries.serve("speed-layer").await?;
    let mut serving = binaries.serve("serving-layer").await?;
    say_what_to_try(&speed, &serving);
    tokio::select! {
        signal = interrupted() => signal?,
        status = speed.ended() => bail!("speed-layer ended with {}\n{}", status?, speed.last_words()),
        status = serving.ended() => bail!("serving-layer ended with {}\n{}", status?, serving.last_words()),
    }
    println!("\nstopping");
    tokio::try_join!(speed.stop(), serving.stop())?;
    Ok(())
}

fn say_what_to_try(speed: &Server, serving: &Server) {
    let folder = std::env::current_exe().ok().and_then(|this| this.parent().map(Path::to_owned)).unwrap_or_default();
    let folder = std::env::current_dir().ok().and_then(|here| folder.strip_prefix(here).ok().map(Path::to_owned)).unwrap_or(folder);
    let bin = folder.display();
    println!("speed-layer    {}  takes events", speed.address);
    println!("serving-layer  {}  answers", serving.address);
    println!("data and logs are in ./data; Ctrl-C stops both\n\ntry in another terminal:");
    for (command, does) in [
        ("speed-layer load EVENTS.jsonl", "send an event file"),
        ("serving-layer get USER_ID --explain", "both halves and their sum"),
        ("batch-layer run", "recompute; ask again and see the halves move"),
    ] {
        println!("  {:60} # {does}", format!("{bin}/{command}"));
    }
}
