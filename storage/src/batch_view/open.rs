//! A published version, open for reading.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use super::blocks::BlockFile;
use super::cache::BlockCache;
use super::layers::Layers;
use super::windows::States;
use crate::manifest::Manifest;
use crate::store::{Store, StoreError};

/// One version of a batch view, verified and ready for point reads. Share it behind an `Arc`.
#[derive(Debug)]
pub struct OpenView {
    manifest: Manifest,
    shards: Vec<Layers>,
}

impl OpenView {
    /// Reads every file of the version once, comparing it with the manifest, and keeps footers and page indexes in memory:
    /// about a key and a half per thousand rows.
    ///
    /// # Errors
    /// Naming the file: [`StoreError::NotFound`], [`StoreError::Checksum`], [`StoreError::Corrupt`] if it contradicts the
    /// manifest or the other files.
    pub async fn open(store: &Store, manifest: Manifest, cache: &BlockCache) -> Result<Self, StoreError> {
        Self::open_after(store, manifest, cache, None).await
    }

    /// [`Self::open`], but for the files that `before` has open too: they were compared then, and are not read again.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_after(store: &Store, manifest: Manifest, cache: &BlockCache, before: Option<&Self>) -> Result<Self, StoreError> {
        if let Some(reason) = manifest.contradiction() {
            return Err(StoreError::corrupt(&manifest.path(), reason));
        }
        let opened = before.into_iter().flat_map(|before| before.shards.iter().flat_map(Layers::files));
        let opened: HashMap<&str, &Arc<BlockFile>> = opened.map(|file| (file.expected.path.as_str(), file)).collect();
        let mut shards: Vec<Layers> = Vec::with_capacity(manifest.shards() as usize);
        for expected in &manifest.files {
            let file = match opened.get(expected.path.as_str()) {
                Some(file) if file.expected.is_same_file(expected) => Arc::clone(file),
                _ => Arc::new(BlockFile::open(store, expected).await?),
            };
            if shards.first().is_some_and(|first| first.schema() != file.schema()) {
                return Err(StoreError::corrupt(&file.path, "its columns are not those of the view's other files"));
            }
            match (expected.layer, shards.last_mut()) {
                (1.., Some(shard)) => shard.push(file),
                _ => shards.push(Layers::new(file, cache)),
            }
        }
        Ok(Self { manifest, shards })
    }

    /// The manifest it was opened from.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Number of shards: a key's rows are in shard `views::shard_of_key(key, shards)`.
    #[must_use]
    pub fn shards(&self) -> u32 {
        self.shards.len() as u32
    }

    /// Columns of the rows: key, bucket, states.
    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        self.shards[0].schema()
    }

    /// The state rows of `key`, in order of their buckets, as slices of decoded blocks; none if the view does not have the key
    /// in that shard.
    ///
    /// # Errors
    /// [`StoreError::Block`] if a block cannot be read. A failed read is never an empty one.
    ///
    /// # Panics
    /// If there is no such shard.
    pub async fn rows(&self, shard: u32, key: &str) -> Result<Vec<RecordBatch>, StoreError> {
        self.shards[shard as usize].rows(key).await
    }

    /// The state rows of all keys of a shard that begin with `prefix`, in order of key and bucket; see [`Self::rows`].
    ///
    /// # Errors
    /// [`StoreError::Block`] if a block cannot be read.
    ///
    /// # Panics
    /// If there is no such shard.
    pub async fn rows_beginning(&self, shard: u32, prefix: &str) -> Result<Vec<RecordBatch>, StoreError> {
        self.shards[shard as usize].rows_beginning(prefix).await
    }

    /// How many rows of a shard may be those of keys that begin with `prefix`, or a few less.
    ///
    /// # Panics
    /// If there is no such shard.
    #[must_use]
    pub fn most_rows_beginning(&self, shard: u32, prefix: &str) -> usize {
        self.shards[shard as usize].most_rows_beginning(prefix)
    }

    /// All rows of a shard in order of key and bucket, past the cache.
    ///
    /// # Errors
    /// Here and in the stream: [`StoreError::Parquet`], naming the file.
    ///
    /// # Panics
    /// If there is no such shard.
    pub fn scan(&self, shard: u32) -> Result<States<StoreError>, StoreError> {
        self.scan_above(shard, 0)
    }

    /// The rows of a shard's layers from `lowest` on, as [`Self::scan`].
    ///
    /// # Errors
    /// As [`Self::scan`].
    ///
    /// # Panics
    /// If there is no such layer in the shard.
    pub fn scan_above(&self, shard: u32, lowest: u32) -> Result<States<StoreError>, StoreError> {
        self.shards[shard as usize].scan_above(lowest)
    }

    /// The rows of every shard, each in order of key and bucket, past the cache. All shards together hold about `bytes` of their files at a
    /// time, and what that is decoded, or a block of each file.
    ///
    /// # Errors
    /// In the streams: [`StoreError::Parquet`], naming the file.
    #[must_use]
    pub fn scan_in_pieces(&self, bytes: u64) -> Vec<States<StoreError>> {
        let of_each = bytes / self.shards.iter().flat_map(Layers::files).count().max(1) as u64;
        self.shards.iter().map(|shard| shard.scan_in_pieces(of_each)).collect()
    }
}
