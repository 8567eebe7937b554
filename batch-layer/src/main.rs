//! The command line of the batch layer.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod acts;
mod documents;
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
use batch_layer::versions::NO_VERSION;
use batch_layer::{Depth, RunError, RunOptions, Verified, versions};
use chrono_tz::Tz;
use clap::{Parser, Subcommand};
use cli::about::About;
use cli::doctor::{self, Program};
use cli::exit::{self, BUSY, CONFIGURATION, DONE, FAILED, INTERRUPTED, Meaning, NOTHING_TO_DO, TRY_AGAIN};
use cli::logs::{self, LogFormat};
use cli::print::{STYLES, complain, note};
use cli::{Output, Printed};
use croner::Cron;
use merganser_proto::traces::Traces;
use storage::config::{ByteSize, Config, LOG_FORMAT_VARIABLE, Period};
use storage::imports;
use storage::input::Format;
use storage::machine::{Machine, RealMachine};
use storage::paths::{Id, ViewName};
use storage::store::{Store, StoreError};
use views::calendar::Zone;

use crate::acts::Acts;
use crate::runs::{RunFlags, Runs};
use crate::upkeep::{Upkeep, UpkeepFlags};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const NAME: &str = Program::BatchLayer.name();

/// How it ends.
const EXIT_CODES: [Meaning; 7] = [
    (DONE, "done: run has published"),
    (FAILED, "refused or failed: an audit or a gate refused, a version is damaged; doctor: something is amiss"),
    (CONFIGURATION, "the settings, a definition or the call itself"),
    (BUSY, "another run is at work, or was first"),
    (TRY_AGAIN, "the speed layer or the store cannot be reached, try again"),
    (NOTHING_TO_DO, "run had nothing to do"),
    (INTERRUPTED, "stopped by Ctrl-C in the middle of its work"),
];

/// Recomputes batch views from the master dataset and publishes them
#[derive(Parser)]
#[command(name = NAME, version, styles = STYLES, after_help = exit::help(&EXIT_CODES))]
struct Cli {
    /// Settings; without it merganser.toml if there is one, or the built-in defaults
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The view; without it run recomputes every view that is declared, and the others mean user_stats
    #[arg(long, global = true)]
    view: Option<ViewName>,
    /// How logs are written
    #[arg(long, global = true, value_name = "FORMAT", value_enum, env = LOG_FORMAT_VARIABLE, default_value = "text")]
    log_format: LogFormat,
    /// How to print the answer
    #[arg(long, global = true, value_enum, default_value_t)]
    output: Output,
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
    /// Look at settings, disk, clock, ports and store before they hurt; exits 0 if nothing keeps a run from its work
    Doctor,
    #[command(flatten)]
    About(About),
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
    match &cli.command {
        Command::About(about) => return exit::end(NAME, about.run::<Cli>().map(|()| DONE), |_| FAILED),
        Command::Doctor => {
            let examined = doctor::run(Program::BatchLayer, cli.config.as_deref(), Printed { output: cli.output }).await;
            return exit::end(NAME, examined, |_| FAILED);
        }
        _ => {}
    }
    let (config, store, acts, traces) = match open(&cli) {
        Ok(opened) => opened,
        Err(error) => return exit::end(NAME, Err(error), |_| CONFIGURATION),
    };
    logs::start(cli.log_format, traces.as_ref());
    let code = run(cli, &config, &store, &acts).await;
    if let Some(traces) = traces {
        traces.end().await;
    }
    code
}

