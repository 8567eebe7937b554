//! Writing one import: events to the files of their partitions, refused rows to the dead letters, then the commit.

use std::io::{BufWriter, Write};

use bytes::Bytes;
use object_store::path::Path as ObjectPath;
use parquet::arrow::ArrowWriter;
use serde_json::Value;
use views::columns::{Position, to_batch};
use views::{Event, Refusal, shard_of};

use super::{FORMAT_VERSION, ImportClaim, ImportFile, ImportMeta, LettersFile, MAX_ROWS, committed, first_offset, path};
use crate::dead_letter::DeadLetter;
use crate::machine::blocking;
use crate::master::{properties, verify_object};
use crate::paths::ImportObject;
use crate::record::content_hash;
use crate::store::json;
use crate::store::{Claim, ObjectWriter, Store, StoreError};

/// Rows that are encoded at a time. Pages end where these do, so every file is cut the same way.
const BATCH_ROWS: usize = 8192;
/// Rows of a row group, which waits in memory, encoded, until it is full.
const GROUP_ROWS: usize = 16 * BATCH_ROWS;

/// An import in the making. It exists once [`commit`](Self::commit) returns; dropped before, it leaves the claim.
///
/// Held in memory: for each partition 8,192 events and, encoded, a row group of 131,072; in a store that is not a local folder
/// all bytes.
#[derive(Debug)]
pub struct ImportWriter {
    store: Store,
    claim: ImportClaim,
    partitions: Vec<PartitionWriter>,
    letters: BufWriter<ObjectWriter>,
    refused: i64,
    times: Option<(i64, i64)>,
}

#[derive(Debug)]
struct PartitionWriter {
    path: ObjectPath,
    writer: ArrowWriter<ObjectWriter>,
    rows: i64,
    waiting: Vec<(Event, Position)>,
}

impl ImportWriter {
    /// Starts the files of an import that is not [`committed`] yet.
    ///
    /// # Errors
    /// The disk's.
    pub async fn create(store: &Store, claim: &ImportClaim) -> Result<Self, StoreError> {
        let mut partitions = Vec::new();
        for partition in 0..claim.partitions {
            partitions.push(PartitionWriter::create(store, claim, partition).await?);
        }
        let letters = BufWriter::new(store.create(&path(claim.import, ImportObject::DeadLetters)).await?);
        Ok(Self { store: store.clone(), claim: claim.clone(), partitions, letters, refused: 0, times: None })
    }

    /// Adds an event, checked against the events of the claim, behind those before. Blocks on the disk.
    ///
    /// # Errors
    /// The disk's, and a partition of more rows than there are offsets. The import cannot be committed after one.
    pub fn push(&mut self, event: Event) -> Result<(), StoreError> {
        let time = event.event_time_us;
        self.times = Some(self.times.map_or((time, time), |(first, last)| (first.min(time), last.max(time))));
        let partition = shard_of(&event.user_id, self.claim.partitions);
        self.partitions[partition as usize].push(event, partition, &self.claim)
    }

    /// Adds a refused row; `row` is the row as far as it can be shown. Blocks on the disk.
    ///
    /// # Errors
    /// The disk's. The import cannot be committed after one.
    pub fn refuse(&mut self, refusal: Refusal, row: Value) -> Result<(), StoreError> {
        let Refusal { field, reason } = refusal;
        let letter = DeadLetter { received_time_us: self.claim.claimed_time_us, field, reason, event: row };
        let mut line = serde_json::to_vec(&letter).expect("strings, numbers and JSON values are always JSON");
        line.push(b'\n');
        self.refused += 1;
        self.letters.write_all(&line).map_err(|e| StoreError::io(path(self.claim.import, ImportObject::DeadLetters), e))
    }

