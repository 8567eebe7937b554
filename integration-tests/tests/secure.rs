//! The whole cluster over mutual TLS: that it works, who is kept out and what they are told, and that certificates are renewed while it runs.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use integration_tests::certificates::{Authority, HERE, NOW, PAST, mutual};
use integration_tests::cluster::Cluster;
use integration_tests::scrape::Scrape;
use merganser_proto::Transport;
use merganser_proto::client::{ConnectError, connect, connect_lazily};
use merganser_proto::tls::{ClientFiles, ClientTls, Clock};
use merganser_proto::v1::ingest_service_client::IngestServiceClient;
use merganser_proto::v1::{AppendEventsRequest, Consistency, Event, GetUserStatsRequest};
use prost_types::Timestamp;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use speed_layer::dead_letter::{Place, ReplayOptions, ReplaySummary, Selection, replay};
use speed_layer::load::{self, LoadError, LoadOptions};
use storage::config::TlsConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tonic::{Code, Status};

const PATIENCE: Duration = Duration::from_secs(30);
const DAY_S: u64 = 24 * 3600;

fn event(id: usize) -> Event {
    let event_time = Some(Timestamp { seconds: 1_700_000_000, nanos: 0 });
    Event { event_id: format!("event-{id}"), user_id: "somebody".into(), event_time, amount: "1.50".into(), ..Event::default() }
}

/// A cluster of which every server wants a certificate of every client, and where its certificates lie.
async fn cluster() -> (Cluster, Authority, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let (ca, tls) = mutual(folder.path()).unwrap();
    let cluster = Cluster::start(false, |config| config.tls = tls).await.unwrap();
    (cluster, ca, folder)
}

fn now() -> Clock {
    Clock::new(SystemTime::now)
}

/// Proves that events go in, versions are published and answers come out with mutual TLS on every connection, those of commands too, and that
/// nobody says a word to plaintext.
#[tokio::test(flavor = "multi_thread")]
async fn whole_cluster() {
    let (mut cluster, _, folder) = cluster().await;
    assert!(cluster.speed_url().starts_with("https://"));
    cluster.ingest.append_events(AppendEventsRequest { events: (0..20).map(event).collect() }).await.unwrap();
    let version = cluster.batch_run().await.unwrap().unwrap();
    cluster.wait_for_version(version).await.unwrap();

    let tls = cluster.tls();
    let file = folder.path().join("events.jsonl");
    let line = |id: usize| {
        format!("{{\"event_id\":\"event-{id}\",\"user_id\":\"somebody\",\"event_time\":\"2023-11-14T00:00:00Z\",\"amount\":\"1.50\"}}\n")
    };
    std::fs::write(&file, (20..30).map(line).collect::<String>()).unwrap();
    let options = LoadOptions {
        client: storage::config::ClientConfig::default(),
        address: cluster.speed_url(),
        tls: tls.clone(),
        files: vec![file],
        batch_rows: 3,
        in_flight: 2,
        state_dir: folder.path().join("load"),
        progress: false,
        again: false,
    };
    assert_eq!(load::run(options.clone(), std::future::pending()).await.unwrap().sent_rows, 10);
    cluster.ingest.append_events(AppendEventsRequest { events: vec![Event { amount: "lots".into(), ..event(30) }] }).await.unwrap();
    let place = Place { data_dir: cluster.data_dir(), store: cluster.store() };
    let replaying = ReplayOptions {
        address: cluster.speed_url(),
        tls: tls.clone(),
        client: storage::config::ClientConfig::default(),
        place,
        selection: Selection::default(),
        batch_rows: 3,
    };
    let mut summary = ReplaySummary::default();
    replay(&replaying, std::future::pending(), &mut summary).await.unwrap();
    assert_eq!(summary.sent, 1);

    let question = GetUserStatsRequest { user_id: "somebody".into(), ..GetUserStatsRequest::default() };
    let answer = cluster.stats.get_user_stats(question).await.unwrap().into_inner();
    let provenance = answer.provenance.unwrap();
    assert_eq!((answer.stats.unwrap().event_count, provenance.batch_event_count, provenance.speed_event_count), (30, 20, 10));

    // The HTTP address asks for the same.
    let connector = connector(&tls, true);
    for (http, layer) in [(cluster.speed_http().unwrap(), "speed"), (cluster.serving_http().unwrap(), "serving")] {
        let scrape = Scrape::parse(get(&connector, http, "/metrics").await.unwrap().split_once("\r\n\r\n").unwrap().1).unwrap();
        let value = |name: &str| scrape.value(&format!("merganser_{layer}_tls_{name}")).unwrap();
        assert!(value("handshakes_total{outcome=\"completed\"}") >= 2.0);
        assert!(value("certificate_expiry_seconds") > 365.0 * DAY_S as f64);
        assert_eq!(value("reload_failures_total"), 0.0);
        let mut plain = TcpStream::connect(http).await.unwrap();
        plain.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut said = Vec::new();
        let _reset = timeout(PATIENCE, plain.read_to_end(&mut said)).await.unwrap();
        assert!(!String::from_utf8_lossy(&said).contains("merganser"), "plaintext was answered");
        assert!(get(&self::connector(&tls, false), http, "/metrics").await.is_err(), "nobody was asked for a certificate");
    }

    let stranger = TlsConfig { client_certificate: PathBuf::new(), client_key: PathBuf::new(), ..tls };
    let refused = load::run(LoadOptions { tls: stranger, again: true, ..options }, std::future::pending()).await.unwrap_err();
    assert!(matches!(&refused, LoadError::NotTrusted { reason } if reason.contains("tls.client_certificate")), "{refused}");
    cluster.stop().await.unwrap();
}

