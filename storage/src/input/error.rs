//! What keeps a file from being read.

use std::error::Error;
use std::io;
use std::path::PathBuf;

/// What a decoder says that does not know the file's name.
pub(super) type DecodeError = Box<dyn Error + Send + Sync>;

/// Why a file cannot be read, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
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
        source: DecodeError,
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
}
