//! `speed-layer`: serve, load, dead-letter.

/// Logs on stderr.
mod logs;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::UNIX_EPOCH;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use merganser_proto::traces::Traces;
use speed_layer::dead_letter::{self, Place, ReplayOptions, ReplaySummary, Selection};
use speed_layer::load::{self, LoadOptions};
use storage::config::{Config, LOG_FORMAT_VARIABLE, Period};
use storage::machine::{Machine, RealMachine};
use storage::store::Store;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::logs::LogFormat;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Takes events in durably and keeps their recent aggregates.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Settings; merganser.toml if it is there, otherwise built-in defaults.
    #[arg(long, global = true)]
    config: Option<PathBuf>,
    /// How logs are written.
    #[arg(long, global = true, value_enum, env = LOG_FORMAT_VARIABLE, default_value = "text")]
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
}

#[derive(Args)]
struct Serve {
    /// gRPC address; port 0 takes a free one and prints it.
    #[arg(long)]
    listen: Option<String>,
    /// Address of /metrics, /healthz and /readyz; "" for none.
    #[arg(long)]
    http: Option<String>,
    /// Object store: a folder or file:///….
    #[arg(long)]
    store: Option<String>,
    /// Folder of the log and the dead letters.
    #[arg(long)]
    data: Option<PathBuf>,
}

#[derive(Args)]
struct Load {
    /// Event files, loaded one after the other.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The server, such as http://127.0.0.1:7401; what the settings say if absent.
    #[arg(long)]
    address: Option<String>,
    /// Rows of one request.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..))]
    batch_rows: u16,
    /// Requests under way at once.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=128))]
    in_flight: u16,
    /// Where the progress of each file is kept; `load` in the folder of the log if absent.
    #[arg(long)]
    state_dir: Option<PathBuf>,
    /// Send from the first row, whatever was loaded before.
    #[arg(long)]
    again: bool,
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
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Args)]
struct Replay {
    /// Ids of the rows, or beginnings of ids; all outstanding ones if absent.
    ids: Vec<String>,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    letters: Letters,
    /// The server, such as http://127.0.0.1:7401; what the settings say if absent.
    #[arg(long)]
    server: Option<String>,
    /// Rows of one request.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..))]
    batch_rows: u16,
}

#[derive(Args)]
struct Filter {
    /// Only rows with this field at fault.
    #[arg(long)]
    field: Option<String>,
    /// Only rows whose reason contains this text.
    #[arg(long)]
    reason: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Table,
    Json,
}

#[derive(Args)]
struct Letters {
    /// Folder of the log and the dead letters.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Object store with the refused rows of imports: a folder or file:///….
    #[arg(long)]
    store: Option<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match Config::load(cli.config.as_deref(), std::env::vars()) {
        Err(e) => {
            return fail(&anyhow::Error::new(e), 2);
        }
        Ok(config) => match cli.command {
            Command::Serve(serve) => run_server(config, serve, cli.log_format).await,
            Command::Load(load) => run_load(&config, load).await,
            Command::DeadLetter(command) => dead_letters(&config, command).await,
        },
    };
    outcome.unwrap_or_else(|e| fail(&e, 1))
}

#[allow(clippy::print_stderr, reason = "the last word of a command")]
fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    eprintln!("speed-layer: {error:#}");
    ExitCode::from(code)
}

