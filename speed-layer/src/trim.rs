//! Letting go of the log, from its old end.
//!
//! *Consistency.* A segment goes when nobody needs it here any more: it lies below the boundaries of all kept versions, below the
//! dedup window, and the Parquet file that has its events was read again right before and is, byte by byte, what its seal or the layout
//! says, which names this log and the segment's last record. Before the first version is superseded nothing goes, for version 0 begins at offset 0.
//!
//! *What a crash leaves behind.* The log with some more of its old segments.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use storage::log::LogReader;
use storage::machine::blocking;
use storage::master::{SegmentMeta, confirm_seal, list_segments, record_fingerprint, segment_of, verify_segment};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::archive::Archive;
use crate::error::SpeedError;
use crate::partition::Partition;
use crate::realtime::{Kept, Realtime};

/// When what could not be trimmed is tried again, unless a new version comes first.
const RETRY: Duration = Duration::from_secs(60);

/// Trims at start and after each version that was prepared, until `shutdown`.
pub(crate) async fn trim_as_versions_come(realtime: Arc<Realtime>, dedup_window_rows: i64, shutdown: CancellationToken) {
    loop {
        let trimmed = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            trimmed = trim(&realtime, dedup_window_rows) => trimmed,
        };
        let failed = trimmed.is_err();
        // What is not verified stays, and is tried again.
        if let Err(e) = trimmed {
            warn!(error = e.chain(), "the log could not be trimmed");
        }
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = realtime.prepared.notified() => {}
            () = tokio::time::sleep(RETRY), if failed => {}
        }
    }
}

/// Trims every partition as far as it may. What is wrong with the archive of one keeps the log of no other.
///
/// # Errors
/// The first there was.
pub(crate) async fn trim(realtime: &Realtime, dedup_window_rows: i64) -> Result<(), SpeedError> {
    let kept = realtime.kept.lock().await.clone();
    let mut surplus: Vec<(&Partition, Vec<Range<i64>>)> = Vec::new();
    for partition in realtime.partitions.iter() {
        let archived = realtime.archive.edge(partition.number).await;
        let below = needed_from(&kept, partition, dedup_window_rows).min(archived);
        let closed_to = partition.closed_to();
        let mut segments = partition.log.segments()?;
        segments.retain(|segment| segment.end <= below && segment.end <= closed_to);
        if !segments.is_empty() {
            surplus.push((partition, segments));
        }
    }
    if surplus.is_empty() {
        return Ok(());
    }
    let listed = list_segments(realtime.archive.store()).await?;
    let mut outcome = Ok(());
    for (partition, segments) in surplus {
        outcome = outcome.and(let_go(&realtime.archive, partition, segments, &listed).await);
    }
    outcome
}

/// Removes segments from the log, from the oldest on, each once its archived copy was verified.
async fn let_go(archive: &Archive, partition: &Partition, segments: Vec<Range<i64>>, listed: &[SegmentMeta]) -> Result<(), SpeedError> {
    for segment in segments {
        archive.verify(partition, &segment, listed).await?;
        for gone in partition.trim(segment.end).await? {
            info!(partition = partition.number, start = gone.start, end = gone.end, "trimmed segment, which is archived");
        }
    }
    Ok(())
}

/// The first offset that a kept version or the dedup window needs.
fn needed_from(kept: &[Kept], partition: &Partition, dedup_window_rows: i64) -> i64 {
    let oldest = kept.iter().map(|k| k.boundary.get(partition.number).copied().unwrap_or(0)).min();
    let window = partition.log.head().saturating_sub(dedup_window_rows);
    oldest.unwrap_or(0).min(window)
}

impl Archive {
    /// That a closed segment of the log is in the store, whole, durable, and the same.
    pub(crate) async fn verify(&self, partition: &Partition, segment: &Range<i64>, listed: &[SegmentMeta]) -> Result<(), SpeedError> {
        self.check_epoch().await?;
        let (number, log) = (partition.number as i32, partition.log.clone());
        let Some(archived) = segment_of(listed, partition.number as u32, segment) else {
            return Err(SpeedError::NotArchived { partition: number, start: segment.start, end: segment.end });
        };
        // Erasures are no rows, and what was erased is in no rewritten file any more.
        let same_log = archived.seal.log_id == self.log_id() && archived.rows() <= segment.end - segment.start;
        let last = segment.end - 1;
        let here = blocking(move || fingerprint_at(&log, last)).await?;
        let stored = archived.last_record().to_owned();
        if !same_log || here != stored {
            let made = format!("{} of log {}", archived.file(), archived.seal.log_id);
            return Err(SpeedError::OtherRecord { made, partition: number, offset: last, stored, here });
        }
        verify_segment(self.store(), &archived).await?;
        Ok(confirm_seal(self.store(), &archived).await?)
    }
}

fn fingerprint_at(log: &LogReader, offset: i64) -> Result<String, SpeedError> {
    let record = log.read(offset..offset + 1)?.next().expect("a range of one record yields one")?;
    Ok(record_fingerprint(&record.payload))
}
