use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use integration_tests::certificates::{Authority, mutual, of_tonic};
use integration_tests::identities::known;
use merganser_proto::v1::ingest_service_client::IngestServiceClient;
use merganser_proto::v1::user_stats_service_client::UserStatsServiceClient;
use merganser_proto::v1::{AppendEventsRequest, Event, GetUserStatsRequest};
use prost_types::Timestamp;
use rcgen::KeyPair;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use storage::config::TlsConfig;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

/// What an ordinary question may take after an attack: a hello that is not said blocks a place for five seconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a process may have grown by, for good: buffers that the allocator keeps, and no more.
const GROWTH_BYTES: u64 = 64 << 20;
/// Part of every text that an attack sends. It must be in no log and in no error.
pub(super) const PAYLOAD: &str = "pAyLoAd-of-a-stranger";

/// What an attack goes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    Plaintext,
    /// With a certificate that the servers trust, and whose name they know: they ask everybody who they are.
    Tls,
    /// To the same servers with no certificate and no token. Ordinary questions come from somebody who is known all the same.
    TlsAsNobody,
}

/// A stream of bytes to a server.
pub(super) trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}

impl<IO: AsyncRead + AsyncWrite + Unpin + Send> Wire for IO {}

/// Both servers, in a process of their own.
pub(super) struct Victim {
    /// Of calls to it; empty where it speaks plaintext.
    pub(super) tls: TlsConfig,
    /// Whom the servers trust.
    pub(super) ca: Option<Authority>,
    connector: Option<TlsConnector>,
    /// Signs tokens that the servers believe, where they ask for one.
    pub(super) issuer: Option<KeyPair>,
    child: Child,
    pub(super) speed: SocketAddr,
    pub(super) serving: SocketAddr,
    events: AtomicU32,
    resident_bytes: u64,
    dir: TempDir,
}

