//! The log on a disk that fails, and on one that forgets.

use std::io;

use rand::{SeedableRng, rngs::StdRng};

use super::{fresh, open, read_all};
use crate::log::{
    LogError, PartitionLog,
    disk::{Call, Fault, MemoryDisk, Survivors},
};

const ALL: [&[u8]; 8] = [b"zero", b"one", b"two", b"three", b"four", b"five", b"six", b"seven"];

/// What a client knows.
#[derive(Debug)]
struct Known {
    acked: usize,
    /// What was or would have been appended, from offset 0 on.
    attempted: Vec<&'static [u8]>,
    /// Records below this offset may be gone.
    trimmed_to: i64,
}

impl Known {
    fn nothing() -> Known {
        Known { acked: 0, attempted: ALL.to_vec(), trimmed_to: 0 }
    }
}

/// Creates a log, appends, rolls, restarts, appends, rolls and trims.
fn work(disk: &MemoryDisk, known: &mut Known) -> Result<(), LogError> {
    let append = |known: &mut Known, log: &mut PartitionLog, payloads: [&'static [u8]; 2]| {
        log.append(payloads)?;
        known.acked += payloads.len();
        Ok::<_, LogError>(())
    };
    let mut log = open(disk)?;
    append(known, &mut log, [ALL[0], ALL[1]])?;
    append(known, &mut log, [ALL[2], ALL[3]])?;
    log.roll()?;
    append(known, &mut log, [ALL[4], ALL[5]])?;
    drop(log);
    let mut log = open(disk)?;
    append(known, &mut log, [ALL[6], ALL[7]])?;
    log.roll()?;
    known.trimmed_to = 8;
    log.trim(8)?;
    Ok(())
}

/// Checks that the log holds what was acknowledged and nothing that was not attempted, and goes on.
fn check(disk: &MemoryDisk, known: &Known, context: &str) {
    let mut log = open(disk).unwrap_or_else(|e| panic!("{context}: {e}"));
    let start = log.reader().start();
    assert!(start <= known.trimmed_to, "{context}: starts at {start}");
    let found = read_all(&log).unwrap_or_else(|e| panic!("{context}: {e}"));
    assert!(log.head() as usize >= known.acked, "{context}: acknowledged {known:?}, found {found:?} from {start}");
    assert_eq!(found, known.attempted[start as usize..log.head() as usize], "{context}");
    for closed in log.sealed() {
        log.reader().verify(closed).unwrap_or_else(|e| panic!("{context}: {e}"));
    }
    let head = log.head();
    assert_eq!(log.append([b"after".as_slice()]).unwrap(), head..head + 1, "{context}");
}

type Deed = (&'static str, fn() -> Fault);

/// What goes wrong at a call.
const DEEDS: [Deed; 6] = [
    ("fails", || Fault::error(io::ErrorKind::Other)),
    ("fails half way", || Fault::error(io::ErrorKind::Other).half_way()),
    ("fails, though done", || Fault::error(io::ErrorKind::Other).afterwards()),
    ("dies before", Fault::crash),
    ("dies half way", || Fault::crash().half_way()),
    ("dies after", || Fault::crash().afterwards()),
];

/// What happens after the call that failed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ending {
    /// The process dies; the page cache stays.
    Kill,
    /// What was not synced is gone.
    ForgetAll,
    /// Some of what was not synced is gone.
    ForgetSome(u64),
    /// A second process starts from the page cache, shows and acknowledges, and then the power goes.
    KillAndForgetAll,
    KillAndForgetSome(u64),
}

#[test]
fn a_crash_at_any_call_keeps_what_was_acknowledged() {
    // Proves rule 1: whatever call is the last, and however it ends, kill or power cut, every
    // acknowledged record is at its offset after the restart, and nothing else.
    let whole = MemoryDisk::new();
    work(&whole, &mut Known::nothing()).unwrap();
    let endings = [Ending::Kill, Ending::ForgetAll, Ending::KillAndForgetAll]
        .into_iter()
        .chain((0..12).map(Ending::ForgetSome))
        .chain((0..6).map(Ending::KillAndForgetSome));
    for ending in endings {
        for (calls, (deed, fault)) in (0..whole.changes()).flat_map(|calls| DEEDS.map(|deed| (calls, deed))) {
            let context = format!("change {calls} {deed}, then {ending:?}");
            let disk = MemoryDisk::new();
            let mut known = Known::nothing();
            disk.plan(fault().changing().after(calls));
            // A failure that costs nothing, such as that of a trailer, goes unnoticed.
            let result = work(&disk, &mut known);
            assert!(result.is_err() || !disk.crashed(), "{context}: nobody noticed");
            disk.clear_plan();
            disk.kill();
            if let Ending::KillAndForgetAll | Ending::KillAndForgetSome(_) = ending {
                let mut log = open(&disk).unwrap_or_else(|e| panic!("{context}: {e}"));
                let shown = log.head() as usize;
                assert!(shown >= known.acked, "{context}");
                log.append([b"restarted".as_slice()]).unwrap();
                known.acked = shown + 1;
                known.attempted.truncate(shown);
                known.attempted.push(b"restarted");
            }
            match ending {
                Ending::Kill => {}
                Ending::ForgetAll | Ending::KillAndForgetAll => disk.power_cut(Survivors::None),
                Ending::ForgetSome(seed) | Ending::KillAndForgetSome(seed) => {
                    disk.power_cut(Survivors::Drawn(&mut StdRng::seed_from_u64(seed * 1000 + calls)));
                }
            }
            check(&disk, &known, &context);
        }
    }
}

