//! What keeps a load from going on.

use std::io;
use std::path::PathBuf;

use merganser_proto::BearerError;
use merganser_proto::client::{ConnectError, ServerError};
use merganser_proto::tls::TlsError;
use storage::input::InputError;

/// Why a load stopped. What was acknowledged before is remembered: the same command goes on from there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A file cannot be read.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The address is no address.
    #[error(transparent)]
    Address(#[from] ConnectError),
    /// The token of `[client]` cannot be sent.
    #[error(transparent)]
    Token(#[from] BearerError),
    /// The files of `[tls]` cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The server could not be reached, or was too busy, at every attempt.
    #[error("no answer from {address} in {attempts} attempts; is `speed-layer serve` running there?")]
    Unreachable {
        /// The address.
        address: String,
        /// How often it was tried since the last acknowledgement.
        attempts: u32,
        /// The last failure.
        source: ServerError,
    },
    /// There is a server, and no connection to it that can be relied upon.
    #[error("{reason}")]
    NotTrusted {
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The server refused the whole request.
    #[error("the server refused the request")]
    Refused {
        /// The server's words.
        source: ServerError,
    },
    /// The server's answer does not fit the request.
    #[error("the server broke the contract: {what}")]
    Contract {
        /// What does not fit.
        what: String,
    },
    /// Progress cannot be read or written.
    #[error("cannot keep progress in {}", file.display())]
    Progress {
        /// The progress file.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A progress file holds something else.
    #[error("{} is damaged or from a newer version; without it the load starts from the first row", file.display())]
    DamagedProgress {
        /// The progress file.
        file: PathBuf,
        /// What the parser says, if it is not the version.
        source: Option<serde_json::Error>,
    },
    /// The caller asked to stop.
    #[error("interrupted; the same command goes on from here")]
    Interrupted,
}
