//! A published version, open for reading.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::stream::BoxStream;

use super::BLOCK_ROWS;
use super::blocks::{BlockFile, keys};
use super::cache::{BlockCache, BlockId};
use crate::manifest::Manifest;
use crate::store::{Store, StoreError};

/// One version of a batch view, verified and ready for point reads. Share it behind an `Arc`.
#[derive(Debug)]
pub struct OpenView {
    manifest: Manifest,
    files: Vec<BlockFile>,
    cache: BlockCache,
    cache_name: Arc<str>,
}

impl OpenView {
    /// Reads every file of the version once, comparing it with the manifest, and keeps footers and page indexes in memory:
    /// about a key and a half per thousand rows.
    ///
    /// # Errors
    /// Naming the file: [`StoreError::NotFound`], [`StoreError::Checksum`], [`StoreError::Corrupt`] if it contradicts the
    /// manifest or the other files.
    pub async fn open(store: &Store, manifest: Manifest, cache: &BlockCache) -> Result<Self, StoreError> {
        if let Some(reason) = manifest.contradiction() {
            return Err(StoreError::corrupt(&manifest.path(), reason));
        }
        let mut files: Vec<BlockFile> = Vec::with_capacity(manifest.files.len());
        for expected in &manifest.files {
            let file = BlockFile::open(store, expected).await?;
            if files.first().is_some_and(|first| first.schema() != file.schema()) {
                return Err(StoreError::corrupt(&file.path, "its columns are not those of the view's other files"));
            }
            files.push(file);
        }
        let cache_name = format!("{}/v{}-{}", manifest.view, manifest.version, manifest.run_id).into();
        Ok(Self { manifest, files, cache: cache.clone(), cache_name })
    }

    /// The manifest it was opened from.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Number of shards: a key's rows are in shard `views::shard_of_key(key, shards)`.
    #[must_use]
    pub fn shards(&self) -> u32 {
        self.files.len() as u32
    }

    /// Columns of the rows: key, bucket, states.
    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        self.files[0].schema()
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
        self.rows_in(shard, self.files[shard as usize].blocks_with(key), |found| found == key, |found| found < key).await
    }

    /// The state rows of all keys of a shard that begin with `prefix`, in order of key and bucket; see [`Self::rows`].
    ///
    /// # Errors
    /// [`StoreError::Block`] if a block cannot be read.
    ///
    /// # Panics
    /// If there is no such shard.
    pub async fn rows_beginning(&self, shard: u32, prefix: &str) -> Result<Vec<RecordBatch>, StoreError> {
        let blocks = self.files[shard as usize].blocks_beginning(prefix);
        self.rows_in(shard, blocks, |found| found.starts_with(prefix), |found| found < prefix).await
    }

    /// How many rows of a shard may be those of keys that begin with `prefix`, or a few less.
    ///
    /// # Panics
    /// If there is no such shard.
    #[must_use]
    pub fn most_rows_beginning(&self, shard: u32, prefix: &str) -> usize {
        self.files[shard as usize].blocks_beginning(prefix).len() * BLOCK_ROWS
    }

    async fn rows_in(
        &self,
        shard: u32,
        blocks: Range<usize>,
        wanted: impl Fn(&str) -> bool,
        before: impl Fn(&str) -> bool,
    ) -> Result<Vec<RecordBatch>, StoreError> {
        let mut found = Vec::new();
        for block in blocks {
            let rows = self.block(shard, block).await?;
            let keys = keys(&rows);
            let start = partition_point(rows.num_rows(), |row| before(keys.value(row)));
            let end = partition_point(rows.num_rows(), |row| before(keys.value(row)) || wanted(keys.value(row)));
            if start < end {
                found.push(rows.slice(start, end - start));
            }
        }
        Ok(found)
    }

    async fn block(&self, shard: u32, block: usize) -> Result<RecordBatch, StoreError> {
        let file = &self.files[shard as usize];
        let block_number = u32::try_from(block).expect("a file has fewer than 2^32 blocks");
        let id = BlockId { version: Arc::clone(&self.cache_name), shard, block: block_number };
        let read = self.cache.get_or_read(id, Box::pin(file.read(block))).await;
        read.map_err(|source| StoreError::Block { path: file.path.to_string(), source })
    }

    /// All rows of a shard in order of key and bucket, past the cache.
    ///
    /// # Errors
    /// Here and in the stream: [`StoreError::Parquet`], naming the file.
    ///
    /// # Panics
    /// If there is no such shard.
    pub fn scan(&self, shard: u32) -> Result<BoxStream<'static, Result<RecordBatch, StoreError>>, StoreError> {
        self.files[shard as usize].scan()
    }
}

/// The first of `0..rows` that is not `before`, where all that are come first.
fn partition_point(rows: usize, before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, rows);
    while low < high {
        let middle = low.midpoint(high);
        if before(middle) { low = middle + 1 } else { high = middle }
    }
    low
}
