//! What keeps a table from being written.

use std::error::Error;
use std::io;
use std::path::PathBuf;

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The file's name does not tell its format.
    #[error("{}: unknown ending; known are .parquet, .arrow and .feather", file.display())]
    UnknownEnding {
        /// The file.
        file: PathBuf,
    },
    /// Something that is no file has its name.
    #[error("{} is not a file; name one that is to be written", file.display())]
    NotAFile {
        /// The place.
        file: PathBuf,
    },
    /// There is a file already.
    #[error("{} exists; choose another name, or say --force to replace it", file.display())]
    Exists {
        /// The file.
        file: PathBuf,
    },
    /// The file cannot be begun.
    #[error("cannot create {}", file.display())]
    Create {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file cannot be written to its end.
    #[error("cannot write {}", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// What the encoder or the system says.
        source: Box<dyn Error + Send + Sync>,
    },
}
