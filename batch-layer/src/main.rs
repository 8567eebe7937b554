//! The command line of the batch layer.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command's answer goes to stdout, its complaint to stderr")]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod logs;
mod runs;
mod upkeep;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use batch_layer::import::{Bar, ImportError, ImportOptions, Mapping, import, table};
use batch_layer::progress::Terminal;
use batch_layer::schedule::{self, Due, Timetable};
use batch_layer::{Depth, RunError, RunOptions, Verified, versions};
use chrono_tz::Tz;
use clap::{Parser, Subcommand};
use croner::Cron;
use merganser_proto::traces::Traces;
use storage::config::{ByteSize, Config, LOG_FORMAT_VARIABLE, Period};
use storage::imports;
use storage::input::Format;
use storage::machine::{Machine, RealMachine};
use storage::paths::{Id, ViewName};
use storage::store::{Store, StoreError};
use views::calendar::Zone;

use crate::logs::LogFormat;
use crate::runs::{RunFlags, Runs};
use crate::upkeep::{Upkeep, UpkeepFlags};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CONFIGURATION: u8 = 2;
/// Stopped by a signal, as shells count it.
const INTERRUPTED: u8 = 130;

/// Recomputes batch views from the master dataset and publishes them.
#[derive(Parser)]
#[command(
    version,
    after_help = "Exit codes of run: 0 published, 99 nothing to do, 1 refused or failed, 2 configuration, 3 another run is at work or was first, 4 a dependency is down, try again."
)]
struct Cli {
    /// Settings; without it merganser.toml if there is one, or the built-in defaults
    #[arg(long, global = true)]
    config: Option<PathBuf>,
    /// The view; without it run recomputes every view that is declared, and the others mean user_stats
    #[arg(long, global = true)]
    view: Option<ViewName>,
    /// How logs are written
    #[arg(long, global = true, value_enum, env = LOG_FORMAT_VARIABLE, default_value = "text")]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Recompute the views once and publish them
    Run {
        #[command(flatten)]
        flags: RunFlags,
        /// Build upon the version before instead of recomputing from all events, where that can be: the same digest, for less work
        #[arg(long)]
        incremental: bool,
        /// Publish a new version though nothing has changed, say because the files of the last one are damaged
        #[arg(long)]
        force: bool,
        /// Publish what the run of that id would have published, in spite of the difference that its audit found: a person has judged that the new view is right. Of floats only that they differ is compared
        #[arg(long, value_name = "RUN_ID", conflicts_with_all = ["incremental", "force"])]
        accept_difference: Option<Id>,
    },
    /// Run whenever a run is due, until stopped: a missed one is caught up with, and none overlaps another
    #[command(group = clap::ArgGroup::new("when").required(true).multiple(true).args(["cron", "every", "on_new_data"]))]
    Schedule {
        #[command(flatten)]
        flags: RunFlags,
        /// Recompute from all events at these times: minute, hour, day, month, weekday, such as "0 2 * * *"
        #[arg(long, value_name = "EXPRESSION", value_parser = |text: &str| schedule::cron(text).map(Box::new))]
        cron: Option<Box<Cron>>,
        /// The place whose clock the expression means, such as Europe/Berlin
        #[arg(long, value_name = "ZONE", default_value = "UTC", requires = "cron", value_parser = |name: &str| Zone::parse(name).map(Zone::tz))]
        zone: Tz,
        /// Build upon the version before when there was no run for so long, such as 15m
        #[arg(long, value_name = "TIME", value_parser = |text: &str| Period::try_from(text.to_owned()))]
        every: Option<Period>,
        /// Build upon the version before when so much archived data is covered by no version, such as 256MiB
        #[arg(long, value_name = "SIZE", value_parser = |text: &str| ByteSize::try_from(text.to_owned()))]
        on_new_data: Option<ByteSize>,
        #[command(flatten)]
        upkeep: UpkeepFlags,
    },
    /// List the published versions, newest first
    Versions,
    /// Stop answering a view whose file is removed; what was published stays in the store
    Withdraw {
        /// The view
        name: ViewName,
    },
    /// Compare every byte of a version's files with its manifest, and, if asked, its values with the raw events
    Verify {
        /// Number of the version; the newest if absent
        version: Option<i64>,
        /// Fold the raw events again and compare every value
        #[arg(long)]
        recompute: bool,
        /// Compare only keys whose first column is this, say one user
        #[arg(long, requires = "recompute", value_name = "TEXT")]
        key: Option<String>,
        /// Compare what is answered about the key now: the newest version and what the speed layer folded since, each and together
        #[arg(long, requires = "key", conflicts_with = "version")]
        live: bool,
        /// Address of the speed layer, such as http://127.0.0.1:7401
        #[arg(long, value_name = "URL", requires = "live")]
        speed_layer: Option<String>,
    },
    /// Bring history into the master dataset: files of events, or of any columns with a SELECT that makes events of them
    Import {
        /// .jsonl, .json or .csv (each also .gz or .zst) or .parquet: paths, or file:// URLs
        #[arg(value_name = "FILE_OR_URL", required = true)]
        inputs: Vec<String>,
        /// What makes events of the columns of the table input: event_id, user_id, event_time, and as you like event_type, amount and attributes
        #[arg(long, value_name = "SQL", conflicts_with = "select_file")]
        select: Option<String>,
        /// The same, in a file
        #[arg(long, value_name = "FILE")]
        select_file: Option<PathBuf>,
        /// Format of all files, whatever their endings say
        #[arg(long)]
        format: Option<InputFormat>,
        /// Files imported at a time
        #[arg(long, value_name = "N")]
        threads: Option<NonZeroUsize>,
    },
    /// List the imports
    Imports,
    /// Publish an older version's content again, under the next number
    Rollback {
        /// Number of the older version
        version: i64,
        /// Do not ask the speed layer whether it can answer from there
        #[arg(long, conflicts_with = "speed_layer")]
        no_speed_layer: bool,
        /// Address of the speed layer, such as http://127.0.0.1:7401
        #[arg(long, value_name = "URL")]
        speed_layer: Option<String>,
    },
    /// Remove versions, reports and refused rows past their keep-for, and files that others took the place of; of all views unless --view names one
    Expire {
        /// Only say which versions would go
        #[arg(long)]
        dry_run: bool,
    },
    /// Merge old segments into large files, remove erased rows from them, and move what is old to the cold store
    Compact,
    /// Erase a user: nothing of what they did so far counts any more, imports and later imports included
    Erase {
        /// The user's id
        user: String,
        /// Address of the speed layer, such as http://127.0.0.1:7401
        #[arg(long, value_name = "URL")]
        speed_layer: Option<String>,
    },
    /// List who was erased, and which versions have carried it out
    Erasures,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum InputFormat {
    Csv,
    Jsonl,
    Parquet,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let (config, store, traces) = match open(&cli) {
        Ok(opened) => opened,
        Err(error) => {
            eprintln!("batch-layer: {error:#}");
            return ExitCode::from(CONFIGURATION);
        }
    };
    logs::start(cli.log_format, traces.as_ref());
    let code = run(cli, &config, &store).await;
    if let Some(traces) = traces {
        traces.end().await;
    }
    code
}

async fn run(cli: Cli, config: &Config, store: &Store) -> ExitCode {
    let (at_work, is_schedule) = (AtomicBool::new(false), matches!(cli.command, Command::Schedule { .. }));
    let left = match cli.command {
        Command::Erase { .. } => "the user may be erased or not; erasing again is harmless",
        Command::Import { .. } => "what was committed stays; the same command goes on with the rest, each file from its beginning",
        Command::Expire { .. } | Command::Compact => "what was done stays, nothing that counts is half done; the same command goes on",
        Command::Schedule { .. } => "no version is half published, and nothing that counts is half done; the same command goes on",
        _ => "nothing was published, and what was written is not part of any version",
    };
    let outcome = tokio::select! {
        outcome = Box::pin(execute(cli, config, store, &at_work)) => outcome,
        () = stop_signal() => {
            if is_schedule && !at_work.load(Ordering::Relaxed) {
                eprintln!("batch-layer: stopped between two runs");
                return ExitCode::SUCCESS;
            }
            eprintln!("batch-layer: interrupted; {left}");
            return ExitCode::from(INTERRUPTED);
        }
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let code = error.downcast_ref::<RunError>().map_or(1, RunError::exit_code);
            eprintln!("batch-layer: {error:#}");
            ExitCode::from(code)
        }
    }
}

