//! The seal of a segment: what its file is, and which log it comes from.

use bytes::Bytes;
use object_store::path::Path as ObjectPath;
use serde::{Deserialize, Serialize};

use crate::paths::SegmentPath;
use crate::store::json::{self, Formats};
use crate::store::{PutOutcome, Store, StoreError};

/// The seal format that this program writes, and the newest it reads.
const FORMAT_VERSION: u32 = 1;
const FORMATS: Formats = Formats { known: FORMAT_VERSION, checked_from: 1 };

/// Where the rows of a segment come from, which its Parquet file does not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The log whose offsets they have.
    pub log_id: String,
    /// [`record_fingerprint`] of the last one.
    pub last_record: String,
}

/// What a segment was when it was archived. Written beside it, after it was read back; it never changes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Seal {
    format_version: u32,
    /// Events in it.
    pub rows: i64,
    /// Length of the Parquet file in bytes.
    pub bytes: i64,
    /// BLAKE3 of its bytes, in hex.
    pub blake3: String,
    /// The log whose offsets the events have.
    pub log_id: String,
    /// [`record_fingerprint`] of its last record, the one below the end of its range: what tells this log from one that was
    /// rewound and went on otherwise.
    pub last_record: String,
}

/// BLAKE3 of a record as the log has it, in hex.
#[must_use]
pub fn record_fingerprint(payload: &[u8]) -> String {
    blake3::hash(payload).to_hex().to_string()
}

impl Seal {
    pub(super) fn of(parquet: &Bytes, rows: i64, origin: Origin) -> Self {
        Self::new(rows, parquet.len() as i64, blake3::hash(parquet).to_hex().to_string(), origin)
    }

    pub(super) fn new(rows: i64, bytes: i64, blake3: String, origin: Origin) -> Self {
        let Origin { log_id, last_record } = origin;
        Self { format_version: FORMAT_VERSION, rows, bytes, blake3, log_id, last_record }
    }

    /// Writes the seal, durably, unless it is there.
    pub(super) async fn put(&self, store: &Store, path: &ObjectPath) -> Result<(), StoreError> {
        let bytes = Bytes::from(json::encode(self));
        let outcome = store.put_if_absent(path, bytes.clone()).await?;
        let there = store.get(path).await?;
        if there == bytes {
            return Ok(());
        }
        // A damaged seal is said to be damaged, whoever wrote it.
        let other = Self::parse(path, &there)?;
        match outcome == PutOutcome::Exists && other != *self {
            true => Err(StoreError::Conflict { path: path.to_string() }),
            false => Err(StoreError::corrupt(path, "it is not what was written")),
        }
    }

    pub(super) async fn read(store: &Store, segment: &SegmentPath) -> Result<Self, StoreError> {
        let path = segment.seal_path();
        Self::parse(&path, &store.get(&path).await?)
    }

    fn parse(path: &ObjectPath, bytes: &[u8]) -> Result<Self, StoreError> {
        json::decode(path, bytes, FORMATS)
    }
}
