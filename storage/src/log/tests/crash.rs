//! The log on a disk that fails, and on one that forgets.

use std::{io, path::Path, sync::Arc};

use super::{failing_disk::FailingDisk, open, read_all};
use crate::log::{LogError, LogFolder, PartitionLog, disk::Disk};

fn open_on(disk: &Arc<FailingDisk>, data_dir: &Path) -> Result<PartitionLog, LogError> {
    LogFolder::open_on(Arc::clone(disk) as Arc<dyn Disk>, data_dir, 1)?.partition(0)
}

/// Creates a log, appends, rolls, restarts and appends again; returns the records that were
/// acknowledged, in order.
fn work(disk: &Arc<FailingDisk>, data_dir: &Path) -> (Vec<Vec<u8>>, Result<(), LogError>) {
    let mut acked = Vec::new();
    let mut append = |log: &mut PartitionLog, payloads: [&str; 2]| {
        log.append(payloads.iter().map(|payload| payload.as_bytes()))?;
        acked.extend(payloads.map(|payload| payload.as_bytes().to_vec()));
        Ok(())
    };
    let mut run = || {
        let mut log = open_on(disk, data_dir)?;
        append(&mut log, ["zero", "one"])?;
        append(&mut log, ["two", "three"])?;
        log.roll()?;
        append(&mut log, ["four", "five"])?;
        drop(log);
        let mut log = open_on(disk, data_dir)?;
        append(&mut log, ["six", "seven"])?;
        log.roll()?;
        Ok(())
    };
    let result = run();
    (acked, result)
}

const ALL: [&[u8]; 8] = [b"zero", b"one", b"two", b"three", b"four", b"five", b"six", b"seven"];

/// What happens after the call that failed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ending {
    /// The process dies; the page cache stays.
    Kill,
    /// What was not synced is gone.
    PowerCut,
    /// A second process starts from the page cache, shows and acknowledges, and then the power
    /// goes.
    KillAndPowerCut,
}

const ENDINGS: [Ending; 3] = [Ending::Kill, Ending::PowerCut, Ending::KillAndPowerCut];

#[test]
fn a_crash_at_any_call_keeps_what_was_acknowledged() {
    // Proves rule 1: whatever call is the last, kill or power cut, every acknowledged record is at
    // its offset after the restart.
    let dir = tempfile::tempdir().unwrap();
    let whole = FailingDisk::failing_after(usize::MAX, io::ErrorKind::Other);
    let (acked, result) = work(&whole, dir.path());
    result.unwrap();
    assert_eq!(acked, ALL);

    for (calls, ending) in (0..whole.calls()).flat_map(|calls| ENDINGS.map(|ending| (calls, ending))) {
        let context = format!("call {calls} failed, then {ending:?}");
        let dir = tempfile::tempdir().unwrap();
        let disk = FailingDisk::failing_after(calls, io::ErrorKind::Other);
        let (mut acked, result) = work(&disk, dir.path());
        assert!(result.is_err(), "{context}: nobody noticed");
        let mut attempted = ALL.map(<[u8]>::to_vec).to_vec();
        if ending == Ending::KillAndPowerCut {
            disk.fail_after(usize::MAX);
            let mut log = open_on(&disk, dir.path()).unwrap_or_else(|e| panic!("{context}: {e}"));
            acked = read_all(&log).unwrap();
            log.append([b"restarted".as_slice()]).unwrap();
            acked.push(b"restarted".to_vec());
            attempted.clone_from(&acked);
        }
        if ending != Ending::Kill {
            disk.cut_power();
        }
        let mut log = open(dir.path()).unwrap_or_else(|e| panic!("{context}: {e}"));
        let found = read_all(&log).unwrap();
        assert!(found.starts_with(&acked), "{context}: acknowledged {acked:?}, found {found:?}");
        assert!(attempted.starts_with(&found), "{context}: found {found:?}");
        let head = found.len() as i64;
        assert_eq!(log.append([b"after".as_slice()]).unwrap(), head..head + 1);
    }
}

/// A log with one record on a disk where the next calls succeed and the one after fails with
/// `error`.
fn log_failing_after(calls: usize, error: io::ErrorKind) -> (tempfile::TempDir, Arc<FailingDisk>, PartitionLog) {
    let dir = tempfile::tempdir().unwrap();
    let disk = FailingDisk::failing_after(usize::MAX, error);
    let mut log = open_on(&disk, dir.path()).unwrap();
    log.append([b"before".as_slice()]).unwrap();
    disk.fail_after(calls);
    (dir, disk, log)
}

#[test]
fn a_failed_write_or_sync_poisons() {
    // Proves that after a failed write (call 0) or sync (call 1) nothing is acknowledged and
    // nothing tried again, while reading goes on.
    for calls in [0, 1] {
        let (dir, disk, mut log) = log_failing_after(calls, io::ErrorKind::Other);
        let error = log.append([b"lost".as_slice()]).unwrap_err();
        assert!(matches!(error, LogError::Poisoned { .. }), "{error}");

        disk.fail_after(usize::MAX);
        let calls = disk.calls();
        assert!(matches!(log.append([b"refused".as_slice()]), Err(LogError::Poisoned { .. })));
        assert!(matches!(log.roll(), Err(LogError::Poisoned { .. })));
        assert_eq!(disk.calls(), calls, "a poisoned log touched the disk");
        assert_eq!(log.head(), 1);
        assert_eq!(read_all(&log).unwrap(), [b"before"]);
        assert!(matches!(log.reader().read(0..2), Err(LogError::NotInLog { .. })));
        drop(log);

        disk.cut_power();
        assert_eq!(read_all(&open(dir.path()).unwrap()).unwrap(), [b"before"]);
    }
}

#[test]
fn a_full_disk_is_named_and_poisons() {
    // Proves that the append which met the full disk says so, and that later ones are refused.
    let (_dir, disk, mut log) = log_failing_after(0, io::ErrorKind::StorageFull);
    assert!(matches!(log.append([b"lost".as_slice()]), Err(LogError::DiskFull { .. })));
    disk.fail_after(usize::MAX);
    assert!(matches!(log.append([b"refused".as_slice()]), Err(LogError::Poisoned { .. })));
}

#[test]
fn what_recovery_shows_is_durable() {
    // Proves that a record which a failed sync left in the page cache alone, marked clean, is
    // either not shown after a restart or outlives a power cut.
    let (dir, disk, mut log) = log_failing_after(1, io::ErrorKind::Other);
    log.append([b"in the cache".as_slice()]).unwrap_err();
    drop(log);
    disk.fail_after(usize::MAX);
    let log = open_on(&disk, dir.path()).unwrap();
    let shown = read_all(&log).unwrap();
    drop(log);
    disk.cut_power();
    assert_eq!(read_all(&open(dir.path()).unwrap()).unwrap(), shown);
}
