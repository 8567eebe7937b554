//! Settled letters, and those of erased users, taken out of the file.
//!
//! **Consistency.** Both files are locked meanwhile, so that neither a server nor a replay runs beside it. A letter that is taken
//! out has its event in the log, or in the letter that stands for it, which stays.
//!
//! **What a crash leaves behind.** Each file is written beside and renamed, the letters first: after a crash a letter may be
//! gone whose settlement is still there, which means nothing.

use std::{collections::HashSet, path::Path, sync::Arc};

use super::file::{Entries, FileKind};
use super::letter::{DeadLetter, LetterId, with_id};
use super::settled::{self, SettledLetters, Settlement};
use super::{DeadLetters, KIND, path_in};
use crate::log::{
    LogError,
    disk::{self, Disk, OsDisk},
    journal,
};

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Letters that were taken out.
    pub removed: usize,
    /// Letters that stay.
    pub kept: usize,
}

/// Takes settled letters, and those that `is_gone` names, out of the file under `data_dir`. A row that is refused again later is then a new
/// letter.
///
/// # Errors
/// [`LogError::Locked`] while a server or a replay runs there; what reading and writing can end in, with both files as before or
/// as after.
pub fn prune(data_dir: &Path, is_gone: impl Fn(&DeadLetter) -> bool) -> Result<Pruned, LogError> {
    prune_on(Arc::new(OsDisk), data_dir, is_gone)
}

/// [`prune`] on the disk that a test brings.
///
/// # Errors
/// As [`prune`].
pub fn prune_on(disk: Arc<dyn Disk>, data_dir: &Path, is_gone: impl Fn(&DeadLetter) -> bool) -> Result<Pruned, LogError> {
    let path = path_in(data_dir);
    if !disk.exists(&path).map_err(LogError::io("look for", &path))? {
        return Ok(Pruned::default());
    }
    let _letters = DeadLetters::open_on(Arc::clone(&disk), data_dir)?;
    let settled = SettledLetters::open_on(Arc::clone(&disk), data_dir)?;

    let (mut removed, mut kept) = (HashSet::new(), Vec::new());
    for letter in Entries::<DeadLetter>::read(&KIND, &disk, path.clone())? {
        let (id, letter) = letter?;
        if settled.contains(id) || is_gone(&letter) {
            removed.insert(id);
        } else {
            kept.push(with_id(id, &letter));
        }
    }
    if !removed.is_empty() {
        write(&KIND, &*disk, &path, &kept)?;
        // Settlements of the letters of imports stay: those letters do.
        let path = settled::path_in(data_dir);
        let entries = Entries::<Settlement>::read(&settled::KIND, &disk, path.clone())?;
        let rest = entries.filter(|entry| !entry.as_ref().is_ok_and(|(id, _)| removed.contains(id)));
        let payload = |(id, settlement): (LetterId, Settlement)| with_id(id, &settlement);
        let rest = rest.map(|entry| entry.map(payload)).collect::<Result<Vec<_>, _>>()?;
        write(&settled::KIND, &*disk, &path, &rest)?;
    }
    Ok(Pruned { removed: removed.len(), kept: kept.len() })
}

/// Puts a file with these payloads in the place of the one that is there.
fn write(kind: &FileKind, disk: &dyn Disk, path: &Path, payloads: &[Vec<u8>]) -> Result<(), LogError> {
    let mut bytes = kind.header();
    let coding = kind.shape(path, &bytes)?.coding;
    let next = journal::encode_batch(&mut bytes, coding, 0, payloads.iter().map(Vec::as_slice))?;
    bytes.extend(journal::trailer(coding, next));
    disk::create_file(disk, path, &bytes)
}

#[cfg(test)]
mod tests {
    use std::io;

    use rand::{SeedableRng, rngs::StdRng};
    use serde_json::json;

    use super::super::{How, read_all_on};
    use super::*;
    use crate::log::disk::{Fault, MemoryDisk, Survivors};

