//! `make network`: whole servers on simulated networks, one run after another on every core, each from its own seed.

use std::process::ExitCode;

use clap::Parser;
use integration_tests::network::simulate;
use integration_tests::seeds::Seeds;

/// Runs whole servers over the networks of consecutive seeds.
#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    seeds: Seeds,
}

fn main() -> ExitCode {
    Cli::parse().seeds.run("network", simulate)
}
