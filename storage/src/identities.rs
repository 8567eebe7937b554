//! The index of identities: at which offset of a partition each identity, a user's event id, came first.
//!
//! A run over a few new events asks it whether an identity was there before, where a run over all events sees the two side by side.
//! It is made from the segments of the master dataset, belongs to no view, and can be removed at any time: it is made again then.
//!
//! # Layout
//! `master/identities/p<partition>-<start>-<end>.parquet`, a file of states ([`crate::batch_view`]) over the events `[start, end)`:
//! the key is that of user and event id ([`views::key`]), the bucket is null, and the state is the lowest offset with the hash of that
//! event's content. `p<partition>-imports-<set>.parquet` is the same over what a set of imports has in the partition. Beside each its
//! seal: rows, bytes, BLAKE3.
//!
//! # Consistency
//! A file exists when its seal is there. Ranges overlap, for a longer file takes the place of several short ones; [`chain`] picks
//! adjacent ones. A file is a function of the log and its range, so that two who write one at a time write the same.
//!
//! # What a crash leaves behind
//! A file without a seal, which nobody reads and the next writer replaces.

use std::sync::Arc;
use std::time::SystemTime;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use object_store::path::Path as ObjectPath;
use serde::{Deserialize, Serialize};
use views::schema::{CONTENT_HASH, OFFSET};

use crate::batch_view::{BlockCache, Layers, States, ViewWriter, overlaid};
use crate::manifest::ViewFile;
use crate::paths::{IdentitiesPath, ImportIdentitiesPath, identities_folder};
use crate::store::json::{self, Formats};
use crate::store::{Store, StoreError};

#[cfg(test)]
mod tests;

const FORMAT_VERSION: u32 = 1;
const FORMATS: Formats = Formats { known: FORMAT_VERSION, checked_from: 1 };

/// Columns of the files: key, bucket, offset, content hash.
#[must_use]
pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("identity", DataType::Utf8, false),
        Field::new("bucket", DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())), true),
        Field::new(OFFSET, DataType::Int64, false),
        Field::new(CONTENT_HASH, DataType::Int64, false),
    ]))
}

/// A file of identities, as its seal says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentitiesFile(ViewFile);

/// A file of identities of the log that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentitiesMeta {
    /// Partition and offsets.
    pub path: IdentitiesPath,
    file: ViewFile,
    written: DateTime<Utc>,
}

/// What stands beside a file.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Seal {
    format_version: u32,
    file: ViewFile,
}