#[test]
fn a_crash_while_recovering_loses_nothing() {
    // Proves that recovery may itself be cut short at any call, after a power cut in the middle of
    // an append.
    for seed in 0..40 {
        for calls in 0.. {
            let context = format!("seed {seed}, change {calls}");
            let (disk, mut log) = fresh();
            log.append([ALL[0], ALL[1]]).unwrap();
            disk.plan(Fault::crash().on(Call::Sync));
            log.append(ALL[2..6].iter().copied()).unwrap_err();
            disk.clear_plan();
            disk.power_cut(Survivors::Drawn(&mut StdRng::seed_from_u64(seed)));
            disk.plan(Fault::crash().changing().after(calls));
            let opened = open(&disk).is_ok();
            let over = !disk.crashed();
            disk.clear_plan();
            disk.power_cut(Survivors::Drawn(&mut StdRng::seed_from_u64(seed + calls)));
            check(&disk, &Known { acked: 2, ..Known::nothing() }, &context);
            if opened && over {
                break;
            }
        }
    }
}

#[test]
fn a_failed_write_or_sync_poisons() {
    // Proves that after a failed write or sync nothing is acknowledged and nothing tried again,
    // while reading goes on.
    for call in [Call::Write, Call::Sync] {
        let (disk, mut log) = fresh();
        log.append([ALL[0]]).unwrap();
        disk.plan(Fault::error(io::ErrorKind::Other).on(call));
        let error = log.append([b"lost".as_slice()]).unwrap_err();
        assert!(matches!(error, LogError::Poisoned { .. }), "{error}");

        let changes = disk.changes();
        assert!(matches!(log.append([b"refused".as_slice()]), Err(LogError::Poisoned { .. })));
        assert!(matches!(log.roll(), Err(LogError::Poisoned { .. })));
        assert_eq!(disk.changes(), changes, "a poisoned log touched the disk");
        assert_eq!(log.head(), 1);
        assert_eq!(read_all(&log).unwrap(), [ALL[0]]);
        assert!(matches!(log.reader().read(0..2), Err(LogError::NotInLog { .. })));
        drop(log);

        disk.power_cut(Survivors::None);
        assert_eq!(read_all(&open(&disk).unwrap()).unwrap(), [ALL[0]]);
    }
}

#[test]
fn a_failed_trailer_costs_nothing() {
    // Proves that a trailer which cannot be written poisons nothing, and that the next append goes
    // on as if it had been.
    let (disk, mut log) = fresh();
    disk.plan(Fault::error(io::ErrorKind::Other).half_way().on(Call::Write).after(1));
    log.append([ALL[0]]).unwrap();
    log.append([ALL[1]]).unwrap();
    assert_eq!(log.roll().unwrap(), Some(0..2));
    log.reader().verify(0..2).unwrap();
    disk.power_cut(Survivors::None);
    assert_eq!(read_all(&open(&disk).unwrap()).unwrap(), [ALL[0], ALL[1]]);
}

#[test]
fn a_roll_that_did_not_come_about_poisons_nothing() {
    // Proves that a failure before the new segment has its name leaves the partition as it was, and
    // that one after it poisons.
    for (call, poisons) in [(Call::Create, false), (Call::Rename, false), (Call::SyncDir, true), (Call::Sync, true)] {
        let (disk, mut log) = fresh();
        log.append([ALL[0]]).unwrap();
        disk.plan(Fault::error(io::ErrorKind::Other).on(call));
        let error = log.roll().unwrap_err();
        assert_eq!(matches!(error, LogError::Poisoned { .. }), poisons, "{call:?}: {error}");
        assert_eq!(log.append([ALL[1]]).is_err(), poisons, "{call:?}");
        if !poisons {
            assert_eq!(log.roll().unwrap(), Some(0..2));
        }
    }
}

#[test]
fn what_recovery_shows_is_durable() {
    // Proves that a record which a failed sync left in the page cache alone, marked clean, is
    // either not shown after a restart or outlives a power cut.
    let (disk, mut log) = fresh();
    disk.plan(Fault::error(io::ErrorKind::Other).on(Call::Sync));
    log.append([b"in the cache".as_slice()]).unwrap_err();
    drop(log);
    let log = open(&disk).unwrap();
    let shown = read_all(&log).unwrap();
    assert_eq!(shown, [b"in the cache"]);
    drop(log);
    disk.power_cut(Survivors::None);
    assert_eq!(read_all(&open(&disk).unwrap()).unwrap(), shown);
}
