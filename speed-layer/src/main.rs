//! `speed-layer`: serve, load, dead-letter, token, and what every program has.
#![cfg_attr(test, allow(clippy::unwrap_used))]

/// Tokens for clients.
mod token;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use cli::about::About;
use cli::doctor::{self, Program};
use cli::exit::{self, CONFIGURATION, DONE, FAILED, INTERRUPTED, Meaning, TRY_AGAIN};
use cli::print::{STYLES, note, say};
use cli::{Output, Printed};
use merganser_proto::audit::Act;
use merganser_proto::client::plaintext_warning;
use merganser_proto::server::{Doors, DoorsError};
use merganser_proto::tls::TlsError;
use merganser_proto::traces::Traces;
use speed_layer::SpeedError;
use speed_layer::dead_letter::{self, DeadLetterError, Place, ReplayOptions, ReplaySummary, Selection};
use speed_layer::load::{self, LoadError, LoadOptions};
use storage::config::{Config, LOG_FORMAT_VARIABLE, Period};
use storage::machine::{Machine, RealMachine, operator};
use storage::store::Store;
use tokio_util::sync::CancellationToken;
use tracing::info;

use cli::logs::{self, LogFormat};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const NAME: &str = Program::SpeedLayer.name();

/// Takes events in durably and keeps their recent aggregates
#[derive(Parser)]
#[command(name = NAME, version, styles = STYLES, after_help = exit::help(&EXIT_CODES))]
struct Cli {
    /// Settings; merganser.toml if it is there, otherwise built-in defaults
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How logs are written
    #[arg(long, global = true, value_name = "FORMAT", value_enum, env = LOG_FORMAT_VARIABLE, default_value = "text")]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server until Ctrl-C.
    Serve(Serve),
    /// Send event files (JSON Lines, CSV, Parquet; .gz and .zst too) to a running server. Safe to repeat.
    Load(Load),
    /// Look at refused rows, or send them again.
    #[command(subcommand)]
    DeadLetter(DeadLetter),
    /// Make a token for a client of a server that asks who calls.
    #[command(subcommand)]
    Token(token::Token),
    /// Look at settings, disk, clock, ports and store before they hurt; exits 0 if nothing keeps the server from its work.
    Doctor(Printed),
    #[command(flatten)]
    About(About),
}

/// How it ends.
const EXIT_CODES: [Meaning; 5] = exit::MEANINGS;

#[derive(Args)]
struct Serve {
    /// gRPC address; port 0 takes a free one and prints it.
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Address of /metrics, /healthz and /readyz; "" for none.
    #[arg(long, value_name = "HOST:PORT")]
    http: Option<String>,
    /// Object store: a folder or file:///….
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Folder of the log and the dead letters.
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// Let plaintext leave this machine: without it, addresses off loopback need TLS.
    #[arg(long)]
    insecure: bool,
}

#[derive(Args)]
struct Load {
    /// Event files, loaded one after the other.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The server, such as http://127.0.0.1:7401; what the settings say if absent.
    #[arg(long, value_name = "URL")]
    address: Option<String>,
    /// Rows of one request.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..))]
    batch_rows: u16,
    /// Requests under way at once.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=128))]
    in_flight: u16,
    /// Where the progress of each file is kept; `load` in the folder of the log if absent.
    #[arg(long, value_name = "FOLDER")]
    state_dir: Option<PathBuf>,
    /// Send from the first row, whatever was loaded before.
    #[arg(long)]
    again: bool,
    #[command(flatten)]
    printed: Printed,
}

#[derive(Subcommand)]
enum DeadLetter {
    /// Count refused rows by field and reason; the outstanding ones, unless told otherwise.
    List(List),
    /// Print one refused row in full, as JSON.
    Show {
        /// Its id, or the beginning of it.
        id: String,
        #[command(flatten)]
        letters: Letters,
    },
    /// Send outstanding refused rows to the running server again, say after the schema was mended. Safe to repeat and to stop.
    Replay(Replay),
    /// Take settled rows, and those of erased users, out of the file of refused rows. The server must be stopped.
    Prune {
        #[command(flatten)]
        letters: Letters,
        /// Outstanding rows too that were refused longer ago than this, such as 90d: they cannot be sent again then.
        #[arg(long, value_name = "TIME", value_parser = |text: &str| Period::try_from(text.to_owned()))]
        older_than: Option<Period>,
        #[command(flatten)]
        printed: Printed,
    },
}

#[derive(Args)]
struct List {
    #[command(flatten)]
    letters: Letters,
    #[command(flatten)]
    filter: Filter,
    /// A line for each row: id, time, where it was refused, field, reason.
    #[arg(long)]
    rows: bool,
    /// Settled rows too: those whose event is in the log by now, or for which another refused row speaks.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    printed: Printed,
}