/// What a client that is made so is told: at once, or with its first call.
async fn told(address: &str, files: ClientFiles<'_>, clock: Clock) -> Result<(), String> {
    let tls = ClientTls::load(files, clock).unwrap();
    let append = async |transport: Transport| -> Result<(), Status> {
        IngestServiceClient::new(transport).append_events(AppendEventsRequest::default()).await.map(drop)
    };
    let lazily = connect_lazily(address, &tls, |endpoint| endpoint.connect_timeout(PATIENCE).timeout(PATIENCE)).unwrap();
    let first = append(lazily).await;
    let eager = match connect(address, &tls, |endpoint| endpoint.connect_timeout(PATIENCE).timeout(PATIENCE)).await {
        Ok(transport) => append(transport).await.map_err(|status| status.message().to_owned()),
        Err(ConnectError::Tls(trouble)) => Err(trouble.to_string()),
        Err(other) => panic!("{other}: {:?}", std::error::Error::source(&other)),
    };
    match first {
        Ok(()) => assert_eq!(eager, Ok(())),
        Err(status) => {
            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
            assert_eq!(Err(status.message().to_owned()), eager);
        }
    }
    eager
}

/// Proves that whatever is wrong with the TLS between a client and a server is said in a sentence that says what to do, whether the connection
/// is made at once or with the first call.
#[tokio::test(flavor = "multi_thread")]
async fn what_clients_are_told() {
    let (cluster, ca, folder) = cluster().await;
    let path = folder.path();
    let other = Authority::new().unwrap();
    let other_ca = other.write(path, "other-ca").unwrap();
    let strange = other.issue(path, "strange", &["spiffe://merganser.test/stranger"], NOW).unwrap();
    let expired = ca.issue(path, "expired", &["spiffe://merganser.test/old"], PAST).unwrap();
    let nameless = ca.issue(path, "nameless", &[], NOW).unwrap();
    let (ca_path, client) = (path.join("ca.pem"), (path.join("client.pem"), path.join("client.key")));
    let (url, port) = (cluster.speed_url(), cluster.speed_url().rsplit_once(':').unwrap().1.to_owned());
    let years = |years: u64| Clock::new(move || SystemTime::UNIX_EPOCH + Duration::from_secs(years * 365 * DAY_S));

    type Case<'a> = (&'a str, String, Option<&'a Path>, Option<(PathBuf, PathBuf)>, Option<&'a str>, Clock, &'a str);
    let http = format!("https://{}", cluster.speed_http().unwrap());
    let cases: Vec<Case<'_>> = vec![
        ("as it should be", url.clone(), Some(&ca_path), Some(client.clone()), None, now(), ""),
        ("another of its names", format!("https://localhost:{port}"), Some(&ca_path), Some(client.clone()), None, now(), ""),
        ("a certificate of nobody", url.clone(), Some(&ca_path), Some(nameless.clone()), None, now(), ""),
        ("unknown CA", url.clone(), Some(&other_ca), Some(client.clone()), None, now(), "name the PEM file of its CA in tls.ca"),
        ("public CAs", url.clone(), None, Some(client.clone()), None, now(), "name the PEM file of its CA in tls.ca"),
        (
            "other name",
            url.clone(),
            Some(&ca_path),
            Some(client.clone()),
            Some("speed.example.org"),
            now(),
            "is for localhost, 127.0.0.1, not for speed.example.org; call it by a name that it has",
        ),
        ("expired server", url.clone(), Some(&ca_path), Some(client.clone()), None, years(2100), "is past its date; renew it"),
        ("server of the future", url.clone(), Some(&ca_path), Some(client.clone()), None, years(10), "is not valid yet"),
        (
            "no certificate",
            url.clone(),
            Some(&ca_path),
            None,
            None,
            now(),
            "wants a certificate of its clients; name one in tls.client_certificate",
        ),
        ("certificate of another CA", url.clone(), Some(&ca_path), Some(strange.clone()), None, now(), "refuses tls.client_certificate"),
        ("expired certificate", url.clone(), Some(&ca_path), Some(expired.clone()), None, now(), "refuses tls.client_certificate"),
        ("plaintext", url.replace("https", "http"), Some(&ca_path), Some(client.clone()), None, now(), "speaks TLS; write https://"),
        ("HTTP address", http, Some(&ca_path), Some(client.clone()), None, now(), "is that its HTTP address?"),
    ];
    for (case, address, ca, client, server_name, clock, said) in cases {
        let files =
            ClientFiles { ca, client: client.as_ref().map(|(certificate, key)| (&**certificate, &**key)), server_name, insecure: false };
        match (told(&address, files, clock).await, said) {
            (Ok(()), "") => {}
            (Ok(()), _) => panic!("{case}: it was let in"),
            (Err(text), said) => {
                println!("{case}: {text}");
                assert!(!said.is_empty() && text.contains(said), "{case}: {text}");
            }
        }
    }
    cluster.stop().await.unwrap();

    let plain = Cluster::start(true, |_| {}).await.unwrap();
    let files = ClientFiles { ca: Some(&ca_path), ..ClientFiles::default() };
    let text = told(&plain.speed_url().replace("http", "https"), files, now()).await.unwrap_err();
    assert!(text.contains("does not speak TLS; write http://"), "{text}");
    plain.stop().await.unwrap();
}

