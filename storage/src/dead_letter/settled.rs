//! Letters that need nobody's attention any more, because their event is in the log or another letter speaks for it.
//!
//! **Layout.** `<data>/dead-letter/settled/settled.log`: `"MRGNDLS1"`, then as `letters.log`. A payload is
//! the letter's id, 16 bytes, then its JSON `{"settled_time_us":…,"how":…}`. The letters of imports are
//! settled here too: their ids are made the same way.
//!
//! **Consistency.** Only whoever sends letters again writes here, and locks the folder while it does; the
//! server neither reads nor writes it. A letter is settled after the server's answer, so what stands here
//! is true, and what is true may be missing: then the event is sent once more and is a duplicate.
//!
//! **What a crash leaves behind.** What was recorded; a torn tail is cut by the next writer.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::file::{Entries, FileKind, lock_folder};
use super::letter::{LetterId, with_id};
use crate::log::{
    LogError,
    disk::{Disk, DiskLock, OsDisk},
    journal::Journal,
};

pub(super) const KIND: FileKind = FileKind { magic: b"MRGNDLS1", format: 2, max_payload_bytes: 64 * 1024 };

/// How a letter came to be settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// Its event is in the log: it was accepted, or was a duplicate.
    InLog,
    /// Its event was refused again for another reason, and that letter is kept.
    SupersededBy(LetterId),
}

/// What became of a letter, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settlement {
    /// When it was settled, in microseconds since 1970, UTC.
    pub settled_time_us: i64,
    /// How.
    pub how: How,
}

/// The writing end, held by the one process that sends letters again.
#[derive(Debug)]
pub struct SettledLetters {
    journal: Journal,
    settled: HashSet<LetterId>,
    _lock: DiskLock,
}

impl SettledLetters {
    /// Opens what is settled under `data_dir`, or creates an empty file of it.
    ///
    /// # Errors
    /// [`LogError::Locked`] when another process has it, [`LogError::Damaged`].
    pub fn open(data_dir: &Path) -> Result<Self, LogError> {
        Self::open_on(Arc::new(OsDisk), data_dir)
    }

    /// [`SettledLetters::open`] on the disk that a test brings.
    ///
    /// # Errors
    /// As [`SettledLetters::open`].
    pub fn open_on(disk: Arc<dyn Disk>, data_dir: &Path) -> Result<Self, LogError> {
        let path = path_in(data_dir);
        let lock = lock_folder(&*disk, &path)?;
        let mut settled = HashSet::new();
        let journal = KIND.recover(disk, path, |id, _| {
            settled.insert(id);
        })?;
        Ok(Self { journal, settled, _lock: lock })
    }

    /// Records letters as settled, with one write and one fdatasync; those that are already are left out. When this returns, it
    /// is durable.
    ///
    /// # Errors
    /// [`LogError::DiskFull`] with nothing recorded; [`LogError::Poisoned`] when the write or the sync failed.
    pub fn record(&mut self, letters: &[(LetterId, Settlement)]) -> Result<(), LogError> {
        let mut new = HashSet::new();
        let unknown = letters.iter().filter(|(id, _)| !self.settled.contains(id) && new.insert(*id));
        let payloads: Vec<_> = unknown.map(|(id, settlement)| with_id(*id, settlement)).collect();
        self.journal.append(payloads.iter().map(Vec::as_slice))?;
        self.settled.extend(new);
        Ok(())
    }

    /// Whether the letter is settled.
    #[must_use]
    pub fn contains(&self, id: LetterId) -> bool {
        self.settled.contains(&id)
    }
}

/// Streams what is settled under `data_dir`, oldest first, also while somebody adds to it.
///
/// # Errors
/// As [`read_all`](super::read_all).
pub fn read_settled(data_dir: &Path) -> Result<Entries<Settlement>, LogError> {
    let disk: Arc<dyn Disk> = Arc::new(OsDisk);
    Entries::read(&KIND, &disk, path_in(data_dir))
}

