//! Imports: history that did not come through the log. One input file is one import, numbered from 1.
//!
//! # Layout
//! `master/imports/<number, 20 digits>/` holds `claim.json`, which says whose number it is ([`ImportClaim`]), a Parquet file for
//! each partition that has rows, and `import.json`, the commit ([`ImportMeta`]). The Parquet files have the columns of a segment of
//! the [`master`](crate::master) dataset. `_append_time` is the time of the claim, and `_offset` lies below zero:
//! `-(2^62) + number * 2^32 + row`. So an imported event has a lower offset than a live one of the same identity, an earlier import a
//! lower one than a later import, and "the lowest offset wins" needs to know nothing of imports. Refused rows are in
//! `dead-letter/import-<number>.jsonl`, one [`DeadLetter`](crate::dead_letter::DeadLetter) a line. Repeated identities are all
//! there: who reads removes them.
//!
//! # Consistency
//! Who imports reads the claims 1, 2, 3 … and puts the next one if absent, so one reading of one content never gets two numbers
//! ([`Claims`]). Everything else is a function of the claim and the file: two processes that import the same at once write the same
//! bytes. An import exists when its commit is there, which is put if absent and names each file with its checksum, after every file
//! was read back. It never changes; what was erased is left out of files that the newest [`Layout`] puts in the place of others, and offsets stay
//! what they were. Imports may be committed in another order than they are numbered.
//!
//! # What a crash leaves behind
//! A claim, and perhaps files that no commit names and nobody reads. The next import of the same content goes on under the same
//! number and writes them again.

mod claim;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeSet;
use std::ops::Range;

use arrow::array::RecordBatch;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path as ObjectPath;
use serde::{Deserialize, Serialize};

use crate::master::layout::PlacedImport;
use crate::master::{Layout, read_rows, verify_object};
use crate::paths::{ImportObject, ImportPath, LayoutPath, imports_folder};
use crate::store::json::{self, Formats};
use crate::store::{Store, StoreError};

pub use claim::{Claims, Identity, ImportClaim, Terms};
pub use writer::ImportWriter;

/// The format of claims and commits that this program writes, and the newest it reads.
const FORMAT_VERSION: u32 = 1;
const FORMATS: Formats = Formats { known: FORMAT_VERSION, checked_from: 1 };
/// Below every offset of every import.
const LOWEST_OFFSET: i64 = -(1 << 62);
/// Rows of one partition of one import, at most.
const MAX_ROWS: i64 = 1 << 32;
/// The last import whose offsets are below zero.
const LAST_IMPORT: i64 = (1 << 30) - 1;
/// Claims or commits that are read at a time.
const READS: usize = 16;

/// A committed import.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ImportMeta {
    format_version: u32,
    /// Its number, from 1.
    pub import: i64,
    /// Which content it is, read in which way.
    pub identity: Identity,
    /// What the input was called, for people.
    pub name: String,
    /// Partitions among which users are divided.
    pub partitions: u32,
    /// When its number was taken, in microseconds since 1970: `_append_time` of its rows.
    pub claimed_time_us: i64,
    /// Rows of the input: `written_count` + `refused_count`.
    pub received_count: i64,
    /// Rows of all files.
    pub written_count: i64,
    /// Rows of the dead letters.
    pub refused_count: i64,
    /// Of the written rows, in microseconds since 1970; none without rows.
    pub first_event_time_us: Option<i64>,
    /// Of the written rows, in microseconds since 1970; none without rows.
    pub last_event_time_us: Option<i64>,
    /// One for each partition that has rows, in the order of the partitions.
    pub files: Vec<ImportFile>,
    /// The refused rows, where there are any.
    pub dead_letters: Option<LettersFile>,
    /// What the newest layout puts in the place of some of the files.
    #[serde(skip)]
    pub rewritten: Vec<PlacedImport>,
}

/// The events of one partition of an import.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ImportFile {
    /// The partition.
    pub partition: u32,
    /// Events in it.
    pub rows: i64,
    /// Length in bytes.
    pub bytes: i64,
    /// BLAKE3 of the bytes, in hex.
    pub blake3: String,
}

/// The refused rows of an import.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LettersFile {
    /// Length in bytes.
    pub bytes: i64,
    /// BLAKE3 of the bytes, in hex.
    pub blake3: String,
}

impl ImportMeta {
    /// The events of `partition`, if there are any.
    #[must_use]
    pub fn file(&self, partition: u32) -> Option<&ImportFile> {
        self.files.iter().find(|file| file.partition == partition)
    }