#[derive(Args)]
struct Replay {
    /// Ids of the rows, or beginnings of ids; all outstanding ones if absent.
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    letters: Letters,
    /// The server, such as http://127.0.0.1:7401; what the settings say if absent.
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Rows of one request.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..))]
    batch_rows: u16,
    #[command(flatten)]
    printed: Printed,
}

#[derive(Args)]
struct Filter {
    /// Only rows with this field at fault.
    #[arg(long, value_name = "NAME")]
    field: Option<String>,
    /// Only rows whose reason contains this text.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

#[derive(Args)]
struct Letters {
    /// Folder of the log and the dead letters.
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// Object store with the refused rows of imports: a folder or file:///….
    #[arg(long, value_name = "URL")]
    store: Option<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::About(about) => about.run::<Cli>().map(|()| DONE),
        Command::Doctor(printed) => doctor::run(Program::SpeedLayer, cli.config.as_deref(), printed).await,
        command => match Config::load(cli.config.as_deref(), std::env::vars()) {
            Err(error) => return exit::end(NAME, Err(error.into()), |_| CONFIGURATION),
            Ok(config) => Box::pin(execute(command, config, cli.log_format)).await.map(|()| DONE),
        },
    };
    exit::end(NAME, outcome, code_of)
}

/// Whether the settings are to blame.
fn is_configuration(error: &anyhow::Error) -> bool {
    error.is::<TlsError>()
        || matches!(error.downcast_ref(), Some(DoorsError::Plaintext { .. } | DoorsError::Everybody { .. }))
        || matches!(error.downcast_ref(), Some(SpeedError::Auth(_)))
        || matches!(error.downcast_ref(), Some(LoadError::Token(_) | LoadError::Tls(_) | LoadError::NotTrusted { .. }))
}

fn warn_of_plaintext(address: &str, config: &Config) -> anyhow::Result<()> {
    if let Some(warning) = plaintext_warning(address, &cli::tls::calls(&config.tls)?) {
        note(NAME, warning);
    }
    Ok(())
}

async fn execute(command: Command, config: Config, log_format: LogFormat) -> anyhow::Result<()> {
    match command {
        Command::Serve(serve) => run_server(config, serve, log_format).await,
        Command::Load(load) => run_load(&config, load).await,
        Command::DeadLetter(command) => dead_letters(&config, command).await,
        Command::Token(command) => command.run(&mut std::io::stdout()),
        // They need no settings, and were done before these were read.
        Command::Doctor(_) | Command::About(_) => Ok(()),
    }
}

/// The exit code of a failure.
fn code_of(error: &anyhow::Error) -> u8 {
    let load = error.chain().find_map(|cause| cause.downcast_ref::<LoadError>());
    match load {
        Some(LoadError::Address { .. }) => CONFIGURATION,
        Some(LoadError::Unreachable { .. }) => TRY_AGAIN,
        Some(LoadError::Interrupted) => INTERRUPTED,
        _ if matches!(error.downcast_ref(), Some(DeadLetterError::NoLog { .. } | DeadLetterError::UnknownId { .. })) => CONFIGURATION,
        _ if is_configuration(error) => CONFIGURATION,
        _ => FAILED,
    }
}

#[allow(clippy::print_stdout, reason = "scripts read the address")]
async fn run_server(mut config: Config, flags: Serve, log_format: LogFormat) -> anyhow::Result<()> {
    let traces = Traces::start(&config.telemetry.otlp_endpoint, config.telemetry.sample_ratio, "speed-layer").context("[telemetry]")?;
    logs::start(log_format, traces.as_ref());
    config.speed_layer.grpc_address = flags.listen.unwrap_or(config.speed_layer.grpc_address);
    config.speed_layer.http_address = flags.http.unwrap_or(config.speed_layer.http_address);
    config.store.url = flags.store.unwrap_or(config.store.url);
    config.log.dir = flags.data.unwrap_or(config.log.dir);
    config.tls.insecure |= flags.insecure;
    let (log, events, tls) = (&config.log, &config.events, &config.tls);
    info!(store = config.store.url, ?log, settings = ?config.speed_layer, ?tls, attributes = ?events.attributes, "starting");

    let speaks = cli::tls::server(tls)?;
    let store = config.store.open()?;
    let doors = Doors::open(
        &config.speed_layer.grpc_address,
        &config.speed_layer.http_address,
        speaks,
        cli::auth::asks_everybody(&config),
        tls.insecure,
    )
    .await?;
    let url = doors.url()?;
    if let Some(http) = &doors.http {
        info!(address = %http.local_addr()?, "telling metrics and health");
    }
    let shutdown = CancellationToken::new();
    tokio::spawn(cancel_on_signal(shutdown.clone()));
    // Scripts that wait for this line find a server that has caught up.
    let ready = || println!("speed-layer listening on {url}");
    speed_layer::run_then(config, store, doors, shutdown, ready).await?;
    if let Some(traces) = traces {
        traces.end().await;
    }
    info!("stopped");
    Ok(())
}

