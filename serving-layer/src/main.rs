//! `serving-layer serve` runs the server; `get`, `rows` and `export` ask one.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::disallowed_methods))]

/// Asks a running server.
mod get;
/// Logs on stderr.
mod logs;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{Parser, Subcommand};
use cli::Printed;
use cli::about::About;
use cli::doctor::{self, Program};
use cli::exit::{self, CONFIGURATION, DONE, FAILED, Meaning};
use cli::print::STYLES;
use serving_layer::console::ConsoleOptions;
use serving_layer::{HttpDoor, run_then};
use storage::config::{Config, LOG_FORMAT_VARIABLE};
use storage::machine::RealMachine;
use storage::store::Store;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::logs::LogFormat;

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
    exit::end(NAME, outcome, |error| error.downcast_ref::<get::Unanswered>().map_or(FAILED, get::Unanswered::exit_code))
}

async fn execute(command: Command, config_file: Option<PathBuf>, mut config: Config, log_format: LogFormat) -> anyhow::Result<()> {
    match command {
        Command::Get(get) => get::run(&get, &config.serving_layer.grpc_address).await,
        Command::Rows(rows) => get::rows::run(rows, &config.serving_layer.grpc_address).await,
        Command::Export(export) => get::export::run(export, &config.serving_layer.grpc_address).await,
        Command::Serve(flags) => {
            let serving = &mut config.serving_layer;
            serving.grpc_address = flags.listen.unwrap_or_else(|| serving.grpc_address.clone());
            serving.http_address = flags.http.unwrap_or_else(|| serving.http_address.clone());
            serving.speed_layer = flags.speed_layer.unwrap_or_else(|| serving.speed_layer.clone());
            config.store.url = flags.store.unwrap_or(config.store.url);
            Box::pin(serve(config, config_file, log_format)).await
        }
        // They need no settings, and were done before these were read.
        Command::Doctor(_) | Command::About(_) => Ok(()),
    }
}

#[allow(clippy::print_stdout, reason = "scripts read the address")]
async fn serve(config: Config, config_file: Option<PathBuf>, log_format: LogFormat) -> anyhow::Result<()> {
    logs::start(log_format);
    info!(store = config.store.url, settings = ?config.serving_layer, "starting");
    let store = Store::open(&config.store.url)?;
    let address = &config.serving_layer.grpc_address;
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let bound = listener.local_addr()?;
    let http = http_listener(&config.serving_layer.http_address).await?;
    let authority = serving_layer::auth::authority(&config.auth, Arc::new(RealMachine))?;
    let pages = http.as_ref().filter(|_| config.console.enabled).map(TcpListener::local_addr).transpose()?;
    let console = pages.map(|_| ConsoleOptions {
        config: config.console,
        config_file,
        store_url: config.store.url.clone(),
        speed_layer: config.serving_layer.speed_layer.clone(),
        grpc_address: bound.to_string(),
        has_tls: false,
        authority: Some(authority),
    });
    let http = http.map(|listener| HttpDoor { listener, console });
    let shutdown = CancellationToken::new();
    tokio::spawn(cancel_when_told(shutdown.clone()));
    // Scripts that wait for this line find a server that answers.
    let ready = || {
        println!("serving-layer listening on http://{bound}");
        if let Some(pages) = pages {
            println!("serving-layer console at http://{pages}/");
        }
    };
    run_then(config.serving_layer, store, config.events, listener, http, shutdown, ready).await?;
    Ok(())
}

/// The listener of the console, `/metrics`, `/healthz` and `/readyz`, if there is to be one.
async fn http_listener(address: &str) -> anyhow::Result<Option<TcpListener>> {
    if address.is_empty() {
        return Ok(None);
    }
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}, which is http_address"))?;
    info!(address = %listener.local_addr()?, "telling metrics and health");
    Ok(Some(listener))
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
