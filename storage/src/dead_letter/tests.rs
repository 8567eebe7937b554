//! What the dead letters promise.

use std::{fs, io, path::Path, sync::Arc};

use serde_json::json;

use super::{DeadLetter, DeadLetters, HEADER_BYTES, read_all};
use crate::log::{
    LogError,
    disk::Disk,
    tests::failing_disk::{FailingDisk, FastDisk},
};

fn letter(event_id: &str) -> DeadLetter {
    DeadLetter {
        received_time_us: 1_763_735_000_000_000,
        field: "user_id".into(),
        reason: "must not be empty".into(),
        event: json!({"event_id": event_id, "user_id": "", "attributes": {"b": [1.5, null], "a": "x"}}),
    }
}

fn kept(dir: &Path) -> Vec<DeadLetter> {
    read_all(dir).unwrap().map(|letter| letter.unwrap().1).collect()
}

fn bytes_in(dir: &Path) -> Vec<u8> {
    fs::read(dir.join("dead-letter/letters.log")).unwrap()
}

#[test]
fn a_repeat_changes_nothing() {
    // Proves that the same row refused again, later, in the same batch or after a restart, leaves
    // the file as it was.
    let dir = tempfile::tempdir().unwrap();
    assert!(kept(dir.path()).is_empty(), "no file is no letters");
    let mut letters = DeadLetters::open(dir.path()).unwrap();
    assert_eq!(letters.record(&[letter("1"), letter("2"), letter("1")]).unwrap(), 2);
    let before = bytes_in(dir.path());

    let later = DeadLetter { received_time_us: 0, ..letter("2") };
    assert_eq!(letters.record(&[later.clone(), letter("1")]).unwrap(), 0);
    drop(letters);
    let mut letters = DeadLetters::open(dir.path()).unwrap();
    assert_eq!((letters.count(), letters.record(&[later]).unwrap()), (2, 0));
    assert_eq!(bytes_in(dir.path()), before);

    let other_reason = DeadLetter { reason: "too long".into(), ..letter("1") };
    assert_eq!(letters.record(std::slice::from_ref(&other_reason)).unwrap(), 1);
    assert_eq!(kept(dir.path()), [letter("1"), letter("2"), other_reason]);
}

#[test]
fn the_id_is_frozen() {
    // Proves that an id depends on event, field and reason in their canonical JSON and on nothing
    // else.
    let canonical = r#"[{"attributes":{"a":"x","b":[1.5,null]},"event_id":"1","user_id":""},"user_id","must not be empty"]"#;
    let hash = blake3::hash(canonical.as_bytes()).to_hex();
    assert_eq!(letter("1").id().to_string(), hash[..32]);
    assert_ne!(letter("1").id(), letter("2").id());
}

#[test]
fn file_bytes_are_frozen() {
    // Proves that a release reads the letters of the one before.
    let dir = tempfile::tempdir().unwrap();
    let small = DeadLetter { received_time_us: 7, field: "f".into(), reason: "r".into(), event: json!({}) };
    DeadLetters::open(dir.path()).unwrap().record(&[small]).unwrap();
    let hex: String = bytes_in(dir.path()).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, FILE_HEX);
}

const FILE_HEX: &str = concat!(
    "4d52474e444c5131",                 // MRGNDLQ1
    "01000000",                         // format
    "67af38d6",                         // crc32c of the above
    "4a000000",                         // payload bytes
    "ccdb264b",                         // crc32c of number and payload
    "0000000000000000",                 // number
    "d7a706230cef20c8136cb3afc93da635", // id
    // {"received_time_us":7,"field":"f","reason":"r","event":{}}
    "7b2272656365697665645f74696d655f7573223a372c226669656c6422",
    "3a2266222c22726561736f6e223a2272222c226576656e74223a7b7d7d",
);

