//! `make overload`: appends and questions at one, two and three times what the servers can do, whether they are answered or not.
//!
//! The load is open: calls start when their time has come, not when others have ended, as callers who know nothing of each
//! other do. Time runs from when a call was due. Figures are printed as they are; nothing is asserted.
#![allow(clippy::print_stdout, clippy::print_stderr)]

/// Calls on time.
mod load;
/// Both servers, in the process that is measured.
mod serve;
/// What came of the calls.
mod tally;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Seconds of each row.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Over mutual TLS, to servers that ask everybody who they are.
    #[arg(long)]
    tls: bool,
}

#[derive(Subcommand)]
enum Command {
    /// The servers alone, until standard input ends; prints their addresses.
    Serve {
        /// Folder of everything.
        dir: PathBuf,
        /// How much the servers say.
        #[arg(long, default_value = "info")]
        level: tracing_subscriber::filter::LevelFilter,
        /// Speak TLS with the certificates that are in the folder, and ask everybody who they are: a certificate, or a token.
        #[arg(long)]
        tls: bool,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome: Result<()> = match cli.command {
        Some(Command::Serve { dir, level, tls }) => Box::pin(serve::serve(dir, level, tls)).await,
        None => Box::pin(load::run(std::time::Duration::from_secs(cli.seconds), cli.tls)).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