#[allow(clippy::print_stdout, reason = "scripts read the address")]
async fn run_server(mut config: Config, flags: Serve, log_format: LogFormat) -> anyhow::Result<ExitCode> {
    let traces = Traces::start(&config.telemetry.otlp_endpoint, config.telemetry.sample_ratio, "speed-layer").context("[telemetry]")?;
    logs::start(log_format, traces.as_ref());
    config.speed_layer.grpc_address = flags.listen.unwrap_or(config.speed_layer.grpc_address);
    config.speed_layer.http_address = flags.http.unwrap_or(config.speed_layer.http_address);
    config.store.url = flags.store.unwrap_or(config.store.url);
    config.log.dir = flags.data.unwrap_or(config.log.dir);
    let (log, events) = (&config.log, &config.events);
    info!(store = config.store.url, ?log, settings = ?config.speed_layer, attributes = ?events.attributes, "starting");

    let address = &config.speed_layer.grpc_address;
    let store = config.store.open()?;
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let bound = listener.local_addr()?;
    let http = http_listener(&config.speed_layer.http_address).await?;
    let shutdown = CancellationToken::new();
    tokio::spawn(cancel_on_signal(shutdown.clone()));
    // Scripts that wait for this line find a server that has caught up.
    let ready = || println!("speed-layer listening on http://{bound}");
    speed_layer::run_then(config, store, listener, http, shutdown, ready).await?;
    if let Some(traces) = traces {
        traces.end().await;
    }
    info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// The listener of `/metrics`, `/healthz` and `/readyz`, if there is to be one.
async fn http_listener(address: &str) -> anyhow::Result<Option<TcpListener>> {
    if address.is_empty() {
        return Ok(None);
    }
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}, which is http_address"))?;
    info!(address = %listener.local_addr()?, "telling metrics and health");
    Ok(Some(listener))
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

#[allow(clippy::print_stdout, reason = "the summary is what the command is for")]
async fn run_load(config: &Config, flags: Load) -> anyhow::Result<ExitCode> {
    let options = LoadOptions {
        address: flags.address.unwrap_or_else(|| format!("http://{}", config.speed_layer.grpc_address)),
        files: flags.files,
        batch_rows: flags.batch_rows.into(),
        in_flight: flags.in_flight.into(),
        state_dir: flags.state_dir.unwrap_or_else(|| config.log.dir.join("load")),
        progress: true,
        again: flags.again,
    };
    let summary = load::run(options, stop_signal()).await?;
    println!("{summary}");
    Ok(ExitCode::SUCCESS)
}

async fn dead_letters(config: &Config, command: DeadLetter) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout();
    let printed = match command {
        DeadLetter::List(flags) => list(config, flags, &mut out).await,
        DeadLetter::Show { id, letters } => show(&letters.place(config)?, &id, &mut out).await,
        DeadLetter::Replay(flags) => replay(config, flags, &mut out).await,
        DeadLetter::Prune { letters, older_than } => prune(&letters.place(config)?, older_than, &mut out).await,
    };
    match printed {
        // Whoever reads has seen enough.
        Err(e) if e.chain().any(is_broken_pipe) => Ok(ExitCode::SUCCESS),
        other => other.map(|()| ExitCode::SUCCESS),
    }
}

fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
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

async fn list(config: &Config, flags: List, out: &mut impl Write) -> anyhow::Result<()> {
    let (place, selection, json) = (flags.letters.place(config)?, flags.filter.of(Vec::new()), flags.output == Output::Json);
    if flags.rows {
        return Ok(dead_letter::rows(&place, &selection, flags.all, json, out).await?);
    }
    let listing = dead_letter::list(&place, &selection, flags.all).await?;
    match json {
        true => writeln!(out, "{}", serde_json::to_string_pretty(&listing)?)?,
        false => writeln!(out, "{listing}")?,
    }
    Ok(())
}

async fn show(place: &Place, id: &str, out: &mut impl Write) -> anyhow::Result<()> {
    Ok(writeln!(out, "{}", dead_letter::show(place, id).await?)?)
}

async fn replay(config: &Config, flags: Replay, out: &mut impl Write) -> anyhow::Result<()> {
    let options = ReplayOptions {
        address: flags.server.unwrap_or_else(|| format!("http://{}", config.speed_layer.grpc_address)),
        place: flags.letters.place(config)?,
        selection: flags.filter.of(flags.ids),
        batch_rows: flags.batch_rows.into(),
    };
    let mut summary = ReplaySummary::default();
    let outcome = dead_letter::replay(&options, stop_signal(), &mut summary).await;
    // What was answered is settled, however it ended.
    writeln!(out, "{summary}")?;
    Ok(outcome?)
}

async fn prune(place: &Place, older_than: Option<Period>, out: &mut impl Write) -> anyhow::Result<()> {
    let before = older_than.and_then(|age| RealMachine.now().checked_sub(age.0)).and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let before_us = before.map_or(i64::MIN, |time| i64::try_from(time.as_micros()).unwrap_or(i64::MAX));
    let pruned = speed_layer::dead_letter::prune(place, before_us).await?;
    let which = if older_than.is_some() { "settled, erased or old" } else { "settled or erased" };
    Ok(writeln!(out, "{} {which} rows were taken out, {} outstanding ones stay", pruned.removed, pruned.kept)?)
}
