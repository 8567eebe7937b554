//! The bytes on disk: frozen, cut short, and spoilt.

use std::{fs, path::PathBuf};

use super::{append, frame_bytes, open, read_all};
use crate::log::{LogError, LogId, frame, segment::HEADER_BYTES, segment::PartitionFolder};

const PAYLOADS: [&str; 3] = ["one", "", "three times three"];

/// A log of the three payloads in one segment, closed; its folder, the segment's path and the
/// segment's bytes.
fn three_records() -> (tempfile::TempDir, PathBuf, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    assert_eq!(append(&mut log, &PAYLOADS), 0..3);
    let path = log.dir().join("00000000000000000000.log");
    let bytes = fs::read(&path).unwrap();
    (dir, path, bytes)
}

/// Where each frame of [`three_records`] ends, the header's end first.
fn edges() -> Vec<usize> {
    let mut edges = vec![HEADER_BYTES];
    edges.extend(PAYLOADS.iter().scan(HEADER_BYTES, |end, payload| {
        *end += frame_bytes(payload);
        Some(*end)
    }));
    edges
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn segment_bytes_are_frozen() {
    // Proves that a release reads the segments of the one before: header and frame are, byte for
    // byte, what format 1 says.
    let dir = tempfile::tempdir().unwrap();
    let log_id: LogId = "000102030405060708090a0b0c0d0e0f".parse().unwrap();
    let folder = PartitionFolder { dir: dir.path().to_owned(), partition: 3, log_id };
    folder.create(&crate::log::disk::OsDisk, 4711, 42).unwrap();
    let header = fs::read(dir.path().join("00000000000000004711.log")).unwrap();
    assert_eq!(hex(&header), HEADER_HEX);

    let mut buffer = Vec::new();
    frame::encode(&mut buffer, 4711, b"merganser");
    assert_eq!(hex(&buffer), FRAME_HEX);
}

const HEADER_HEX: &str = concat!(
    "4d52474e4c4f4731",                 // MRGNLOG1
    "01000000",                         // format
    "03000000",                         // partition
    "6712000000000000",                 // base offset
    "2a00000000000000",                 // base offset of the segment before
    "000102030405060708090a0b0c0d0e0f", // log id
    "7cfcb6ab",                         // crc32c of the above
);

const FRAME_HEX: &str = concat!(
    "09000000",           // payload bytes
    "81917aaf",           // crc32c of offset and payload
    "6712000000000000",   // offset
    "6d657267616e736572", // merganser
);

#[test]
fn crc32c_is_castagnoli() {
    // Proves that the checksum is the one of RFC 3720, by its test vector, not just the same today
    // as yesterday.
    assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
}

#[test]
fn every_prefix_keeps_the_whole_frames() {
    // Proves that a tail torn at any byte costs exactly the frames it touches, and that the log
    // goes on from there.
    let edges = edges();
    let (_dir, _, bytes) = three_records();
    for cut in HEADER_BYTES..=bytes.len() {
        let (dir, path, _) = three_records();
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(cut as u64).unwrap();
        let whole = edges.iter().filter(|&&edge| edge <= cut).count() - 1;

        let mut log = open(dir.path()).unwrap();
        assert_eq!(log.head(), whole as i64, "cut at byte {cut}");
        assert_eq!(log.active_bytes(), edges[whole] as u64);
        assert_eq!(fs::metadata(&path).unwrap().len(), edges[whole] as u64);
        assert_eq!(append(&mut log, &["after"]), whole as i64..whole as i64 + 1);
        drop(log);

        let mut expected = PAYLOADS[..whole].to_vec();
        expected.push("after");
        let found = read_all(&open(dir.path()).unwrap()).unwrap();
        assert_eq!(found, expected.iter().map(|payload| payload.as_bytes()).collect::<Vec<_>>(), "cut at byte {cut}");
    }
}

#[test]
fn a_header_cut_short_is_damage() {
    // Proves that a segment without its whole header is refused: no crash leaves one, so nothing
    // may be cut.
    for cut in 0..HEADER_BYTES {
        let (dir, path, bytes) = three_records();
        fs::write(&path, &bytes[..cut]).unwrap();
        let error = open(dir.path()).unwrap_err();
        assert!(matches!(&error, LogError::Damaged { path: named, .. } if *named == path), "cut at {cut}: {error}");
        assert_eq!(fs::read(&path).unwrap(), &bytes[..cut], "a damaged file is left as it is");
    }
}

#[test]
fn every_flipped_bit_of_the_newest_segment_is_found() {
    // Proves that one wrong bit never becomes a wrong record: it is an error that changes nothing,
    // or, in the last frame, a cut.
    let (dir, path, bytes) = three_records();
    let last_frame = edges()[2];
    for bit in 0..bytes.len() * 8 {
        let mut spoilt = bytes.clone();
        spoilt[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &spoilt).unwrap();
        match open(dir.path()) {
            Ok(log) => {
                assert!(bit / 8 >= last_frame, "bit {bit} went unnoticed");
                assert_eq!(read_all(&log).unwrap(), [b"one".to_vec(), b"".to_vec()], "bit {bit}");
            }
            Err(LogError::Damaged { path: named, .. } | LogError::NewerFormat { path: named, .. }) => {
                assert!(bit / 8 < last_frame, "bit {bit} of the last frame looks like a torn tail");
                assert_eq!(named, path, "bit {bit}");
                assert_eq!(fs::read(&path).unwrap(), spoilt, "bit {bit}: a damaged file is left as it is");
            }
            Err(other) => panic!("bit {bit}: {other}"),
        }
    }
}

#[test]
fn every_flipped_bit_of_a_closed_segment_is_found() {
    // Proves the same for a closed segment, where there is no torn tail: opening or reading fails
    // and names the file.
    let (dir, path, bytes) = three_records();
    let mut log = open(dir.path()).unwrap();
    log.roll().unwrap();
    append(&mut log, &["four"]);
    drop(log);
    for bit in 0..bytes.len() * 8 {
        let mut spoilt = bytes.clone();
        spoilt[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &spoilt).unwrap();
        match open(dir.path()).and_then(|log| read_all(&log)).unwrap_err() {
            LogError::Damaged { path: named, .. } | LogError::NewerFormat { path: named, .. } => {
                assert_eq!(named, path)
            }
            other => panic!("bit {bit}: {other}"),
        }
    }
}

#[test]
fn a_failed_read_ends_after_the_records_before_it() {
    // Proves that a reader yields what it can vouch for, then one error, then nothing.
    let (dir, path, mut bytes) = three_records();
    let log = open(dir.path()).unwrap();
    bytes[edges()[1] + 8] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let mut records = log.reader().read(0..3).unwrap();
    assert_eq!(records.next().unwrap().unwrap().payload, b"one");
    let error = records.next().unwrap().unwrap_err();
    assert!(matches!(error, LogError::Damaged { byte, .. } if byte == edges()[1] as u64), "{error}");
    assert!(records.next().is_none());
}

#[test]
fn zeros_at_the_end_are_a_torn_tail() {
    // Proves that a tail of zeros, which a power cut may leave, is cut and not read as empty
    // records.
    let (dir, path, mut bytes) = three_records();
    bytes.resize(bytes.len() + 4096, 0);
    fs::write(&path, &bytes).unwrap();
    let log = open(dir.path()).unwrap();
    assert_eq!(log.head(), 3);
    assert_eq!(read_all(&log).unwrap().len(), 3);
}

#[test]
fn a_repeated_frame_is_damage() {
    // Proves that a valid frame of the wrong offset is refused, not skipped and not cut.
    let (dir, path, mut bytes) = three_records();
    let (from, to) = (edges()[0], edges()[1]);
    bytes.extend_from_within(from..to);
    fs::write(&path, &bytes).unwrap();
    let error = open(dir.path()).unwrap_err();
    assert!(matches!(error, LogError::Damaged { byte, .. } if byte == edges()[3] as u64), "{error}");
}
