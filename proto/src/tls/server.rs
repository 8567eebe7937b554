//! The end that accepts: what it shows, whom it lets in, and how long a handshake may take.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, error, warn};

use super::files::Named;
use super::reload::{Patience, Reloaded};
use super::validity::{Left, Validity};
use super::{Clock, TlsError, provider};
use crate::hangup::Hangup;
use crate::metrics::{Counter, Labels, Sheet, one};
use crate::server::PeerCertificate;

/// A handshake is over by then, from the first byte to the last, however fast its bytes come.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(5);
/// How long a peer whose handshake failed may go on sending, so that it reads why before the connection is gone,
const LAST_WORDS_PATIENCE: Duration = Duration::from_millis(500);
/// and how much.
const LAST_WORDS_BYTES: u64 = 64 << 10;
/// How often the files are looked at. Short certificates live for hours.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// Protocols that are agreed upon in the handshake.
const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// What a server's TLS is made of.
#[derive(Clone, Copy, Debug)]
pub struct ServerFiles<'a> {
    /// PEM: its own certificate, then those between it and its CA.
    pub certificate: &'a Path,
    /// PEM: the private key.
    pub key: &'a Path,
    /// PEM: the CAs of clients; none are asked for certificates without it.
    pub client_ca: Option<&'a Path>,
    /// Whether a gRPC client that shows no certificate is refused.
    pub client_certificate_required: bool,
    /// The same on the HTTP listener.
    pub http_client_certificate_required: bool,
}

/// TLS of a server's listeners, of files that may change. Cheap to clone.
#[derive(Clone)]
pub struct ServerTls(pub(super) Arc<Shared>);

pub(super) struct Shared {
    pub(super) loaded: Reloaded<Loaded>,
    clock: Clock,
    /// What was said last of the time that is left, and of which certificate.
    pub(super) said: Mutex<Option<(Validity, Left)>>,
    completed: Counter,
    refused: Counter,
    late: Counter,
}

pub(super) struct Loaded {
    grpc: Arc<ServerConfig>,
    http: Arc<ServerConfig>,
    validity: Validity,
}

/// Which listener a connection came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    Grpc,
    Http,
}

impl ServerTls {
    /// Reads the files.
    ///
    /// # Errors
    /// One is not there or not what it should be, the key is another certificate's, or the certificate names nobody or is past its date.
    pub fn load(files: ServerFiles<'_>, clock: Clock) -> Result<Self, TlsError> {
        let mut named = vec![Named::new("certificate", files.certificate), Named::new("key", files.key)];
        named.extend(files.client_ca.map(|path| Named::new("client_ca", path)));
        let (of_make, of_clock) = (named.clone(), clock.clone());
        let required = (files.client_certificate_required, files.http_client_certificate_required);
        let loaded = Reloaded::load("server", named, move |contents| make(&of_make, contents, required, &of_clock))?;
        let shared = Shared {
            loaded,
            clock,
            said: Mutex::default(),
            completed: Counter::default(),
            refused: Counter::default(),
            late: Counter::default(),
        };
        Ok(Self(Arc::new(shared)))
    }