async fn run(cli: Cli, config: &Config, store: &Store, acts: &Acts) -> ExitCode {
    let (at_work, is_schedule) = (AtomicBool::new(false), matches!(cli.command, Command::Schedule { .. }));
    let left = match cli.command {
        Command::Erase { .. } => "the user may be erased or not; erasing again is harmless",
        Command::Import { .. } => "what was committed stays; the same command goes on with the rest, each file from its beginning",
        Command::Expire { .. } | Command::Compact => "what was done stays, nothing that counts is half done; the same command goes on",
        Command::Schedule { .. } => "no version is half published, and nothing that counts is half done; the same command goes on",
        _ => "nothing was published, and what was written is not part of any version",
    };
    let begun = match acts::of(&cli.command, cli.view.as_ref()) {
        Some(act) => Some(acts.begin(act).await),
        None => None,
    };
    let outcome = tokio::select! {
        outcome = Box::pin(execute(cli, config, store, acts, &at_work)) => outcome,
        () = stop_signal() => {
            if let Some(begun) = begun {
                begun.interrupted().await;
            }
            if is_schedule && !at_work.load(Ordering::Relaxed) {
                note(NAME, "stopped between two runs");
                return ExitCode::SUCCESS;
            }
            note(NAME, format_args!("interrupted; {left}"));
            return ExitCode::from(INTERRUPTED);
        }
    };
    if let Some(begun) = begun {
        begun.ended(&outcome).await;
    }
    let code = outcome.as_ref().err().and_then(|error| error.downcast_ref::<RunError>()).map_or(FAILED, RunError::exit_code);
    exit::end(NAME, outcome.map_err(plain), |_| code)
}

