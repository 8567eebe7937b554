//! Tables for others to read: one file of Parquet or Arrow on the local disk, outside every store.
//!
//! *Layout.* Plain Parquet (zstd), or an Arrow file, in the columns of the table. What is said of it is in the file's key-value metadata.
//!
//! *Consistency.* The file appears whole or not at all: it is written beside its place, synced, and renamed.
//!
//! *What a crash leaves behind.* `.<name>.<letters>.partial` beside the file, which nobody needs.

mod error;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::writer::FileWriter;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use tempfile::NamedTempFile;

pub use error::OutputError;

/// Rows of a row group: what DuckDB takes in one piece.
const GROUP_ROWS: usize = 122_880;
/// A row group ends early at this size, so that long rows do not fill the memory of the writer.
const GROUP_BYTES: usize = 128 << 20;
/// How a file is to be read: as any other of its user's, but for what the umask says.
const MODE: u32 = 0o666;

/// How a file holds its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableFormat {
    /// Apache Parquet.
    Parquet,
    /// The Arrow IPC file format, also called Feather.
    Arrow,
}

impl TableFormat {
    /// By the ending of the file's name.
    ///
    /// # Errors
    /// It has another one.
    pub fn of(file: &Path) -> Result<Self, OutputError> {
        let ending = file.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        match ending.to_ascii_lowercase().as_str() {
            "parquet" => Ok(Self::Parquet),
            "arrow" | "feather" => Ok(Self::Arrow),
            _ => Err(OutputError::UnknownEnding { file: file.to_owned() }),
        }
    }
}

/// A file in the making. It exists once [`finish`](Self::finish) returns; dropped before, it leaves nothing.
pub struct TableFile {
    target: PathBuf,
    replace: bool,
    staged: NamedTempFile,
    writer: Writer,
}

enum Writer {
    Parquet(Box<ArrowWriter<BufWriter<File>>>),
    Arrow(Box<FileWriter<BufWriter<File>>>),
}

impl fmt::Debug for TableFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableFile").field("target", &self.target).finish_non_exhaustive()
    }
}

/// Refuses a place where there is something already, unless it is a file that may be replaced.
///
/// # Errors
/// There is.
pub fn check_free(target: &Path, replace: bool) -> Result<(), OutputError> {
    let file = || target.to_owned();
    match fs::symlink_metadata(target) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(OutputError::Create { file: file(), source }),
        Ok(found) if !found.is_file() => Err(OutputError::NotAFile { file: file() }),
        Ok(_) if replace => Ok(()),
        Ok(_) => Err(OutputError::Exists { file: file() }),
    }
}

impl TableFile {
    /// Starts the file `target` for rows of `schema`. With `replace` it takes the place of one that is there.
    ///
    /// # Errors
    /// As of [`check_free`]; the disk's; and a type that the format does not know.
    pub fn create(target: &Path, format: TableFormat, schema: &SchemaRef, replace: bool) -> Result<Self, OutputError> {
        check_free(target, replace)?;
        let create = |source| OutputError::Create { file: target.to_owned(), source };
        let name = target.file_name().ok_or_else(|| OutputError::NotAFile { file: target.to_owned() })?;
        let mut prefix = std::ffi::OsString::from(".");
        prefix.push(name);
        prefix.push(".");
        let mut builder = tempfile::Builder::new();
        let staged = builder.prefix(&prefix).suffix(".partial").permissions(Permissions::from_mode(MODE)).tempfile_in(folder(target));
        let staged = staged.map_err(create)?;
        let file = BufWriter::new(staged.reopen().map_err(create)?);
        let failed = |source| OutputError::Write { file: target.to_owned(), source };
        let writer = match format {
            TableFormat::Parquet => {
                let properties = WriterProperties::builder()
                    .set_created_by("merganser".to_owned())
                    .set_compression(Compression::ZSTD(ZstdLevel::default()))
                    .set_max_row_group_row_count(Some(GROUP_ROWS))
                    .build();
                let writer = ArrowWriter::try_new(file, SchemaRef::clone(schema), Some(properties));
                Writer::Parquet(Box::new(writer.map_err(|e| failed(Box::new(e)))?))
            }
            TableFormat::Arrow => Writer::Arrow(Box::new(FileWriter::try_new(file, schema).map_err(|e| failed(Box::new(e)))?)),
        };
        Ok(Self { target: target.to_owned(), replace, staged, writer })
    }

    /// Adds rows. Blocks on the disk.
    ///
    /// # Errors
    /// The disk's. The file cannot be finished after one.
    pub fn write(&mut self, rows: &RecordBatch) -> Result<(), OutputError> {
        let failed = |source| OutputError::Write { file: self.target.clone(), source };
        match &mut self.writer {
            Writer::Arrow(writer) => writer.write(rows).map_err(|e| failed(Box::new(e))),
            Writer::Parquet(writer) => {
                let written = writer.write(rows).and_then(|()| match writer.in_progress_size() >= GROUP_BYTES {
                    true => writer.flush(),
                    false => Ok(()),
                });
                written.map_err(|e| failed(Box::new(e)))
            }
        }
    }

    /// Ends the file, with `notes` in its metadata, and puts it in its place. When this returns, it survives power loss. The answer is its size in bytes.
    ///
    /// # Errors
    /// The disk's; and somebody else was there first.
    pub fn finish(self, notes: impl IntoIterator<Item = (String, String)>) -> Result<u64, OutputError> {
        let Self { target, replace, staged, writer } = self;
        let failed = |source| OutputError::Write { file: target.clone(), source };
        let mut file = match writer {
            Writer::Parquet(mut writer) => {
                notes.into_iter().for_each(|(name, value)| writer.append_key_value_metadata(KeyValue::new(name, value)));
                writer.into_inner().map_err(|e| failed(Box::new(e)))?
            }
            Writer::Arrow(mut writer) => {
                notes.into_iter().for_each(|(name, value)| writer.write_metadata(name, value));
                writer.into_inner().map_err(|e| failed(Box::new(e)))?
            }
        };
        let synced = file.flush().and_then(|()| file.get_ref().sync_all()).and_then(|()| file.get_ref().metadata());
        let bytes = synced.map_err(|e| failed(Box::new(e)))?.len();
        let placed = if replace { staged.persist(&target) } else { staged.persist_noclobber(&target) };
        placed.map_err(|e| match e.error.kind() {
            io::ErrorKind::AlreadyExists => OutputError::Exists { file: target.clone() },
            _ => failed(Box::new(e.error)),
        })?;
        File::open(folder(&target)).and_then(|folder| folder.sync_all()).map_err(|e| failed(Box::new(e)))?;
        Ok(bytes)
    }
}

fn folder(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