    /// Shakes hands, within a time. Gives the peer's certificate if it has shown one, which is verified then.
    ///
    /// # Errors
    /// The peer's: it speaks no TLS, or shows what is not to be trusted, or takes too long.
    pub(crate) async fn accept<IO>(&self, io: IO, door: Door) -> io::Result<(Box<TlsStream<IO>>, Option<PeerCertificate>)>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let loaded = self.0.loaded.current();
        let config = match door {
            Door::Grpc => Arc::clone(&loaded.grpc),
            Door::Http => Arc::clone(&loaded.http),
        };
        // Whoever is slow keeps none of it.
        drop(loaded);
        match timeout(HANDSHAKE_PATIENCE, TlsAcceptor::from(config).accept(io).into_fallible()).await {
            Ok(Ok(stream)) => {
                self.0.completed.inc();
                let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first().cloned());
                Ok((Box::new(stream), leaf.map(|leaf| PeerCertificate::verified(leaf.into_owned()))))
            }
            Ok(Err((error, io))) => {
                self.0.refused.inc();
                last_words(io).await;
                Err(error)
            }
            Err(_) => {
                self.0.late.inc();
                Err(io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long"))
            }
        }
    }

    /// Looks after the files: reads them again when they have changed or SIGHUP says so, and tells when the certificate comes to its end.
    /// Does not end.
    pub(crate) async fn follow(&self) {
        let mut hangup = Hangup::new();
        loop {
            self.tell();
            let is_told = hangup.within(LOOK_INTERVAL).await;
            self.look(if is_told { Patience::None } else { Patience::NextLook });
        }
    }

    /// Reads the files again, now.
    pub(super) fn look(&self, patience: Patience) {
        self.0.loaded.look(patience);
    }

    /// Says once of each certificate that its time is short, and once that it is over.
    pub(super) fn tell(&self) {
        let validity = self.0.loaded.current().validity;
        let now_s = self.0.clock.now_s();
        let left = validity.left(now_s);
        let mut said = self.0.said.lock().unwrap_or_else(PoisonError::into_inner);
        if *said == Some((validity, left)) {
            return;
        }
        *said = Some((validity, left));
        match left {
            Left::Enough => {}
            Left::Short => {
                warn!(left_s = validity.left_s(now_s), "the server's certificate comes to its end; put a new one into the files of [tls]")
            }
            Left::Nothing => {
                error!("the server's certificate is past its date, and clients refuse it; put a new one into the files of [tls]")
            }
        }
    }

    /// Until its certificate is past its date, seconds; below zero behind it.
    #[must_use]
    pub fn left_s(&self) -> i64 {
        self.0.loaded.current().validity.left_s(self.0.clock.now_s())
    }

    /// Writes what there is to tell; names and types alone where there is no TLS.
    ///
    /// # Errors
    /// The sheet's.
    pub fn write(tls: Option<&Self>, prefix: &str, sheet: &mut Sheet<'_>) -> fmt::Result {
        let shared = tls.map(|tls| &*tls.0);
        let left = tls.map(|tls| (Labels::new(), tls.left_s() as f64));
        sheet.gauge(&format!("{prefix}_tls_certificate_expiry_seconds"), "Until the server's certificate is past its date.", left)?;
        let outcomes = shared.into_iter().flat_map(|shared| {
            let outcomes = [("completed", &shared.completed), ("refused", &shared.refused), ("too_late", &shared.late)];
            outcomes.map(|(outcome, count)| (vec![("outcome", outcome.to_owned())], count.get()))
        });
        sheet.counter(&format!("{prefix}_tls_handshakes"), "TLS handshakes of clients, on both listeners.", outcomes)?;
        let failures = shared.into_iter().flat_map(|shared| one(shared.loaded.failures.get()));
        sheet.counter(&format!("{prefix}_tls_reload_failures"), "Times that changed files of the server could not be used.", failures)
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerTls")
    }
}

/// Two configurations that differ in the protocol, and in whether a client without a certificate is let in.
fn make(files: &[Named], contents: &[Vec<u8>], required: (bool, bool), clock: &Clock) -> Result<Loaded, TlsError> {
    let (certificate, key) = (&files[0], &files[1]);
    let chain = certificate.certificates(&contents[0])?;
    let private_key = key.key(&contents[1])?;
    let validity = Validity::of(certificate, &chain[0], true)?;
    if validity.left(clock.now_s()) == Left::Nothing {
        return Err(certificate.wrong("its first certificate is past its date; renew it"));
    }
    let cas = match (files.get(2), contents.get(2)) {
        (Some(file), Some(bytes)) => Some(Arc::new(file.cas(bytes)?)),
        _ => None,
    };
    let config = |protocol: &[u8], required: bool| {
        let builder = ServerConfig::builder_with_details(provider(), Arc::new(clock.clone()));
        let builder = builder.with_safe_default_protocol_versions().map_err(TlsError::Unusable)?;
        let builder = match &cas {
            None => builder.with_no_client_auth(),
            Some(cas) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(cas), provider());
                let verifier = if required { verifier } else { verifier.allow_unauthenticated() };
                builder.with_client_cert_verifier(verifier.build().map_err(|e| files[2].wrong(e.to_string()))?)
            }
        };
        let with_key = builder.with_single_cert(chain.clone(), private_key.clone_key());
        let mut config = with_key.map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => key.wrong("it is not the key of tls.certificate; name the two that belong together"),
            error => key.wrong(format!("it cannot be used with tls.certificate: {error}")),
        })?;
        config.alpn_protocols = vec![protocol.to_vec()];
        // A resumed session would not look at the client's certificate again.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok::<_, TlsError>(Arc::new(config))
    };
    Ok(Loaded { grpc: config(HTTP2, required.0)?, http: config(HTTP1, required.1)?, validity })
}

/// Lets the peer read the alert: a connection that is closed on bytes that were not read is reset, and what was sent last with it.
async fn last_words<IO: AsyncRead + AsyncWrite + Unpin>(mut io: IO) {
    let read = async {
        io.shutdown().await?;
        tokio::io::copy(&mut (&mut io).take(LAST_WORDS_BYTES), &mut tokio::io::sink()).await
    };
    if let Ok(Err(error)) = timeout(LAST_WORDS_PATIENCE, read).await {
        debug!(%error, "a peer was gone before its handshake was refused");
    }
}
