//! A little room kept back for the hour when the disk is full.
//!
//! **Layout.** `<log>/RESERVE`: an empty file for which the disk has set a mebibyte aside. A file
//! system that cannot do so keeps nothing back.
//!
//! **Consistency.** What must be written for the log to go on although the disk is full (a new
//! segment, the epoch) may use the room up; it is set aside again when there is some.
//!
//! **What a crash leaves behind.** The file or not; it has no meaning but its room.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use super::{LogError, disk::Disk, folder::LOG_DIR};

const RESERVE_BYTES: u64 = 1024 * 1024;
const RESERVE_FILE: &str = "RESERVE";

/// What room a log has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes that are free on its file system; absent where that does not tell.
    pub free_bytes: Option<u64>,
    /// Bytes that are kept back for a full disk; 0 once they are given up.
    pub reserve_bytes: u64,
}

impl Room {
    /// What the log under `data_dir` has now.
    #[must_use]
    pub fn of(disk: &dyn Disk, data_dir: &Path) -> Room {
        let reserve = data_dir.join(LOG_DIR).join(RESERVE_FILE);
        let is_kept = disk.exists(&reserve).unwrap_or(false);
        Room { free_bytes: disk.free_bytes(data_dir).ok(), reserve_bytes: if is_kept { RESERVE_BYTES } else { 0 } }
    }
}

/// The room kept back in a log's folder, shared by its partitions.
#[derive(Debug)]
pub(crate) struct Reserve {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    filled: Mutex<bool>,
}

impl Reserve {
    pub(crate) fn new(disk: Arc<dyn Disk>, log_dir: &Path) -> Reserve {
        Reserve { disk, path: log_dir.join(RESERVE_FILE), filled: Mutex::new(false) }
    }

    /// Sets the room aside, if it is not and there is any.
    pub(crate) fn fill(&self) {
        let mut filled = self.filled.lock().unwrap_or_else(PoisonError::into_inner);
        if *filled {
            return;
        }
        // The file of an earlier server has its room already.
        let file = self.disk.open_for_writing(&self.path).or_else(|_| self.disk.create(&self.path));
        let made = file.and_then(|file| self.disk.reserve(&file, RESERVE_BYTES));
        *filled = made.is_ok();
        if made.is_err() {
            // A part of the room is of no use here, and of some elsewhere.
            let _stays = self.disk.remove(&self.path);
        }
    }

    /// Does the work; where the disk is full, gives the room up and does it once more.
    ///
    /// # Errors
    /// What the work answers.
    pub(crate) fn spend_on<T>(&self, mut work: impl FnMut() -> Result<T, LogError>) -> Result<T, LogError> {
        match work() {
            Err(LogError::DiskFull { .. }) => {}
            other => return other,
        }
        let mut filled = self.filled.lock().unwrap_or_else(PoisonError::into_inner);
        *filled = false;
        tracing::warn!(path = %self.path.display(), "the disk is full: the room kept back is given up");
        // It may not be there, or may be of an earlier server.
        let _missing = self.disk.remove(&self.path);
        work()
    }
}
