//! Who may call what, and how often.
//!
//! ```text
//! headers, peer ─► Authority::identify ─► Identity ─► the method's door ─► its limits ─► the call
//!                     tokens file: hashes of tokens, names of certificates
//!                     keys file:   public keys of whoever issues JWTs
//! ```
//!
//! All of it happens before anything of a call's body is read, in one place for a whole server; a method that nobody has put into
//! the table of `methods` is refused. Where neither file is set nobody is asked who they are: that is for servers on loopback. The files are
//! looked at again every few seconds; one that has become unreadable changes nothing but the log. No token is kept, logged or answered.

/// Whoever decides.
mod authority;
/// The tokens file.
mod clients;
/// Calls that were refused.
mod counts;
/// Who calls.
mod identity;
/// Tokens that others have signed.
mod jwt;
/// How much in a second.
mod limits;
/// Which scope each method takes.
pub mod methods;
/// Why not.
mod refusal;
/// What may be done.
mod scope;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

pub(crate) use authority::Admitted;
pub use authority::Authority;
pub use clients::{check_name, check_tokens, new_token};
pub use identity::{Identity, Via};
pub(crate) use limits::Allowance;
pub use limits::{Limits, Measure};
pub use refusal::Refusal;
pub use scope::{Scope, Scopes};

/// The time of day, for what expires.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// What is set up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthOptions {
    /// The tokens file.
    pub tokens: Option<PathBuf>,
    /// Whose JWTs are believed.
    pub jwt: Option<JwtOptions>,
    /// For those of whom the tokens file says nothing.
    pub limits: Limits,
    /// What reading the metrics takes; nothing where they are open.
    pub metrics: Option<Scope>,
}

/// Whose JWTs are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtOptions {
    /// A file of public keys, as a JWKS or as PEM.
    pub keys: PathBuf,
    /// Their `iss`.
    pub issuer: String,
    /// What must be among their `aud`.
    pub audience: String,
}

/// What keeps a server from starting.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// A file is not there, or not readable.
    #[error("{path}: cannot be read, which [auth] names")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The audit file cannot be written.
    #[error("{path}: cannot be appended to, which [auth] audit_file names")]
    Audit {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file does not say what it should.
    #[error("{path}: {reason}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What, where, and what to do.
        reason: String,
    },
}
