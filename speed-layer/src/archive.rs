//! Sealing: each closed segment of the log becomes one Parquet file of the master dataset.
//!
//! A segment's range and date come from the log itself, so that a seal that is repeated after a crash writes the same
//! object. Nothing is deleted here.

use std::sync::Arc;

use arrow::array::RecordBatch;
use chrono::DateTime;
use storage::log::LogReader;
use storage::machine::blocking;
use storage::master::{archived_edge, claim, list_segments, write_segment};
use storage::paths::SegmentPath;
use storage::record;
use storage::store::Store;
use tokio::sync::{Mutex, Notify};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use views::EventSchema;

use crate::error::SpeedError;
use crate::partition::{Partition, for_each_batch};

/// Wait after a failed seal.
const RETRY: std::time::Duration = std::time::Duration::from_secs(1);

pub(crate) struct Archive {
    store: Store,
    schema: EventSchema,
    /// Per partition, the end of what is archived without a gap.
    edges: Vec<Mutex<i64>>,
    wake: Notify,
}

impl Archive {
    /// Finds out what the store has already, and makes the master dataset this log's if it is nobody's.
    ///
    /// # Errors
    /// The master dataset is that of another log: its segments would be taken for ours.
    pub(crate) async fn open(store: Store, schema: EventSchema, partitions: usize, log_id: &str) -> Result<Self, SpeedError> {
        let owner = claim(&store, log_id).await?;
        if owner != log_id {
            return Err(SpeedError::OtherMaster { stored: owner, here: log_id.to_owned() });
        }
        let segments = list_segments(&store).await?;
        let edges = (0..partitions).map(|p| Mutex::new(archived_edge(&segments, p as u32))).collect();
        Ok(Self { edges, store, schema, wake: Notify::new() })
    }

    /// A segment was closed.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Archives closed segments as they come, until `shutdown`.
    pub(crate) async fn run(&self, partitions: &[Partition], shutdown: CancellationToken) {
        loop {
            let mut failed = false;
            for partition in partitions {
                if let Err(e) = self.archive_up_to(partition, partition.closed_to()).await {
                    warn!(partition = partition.number, error = e.chain(), "segment could not be archived; trying again");
                    failed = true;
                }
            }
            let retry = async {
                match failed {
                    true => tokio::time::sleep(RETRY).await,
                    false => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = self.wake.notified() => {}
                () = retry => {}
            }
        }
    }

    /// Where what is archived of a partition ends.
    pub(crate) async fn edge(&self, partition: usize) -> i64 {
        *self.edges[partition].lock().await
    }

    /// Archives every closed segment below `edge`, which is the edge of one. When this returns they are in the store, durable
    /// and read back.
    pub(crate) async fn archive_up_to(&self, partition: &Partition, edge: i64) -> Result<(), SpeedError> {
        let mut archived = self.edges[partition.number].lock().await;
        for segment in partition.log.segments()? {
            if segment.end <= *archived || segment.end > edge || segment.is_empty() {
                continue;
            }
            if segment.start != *archived {
                let (partition, archived) = (partition.number as i32, *archived);
                return Err(SpeedError::ArchiveMismatch { partition, archived, start: segment.start, end: segment.end });
            }
            let (log, schema, number) = (partition.log.clone(), self.schema.clone(), partition.number);
            let range = segment.clone();
            let read = blocking(move || read_segment(&log, &schema, number as i32, range)).await;
            let (batches, first_append_us) = read?;
            let ingest_date = DateTime::from_timestamp_micros(first_append_us).unwrap_or_default().date_naive();
            let path = SegmentPath { partition: number as u32, start: segment.start, end: segment.end, ingest_date };
            let written = write_segment(&self.store, &path, self.schema.arrow(), batches).await?;
            info!(partition = number, start = segment.start, end = segment.end, bytes = written.bytes, "archived segment");
            *archived = segment.end;
        }
        Ok(())
    }
}

fn read_segment(
    log: &LogReader,
    schema: &EventSchema,
    partition: i32,
    range: std::ops::Range<i64>,
) -> Result<(Vec<RecordBatch>, i64), SpeedError> {
    let mut first_append_us = 0;
    if let Some(first) = log.read(range.start..range.start + 1)?.next() {
        let first = first?;
        first_append_us = record::decode(&first.payload, partition, first.offset, schema)?.1.append_time_us;
    }
    let mut batches = Vec::new();
    for_each_batch(log, schema, partition, range, |_, batch| {
        batches.push(batch);
        Ok(())
    })?;
    Ok((batches, first_append_us))
}

/// Rolls segments that have grown old, so that a quiet partition is archived too.
pub(crate) async fn roll_by_age(partitions: Arc<[Partition]>, age: std::time::Duration, shutdown: CancellationToken) {
    let mut tick = tokio::time::interval((age / 10).max(std::time::Duration::from_millis(100)));
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            _ = tick.tick() => {}
        }
        for partition in partitions.iter() {
            if let Err(e) = partition.roll(age).await {
                warn!(partition = partition.number, error = e.chain(), "segment could not be closed");
            }
        }
    }
}
