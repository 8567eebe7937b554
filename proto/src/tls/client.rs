//! The end that calls: whom it trusts, and what it shows.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tracing::{error, warn};

use super::files::Named;
use super::reload::{Patience, Reloaded};
use super::validity::{Left, Validity};
use super::{Clock, TlsError, provider};
use crate::metrics::{Labels, Sheet, one};

/// What TLS of calls is made of. All of it may be absent.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientFiles<'a> {
    /// PEM: the CAs that are trusted; the public ones without it.
    pub ca: Option<&'a Path>,
    /// PEM: the certificate that is shown, and its private key.
    pub client: Option<(&'a Path, &'a Path)>,
    /// The name that a server's certificate must have, if it is not that of its address.
    pub server_name: Option<&'a str>,
    /// Whether nothing is said of plaintext that leaves the machine.
    pub insecure: bool,
}

/// TLS of calls, of files that may change: they are looked at for each connection. Cheap to clone.
#[derive(Clone)]
pub struct ClientTls(Arc<Shared>);

struct Shared {
    loaded: Reloaded<Loaded>,
    server_name: Option<ServerName<'static>>,
    insecure: bool,
    clock: Clock,
    /// What was said last of the time that is left.
    said: Mutex<Option<(Validity, Left)>>,
}

struct Loaded {
    config: Arc<ClientConfig>,
    /// Of what is shown, if something is.
    validity: Option<Validity>,
}

impl ClientTls {
    /// Reads the files.
    ///
    /// # Errors
    /// One is not there or not what it should be, the key is another certificate's, or the name is none.
    pub fn load(files: ClientFiles<'_>, clock: Clock) -> Result<Self, TlsError> {
        let name = |name: &str| ServerName::try_from(name.to_owned()).map_err(|_| TlsError::ServerName { name: name.to_owned() });
        let server_name = files.server_name.map(name).transpose()?;
        let mut named: Vec<_> = files.ca.map(|path| Named::new("ca", path)).into_iter().collect();
        if let Some((certificate, key)) = files.client {
            named.extend([Named::new("client_certificate", certificate), Named::new("client_key", key)]);
        }
        let (of_make, of_clock) = (named.clone(), clock.clone());
        let loaded = Reloaded::load("calls", named, move |contents| make(&of_make, contents, &of_clock))?;
        Ok(Self(Arc::new(Shared { loaded, server_name, insecure: files.insecure, clock, said: Mutex::default() })))
    }

    /// What the next connection is made with, of the files as they are now. They are some kilobytes, and connections are rare.
    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        self.0.loaded.look(Patience::NextLook);
        let loaded = self.0.loaded.current();
        self.tell(loaded.validity);
        Arc::clone(&loaded.config)
    }

    /// The name to expect of whoever is at `host`.
    pub(crate) fn name_of(&self, host: &str) -> Option<ServerName<'static>> {
        self.0.server_name.clone().or_else(|| ServerName::try_from(host.to_owned()).ok())
    }

    pub(crate) fn is_insecure(&self) -> bool {
        self.0.insecure
    }

    /// Whether there is a certificate to show.
    pub(crate) fn shows_certificate(&self) -> bool {
        self.0.loaded.current().validity.is_some()
    }

    /// Says once of each certificate that its time is short, and once that it is over.
    fn tell(&self, validity: Option<Validity>) {
        let Some(validity) = validity else { return };
        let now_s = self.0.clock.now_s();
        let left = validity.left(now_s);
        let mut said = self.0.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.replace((validity, left)) == Some((validity, left)) {
            return;
        }
        match left {
            Left::Enough => {}
            Left::Short => warn!(left_s = validity.left_s(now_s), "tls.client_certificate comes to its end; put a new one there"),
            Left::Nothing => error!("tls.client_certificate is past its date, and servers refuse it; put a new one there"),
        }
    }

    /// Until the certificate that calls show is past its date, seconds, below zero behind it; `None` if they show none.
    #[must_use]
    pub fn left_s(&self) -> Option<i64> {
        Some(self.0.loaded.current().validity?.left_s(self.0.clock.now_s()))
    }

    /// Writes what there is to tell; names and types alone where calls show nothing.
    ///
    /// # Errors
    /// The sheet's.
    pub fn write(tls: Option<&Self>, prefix: &str, sheet: &mut Sheet<'_>) -> fmt::Result {
        let left = tls.and_then(|tls| Some((Labels::new(), tls.left_s()? as f64)));
        sheet.gauge(&format!("{prefix}_tls_client_certificate_expiry_seconds"), "Until what calls show is past its date.", left)?;
        let failures = tls.into_iter().flat_map(|tls| one(tls.0.loaded.failures.get()));
        sheet.counter(&format!("{prefix}_tls_client_reload_failures"), "Times that changed files of calls could not be used.", failures)
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientTls")
    }
}

fn make(files: &[Named], contents: &[Vec<u8>], clock: &Clock) -> Result<Loaded, TlsError> {
    let of = |setting: &str| files.iter().zip(contents).find(|(file, _)| file.setting == setting);
    let roots = match of("ca") {
        Some((file, bytes)) => file.cas(bytes)?,
        None => RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() },
    };
    let builder = ClientConfig::builder_with_details(provider(), Arc::new(clock.clone()));
    let builder = builder.with_safe_default_protocol_versions().map_err(TlsError::Unusable)?.with_root_certificates(roots);
    let (mut config, validity) = match (of("client_certificate"), of("client_key")) {
        (Some((certificate, its_bytes)), Some((key, key_bytes))) => {
            let chain = certificate.certificates(its_bytes)?;
            let validity = Validity::of(certificate, &chain[0], false)?;
            let with_key = builder.with_client_auth_cert(chain, key.key(key_bytes)?);
            let config = with_key.map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => {
                    key.wrong("it is not the key of tls.client_certificate; name the two that belong together")
                }
                error => key.wrong(format!("it cannot be used with tls.client_certificate: {error}")),
            })?;
            (config, Some(validity))
        }
        _ => (builder.with_no_client_auth(), None),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Loaded { config: Arc::new(config), validity })
}
