//! `make sim`: simulated runs, one run after another on every core, each from its own seed.

use std::process::ExitCode;

use clap::Parser;
use integration_tests::seeds::Seeds;
use integration_tests::sim::simulate;

/// Runs the simulator over consecutive seeds.
#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    seeds: Seeds,
}

fn main() -> ExitCode {
    Cli::parse().seeds.run("sim", simulate)
}
