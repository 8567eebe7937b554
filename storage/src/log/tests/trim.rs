//! Removing old segments.

use std::io;

use rand::{SeedableRng, rngs::StdRng};

use super::{append, fresh, open, read_all, segment};
use crate::log::{
    LogError, PartitionLog,
    disk::{Call, Fault, MemoryDisk, Survivors},
};

/// A log of four closed segments of two records each, and one record in the active one.
fn four_closed() -> (MemoryDisk, PartitionLog) {
    let (disk, mut log) = fresh();
    for _ in 0..4 {
        append(&mut log, &["a", "b"]);
        log.roll().unwrap();
    }
    append(&mut log, &["c"]);
    (disk, log)
}

#[test]
fn only_what_lies_wholly_below_goes() {
    // Proves that trimming removes closed segments up to the edge asked for and no further, never
    // the active one, and that readers see where the log begins.
    let (disk, mut log) = four_closed();
    let reader = log.reader();
    assert_eq!(log.trim(1).unwrap(), []);
    assert_eq!(log.trim(5).unwrap(), [0..2, 2..4]);
    assert_eq!((reader.start(), reader.head()), (4, 9));
    assert_eq!(reader.segments().unwrap(), [4..6, 6..8, 8..9]);
    assert_eq!(log.sealed(), [4..6, 6..8]);
    assert!(matches!(reader.read(3..5), Err(LogError::NotInLog { wanted, available, .. }) if wanted == (3..5) && available == (4..9)));
    assert_eq!(reader.read(4..9).unwrap().count(), 5);
    assert_eq!(log.trim(i64::MAX).unwrap(), [4..6, 6..8]);
    drop(log);
    disk.power_cut(Survivors::None);
    let log = open(&disk).unwrap();
    assert_eq!((log.reader().start(), log.head()), (8, 9));
}

#[test]
fn a_crash_at_any_call_leaves_a_chain() {
    // Proves that whatever the last call of a trim is, and whichever removals reach the disk, the
    // log opens and holds everything from some edge on.
    for (calls, seed) in (0..12).flat_map(|calls| (0..30).map(move |seed| (calls, seed))) {
        for fault in [Fault::crash(), Fault::crash().afterwards(), Fault::error(io::ErrorKind::Other)] {
            let (disk, mut log) = four_closed();
            disk.plan(fault.changing().after(calls));
            let trimmed = log.trim(8);
            assert!(trimmed.is_err() || calls >= 8);
            // Another attempt must not make it worse.
            let _again = log.trim(8);
            disk.clear_plan();
            disk.power_cut(Survivors::Drawn(&mut StdRng::seed_from_u64(seed)));
            let log = open(&disk).unwrap_or_else(|e| panic!("call {calls}, seed {seed}: {e}"));
            let start = log.reader().start();
            assert!([0, 2, 4, 6, 8].contains(&start));
            assert_eq!(read_all(&log).unwrap().len() as i64, 9 - start);
        }
    }
}

#[test]
fn a_removal_that_failed_is_tried_again() {
    // Proves that a segment which could not be removed goes with the next attempt, also when it had
    // gone after all, and that a folder which could not be synced is left alone.
    for fault in [Fault::error(io::ErrorKind::Other), Fault::error(io::ErrorKind::Other).afterwards()] {
        let (disk, mut log) = four_closed();
        disk.plan(fault.on(Call::Remove));
        assert!(matches!(log.trim(4), Err(LogError::Io { .. })));
        assert_eq!(log.trim(4).unwrap(), [0..2, 2..4]);
    }
    let (disk, mut log) = four_closed();
    disk.plan(Fault::error(io::ErrorKind::Other).on(Call::SyncDir));
    assert!(matches!(log.trim(4), Err(LogError::Poisoned { .. })));
    let changes = disk.changes();
    assert!(matches!(log.trim(4), Err(LogError::Poisoned { .. })));
    assert_eq!(disk.changes(), changes);
    append(&mut log, &["goes on"]);
}

#[test]
fn a_reader_that_is_overtaken_is_told() {
    // Proves that a reader whose segment goes between the listing and the opening hears that it is
    // not in the log, that one which has it open finishes it, and that a file which merely is missing
    // is not taken for a trimmed one.
    let (disk, mut log) = four_closed();
    let reader = log.reader();
    let mut early = reader.read(0..9).unwrap();
    let mut late = reader.read(2..9).unwrap();
    assert_eq!(early.next().unwrap().unwrap().offset, 0);
    log.trim(4).unwrap();
    assert_eq!(early.next().unwrap().unwrap().offset, 1);
    for records in [&mut early, &mut late] {
        let error = records.next().unwrap().unwrap_err();
        assert!(matches!(error, LogError::NotInLog { ref available, .. } if *available == (4..9)), "{error}");
        assert!(records.next().is_none());
    }
    let mut records = reader.read(4..9).unwrap();
    disk.lose(&segment(4));
    assert!(matches!(records.next().unwrap(), Err(LogError::Io { path, .. }) if path == segment(4)));
}
