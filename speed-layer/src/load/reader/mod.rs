//! Event files as rows: JSON Lines, CSV and Parquet behind one iterator.

mod csv;
mod fields;
mod json;
mod jsonl;
mod parquet;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use merganser_proto::v1::Event;

use super::LoadError;
pub(crate) use json::event as event_of_json;

/// One row of an event file.
pub(super) struct Row {
    /// Its first line, from 1; in Parquet files its number.
    pub line: u64,
    /// The event, or why the row is none.
    pub event: Result<Event, String>,
}

/// The rows of a file in its order. After an error there is nothing more.
pub(super) type Rows = Box<dyn Iterator<Item = Result<Row, LoadError>> + Send>;

/// Rows of a decoder that does not know the file's name.
type RawRows = Box<dyn Iterator<Item = Result<Row, DecodeError>> + Send>;
type DecodeError = Box<dyn Error + Send + Sync>;

/// A file to load.
pub(super) struct EventFile {
    pub path: PathBuf,
    /// As stored, compression included.
    pub size_bytes: u64,
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    JsonLines(Compression),
    Csv(Compression),
    Parquet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

/// How far a file was read, in bytes as stored; shared with whoever reads it.
#[derive(Clone, Default)]
pub(super) struct Position(Arc<AtomicU64>);

impl Position {
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, bytes: u64) {
        self.0.store(bytes, Ordering::Relaxed);
    }
}

impl EventFile {
    /// The file at `path`, if its ending tells a known format.
    pub(super) fn find(path: &Path) -> Result<Self, LoadError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let format = Format::of(&name).ok_or_else(|| LoadError::UnknownEnding { file: path.to_owned() })?;
        let metadata = path.metadata().map_err(|source| LoadError::Open { file: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), size_bytes: metadata.len(), format })
    }

    /// The name without the folders.
    pub(super) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The identity of the content, compression included.
    pub(super) async fn digest(&self) -> Result<blake3::Hash, LoadError> {
        let mut file = self.open()?;
        let hashing = tokio::task::spawn_blocking(move || {
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(&mut file).map(|hasher| hasher.finalize())
        });
        let digest = hashing.await.expect("hashing does not panic and is never aborted");
        digest.map_err(|source| LoadError::Open { file: self.path.clone(), source })
    }

    /// The rows from the first on.
    ///
    /// # Errors
    /// When the file cannot be opened, or its columns are not those of events.
    pub(super) fn rows(&self, position: &Position) -> Result<Rows, LoadError> {
        let mut rows: RawRows = match self.format {
            Format::JsonLines(compression) => Box::new(jsonl::rows(self.decompressed(compression, position)?)),
            Format::Csv(compression) => csv::rows(self.decompressed(compression, position)?, self)?,
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
            Some(row.map_err(|source| LoadError::Read { file: path.clone(), line: last, source }))
        })))
    }

    fn open(&self) -> Result<File, LoadError> {
        File::open(&self.path).map_err(|source| LoadError::Open { file: self.path.clone(), source })
    }

    fn decompressed(&self, compression: Compression, position: &Position) -> Result<Box<dyn BufRead + Send>, LoadError> {
        let file = BufReader::new(Counted { inner: self.open()?, position: position.clone() });
        let opening = |source| LoadError::Open { file: self.path.clone(), source };
        Ok(match compression {
            Compression::None => Box::new(file),
            Compression::Gzip => Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(file))),
            Compression::Zstd => Box::new(BufReader::new(zstd::Decoder::with_buffer(file).map_err(opening)?)),
        })
    }

    fn column_error(&self, column: &str, problem: impl Into<String>) -> LoadError {
        LoadError::Column { file: self.path.clone(), column: column.to_owned(), problem: problem.into() }
    }
}

impl Format {
    /// The format that a name in lower case ends with.
    fn of(name: &str) -> Option<Self> {
        let (stem, compression) = match name.rsplit_once('.')? {
            (stem, "gz") => (stem, Compression::Gzip),
            (stem, "zst") => (stem, Compression::Zstd),
            _ => (name, Compression::None),
        };
        match stem.rsplit_once('.')?.1 {
            "jsonl" | "ndjson" | "json" => Some(Self::JsonLines(compression)),
            "csv" => Some(Self::Csv(compression)),
            "parquet" if compression == Compression::None => Some(Self::Parquet),
            _ => None,
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
