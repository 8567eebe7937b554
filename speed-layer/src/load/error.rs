//! What keeps a load from going on.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use tonic::Status;

/// Why a load stopped. What was acknowledged before is remembered: the same command goes on from there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file's name does not tell its format.
    #[error(
        "{}: unknown ending; known are .jsonl, .ndjson, .json and .csv (each also with .gz or .zst) and .parquet",
        file.display()
    )]
    UnknownEnding {
        /// The file.
        file: PathBuf,
    },
    /// The file cannot be opened.
    #[error("cannot open {}", file.display())]
    Open {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file breaks off, or is damaged.
    #[error("cannot read {} beyond line or row {line}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The last line or row that was read, from 1; 0 before the first.
        line: u64,
        /// What the decoder says.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The columns of a CSV or Parquet file are not those of events.
    #[error("{}: column `{column}` {problem}", file.display())]
    Column {
        /// The file.
        file: PathBuf,
        /// The column at fault.
        column: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The address is no address.
    #[error("`{address}` is not an address such as http://127.0.0.1:7401")]
    Address {
        /// The address as given.
        address: String,
        /// What is wrong with it.
        source: tonic::transport::Error,
    },
    /// The server could not be reached, or was too busy, at every attempt.
    #[error("no answer from {address} in {attempts} attempts; is `speed-layer serve` running there?")]
    Unreachable {
        /// The address.
        address: String,
        /// How often it was tried since the last acknowledgement.
        attempts: u32,
        /// The last failure.
        source: Box<Status>,
    },
    /// The server refused the whole request.
    #[error("the server refused the request")]
    Refused {
        /// The server's words.
        source: Box<Status>,
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