    /// Ends the files, reads them back and puts the commit. The answer is what is there, whoever was first.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] or [`StoreError::Checksum`] if what is read back is not what was written; [`StoreError::Conflict`] if
    /// the import was committed meanwhile with other rows, say by another release; [`StoreError::UnknownOutcome`] if nobody can tell
    /// whether it is committed: the same import finds out.
    pub async fn commit(self) -> Result<ImportMeta, StoreError> {
        let Self { store, claim, partitions, letters, refused, times } = self;
        let mut files = Vec::new();
        for (partition, writer) in (0..).zip(partitions) {
            // What a commit names is not replaced any more.
            if let Some(there) = committed(&store, &claim).await? {
                return Ok(there);
            }
            files.extend(writer.finish(&store, partition, &claim).await?);
        }
        let dead_letters = if refused > 0 { Some(finish_letters(&store, &claim, letters).await?) } else { None };
        let written_count = files.iter().map(|file| file.rows).sum::<i64>();
        let meta = ImportMeta {
            format_version: FORMAT_VERSION,
            import: claim.import,
            identity: claim.identity,
            name: claim.name,
            partitions: claim.partitions,
            claimed_time_us: claim.claimed_time_us,
            received_count: written_count + refused,
            written_count,
            refused_count: refused,
            first_event_time_us: times.map(|(first, _)| first),
            last_event_time_us: times.map(|(_, last)| last),
            files,
            dead_letters,
            rewritten: Vec::new(),
        };
        assert_eq!(meta.contradiction(), None, "an import that contradicts itself is never committed");
        let path = path(meta.import, ImportObject::Commit);
        match store.claim(&path, Bytes::from(json::encode(&meta))).await? {
            Claim::Ours => Ok(meta),
            Claim::Theirs(there) => match super::parse(meta.import, &there)? == meta {
                true => Ok(meta),
                false => Err(StoreError::Conflict { path: path.to_string() }),
            },
        }
    }
}

impl PartitionWriter {
    async fn create(store: &Store, claim: &ImportClaim, partition: u32) -> Result<Self, StoreError> {
        let path = path(claim.import, ImportObject::File { partition });
        let properties = properties().set_max_row_group_row_count(Some(GROUP_ROWS)).build();
        let object = store.create(&path).await?;
        let writer = ArrowWriter::try_new(object, claim.events.arrow(), Some(properties)).map_err(|e| StoreError::parquet(&path, e))?;
        Ok(Self { path, writer, rows: 0, waiting: Vec::new() })
    }

    fn push(&mut self, event: Event, partition: u32, claim: &ImportClaim) -> Result<(), StoreError> {
        if self.rows == MAX_ROWS {
            return Err(StoreError::corrupt(&self.path, format!("a partition of an import has at most {MAX_ROWS} rows; cut the input")));
        }
        let position = Position {
            partition: partition as i32,
            offset: first_offset(claim.import) + self.rows,
            append_time_us: claim.claimed_time_us,
            content_hash: content_hash(&event, &claim.events),
        };
        self.rows += 1;
        self.waiting.push((event, position));
        if self.waiting.len() == BATCH_ROWS { self.encode(claim) } else { Ok(()) }
    }

    fn encode(&mut self, claim: &ImportClaim) -> Result<(), StoreError> {
        let batch = to_batch(self.waiting.iter().map(|(event, position)| (event, *position)), &claim.events);
        self.waiting.clear();
        self.writer.write(&batch).map_err(|e| StoreError::parquet(&self.path, e))
    }

    /// Ends the file and reads it back; without rows there is none.
    async fn finish(self, store: &Store, partition: u32, claim: &ImportClaim) -> Result<Option<ImportFile>, StoreError> {
        if self.rows == 0 {
            return Ok(None);
        }
        let (path, rows, claim, mut last) = (self.path.clone(), self.rows, claim.clone(), self);
        let ended = blocking(move || {
            last.encode(&claim)?;
            last.writer.into_inner().map_err(|e| StoreError::parquet(&last.path, e))
        });
        let info = ended.await?.finish().await?;
        verify_object(store, &path, info.bytes, &info.blake3).await?;
        Ok(Some(ImportFile { partition, rows, bytes: info.bytes, blake3: info.blake3 }))
    }
}

async fn finish_letters(store: &Store, claim: &ImportClaim, letters: BufWriter<ObjectWriter>) -> Result<LettersFile, StoreError> {
    let path = path(claim.import, ImportObject::DeadLetters);
    let failed = path.clone();
    let ended = blocking(move || letters.into_inner().map_err(|e| StoreError::io(failed, e.into_error())));
    let info = ended.await?.finish().await?;
    verify_object(store, &path, info.bytes, &info.blake3).await?;
    Ok(LettersFile { bytes: info.bytes, blake3: info.blake3 })
}
