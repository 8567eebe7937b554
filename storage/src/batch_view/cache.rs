//! Decoded blocks, shared by every open version.

use std::sync::Arc;

use arrow::array::RecordBatch;
use moka::future::Cache;

use crate::store::StoreError;

/// Which block of which file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct BlockId {
    /// Path and BLAKE3 of the file, so that versions which share a file share its blocks, and no others.
    pub(super) file: Arc<str>,
    pub(super) block: u32,
}

/// A cache of decoded blocks, bounded in bytes. Cheap to clone; one serves all views and versions of one store.
#[derive(Clone, Debug)]
pub struct BlockCache(Cache<BlockId, RecordBatch>);

impl BlockCache {
    /// A cache of at most `capacity_bytes` of Arrow memory. With 0 every read goes to the store.
    #[must_use]
    pub fn new(capacity_bytes: u64) -> Self {
        let weigh = |_: &BlockId, block: &RecordBatch| u32::try_from(block.get_array_memory_size()).unwrap_or(u32::MAX);
        Self(Cache::builder().max_capacity(capacity_bytes).weigher(weigh).build())
    }

    /// Blocks held now. Housekeeping is deferred, so it lags a little behind.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.0.entry_count()
    }

    #[cfg(test)]
    pub(super) async fn settle(&self) {
        self.0.run_pending_tasks().await;
    }

    /// The block from the cache, or from `read`, which runs once for all who ask at the same time. Failures are not kept.
    pub(super) async fn get_or_read<F>(&self, id: BlockId, read: impl FnOnce() -> F) -> Result<RecordBatch, Arc<StoreError>>
    where
        F: Future<Output = Result<RecordBatch, StoreError>>,
    {
        match self.0.get(&id).await {
            Some(block) => Ok(block),
            None => self.0.try_get_with(id, Box::pin(read())).await,
        }
    }
}