impl Victim {
    /// Starts the servers. `limits` is what a shell says before, such as `ulimit -n 64`.
    pub(super) async fn start(limits: &str, over: Over) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let speaks_tls = over != Over::Plaintext;
        let (ca, tls) = speaks_tls.then(|| mutual(dir.path()).unwrap()).unzip();
        let tls = tls.unwrap_or_default();
        let issuer = speaks_tls.then(|| known(dir.path()).unwrap());
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let program = env!("CARGO_BIN_EXE_overload");
        // Where files may not grow, the log of everything that the servers say would be the first to.
        let level = if limits.contains("ulimit -f") { "info" } else { "debug" };
        let spoken = if speaks_tls { "--tls" } else { "" };
        let command = format!("{limits}\nexec \"$0\" serve --level {level} {spoken} \"$1\"");
        let mut child = Command::new("sh")
            .args(["-c", &command, program, &dir.path().display().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let (speed, serving) = line.trim().split_once(' ').unwrap_or_else(|| panic!("the servers did not start: {line:?}"));
        let (speed, serving) = (speed.parse().unwrap(), serving.parse().unwrap());
        let shown = if over == Over::Tls { tls.client() } else { None };
        let connector = speaks_tls.then(|| connector(&tls, shown));
        let mut victim = Self { tls, ca, connector, issuer, child, speed, serving, events: AtomicU32::new(0), resident_bytes: 0, dir };
        for _ in 0..5 {
            victim.answers().await;
        }
        victim.resident_bytes = victim.resident_bytes();
        victim
    }

    /// Checks that a new client gets its event acknowledged and finds it in the answer.
    pub(super) async fn answers(&self) {
        let number = self.events.fetch_add(1, Ordering::Relaxed) + 1;
        let asked = async {
            loop {
                // A connection may be refused while an attack's are still being let go.
                match self.append_and_ask(number).await {
                    Ok(count) => return count,
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        };
        let count = timeout(PATIENCE, asked).await.expect("an ordinary question is answered");
        assert_eq!(count, i64::from(number));
    }

    /// A connection, over what the server speaks.
    pub(super) async fn connect(&self, address: SocketAddr) -> std::io::Result<Box<dyn Wire>> {
        let io = TcpStream::connect(address).await?;
        match &self.connector {
            None => Ok(Box::new(io)),
            Some(connector) => Ok(Box::new(connector.connect(ServerName::try_from("localhost").unwrap(), io).await?)),
        }
    }

    /// A connection of somebody who shows this certificate, or none.
    pub(super) async fn connect_with(&self, shown: Option<(&Path, &Path)>, address: SocketAddr) -> std::io::Result<Box<dyn Wire>> {
        let io = TcpStream::connect(address).await?;
        Ok(Box::new(connector(&self.tls, shown).connect(ServerName::try_from("localhost").unwrap(), io).await?))
    }

    /// A client of tonic's.
    pub(super) fn channel(&self, address: SocketAddr) -> Channel {
        let endpoint = Endpoint::from_shared(self.tls.url_of(&address.to_string())).unwrap().timeout(PATIENCE);
        let endpoint = if self.ca.is_some() { endpoint.tls_config(of_tonic(&self.tls).unwrap()).unwrap() } else { endpoint };
        endpoint.connect_lazy()
    }

    async fn append_and_ask(&self, number: u32) -> Result<i64, tonic::Status> {
        let events = vec![event(&format!("ordinary-{number}"), "ordinary")];
        IngestServiceClient::new(self.channel(self.speed)).append_events(AppendEventsRequest { events }).await?;
        let question = GetUserStatsRequest { user_id: "ordinary".into(), ..Default::default() };
        let answer = UserStatsServiceClient::new(self.channel(self.serving)).get_user_stats(question).await?;
        Ok(answer.into_inner().stats.unwrap().event_count)
    }

    /// Checks that an attack has left nothing behind: see [`Self::answers`], and memory.
    pub(super) async fn is_well(&self, after: &str) {
        self.is_well_within(after, GROWTH_BYTES).await;
    }

    /// As [`Self::is_well`], after an attack that the servers may keep so much of.
    pub(super) async fn is_well_within(&self, after: &str, growth_bytes: u64) {
        self.answers().await;
        let grown = self.resident_bytes().saturating_sub(self.resident_bytes);
        println!("{after}: {} KiB more than at the start", grown / 1024);
        assert!(grown < growth_bytes, "{after}: the servers have grown by {grown} bytes");
    }

    /// Memory of the process.
    pub(super) fn resident_bytes(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a running process has one");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// Processor time that the process has had, in hundredths of a second.
    pub(super) fn processor_time(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap()
    }

    /// What was written down of refused calls and acts, if anything.
    pub(super) fn audited(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("audit.jsonl")).unwrap_or_default()
    }

    /// The folder with what the servers are made of.
    pub(super) fn folder(&self) -> &Path {
        self.dir.path()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
        let log = std::fs::read_to_string(self.log_path()).unwrap_or_default();
        if std::thread::panicking() {
            let tail: Vec<_> = log.lines().rev().take(15).collect();
            println!("last lines of the servers, newest first:\n{}", tail.join("\n"));
            return;
        }
        assert!(!log.contains(PAYLOAD), "the log holds what a stranger sent");
        assert!(!self.audited().contains(PAYLOAD), "the audit log holds what a stranger sent");
        assert!(!log.contains("panicked"), "a task panicked");
    }
}

/// A client of a server that speaks plaintext.
pub(super) fn channel(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().timeout(PATIENCE).connect_lazy()
}

/// TLS with a certificate and its key, or with none, and no help of ours.
fn connector(tls: &TlsConfig, shown: Option<(&Path, &Path)>) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_file_iter(tls.ca().unwrap()).unwrap().map(Result::unwrap));
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    let mut config = match shown {
        Some((certificate, key)) => {
            let chain = CertificateDer::pem_file_iter(certificate).unwrap().map(Result::unwrap).collect();
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap()).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsConnector::from(Arc::new(config))
}

/// An ordinary event.
pub(super) fn event(id: &str, user: &str) -> Event {
    let event_time = Some(Timestamp { seconds: 1_700_000_000, nanos: 0 });
    Event { event_id: id.into(), user_id: user.into(), event_time, amount: "1.00".into(), ..Default::default() }
}
