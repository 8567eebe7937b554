//! What can go wrong in the speed layer, and what becomes of it at the gRPC surface in `service.rs`.

use merganser_proto::auth::AuthError;
use storage::log::LogError;
use storage::manifest::UnusableDefinition;
use storage::record::RecordError;
use storage::store::StoreError;
use views::FoldError;

/// See the variants.
#[derive(Debug, thiserror::Error)]
pub enum SpeedError {
    /// The log or the dead letters.
    #[error("the log failed")]
    Log(#[from] LogError),
    /// What `[auth]` names cannot be used.
    #[error("nobody can be let in")]
    Auth(#[from] AuthError),
    /// The object store.
    #[error("the object store failed")]
    Store(#[from] StoreError),
    /// A record in the log.
    #[error("the log holds a record that cannot be used")]
    Record(#[from] RecordError),
    /// A view fails on an event that was accepted before the view was declared.
    #[error("the view {fingerprint} fails in partition {partition} within the records from {offset}: {reason}")]
    Fold {
        /// Fingerprint of the definition.
        fingerprint: String,
        /// Log partition.
        partition: i32,
        /// First record of the batch that failed.
        offset: i64,
        /// What the SQL says.
        reason: String,
    },
    /// The configuration gives a column another type than a version that is answered from.
    #[error(
        "events.{column} is {here} in the settings, and version {version} of {view} reads it as {stored}; a column keeps its type: set it back, and declare another name for a new one"
    )]
    ColumnType {
        /// The view.
        view: String,
        /// The version.
        version: i64,
        /// Below `events.`.
        column: String,
        /// Its type in the version.
        stored: String,
        /// Its type in the settings.
        here: String,
    },
    /// A stored definition that this version does not take.
    #[error("the stored definition {fingerprint} cannot be used")]
    Definition {
        /// Its fingerprint in the store.
        fingerprint: String,
        /// Why.
        #[source]
        source: UnusableDefinition,
    },
    /// The store belongs to another log.
    #[error(
        "version {version} of {view} was made from log {stored}, and this is log {here}; point [log] dir or [store] url to the pair that belongs together"
    )]
    OtherLog {
        /// The view.
        view: String,
        /// Its version.
        version: i64,
        /// The log in the manifest.
        stored: String,
        /// The log on this disk.
        here: String,
    },
    /// The master dataset belongs to another log.
    #[error(
        "the master dataset in the store is that of log {stored}, and this is log {here}; point [log] dir or [store] url to the pair that belongs together, or take an empty store"
    )]
    OtherMaster {
        /// The log that the master dataset was made from.
        stored: String,
        /// The log on this disk.
        here: String,
    },
    /// The log ends below what was archived from it: it was rewound or restored from an old copy.
    #[error(
        "partition {partition} is archived up to offset {archived}, but the log ends at {head}; it is an older copy of the log that was archived"
    )]
    LogBehindArchive {
        /// Log partition.
        partition: i32,
        /// The end of the archived segments.
        archived: i64,
        /// Of the log.
        head: i64,
    },
    /// A segment of the log does not follow the archived ones.
    #[error("partition {partition} is archived up to offset {archived}, and the log's segment [{start}, {end}) does not start there")]
    ArchiveMismatch {
        /// Log partition.
        partition: i32,
        /// The end of the archived segments.
        archived: i64,
        /// First offset of the segment.
        start: i64,
        /// Its end, exclusive.
        end: i64,
    },
    /// Another server took over the archive.
    #[error(
        "epoch {epoch} is over: a server that started later, {instance}, has epoch {newer} of this store; only one server may run over a log and its store"
    )]
    Fenced {
        /// Ours.
        epoch: i64,
        /// The one after it.
        newer: i64,
        /// Who took it.
        instance: String,
    },
    /// A user is erased in the log, and the store does not know.
    #[error(
        "the user is erased by record {offset} of partition {partition}, but the object store, where the batch layer looks, could not be told; that is tried again until it succeeds"
    )]
    ErasureNotStored {
        /// Log partition.
        partition: u32,
        /// Of the record.
        offset: i64,
        /// What the store says.
        #[source]
        source: StoreError,
    },
    /// The log ends below a boundary: it was lost, rewound or restored from an old copy.
    #[error(
        "version {version} covers partition {partition} up to offset {boundary}, but the log ends at {head}; it is not the log that this version was made from"
    )]
    LogBehind {
        /// The version.
        version: i64,
        /// Log partition.
        partition: i32,
        /// Of the version.
        boundary: i64,
        /// Of the log.
        head: i64,
    },
    /// The log was trimmed beyond what a version needs.
    #[error(
        "version {version} starts partition {partition} at offset {boundary}, and the log is trimmed below {start}; publish a new version with batch-layer run, which begins at a newer boundary"
    )]
    LogTrimmed {
        /// The version.
        version: i64,
        /// Log partition.
        partition: i32,
        /// Of the version.
        boundary: i64,
        /// The first offset that the log still has.
        start: i64,
    },
    /// A record that the log no longer has.
    #[error("partition {partition} is trimmed below offset {start}, and the records from {wanted} on are needed")]
    Trimmed {
        /// Log partition.
        partition: i32,
        /// The first offset needed.
        wanted: i64,
        /// The first offset that the log still has.
        start: i64,
    },
    /// The log begins above what was archived: segments are missing in the store.
    #[error(
        "partition {partition} is archived up to offset {archived}, and the log begins at {start}: archived segments or their seals are missing in the store; bring back the store that belongs to this log"
    )]
    ArchiveBehindLog {
        /// Log partition.
        partition: i32,
        /// The end of the archived segments.
        archived: i64,
        /// The first offset that the log still has.
        start: i64,
    },
    /// The log has another record where something was made from it: it was rewound or restored from an old copy, and went on.
    #[error(
        "{made} was made from a log whose record at offset {offset} of partition {partition} has the fingerprint {stored}, and here it has {here}: this log was recreated, rewound or restored from an old copy and went on otherwise; bring back the log that belongs to this store, or start over with an empty [log] dir and an empty [store] url"
    )]
    OtherRecord {
        /// What was made from the log, such as `version 3`.
        made: String,
        /// Log partition.
        partition: i32,
        /// Of the record.
        offset: i64,
        /// As recorded when it was made.
        stored: String,
        /// Of the record in the log.
        here: String,
    },
    /// A segment that was to be trimmed is not in the store as it is in the log.
    #[error("the segment [{start}, {end}) of partition {partition} is not archived with these edges; it stays in the log")]
    NotArchived {
        /// Log partition.
        partition: i32,
        /// First offset of the segment.
        start: i64,
        /// Its end, exclusive.
        end: i64,
    },
    /// A closed segment of the log that its Parquet file cannot bring back.
    #[error("the log's segment of partition {partition} from offset {start} on cannot be written afresh from the archive: {reason}")]
    NotRestorable {
        /// Log partition.
        partition: usize,
        /// First offset of the segment.
        start: i64,
        /// Why not.
        reason: String,
    },
    /// The operating system gave no thread.
    #[error("a thread could not be started")]
    Thread {
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A thread or task that must not end did, most likely by a panic. What it had acknowledged is in the log.
    #[error("{what} ended by itself; the server cannot go on without it")]
    Ended {
        /// Its name.
        what: String,
    },
    /// A task or thread is gone; the server is stopping.
    #[error("the server is stopping")]
    Stopping,
    /// Too many appends are waiting.
    #[error("too many appends are waiting for partition {partition}; try again")]
    QueueFull {
        /// Log partition.
        partition: usize,
    },
    /// The events that wait take up all their memory.
    #[error("events of {waiting_bytes} bytes are waiting to be written; try again")]
    QueueBytesFull {
        /// Bytes that wait for the writers.
        waiting_bytes: usize,
    },
    /// Refused rows of a request cannot be kept, so it is refused.
    #[error(
        "there are {letters} dead letters of {bytes} bytes, and log.dead_letter_bytes is {cap_bytes}: the refused rows of this request cannot be kept, so it is refused; {taken}; whoever runs the server can replay and prune them (speed-layer dead-letter) or raise the setting"
    )]
    DeadLettersFull {
        /// How many are kept.
        letters: usize,
        /// What they take.
        bytes: u64,
        /// What they may take.
        cap_bytes: u64,
        /// What became of the rows that were not refused.
        taken: &'static str,
    },
    /// A definition that no kept version has.
    #[error("no view with fingerprint {0} is kept here")]
    UnknownDefinition(String),
    /// A boundary whose slices are gone, or never were.
    #[error(
        "partition {partition} cannot answer from offset {offset}: the boundary is retired or was never a cut; reload the newest version"
    )]
    BoundaryRetired {
        /// Log partition.
        partition: usize,
        /// The boundary asked for.
        offset: i64,
    },
    /// A question for another log.
    #[error("this is log {here}, the question is for log {asked}")]
    WrongLog {
        /// The log here.
        here: String,
        /// The log asked for.
        asked: String,
    },
    /// A question that no server could answer.
    #[error("{0}")]
    BadRequest(String),
}

impl SpeedError {
    pub(crate) fn fold(error: &FoldError, fingerprint: &str, partition: i32, offset: i64) -> Self {
        Self::Fold { fingerprint: fingerprint.to_owned(), partition, offset, reason: error.reason() }
    }

    /// This error and its causes in one line.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text += &format!(": {error}");
            cause = error.source();
        }
        text
    }
}
