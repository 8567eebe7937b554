//! Files that others wrote, as rows: JSON Lines, CSV and Parquet behind one iterator. Nothing here knows of the store.
//!
//! A file of events has the columns of events. No value is changed: the digits of a number are those of the file.

mod csv;
mod error;
mod fields;
mod json;
mod jsonl;
mod parquet;
mod table;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use views::RawEvent;

use crate::machine::blocking;

use error::DecodeError;

pub use error::InputError;
pub use json::event as event_of_json;
pub use parquet::{check_columns, events};
pub use table::{BrokenRow, Table, TableBatches};

/// One row of an event file.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its first line, from 1; in Parquet files its number.
    pub line: u64,
    /// The event, or why the row is none.
    pub event: Result<RawEvent, String>,
}

/// The rows of a file in its order. After an error there is nothing more.
pub type Rows = Box<dyn Iterator<Item = Result<Row, InputError>> + Send>;

/// Rows of a decoder that does not know the file's name.
type RawRows = Box<dyn Iterator<Item = Result<Row, DecodeError>> + Send>;

/// A file of events, or one that a mapping makes events of.
#[derive(Clone, Debug)]
pub struct EventFile {
    /// Where it is.
    pub path: PathBuf,
    /// As stored, compression included.
    pub size_bytes: u64,
    /// How it holds its rows.
    pub format: Format,
    compression: Compression,
}

/// How a file holds its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    JsonLines,
    /// Cells with commas between them, below a header.
    Csv,
    /// Apache Parquet.
    Parquet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

/// How far a file was read, in bytes as stored; shared with whoever reads it.
#[derive(Clone, Debug, Default)]
pub struct Position(Arc<AtomicU64>);

impl Position {
    /// The bytes so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, bytes: u64) {
        self.0.store(bytes, Ordering::Relaxed);
    }
}

impl EventFile {
    /// The file at `path`, if its ending tells a known format.
    ///
    /// # Errors
    /// [`InputError::UnknownEnding`], [`InputError::Open`].
    pub fn find(path: &Path) -> Result<Self, InputError> {
        Self::find_as(path, None)
    }

    /// The file at `path`, in `format` whatever its ending says; `.gz` and `.zst` still say how it is compressed.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub fn find_as(path: &Path, format: Option<Format>) -> Result<Self, InputError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let (stem, compression) = Compression::of(&name);
        let known = format.or_else(|| Format::of(stem)).filter(|f| *f != Format::Parquet || compression == Compression::None);
        let format = known.ok_or_else(|| InputError::UnknownEnding { file: path.to_owned() })?;
        let metadata = path.metadata().map_err(|source| InputError::Open { file: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), size_bytes: metadata.len(), format, compression })
    }

    /// The name without the folders.
    #[must_use]
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The identity of the content, compression included.
    ///
    /// # Errors
    /// [`InputError::Open`] if it cannot be read.
    pub async fn digest(&self) -> Result<blake3::Hash, InputError> {
        let mut file = self.open()?;
        let hashing = blocking(move || {
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(&mut file).map(|hasher| hasher.finalize())
        });
        hashing.await.map_err(|source| InputError::Open { file: self.path.clone(), source })
    }

    /// The rows from the first on.
    ///
    /// # Errors
    /// When the file cannot be opened, or its columns are not those of events.
    pub fn rows(&self, position: &Position) -> Result<Rows, InputError> {
        let mut rows: RawRows = match self.format {
            Format::JsonLines => Box::new(jsonl::rows(self.decompressed(position)?)),
            Format::Csv => csv::rows(self.decompressed(position)?, self)?,
            Format::Parquet => parquet::rows(self.open()?, self, position)?,
        };
        let path = self.path.clone();
        let (mut last, mut failed) = (0, false);
        Ok(Box::new(std::iter::from_fn(move || {
            // A decoder that has failed may fail again for ever.
            let row = if failed { None } else { rows.next() }?;
            match &row {
                Ok(row) => last = row.line,
                Err(_) => failed = true,
            }
            Some(row.map_err(|source| InputError::Read { file: path.clone(), line: last, source }))
        })))
    }

    fn open(&self) -> Result<File, InputError> {
        File::open(&self.path).map_err(|source| InputError::Open { file: self.path.clone(), source })
    }

    fn decompressed(&self, position: &Position) -> Result<Box<dyn BufRead + Send>, InputError> {
        let file = BufReader::new(Counted { inner: self.open()?, position: position.clone() });
        let opening = |source| InputError::Open { file: self.path.clone(), source };
        Ok(match self.compression {
            Compression::None => Box::new(file),
            Compression::Gzip => Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(file))),
            Compression::Zstd => Box::new(BufReader::new(zstd::Decoder::with_buffer(file).map_err(opening)?)),
        })
    }

    fn column_error(&self, column: &str, problem: impl Into<String>) -> InputError {
        InputError::Column { file: self.path.clone(), column: column.to_owned(), problem: problem.into() }
    }
}

impl Format {
    /// Its name, which is also its ending.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::JsonLines => "jsonl",
            Self::Csv => "csv",
            Self::Parquet => "parquet",
        }
    }

    /// The format that a name in lower case ends with.
    fn of(name: &str) -> Option<Self> {
        match name.rsplit_once('.')?.1 {
            "jsonl" | "ndjson" | "json" => Some(Self::JsonLines),
            "csv" => Some(Self::Csv),
            "parquet" => Some(Self::Parquet),
            _ => None,
        }
    }
}

impl Compression {
    /// What a name in lower case ends with, and the name without it.
    fn of(name: &str) -> (&str, Self) {
        match name.rsplit_once('.') {
            Some((stem, "gz")) => (stem, Self::Gzip),
            Some((stem, "zst")) => (stem, Self::Zstd),
            _ => (name, Self::None),
        }
    }
}

/// Tells the position while it is read.
struct Counted {
    inner: File,
    position: Position,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.inner.read(buffer)?;
        self.position.set(self.position.get() + bytes as u64);
        Ok(bytes)
    }
}
