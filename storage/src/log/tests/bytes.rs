//! The bytes on disk: frozen, cut short, and spoilt.

use std::path::Path;

use super::{HEADER_BYTES, ID, SegmentHeader, TRAILER_BYTES, append, flip, frame_bytes, fresh, hex, open, read_all, segment};
use crate::log::{
    LogError, PartitionLog,
    disk::MemoryDisk,
    frame::{Coding, Format, Kind},
    journal::Shape,
    recovery::scan,
};

const PAYLOADS: [&str; 3] = ["one", "", "three times three"];

/// A log of the three payloads in one segment, closed by its server; and the segment's bytes.
fn three_records() -> (MemoryDisk, Vec<u8>) {
    let (disk, mut log) = fresh();
    assert_eq!(append(&mut log, &PAYLOADS), 0..3);
    let bytes = disk.contents(&segment(0)).unwrap();
    (disk, bytes)
}

/// Where each frame of [`three_records`] ends, the header's end first.
fn edges(header_bytes: usize) -> Vec<usize> {
    let mut edges = vec![header_bytes];
    edges.extend(PAYLOADS.iter().scan(header_bytes, |end, payload| {
        *end += frame_bytes(payload);
        Some(*end)
    }));
    edges
}

fn header(epoch: Option<i64>) -> SegmentHeader {
    let log_id = "000102030405060708090a0b0c0d0e0f".parse().unwrap();
    SegmentHeader { partition: 3, base: 4711, previous: 42, log_id, epoch }
}

fn frames(shape: Shape) -> Vec<u8> {
    let mut buffer = Vec::new();
    shape.coding.encode(&mut buffer, Kind::Start, 4711, b"merganser");
    if shape.coding.format != Format::One {
        shape.coding.encode(&mut buffer, Kind::Record, 4712, b"");
        shape.coding.encode(&mut buffer, Kind::Trailer, 4713, b"");
    }
    buffer
}

#[test]
fn segment_bytes_are_frozen() {
    // Proves that a release reads the segments of the one before: header and frames are, byte for
    // byte, what formats 1 and 2 say, and are read back as what they are.
    for (epoch, header_hex, frames_hex) in [(None, HEADER_1_HEX, FRAME_1_HEX), (Some(7), HEADER_2_HEX, FRAMES_2_HEX)] {
        let header = header(epoch);
        assert_eq!(hex(&header.encode()), header_hex);
        assert_eq!(hex(&frames(header.shape())), frames_hex);
        assert_eq!(SegmentHeader::parse(Path::new("x"), &header.encode()).unwrap(), header);
        let mut bytes = header.encode();
        bytes.extend(frames(header.shape()));
        let mut payloads = Vec::new();
        let whole = scan(Path::new("x"), &bytes, header.shape(), |payload| {
            payloads.push(payload.to_vec());
            Ok(())
        });
        assert_eq!(whole.unwrap().torn_bytes, 0);
        assert_eq!(payloads[0], b"merganser");
    }
}

const HEADER_1_HEX: &str = concat!(
    "4d52474e4c4f4731",                 // MRGNLOG1
    "01000000",                         // format
    "03000000",                         // partition
    "6712000000000000",                 // base offset
    "2a00000000000000",                 // base offset of the segment before
    "000102030405060708090a0b0c0d0e0f", // log id
    "7cfcb6ab",                         // crc32c of the above
);

const FRAME_1_HEX: &str = concat!(
    "09000000",           // payload bytes
    "81917aaf",           // crc32c of offset and payload
    "6712000000000000",   // offset
    "6d657267616e736572", // merganser
);

const HEADER_2_HEX: &str = concat!(
    "4d52474e4c4f4731",                 // MRGNLOG1
    "02000000",                         // format
    "03000000",                         // partition
    "6712000000000000",                 // base offset
    "2a00000000000000",                 // base offset of the segment before
    "000102030405060708090a0b0c0d0e0f", // log id
    "0700000000000000",                 // epoch
    "822499af",                         // crc32c of the above
);