    /// The offsets of the rows of `partition`, all below zero; empty where it has no rows.
    #[must_use]
    pub fn offsets(&self, partition: u32) -> Range<i64> {
        let first = first_offset(self.import);
        first..first + self.file(partition).map_or(0, |file| file.rows)
    }

    /// The path of the file of `partition`, whether there is one or not.
    #[must_use]
    pub fn file_path(&self, partition: u32) -> ObjectPath {
        let committed = || path(self.import, ImportObject::File { partition });
        self.rewritten_file(partition).map_or_else(committed, |file| file.path.as_str().into())
    }

    /// The rows that `partition` has now: fewer than offsets where something was erased or has expired.
    #[must_use]
    pub fn rows(&self, partition: u32) -> i64 {
        let committed = self.file(partition).map_or(0, |file| file.rows);
        self.rewritten_file(partition).map_or(committed, |file| file.rows)
    }

    /// The rows of `partition` that have expired and are gone.
    #[must_use]
    pub fn expired(&self, partition: u32) -> i64 {
        self.rewritten_file(partition).map_or(0, |file| file.expired)
    }

    /// Length of the file of `partition`, in bytes.
    #[must_use]
    pub fn bytes(&self, partition: u32) -> i64 {
        let committed = self.file(partition).map_or(0, |file| file.bytes);
        self.rewritten_file(partition).map_or(committed, |file| file.bytes)
    }

    fn rewritten_file(&self, partition: u32) -> Option<&PlacedImport> {
        self.rewritten.iter().find(|file| file.partition == partition)
    }

    /// What in it cannot be true, if anything cannot.
    fn contradiction(&self) -> Option<String> {
        let partitions: Vec<u32> = self.files.iter().map(|file| file.partition).collect();
        if !partitions.is_sorted_by(|a, b| a < b) || partitions.last().is_some_and(|last| *last >= self.partitions) {
            return Some(format!("its files are of the partitions {partitions:?}, and there are {}", self.partitions));
        }
        let counts = [self.received_count, self.written_count, self.refused_count];
        if counts.iter().any(|count| *count < 0) || self.files.iter().any(|file| !(1..=MAX_ROWS).contains(&file.rows)) {
            return Some("it has a count that cannot be".to_owned());
        }
        let rows: i128 = self.files.iter().map(|file| i128::from(file.rows)).sum();
        if rows != i128::from(self.written_count) {
            return Some(format!("its files have {rows} rows, its written_count is {}", self.written_count));
        }
        if self.written_count.checked_add(self.refused_count) != Some(self.received_count) {
            return Some("its received_count is not written_count + refused_count".to_owned());
        }
        let ends = [self.first_event_time_us, self.last_event_time_us];
        let has_rows = self.written_count > 0;
        let told = self.dead_letters.is_some() == (self.refused_count > 0) && ends.iter().all(|end| end.is_some() == has_rows);
        (!told).then(|| "its dead letters or its times are not those of its counts".to_owned())
    }
}

/// The offset of the first row of each partition of an import.
#[must_use]
pub fn first_offset(import: i64) -> i64 {
    LOWEST_OFFSET + import * MAX_ROWS
}

/// The import that an event at `offset` comes from; `None` for an event of the log.
#[must_use]
pub fn import_of(offset: i64) -> Option<i64> {
    (offset < 0).then(|| (offset - LOWEST_OFFSET) / MAX_ROWS)
}

fn path(import: i64, object: ImportObject) -> ObjectPath {
    ImportPath { import, object }.path()
}

