//! Decoded blocks, shared by every open version.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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
pub struct BlockCache {
    blocks: Cache<BlockId, RecordBatch>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    looked_up: AtomicU64,
    read: AtomicU64,
}

impl BlockCache {
    /// A cache of at most `capacity_bytes` of Arrow memory. With 0 every read goes to the store.
    #[must_use]
    pub fn new(capacity_bytes: u64) -> Self {
        let weigh = |_: &BlockId, block: &RecordBatch| u32::try_from(block.get_array_memory_size()).unwrap_or(u32::MAX);
        Self { blocks: Cache::builder().max_capacity(capacity_bytes).weigher(weigh).build(), counts: Arc::default() }
    }

    /// Blocks held now. Housekeeping is deferred, so it lags a little behind.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.blocks.entry_count()
    }

    /// Arrow memory of the blocks held now. Lags as [`Self::blocks`] does.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.blocks.weighted_size()
    }

    /// How many blocks were asked for so far and had, or were about to be had by somebody else.
    #[must_use]
    pub fn hits(&self) -> u64 {
        let read = self.misses();
        self.counts.looked_up.load(Ordering::Relaxed).saturating_sub(read)
    }

    /// How many blocks were asked for so far and had to be read.
    #[must_use]
    pub fn misses(&self) -> u64 {
        self.counts.read.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(super) async fn settle(&self) {
        self.blocks.run_pending_tasks().await;
    }

    /// The block from the cache, or from `read`, which runs once for all who ask at the same time. Failures are not kept.
    pub(super) async fn get_or_read<F>(&self, id: BlockId, read: impl FnOnce() -> F) -> Result<RecordBatch, Arc<StoreError>>
    where
        F: Future<Output = Result<RecordBatch, StoreError>>,
    {
        self.counts.looked_up.fetch_add(1, Ordering::Relaxed);
        if let Some(block) = self.blocks.get(&id).await {
            return Ok(block);
        }
        let counted = async {
            self.counts.read.fetch_add(1, Ordering::Relaxed);
            read().await
        };
        self.blocks.try_get_with(id, Box::pin(counted)).await
    }
}
