//! Sealing: each closed segment of the log becomes one Parquet file of the master dataset.
//!
//! A segment's range and date come from the log itself, so that a seal that is repeated after a crash writes the same
//! objects: where only the Parquet file was put, the next start finds the segment unsealed and writes both again. Nothing is
//! deleted here; [`crate::trim`] lets go of what is archived.
//!
//! A record that is an erasure is no row. It is put into the store by itself, before the segment that it lies in: so whoever sees a
//! segment sees all erasures below its end.
//!
//! Of two servers over one store the one that started later may archive: each takes an epoch, and looks before each segment
//! whether another followed.

use std::ops::Range;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, MutexGuard, OnceLock, PoisonError};

use arrow::array::RecordBatch;
use chrono::DateTime;
use merganser_proto::trace_span;
use storage::erasures::{self, Erasure};
use storage::log::LogReader;
use storage::machine::{Machine, blocking};
use storage::master::{self, Origin, archived_edge, claim, claim_epoch, epoch_after, list_segments, write_segment};
use storage::paths::SegmentPath;
use storage::record::{self, Record};
use storage::store::{Retry, Store};
use tokio::sync::{Mutex, Notify};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, warn};
use views::EventSchema;
use views::columns::to_batch;

use crate::error::SpeedError;
use crate::metrics::Metrics;
use crate::partition::Partition;

/// Wait after a failed seal.
const RETRY: std::time::Duration = std::time::Duration::from_secs(1);
/// Rows of the batches that a segment is written from.
const BATCH_ROWS: usize = 8192;

pub(crate) struct Archive {
    store: Store,
    schema: EventSchema,
    log_id: String,
    /// Taken once this log is known to be the one that belongs to the store.
    epoch: OnceLock<i64>,
    /// Per partition, the end of what is archived without a gap.
    edges: Vec<Mutex<i64>>,
    /// The same for those who only look, and would not wait while a segment is archived.
    archived: Vec<AtomicI64>,
    metrics: Arc<Metrics>,
    /// Per partition, the edge that was found at start, and the fingerprint of the record below it; none where nothing is archived.
    found: Vec<Option<(i64, String)>>,
    /// Erasures that are in the log and perhaps not in the store.
    owed: std::sync::Mutex<Vec<Erasure>>,
    wake: Notify,
}

impl Archive {
    /// Finds out what the store has already, and makes the master dataset this log's if it is nobody's.
    ///
    /// # Errors
    /// The master dataset is that of another log: its segments would be taken for ours.
    pub(crate) async fn open(
        machine: &dyn Machine,
        store: Store,
        schema: EventSchema,
        partitions: usize,
        log_id: &str,
        metrics: Arc<Metrics>,
    ) -> Result<Self, SpeedError> {
        let store = store.with_retry(Retry::seeded(machine.random() as u64));
        let owner = claim(&store, log_id).await?;
        if owner != log_id {
            return Err(SpeedError::OtherMaster { stored: owner, here: log_id.to_owned() });
        }
        let segments = list_segments(&store).await?;
        let ends: Vec<i64> = (0..partitions).map(|p| archived_edge(&segments, p as u32)).collect();
        let last = |(p, end): (usize, &i64)| {
            let last = master::segment_ending(&segments, p as u32, *end)?;
            Some((*end, last.last_record().to_owned()))
        };
        let found = ends.iter().enumerate().map(last).collect();
        let archived = ends.iter().copied().map(AtomicI64::new).collect();
        let edges = ends.into_iter().map(Mutex::new).collect();
        Ok(Self {
            edges,
            archived,
            metrics,
            found,
            store,
            schema,
            log_id: log_id.to_owned(),
            epoch: OnceLock::new(),
            owed: Default::default(),
            wake: Notify::new(),
        })
    }

