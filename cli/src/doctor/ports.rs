//! Addresses: those to listen on are free or served by this program, those to call are answered.

use std::net::SocketAddr;
use std::time::Duration;

use merganser_proto::client::{ConnectError, connect, is_not_trusted};
use merganser_proto::tls::ClientTls;
use storage::config::Config;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tonic::codegen::http::Uri;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::Program;
use super::finding::Report;
use crate::tls;

const CHECK: &str = "ports";
/// An answer on this machine, or near it, does not take longer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Services by which the servers are known.
const INGEST: &str = "merganser.v1.IngestService";
const STATS: &str = "merganser.v1.UserStatsService";

/// Who is at an address.
#[derive(Debug, PartialEq, Eq)]
enum There {
    /// Nobody.
    Nobody,
    /// The server that is looked for; whether it says that it serves.
    Ours { serves: bool },
    /// Somebody with whom there is no connection over TLS, and why.
    NotTrusted(String),
    /// Somebody else, or one that speaks otherwise.
    Other,
}

pub(super) async fn check(program: Program, config: &Config, report: &mut Report) {
    let (speed, serving) = (&config.speed_layer, &config.serving_layer);
    // What is wrong with its files is told where they are looked at.
    let Ok(tls) = tls::calls(&config.tls) else { return };
    let listens = async |setting, address: &str, service, report: &mut Report| {
        let who = who(&config.tls.url_of(address), service, &tls).await;
        listens(setting, address, who, report).await;
    };
    let is_over_tls = config.tls.server().is_some();
    match program {
        Program::SpeedLayer => {
            listens("speed_layer.grpc_address", &speed.grpc_address, INGEST, report).await;
            listens_for_http("speed_layer.http_address", &speed.http_address, is_over_tls, report).await;
        }
        Program::ServingLayer => {
            listens("serving_layer.grpc_address", &serving.grpc_address, STATS, report).await;
            listens_for_http("serving_layer.http_address", &serving.http_address, is_over_tls, report).await;
            calls("serving_layer.speed_layer", &serving.speed_layer, &tls, report).await;
        }
        Program::BatchLayer => calls("batch_layer.speed_layer", &config.batch_layer.speed_layer, &tls, report).await,
    }
}

async fn is_answered(authority: &str) -> bool {
    timeout(PATIENCE, TcpStream::connect(authority)).await.is_ok_and(|connected| connected.is_ok())
}

/// An address to listen on, for gRPC.
async fn listens(setting: &'static str, address: &str, who: There, report: &mut Report) {
    let what = format!("{setting} = {address}");
    match who {
        There::Ours { serves: true } => report.good(CHECK, format!("{what}: this server runs there, and serves")),
        There::Ours { serves: false } => {
            report.warn(CHECK, format!("{what}: this server runs there, and does not serve"), "its log, and /readyz, say why");
        }
        // This program may trust others than the server's clients do, so that it need not be wrong.
        There::NotTrusted(reason) => {
            report.warn(
                CHECK,
                format!("{what}: somebody answers there, and {reason}"),
                "name the CA of its certificate in tls.ca; `ss -ltnp` says who it is",
            );
        }
        There::Other => taken(what, report),
        There::Nobody => free(what, address, report).await,
    }
}

async fn listens_for_http(setting: &'static str, address: &str, is_over_tls: bool, report: &mut Report) {
    if address.is_empty() {
        return report.good(CHECK, format!("{setting} = \"\": no metrics, no /healthz, no /readyz"));
    }
    let what = format!("{setting} = {address}");
    if is_over_tls {
        return match is_answered(address).await {
            true => report.good(CHECK, format!("{what}: takes connections; over TLS it was not asked for /healthz")),
            false => free(what, address, report).await,
        };
    }
    match ask_health(address).await {
        There::Ours { .. } => report.good(CHECK, format!("{what}: answers /healthz")),
        There::Nobody => free(what, address, report).await,
        There::Other | There::NotTrusted(_) => taken(what, report),
    }
}

fn taken(what: String, report: &mut Report) {
    report.bad(CHECK, format!("{what}: another program has it"), "stop that one (`ss -ltnp` names it), or set another address");
}

/// Nobody answers there: can it be listened on?
async fn free(what: String, address: &str, report: &mut Report) {
    match TcpListener::bind(address).await {
        Ok(_) => report.good(CHECK, format!("{what}: free")),
        Err(error) => {
            report.bad(CHECK, format!("{what}: cannot be listened on: {error}"), "set an address of this machine, and a port above 1023")
        }
    }
}