#[test]
fn a_torn_tail_is_the_end_for_readers_and_cut_by_the_writer() {
    // Proves, for every prefix, that readers see the whole letters and change nothing, and that the
    // next server goes on after them.
    let dir = tempfile::tempdir().unwrap();
    let mut letters = DeadLetters::open_on(Arc::new(FastDisk), dir.path()).unwrap();
    let mut edges = vec![HEADER_BYTES];
    for id in ["1", "2", "3"] {
        letters.record(&[letter(id)]).unwrap();
        edges.push(bytes_in(dir.path()).len());
    }
    drop(letters);
    let bytes = bytes_in(dir.path());
    for cut in HEADER_BYTES..=bytes.len() {
        fs::write(dir.path().join("dead-letter/letters.log"), &bytes[..cut]).unwrap();
        let whole = edges.iter().filter(|&&edge| edge <= cut).count() - 1;
        assert_eq!(kept(dir.path()).len(), whole, "cut at byte {cut}");
        assert_eq!(bytes_in(dir.path()).len(), cut, "reading changes nothing");

        let mut letters = DeadLetters::open_on(Arc::new(FastDisk), dir.path()).unwrap();
        assert_eq!(letters.count(), whole, "cut at byte {cut}");
        assert_eq!(letters.record(&[letter("1"), letter("2"), letter("3")]).unwrap(), 3 - whole);
        drop(letters);
        assert_eq!(bytes_in(dir.path()), bytes, "cut at byte {cut}");
    }
}

#[test]
fn every_flipped_bit_is_found() {
    // Proves that one wrong bit before the last letter is an error for readers and writer alike,
    // never a wrong letter.
    let dir = tempfile::tempdir().unwrap();
    let mut letters = DeadLetters::open_on(Arc::new(FastDisk), dir.path()).unwrap();
    letters.record(&[letter("1")]).unwrap();
    let last = bytes_in(dir.path()).len();
    letters.record(&[letter("2")]).unwrap();
    drop(letters);
    let bytes = bytes_in(dir.path());
    for bit in 0..last * 8 {
        let mut spoilt = bytes.clone();
        spoilt[bit / 8] ^= 1 << (bit % 8);
        fs::write(dir.path().join("dead-letter/letters.log"), &spoilt).unwrap();
        let read = read_all(dir.path()).and_then(|letters| letters.collect::<Result<Vec<_>, _>>());
        for error in [read.unwrap_err(), DeadLetters::open_on(Arc::new(FastDisk), dir.path()).unwrap_err()] {
            let named = matches!(error, LogError::Damaged { .. } | LogError::NewerFormat { .. });
            assert!(named, "bit {bit}: {error}");
        }
    }
}

#[test]
fn one_writer_many_readers() {
    // Proves that a second writer is refused while a reader sees what the first one has recorded so
    // far.
    let dir = tempfile::tempdir().unwrap();
    let mut letters = DeadLetters::open(dir.path()).unwrap();
    assert!(matches!(DeadLetters::open(dir.path()), Err(LogError::Locked { .. })));
    letters.record(&[letter("1")]).unwrap();
    assert_eq!(kept(dir.path()), [letter("1")]);
    letters.record(&[letter("2")]).unwrap();
    assert_eq!(kept(dir.path()).len(), 2);
}

#[test]
fn a_crash_at_any_call_keeps_what_was_recorded() {
    // Proves that a letter whose recording returned outlives a power cut, whatever call failed
    // before or after, also across a restart from the page cache.
    let work = |disk: &Arc<FailingDisk>, dir: &Path| {
        let mut recorded = Vec::new();
        let mut run = || -> Result<(), LogError> {
            let mut letters = DeadLetters::open_on(Arc::clone(disk) as Arc<dyn Disk>, dir)?;
            for id in ["1", "2"] {
                letters.record(&[letter(id)])?;
                recorded.push(letter(id));
            }
            Ok(())
        };
        let result = run();
        (recorded, result)
    };
    let whole = FailingDisk::failing_after(usize::MAX, io::ErrorKind::Other);
    work(&whole, tempfile::tempdir().unwrap().path()).1.unwrap();
    for (calls, restart) in (0..whole.calls()).flat_map(|calls| [(calls, false), (calls, true)]) {
        let dir = tempfile::tempdir().unwrap();
        let disk = FailingDisk::failing_after(calls, io::ErrorKind::Other);
        let (mut recorded, result) = work(&disk, dir.path());
        assert!(result.is_err(), "call {calls} did not fail");
        if restart {
            disk.fail_after(usize::MAX);
            let (again, result) = work(&disk, dir.path());
            result.unwrap();
            recorded = again;
        }
        disk.cut_power();
        DeadLetters::open(dir.path()).unwrap();
        assert!(kept(dir.path()).starts_with(&recorded), "call {calls}, restart {restart}: lost {recorded:?}");
    }
}