/// Every committed import, in the order of their numbers.
///
/// # Errors
/// What the store says; a damaged commit, by name; [`StoreError::Corrupt`] where a claim is gone that was there, so that the import
/// behind it may be gone too.
pub async fn list(store: &Store) -> Result<Vec<ImportMeta>, StoreError> {
    let listed = store.list(&imports_folder()).await?;
    let objects = listed.iter().filter_map(|object| ImportPath::parse(&object.location).ok());
    let (mut claims, mut commits) = (BTreeSet::new(), BTreeSet::new());
    for ImportPath { import, object } in objects {
        match object {
            ImportObject::Claim => claims.insert(import),
            ImportObject::Commit => commits.insert(import),
            ImportObject::File { .. } | ImportObject::DeadLetters => continue,
        };
    }
    let newest = claims.last().max(commits.last()).copied().unwrap_or(0);
    for import in (1..=newest).filter(|import| !claims.contains(import)) {
        // A list is not of one moment: a claim may have come behind where it was looked for.
        claim::read(store, import).await?.ok_or_else(|| {
            StoreError::corrupt(&path(import, ImportObject::Claim), format!("it is gone, though there is an import {newest}"))
        })?;
    }
    let read = |import| async move {
        let commit = path(import, ImportObject::Commit);
        parse(import, &store.get(&commit).await?)
    };
    let mut found: Vec<ImportMeta> = stream::iter(commits).map(read).buffered(READS).try_collect().await?;
    let layout = Layout::newest(store).await?;
    for meta in &mut found {
        meta.rewritten = layout.imports.iter().filter(|placed| placed.import == meta.import).cloned().collect();
        let is_more = |placed: &&PlacedImport| meta.file(placed.partition).map_or(0, |file| file.rows) - placed.expired < placed.rows;
        if let Some(placed) = meta.rewritten.iter().find(is_more) {
            let reason = format!("it names {}, which has more rows than its import", placed.path);
            return Err(StoreError::corrupt(&LayoutPath { number: layout.number }.path(), reason));
        }
    }
    Ok(found)
}

/// The import of a claim, if it is committed.
///
/// # Errors
/// What the store says, and a damaged commit; [`StoreError::Corrupt`] if another content is committed under the number.
pub async fn committed(store: &Store, claim: &ImportClaim) -> Result<Option<ImportMeta>, StoreError> {
    let commit = path(claim.import, ImportObject::Commit);
    let meta = match store.get(&commit).await {
        Ok(bytes) => parse(claim.import, &bytes)?,
        Err(StoreError::NotFound { .. }) => return Ok(None),
        Err(e) => return Err(e),
    };
    match meta.identity == claim.identity && meta.partitions == claim.partitions {
        true => Ok(Some(meta)),
        false => Err(StoreError::corrupt(&commit, "it is not of the content that claim.json beside it names")),
    }
}

fn parse(import: i64, bytes: &[u8]) -> Result<ImportMeta, StoreError> {
    let path = path(import, ImportObject::Commit);
    let meta: ImportMeta = json::decode(&path, bytes, FORMATS)?;
    let contradiction = match meta.import == import {
        true => meta.contradiction(),
        false => Some(format!("it says it is import {}", meta.import)),
    };
    contradiction.map_or(Ok(meta), |reason| Err(StoreError::corrupt(&path, reason)))
}

/// The rows of one partition of an import in order of their offsets, 8,192 at a time, as [`crate::master::read_segment`] reads a
/// segment; none where the partition has no rows.
///
/// # Errors
/// Here and in the stream: [`StoreError::NotFound`] and [`StoreError::Parquet`], naming the file.
pub async fn read_partition(
    store: &Store,
    import: &ImportMeta,
    partition: u32,
    columns: Option<&[String]>,
) -> Result<BoxStream<'static, Result<RecordBatch, StoreError>>, StoreError> {
    match import.file(partition) {
        Some(_) => read_rows(store, import.file_path(partition), import.bytes(partition), columns).await,
        None => Ok(stream::empty().boxed()),
    }
}

/// Reads every byte of one partition of an import and compares it with the commit.
///
/// # Errors
/// Naming the file: [`StoreError::NotFound`], [`StoreError::Corrupt`] if its length is another, [`StoreError::Checksum`].
pub async fn verify_partition(store: &Store, import: &ImportMeta, partition: u32) -> Result<(), StoreError> {
    match import.file(partition) {
        Some(file) => {
            let blake3 = import.rewritten_file(partition).map_or(&file.blake3, |file| &file.blake3);
            verify_object(store, &import.file_path(partition), import.bytes(partition), blake3).await
        }
        None => Ok(()),
    }
}

/// Reads every byte of every file of an import and compares it with the commit; dead letters included, which are kept for a
/// time only, and those of erased users not even so long.
///
/// # Errors
/// As [`verify_partition`].
pub async fn verify(store: &Store, import: &ImportMeta) -> Result<(), StoreError> {
    for file in &import.files {
        verify_partition(store, import, file.partition).await?;
    }
    match &import.dead_letters {
        Some(letters) => verify_object(store, &path(import.import, ImportObject::DeadLetters), letters.bytes, &letters.blake3).await,
        None => Ok(()),
    }
}
