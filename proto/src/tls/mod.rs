//! TLS, as servers speak it and as calls do.
//!
//! The protocol is rustls', versions 1.2 and 1.3, with the cryptography of aws-lc. What is decided here: whom to trust comes from files and from
//! nowhere else; files are read again when they have changed, and broken ones leave what was there before; every handshake is a whole one,
//! so that no certificate outlives its CA or its date in a resumed session; a server's certificate without names, or past its date, is
//! refused when the server starts and not by its first client.
//!
//! ```text
//! files ─► Reloaded ─► ServerTls: accepts connections, within bounds, and knows the peer's certificate
//!                  └─► ClientTls: what `crate::client` connects with
//! ```

/// What calls trust and show.
mod client;
/// What can go wrong with files.
mod error;
/// PEM.
mod files;
/// Files that change.
mod reload;
/// What servers show and ask for.
mod server;
/// From when to when.
mod validity;

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

pub use client::{ClientFiles, ClientTls};
pub use error::TlsError;
pub use server::{ServerFiles, ServerTls};

pub(crate) use server::Door;

/// The time of day, by which certificates are valid or not. Whoever starts a server brings it.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl Clock {
    /// The clock that `now` reads.
    pub fn new(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// Seconds since 1970; 0 before.
    fn now_s(&self) -> i64 {
        let since = (self.0)().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        (self.0)().duration_since(SystemTime::UNIX_EPOCH).ok().map(UnixTime::since_unix_epoch)
    }
}

/// Named rather than taken from what the process has installed, which depends on features of other crates.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods)]
mod tests;