/// The address of the speed layer, to call.
async fn calls(setting: &'static str, url: &str, tls: &ClientTls, report: &mut Report) {
    if url.is_empty() {
        return report.good(CHECK, format!("{setting} = \"\": no speed layer is asked"));
    }
    let what = format!("{setting} = {url}");
    match who(url, INGEST, tls).await {
        There::Ours { serves: true } => report.good(CHECK, format!("{what}: the speed layer answers")),
        There::Ours { serves: false } => {
            report.warn(CHECK, format!("{what}: the speed layer is there, and does not serve"), "its log, and its /readyz, say why");
        }
        There::Nobody => {
            report.warn(CHECK, format!("{what}: nobody answers"), "start it with `speed-layer serve`, or set the address where it runs")
        }
        There::NotTrusted(reason) => {
            report.bad(CHECK, format!("{what}: {reason}"), "mend [tls], here or there; docs/security.md sets it up")
        }
        There::Other => report.bad(CHECK, format!("{what}: what answers is no speed layer"), "set the address where it runs, its gRPC one"),
    }
}

/// Asks for the health of a service, which both tells who is there and how it is.
async fn who(url: &str, service: &str, tls: &ClientTls) -> There {
    let Some(authority) = url.parse().ok().and_then(|uri: Uri| uri.authority().map(ToString::to_string)) else { return There::Other };
    // A name may have several addresses, and this tries them all.
    if !is_answered(&authority).await {
        return There::Nobody;
    }
    let channel = match connect(url, tls, |endpoint| endpoint.connect_timeout(PATIENCE).timeout(PATIENCE)).await {
        Ok(channel) => channel,
        Err(ConnectError::Tls(trouble)) => return There::NotTrusted(trouble.to_string()),
        Err(_) => return There::Other,
    };
    let request = HealthCheckRequest { service: service.to_owned() };
    match timeout(PATIENCE, HealthClient::new(channel).check(request)).await {
        Ok(Ok(answer)) => There::Ours { serves: answer.into_inner().status() == ServingStatus::Serving },
        // That a certificate is wanted may come to light with the first call only.
        Ok(Err(status)) if is_not_trusted(&status) => There::NotTrusted(status.message().to_owned()),
        _ => There::Other,
    }
}

/// Asks for `/healthz`, by the plainest means.
async fn ask_health(address: &str) -> There {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let Ok(address) = address.parse::<SocketAddr>() else { return There::Other };
    let Ok(Ok(mut stream)) = timeout(PATIENCE, TcpStream::connect(address)).await else { return There::Nobody };
    let mut answer = Vec::new();
    let asked = async {
        stream.write_all(format!("GET /healthz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes()).await?;
        stream.read_to_end(&mut answer).await
    };
    match timeout(PATIENCE, asked).await {
        Ok(Ok(_)) if answer.starts_with(b"HTTP/1.1 200") => There::Ours { serves: true },
        _ => There::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Mark;
    use super::*;

    /// Proves that a free port is good, that one which something else has is bad to listen on and to call, and that nobody there to call is
    /// only worth a word.
    #[tokio::test]
    async fn addresses() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let taken = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                drop(stream);
            }
        });
        let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let free = other.local_addr().unwrap().to_string();
        drop(other);
        let (mut report, tls) = (Report::new("x"), tls::calls(&Default::default()).unwrap());
        for address in [&free, &taken] {
            listens("grpc", address, who(&format!("http://{address}"), INGEST, &tls).await, &mut report).await;
        }
        listens_for_http("http", &free, false, &mut report).await;
        listens_for_http("http", &taken, false, &mut report).await;
        listens_for_http("http", "", false, &mut report).await;
        calls("speed", &format!("http://{free}"), &tls, &mut report).await;
        calls("speed", &format!("http://{taken}"), &tls, &mut report).await;
        listens("grpc", "192.0.2.1:7401", There::Nobody, &mut report).await;
        let (good, warning, bad) = (Mark::Good, Mark::Warning, Mark::Bad);
        let found = report.of(CHECK);
        assert_eq!(found.iter().map(|(mark, _)| *mark).collect::<Vec<_>>(), [good, bad, good, bad, good, warning, bad, bad], "{found:?}");
    }
}
