//! `overload serve`: both servers in one process, until standard input ends. Their log goes to standard error.

use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;
use integration_tests::{certificates, identities};
use merganser_proto::server::Doors;
use storage::config::{ClientCertificates, Config, TlsConfig};
use storage::store::Store;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::filter::LevelFilter;

/// Serves over `dir` and prints both addresses in one line.
#[allow(clippy::print_stdout, reason = "whoever started this reads the addresses")]
pub(crate) async fn serve(dir: PathBuf, level: LevelFilter, tls: bool) -> Result<()> {
    tracing_subscriber::fmt().with_max_level(level).with_ansi(false).with_writer(std::io::stderr).init();
    let listeners = (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
    let addresses = (listeners.0.local_addr()?, listeners.1.local_addr()?);
    let config = config(&dir, addresses.0, tls);
    let store = Store::open(&config.store.url)?;

    let shutdown = CancellationToken::new();
    let told = shutdown.clone();
    std::thread::spawn(move || {
        let _ended = std::io::stdin().read_to_end(&mut Vec::new());
        told.cancel();
    });
    println!("{} {}", addresses.0, addresses.1);
    let doors = |grpc, tls| Doors { grpc, http: None, tls };
    let (of_speed, of_serving) = (cli::tls::server(&config.tls)?, cli::tls::server(&config.tls)?);
    let speed = speed_layer::run_then(config.clone(), store.clone(), doors(listeners.0, of_speed), shutdown.clone(), || {});
    let serving = serving_layer::run_then(config, store, doors(listeners.1, of_serving), shutdown.clone(), || {});
    let (speed, serving) =
        tokio::join!(async { speed.await.inspect_err(|_| shutdown.cancel()) }, async { serving.await.inspect_err(|_| shutdown.cancel()) });
    speed?;
    serving?;
    Ok(())
}

fn config(dir: &Path, speed_layer: SocketAddr, tls: bool) -> Config {
    let mut config = Config::default();
    if tls {
        config.tls = TlsConfig { client_certificates: ClientCertificates::Optional, ..certificates::in_folder(dir) };
        config.auth = identities::in_folder(dir);
    }
    config.store.url = dir.join("store").display().to_string();
    config.log.dir = dir.join("data");
    config.serving_layer.speed_layer = config.tls.url_of(&speed_layer.to_string());
    config
}
