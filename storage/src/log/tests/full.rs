//! The log on a full disk.

use std::{io, path::Path};

use rand::{SeedableRng, rngs::StdRng};

use super::{fresh, open, read_all, segment};
use crate::log::{
    LogError, PartitionLog,
    disk::{Call, Fault, MemoryDisk, Survivors},
};

fn payload(number: usize) -> Vec<u8> {
    vec![number as u8; 1 + number * 13 % 90]
}

/// Appends until the disk is full, rolls now and then; returns what was acknowledged.
fn fill(log: &mut PartitionLog) -> Vec<Vec<u8>> {
    let mut acked = Vec::new();
    loop {
        match log.append([payload(acked.len()).as_slice()]) {
            Ok(_) => acked.push(payload(acked.len())),
            Err(LogError::DiskFull { path }) => {
                assert_eq!(path.parent().unwrap(), log.dir());
                return acked;
            }
            Err(other) => panic!("{other}"),
        }
        if acked.len() % 7 == 0 {
            match log.roll() {
                Ok(_) | Err(LogError::DiskFull { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
    }
}

#[test]
fn full_at_any_byte_refuses_and_recovers() {
    // Proves, for a disk that is full at every byte of a log's life, that the append is refused
    // whole, that reading goes on, that appending does without a restart once there is room, and that a
    // power cut finds exactly what was acknowledged.
    for capacity in 0..1800 {
        let disk = MemoryDisk::new();
        disk.set_capacity(Some(capacity));
        let mut log = match open(&disk) {
            Ok(log) => log,
            Err(LogError::DiskFull { .. }) => continue,
            Err(other) => panic!("{capacity}: {other}"),
        };
        let mut acked = fill(&mut log);
        assert!(matches!(log.append([payload(acked.len()).as_slice()]), Err(LogError::DiskFull { .. })), "{capacity}");
        assert_eq!(log.head() as usize, acked.len());
        assert_eq!(read_all(&log).unwrap(), acked, "{capacity}");
        disk.set_capacity(None);
        log.append([payload(acked.len()).as_slice()]).unwrap_or_else(|e| panic!("{capacity}: {e}"));
        acked.push(payload(acked.len()));
        log.roll().unwrap();
        drop(log);
        disk.power_cut(Survivors::None);
        assert_eq!(read_all(&open(&disk).unwrap()).unwrap(), acked, "{capacity}");
    }
}

#[test]
fn nothing_is_written_before_there_is_room() {
    // Proves that the refusal comes before the first byte, and that its message says what to do.
    let (disk, mut log) = fresh();
    log.append([b"before".as_slice()]).unwrap();
    let before = (disk.contents(&segment(0)), disk.counts()[&Call::Write]);
    disk.set_capacity(Some(disk.used_bytes()));
    let large = vec![1; 1024 * 1024];
    for _ in 0..3 {
        let error = log.append([large.as_slice(); 5]).unwrap_err();
        assert!(matches!(error, LogError::DiskFull { .. }) && error.to_string().contains("free space"), "{error}");
    }
    assert_eq!((disk.contents(&segment(0)), disk.counts()[&Call::Write]), before);
    log.append([b"after".as_slice()]).unwrap();
    disk.set_capacity(None);
    log.append([large.as_slice(); 5]).unwrap();
}

#[test]
fn a_write_that_meets_a_full_disk_is_taken_back() {
    // Proves that where room cannot be had beforehand, a refused batch is gone for good: it is not
    // found after a kill, nor after a power cut, and the log goes on.
    for (kind, seed) in
        [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded].into_iter().flat_map(|kind| (0..600).map(move |seed| (kind, seed)))
    {
        let (disk, mut log) = fresh();
        log.append([b"before".as_slice()]).unwrap();
        disk.plan(Fault::error(kind).half_way().on(Call::Write));
        let refused = log.append([b"refused".as_slice(), b"refused too", &[1; 100]]);
        assert!(matches!(refused, Err(LogError::DiskFull { .. })));
        match seed {
            0 => disk.kill(),
            seed => disk.power_cut(Survivors::Drawn(&mut StdRng::seed_from_u64(seed))),
        }
        drop(log);
        let mut log = open(&disk).unwrap();
        assert_eq!(read_all(&log).unwrap(), [b"before"], "seed {seed}");
        disk.plan(Fault::error(kind).half_way().on(Call::Write));
        log.append([b"refused".as_slice()]).unwrap_err();
        log.append([b"after".as_slice()]).unwrap();
        assert_eq!(read_all(&log).unwrap(), [b"before".to_vec(), b"after".to_vec()]);
    }
}

#[test]
fn what_cannot_be_taken_back_poisons() {
    // Proves that a refused batch which stays in the file stops the log until a restart.
    for call in [Call::SetLen, Call::Sync] {
        let (disk, mut log) = fresh();
        disk.plan(Fault::error(io::ErrorKind::StorageFull).half_way().on(Call::Write));
        disk.plan(Fault::error(io::ErrorKind::Other).on(call));
        assert!(matches!(log.append([b"unknown".as_slice()]), Err(LogError::Poisoned { .. })), "{call:?}");
        assert!(matches!(log.append([b"refused".as_slice()]), Err(LogError::Poisoned { .. })), "{call:?}");
        drop(log);
        assert_eq!(open(&disk).unwrap().head(), 0);
    }
}

#[test]
fn closing_and_trimming_go_on() {
    // Proves that on a full disk segments are still closed, out of the room kept back, that trimming
    // makes room, and that the room kept back is then set aside again.
    let reserve = Path::new("/data/log/RESERVE");
    let (disk, mut log) = fresh();
    assert!(disk.files().iter().any(|path| path == reserve));
    disk.set_capacity(Some(3 * 1024 * 1024));
    let record = vec![1; 100_000];
    while log.append([record.as_slice()]).is_ok() {}
    let head = log.head();
    disk.set_capacity(Some(disk.used_bytes()));
    assert_eq!(log.roll().unwrap(), Some(0..head));
    // The rest of what was kept back is there for all.
    while log.append([record.as_slice()]).is_ok() {}
    assert!(log.head() > head);
    assert!(!disk.files().iter().any(|path| path == reserve), "given up");
    assert_eq!(log.trim(head).unwrap().len(), 1);
    assert!(disk.files().iter().any(|path| path == reserve), "set aside again");
    log.append([record.as_slice()]).unwrap();
    assert!(matches!(log.reader().read(0..1), Err(LogError::NotInLog { .. })));
}

#[test]
fn a_server_starts_on_a_full_disk() {
    // Proves that a restart on a full disk reads what is there, takes no more, and goes on when
    // there is room.
    let (disk, mut log) = fresh();
    disk.set_capacity(Some(2 * 1024 * 1024));
    let record = vec![1; 10_000];
    while log.append([record.as_slice()]).is_ok() {}
    let head = log.head();
    drop(log);
    disk.kill();
    disk.set_capacity(Some(disk.used_bytes()));
    let mut log = open(&disk).unwrap();
    assert_eq!(read_all(&log).unwrap().len() as i64, head);
    disk.set_capacity(None);
    log.append([record.as_slice()]).unwrap();
}
