//! `serving-layer serve` runs the server; `get`, `rows` and `export` ask one.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::disallowed_methods))]

/// Asks a running server.
mod get;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use cli::Printed;
use cli::about::About;
use cli::doctor::{self, Program};
use cli::exit::{self, CONFIGURATION, DONE, FAILED, Meaning};
use cli::print::STYLES;
use merganser_proto::BearerError;
use merganser_proto::client::ConnectError;
use merganser_proto::server::{Doors, DoorsError};
use merganser_proto::tls::TlsError;
use merganser_proto::traces::Traces;
use serving_layer::{ServingError, run_then};
use storage::config::{Config, LOG_FORMAT_VARIABLE};
use storage::store::Store;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

use cli::logs::{self, LogFormat};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const NAME: &str = Program::ServingLayer.name();

/// How it ends.
const EXIT_CODES: [Meaning; 5] = exit::MEANINGS;

/// Answers questions from the batch views and the live events
#[derive(Parser)]
#[command(name = NAME, version, styles = STYLES, after_help = exit::help(&EXIT_CODES))]
struct Cli {
    /// Settings; merganser.toml if there is one, otherwise the built-in defaults
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How logs are written.
    #[arg(long, global = true, value_name = "FORMAT", value_enum, env = LOG_FORMAT_VARIABLE, default_value = "text")]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answer questions until it is stopped.
    Serve(Serve),
    /// Print the statistics of one user.
    Get(get::Get),
    /// Print rows of any view.
    Rows(get::rows::Rows),
    /// Write the rows of every key of a view into a file.
    Export(get::export::Export),
    /// Look at settings, disk, clock, ports and store before they hurt; exits 0 if nothing keeps the server from its work.
    Doctor(Printed),
    #[command(flatten)]
    About(About),
}

#[derive(clap::Args)]
struct Serve {
    /// Address to listen on, such as 127.0.0.1:7402; port 0 takes a free one.
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Address of the console, /metrics, /healthz and /readyz; "" for none.
    #[arg(long, value_name = "HOST:PORT")]
    http: Option<String>,
    /// The object store: a folder or a URL.
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// The speed layer, such as http://127.0.0.1:7401.
    #[arg(long, value_name = "URL")]
    speed_layer: Option<String>,
    /// Let plaintext leave this machine: without it, addresses off loopback need TLS.
    #[arg(long)]
    insecure: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::About(about) => about.run::<Cli>().map(|()| DONE),
        Command::Doctor(printed) => doctor::run(Program::ServingLayer, cli.config.as_deref(), printed).await,
        command => match Config::load(cli.config.as_deref(), std::env::vars()) {
            Err(error) => return exit::end(NAME, Err(error.into()), |_| CONFIGURATION),
            Ok(config) => Box::pin(execute(command, cli.config, config, cli.log_format)).await.map(|()| DONE),
        },
    };
    exit::end(NAME, outcome, code_of)
}

/// The exit code of a failure.
fn code_of(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<get::Unanswered>() {
        Some(unanswered) => unanswered.exit_code(),
        None if is_configuration(error) => CONFIGURATION,
        None => FAILED,
    }
}

/// Whether the settings are to blame.
fn is_configuration(error: &anyhow::Error) -> bool {
    error.is::<TlsError>()
        || error.is::<BearerError>()
        || matches!(error.downcast_ref(), Some(DoorsError::Plaintext { .. } | DoorsError::Everybody { .. }))
        || matches!(error.downcast_ref(), Some(ConnectError::Tls(_) | ConnectError::Address { .. }))
        || matches!(error.downcast_ref(), Some(ServingError::Auth(_) | ServingError::Token(_)))
}

async fn execute(command: Command, config_file: Option<PathBuf>, mut config: Config, log_format: LogFormat) -> anyhow::Result<()> {
    match command {
        Command::Get(get) => get::run(&get, &config).await,
        Command::Rows(rows) => get::rows::run(rows, &config).await,
        Command::Export(export) => get::export::run(export, &config).await,
        Command::Serve(flags) => {
            let serving = &mut config.serving_layer;
            serving.grpc_address = flags.listen.unwrap_or_else(|| serving.grpc_address.clone());
            serving.http_address = flags.http.unwrap_or_else(|| serving.http_address.clone());
            serving.speed_layer = flags.speed_layer.unwrap_or_else(|| serving.speed_layer.clone());
            config.store.url = flags.store.unwrap_or(config.store.url);
            config.tls.insecure |= flags.insecure;
            config.console.settings_file = config_file;
            Box::pin(serve(config, log_format)).await
        }
        // They need no settings, and were done before these were read.
        Command::Doctor(_) | Command::About(_) => Ok(()),
    }
}

#[allow(clippy::print_stdout, reason = "scripts read the address")]
async fn serve(config: Config, log_format: LogFormat) -> anyhow::Result<()> {
    let traces = Traces::start(&config.telemetry.otlp_endpoint, config.telemetry.sample_ratio, "serving-layer").context("[telemetry]")?;
    logs::start(log_format, traces.as_ref());
    let (serving, tls) = (&config.serving_layer, &config.tls);
    info!(store = config.store.url, settings = ?serving, ?tls, "starting");
    let (speaks, _calls) = (cli::tls::server(tls)?, cli::tls::calls(tls)?);
    let store = Store::open(&config.store.url)?;
    let doors = Doors::open(&serving.grpc_address, &serving.http_address, speaks, cli::auth::asks_everybody(&config), tls.insecure).await?;
    let url = doors.url()?;
    let pages = doors.http.as_ref().map(TcpListener::local_addr).transpose()?;
    if let Some(address) = pages {
        info!(%address, "telling metrics and health");
    }
    let scheme = if doors.tls.is_some() { "https" } else { "http" };
    let pages = pages.filter(|_| config.console.enabled);
    let shutdown = CancellationToken::new();
    tokio::spawn(cancel_when_told(shutdown.clone()));
    // Scripts that wait for this line find a server that answers.
    let ready = || {
        println!("serving-layer listening on {url}");
        if let Some(pages) = pages {
            println!("serving-layer console at {scheme}://{pages}/");
        }
    };
    run_then(config, store, doors, shutdown, ready).await?;
    if let Some(traces) = traces {
        traces.end().await;
    }
    Ok(())
}

/// Cancels on Ctrl-C or SIGTERM.
async fn cancel_when_told(shutdown: CancellationToken) {
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => drop(terminate.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminated => {}
    }
    info!("stopping");
    shutdown.cancel();
}
