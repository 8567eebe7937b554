//! `make demo`: the whole path on real processes, every user checked against a plain fold of the input file.
//!
//! Nine tenths of the events are loaded, the batch layer runs, the rest arrives live with late and duplicate rows among it.
//! Then every user is asked for, everything is sent once more, and every user is asked for again. The exit code is 0 only
//! if every check held. All that is started is stopped on every way out, and the data folder is a temporary one.
#![allow(clippy::print_stdout, clippy::print_stderr)]

/// Questions to the serving layer.
mod ask;
/// What must hold, and whether it did.
mod checks;
/// The default events: TPC-H orders.
mod orders;
/// What is printed at the end.
mod report;
/// The scenario.
mod scenario;
/// Which row is sent when.
mod split;
/// Steps with their time and their patience.
mod step;

use std::path::PathBuf;

use clap::Parser;
use integration_tests::processes::interrupted;

/// Shows a Lambda system answer correctly, from events to merged statistics.
#[derive(Parser)]
struct Options {
    /// An event file: .jsonl or .csv, plain, .gz or .zst, or .parquet. Without it, TPC-H orders are made.
    #[arg(long)]
    events: Option<PathBuf>,
    /// TPC-H scale factor of the orders: 0.01 makes 15,000.
    #[arg(long, default_value_t = 0.01)]
    scale: f64,
}

#[tokio::main]
async fn main() {
    let options = Options::parse();
    let code = tokio::select! {
        outcome = scenario::play(options.events, options.scale) => match outcome {
            Ok(true) => 0,
            Ok(false) => 1,
            Err(error) => {
                eprintln!("\nerror: {error:#}");
                1
            }
        },
        stopped = interrupted() => {
            eprintln!("\nstopped{}", stopped.map_or_else(|error| format!(": {error}"), |()| String::new()));
            1
        }
    };
    // By now the scenario is dropped, and with it every process and the folder. A fold may still be reading: exit at once.
    std::process::exit(code)
}
