//! The calls that change the disk, in one place.
//!
//! Whatever the log writes goes through [`Disk`], with the path beside the open file, so that a
//! fault test can refuse the nth sync, stop half way through a write, or note what was synced and
//! forget the rest. Reads go straight to `std::fs`: a test spoils the bytes themselves.

use std::{
    fmt,
    fs::{self, File, TryLockError},
    io::{self, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use super::LogError;

/// Every call by which the log changes the disk. The provided methods are the real thing; a fault
/// test overrides some.
pub trait Disk: fmt::Debug + Send + Sync {
    /// Writes all of `bytes` from byte `at` on.
    ///
    /// # Errors
    /// What the system answered; any part of `bytes` may have been written then.
    fn write_at(&self, _path: &Path, mut file: &File, at: u64, bytes: &[u8]) -> io::Result<()> {
        file.seek(SeekFrom::Start(at))?;
        file.write_all(bytes)
    }

    /// Cuts the file to `bytes` bytes.
    ///
    /// # Errors
    /// What the system answered.
    fn set_len(&self, _path: &Path, file: &File, bytes: u64) -> io::Result<()> {
        file.set_len(bytes)
    }

    /// Makes the file's bytes and length durable (fdatasync).
    ///
    /// # Errors
    /// What the system answered; the caller must not try again, since the second sync may succeed
    /// without the bytes.
    fn sync_data(&self, _path: &Path, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    /// Gives a file its final name, replacing what had it. Durable after [`Disk::sync_dir`] of the
    /// folder.
    ///
    /// # Errors
    /// What the system answered.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    /// Makes the names in a folder durable.
    ///
    /// # Errors
    /// What the system answered.
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

/// The disk that the operating system offers.
#[derive(Debug, Clone, Copy)]
pub struct OsDisk;

impl Disk for OsDisk {}

/// Ends the names of files that are still being made; whoever lists a folder passes over them.
const UNFINISHED: &str = "tmp";

/// Makes a file that is, after any crash, there with all its bytes or not there at all. When this
/// returns it is durable.
pub(crate) fn create_file(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), LogError> {
    let unfinished = path.with_extension(UNFINISHED);
    let file = File::create(&unfinished).map_err(LogError::io("create", &unfinished))?;
    disk.write_at(&unfinished, &file, 0, bytes).map_err(LogError::io("write", &unfinished))?;
    disk.sync_data(&unfinished, &file).map_err(LogError::io("sync", &unfinished))?;
    disk.rename(&unfinished, path).map_err(LogError::io("rename a file to", path))?;
    let dir = folder_of(path);
    disk.sync_dir(&dir).map_err(LogError::io("sync", &dir))
}

/// Makes a folder, with those above it where they are missing. When this returns its name is
/// durable.
pub(crate) fn create_dir(disk: &dyn Disk, dir: &Path) -> Result<(), LogError> {
    let parent = folder_of(dir);
    if !dir.is_dir() {
        if !parent.is_dir() {
            create_dir(disk, &parent)?;
        }
        fs::create_dir(dir).map_err(LogError::io("create", dir))?;
    }
    disk.sync_dir(&parent).map_err(LogError::io("sync", &parent))
}

/// Takes the exclusive lock of an open file or folder until the handle is dropped or the process
/// ends, however it ends.
pub(crate) fn lock(path: &Path, handle: File) -> Result<File, LogError> {
    match handle.try_lock() {
        Ok(()) => Ok(handle),
        Err(TryLockError::WouldBlock) => Err(LogError::Locked { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(LogError::io("lock", path)(source)),
    }
}

/// Takes the lock of a folder.
pub(crate) fn lock_dir(dir: &Path) -> Result<File, LogError> {
    lock(dir, File::open(dir).map_err(LogError::io("open", dir))?)
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        Some(_) => PathBuf::from("."),
        None => path.to_owned(),
    }
}
