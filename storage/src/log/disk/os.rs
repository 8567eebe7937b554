//! The calls for which the standard library has no word.

use std::{
    fs::{File, TryLockError},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

/// Fills `bytes` from byte `at` on, as far as the file goes.
pub(super) fn read_at(file: &File, at: u64, bytes: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// `fallocate` without a change of the length; a file system that does not know it is left alone.
#[cfg(target_os = "linux")]
pub(super) fn reserve(file: &File, end_bytes: u64) -> io::Result<()> {
    use rustix::{
        fs::{FallocateFlags, fallocate},
        io::{Errno, retry_on_intr},
    };
    match retry_on_intr(|| fallocate(file, FallocateFlags::KEEP_SIZE, 0, end_bytes)) {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn reserve(_file: &File, _end_bytes: u64) -> io::Result<()> {
    Ok(())
}

/// Bytes of the file system that anybody may use (statvfs).
pub(super) fn free_bytes(dir: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(dir)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Takes the lock of a folder or a file (flock), which ends with the handle.
pub(super) fn lock(path: &Path) -> io::Result<File> {
    let file = match path.is_dir() {
        true => File::open(path)?,
        false => File::options().create(true).truncate(false).write(true).open(path)?,
    };
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
        Err(TryLockError::Error(source)) => Err(source),
    }
}
