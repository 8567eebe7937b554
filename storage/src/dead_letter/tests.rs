//! What the dead letters promise.

use std::{fs, io, path::Path};

use rand::{SeedableRng, rngs::StdRng};

use serde_json::json;

use super::{DeadLetter, DeadLetters, file::HEADER_BYTES, read_all, read_all_on};
use crate::log::{
    LogError,
    disk::{Fault, MemoryDisk, Survivors},
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

    assert_eq!(letters.bytes(), HEADER_BYTES as u64 + letter("1").file_bytes() + letter("2").file_bytes());
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

const DATA: &str = "/data";
const FILE: &str = "/data/dead-letter/letters.log";

fn open(disk: &MemoryDisk) -> Result<DeadLetters, LogError> {
    DeadLetters::open_on(disk.process(), Path::new(DATA))
}

fn read(disk: &MemoryDisk) -> Result<Vec<DeadLetter>, LogError> {
    read_all_on(disk.process(), Path::new(DATA))?.map(|letter| letter.map(|(_, letter)| letter)).collect()
}

fn bytes_on(disk: &MemoryDisk) -> Vec<u8> {
    disk.contents(Path::new(FILE)).unwrap()
}

fn small(received_time_us: i64) -> DeadLetter {
    DeadLetter { received_time_us, field: "f".into(), reason: "r".into(), event: json!({}) }
}

fn bytes_of(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn file_bytes_are_frozen() {
    // Proves that a release reads the letters of the one before, and adds to them in their format.
    let disk = MemoryDisk::new();
    open(&disk).unwrap().record(&[small(7)]).unwrap();
    let hex: String = bytes_on(&disk).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, FILE_2_HEX);

    let disk = MemoryDisk::new();
    disk.set_contents(Path::new(FILE), &bytes_of(FILE_1_HEX));
    let mut letters = open(&disk).unwrap();
    assert_eq!(letters.count(), 1);
    letters.record(&[letter("2")]).unwrap();
    assert!(bytes_on(&disk).starts_with(&bytes_of(FILE_1_HEX)));
    assert_eq!(read(&disk).unwrap(), [small(7), letter("2")]);
    drop(letters);
    assert_eq!(open(&disk).unwrap().count(), 2);
}

const FILE_1_HEX: &str = concat!(
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

const FILE_2_HEX: &str = concat!(
    "4d52474e444c5131",                 // MRGNDLQ1
    "02000000",                         // format
    "5e261ab4",                         // crc32c of the above
    "4a0000c0",                         // start, payload bytes
    "ba15fb66",                         // crc32c of header, length, number and payload
    "0000000000000000",                 // number
    "d7a706230cef20c8136cb3afc93da635", // id
    // {"received_time_us":7,"field":"f","reason":"r","event":{}}
    "7b2272656365697665645f74696d655f7573223a372c226669656c6422",
    "3a2266222c22726561736f6e223a2272222c226576656e74223a7b7d7d",
    "000000a0",         // trailer
    "f6634e03",         // crc32c of header, length and number
    "0100000000000000", // next number
);

#[test]
fn a_torn_tail_is_the_end_for_readers_and_cut_by_the_writer() {
    // Proves, for every prefix, that readers see the whole letters and change nothing, and that the
    // next server goes on after them.
    let disk = MemoryDisk::new();
    let mut letters = open(&disk).unwrap();
    let mut edges = vec![HEADER_BYTES];
    for id in ["1", "2", "3"] {
        letters.record(&[letter(id)]).unwrap();
        edges.push(bytes_on(&disk).len() - 16);
    }
    drop(letters);
    let bytes = bytes_on(&disk);
    for cut in HEADER_BYTES..=bytes.len() {
        disk.set_contents(Path::new(FILE), &bytes[..cut]);
        let whole = edges.iter().filter(|&&edge| edge <= cut).count() - 1;
        assert_eq!(read(&disk).unwrap().len(), whole, "cut at byte {cut}");
        assert_eq!(bytes_on(&disk).len(), cut, "reading changes nothing");

        let mut letters = open(&disk).unwrap();
        assert_eq!(letters.count(), whole, "cut at byte {cut}");
        for id in ["1", "2", "3"] {
            letters.record(&[letter(id)]).unwrap();
        }
        drop(letters);
        assert_eq!(bytes_on(&disk), bytes, "cut at byte {cut}");
    }
}

#[test]
fn every_flipped_bit_is_found() {
    // Proves that one wrong bit in any letter, the last one too, is an error for readers and writer
    // alike, never a wrong letter; in the trailer it costs nothing.
    let disk = MemoryDisk::new();
    let mut letters = open(&disk).unwrap();
    letters.record(&[letter("1")]).unwrap();
    letters.record(&[letter("2")]).unwrap();
    drop(letters);
    let bytes = bytes_on(&disk);
    for bit in 0..bytes.len() * 8 {
        let mut spoilt = bytes.clone();
        spoilt[bit / 8] ^= 1 << (bit % 8);
        disk.set_contents(Path::new(FILE), &spoilt);
        let read = read(&disk).map(|letters| letters.len());
        for result in [read, open(&disk).map(|letters| letters.count())] {
            match result {
                Ok(count) => assert!(bit / 8 >= bytes.len() - 16 && count == 2, "bit {bit} went unnoticed"),
                Err(LogError::Damaged { .. } | LogError::NewerFormat { .. }) => assert!(bit / 8 < bytes.len() - 16, "bit {bit}"),
                Err(other) => panic!("bit {bit}: {other}"),
            }
        }
    }
}

#[test]
fn a_full_disk_refuses_and_recovers() {
    // Proves that a letter for which there is no room is refused whole, and kept when there is some,
    // without a restart.
    let disk = MemoryDisk::new();
    let mut letters = open(&disk).unwrap();
    for room in 0..200 {
        disk.set_contents(Path::new("/filler"), b"");
        disk.set_capacity(Some(disk.used_bytes() + room));
        let id = room.to_string();
        while letters.record(&[letter(&id)]).is_err() {
            let refused = letters.record(&[letter(&id)]);
            assert!(matches!(refused, Err(LogError::DiskFull { .. })), "{refused:?}");
            disk.set_capacity(None);
        }
    }
    drop(letters);
    disk.power_cut(Survivors::None);
    assert_eq!(open(&disk).unwrap().count(), 200);
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
    let work = |disk: &MemoryDisk, recorded: &mut Vec<DeadLetter>| -> Result<(), LogError> {
        let mut letters = open(disk)?;
        for id in ["1", "2"] {
            letters.record(&[letter(id)])?;
            recorded.push(letter(id));
        }
        Ok(())
    };
    let whole = MemoryDisk::new();
    work(&whole, &mut Vec::new()).unwrap();
    for (calls, seed) in (0..whole.changes()).flat_map(|calls| (0..20).map(move |seed| (calls, seed))) {
        for fault in [Fault::crash(), Fault::crash().half_way(), Fault::error(io::ErrorKind::Other)] {
            let context = format!("call {calls}, seed {seed}, {fault:?}");
            let disk = MemoryDisk::new();
            let mut recorded = Vec::new();
            disk.plan(fault.changing().after(calls));
            let result = work(&disk, &mut recorded);
            disk.clear_plan();
            if seed % 2 == 1 {
                assert!(result.is_err() || recorded.len() == 2, "{context}");
                disk.kill();
                recorded.clear();
                work(&disk, &mut recorded).unwrap();
            }
            disk.power_cut(Survivors::Drawn(&mut StdRng::seed_from_u64(seed)));
            open(&disk).unwrap_or_else(|e| panic!("{context}: {e}"));
            assert!(read(&disk).unwrap().starts_with(&recorded), "{context}: lost {recorded:?}");
        }
    }
}