/// Proves that a serving layer whose certificate the speed layer does not take says so to whoever asks, and answers from the batch half.
#[tokio::test(flavor = "multi_thread")]
async fn layers_that_do_not_trust_each_other() {
    let (mut cluster, ca, folder) = cluster().await;
    let (client_certificate, client_key) = ca.issue(folder.path(), "expired", &["spiffe://merganser.test/old"], PAST).unwrap();
    cluster.adjust(|config| (config.tls.client_certificate, config.tls.client_key) = (client_certificate, client_key));
    // It does not answer fresh questions.
    assert!(cluster.restart_serving_for(Consistency::BatchOnly).await.is_ok());
    let question = GetUserStatsRequest { user_id: "somebody".into(), ..GetUserStatsRequest::default() };
    let refused = cluster.stats.get_user_stats(question).await.unwrap_err();
    assert!(refused.code() == Code::Unavailable && refused.message().contains("refuses tls.client_certificate"), "{refused:?}");
    let error = cluster.batch_run().await.unwrap_err();
    assert!(format!("{error:#}").contains("refuses tls.client_certificate"), "{error:#}");
    cluster.stop().await.unwrap();
}

/// Proves that a running server shows a new certificate once its files have changed and SIGHUP says so, that connections which are open
/// go on, and that broken files change nothing.
#[tokio::test(flavor = "multi_thread")]
async fn renewed_while_it_runs() {
    // Otherwise the signal would end this process, were it faster than the server.
    let mut hangup = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()).unwrap();
    let (mut cluster, ca, folder) = cluster().await;
    let tls = cluster.tls();
    let (connector, address) = (connector(&tls, true), cluster.serving_address());
    let before = shown(&connector, address).await;
    assert_eq!(before, shown(&connector, address).await);
    cluster.ingest.append_events(AppendEventsRequest { events: vec![event(0)] }).await.unwrap();

    std::fs::write(&tls.certificate, "not a certificate").unwrap();
    told_to_look(&mut hangup).await;
    assert_eq!(shown(&connector, address).await, before);
    ca.issue(folder.path(), "server", &HERE, NOW).unwrap();
    let renewed = async {
        while shown(&connector, address).await == before {
            told_to_look(&mut hangup).await;
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, renewed).await.expect("the new certificate is shown");
    cluster.ingest.append_events(AppendEventsRequest { events: vec![event(1)] }).await.unwrap();
    let question = GetUserStatsRequest { user_id: "somebody".into(), ..GetUserStatsRequest::default() };
    assert_eq!(cluster.stats.get_user_stats(question).await.unwrap().into_inner().stats.unwrap().event_count, 2);
    cluster.stop().await.unwrap();
}

/// Sends SIGHUP to this process, and waits until it is heard.
async fn told_to_look(hangup: &mut tokio::signal::unix::Signal) {
    let told = std::process::Command::new("kill").args(["-HUP", &std::process::id().to_string()]).status().unwrap();
    assert!(told.success());
    hangup.recv().await.unwrap();
}

/// TLS with what calls trust, and show if that is said.
fn connector(tls: &TlsConfig, shows: bool) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_file_iter(&tls.ca).unwrap().map(Result::unwrap));
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    let config = if shows {
        let chain = CertificateDer::pem_file_iter(&tls.client_certificate).unwrap().map(Result::unwrap).collect();
        builder.with_client_auth_cert(chain, PemObject::from_pem_file(&tls.client_key).unwrap()).unwrap()
    } else {
        builder.with_no_client_auth()
    };
    TlsConnector::from(Arc::new(config))
}

/// What a server shows to a new connection.
async fn shown(connector: &TlsConnector, address: SocketAddr) -> CertificateDer<'static> {
    let io = TcpStream::connect(address).await.unwrap();
    let stream = connector.connect(ServerName::try_from("localhost").unwrap(), io).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

/// Asks for a path over TLS; the whole answer.
async fn get(connector: &TlsConnector, address: SocketAddr, path: &str) -> std::io::Result<String> {
    let io = TcpStream::connect(address).await?;
    let mut io = connector.connect(ServerName::try_from("localhost").unwrap(), io).await?;
    io.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    timeout(PATIENCE, io.read_to_string(&mut answer)).await.unwrap()?;
    Ok(answer)
}
