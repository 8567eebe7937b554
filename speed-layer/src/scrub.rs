//! Reading again what was written, before somebody needs it: closed segments of the log, and archived ones.
//!
//! One segment at a time, spread over the round, so that the disk is free for others. A damaged segment of the log is written
//! afresh from the archive; a damaged archived one is for a person, and the batch layer refuses it meanwhile. Each damage is
//! logged once.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use storage::log::LogError;
use storage::machine::blocking;
use storage::master::{SegmentMeta, list_segments, verify_segment};
use storage::store::StoreError;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::archive::Archive;
use crate::error::SpeedError;
use crate::metrics::Metrics;
use crate::partition::Partition;
use crate::restore::mended;

/// The shortest pause between two segments.
const PAUSE_MIN: Duration = Duration::from_millis(10);

/// One segment to read again.
enum Piece {
    Log(Partition, Range<i64>),
    Archived(SegmentMeta),
}

/// Reads segments again, and remembers which are damaged.
pub(crate) struct Scrub {
    archive: Arc<Archive>,
    partitions: Arc<[Partition]>,
    /// What was said of each damage that is still there.
    complaints: BTreeSet<String>,
    metrics: Arc<Metrics>,
}

impl Scrub {
    pub(crate) fn new(archive: Arc<Archive>, partitions: Arc<[Partition]>, metrics: Arc<Metrics>) -> Self {
        Self { archive, partitions, complaints: BTreeSet::new(), metrics }
    }

    /// One round after the other, each over `interval`, until `shutdown`. None if the interval is 0.
    pub(crate) async fn run(mut self, interval: Duration, shutdown: CancellationToken) {
        if interval.is_zero() {
            return shutdown.cancelled().await;
        }
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {}
            never = self.rounds(interval) => never,
        }
    }

    async fn rounds(&mut self, interval: Duration) {
        loop {
            let pieces = self.pieces().await;
            let pause = (interval / (pieces.len() as u32 + 1)).max(PAUSE_MIN);
            let segments = pieces.len();
            let damaged = self.round(pieces, pause).await;
            tokio::time::sleep(pause).await;
            info!(segments, damaged, "read all closed segments again");
        }
    }

    /// Looks at all pieces, and forgets damage that is no more. The answer is how much is there.
    async fn round(&mut self, pieces: Vec<Piece>, pause: Duration) -> usize {
        let mut found = BTreeSet::new();
        for piece in pieces {
            tokio::time::sleep(pause).await;
            found.extend(self.look_at(piece).await);
        }
        self.complaints = found;
        self.metrics.scrub_rounds.inc();
        self.metrics.damaged_segments.store(self.complaints.len() as u64, Ordering::Relaxed);
        self.complaints.len()
    }

    /// A round at once.
    #[cfg(test)]
    pub(crate) async fn round_now(&mut self) -> usize {
        let pieces = self.pieces().await;
        self.round(pieces, Duration::ZERO).await
    }

    async fn pieces(&self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for partition in self.partitions.iter() {
            match partition.log.segments() {
                Ok(mut segments) => {
                    // The last one is being written.
                    segments.pop();
                    pieces.extend(segments.into_iter().map(|range| Piece::Log(partition.clone(), range)));
                }
                Err(e) => warn!(partition = partition.number, error = %e, "the segments could not be listed"),
            }
        }
        match list_segments(self.archive.store()).await {
            // What is in the cold store is read again when it is needed: every byte of history, each round, would be a bill.
            Ok(listed) => pieces.extend(listed.into_iter().filter(|meta| !meta.is_cold()).map(Piece::Archived)),
            Err(e) if is_damage(&e) => error!(error = %e, "an archived segment is damaged"),
            Err(e) => warn!(error = %e, "the archived segments could not be listed"),
        }
        pieces
    }

    /// The damage that stays, if there is any.
    async fn look_at(&self, piece: Piece) -> Option<String> {
        match piece {
            Piece::Log(partition, range) => self.look_at_log(&partition, range).await,
            Piece::Archived(meta) => {
                // What the store cannot say now, it may say in the next round.
                let damage = verify_segment(self.archive.store(), &meta).await.err().filter(is_damage)?.to_string();
                if !self.complaints.contains(&damage) {
                    self.metrics.scrub_findings.inc();
                    error!(damage, "an archived segment is damaged; bring it back from a copy of the store");
                }
                Some(damage)
            }
        }
    }

    async fn look_at_log(&self, partition: &Partition, range: Range<i64>) -> Option<String> {
        let log = partition.log.clone();
        // It may have been trimmed meanwhile.
        let damage = blocking(move || log.verify(range)).await.err().filter(|e| e.damaged_segment().is_some())?;
        let text = damage.to_string();
        let news = !self.complaints.contains(&text);
        if news {
            self.metrics.scrub_findings.inc();
            error!(partition = partition.number, damage = text, "a closed segment of the log is damaged");
        }
        match self.mend(partition, &damage).await {
            Ok(()) => None,
            Err(e) => {
                if news {
                    error!(partition = partition.number, error = e.chain(), "the damaged segment stays as it is");
                }
                Some(text)
            }
        }
    }

    async fn mend(&self, partition: &Partition, damage: &LogError) -> Result<(), SpeedError> {
        // The damage may be in the header of the next one, which says what comes before it.
        let start = damage.damaged_segment().unwrap_or_default();
        let (range, records) = self.archive.restored(partition.number, start).await?;
        partition.replace(range, records).await?;
        mended(partition.number, damage, Ok(()))
    }
}

/// The bytes are not what was written, or are gone, and asking again would not help.
fn is_damage(error: &StoreError) -> bool {
    matches!(error, StoreError::NotFound { .. } | StoreError::Corrupt { .. } | StoreError::Checksum { .. } | StoreError::Parquet { .. })
}
