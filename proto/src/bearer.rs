//! The token that a program's own calls carry.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tonic::codegen::http::{HeaderValue, Uri};
use tracing::warn;

/// How often a file is read again at most, while calls are made: a token is exchanged without a restart.
const READ_INTERVAL: Duration = Duration::from_secs(5);
/// A file of more bytes holds no token.
const MAX_FILE_BYTES: u64 = 16 << 10;

/// A token, and where it comes from. Cheap to clone; never printed.
#[derive(Clone)]
pub struct Bearer(Arc<Source>);

enum Source {
    Fixed(HeaderValue),
    File { path: PathBuf, read: Mutex<(Instant, HeaderValue)> },
}

/// What keeps a token from being sent.
#[derive(Debug, thiserror::Error)]
pub enum BearerError {
    /// The file is not there, or not readable.
    #[error("{path}: the token of [client] token_file cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It holds something else.
    #[error("{origin} is not one token: no spaces, no other lines; `speed-layer token new NAME` prints one")]
    Invalid {
        /// The file or the variable.
        origin: String,
    },
    /// Everyone on the way could read it.
    #[error("a token is not sent to {address} without TLS; call it by https://, or set [client] token_in_plaintext = true")]
    Plaintext {
        /// The server's.
        address: String,
    },
}

impl Bearer {
    /// This token, which `origin` has.
    ///
    /// # Errors
    /// It is none.
    pub fn new(token: &str, origin: &str) -> Result<Self, BearerError> {
        Ok(Self(Arc::new(Source::Fixed(header(token, origin)?))))
    }

    /// The token in a file, as it is whenever a call is made, or was some seconds before.
    ///
    /// # Errors
    /// The file cannot be read, or holds no token.
    pub fn from_file(path: &Path) -> Result<Self, BearerError> {
        let read = Mutex::new((Instant::now(), read(path)?));
        Ok(Self(Arc::new(Source::File { path: path.to_owned(), read })))
    }

    /// The same, if it may be sent to a server at `address`: over TLS, on this machine, or where somebody has said so by `in_plaintext`.
    ///
    /// # Errors
    /// It may not.
    pub fn for_address(self, address: &str, in_plaintext: bool) -> Result<Self, BearerError> {
        let uri: Option<Uri> = address.parse().ok();
        let is_over_tls = uri.as_ref().is_some_and(|uri| uri.scheme_str() == Some("https"));
        let is_here = uri.as_ref().and_then(Uri::host).is_some_and(is_loopback);
        match is_over_tls || is_here || in_plaintext {
            true => Ok(self),
            false => Err(BearerError::Plaintext { address: address.to_owned() }),
        }
    }

    /// The header's value.
    pub(crate) fn value(&self) -> HeaderValue {
        match &*self.0 {
            Source::Fixed(value) => value.clone(),
            Source::File { path, read: last } => {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                if last.0.elapsed() >= READ_INTERVAL {
                    last.0 = Instant::now();
                    match read(path) {
                        Ok(value) => last.1 = value,
                        Err(error) => warn!(%error, "the token that was read before is used on"),
                    }
                }
                last.1.clone()
            }
        }
    }
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bearer")
    }
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

fn read(path: &Path) -> Result<HeaderValue, BearerError> {
    let unreadable = |source| BearerError::Read { path: path.to_owned(), source };
    let origin = path.display().to_string();
    if std::fs::metadata(path).map_err(unreadable)?.len() > MAX_FILE_BYTES {
        return Err(BearerError::Invalid { origin });
    }
    header(&std::fs::read_to_string(path).map_err(unreadable)?, &origin)
}

fn header(token: &str, origin: &str) -> Result<HeaderValue, BearerError> {
    let token = token.trim();
    let is_token = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    let invalid = || BearerError::Invalid { origin: origin.to_owned() };
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| invalid())?;
    value.set_sensitive(true);
    if is_token { Ok(value) } else { Err(invalid()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Proves that a token goes over TLS and to this machine, and in plaintext elsewhere only where that was asked for.
    #[test]
    fn not_in_plaintext() {
        let may = |address: &str, in_plaintext| Bearer::new("mgs_1", "here").unwrap().for_address(address, in_plaintext).is_ok();
        for address in ["https://example.org:7401", "http://127.0.0.1:7401", "http://localhost:1", "http://[::1]:7401", "http://127.8.0.1"]
        {
            assert!(may(address, false), "{address}");
        }
        for address in [
            "http://example.org:7401",
            "http://10.0.0.1:7401",
            "http://127.0.0.1.example.org",
            "http://localhost.example.org",
            "http://0.0.0.0:1",
            "",
        ] {
            assert!(!may(address, false) && may(address, true), "{address}");
        }
    }

    /// Proves that the token of a file is exchanged without a restart, that a file that has gone keeps the one before, and that a token is
    /// neither printed nor kept by HTTP/2's tables.
    #[tokio::test(start_paused = true)]
    async fn of_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        Bearer::from_file(&path).unwrap_err();
        for wrong in ["", "\n", "a b", "a\nb", "é"] {
            std::fs::write(&path, wrong).unwrap();
            assert!(Bearer::from_file(&path).is_err(), "{wrong:?}");
        }
        std::fs::write(&path, "mgs_1\n").unwrap();
        let bearer = Bearer::from_file(&path).unwrap();
        assert!(bearer.value().is_sensitive() && bearer.value() == "Bearer mgs_1" && !format!("{bearer:?}").contains("mgs"));
        std::fs::write(&path, "mgs_2").unwrap();
        assert_eq!(bearer.value(), "Bearer mgs_1");
        tokio::time::advance(READ_INTERVAL).await;
        assert_eq!(bearer.value(), "Bearer mgs_2");
        std::fs::remove_file(&path).unwrap();
        tokio::time::advance(READ_INTERVAL).await;
        assert_eq!(bearer.value(), "Bearer mgs_2");
    }
}
