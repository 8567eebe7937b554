//! Finding damage in closed segments, and writing them afresh.

use std::io;

use rand::{SeedableRng, rngs::StdRng};

use super::{append, flip, fresh, open, open_folder, read_all, segment};
use crate::log::{
    LogError, PartitionLog,
    disk::{Fault, MemoryDisk, Survivors},
};

const RECORDS: [&str; 7] = ["zero", "one", "two", "three", "four", "five", "six"];

/// A log of the closed segments 0..2, 2..5 and 5..6.
fn three_closed() -> (MemoryDisk, PartitionLog) {
    let (disk, mut log) = fresh();
    for range in [0..2, 2..5, 5..6] {
        append(&mut log, &RECORDS[range]);
        log.roll().unwrap();
    }
    append(&mut log, &RECORDS[6..]);
    (disk, log)
}

fn records(range: std::ops::Range<usize>) -> impl Iterator<Item = &'static [u8]> {
    RECORDS[range].iter().map(|record| record.as_bytes())
}

fn everything() -> Vec<Vec<u8>> {
    records(0..7).map(<[u8]>::to_vec).collect()
}

fn is_damaged<T>(result: Result<T, LogError>, base: i64) -> bool {
    matches!(result, Err(LogError::Damaged { path, .. }) if path == segment(base))
}

#[test]
fn verify_reads_every_byte() {
    // Proves that a whole closed segment passes, that one with a byte too many, too few or wrong
    // does not, and that only closed segments can be asked for.
    let (disk, log) = three_closed();
    let reader = log.reader();
    for range in log.sealed() {
        reader.verify(range).unwrap();
    }
    for range in [6..7, 0..5, 2..4, 1..2] {
        assert!(matches!(reader.verify(range), Err(LogError::NotInLog { .. })));
    }
    let bytes = disk.contents(&segment(2)).unwrap();
    let mut spoilt = vec![bytes[..bytes.len() - 1].to_vec(), bytes[..bytes.len() - 16].to_vec(), [&bytes[..], b"x"].concat()];
    spoilt.extend((0..bytes.len()).map(|at| [&bytes[..at], &[!bytes[at]], &bytes[at + 1..]].concat()));
    for (case, spoilt) in spoilt.into_iter().enumerate() {
        disk.set_contents(&segment(2), &spoilt);
        let verified = reader.verify(2..5);
        assert!(matches!(verified, Err(LogError::Damaged { .. } | LogError::NewerFormat { .. })), "case {case}");
    }
}

#[test]
fn a_damaged_segment_is_replaced() {
    // Proves that a closed segment with a wrong bit anywhere reads and verifies again after it was
    // written afresh, while the log is open and after a restart.
    let (disk, mut log) = three_closed();
    let bytes = disk.contents(&segment(2)).unwrap();
    for bit in (0..bytes.len() * 8).step_by(11) {
        let mut spoilt = bytes.clone();
        flip(&mut spoilt, bit);
        disk.set_contents(&segment(2), &spoilt);
        assert!(log.reader().verify(2..5).is_err(), "bit {bit}");
        log.replace_closed(2..5, records(2..5)).unwrap();
        log.reader().verify(2..5).unwrap();
        assert_eq!(read_all(&log).unwrap(), everything());
    }
    drop(log);
    disk.power_cut(Survivors::None);
    assert_eq!(read_all(&open(&disk).unwrap()).unwrap(), everything());
}

#[test]
fn a_segment_that_keeps_the_log_shut_is_replaced() {
    // Proves that a missing closed segment, or one with a spoilt header, can be written afresh
    // though the partition cannot be opened; the oldest one too, if it is there.
    for (base, end) in [(0, 2), (2, 5), (5, 6)] {
        for lost in [false, true] {
            let (disk, log) = three_closed();
            drop(log);
            let mut bytes = disk.contents(&segment(base)).unwrap();
            flip(&mut bytes, 200);
            match lost {
                true => disk.lose(&segment(base)),
                false => disk.set_contents(&segment(base), &bytes),
            }
            if lost && base == 0 {
                // That is what a trimmed log looks like.
                assert_eq!(open(&disk).unwrap().reader().start(), 2);
                continue;
            }
            assert!(matches!(open(&disk), Err(LogError::Damaged { .. })));
            let folder = open_folder(&disk).unwrap();
            folder.replace_closed(0, base..end, records(base as usize..end as usize)).unwrap();
            let log = folder.partition(0).unwrap();
            assert!(matches!(folder.replace_closed(0, base..end, []), Err(LogError::Locked { .. })));
            assert_eq!(read_all(&log).unwrap(), everything());
            log.sealed().into_iter().for_each(|range| log.reader().verify(range).unwrap());
        }
    }
}

#[test]
fn only_the_same_range_replaces_a_segment() {
    // Proves that what is not the range of a closed segment, or has not its number of records,
    // changes nothing.
    let (disk, mut log) = three_closed();
    let changes = disk.changes();
    for range in [6..7, 0..5, 2..4, 1..2, 2..2] {
        let count = range.clone().count();
        assert!(matches!(log.replace_closed(range.clone(), records(0..count)), Err(LogError::NotInLog { .. })), "{range:?}");
    }
    for count in [2, 4] {
        let error = log.replace_closed(2..5, records(0..count)).unwrap_err();
        assert!(matches!(error, LogError::RecordCount { found, .. } if found == count as i64), "{error}");
    }
    assert_eq!(disk.changes(), changes);
}

#[test]
fn a_crash_leaves_the_old_one_or_the_new_one() {
    // Proves that replacing a segment may be cut short at any call: the log then opens, and what
    // was whole stays whole.
    for (calls, seed) in (0..6).flat_map(|calls| (0..30).map(move |seed| (calls, seed))) {
        for (fault, spoil) in [(Fault::crash(), true), (Fault::crash().half_way(), false), (Fault::error(io::ErrorKind::Other), false)] {
            let (disk, mut log) = three_closed();
            if spoil {
                let mut bytes = disk.contents(&segment(2)).unwrap();
                let last = bytes.len() * 8 - 200;
                flip(&mut bytes, last);
                disk.set_contents(&segment(2), &bytes);
            }
            disk.plan(fault.changing().after(calls));
            let replaced = log.replace_closed(2..5, records(2..5));
            disk.clear_plan();
            disk.power_cut(Survivors::Drawn(&mut StdRng::seed_from_u64(seed)));
            let log = open(&disk).unwrap_or_else(|e| panic!("call {calls}, seed {seed}: {e}"));
            match read_all(&log) {
                Ok(found) => assert_eq!(found, everything()),
                found => assert!(is_damaged(found, 2) && spoil && replaced.is_err(), "call {calls}, seed {seed}"),
            }
            assert!(!disk.files().iter().any(|path| path.extension().is_some_and(|end| end == "tmp")), "left over");
        }
    }
}