async fn cancel_on_signal(shutdown: CancellationToken) {
    stop_signal().await;
    shutdown.cancel();
}

/// Ctrl-C, or the signal of a service manager.
async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        }
        Err(_) => drop(tokio::signal::ctrl_c().await),
    }
}

async fn run_load(config: &Config, flags: Load) -> anyhow::Result<()> {
    let options = LoadOptions {
        address: flags.address.unwrap_or_else(|| config.tls.url_of(&config.speed_layer.grpc_address)),
        tls: config.tls.clone(),
        client: config.client.clone(),
        files: flags.files,
        batch_rows: flags.batch_rows.into(),
        in_flight: flags.in_flight.into(),
        state_dir: flags.state_dir.unwrap_or_else(|| config.log.dir.join("load")),
        progress: true,
        again: flags.again,
    };
    warn_of_plaintext(&options.address, config)?;
    let summary = load::run(options, stop_signal()).await?;
    flags.printed.answer(&summary, &summary.document())
}

async fn dead_letters(config: &Config, command: DeadLetter) -> anyhow::Result<()> {
    match command {
        DeadLetter::List(flags) => list(config, flags).await,
        DeadLetter::Show { id, letters } => Ok(say(dead_letter::show(&letters.place(config)?, &id).await?)?),
        DeadLetter::Replay(flags) => replay(config, flags).await,
        DeadLetter::Prune { letters, older_than, printed } => prune(config, &letters.place(config)?, older_than, printed).await,
    }
}

impl Letters {
    fn data_dir(&self, config: &Config) -> PathBuf {
        self.data.clone().unwrap_or_else(|| config.log.dir.clone())
    }

    fn place(&self, config: &Config) -> anyhow::Result<Place> {
        let store = Store::open(self.store.as_ref().unwrap_or(&config.store.url))?;
        Ok(Place { data_dir: self.data_dir(config), store })
    }
}

impl Filter {
    fn of(self, ids: Vec<String>) -> Selection {
        Selection { ids, field: self.field, reason: self.reason }
    }
}

async fn list(config: &Config, flags: List) -> anyhow::Result<()> {
    let (place, selection) = (flags.letters.place(config)?, flags.filter.of(Vec::new()));
    if flags.rows {
        let json = flags.printed.output == Output::Json;
        return Ok(dead_letter::rows(&place, &selection, flags.all, json, &mut std::io::stdout()).await?);
    }
    let listing = dead_letter::list(&place, &selection, flags.all).await?;
    flags.printed.answer(&listing, &listing)
}

async fn replay(config: &Config, flags: Replay) -> anyhow::Result<()> {
    let options = ReplayOptions {
        address: flags.server.unwrap_or_else(|| config.tls.url_of(&config.speed_layer.grpc_address)),
        tls: config.tls.clone(),
        client: config.client.clone(),
        place: flags.letters.place(config)?,
        selection: flags.filter.of(flags.ids),
        batch_rows: flags.batch_rows.into(),
    };
    warn_of_plaintext(&options.address, config)?;
    let mut summary = ReplaySummary::default();
    let outcome = dead_letter::replay(&options, stop_signal(), &mut summary).await;
    // What was answered is settled, however it ended.
    flags.printed.answer(&summary, &summary)?;
    Ok(outcome?)
}

async fn prune(config: &Config, place: &Place, older_than: Option<Period>, printed: Printed) -> anyhow::Result<()> {
    let before = older_than.and_then(|age| RealMachine.now().checked_sub(age.0)).and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let before_us = before.map_or(i64::MIN, |time| i64::try_from(time.as_micros()).unwrap_or(i64::MAX));
    let acts = cli::auth::audit("speed-layer", &config.auth, Arc::new(RealMachine))?;
    let act = Act::new("dead-letter-prune").by_person(operator());
    acts.record(act.clone().begun()).await;
    let pruned = match dead_letter::prune(place, before_us).await {
        Ok(pruned) => pruned,
        Err(error) => {
            acts.record(act.failed(&error.to_string())).await;
            return Err(error.into());
        }
    };
    acts.record(act.with("removed", pruned.removed).with("kept", pruned.kept)).await;
    let which = if older_than.is_some() { "settled, erased or old" } else { "settled or erased" };
    let text = format!("{} {which} rows were taken out, {} outstanding ones stay", pruned.removed, pruned.kept);
    printed.answer(text, &serde_json::json!({ "removed": pruned.removed, "kept": pruned.kept }))
}