/// Ctrl-C, or the signal of a service manager.
async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        },
        Err(_) => drop(tokio::signal::ctrl_c().await),
    }
}

fn open(cli: &Cli) -> anyhow::Result<(Config, Store, Option<Traces>)> {
    let config = Config::load(cli.config.as_deref(), std::env::vars())?;
    let store = config.store.open().context("[store]")?;
    let telemetry = &config.telemetry;
    let traces = Traces::start(&telemetry.otlp_endpoint, telemetry.sample_ratio, "batch-layer").context("[telemetry]")?;
    Ok((config, store, traces))
}

/// Does what was asked; the answer is the exit code.
async fn execute(cli: Cli, config: &Config, store: &Store, at_work: &AtomicBool) -> anyhow::Result<u8> {
    let one = cli.view.clone().unwrap_or_else(ViewName::user_stats);
    match cli.command {
        Command::Run { flags, incremental, force, accept_difference } => {
            let due = if incremental { Due::Incremental } else { Due::Full };
            let runs = Runs { config, store, flags, view: cli.view, at_work };
            return match accept_difference {
                Some(run_id) => runs.accepting(run_id).await,
                None => runs.once(due, force).await,
            };
        }
        Command::Schedule { flags, cron, zone, every, on_new_data, upkeep } => {
            let cron = cron.map(|cron| (*cron, zone));
            let timetable = Timetable { cron, every: every.map(|every| every.0), new_bytes: on_new_data.map(|size| size.0) };
            return Runs { config, store, flags, view: cli.view, at_work }.on_schedule(&timetable, Upkeep::new(upkeep)).await;
        }
        Command::Versions => {
            println!("{}", versions::table(&versions::list(store, &one).await?, RealMachine.now().into()));
            if let Some(expired) = versions::expired(store, &one).await? {
                println!("{expired}");
            }
        }
        Command::Withdraw { name } => {
            let published = batch_layer::withdraw(&RunOptions::from_config(config, name), store).await?;
            println!("withdrew {} with v{}", published.view, published.version);
        }
        Command::Verify { key: Some(key), live: true, speed_layer, .. } => {
            let mut options = RunOptions::from_config(config, one);
            options.speed_layer = speed_layer.or(options.speed_layer);
            match batch_layer::recount(&options, store, &key, Arc::new(Terminal::default())).await? {
                Some(recount) => {
                    println!("{recount}");
                    recount.verdict()?;
                }
                None => println!("no version yet"),
            }
        }
        Command::Verify { version, recompute, key, .. } => {
            let depth = if recompute { Depth::Recompute { first: key } } else { Depth::Files };
            let options = RunOptions::from_config(config, one);
            match batch_layer::verify(&options, store, version, depth, Arc::new(Terminal::default())).await? {
                Some(Verified { manifest, keys_compared }) => {
                    let (files, rows) = (manifest.files.len(), manifest.row_count);
                    let compared =
                        if recompute { format!(", {keys_compared} keys equal to a fold of the raw events") } else { String::new() };
                    println!("v{} is sound: {files} files, {rows} rows{compared}", manifest.version);
                }
                None => println!("no version yet"),
            }
        }
        Command::Import { inputs, select, select_file, format, threads } => {
            let text = match (select, select_file) {
                (None, Some(file)) => match std::fs::read_to_string(&file) {
                    Ok(text) => Some(text),
                    Err(e) => return Ok(complain(CONFIGURATION, &anyhow::Error::new(e).context(file.display().to_string()))),
                },
                (select, _) => select,
            };
            let mapping = match text.map(|text| Mapping::parse(&text)).transpose() {
                Ok(mapping) => mapping,
                Err(e) => return Ok(complain(CONFIGURATION, &e.into())),
            };
            let mut options = ImportOptions { mapping, ..ImportOptions::from_config(config, inputs) };
            options.format = format.map(|format| match format {
                InputFormat::Csv => Format::Csv,
                InputFormat::Jsonl => Format::JsonLines,
                InputFormat::Parquet => Format::Parquet,
            });
            options.threads = threads.unwrap_or(options.threads);
            let summary = match Box::pin(import(&options, store, Arc::new(Bar::new(true)))).await {
                Err(ImportError::Store(e)) if !matches!(e, StoreError::Partitions { .. }) => return Err(e.into()),
                Err(e) => return Ok(complain(e.exit_code(), &e.into())),
                Ok(summary) => summary,
            };
            println!("{summary}");
            let code = summary.exit_code();
            for (input, failed) in summary.files.into_iter().filter_map(|(input, file)| Some((input, file.err()?))) {
                complain(code, &anyhow::Error::new(failed).context(input));
            }
            return Ok(code);
        }
        Command::Imports => println!("{}", table(&imports::list(store).await?)),
        Command::Rollback { version, no_speed_layer, speed_layer } => {
            let mut options = RunOptions::from_config(config, one);
            options.speed_layer = if no_speed_layer { None } else { speed_layer.or(options.speed_layer) };
            let published = batch_layer::rollback(&options, store, version).await?;
            println!("published {} v{} with the content of v{version}", published.view, published.version);
        }
        Command::Expire { dry_run } => upkeep::expire(config, store, cli.view, dry_run).await?,
        Command::Compact => upkeep::compact(config, store).await?,
        Command::Erase { user, speed_layer } => {
            let Some(url) = speed_layer.or(RunOptions::from_config(config, one).speed_layer) else {
                return Ok(complain(
                    CONFIGURATION,
                    &anyhow::anyhow!("an erasure goes through the speed layer; name one with --speed-layer"),
                ));
            };
            println!("{}", batch_layer::erase::erase(store, &url, &user).await?);
        }
        Command::Erasures => println!("{}", batch_layer::erase::table(&batch_layer::erase::erasures(store).await?)),
    }
    Ok(0)
}

/// Says what went wrong; the answer is the exit code.
fn complain(code: u8, error: &anyhow::Error) -> u8 {
    eprintln!("batch-layer: {error:#}");
    code
}
