//! The folder as a whole: locks, identity, the chain of segments, ranges.

use std::path::Path;

use super::{ID, append, fresh, open, open_folder, read_all, segment};
use crate::log::{
    LogError, LogFolder, LogId, MAX_RECORD_BYTES,
    disk::{Call, MemoryDisk},
};

#[test]
fn a_second_server_is_refused() {
    // Proves that one folder has one server and one partition one writer, and that both are free
    // again when these are gone.
    let dir = tempfile::tempdir().unwrap();
    let folder = LogFolder::open(dir.path(), 2).unwrap();
    assert!(matches!(LogFolder::open(dir.path(), 2), Err(LogError::Locked { .. })));
    let first = folder.partition(0).unwrap();
    assert!(matches!(folder.partition(0), Err(LogError::Locked { .. })));
    drop(first);
    folder.partition(0).unwrap();
    drop(folder);
    LogFolder::open(dir.path(), 2).unwrap();
}

#[test]
fn identity_is_kept_and_checked() {
    // Proves that a log keeps its id and its number of partitions, and that the refusal names both
    // numbers.
    let dir = tempfile::tempdir().unwrap();
    let id = LogFolder::open(dir.path(), 2).unwrap().log_id();
    assert_eq!(open_folder(&MemoryDisk::new()).unwrap().log_id(), ID);
    let other_dir = tempfile::tempdir().unwrap();
    assert_ne!(LogFolder::open(other_dir.path(), 2).unwrap().log_id(), id);
    assert_eq!(LogFolder::open(dir.path(), 2).unwrap().log_id(), id);
    let error = LogFolder::open(dir.path(), 3).unwrap_err();
    assert!(matches!(error, LogError::PartitionCount { found: 2, asked: 3, .. }), "{error}");
    let folder = LogFolder::open(dir.path(), 2).unwrap();
    assert!(matches!(folder.partition(2), Err(LogError::UnknownPartition { partition: 2, partitions: 2 })));
    assert_eq!(folder.partition(1).unwrap().partition(), 1);
}

