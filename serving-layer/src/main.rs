//! `serving-layer serve` runs the server; `get`, `rows` and `export` ask one.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::disallowed_methods))]

/// Asks a running server.
mod get;
/// Logs on stderr.
mod logs;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use merganser_proto::traces::Traces;
use serving_layer::run_then;
use storage::config::{Config, LOG_FORMAT_VARIABLE};
use storage::store::Store;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::logs::LogFormat;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Statistics of users, merged from the batch view and the live events.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Settings; `merganser.toml` if there is one, otherwise the built-in defaults.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How logs are written.
    #[arg(long, global = true, value_enum, env = LOG_FORMAT_VARIABLE, default_value = "text")]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answers questions until it is stopped.
    Serve(Serve),
    /// Prints the statistics of one user.
    Get(get::Get),
    /// Prints rows of any view.
    Rows(get::rows::Rows),
    /// Writes the rows of every key of a view into a file.
    Export(get::export::Export),
}

#[derive(clap::Args)]
struct Serve {
    /// Address to listen on, such as 127.0.0.1:7402; port 0 takes a free one.
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Address of /metrics, /healthz and /readyz; "" for none.
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
    match start(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            #[allow(clippy::print_stderr, reason = "the last word of a command line program")]
            {
                eprintln!("serving-layer: {e:#}");
            }
            ExitCode::FAILURE
        }
    }
}

async fn start(cli: Cli) -> anyhow::Result<()> {
    let mut config = Config::load(cli.config.as_deref(), std::env::vars())?;
    match cli.command {
        Command::Get(get) => get::run(&get, &config.serving_layer.grpc_address).await,
        Command::Rows(rows) => get::rows::run(rows, &config.serving_layer.grpc_address).await,
        Command::Export(export) => get::export::run(export, &config.serving_layer.grpc_address).await,
        Command::Serve(flags) => {
            let serving = &mut config.serving_layer;
            serving.grpc_address = flags.listen.unwrap_or_else(|| serving.grpc_address.clone());
            serving.http_address = flags.http.unwrap_or_else(|| serving.http_address.clone());
            serving.speed_layer = flags.speed_layer.unwrap_or_else(|| serving.speed_layer.clone());
            config.store.url = flags.store.unwrap_or(config.store.url);
            Box::pin(serve(config, cli.log_format)).await
        }
    }
}

#[allow(clippy::print_stdout, reason = "scripts read the address")]
async fn serve(config: Config, log_format: LogFormat) -> anyhow::Result<()> {
    let traces = Traces::start(&config.telemetry.otlp_endpoint, config.telemetry.sample_ratio, "serving-layer").context("[telemetry]")?;
    logs::start(log_format, traces.as_ref());
    info!(store = config.store.url, settings = ?config.serving_layer, "starting");
    let store = Store::open(&config.store.url)?;
    let address = &config.serving_layer.grpc_address;
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let bound = listener.local_addr()?;
    let http = http_listener(&config.serving_layer.http_address).await?;
    let shutdown = CancellationToken::new();
    tokio::spawn(cancel_when_told(shutdown.clone()));
    // Scripts that wait for this line find a server that answers.
    let ready = || println!("serving-layer listening on http://{bound}");
    run_then(config.serving_layer, store, config.events, listener, http, shutdown, ready).await?;
    if let Some(traces) = traces {
        traces.end().await;
    }
    Ok(())
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