/// The same error without a shell around it, so that what is inside can be recognised.
fn plain(error: anyhow::Error) -> anyhow::Error {
    match error.downcast() {
        Ok(RunError::Store(inside)) => inside.into(),
        Ok(other) => other.into(),
        Err(error) => error,
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

fn open(cli: &Cli) -> anyhow::Result<(Config, Store, Acts, Option<Traces>)> {
    let config = Config::load(cli.config.as_deref(), std::env::vars())?;
    cli::tls::calls(&config.tls)?;
    let store = config.store.open().context("[store]")?;
    let acts = Acts::open(&config)?;
    let telemetry = &config.telemetry;
    let traces = Traces::start(&telemetry.otlp_endpoint, telemetry.sample_ratio, "batch-layer").context("[telemetry]")?;
    Ok((config, store, acts, traces))
}

/// Does what was asked; the answer is the exit code.
async fn execute(cli: Cli, config: &Config, store: &Store, acts: &Acts, at_work: &AtomicBool) -> anyhow::Result<u8> {
    let one = cli.view.clone().unwrap_or_else(ViewName::user_stats);
    let (output, printed) = (cli.output, Printed { output: cli.output });
    if cli.view.is_some()
        && matches!(cli.command, Command::Versions | Command::Verify { .. } | Command::Rollback { .. } | Command::Expire { .. })
    {
        versions::check_known(store, &config.views.dir, &one).await?;
    }
    match cli.command {
        Command::Run { flags, incremental, force, accept_difference } => {
            let due = if incremental { Due::Incremental } else { Due::Full };
            let runs = Runs { config, store, flags, view: cli.view, output, at_work };
            return match accept_difference {
                Some(run_id) => runs.accepting(run_id).await,
                None => runs.once(due, force).await,
            };
        }
        Command::Schedule { flags, cron, zone, every, on_new_data, upkeep } => {
            let cron = cron.map(|cron| (*cron, zone));
            let timetable = Timetable { cron, every: every.map(|every| every.0), new_bytes: on_new_data.map(|size| size.0) };
            return Runs { config, store, flags, view: cli.view, output, at_work }
                .on_schedule(&timetable, Upkeep::new(upkeep, acts.clone(), output))
                .await;
        }
        Command::Versions => {
            let (listed, expired) = (versions::list(store, &one).await?, versions::expired(store, &one).await?);
            let mut text = versions::table(&listed, RealMachine.now().into());
            if !expired.is_empty() {
                text += &format!("\nexpired: {}", expired.iter().map(|version| format!("v{version}")).collect::<Vec<_>>().join(" "));
            }
            printed.answer(text, &documents::of_versions(&one, &listed, &expired))?;
        }
        Command::Withdraw { name } => {
            let published = batch_layer::withdraw(&RunOptions::from_config(config, name), store).await?;
            let text = format!("withdrew {} with v{}", published.view, published.version);
            printed.answer(text, &documents::of_published(&published, None))?;
        }
        Command::Verify { key: Some(key), live: true, speed_layer, .. } => {
            let mut options = RunOptions::from_config(config, one.clone());
            options.speed_layer = speed_layer.or(options.speed_layer);
            let recount = batch_layer::recount(&options, store, &key, Arc::new(Terminal::default())).await?;
            let text = recount.as_ref().map_or_else(|| NO_VERSION.to_owned(), ToString::to_string);
            printed.answer(text, &documents::of_recount(&one, recount.as_ref()))?;
            recount.map_or(Ok(()), |recount| recount.verdict())?;
        }
        Command::Verify { version, recompute, key, .. } => {
            let depth = if recompute { Depth::Recompute { first: key } } else { Depth::Files };
            let options = RunOptions::from_config(config, one.clone());
            let verified = batch_layer::verify(&options, store, version, depth, Arc::new(Terminal::default())).await?;
            let text = verified.as_ref().map_or_else(|| NO_VERSION.to_owned(), |verified| soundness(verified, recompute));
            printed.answer(text, &documents::of_verified(&one, verified.as_ref(), recompute))?;
        }
        Command::Import { inputs, select, select_file, format, threads } => {
            let text = match (select, select_file) {
                (None, Some(file)) => match std::fs::read_to_string(&file) {
                    Ok(text) => Some(text),
                    Err(e) => return Ok(refused(CONFIGURATION, &anyhow::Error::new(e).context(file.display().to_string()))),
                },
                (select, _) => select,
            };
            let mapping = match text.map(|text| Mapping::parse(&text)).transpose() {
                Ok(mapping) => mapping,
                Err(e) => return Ok(refused(CONFIGURATION, &e.into())),
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
                Err(e) => return Ok(refused(e.exit_code(), &e.into())),
                Ok(summary) => summary,
            };
            printed.answer(&summary, &documents::of_import(&summary))?;
            let code = summary.exit_code();
            for (input, failed) in summary.files.into_iter().filter_map(|(input, file)| Some((input, file.err()?))) {
                complain(NAME, &anyhow::Error::new(failed).context(input));
            }
            return Ok(code);
        }
        Command::Imports => {
            let imports = imports::list(store).await?;
            printed.answer(table(&imports), &documents::of_imports(&imports))?;
        }
        Command::Rollback { version, no_speed_layer, speed_layer } => {
            let mut options = RunOptions::from_config(config, one);
            options.speed_layer = if no_speed_layer { None } else { speed_layer.or(options.speed_layer) };
            let published = batch_layer::rollback(&options, store, version).await?;
            let text = format!("published {} v{} with the content of v{version}", published.view, published.version);
            printed.answer(text, &documents::of_published(&published, Some(version)))?;
        }
        Command::Expire { dry_run } => upkeep::expire(config, store, cli.view, dry_run, printed).await?,
        Command::Compact => upkeep::compact(config, store, printed).await?,
        Command::Erase { user, speed_layer } => {
            let Some(url) = speed_layer.or(RunOptions::from_config(config, one).speed_layer) else {
                return Ok(refused(
                    CONFIGURATION,
                    &anyhow::anyhow!("an erasure goes through the speed layer; name one with --speed-layer"),
                ));
            };
            let erased = batch_layer::erase::erase(store, &url, &config.tls, &config.client, &user).await?;
            printed.answer(&erased, &documents::of_erased(&erased))?;
        }
        Command::Erasures => {
            let erasures = batch_layer::erase::erasures(store).await?;
            printed.answer(batch_layer::erase::table(&erasures), &documents::of_erasures(&erasures))?;
        }
        // They need no settings, and were done before these were read.
        Command::Doctor | Command::About(_) => {}
    }
    Ok(DONE)
}

/// What a sound version is told as.
fn soundness(Verified { manifest, keys_compared }: &Verified, recompute: bool) -> String {
    let (files, rows) = (manifest.files.len(), manifest.row_count);
    let compared = if recompute { format!(", {keys_compared} keys equal to a fold of the raw events") } else { String::new() };
    format!("v{} is sound: {files} files, {rows} rows{compared}", manifest.version)
}

/// Says what went wrong; the answer is the exit code.
fn refused(code: u8, error: &anyhow::Error) -> u8 {
    complain(NAME, error);
    code
}