    /// Takes the next epoch: from here on every server that started earlier over this store archives nothing more. Call it when
    /// this log was compared with the store and fits, for an old copy of a log must not fence the log itself.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn take_epoch(&self, machine: &dyn Machine) -> Result<(), SpeedError> {
        let instance = format!("{:032x}", machine.random());
        let epoch = claim_epoch(&self.store, &self.log_id, &instance).await?;
        info!(epoch, instance, "took the epoch");
        self.epoch.get_or_init(|| epoch);
        Ok(())
    }

    /// That nobody has taken an epoch after ours.
    pub(crate) async fn check_epoch(&self) -> Result<(), SpeedError> {
        let Some(epoch) = self.epoch.get().copied() else { return Err(SpeedError::Stopping) };
        match epoch_after(&self.store, epoch).await? {
            None => Ok(()),
            Some((newer, instance)) => {
                self.wake();
                Err(SpeedError::Fenced { epoch, newer, instance })
            }
        }
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn schema(&self) -> &EventSchema {
        &self.schema
    }

    pub(crate) fn log_id(&self) -> &str {
        &self.log_id
    }

    /// The archived edge of a partition at start, and the fingerprint of the record below it.
    pub(crate) fn sealed_record(&self, partition: usize) -> Option<(i64, &str)> {
        self.found[partition].as_ref().map(|(edge, record)| (*edge, record.as_str()))
    }

    /// Takes note of erasures that the store may not know; [`Self::run`] puts them.
    pub(crate) fn owe(&self, erasures: impl IntoIterator<Item = Erasure>) {
        self.owed().extend(erasures);
        self.wake();
    }

    /// Puts an erasure into the store. When this returns, it is durable there.
    ///
    /// # Errors
    /// [`SpeedError::ErasureNotStored`]: it is in the log, and will be put again.
    pub(crate) async fn put_erasure(&self, erasure: &Erasure) -> Result<(), SpeedError> {
        let failed = |source| SpeedError::ErasureNotStored { partition: erasure.partition, offset: erasure.offset, source };
        erasures::put(&self.store, erasure).await.map_err(failed)?;
        self.owed().retain(|owed| owed != erasure);
        Ok(())
    }

    fn owed(&self) -> MutexGuard<'_, Vec<Erasure>> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn put_owed(&self) -> Result<(), SpeedError> {
        let owed = self.owed().clone();
        for erasure in owed {
            self.put_erasure(&erasure).await?;
        }
        Ok(())
    }

    /// A segment was closed.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Archives closed segments as they come, until `shutdown`.
    ///
    /// # Errors
    /// [`SpeedError::Fenced`]: another server has the archive now, and this one must stop. What else goes wrong is tried again.
    pub(crate) async fn run(&self, partitions: &[Partition], shutdown: CancellationToken) -> Result<(), SpeedError> {
        loop {
            let mut failed = false;
            let put = tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                put = self.put_owed() => put,
            };
            if let Err(e) = put {
                self.metrics.archive_failures.inc();
                warn!(error = e.chain(), "an erasure could not be put into the store; trying again");
                failed = true;
            }
            // Whoever was told of a newer epoch has woken this, and there may be nothing to archive.
            if let Err(e @ SpeedError::Fenced { .. }) = self.check_epoch().await {
                return Err(e);
            }
            for partition in partitions {
                let archived = tokio::select! {
                    biased;
                    () = shutdown.cancelled() => return Ok(()),
                    archived = self.archive_up_to(partition, partition.closed_to()) => archived,
                };
                match archived {
                    Ok(()) => {}
                    Err(e @ SpeedError::Fenced { .. }) => return Err(e),
                    Err(e) => {
                        self.metrics.archive_failures.inc();
                        warn!(partition = partition.number, error = e.chain(), "segment could not be archived; trying again");
                        failed = true;
                    }
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
                () = shutdown.cancelled() => return Ok(()),
                () = self.wake.notified() => {}
                () = retry => {}
            }
        }
    }

    /// Where what is archived of a partition ends.
    pub(crate) async fn edge(&self, partition: usize) -> i64 {
        *self.edges[partition].lock().await
    }

    /// [`Self::edge`] as it was a moment ago, at once.
    pub(crate) fn archived(&self, partition: usize) -> i64 {
        self.archived[partition].load(Ordering::Acquire)
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
            let (start_offset, end_offset) = (segment.start, segment.end);
            let sealing = trace_span!("seal", partition = partition.number as i64, start_offset, end_offset);
            self.seal(partition, segment.clone()).instrument(sealing).await?;
            *archived = segment.end;
            self.archived[partition.number].store(segment.end, Ordering::Release);
        }
        Ok(())
    }

    /// Puts a closed segment into the store.
    async fn seal(&self, partition: &Partition, segment: Range<i64>) -> Result<(), SpeedError> {
        let (log, schema, number) = (partition.log.clone(), self.schema.clone(), partition.number);
        let range = segment.clone();
        let rows = blocking(move || read_segment(&log, &schema, number as i32, range)).await?;
        let ingest_date = DateTime::from_timestamp_micros(rows.first_append_us).unwrap_or_default().date_naive();
        let path = SegmentPath { partition: number as u32, start: segment.start, end: segment.end, ingest_date };
        let origin = Origin { log_id: self.log_id.clone(), last_record: rows.last_record };
        self.check_epoch().await?;
        for erasure in &rows.erasures {
            self.put_erasure(erasure).await?;
        }
        let seal = write_segment(&self.store, &path, self.schema.arrow(), rows.batches, origin).await?;
        info!(partition = number, start = segment.start, end = segment.end, bytes = seal.bytes, "archived segment");
        Ok(())
    }
}

/// A segment of the log, as it is archived.
struct SegmentRows {
    batches: Vec<RecordBatch>,
    /// Records that are no rows.
    erasures: Vec<Erasure>,
    first_append_us: i64,
    /// Fingerprint of the last record.
    last_record: String,
}

fn read_segment(log: &LogReader, schema: &EventSchema, partition: i32, range: Range<i64>) -> Result<SegmentRows, SpeedError> {
    let mut read = SegmentRows { batches: Vec::new(), erasures: Vec::new(), first_append_us: 0, last_record: String::new() };
    let mut rows = Vec::with_capacity(BATCH_ROWS);
    for entry in log.read(range.clone())? {
        let entry = entry?;
        let append_time_us = match record::decode(&entry.payload, partition, entry.offset, schema)? {
            Record::Event(event, position) => {
                rows.push((event, position));
                position.append_time_us
            }
            Record::Erasure(erasure) => {
                let append_time_us = erasure.append_time_us;
                read.erasures.push(erasure);
                append_time_us
            }
        };
        if entry.offset == range.start {
            read.first_append_us = append_time_us;
        }
        if entry.offset + 1 == range.end {
            read.last_record = master::record_fingerprint(&entry.payload);
        }
        if rows.len() == BATCH_ROWS || (entry.offset + 1 == range.end && !rows.is_empty()) {
            read.batches.push(to_batch(rows.iter().map(|(event, position)| (event, *position)), schema));
            rows.clear();
        }
    }
    Ok(read)
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

#[cfg(test)]
mod tests;
