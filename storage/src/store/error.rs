//! What can go wrong with objects, said with the path of the object.

use std::sync::Arc;

use object_store::path::Path as ObjectPath;
use parquet::errors::ParquetError;

/// What reading, writing or checking an object ended in. The cause is in `source`, not in the text.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The address does not lead to a store that this version knows.
    #[error("\"{url}\" cannot be used as a store: {reason}")]
    Url {
        /// The address as given.
        url: String,
        /// Why not, and what to write instead.
        reason: String,
    },
    /// No such object.
    #[error("{path} is not there")]
    NotFound {
        /// The object.
        path: String,
    },
    /// The local disk failed. Whether a write happened is then unknown.
    #[error("the disk failed at {path}")]
    Io {
        /// The object or folder.
        path: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The object store failed. Whether a write happened is then unknown.
    #[error("the object store failed at {path}")]
    Backend {
        /// The object or prefix.
        path: String,
        /// What the store said.
        #[source]
        source: object_store::Error,
    },
    /// An object of the cold store is needed, and none is configured.
    #[error("{path} was moved to the cold store, and [store] cold does not say where that is")]
    NoCold {
        /// The object.
        path: String,
    },
    /// The cold store has nothing of ours.
    #[error("{path} was moved to the cold store, and the one of [store] cold is empty: is it mounted, and the right one?")]
    ColdEmpty {
        /// The object.
        path: String,
    },
    /// The object cannot be read as Parquet, or rows cannot be written as Parquet.
    #[error("{path} does not work as Parquet")]
    Parquet {
        /// The object.
        path: String,
        /// What the Parquet reader or writer said.
        #[source]
        source: ParquetError,
    },
    /// The object can be read but says something that cannot be.
    #[error("{path} is damaged: {reason}")]
    Corrupt {
        /// The object.
        path: String,
        /// What cannot be.
        reason: String,
    },
    /// The bytes of the object are not the bytes that were written.
    #[error("{path} is damaged: its BLAKE3 is {found} where {expected} was written")]
    Checksum {
        /// The object.
        path: String,
        /// Hex digits as recorded when the object was written.
        expected: String,
        /// Hex digits of what is there now.
        found: String,
    },
    /// The object was written by a newer version of this program.
    #[error("{path} has format {found}, and this program reads formats up to {known}: it is older than what wrote the file")]
    NewerFormat {
        /// The object.
        path: String,
        /// Its format.
        found: u32,
        /// The newest format we read.
        known: u32,
    },
    /// An object that is written once is there already, and says something else.
    #[error("{path} is there already with other content")]
    Conflict {
        /// The object.
        path: String,
    },
    /// The configured number of partitions is not that of what is in the store.
    #[error("log.partitions is {configured}, and {path} {found}; set it to the number of partitions of the log")]
    Partitions {
        /// As configured.
        configured: u32,
        /// What says otherwise.
        path: String,
        /// What it says.
        found: String,
    },
    /// An import that was begun cannot be gone on with on other terms.
    #[error("the import that {path} began cannot go on: {reason}")]
    Claimed {
        /// Its claim.
        path: String,
        /// Which term is another, and what to do.
        reason: String,
    },
    /// Nobody can say whether an object that is created once was created: delete nothing that it may name, and ask again.
    #[error("whether {path} was written is unknown")]
    UnknownOutcome {
        /// The object.
        path: String,
        /// Why the put or the reading back failed.
        #[source]
        source: Box<StoreError>,
    },
    /// Events that the master dataset should hold are in none of its segments.
    #[error("events [{start}, {end}) of partition {partition} are in no segment; before: {before}, after: {after}")]
    Gap {
        /// The partition.
        partition: u32,
        /// First missing offset.
        start: i64,
        /// End of what is missing, exclusive.
        end: i64,
        /// The segment that ends at or below the gap, or `none`.
        before: String,
        /// The segment that starts at or above its end, or `none`.
        after: String,
    },
    /// Two segments hold the same events, or one reaches over the edge of what was asked for.
    #[error("{first} and {second} overlap")]
    Overlap {
        /// The segment that starts first.
        first: String,
        /// The segment, or the range asked for, that it runs into.
        second: String,
    },
    /// A text that was to become (part of) an object's path cannot.
    #[error("\"{text}\" is not {expected}")]
    Name {
        /// The text.
        text: String,
        /// What it should have been.
        expected: &'static str,
    },
    /// A block of a batch view could not be read; readers that wait for the same block share the failure.
    #[error("a block of {path} cannot be read")]
    Block {
        /// The view's file.
        path: String,
        /// Why not.
        #[source]
        source: Arc<StoreError>,
    },
}

impl StoreError {
    pub(crate) fn backend(path: &ObjectPath, source: object_store::Error) -> Self {
        match source {
            object_store::Error::NotFound { .. } => Self::NotFound { path: path.to_string() },
            source => Self::Backend { path: path.to_string(), source },
        }
    }

    pub(crate) fn io(path: impl std::fmt::Display, source: std::io::Error) -> Self {
        Self::Io { path: path.to_string(), source }
    }

    /// A failure of reading or writing Parquet; one of the store underneath stays what it is.
    pub(crate) fn parquet(path: &ObjectPath, source: impl Into<ParquetError>) -> Self {
        let unknown = |source| Self::Parquet { path: path.to_string(), source };
        match source.into() {
            ParquetError::External(cause) => cause.downcast().map_or_else(|cause| unknown(ParquetError::External(cause)), |ours| *ours),
            source => unknown(source),
        }
    }

    /// Whether an object is missing or not what it should be.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::Checksum { .. } | Self::Corrupt { .. } | Self::Parquet { .. })
    }

    /// Whether the same call may succeed a moment later. A failing local disk never counts as such.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Backend { source: object_store::Error::Generic { .. }, .. })
    }

    pub(crate) fn corrupt(path: &ObjectPath, reason: impl Into<String>) -> Self {
        Self::Corrupt { path: path.to_string(), reason: reason.into() }
    }
}