#[test]
fn a_lost_or_newer_identity_is_refused() {
    // Proves that records are never given a new identity, and that a newer format is refused by its
    // number.
    let (disk, mut log) = fresh();
    append(&mut log, &["one"]);
    drop(log);
    let path = Path::new("/data/log/LOG");
    disk.set_contents(path, br#"{"format":2,"shards":7}"#);
    assert!(matches!(open(&disk), Err(LogError::NewerFormat { found: 2, known: 1, .. })));
    disk.set_contents(path, b"");
    assert!(matches!(open(&disk), Err(LogError::Damaged { .. })));
    disk.lose(path);
    let writes = disk.counts()[&Call::Write];
    assert!(matches!(open(&disk), Err(LogError::Damaged { .. })));
    assert_eq!(disk.counts()[&Call::Write], writes);
}

#[test]
fn the_epoch_only_goes_up() {
    // Proves that every opening has an epoch of its own, that new segments carry it, and that a log
    // whose epoch was put back is refused.
    let (disk, mut log) = fresh();
    let path = Path::new("/data/log/EPOCH");
    assert_eq!(log.epoch(), 1);
    let old = disk.contents(path).unwrap();
    assert_eq!(old, br#"{"format":1,"epoch":1}"#);
    append(&mut log, &["one"]);
    drop(log);
    for epoch in 2..5 {
        assert_eq!(open_folder(&disk).unwrap().epoch(), epoch);
    }
    let mut log = open(&disk).unwrap();
    log.roll().unwrap();
    assert_eq!(disk.contents(&segment(1)).unwrap()[48], 5);
    drop(log);
    disk.set_contents(path, &old);
    let error = open(&disk).unwrap_err();
    assert!(matches!(&error, LogError::Damaged { path, .. } if *path == segment(1)), "{error}");
    for spoilt in ["", "{}", r#"{"format":1,"epoch":-7}"#, r#"{"format":1,"epoch":9223372036854775807}"#] {
        disk.set_contents(path, spoilt.as_bytes());
        assert!(matches!(open(&disk), Err(LogError::Damaged { .. })), "{spoilt}");
    }
}

#[test]
fn a_spoilt_log_id_is_found() {
    // Proves that the segments vouch for the log's id: another id in LOG is damage, not another
    // log.
    let (disk, mut log) = fresh();
    append(&mut log, &["one"]);
    drop(log);
    let path = Path::new("/data/log/LOG");
    let spoilt = String::from_utf8(disk.contents(path).unwrap()).unwrap().replacen(r#"id":""#, r#"id":"#, 1);
    disk.set_contents(path, spoilt.as_bytes());
    assert!(matches!(open(&disk), Err(LogError::Damaged { .. })));
    disk.set_contents(path, br#"{"format":1,"log_id":"00000000000000000000000000000000","partitions":1}"#);
    assert!(matches!(open(&disk), Err(LogError::Damaged { .. })));
}

#[test]
fn a_missing_or_foreign_segment_is_found() {
    // Proves that a hole in the chain is found on opening, that trimming the oldest is none, and
    // that a segment of another log is no link.
    let (disk, mut log) = fresh();
    for payload in ["zero", "one", "two"] {
        append(&mut log, &[payload]);
        log.roll().unwrap();
    }
    assert_eq!(log.sealed(), [0..1, 1..2, 2..3]);
    drop(log);

    let bytes = disk.contents(&segment(1)).unwrap();
    disk.lose(&segment(1));
    assert!(matches!(open(&disk), Err(LogError::Damaged { .. })), "a segment is missing");

    let other_disk = MemoryDisk::new();
    let other = LogFolder::open_on(other_disk.process(), Path::new("/data"), 1, LogId::from_bytes([1; 16])).unwrap();
    let mut other = other.partition(0).unwrap();
    append(&mut other, &["other"]);
    other.roll().unwrap();
    disk.set_contents(&segment(1), &other_disk.contents(&segment(1)).unwrap());
    assert!(matches!(open(&disk), Err(LogError::Damaged { .. })), "a segment of another log");

    disk.set_contents(&segment(1), &bytes);
    disk.lose(&segment(0));
    let log = open(&disk).unwrap();
    assert_eq!(read_all(&log).unwrap(), [b"one", b"two"]);
    assert!(matches!(log.reader().read(0..2), Err(LogError::NotInLog { available, .. }) if available == (1..3)));
    drop(log);

    disk.set_contents(&segment(3).with_extension("tmp"), b"unfinished");
    assert_eq!(open(&disk).unwrap().head(), 3, "an unfinished file is passed over");
    assert!(disk.contents(&segment(3).with_extension("tmp")).is_none(), "and removed");
}

#[test]
fn a_closed_segment_cut_at_a_frame_is_found() {
    // Proves that a closed segment that lost whole frames fails the read that needs them: a failed
    // read is never a short one.
    let (disk, mut log) = fresh();
    append(&mut log, &["zero", "one"]);
    log.roll().unwrap();
    append(&mut log, &["two"]);
    let whole = disk.contents(&segment(0)).unwrap();
    let cut = whole.len() - super::TRAILER_BYTES - super::frame_bytes("one");
    disk.set_contents(&segment(0), &whole[..cut]);
    let error = read_all(&log).unwrap_err();
    assert!(matches!(error, LogError::Damaged { path: named, .. } if named == segment(0)));
}

#[test]
fn ranges_are_half_open_and_checked() {
    // Proves that a read yields exactly its range, and refuses one that the log does not hold.
    let (_disk, mut log) = fresh();
    assert_eq!(log.roll().unwrap(), None, "an empty segment is not closed");
    assert_eq!(append(&mut log, &["zero", "one"]), 0..2);
    assert_eq!(log.append([]).unwrap(), 2..2);
    assert_eq!(log.roll().unwrap(), Some(0..2));
    assert_eq!(append(&mut log, &["two"]), 2..3);
    assert_eq!((log.head(), log.active_base()), (3, 2));

    let reader = log.reader();
    assert_eq!(reader.segments().unwrap(), [0..2, 2..3]);
    let read = |range| reader.read(range).unwrap().map(|record| record.unwrap().offset).collect::<Vec<_>>();
    assert_eq!(read(1..3), [1, 2]);
    assert_eq!(read(2..3), [2]);
    assert_eq!(read(1..1), [] as [i64; 0]);
    assert!(matches!(reader.read(2..4), Err(LogError::NotInLog { available, .. }) if available == (0..3)));
    append(&mut log, &["three"]);
    assert_eq!(reader.read(2..4).unwrap().count(), 2, "a reader follows the writer");
}

#[test]
fn a_record_too_large_costs_nothing() {
    // Proves that an oversized record refuses its batch before a byte is written, and that the
    // largest one passes.
    let (disk, mut log) = fresh();
    let (largest, too_large) = (vec![7; MAX_RECORD_BYTES], vec![7; MAX_RECORD_BYTES + 1]);
    let before = log.active_bytes();
    assert!(matches!(log.append([b"x".as_slice(), &too_large]), Err(LogError::RecordTooLarge { .. })));
    assert_eq!((log.head(), log.active_bytes()), (0, before));
    log.append([largest.as_slice()]).unwrap();
    drop(log);
    assert_eq!(read_all(&open(&disk).unwrap()).unwrap(), [largest]);
}

#[test]
fn log_ids_are_strict() {
    // Proves that an id survives text and JSON, and that what merely resembles one is refused.
    let id = LogId::from_bytes(*b"\x00123456789abcde\xff");
    assert_eq!(id.to_string().parse::<LogId>().unwrap(), id);
    assert_eq!(serde_json::from_str::<LogId>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
    for text in ["", "00", "+0000000000000000000000000000000", "0000000000000000000000000000000G", "000000000000000000000000000000AB"] {
        assert!(text.parse::<LogId>().is_err(), "{text:?}");
    }
}
