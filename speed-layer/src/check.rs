//! Is this log the one that the store was filled from? A log that was recreated, rewound or restored from an old copy is refused
//! before anything is answered or archived from it.

use storage::log::{LogReader, PartitionLog};
use storage::master::record_fingerprint;
use tracing::error;

use crate::archive::Archive;
use crate::error::SpeedError;
use crate::realtime::Kept;

/// Refuses a version that covers what this log does not have, or no longer has.
pub(crate) fn check_boundary<'a>(kept: &Kept, logs: impl ExactSizeIterator<Item = &'a LogReader>) -> Result<(), SpeedError> {
    let (version, known) = (kept.version, kept.boundary.len());
    if known != logs.len() {
        return Err(SpeedError::BadRequest(format!("version {version} has {known} partitions, the log has {}", logs.len())));
    }
    for ((partition, log), boundary) in (0..).zip(logs).zip(kept.boundary.iter().copied()) {
        let (start, head) = (log.start(), log.head());
        if boundary > head {
            return Err(SpeedError::LogBehind { version, partition, boundary, head });
        }
        if boundary < start {
            return Err(SpeedError::LogTrimmed { version, partition, boundary, start });
        }
    }
    Ok(())
}

/// Compares the record below a version's boundary with the manifest. One that is trimmed cannot be compared, nor one that a
/// manifest of format 1 does not name.
pub(crate) fn check_record(kept: &Kept, log: &LogReader, number: usize) -> Result<(), SpeedError> {
    let (Some(boundary), Some(stored)) = (kept.boundary.get(number), kept.boundary_records.get(number)) else { return Ok(()) };
    same_record(log, number, *boundary, stored, || format!("version {}", kept.version))
}

/// Compares the record below the archived edge with the seal above it.
pub(crate) fn check_sealed_record(archive: &Archive, log: &LogReader, number: usize) -> Result<(), SpeedError> {
    let Some((edge, stored)) = archive.sealed_record(number) else { return Ok(()) };
    same_record(log, number, edge, stored, || format!("the archived segment that ends at offset {edge}"))
}

fn same_record(log: &LogReader, number: usize, end: i64, stored: &str, made: impl Fn() -> String) -> Result<(), SpeedError> {
    let offset = end - 1;
    if stored.is_empty() || offset < log.start() || end > log.head() {
        return Ok(());
    }
    let Some(record) = log.read(offset..end)?.next().transpose()? else { return Ok(()) };
    let here = record_fingerprint(&record.payload);
    if here == stored {
        return Ok(());
    }
    Err(SpeedError::OtherRecord { made: made(), partition: number as i32, offset, stored: stored.to_owned(), here })
}

/// Refuses a log that does not fit the store, and leaves out versions that begin where it is trimmed: they cannot be answered
/// from here, and a new version can be.
pub(crate) async fn check_against_store(kept: &mut Vec<Kept>, logs: &[PartitionLog], archive: &Archive) -> Result<(), SpeedError> {
    let readers: Vec<LogReader> = logs.iter().map(PartitionLog::reader).collect();
    let mut usable = Vec::new();
    for version in kept.drain(..) {
        match check_boundary(&version, readers.iter()) {
            Ok(()) => usable.push(version),
            Err(e @ SpeedError::LogTrimmed { .. }) => error!(error = e.chain(), "a stored version cannot be answered from"),
            Err(e) => return Err(e),
        }
    }
    *kept = usable;
    for (number, log) in readers.iter().enumerate() {
        let (archived, partition) = (archive.edge(number).await, number as i32);
        if archived > log.head() {
            return Err(SpeedError::LogBehindArchive { partition, archived, head: log.head() });
        }
        if archived < log.start() {
            return Err(SpeedError::ArchiveBehindLog { partition, archived, start: log.start() });
        }
    }
    Ok(())
}