/// Every file of identities in the store, sorted by partition and offset.
///
/// # Errors
/// What the store says, and a damaged seal, by name.
pub async fn list(store: &Store) -> Result<Vec<IdentitiesMeta>, StoreError> {
    let mut found = Vec::new();
    for object in store.list(&identities_folder()).await? {
        if let Ok(path) = IdentitiesPath::parse_seal(&object.location) {
            let bytes = match store.get(&object.location).await {
                Ok(bytes) => bytes,
                // Removed since: it is made again.
                Err(StoreError::NotFound { .. }) => continue,
                Err(e) => return Err(e),
            };
            let file = read_seal(&object.location, &bytes, &path.path())?;
            found.push(IdentitiesMeta { path, file, written: object.last_modified });
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn read_seal(path: &ObjectPath, bytes: &[u8], of: &ObjectPath) -> Result<ViewFile, StoreError> {
    let seal: Seal = json::decode(path, bytes, FORMATS)?;
    match seal.file.path == of.as_ref() {
        true => Ok(seal.file),
        false => Err(StoreError::corrupt(path, format!("it is the seal of {}", seal.file.path))),
    }
}

/// The file of a set of imports, if it is there.
///
/// # Errors
/// What the store says, and a damaged seal.
pub async fn of_imports(store: &Store, path: &ImportIdentitiesPath) -> Result<Option<IdentitiesFile>, StoreError> {
    match store.get(&path.seal_path()).await {
        Ok(bytes) => read_seal(&path.seal_path(), &bytes, &path.path()).map(|file| Some(IdentitiesFile(file))),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Writes the file of a set of imports; `rows` as in [`write`](fn@write). Blocks on CPU and disk.
///
/// # Errors
/// Those of `rows`, and the disk's.
pub async fn write_imports<E>(store: &Store, path: &ImportIdentitiesPath, rows: States<E>) -> Result<IdentitiesFile, E>
where
    E: From<StoreError> + Send + 'static,
{
    Ok(IdentitiesFile(put(store, &path.path(), &path.seal_path(), vec![rows]).await?))
}

/// The fewest files that cover a partition from offset 0 on, as far as there are any, in order.
#[must_use]
pub fn chain(files: &[IdentitiesMeta], partition: u32) -> Vec<IdentitiesMeta> {
    let mut chain: Vec<IdentitiesMeta> = Vec::new();
    loop {
        let edge = chain.last().map_or(0, |last| last.path.end);
        let next = files.iter().filter(|file| file.path.partition == partition && file.path.start == edge);
        match next.max_by_key(|file| file.path.end) {
            Some(next) => chain.push(next.clone()),
            None => return chain,
        }
    }
}

/// Writes the file of `path`: the identities of `new`, and of `old` files that lie directly below them. Blocks on CPU and disk.
///
/// `new` are rows of [`schema`] in order of their keys, each key once. Where an identity is in several, the one of the lowest offset stays.
///
/// # Errors
/// Those of `new`, and the disk's.
///
/// # Panics
/// If the offsets of `old` and those of `path` do not fit together.
pub async fn write<E>(store: &Store, path: &IdentitiesPath, old: &[IdentitiesMeta], new: States<E>) -> Result<IdentitiesMeta, E>
where
    E: From<StoreError> + Send + 'static,
{
    assert!(old.first().is_none_or(|first| first.path.start == path.start), "the oldest file begins where the new one does");
    let mut layers = vec![new];
    // What came first lies uppermost.
    for meta in old.iter().rev() {
        if let Some(opened) = Layers::open(store, std::slice::from_ref(&meta.file), &BlockCache::new(0)).await? {
            layers.push(Box::pin(opened.scan_above(0)?.map_err(E::from)));
        }
    }
    let file = put(store, &path.path(), &path.seal_path(), layers).await?;
    Ok(IdentitiesMeta { path: path.clone(), file, written: DateTime::UNIX_EPOCH })
}

/// Writes what lies uppermost in `layers`, and then its seal.
async fn put<E>(store: &Store, path: &ObjectPath, seal_path: &ObjectPath, layers: Vec<States<E>>) -> Result<ViewFile, E>
where
    E: From<StoreError> + Send + 'static,
{
    let schema = schema();
    let mut writer = ViewWriter::create_at(store, path.clone(), Arc::clone(&schema)).await?;
    let mut rows = overlaid(&schema, layers);
    while let Some(batch) = rows.try_next().await? {
        writer.write(&batch)?;
    }
    let file = writer.finish().await?;
    let seal = Seal { format_version: FORMAT_VERSION, file };
    store.put_durable(seal_path, Bytes::from(json::encode(&seal))).await?;
    Ok(seal.file)
}

/// Removes files whose range a longer one has, and those of sets of imports that a newer one followed, once both were written before
/// `before`: a run that opened the shorter one may still be reading it. The answer is how many.
///
/// # Errors
/// What the store says.
pub async fn remove_covered(store: &Store, before: SystemTime) -> Result<usize, StoreError> {
    let files = list(store).await?;
    let before = DateTime::<Utc>::from(before);
    let is_in = |inner: &IdentitiesPath, outer: &IdentitiesPath| {
        inner != outer && inner.partition == outer.partition && outer.start <= inner.start && inner.end <= outer.end
    };
    let mut removed = 0;
    let covered = files
        .iter()
        .filter(|file| file.written < before && files.iter().any(|other| other.written < before && is_in(&file.path, &other.path)));
    let mut paths: Vec<_> = covered.map(|file| (file.path.seal_path(), file.path.path())).collect();
    let objects = store.list(&identities_folder()).await?;
    let sets: Vec<_> = objects
        .iter()
        .filter_map(|object| Some((ImportIdentitiesPath::parse_seal(&object.location).ok()?, object.last_modified)))
        .collect();
    let was_followed = |(set, written): &&(ImportIdentitiesPath, DateTime<Utc>)| {
        *written < before && sets.iter().any(|(other, later)| other.partition == set.partition && later > written && *later < before)
    };
    paths.extend(sets.iter().filter(was_followed).map(|(set, _)| (set.seal_path(), set.path())));
    for (seal, file) in paths {
        // Without its seal it is not there.
        store.delete(&seal).await?;
        store.delete(&file).await?;
        removed += 1;
    }
    Ok(removed)
}

/// Makes the index be none, so that it is made again: what was erased is in it. The files stay until [`remove_unsealed`], for whoever
/// opened them before.
///
/// # Errors
/// What the store says.
pub async fn forget(store: &Store) -> Result<(), StoreError> {
    for object in store.list(&identities_folder()).await? {
        if IdentitiesPath::parse_seal(&object.location).is_ok() || ImportIdentitiesPath::parse_seal(&object.location).is_ok() {
            store.delete(&object.location).await?;
        }
    }
    Ok(())
}

/// Removes files that have no seal and were written before `before`. The answer is how many.
///
/// # Errors
/// What the store says.
pub async fn remove_unsealed(store: &Store, before: SystemTime) -> Result<usize, StoreError> {
    let before = DateTime::<Utc>::from(before);
    let objects = store.list(&identities_folder()).await?;
    let seal_of = |path: &ObjectPath| path.as_ref().strip_suffix(".parquet").map(|name| ObjectPath::from(format!("{name}.seal.json")));
    let mut removed = 0;
    for object in objects.iter().filter(|object| object.last_modified < before) {
        let Some(seal) = seal_of(&object.location) else { continue };
        if !objects.iter().any(|other| other.location == seal) {
            store.delete(&object.location).await?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// The first event with an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct First {
    /// Its offset.
    pub offset: i64,
    /// What its content is known by.
    pub content_hash: i64,
}

/// The identities of one partition, open for asking.
#[derive(Debug)]
pub struct Identities(Option<Layers>);

impl Identities {
    /// Opens the files of a [`chain`] and that of the imports, comparing every byte with their seals.
    ///
    /// # Errors
    /// Naming the file, as [`crate::batch_view::OpenView::open`].
    pub async fn open(
        store: &Store,
        chain: &[IdentitiesMeta],
        imports: Option<&IdentitiesFile>,
        cache: &BlockCache,
    ) -> Result<Self, StoreError> {
        // What came first lies uppermost, and what was imported below zero came before all.
        let files = chain.iter().rev().map(|meta| meta.file.clone());
        let files: Vec<ViewFile> = files.chain(imports.map(|file| file.0.clone())).collect();
        Ok(Self(Layers::open(store, &files, cache).await?))
    }

    /// The first event of an identity, by the key of user and event id; `None` if there is none.
    ///
    /// # Errors
    /// [`StoreError::Block`] if a block cannot be read.
    pub async fn first(&self, key: &str) -> Result<Option<First>, StoreError> {
        let Some(layers) = &self.0 else { return Ok(None) };
        let found = layers.rows(key).await?;
        let value = |rows: &arrow::array::RecordBatch, column: usize| rows.column(column).as_primitive::<Int64Type>().value(0);
        Ok(found
            .first()
            .filter(|rows| !rows.column(0).is_empty())
            .map(|rows| First { offset: value(rows, 2), content_hash: value(rows, 3) }))
    }
}
