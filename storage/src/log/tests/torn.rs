//! Torn or damaged: what the newest segment may look like after a power cut, and what not.

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{HEADER_BYTES, TRAILER_BYTES, append, fresh, open, read_all, segment};
use crate::log::{LogError, disk::Survivors};

const SECTOR_BYTES: usize = 512;

/// The bytes of a segment after two synced batches, and after a third one.
fn before_and_after(third: &[Vec<u8>]) -> (Vec<u8>, Vec<u8>) {
    let (disk, mut log) = fresh();
    append(&mut log, &["zero", "one"]);
    append(&mut log, &["two"]);
    let before = disk.contents(&segment(0)).unwrap();
    log.append(third.iter().map(Vec::as_slice)).unwrap();
    let mut after = disk.contents(&segment(0)).unwrap();
    after.truncate(after.len() - TRAILER_BYTES);
    (before, after)
}

#[test]
fn any_sectors_of_the_last_batch_are_a_torn_tail() {
    // Proves that whichever sectors of an unsynced batch reached the disk, with or without the
    // trailer before it and whatever the length, what was acknowledged is there and the rest is a
    // prefix of the batch.
    let mut rng = StdRng::seed_from_u64(11);
    let (disk, log) = fresh();
    drop(log);
    for round in 0..4000 {
        let sizes: Vec<usize> = (0..rng.random_range(1..8)).map(|_| rng.random_range(0..[40, 700, 3000][round % 3])).collect();
        let third: Vec<Vec<u8>> = sizes.iter().map(|&bytes| (0..bytes).map(|_| rng.random()).collect()).collect();
        let (before, after) = before_and_after(&third);
        let mut found = before.clone();
        if rng.random_bool(0.5) {
            found.truncate(before.len() - TRAILER_BYTES);
        }
        found.resize(rng.random_range(found.len()..=after.len().max(found.len())), 0);
        for sector in (before.len() - TRAILER_BYTES) / SECTOR_BYTES..=found.len() / SECTOR_BYTES {
            let end = ((sector + 1) * SECTOR_BYTES).min(found.len()).min(after.len());
            if rng.random_bool(0.7) && sector * SECTOR_BYTES < end {
                found[sector * SECTOR_BYTES..end].copy_from_slice(&after[sector * SECTOR_BYTES..end]);
            }
        }
        disk.set_contents(&segment(0), &found);
        let mut log = open(&disk).unwrap_or_else(|e| panic!("round {round}: {e}"));
        let records = read_all(&log).unwrap();
        assert_eq!(&records[..3], [b"zero".to_vec(), b"one".to_vec(), b"two".to_vec()], "round {round}");
        assert!(third.starts_with(&records[3..]), "round {round}");
        let head = log.head();
        append(&mut log, &["after"]);
        assert_eq!(log.head(), head + 1);
        drop(log);
        assert_eq!(read_all(&open(&disk).unwrap()).unwrap().len() as i64, head + 1, "round {round}");
    }
}

#[test]
fn a_spoilt_record_before_a_later_batch_is_damage() {
    // Proves that what lies before a batch, or before a trailer, is known to have been durable: spoilt
    // at any byte it is refused, and nothing is cut.
    let (disk, mut log) = fresh();
    append(&mut log, &["zero", "one"]);
    append(&mut log, &["two", "three"]);
    append(&mut log, &["four"]);
    let end = log.active_bytes() as usize;
    drop(log);
    let with_trailer = disk.contents(&segment(0)).unwrap();
    let last = end - 16 - "four".len();
    for (bytes, durable) in [(&with_trailer[..], end), (&with_trailer[..end], last)] {
        for at in HEADER_BYTES..end {
            let mut spoilt = bytes.to_vec();
            spoilt[at] = !spoilt[at];
            disk.set_contents(&segment(0), &spoilt);
            match open(&disk) {
                Err(LogError::Damaged { path, .. }) => assert!(path == segment(0) && at < durable, "byte {at}"),
                Ok(log) => assert!(at >= durable && log.head() == 4, "byte {at} was cut"),
                Err(other) => panic!("byte {at}: {other}"),
            }
        }
    }
}

#[test]
fn a_later_frame_of_the_same_batch_is_no_damage() {
    // Proves that a batch whose end reached the disk before its beginning is cut, not refused.
    let third: Vec<Vec<u8>> = (0..20).map(|i| vec![i; 200]).collect();
    let (before, after) = before_and_after(&third);
    let (disk, log) = fresh();
    drop(log);
    let mut found = before.clone();
    found.resize(after.len(), 0);
    let from = before.len() + 1000;
    found[from..].copy_from_slice(&after[from..]);
    disk.set_contents(&segment(0), &found);
    assert_eq!(open(&disk).unwrap().head(), 3);
}

#[test]
fn the_trailer_is_written_again_after_a_restart() {
    // Proves that the last record is vouched for whenever a server has the log open, also when the
    // power took the trailer.
    let (disk, mut log) = fresh();
    append(&mut log, &["one"]);
    disk.power_cut(Survivors::None);
    let end = log.active_bytes() as usize;
    assert_eq!(disk.contents(&segment(0)).unwrap().len(), end, "nobody synced the trailer");
    open(&disk).unwrap();
    let mut bytes = disk.contents(&segment(0)).unwrap();
    assert_eq!(bytes.len(), end + TRAILER_BYTES);
    bytes[end - 1] ^= 1;
    disk.set_contents(&segment(0), &bytes);
    assert!(matches!(open(&disk), Err(LogError::Damaged { .. })));
}
