//! What can go wrong in the log, and with which file.

use std::{io, ops::Range, path::Path, path::PathBuf, sync::Arc};

use super::segment::base_in_name;

/// Why the log, or the dead letters that share its file format, could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The operating system refused a call.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or folder it was tried on.
        path: PathBuf,
        /// What the system answered.
        #[source]
        source: io::Error,
    },

    /// The disk or the quota is full. Nothing of what was to be written is there, and the next
    /// attempt may succeed.
    #[error("no space left to write {path}: free space on its disk; appends go on by themselves then")]
    DiskFull {
        /// The file that could not grow.
        path: PathBuf,
    },

    /// A write or sync of this file failed, now or earlier: what the disk holds is unknown until a
    /// restart reads it again.
    #[error("{path} takes no more records since a write failed; a restart reads the disk again")]
    Poisoned {
        /// The file that no longer takes records.
        path: PathBuf,
        /// The first failure.
        #[source]
        cause: Arc<LogError>,
    },

    /// Somebody else writes here.
    #[error("{path} is in use by another writer; is a second server running on the same data folder?")]
    Locked {
        /// The locked file or folder.
        path: PathBuf,
    },

    /// The log was created with another number of partitions; the number is fixed for the life of a
    /// log.
    #[error("{path} was created with {found} partitions, {asked} are configured; a log keeps its number")]
    PartitionCount {
        /// The file that records the number.
        path: PathBuf,
        /// The number on disk.
        found: u32,
        /// The number asked for.
        asked: u32,
    },

    /// There is no such partition.
    #[error("partition {partition} does not exist, the log has {partitions}")]
    UnknownPartition {
        /// The partition asked for.
        partition: u32,
        /// How many there are, numbered from 0.
        partitions: u32,
    },

    /// A newer release wrote this file.
    #[error("{path} has format {found}, this release reads up to {known}")]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its format number.
        found: u32,
        /// The newest format number that this release reads.
        known: u32,
    },

    /// The bytes on disk are not what was written. Nothing was changed.
    #[error("{path} is damaged at byte {byte}: {reason}")]
    Damaged {
        /// The damaged file.
        path: PathBuf,
        /// Where the first wrong structure begins.
        byte: u64,
        /// What was expected there.
        reason: String,
    },

    /// A record is larger than a frame may be. Nothing of its batch was written.
    #[error("a record of {bytes} bytes is over the limit of {max_bytes}")]
    RecordTooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        max_bytes: usize,
    },

    /// A closed segment was to be written afresh with more or fewer records than it has. Nothing
    /// was changed.
    #[error("{path} holds the records {wanted:?}, not {found} of them")]
    RecordCount {
        /// The segment.
        path: PathBuf,
        /// The half-open range of its offsets.
        wanted: Range<i64>,
        /// How many records were given.
        found: i64,
    },

    /// A read asked for offsets that the log does not hold: trimmed already, or not yet durable.
    #[error("{path} holds offsets {available:?}, {wanted:?} was asked for")]
    NotInLog {
        /// The partition's folder.
        path: PathBuf,
        /// The half-open range asked for.
        wanted: Range<i64>,
        /// The half-open range that can be read.
        available: Range<i64>,
    },

    /// A text that should have been a log id.
    #[error("{text:?} is not a log id, which is 32 lower-case hexadecimal digits")]
    InvalidLogId {
        /// The text.
        text: String,
    },
}

impl LogError {
    /// The first offset of the segment that is damaged, where that is what went wrong.
    #[must_use]
    pub fn damaged_segment(&self) -> Option<i64> {
        match self {
            Self::Damaged { path, .. } => base_in_name(path.file_name()?.to_str()?),
            _ => None,
        }
    }

    /// Turns the answer of a system call into an error that names the call and the file.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LogError {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => LogError::DiskFull { path: path.to_owned() },
            _ => LogError::Io { action, path: path.to_owned(), source },
        }
    }

    /// Says where a file stops making sense.
    pub(crate) fn damaged(path: &Path, byte: u64, reason: impl Into<String>) -> LogError {
        LogError::Damaged { path: path.to_owned(), byte, reason: reason.into() }
    }
}
