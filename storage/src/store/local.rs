//! Objects as files of a local folder, written so that they survive power loss.
//!
//! # Layout
//! An object's path is the path of its file below the root. A write goes to a *staged* file beside its target, named
//! `<target>#<digits>`: names of that form are no objects, `object_store` does not list them.
//!
//! # Consistency
//! A target appears complete or not at all: `rename` where it may replace, `link` where it must not.
//!
//! # What a crash leaves behind
//! Staged files, which nobody reads. File and folders up to the root are synced before a commit returns, the folders each
//! time: another writer may have made one and not yet have synced it.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use object_store::path::Path as ObjectPath;

use super::PutOutcome;

/// Creates the root folder if need be, durably, and returns its absolute path.
pub(super) fn open_root(folder: &Path) -> io::Result<PathBuf> {
    let folder = std::path::absolute(folder)?;
    let existing = folder.ancestors().find(|a| a.exists()).unwrap_or(&folder).to_path_buf();
    fs::create_dir_all(&folder)?;
    // One further than what is new: an earlier start may have crashed between making the folder and syncing the one above.
    let top = existing.parent().unwrap_or(&existing);
    for above in folder.ancestors().take_while(|a| a.starts_with(top)) {
        match sync_folder(above) {
            // Somebody with more rights made what is inside.
            Err(e) if e.kind() == ErrorKind::PermissionDenied && above == top => {}
            synced => synced?,
        }
    }
    folder.canonicalize()
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Syncs `folder` and the folders above it, the root included.
fn sync_folders(root: &Path, folder: &Path) -> io::Result<()> {
    folder.ancestors().take_while(|a| a.starts_with(root)).try_for_each(sync_folder)
}

/// Removes the file of an object; it may be absent.
pub(super) fn remove(root: &Path, path: &ObjectPath) -> io::Result<()> {
    let target = root.join(path.as_ref());
    match fs::remove_file(&target) {
        Ok(()) => sync_folder(target.parent().expect("an object lies below the root")),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// Removes staged files below `folder` that were last written to before `before`. The removal need not survive anything, so
/// nothing is synced.
pub(super) fn remove_staged(folder: &Path, before: SystemTime) -> io::Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            removed += remove_staged(&entry.path(), before)?;
        } else if kind.is_file() && is_staged(&entry.file_name()) {
            // Its writer may be done with it meanwhile.
            let old = entry.metadata().and_then(|metadata| metadata.modified()).is_ok_and(|modified| modified < before);
            removed += usize::from(old && fs::remove_file(entry.path()).is_ok());
        }
    }
    Ok(removed)
}

fn is_staged(name: &OsStr) -> bool {
    let digits = name.to_str().and_then(|name| name.rsplit_once('#')).map(|(_, digits)| digits);
    digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}

/// A file on its way to becoming an object. Dropped uncommitted, it is removed.
#[derive(Debug)]
pub(super) struct Staged {
    file: File,
    staged: PathBuf,
    target: PathBuf,
    root: PathBuf,
}

/// What a commit does if the target exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Existing {
    /// The target is replaced.
    Replace,
    /// The target stays as it is.
    Keep,
}

impl Staged {
    /// Opens an empty staged file for the object `path` and makes the folders above it.
    pub(super) fn create(root: &Path, path: &ObjectPath) -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let target = root.join(path.as_ref());
        fs::create_dir_all(target.parent().expect("an object lies below the root"))?;
        loop {
            let serial = NEXT.fetch_add(1, Ordering::Relaxed);
            let mut staged = target.clone().into_os_string();
            staged.push(format!("#{}{serial:010}", std::process::id()));
            match OpenOptions::new().write(true).create_new(true).open(&staged) {
                Ok(file) => return Ok(Self { file, staged: staged.into(), target, root: root.to_path_buf() }),
                // Left behind by an earlier process of the same id.
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Turns the staged file into the object. When this returns, the object survives power loss, also one that `Keep` found
    /// there already.
    pub(super) fn commit(self, existing: Existing) -> io::Result<PutOutcome> {
        self.file.sync_all()?;
        let outcome = match existing {
            Existing::Replace => fs::rename(&self.staged, &self.target).map(|()| PutOutcome::Created)?,
            Existing::Keep => match fs::hard_link(&self.staged, &self.target) {
                Ok(()) => PutOutcome::Created,
                Err(e) if e.kind() == ErrorKind::AlreadyExists => PutOutcome::Exists,
                Err(e) => return Err(e),
            },
        };
        sync_folders(&self.root, self.target.parent().expect("an object lies below the root"))?;
        Ok(outcome)
    }
}

impl Write for Staged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After a rename there is nothing left to remove; after a crash the collector does it.
        let _ = fs::remove_file(&self.staged);
    }
}
