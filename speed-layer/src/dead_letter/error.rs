//! What keeps a command over dead letters from its work.

use std::path::PathBuf;

use storage::log::LogError;
use storage::store::StoreError;

use crate::load::LoadError;

/// See the variants. Whatever it is, no letter is lost, and the same command goes on from where this one was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeadLetterError {
    /// The letters, or what is settled of them.
    #[error("the dead letters beside the log cannot be used")]
    Log(#[from] LogError),
    /// The letters of imports.
    #[error("the dead letters of imports cannot be read")]
    Store(#[from] StoreError),
    /// The server did not take the events.
    #[error("the events could not be sent")]
    Send(#[from] LoadError),
    /// Nothing has this id.
    #[error("no refused row has an id that begins with {begin}; `speed-layer dead-letter list --all` shows them")]
    UnknownId {
        /// As it was given.
        begin: String,
    },
    /// There is no log beside the letters.
    #[error("{} holds no log, so it cannot be told whether {address} serves the log of these letters; name its folder with --data", data_dir.display())]
    NoLog {
        /// The folder.
        data_dir: PathBuf,
        /// The server.
        address: String,
    },
    /// The server has another log than the letters.
    #[error("{address} serves log {server}, and these letters are of log {here}; what is sent to one log cannot settle letters of another")]
    OtherLog {
        /// The server.
        address: String,
        /// Its log.
        server: String,
        /// The log beside the letters.
        here: String,
    },
    /// The result cannot be written.
    #[error("the result cannot be written")]
    Write(#[from] std::io::Error),
}
