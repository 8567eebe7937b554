//! Files of states that lie on one another, read as one.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;

use super::BLOCK_ROWS;
use super::blocks::{BlockFile, keys};
use super::cache::{BlockCache, BlockId};
use super::windows::{States, overlaid, uppermost};
use crate::manifest::ViewFile;
use crate::store::{Store, StoreError};

/// Open files of one schema, the lowest first.
#[derive(Debug)]
pub(crate) struct Layers {
    files: Vec<Arc<BlockFile>>,
    cache: BlockCache,
}

impl Layers {
    pub(super) fn new(lowest: Arc<BlockFile>, cache: &BlockCache) -> Self {
        Self { files: vec![lowest], cache: cache.clone() }
    }

    /// Opens files that are no view's, comparing each with what is said of it; the first one lies lowest. `None` where there are none.
    pub(crate) async fn open(store: &Store, files: &[ViewFile], cache: &BlockCache) -> Result<Option<Self>, StoreError> {
        let mut opened = Vec::with_capacity(files.len());
        for file in files {
            opened.push(Arc::new(BlockFile::open(store, file).await?));
        }
        Ok((!opened.is_empty()).then(|| Self { files: opened, cache: cache.clone() }))
    }

    pub(super) fn push(&mut self, file: Arc<BlockFile>) {
        self.files.push(file);
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &Arc<BlockFile>> {
        self.files.iter()
    }

    pub(super) fn schema(&self) -> &SchemaRef {
        self.files[0].schema()
    }

    /// See [`super::OpenView::rows`].
    pub(crate) async fn rows(&self, key: &str) -> Result<Vec<RecordBatch>, StoreError> {
        let mut layers = Vec::new();
        for file in &self.files {
            layers.push(self.rows_in(file, file.blocks_with(key), |found| found == key, |found| found < key).await?);
        }
        Ok(self.uppermost(layers))
    }

    /// See [`super::OpenView::rows_beginning`].
    pub(super) async fn rows_beginning(&self, prefix: &str) -> Result<Vec<RecordBatch>, StoreError> {
        let mut layers = Vec::new();
        for file in &self.files {
            let blocks = file.blocks_beginning(prefix);
            layers.push(self.rows_in(file, blocks, |found| found.starts_with(prefix), |found| found < prefix).await?);
        }
        Ok(self.uppermost(layers))
    }

    /// See [`super::OpenView::most_rows_beginning`].
    pub(super) fn most_rows_beginning(&self, prefix: &str) -> usize {
        self.files.iter().map(|file| file.blocks_beginning(prefix).len() * BLOCK_ROWS).sum()
    }

    /// See [`super::OpenView::scan_above`].
    pub(crate) fn scan_above(&self, lowest: u32) -> Result<States<StoreError>, StoreError> {
        let layers = &self.files[lowest as usize..];
        Ok(overlaid(self.schema(), layers.iter().map(|file| file.scan()).collect::<Result<_, _>>()?))
    }

    /// See [`super::OpenView::scan_in_pieces`].
    pub(super) fn scan_in_pieces(&self, piece_bytes: u64) -> States<StoreError> {
        overlaid(self.schema(), self.files.iter().map(|file| file.scan_in_pieces(piece_bytes)).collect())
    }

    /// The rows of all layers without those that lie under others.
    fn uppermost(&self, mut layers: Vec<Vec<RecordBatch>>) -> Vec<RecordBatch> {
        layers.retain(|rows| !rows.is_empty());
        match layers.len() {
            0 => Vec::new(),
            1 => layers.remove(0),
            _ => {
                let whole = |rows: &Vec<RecordBatch>| concat_batches(self.schema(), rows).expect("layers of one view have one schema");
                vec![uppermost(self.schema(), &layers.iter().map(whole).collect::<Vec<_>>())]
            }
        }
    }

    async fn rows_in(
        &self,
        file: &BlockFile,
        blocks: Range<usize>,
        wanted: impl Fn(&str) -> bool,
        before: impl Fn(&str) -> bool,
    ) -> Result<Vec<RecordBatch>, StoreError> {
        let mut found = Vec::new();
        for block in blocks {
            let rows = self.block(file, block).await?;
            let keys = keys(&rows);
            let start = partition_point(rows.num_rows(), |row| before(keys.value(row)));
            let end = partition_point(rows.num_rows(), |row| before(keys.value(row)) || wanted(keys.value(row)));
            if start < end {
                found.push(rows.slice(start, end - start));
            }
        }
        Ok(found)
    }

    async fn block(&self, file: &BlockFile, block: usize) -> Result<RecordBatch, StoreError> {
        let block_number = u32::try_from(block).expect("a file has fewer than 2^32 blocks");
        let id = BlockId { file: Arc::clone(&file.cache_name), block: block_number };
        let read = self.cache.get_or_read(id, || file.read(block)).await;
        read.map_err(|source| StoreError::Block { path: file.path.to_string(), source })
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
