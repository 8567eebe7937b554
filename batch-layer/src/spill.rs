//! The folder that the sort of a run spills into, and those that killed runs left: nobody else would ever remove them.
//!
//! A folder is its run's as long as the run holds the lock of the file in it, which ends with the process. Folders are made and
//! looked through under the lock of their parent, so that none is seen before it is locked itself.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use tempfile::TempDir;
use tracing::{info, warn};

const PREFIX: &str = "merganser-spill-";
/// In each folder.
const LOCK: &str = "LOCK";
/// Beside the folders.
const PARENT_LOCK: &str = "merganser-spill.lock";

/// A folder of our own, removed when it is dropped.
#[derive(Debug)]
pub(crate) struct SpillFolder {
    folder: TempDir,
    _lock: File,
}

impl SpillFolder {
    /// Makes one in `parent`, and removes there what dead runs left.
    ///
    /// # Errors
    /// It cannot be made. That others cannot be removed is logged.
    pub(crate) fn open(parent: &Path) -> io::Result<Self> {
        fs::create_dir_all(parent)?;
        let everybody = File::options().create(true).append(true).open(parent.join(PARENT_LOCK));
        let everybody = everybody.and_then(|file| file.lock().map(|()| file));
        match &everybody {
            Ok(_) => remove_abandoned(parent)?,
            // Another user's, perhaps; folders of his are none of ours.
            Err(error) => warn!(parent = %parent.display(), %error, "spill folders of dead runs are not looked for"),
        }
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent)?;
        let lock = File::create(folder.path().join(LOCK))?;
        lock.lock()?;
        Ok(Self { folder, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

fn remove_abandoned(parent: &Path) -> io::Result<()> {
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        // Whoever lives holds it.
        let is_abandoned = is_ours && File::open(entry.path().join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok());
        if is_abandoned {
            match fs::remove_dir_all(entry.path()) {
                Ok(()) => info!(folder = %entry.path().display(), "removed the spilled rows of a dead run"),
                Err(error) => warn!(folder = %entry.path().display(), %error, "the spilled rows of a dead run stay"),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that the folder of a run that died is removed by the next, that of one that lives is not, and nothing else is.
    #[test]
    fn abandoned() {
        let parent = tempfile::tempdir().unwrap();
        fs::create_dir(parent.path().join("merganser-other")).unwrap();
        let alive = SpillFolder::open(parent.path()).unwrap();
        let SpillFolder { folder, _lock: lock } = SpillFolder::open(parent.path()).unwrap();
        let dead = folder.keep();
        fs::write(dead.join("rows"), "spilled").unwrap();
        drop(lock);
        let next = SpillFolder::open(parent.path()).unwrap();
        assert!(!dead.exists() && alive.path().exists() && next.path().exists() && parent.path().join("merganser-other").exists());
        let path = next.path().to_owned();
        drop(next);
        assert!(!path.exists());
    }
}