const FRAMES_2_HEX: &str = concat!(
    "090000c0",           // start, payload bytes
    "d5073d4a",           // crc32c of header, length, offset and payload
    "6712000000000000",   // offset
    "6d657267616e736572", // merganser
    "00000080",           // record
    "76aab79b",           // crc32c
    "6812000000000000",   // offset
    "000000a0",           // trailer
    "eff09c38",           // crc32c
    "6912000000000000",   // next offset
);

#[test]
fn crc32c_is_castagnoli() {
    // Proves that the checksum is the one of RFC 3720, by its test vector, not just the same today
    // as yesterday.
    assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
}

/// Puts a log of the three payloads in format 1 on a disk, as a release before this one left it.
fn format_1(records: usize) -> (MemoryDisk, Vec<u8>) {
    let disk = MemoryDisk::new();
    let header = SegmentHeader { partition: 0, base: 0, previous: 0, log_id: ID, epoch: None };
    let mut bytes = header.encode();
    for (offset, payload) in PAYLOADS[..records].iter().enumerate() {
        header.shape().coding.encode(&mut bytes, Kind::Record, offset as i64, payload.as_bytes());
    }
    disk.set_contents(&segment(0), &bytes);
    let identity = format!(r#"{{"format":1,"log_id":"{ID}","partitions":1}}"#);
    disk.set_contents(Path::new("/data/log/LOG"), identity.as_bytes());
    (disk, bytes)
}

#[test]
fn a_log_of_format_1_goes_on() {
    // Proves that a log of an earlier release opens, reads and grows in its own format, byte for
    // byte, and that its next segment is of the new one.
    let (disk, whole) = format_1(3);
    let (other, _) = format_1(2);
    let mut log = open(&other).unwrap();
    append(&mut log, &PAYLOADS[2..]);
    assert_eq!(other.contents(&segment(0)).unwrap(), whole, "appended in format 1");

    let mut log = open(&disk).unwrap();
    assert_eq!(read_all(&log).unwrap(), PAYLOADS.map(|payload| payload.as_bytes().to_vec()));
    assert_eq!(log.roll().unwrap(), Some(0..3));
    append(&mut log, &["four"]);
    assert_eq!(disk.contents(&segment(0)).unwrap(), whole);
    assert_eq!(disk.contents(&segment(3)).unwrap()[8], 2);
    log.reader().verify(0..3).unwrap();
    drop(log);
    assert_eq!(read_all(&open(&disk).unwrap()).unwrap().len(), 4);
}

#[test]
fn every_prefix_keeps_the_whole_frames() {
    // Proves, for both formats, that a tail torn at any byte costs exactly the frames it touches,
    // and that the log goes on from there.
    for header_bytes in [52, HEADER_BYTES] {
        let make = || if header_bytes == HEADER_BYTES { three_records() } else { format_1(3) };
        let edges = edges(header_bytes);
        for cut in header_bytes..=make().1.len() {
            let (disk, bytes) = make();
            disk.set_contents(&segment(0), &bytes[..cut]);
            let whole = edges.iter().filter(|&&edge| edge <= cut).count() - 1;

            let mut log = open(&disk).unwrap();
            assert_eq!(log.head(), whole as i64, "cut at byte {cut}");
            assert_eq!(log.active_bytes(), edges[whole] as u64);
            assert_eq!(append(&mut log, &["after"]), whole as i64..whole as i64 + 1);
            drop(log);

            let mut expected = PAYLOADS[..whole].to_vec();
            expected.push("after");
            let found = read_all(&open(&disk).unwrap()).unwrap();
            assert_eq!(found, expected.iter().map(|payload| payload.as_bytes()).collect::<Vec<_>>(), "cut at byte {cut}");
        }
    }
}

#[test]
fn a_header_cut_short_is_damage() {
    // Proves that a segment without its whole header is refused: no crash leaves one, so nothing
    // may be cut.
    for cut in 0..HEADER_BYTES {
        let (disk, bytes) = three_records();
        disk.set_contents(&segment(0), &bytes[..cut]);
        let error = open(&disk).unwrap_err();
        assert!(matches!(&error, LogError::Damaged { path: named, .. } if *named == segment(0)), "cut at {cut}: {error}");
        assert_eq!(disk.contents(&segment(0)).unwrap(), &bytes[..cut], "a damaged file is left as it is");
    }
}

/// Flips every bit of segment 0, and shows each time what opening and reading everything answers.
fn for_every_bit(disk: &MemoryDisk, mut check: impl FnMut(usize, Result<(PartitionLog, Vec<Vec<u8>>), LogError>)) {
    let bytes = disk.contents(&segment(0)).unwrap();
    for bit in 0..bytes.len() * 8 {
        let mut spoilt = bytes.clone();
        flip(&mut spoilt, bit);
        disk.set_contents(&segment(0), &spoilt);
        let read = open(disk).and_then(|log| read_all(&log).map(|read| (log, read)));
        if let Err(LogError::Damaged { path, .. } | LogError::NewerFormat { path, .. }) = &read {
            assert_eq!(*path, segment(0), "bit {bit}");
            assert_eq!(disk.contents(&segment(0)).unwrap(), spoilt, "bit {bit}: a damaged file is left as it is");
        }
        check(bit, read);
    }
}

#[test]
fn every_flipped_bit_of_the_newest_segment_is_found() {
    // Proves that one wrong bit is an error that changes nothing, also in the last record, unless
    // it only hits the trailer; in format 1 the last record is cut.
    let (disk, bytes) = three_records();
    for_every_bit(&disk, |bit, read| match read {
        Ok((_, records)) => {
            assert!(bit / 8 >= bytes.len() - TRAILER_BYTES, "bit {bit} went unnoticed");
            assert_eq!(records, PAYLOADS.map(|payload| payload.as_bytes().to_vec()));
        }
        Err(LogError::Damaged { .. } | LogError::NewerFormat { .. }) => {}
        Err(other) => panic!("bit {bit}: {other}"),
    });
    let (disk, _) = format_1(3);
    let last = edges(52)[2];
    for_every_bit(&disk, |bit, read| match read {
        Ok((_, records)) => assert!(bit / 8 >= last && records == [b"one".to_vec(), b"".to_vec()], "bit {bit}"),
        Err(LogError::Damaged { .. } | LogError::NewerFormat { .. }) => assert!(bit / 8 < last, "bit {bit}"),
        Err(other) => panic!("bit {bit}: {other}"),
    });
}

#[test]
fn every_flipped_bit_of_a_closed_segment_is_found() {
    // Proves the same for a closed segment, where there is no torn tail: opening or reading fails
    // and names the file, and what they do not see is found by verifying.
    let (disk, bytes) = three_records();
    let mut log = open(&disk).unwrap();
    log.roll().unwrap();
    append(&mut log, &["four"]);
    log.reader().verify(0..3).unwrap();
    drop(log);
    for_every_bit(&disk, |bit, read| match read {
        Ok((log, records)) => {
            assert!(bit / 8 >= bytes.len() - TRAILER_BYTES, "bit {bit} went unnoticed");
            assert_eq!(records.len(), 4);
            assert!(matches!(log.reader().verify(0..3), Err(LogError::Damaged { .. })), "bit {bit} of the trailer");
        }
        Err(LogError::Damaged { .. } | LogError::NewerFormat { .. }) => {}
        Err(other) => panic!("bit {bit}: {other}"),
    });
}

#[test]
fn every_flipped_bit_of_64_kib_is_found() {
    // Proves on 64 KiB of many batches that every wrong bit is found, none of them taken for a torn
    // tail, and that a wrong trailer costs no record.
    let (disk, mut log) = fresh();
    let mut number = 0_u64;
    while log.active_bytes() < 64 * 1024 - 2048 {
        let batch: Vec<Vec<u8>> =
            (0..1 + number % 5).map(|i| (0..(number * 37 + i * 101) % 400).map(|byte| (byte * 7 + i + number) as u8).collect()).collect();
        log.append(batch.iter().map(Vec::as_slice)).unwrap();
        number += 1;
    }
    let mut bytes = disk.contents(&segment(0)).unwrap();
    let (end, next) = (log.active_bytes() as usize, log.head());
    assert_eq!(bytes.len(), end + TRAILER_BYTES);
    let path = segment(0);
    for bit in 0..bytes.len() * 8 {
        flip(&mut bytes, bit);
        let read = SegmentHeader::parse(&path, &bytes).and_then(|header| scan(&path, &bytes, header.shape(), |_| Ok(())));
        match read {
            Ok(whole) => assert!(bit / 8 >= end && whole.next_offset == next && whole.end_bytes == end, "bit {bit}"),
            Err(LogError::Damaged { .. } | LogError::NewerFormat { .. }) => assert!(bit / 8 < end, "bit {bit}"),
            Err(other) => panic!("bit {bit}: {other}"),
        }
        flip(&mut bytes, bit);
    }
}

#[test]
fn a_failed_read_ends_after_the_records_before_it() {
    // Proves that a reader yields what it can vouch for, then one error, then nothing.
    let (disk, mut bytes) = three_records();
    let log = open(&disk).unwrap();
    let second = edges(HEADER_BYTES)[1];
    bytes[second + 8] ^= 1;
    disk.set_contents(&segment(0), &bytes);
    let mut records = log.reader().read(0..3).unwrap();
    assert_eq!(records.next().unwrap().unwrap().payload, b"one");
    let error = records.next().unwrap().unwrap_err();
    assert!(matches!(error, LogError::Damaged { byte, .. } if byte == second as u64), "{error}");
    assert!(records.next().is_none());
}

#[test]
fn zeros_at_the_end_are_a_torn_tail() {
    // Proves that a tail of zeros, which a power cut may leave, is cut and not read as empty
    // records, in either format.
    for (disk, mut bytes) in [three_records(), format_1(3)] {
        bytes.resize(bytes.len() + 4096, 0);
        disk.set_contents(&segment(0), &bytes);
        let log = open(&disk).unwrap();
        assert_eq!(log.head(), 3);
        assert_eq!(read_all(&log).unwrap().len(), 3);
    }
    let format = Format::Two(0);
    let no_frame = Coding { format, max_payload_bytes: 1 }.decode(&[0; 16]);
    assert_eq!(no_frame, None);
}

#[test]
fn a_repeated_or_foreign_frame_is_damage() {
    // Proves that a valid frame of the wrong offset is refused, not skipped and not cut, and that a
    // frame of another file is none.
    let (disk, bytes) = three_records();
    let edges = edges(HEADER_BYTES);
    let mut repeated = bytes[..edges[3]].to_vec();
    repeated.extend_from_within(edges[0]..edges[1]);
    disk.set_contents(&segment(0), &repeated);
    let error = open(&disk).unwrap_err();
    assert!(matches!(error, LogError::Damaged { byte, .. } if byte == edges[3] as u64), "{error}");

    let other = SegmentHeader { partition: 0, base: 0, previous: 0, log_id: ID, epoch: Some(9) }.shape();
    let mut foreign = bytes[..edges[2]].to_vec();
    other.coding.encode(&mut foreign, Kind::Record, 2, b"another");
    foreign.extend(&bytes[edges[3]..]);
    disk.set_contents(&segment(0), &foreign);
    let error = open(&disk).unwrap_err();
    assert!(matches!(error, LogError::Damaged { byte, .. } if byte == edges[2] as u64), "{error}");
}
