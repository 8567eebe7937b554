//! Everything that the log and the dead letters do to files, in one place.
//!
//! Whatever they read or write goes through [`Disk`], so that a test can put another disk under
//! them: one that refuses the nth call, stops half way through a write, is full, or forgets at a
//! power cut what was not synced. [`OsDisk`] is the real one, [`MemoryDisk`] the one for tests and
//! simulations.
//!
//! **Consistency.** [`Disk::sync_data`] makes the bytes and the length of a file durable,
//! [`Disk::sync_dir`] the names in a folder. Nothing else is promised: a file may be there after a
//! power cut without its bytes, and bytes without their file.

use std::{
    fmt,
    fs::{self, File},
    io::{self, BufReader, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::LogError;

// A disk in memory that knows its page cache from its platter.
mod memory;
/// The calls for which the standard library has no word.
mod os;

pub use memory::{Call, Fault, MemoryDisk, Survivors};

/// Every call by which the log touches the disk. The provided methods are the real thing; a test
/// overrides some.
pub trait Disk: fmt::Debug + Send + Sync {
    /// Creates an empty file for writing, or empties the one that is there. Its name is durable
    /// after [`Disk::sync_dir`] of the folder.
    ///
    /// # Errors
    /// What the system answered.
    fn create(&self, path: &Path) -> io::Result<DiskFile> {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
        Ok(DiskFile::new(path, Handle::Os(file)))
    }

    /// Opens a file that is there, for reading.
    ///
    /// # Errors
    /// What the system answered.
    fn open(&self, path: &Path) -> io::Result<DiskFile> {
        Ok(DiskFile::new(path, Handle::Os(File::open(path)?)))
    }

    /// Opens a file that is there, for reading and writing.
    ///
    /// # Errors
    /// What the system answered.
    fn open_for_writing(&self, path: &Path) -> io::Result<DiskFile> {
        let file = File::options().read(true).write(true).open(path)?;
        Ok(DiskFile::new(path, Handle::Os(file)))
    }

    /// The length of the file in bytes.
    ///
    /// # Errors
    /// What the system answered.
    fn len(&self, file: &DiskFile) -> io::Result<u64> {
        Ok(file.os()?.metadata()?.len())
    }

    /// All bytes of the file at `path`.
    ///
    /// # Errors
    /// What the system answered.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    /// Fills `bytes` from byte `at` on, and returns how many there were: fewer only at the end of
    /// the file.
    ///
    /// # Errors
    /// What the system answered.
    fn read_at(&self, file: &DiskFile, at: u64, bytes: &mut [u8]) -> io::Result<usize> {
        os::read_at(file.os()?, at, bytes)
    }

    /// Writes all of `bytes` from byte `at` on.
    ///
    /// # Errors
    /// What the system answered; any part of `bytes` may have been written then.
    fn write_at(&self, file: &DiskFile, at: u64, bytes: &[u8]) -> io::Result<()> {
        file.os()?.write_all_at(bytes, at)
    }

    /// Cuts the file to `bytes` bytes, and gives back what was reserved beyond them.
    ///
    /// # Errors
    /// What the system answered.
    fn set_len(&self, file: &DiskFile, bytes: u64) -> io::Result<()> {
        file.os()?.set_len(bytes)
    }

    /// Sets room aside for the file up to byte `end_bytes`, without making it longer, so that
    /// writes below do not meet a full disk. Where the file system cannot do that, nothing happens.
    ///
    /// # Errors
    /// What the system answered; [`io::ErrorKind::StorageFull`] or [`io::ErrorKind::QuotaExceeded`]
    /// when there is no such room.
    fn reserve(&self, file: &DiskFile, end_bytes: u64) -> io::Result<()> {
        os::reserve(file.os()?, end_bytes)
    }

    /// How many bytes the file system of `dir` has for whoever is not its administrator.
    ///
    /// # Errors
    /// What the system answered; [`io::ErrorKind::Unsupported`] where it does not tell.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        os::free_bytes(dir)
    }

    /// Makes the file's bytes and length durable (fdatasync).
    ///
    /// # Errors
    /// What the system answered; the caller must not try again, since the second sync may succeed
    /// without the bytes.
    fn sync_data(&self, file: &DiskFile) -> io::Result<()> {
        file.os()?.sync_data()
    }

    /// Gives a file its final name, replacing what had it: after a crash the name is the old file
    /// or the new one. Durable after [`Disk::sync_dir`] of the folder.
    ///
    /// # Errors
    /// What the system answered.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    /// Removes a file. Durable after [`Disk::sync_dir`] of the folder.
    ///
    /// # Errors
    /// What the system answered.
    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    /// Makes the names in a folder durable.
    ///
    /// # Errors
    /// What the system answered.
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    /// Makes a folder in one that is there. Durable after [`Disk::sync_dir`] of the latter.
    ///
    /// # Errors
    /// What the system answered.
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir(dir)
    }

    /// What is in a folder, in no order.
    ///
    /// # Errors
    /// What the system answered.
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path())).collect()
    }

    /// Whether a file or folder is there.
    ///
    /// # Errors
    /// What the system answered.
    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    /// Takes the exclusive lock of a folder, or of a file, which is made where it is missing. It is
    /// held until it is dropped or the process ends, however it ends.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when somebody holds it; what the system answered.
    fn lock(&self, path: &Path) -> io::Result<DiskLock> {
        os::lock(path).map(|file| DiskLock { _held: Held::Os(file) })
    }
}