pub(super) fn path_in(data_dir: &Path) -> PathBuf {
    super::folder_in(data_dir).join("settled").join("settled.log")
}

#[cfg(test)]
mod tests {
    use std::io;

    use rand::{SeedableRng, rngs::StdRng};
    use serde_json::json;

    use super::*;
    use crate::dead_letter::DeadLetter;
    use crate::log::disk::{Fault, MemoryDisk, Survivors};

    const DATA: &str = "/data";

    fn id(user: &str) -> LetterId {
        DeadLetter { received_time_us: 7, field: "f".into(), reason: "r".into(), event: json!({ "user_id": user }) }.id()
    }

    fn settled(user: &str, how: How) -> (LetterId, Settlement) {
        (id(user), Settlement { settled_time_us: 7, how })
    }

    fn open(disk: &MemoryDisk) -> Result<SettledLetters, LogError> {
        SettledLetters::open_on(disk.process(), Path::new(DATA))
    }

    fn read(disk: &MemoryDisk) -> Vec<(LetterId, Settlement)> {
        let disk: Arc<dyn Disk> = disk.process();
        Entries::read(&KIND, &disk, path_in(Path::new(DATA))).unwrap().map(Result::unwrap).collect()
    }

    /// Proves the bytes of the file, that a repeat adds nothing, also after a restart, and that only one process writes.
    #[test]
    fn frozen_and_once() {
        let disk = MemoryDisk::new();
        let mut letters = open(&disk).unwrap();
        assert!(matches!(open(&disk), Err(LogError::Locked { .. })));
        let both = [settled("a", How::InLog), settled("b", How::SupersededBy(id("a")))];
        letters.record(&[both[0], both[0]]).unwrap();
        letters.record(&both).unwrap();
        drop(letters);
        let mut letters = open(&disk).unwrap();
        letters.record(&both).unwrap();
        assert!(letters.contains(id("a")) && letters.contains(id("b")) && !letters.contains(id("c")));
        assert_eq!(read(&disk), both);

        let bytes = disk.contents(&path_in(Path::new(DATA))).unwrap();
        assert_eq!(bytes[..12], *b"MRGNDLS1\x02\0\0\0");
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains(r#"{"settled_time_us":7,"how":"in_log"}"#), "{text}");
        assert!(text.contains(&format!(r#"{{"settled_time_us":7,"how":{{"superseded_by":"{}"}}}}"#, id("a"))), "{text}");
    }

    /// Proves that what was recorded outlives a power cut, whatever call failed before or after, and that nothing else is settled.
    #[test]
    fn a_crash_at_any_call() {
        let work = |disk: &MemoryDisk, recorded: &mut Vec<(LetterId, Settlement)>| -> Result<(), LogError> {
            let mut letters = open(disk)?;
            for user in ["a", "b"] {
                letters.record(&[settled(user, How::InLog)])?;
                recorded.push(settled(user, How::InLog));
            }
            Ok(())
        };
        let whole = MemoryDisk::new();
        work(&whole, &mut Vec::new()).unwrap();
        for (calls, seed) in (0..whole.changes()).flat_map(|calls| (0..10).map(move |seed| (calls, seed))) {
            for fault in [Fault::crash(), Fault::crash().half_way(), Fault::error(io::ErrorKind::Other)] {
                let disk = MemoryDisk::new();
                let mut recorded = Vec::new();
                disk.plan(fault.changing().after(calls));
                let _failed = work(&disk, &mut recorded);
                disk.clear_plan();
                disk.power_cut(Survivors::Drawn(&mut StdRng::seed_from_u64(seed)));
                drop(open(&disk).unwrap());
                let kept = read(&disk);
                assert!(kept.starts_with(&recorded) && kept.len() <= 2, "call {calls}, seed {seed}: {kept:?}, recorded {recorded:?}");
            }
        }
    }
}