    const DATA: &str = "/data";

    fn letter(user: u32) -> DeadLetter {
        DeadLetter { received_time_us: 7, field: "f".into(), reason: "r".into(), event: json!({ "user_id": user }) }
    }

    /// Six letters, of which the even ones are settled, and the settlement of an import's letter.
    fn prepare(disk: &MemoryDisk) {
        let letters: Vec<_> = (0..6).map(letter).collect();
        DeadLetters::open_on(disk.process(), Path::new(DATA)).unwrap().record(&letters).unwrap();
        let settled: Vec<_> = [0, 2, 4, 99].map(|user| (letter(user).id(), Settlement { settled_time_us: 7, how: How::InLog })).into();
        SettledLetters::open_on(disk.process(), Path::new(DATA)).unwrap().record(&settled).unwrap();
    }

    fn kept(disk: &MemoryDisk) -> Vec<DeadLetter> {
        read_all_on(disk.process(), Path::new(DATA)).unwrap().map(|letter| letter.unwrap().1).collect()
    }

    /// Proves that settled letters and their settlements go, that all else stays, that the file takes letters as before, and that
    /// it is refused while a server or a replay has the files.
    #[test]
    fn settled_letters_go() {
        let (disk, dir) = (MemoryDisk::new(), Path::new(DATA));
        assert_eq!(prune_on(disk.process(), dir, |_| false).unwrap(), Pruned::default());
        prepare(&disk);
        let server = DeadLetters::open_on(disk.process(), dir).unwrap();
        assert!(matches!(prune_on(disk.process(), dir, |_| false), Err(LogError::Locked { .. })));
        drop(server);
        let replay = SettledLetters::open_on(disk.process(), dir).unwrap();
        assert!(matches!(prune_on(disk.process(), dir, |_| false), Err(LogError::Locked { .. })));
        drop(replay);

        assert_eq!(prune_on(disk.process(), dir, |_| false).unwrap(), Pruned { removed: 3, kept: 3 });
        assert_eq!(kept(&disk), [letter(1), letter(3), letter(5)]);
        let settled = SettledLetters::open_on(disk.process(), dir).unwrap();
        assert!(settled.contains(letter(99).id()) && !settled.contains(letter(0).id()));
        drop(settled);
        let mut server = DeadLetters::open_on(disk.process(), dir).unwrap();
        assert_eq!(server.record(&[letter(0), letter(1)]).unwrap(), 1);
        assert_eq!(kept(&disk), [letter(1), letter(3), letter(5), letter(0)]);
    }

    /// Proves that no outstanding letter is lost, whatever call fails or is the last before a power cut.
    #[test]
    fn a_crash_at_any_call() {
        let whole = MemoryDisk::new();
        prepare(&whole);
        let before = whole.changes();
        prune_on(whole.process(), Path::new(DATA), |_| false).unwrap();
        for (calls, seed) in (0..whole.changes() - before).flat_map(|calls| (0..10).map(move |seed| (calls, seed))) {
            for fault in [Fault::crash(), Fault::crash().half_way(), Fault::error(io::ErrorKind::Other)] {
                let disk = MemoryDisk::new();
                prepare(&disk);
                disk.plan(fault.changing().after(calls));
                let _failed = prune_on(disk.process(), Path::new(DATA), |_| false);
                disk.clear_plan();
                disk.power_cut(Survivors::Drawn(&mut StdRng::seed_from_u64(seed)));
                drop(DeadLetters::open_on(disk.process(), Path::new(DATA)).unwrap());
                let kept = kept(&disk);
                let all: Vec<_> = (0..6).map(letter).collect();
                assert!(kept == [letter(1), letter(3), letter(5)] || kept == all, "call {calls}, seed {seed}: {kept:?}");
                prune_on(disk.process(), Path::new(DATA), |_| false).unwrap();
            }
        }
    }
}