/// The disk that the operating system offers.
#[derive(Debug, Clone, Copy)]
pub struct OsDisk;

impl Disk for OsDisk {}

/// An open file, of whatever disk opened it.
#[derive(Debug)]
pub struct DiskFile {
    path: PathBuf,
    handle: Handle,
}

#[derive(Debug)]
enum Handle {
    Os(File),
    Memory(memory::OpenFile),
}

impl DiskFile {
    fn new(path: &Path, handle: Handle) -> DiskFile {
        DiskFile { path: path.to_owned(), handle }
    }

    /// The name under which it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn os(&self) -> io::Result<&File> {
        match &self.handle {
            Handle::Os(file) => Ok(file),
            Handle::Memory(_) => Err(other_disk()),
        }
    }
}

fn other_disk() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "the file was opened by another disk")
}

/// An exclusive lock; dropping it gives it back.
#[derive(Debug)]
pub struct DiskLock {
    _held: Held,
}

#[derive(Debug)]
enum Held {
    Os(#[expect(dead_code, reason = "held for its lock")] File),
    Memory(#[expect(dead_code, reason = "held for its lock")] memory::HeldLock),
}

/// Ends the names of files that are still being made; whoever lists a folder passes over them.
pub(crate) const UNFINISHED: &str = "tmp";

/// Makes a file that is, after any crash, there with all its bytes or not there at all; where there
/// was one, the old or the new. When this returns it is durable.
pub(crate) fn create_file(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), LogError> {
    let unfinished = path.with_extension(UNFINISHED);
    let file = disk.create(&unfinished).map_err(LogError::io("create", &unfinished))?;
    let written = disk.write_at(&file, 0, bytes).map_err(LogError::io("write", &unfinished));
    if let Err(e) = written {
        // What was written of it takes room that others may need; the next one overwrites it
        // anyway.
        let _kept = disk.remove(&unfinished);
        return Err(e);
    }
    disk.sync_data(&file).map_err(LogError::io("sync", &unfinished))?;
    disk.rename(&unfinished, path).map_err(LogError::io("rename a file to", path))?;
    let dir = folder_of(path);
    disk.sync_dir(&dir).map_err(LogError::io("sync", &dir))
}

/// Makes a folder, with those above it where they are missing. When this returns its name is
/// durable, and so are theirs, also where an earlier process made them and died before it could say
/// so.
pub(crate) fn create_dir(disk: &dyn Disk, dir: &Path) -> Result<(), LogError> {
    let parent = folder_of(dir);
    if parent == dir {
        return Ok(());
    }
    create_dir(disk, &parent)?;
    let existed = disk.exists(dir).map_err(LogError::io("look for", dir))?;
    if !existed {
        disk.create_dir(dir).map_err(LogError::io("create", dir))?;
    }
    match disk.sync_dir(&parent) {
        // Where we may not look, we have made nothing.
        Err(e) if existed && e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        synced => synced.map_err(LogError::io("sync", &parent)),
    }
}

/// [`Disk::lock`], with the error that says what to look for.
pub(crate) fn lock(disk: &dyn Disk, path: &Path) -> Result<DiskLock, LogError> {
    disk.lock(path).map_err(|e| match e.kind() {
        io::ErrorKind::WouldBlock => LogError::Locked { path: path.to_owned() },
        _ => LogError::io("lock", path)(e),
    })
}

/// Reads a file of a disk from front to back.
#[derive(Debug)]
pub(crate) struct FileReader {
    disk: Arc<dyn Disk>,
    file: DiskFile,
    at: u64,
}

/// Bytes that are read ahead.
const READ_AHEAD_BYTES: usize = 64 * 1024;

impl FileReader {
    /// Opens the file at `path` at its first byte.
    pub(crate) fn open(disk: &Arc<dyn Disk>, path: &Path) -> io::Result<BufReader<FileReader>> {
        let file = disk.open(path)?;
        Ok(BufReader::with_capacity(READ_AHEAD_BYTES, FileReader { disk: Arc::clone(disk), file, at: 0 }))
    }

    /// Everything from byte `at` on, as it is now.
    pub(crate) fn tail(&self, at: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        FileTail { disk: &*self.disk, file: &self.file, at }.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

impl Read for FileReader {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.disk.read_at(&self.file, self.at, bytes)?;
        self.at += read as u64;
        Ok(read)
    }
}

struct FileTail<'a> {
    disk: &'a dyn Disk,
    file: &'a DiskFile,
    at: u64,
}

impl Read for FileTail<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.disk.read_at(self.file, self.at, bytes)?;
        self.at += read as u64;
        Ok(read)
    }
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        Some(_) => PathBuf::from("."),
        None => path.to_owned(),
    }
}
