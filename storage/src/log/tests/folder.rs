//! The folder as a whole: locks, identity, the chain of segments, ranges.

use std::fs;

use super::{append, open, read_all};
use crate::log::{LogError, LogFolder, LogId, MAX_RECORD_BYTES};

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
    let dir = tempfile::tempdir().unwrap();
    append(&mut open(dir.path()).unwrap(), &["one"]);
    let path = dir.path().join("log/LOG");
    fs::write(&path, br#"{"format":2,"shards":7}"#).unwrap();
    assert!(matches!(open(dir.path()), Err(LogError::NewerFormat { found: 2, known: 1, .. })));
    fs::write(&path, "").unwrap();
    assert!(matches!(open(dir.path()), Err(LogError::Damaged { .. })));
    fs::remove_file(&path).unwrap();
    assert!(matches!(open(dir.path()), Err(LogError::Damaged { .. })));
}

#[test]
fn a_spoilt_log_id_is_found() {
    // Proves that the segments vouch for the log's id: another id in LOG is damage, not another
    // log.
    let dir = tempfile::tempdir().unwrap();
    append(&mut open(dir.path()).unwrap(), &["one"]);
    let path = dir.path().join("log/LOG");
    let spoilt = fs::read_to_string(&path).unwrap().replacen(r#"id":""#, r#"id":"#, 1);
    assert!(fs::write(&path, spoilt).is_ok() && matches!(open(dir.path()), Err(LogError::Damaged { .. })));
    let other = r#"{"format":1,"log_id":"00000000000000000000000000000000","partitions":1}"#;
    fs::write(&path, other).unwrap();
    assert!(matches!(open(dir.path()), Err(LogError::Damaged { .. })));
}

#[test]
fn a_missing_or_foreign_segment_is_found() {
    // Proves that a hole in the chain is found on opening, that trimming the oldest is none, and
    // that a segment of another log is no link.
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    for payload in ["zero", "one", "two"] {
        append(&mut log, &[payload]);
        log.roll().unwrap();
    }
    assert_eq!(log.sealed(), [0..1, 1..2, 2..3]);
    let segment = |base: i64| log.dir().join(format!("{base:020}.log"));
    let (oldest, middle, newest) = (segment(0), segment(1), segment(3));
    drop(log);

    let bytes = fs::read(&middle).unwrap();
    fs::remove_file(&middle).unwrap();
    assert!(matches!(open(dir.path()), Err(LogError::Damaged { .. })), "a segment is missing");

    let other_dir = tempfile::tempdir().unwrap();
    let mut other = open(other_dir.path()).unwrap();
    append(&mut other, &["other"]);
    other.roll().unwrap();
    fs::copy(other.dir().join("00000000000000000001.log"), &middle).unwrap();
    assert!(matches!(open(dir.path()), Err(LogError::Damaged { .. })), "a segment of another log");

    fs::write(&middle, bytes).unwrap();
    fs::remove_file(&oldest).unwrap();
    let log = open(dir.path()).unwrap();
    assert_eq!(read_all(&log).unwrap(), [b"one", b"two"]);
    assert!(matches!(log.reader().read(0..2), Err(LogError::NotInLog { available, .. }) if available == (1..3)));
    drop(log);

    fs::write(newest.with_extension("tmp"), "unfinished").unwrap();
    assert_eq!(open(dir.path()).unwrap().head(), 3, "an unfinished file is passed over");
}

#[test]
fn a_closed_segment_cut_at_a_frame_is_found() {
    // Proves that a closed segment that lost whole frames fails the read that needs them: a failed
    // read is never a short one.
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    append(&mut log, &["zero", "one"]);
    log.roll().unwrap();
    append(&mut log, &["two"]);
    let path = log.dir().join("00000000000000000000.log");
    let whole = fs::metadata(&path).unwrap().len();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(whole - super::frame_bytes("one") as u64).unwrap();
    let error = read_all(&log).unwrap_err();
    assert!(matches!(error, LogError::Damaged { path: named, .. } if named == path));
}

#[test]
fn ranges_are_half_open_and_checked() {
    // Proves that a read yields exactly its range, and refuses one that the log does not hold.
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
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
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    let (largest, too_large) = (vec![7; MAX_RECORD_BYTES], vec![7; MAX_RECORD_BYTES + 1]);
    let before = log.active_bytes();
    assert!(matches!(log.append([b"x".as_slice(), &too_large]), Err(LogError::RecordTooLarge { .. })));
    assert_eq!((log.head(), log.active_bytes()), (0, before));
    log.append([largest.as_slice()]).unwrap();
    drop(log);
    assert_eq!(read_all(&open(dir.path()).unwrap()).unwrap(), [largest]);
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
