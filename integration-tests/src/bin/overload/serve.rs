//! `overload serve`: both servers in one process, until standard input ends. Their log goes to standard error.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Result;
use storage::config::Config;
use storage::store::Store;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::filter::LevelFilter;

/// Serves over `dir` and prints both addresses in one line.
#[allow(clippy::print_stdout, reason = "whoever started this reads the addresses")]
pub(crate) async fn serve(dir: PathBuf, level: LevelFilter) -> Result<()> {
    tracing_subscriber::fmt().with_max_level(level).with_ansi(false).with_writer(std::io::stderr).init();
    let listeners = (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
    let addresses = (listeners.0.local_addr()?, listeners.1.local_addr()?);
    let config = config(&dir, &format!("http://{}", addresses.0));
    let store = Store::open(&config.store.url)?;

    let shutdown = CancellationToken::new();
    let told = shutdown.clone();
    std::thread::spawn(move || {
        let _ended = std::io::stdin().read_to_end(&mut Vec::new());
        told.cancel();
    });
    println!("{} {}", addresses.0, addresses.1);
    let speed = speed_layer::run(config.clone(), store.clone(), listeners.0, shutdown.clone());
    let serving = serving_layer::run(config.serving_layer, store, config.events, listeners.1, shutdown.clone());
    let (speed, serving) =
        tokio::join!(async { speed.await.inspect_err(|_| shutdown.cancel()) }, async { serving.await.inspect_err(|_| shutdown.cancel()) });
    speed?;
    serving?;
    Ok(())
}

fn config(dir: &Path, speed_layer: &str) -> Config {
    let mut config = Config::default();
    config.store.url = dir.join("store").display().to_string();
    config.log.dir = dir.join("data");
    config.serving_layer.speed_layer = speed_layer.to_owned();
    config
}
