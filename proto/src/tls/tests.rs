use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType, date_time_ymd};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::TlsConnector;

use super::reload::Patience;
use super::*;
use crate::metrics::{Numbers, Sheet, text};
use crate::server::{AltName, PeerCertificate};

/// 2026-01-01, when everything here happens unless the clock is told otherwise.
const NOW_S: u64 = 1_767_225_600;
const DAY_S: u64 = 24 * 3600;
const CLIENT: &str = "spiffe://example.org/serving";

/// A folder with the files of one server and one client, and a clock that is told the time.
struct Here {
    folder: tempfile::TempDir,
    now_s: Arc<AtomicU64>,
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl Here {
    fn new() -> Self {
        let here = Self { folder: tempfile::tempdir().unwrap(), now_s: Arc::new(AtomicU64::new(NOW_S)), ca: authority("CA") };
        std::fs::write(here.path("ca.pem"), here.ca.pem()).unwrap();
        here.issue("server", &["localhost"], 2027);
        here.issue("client", &[CLIENT], 2027);
        here
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn copy(&self, from: &str, to: &str) {
        std::fs::copy(self.path(from), self.path(to)).unwrap();
    }

    /// Writes a certificate and its key that are valid until the beginning of a year.
    fn issue(&self, name: &str, names: &[&str], until_year: i32) {
        issue_by(&self.ca, self, name, names, until_year);
    }

    fn clock(&self) -> Clock {
        let now_s = Arc::clone(&self.now_s);
        Clock::new(move || SystemTime::UNIX_EPOCH + Duration::from_secs(now_s.load(Ordering::Relaxed)))
    }

    fn server(&self, required: bool) -> Result<ServerTls, TlsError> {
        let (certificate, key, client_ca) = (self.path("server.pem"), self.path("server.key"), self.path("ca.pem"));
        let files = ServerFiles {
            certificate: &certificate,
            key: &key,
            client_ca: Some(&client_ca),
            client_certificate_required: required,
            http_client_certificate_required: required,
        };
        ServerTls::load(files, self.clock())
    }

    fn client(&self, shows: bool) -> Result<ClientTls, TlsError> {
        let (ca, certificate, key) = (self.path("ca.pem"), self.path("client.pem"), self.path("client.key"));
        let files = ClientFiles { ca: Some(&ca), client: shows.then_some((&certificate, &key)), ..ClientFiles::default() };
        ClientTls::load(files, self.clock())
    }
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn issue_by(ca: &CertifiedIssuer<'static, KeyPair>, here: &Here, name: &str, names: &[&str], until_year: i32) {
    let (uris, hosts): (Vec<&str>, Vec<&str>) = names.iter().partition(|name| name.contains("://"));
    let mut params = CertificateParams::new(hosts.into_iter().map(str::to_owned).collect::<Vec<_>>()).unwrap();
    params.subject_alt_names.extend(uris.into_iter().map(|uri| SanType::URI(uri.try_into().unwrap())));
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(until_year, 1, 1));
    let key = KeyPair::generate().unwrap();
    std::fs::write(here.path(&format!("{name}.pem")), params.signed_by(&key, ca).unwrap().pem()).unwrap();
    std::fs::write(here.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
}

/// Both ends of one connection: what the server thinks of it, and whether a byte of it reaches the client.
async fn shake_hands(server: &ServerTls, client: &ClientTls) -> (std::io::Result<Option<PeerCertificate>>, std::io::Result<u8>) {
    let (ours, theirs) = duplex(1 << 14);
    let accepting = async {
        let (mut stream, certificate) = server.accept(theirs, Door::Grpc).await?;
        stream.write_u8(7).await?;
        stream.shutdown().await?;
        Ok(certificate)
    };
    let calling = async {
        let name = client.name_of("localhost").unwrap();
        TlsConnector::from(client.config()).connect(name, ours).await?.read_u8().await
    };
    tokio::join!(accepting, calling)
}

/// Proves that the peer of a connection is known by the names of its certificate, and that a client is let in without one only where
/// that is said.
#[tokio::test]
async fn who_is_let_in() {
    let here = Here::new();
    let (required, optional) = (here.server(true).unwrap(), here.server(false).unwrap());
    let (known, unknown) = (here.client(true).unwrap(), here.client(false).unwrap());
    for server in [&required, &optional] {
        let (certificate, read) = shake_hands(server, &known).await;
        assert_eq!(certificate.unwrap().unwrap().names(), [AltName::Uri(CLIENT.to_owned())]);
        assert_eq!(read.unwrap(), 7);
    }
    assert_eq!(shake_hands(&optional, &unknown).await.0.unwrap(), None);
    let (refused, read) = shake_hands(&required, &unknown).await;
    assert!(refused.unwrap_err().to_string().contains("sent no certificates"));
    assert!(read.unwrap_err().to_string().contains("CertificateRequired"));
}

/// Proves that a certificate of another CA, or past its date, is refused on either side, however optional a client's is.
#[tokio::test]
async fn who_is_not_trusted() {
    let here = Here::new();
    let (server, client) = (here.server(false).unwrap(), here.client(true).unwrap());
    here.now_s.store(NOW_S + 400 * DAY_S, Ordering::Relaxed);
    let (refused, read) = shake_hands(&server, &client).await;
    assert!(read.unwrap_err().to_string().contains("expired"));
    assert!(refused.unwrap_err().to_string().contains("CertificateExpired"));

    let here = Here::new();
    issue_by(&authority("another CA"), &here, "client", &[CLIENT], 2027);
    let (refused, read) = shake_hands(&here.server(false).unwrap(), &here.client(true).unwrap()).await;
    assert!(refused.unwrap_err().to_string().contains("UnknownIssuer"));
    assert!(read.is_err());

    let here = Here::new();
    issue_by(&authority("another CA"), &here, "server", &["localhost"], 2027);
    let (refused, read) = shake_hands(&here.server(false).unwrap(), &here.client(true).unwrap()).await;
    assert!(read.unwrap_err().to_string().contains("UnknownIssuer"));
    assert!(refused.is_err());
}

/// Proves that no client gets out of being verified by resuming an earlier session: every handshake is a whole one.
#[tokio::test]
async fn nothing_is_resumed() {
    let here = Here::new();
    let server = here.server(true).unwrap();
    let (ca, certificate, key) = (here.path("ca.pem"), here.path("client.pem"), here.path("client.key"));
    let named = |setting, path: &PathBuf| super::files::Named::new(setting, path);
    let (ca, certificate, key) = (named("ca", &ca), named("client_certificate", &certificate), named("client_key", &key));
    let chain = certificate.certificates(&certificate.read().unwrap()).unwrap();
    let builder = rustls::ClientConfig::builder_with_details(provider(), Arc::new(here.clock()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(ca.cas(&ca.read().unwrap()).unwrap());
    // Unlike ours, this client remembers sessions.
    let mut config = builder.with_client_auth_cert(chain, key.key(&key.read().unwrap()).unwrap()).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    for _ in 0..3 {
        let (ours, theirs) = duplex(1 << 14);
        let accepting = async {
            let (mut stream, _) = server.accept(theirs, Door::Grpc).await.unwrap();
            stream.write_u8(7).await.unwrap();
            stream.shutdown().await.unwrap();
        };
        let calling = async {
            let mut stream = connector.connect(ServerName::try_from("localhost").unwrap(), ours).await.unwrap();
            assert_eq!(stream.read_u8().await.unwrap(), 7);
            stream.get_ref().1.handshake_kind()
        };
        let ((), kind) = tokio::join!(accepting, calling);
        assert_eq!(kind, Some(rustls::HandshakeKind::Full));
    }
}

/// Proves that whoever does not come to the end of a handshake in five seconds is let go, also one who sends a byte a second.
#[tokio::test(start_paused = true)]
async fn too_slow() {
    let here = Here::new();
    let server = here.server(true).unwrap();
    for slow in [false, true] {
        let (mut ours, theirs): (DuplexStream, DuplexStream) = duplex(1 << 14);
        let drip = async {
            // The beginning of a ClientHello of 512 bytes.
            for byte in [0x16, 3, 1, 2, 0, 1].into_iter().chain([0; 500]).filter(|_| slow) {
                if ours.write_u8(byte).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            std::future::pending::<()>().await;
        };
        let started = tokio::time::Instant::now();
        let refused = tokio::select! {
            accepted = server.accept(theirs, Door::Grpc) => accepted.unwrap_err(),
            () = drip => unreachable!("it does not end"),
        };
        assert_eq!((refused.kind(), started.elapsed().as_secs()), (std::io::ErrorKind::TimedOut, 5));
    }
    assert!(told(&server).contains("a_tls_handshakes_total{outcome=\"too_late\"} 2\n"));
}

/// Proves that changed files are used from the next connection on, and that broken ones leave those before in use, are complained of once,
/// and not before they have been the same for two looks.
#[tokio::test]
async fn reloaded() {
    let here = Here::new();
    let (server, client) = (here.server(true).unwrap(), here.client(true).unwrap());
    let failures = |count: u64| format!("a_tls_reload_failures_total {count}\n");
    let first = server.0.loaded.current();
    server.look(Patience::NextLook);
    assert!(Arc::ptr_eq(&first, &server.0.loaded.current()), "nothing has changed");

    // A certificate is written, its key not yet.
    let old_key = std::fs::read(here.path("server.key")).unwrap();
    here.issue("server", &["localhost"], 2028);
    let new_key = std::fs::read(here.path("server.key")).unwrap();
    std::fs::write(here.path("server.key"), old_key).unwrap();
    server.look(Patience::NextLook);
    assert!(told(&server).contains(&failures(0)), "it may be half written");
    std::fs::write(here.path("server.key"), new_key).unwrap();
    server.look(Patience::NextLook);
    assert!(!Arc::ptr_eq(&first, &server.0.loaded.current()));
    assert_eq!(shake_hands(&server, &client).await.1.unwrap(), 7);

    let second = server.0.loaded.current();
    std::fs::remove_file(here.path("server.pem")).unwrap();
    for (look, said) in [(1, 0), (2, 1), (3, 1), (4, 1)] {
        server.look(Patience::NextLook);
        assert!(told(&server).contains(&failures(said)), "look {look}");
    }
    std::fs::write(here.path("server.pem"), "-----BEGIN CERTIFICATE-----\nbroken").unwrap();
    server.look(Patience::None);
    assert!(told(&server).contains(&failures(2)), "whoever asks for a look is told at once");
    assert!(Arc::ptr_eq(&second, &server.0.loaded.current()));
    assert_eq!(shake_hands(&server, &client).await.1.unwrap(), 7);

    // Mended, after they were complained of.
    here.issue("server", &["localhost"], 2029);
    server.look(Patience::NextLook);
    assert!(!Arc::ptr_eq(&second, &server.0.loaded.current()), "what is mended is used");
    // Calls look for each connection.
    here.issue("client", &["spiffe://example.org/renewed"], 2029);
    let (certificate, _) = shake_hands(&server, &client).await;
    assert_eq!(certificate.unwrap().unwrap().names()[0].as_str(), "spiffe://example.org/renewed");
}

/// Proves that what is left of a certificate's time is told, and said once when it is short and once when it is over.
#[tokio::test]
async fn expiry() {
    let here = Here::new();
    let server = here.server(true).unwrap();
    let left = |days: u64| format!("a_tls_certificate_expiry_seconds {}.0\n", days * DAY_S);
    assert!(told(&server).contains(&left(365)), "{}", told(&server));
    let said = |server: &ServerTls| server.0.said.lock().unwrap().map(|(_, left)| left);
    for (days, expected) in [(0, super::validity::Left::Enough), (352, super::validity::Left::Short), (366, super::validity::Left::Nothing)]
    {
        here.now_s.store(NOW_S + days * DAY_S, Ordering::Relaxed);
        server.tell();
        assert_eq!(said(&server), Some(expected));
    }
    assert!(told(&server).contains(&format!("a_tls_certificate_expiry_seconds -{DAY_S}.0\n")));
}

/// Proves that each file that cannot be used is refused when it is read first, by the setting that names it and with what to do.
#[test]
fn refused_files() {
    type Spoil = fn(&Here);
    let cases: [(Spoil, &str, &str); 9] = [
        (|here| std::fs::remove_file(here.path("server.pem")).unwrap(), "tls.certificate", "cannot be read"),
        (|here| std::fs::write(here.path("server.pem"), "").unwrap(), "tls.certificate", "BEGIN CERTIFICATE"),
        (|here| here.copy("server.pem", "server.key"), "tls.key", "BEGIN PRIVATE KEY"),
        (
            |here| {
                std::fs::write(
                    here.path("server.key"),
                    "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
                )
                .unwrap()
            },
            "tls.key",
            "openssl pkey",
        ),
        (|here| here.copy("client.key", "server.key"), "tls.key", "belong together"),
        (|here| here.issue("server", &[], 2027), "tls.certificate", "subject alternative name"),
        (|here| here.issue("server", &["localhost"], 2025), "tls.certificate", "past its date"),
        (|here| std::fs::write(here.path("ca.pem"), "nothing").unwrap(), "tls.client_ca", "no certificate in it"),
        (|here| std::fs::write(here.path("server.pem"), vec![b'x'; 5 << 20]).unwrap(), "tls.certificate", "cannot be read"),
    ];
    for (spoil, setting, said) in cases {
        let here = Here::new();
        spoil(&here);
        let error = here.server(true).unwrap_err().to_string();
        assert!(error.starts_with(setting) && error.contains(said), "{error}");
    }
    let here = Here::new();
    here.copy("server.key", "client.key");
    assert!(here.client(true).unwrap_err().to_string().starts_with("tls.client_key"));
    let name = ClientFiles { server_name: Some("a name"), ..ClientFiles::default() };
    assert!(ClientTls::load(name, here.clock()).unwrap_err().to_string().contains("write a host name"));
}

struct Told(ServerTls);

impl Numbers for Told {
    fn write(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        ServerTls::write(Some(&self.0), "a", sheet)
    }
}

fn told(server: &ServerTls) -> String {
    let numbers: Arc<dyn Numbers> = Arc::new(Told(server.clone()));
    text(&numbers).unwrap()
}
