//! Dead letters: rows that were refused, kept with their reason before the sender is told.
//!
//! **Layout.** `<data>/dead-letter/letters.log`: `"MRGNDLQ1" | format u32 | crc32c u32`, little
//! endian, then the frames of the log, one a letter, numbered from 0, and a trailer. A payload is the
//! letter's id, 16 bytes, then its JSON `{"received_time_us":…,"field":…,"reason":…,"event":…}`. New
//! files have format 2; one of format 1 keeps it. Which letters need nobody's attention any more stands
//! beside it, in `settled/settled.log` ([`SettledLetters`]). Rows that an import refused are in the
//! object store ([`ImportLetters`]).
//!
//! **Consistency.** A letter is known by what was refused and why, not by when: the same row
//! refused again for the same reason is not kept again, so that repeating a load changes nothing.
//! The ids are held in memory, 16 bytes a letter, and the file is read whole on opening.
//!
//! **What a crash leaves behind.** As in the log: what was recorded is there, a torn tail is cut
//! when the server opens the file. Readers take no lock and change nothing; to them a torn tail is
//! the end.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::log::{
    LogError,
    disk::{Disk, DiskLock, OsDisk},
    journal::Journal,
};

/// Of erased users, in what imports refused.
mod erased;
/// Files of frames that begin with a letter's id.
mod file;
/// Rows that imports refused.
mod imports;
/// A refused row and its id.
mod letter;
/// Settled letters, taken out.
mod prune;
/// Letters that are dealt with.
mod settled;
#[cfg(test)]
mod tests;

pub use erased::{forget_erased, is_erased};
pub use file::Entries;
pub use imports::ImportLetters;
pub use letter::{DeadLetter, LetterId};
pub use prune::{Pruned, prune, prune_on};
pub use settled::{How, SettledLetters, Settlement, read_settled};

use file::FileKind;

/// The largest letter in bytes: an event of 4 MiB, the most that a request can bring, with every
/// byte escaped in JSON, and its reason.
pub const MAX_LETTER_BYTES: usize = 32 * 1024 * 1024;

const KIND: FileKind = FileKind { magic: b"MRGNDLQ1", format: 2, max_payload_bytes: MAX_LETTER_BYTES };

/// The letters of a file, oldest first; see [`read_all`].
pub type Letters = Entries<DeadLetter>;

/// The writing end, held by the one server of the data folder.
#[derive(Debug)]
pub struct DeadLetters {
    journal: Journal,
    known: HashSet<LetterId>,
    _lock: DiskLock,
}

impl DeadLetters {
    /// Opens the dead letters under `data_dir`, or creates an empty file of them.
    ///
    /// # Errors
    /// [`LogError::Locked`] when another writer has them, [`LogError::Damaged`] when something
    /// invalid has a valid letter behind it.
    pub fn open(data_dir: &Path) -> Result<DeadLetters, LogError> {
        DeadLetters::open_on(Arc::new(OsDisk), data_dir)
    }

    /// [`DeadLetters::open`] on the disk that a test brings.
    ///
    /// # Errors
    /// As [`DeadLetters::open`].
    pub fn open_on(disk: Arc<dyn Disk>, data_dir: &Path) -> Result<DeadLetters, LogError> {
        let path = path_in(data_dir);
        let lock = file::lock_folder(&*disk, &path)?;
        let mut known = HashSet::new();
        let journal = KIND.recover(disk, path, |id, _| {
            known.insert(id);
        })?;
        Ok(DeadLetters { journal, known, _lock: lock })
    }

    /// Keeps the letters that are not known yet, with one write and one fdatasync, and returns how
    /// many these were. When this returns, all of `letters` are durable. Where all are known it
    /// costs no I/O.
    ///
    /// # Errors
    /// [`LogError::RecordTooLarge`] over [`MAX_LETTER_BYTES`] and [`LogError::DiskFull`], with nothing
    /// kept; [`LogError::Poisoned`] when the write or the sync failed, and for every new letter after
    /// that.
    pub fn record(&mut self, letters: &[DeadLetter]) -> Result<usize, LogError> {
        let mut new = HashSet::new();
        let mut payloads = Vec::new();
        for letter in letters {
            let id = letter.id();
            if !self.known.contains(&id) && new.insert(id) {
                payloads.push(letter::with_id(id, letter));
            }
        }
        if payloads.is_empty() {
            return Ok(0);
        }
        self.journal.append(payloads.iter().map(Vec::as_slice))?;
        self.known.extend(&new);
        Ok(new.len())
    }

    /// Whether a letter of this id is kept.
    pub fn contains(&self, id: LetterId) -> bool {
        self.known.contains(&id)
    }

    /// How many letters are kept.
    pub fn count(&self) -> usize {
        self.known.len()
    }

    /// What the letters take in the file.
    pub fn bytes(&self) -> u64 {
        self.journal.end_bytes()
    }
}

/// Streams the letters under `data_dir`, oldest first, also while a server adds to them; none where
/// nothing was ever refused.
///
/// # Errors
/// [`LogError::Damaged`] or [`LogError::NewerFormat`] for the header; the iterator yields
/// [`LogError::Damaged`] with the byte when something invalid has a valid letter behind it, and
/// then ends.
pub fn read_all(data_dir: &Path) -> Result<Letters, LogError> {
    read_all_on(Arc::new(OsDisk), data_dir)
}

/// [`read_all`] on the disk that a test brings.
///
/// # Errors
/// As [`read_all`].
pub fn read_all_on(disk: Arc<dyn Disk>, data_dir: &Path) -> Result<Letters, LogError> {
    Entries::read(&KIND, &disk, path_in(data_dir))
}

fn folder_in(data_dir: &Path) -> PathBuf {
    data_dir.join("dead-letter")
}

fn path_in(data_dir: &Path) -> PathBuf {
    folder_in(data_dir).join("letters.log")
}
