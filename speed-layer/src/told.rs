//! What this layer tells over HTTP: whether it is ready, and its numbers. `docs/operations.md` has the table of them, which a test
//! compares with a scrape.
//!
//! What is a number already (heads, queues, slices, the disk) is read when somebody asks; nobody counts it twice.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use merganser_proto::auth::{Authority, Refusal};
use merganser_proto::http::Started;
use merganser_proto::metrics::{Labels, Numbers, Sheet, one};
use merganser_proto::server::{CallCounts, Peer};
use merganser_proto::tls::ServerTls;
use merganser_proto::traces;
use storage::log::Room;
use storage::machine::now_us;
use storage::record::{self, Record};
use tokio::sync::watch;
use tonic::codegen::http::HeaderMap;

use crate::archive::Archive;
use crate::ingest::Ingest;
use crate::partition::Partition;
use crate::slices::{Slices, Weight};

/// See the module.
pub(crate) struct Told {
    pub(crate) ingest: Ingest,
    pub(crate) archive: Arc<Archive>,
    pub(crate) calls: CallCounts,
    pub(crate) authority: Arc<Authority>,
    pub(crate) log_failed: watch::Receiver<bool>,
    pub(crate) data_dir: PathBuf,
    pub(crate) tls: Option<ServerTls>,
}

impl Started for Told {
    fn not_ready(&self) -> Option<String> {
        self.log_failed.borrow().then(|| "the log takes no more events until a restart".to_owned())
    }

    fn may_read_metrics(&self, headers: &HeaderMap, peer: &Peer) -> Result<(), Refusal> {
        self.authority.may_read_metrics(headers, peer)
    }
}

impl Numbers for Told {
    fn write(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        sheet.gauge("merganser_speed_ready", "1 if /readyz says so.", one(f64::from(u8::from(self.not_ready().is_none()))))?;
        self.write_appends(sheet)?;
        self.write_log(sheet)?;
        self.write_room(sheet)?;
        self.write_slices(sheet)?;
        self.write_archive(sheet)?;
        self.authority.write("merganser_speed", sheet)?;
        ServerTls::write(self.tls.as_ref(), "merganser_speed", sheet)?;
        traces::write("merganser_speed", sheet)?;
        self.calls.write("merganser_speed", sheet)
    }
}

impl Told {
    fn write_appends(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let metrics = &self.ingest.metrics;
        sheet.counter("merganser_speed_rows_received", "Rows of requests that were answered.", one(metrics.received.get()))?;
        sheet.counter("merganser_speed_rows", "The same rows, by what became of them.", metrics.rows())?;
        sheet.counter("merganser_speed_refused_rows", "Rows that were refused, by reason.", metrics.refused())?;
        sheet.counter("merganser_speed_appends", "Requests with events, by outcome.", metrics.appends())?;
        let durations = metrics.append_durations.clone();
        sheet.durations("merganser_speed_append_duration_seconds", "From a request to its acknowledgement.", one(durations))?;
        sheet.gauge("merganser_speed_queue_appends", "Appends that wait for a partition.", self.by_partition(|p| p.queued() as f64))?;
        let (waiting, limit) = self.ingest.room.bytes();
        sheet.gauge("merganser_speed_queue_bytes", "Bytes of events that wait for all partitions.", one(waiting as f64))?;
        sheet.gauge("merganser_speed_queue_limit_bytes", "How many may wait.", one(limit as f64))
    }

    fn write_log(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let metrics = &self.ingest.metrics;
        let durations = metrics.sync_durations.clone();
        sheet.counter("merganser_speed_log_events", "Events that were written to the log.", one(metrics.log_events.get()))?;
        sheet.durations("merganser_speed_log_sync_duration_seconds", "What an fdatasync of the log takes.", one(durations))?;
        let offset = |of: fn(&Partition) -> i64| self.by_partition(move |p| of(p) as f64);
        sheet.gauge("merganser_speed_log_head_offset", "The next offset.", offset(|p| p.log.head()))?;
        sheet.gauge("merganser_speed_log_start_offset", "The first offset that is not trimmed.", offset(|p| p.log.start()))?;
        let archived = self.by_partition(|p| self.archive.archived(p.number) as f64);
        sheet.gauge("merganser_speed_log_archived_offset", "The first offset that is not archived.", archived)?;
        sheet.gauge("merganser_speed_log_records", "Records in the log.", offset(|p| p.log.head() - p.log.start()))?;
        let bytes = self.partitions().filter_map(|p| Some((labels(p), p.log.bytes().ok()? as f64)));
        sheet.gauge("merganser_speed_log_bytes", "Bytes of the log's segments.", bytes.collect::<Vec<_>>())?;
        let full = self.by_partition(|p| f64::from(u8::from(p.is_full.load(Ordering::Relaxed))));
        sheet.gauge("merganser_speed_log_full", "1 if the newest append found no room on the disk.", full)?;
        let failed = f64::from(u8::from(*self.log_failed.borrow()));
        sheet.gauge("merganser_speed_log_failed", "1 if the log takes no more events until a restart.", one(failed))
    }

    fn write_room(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let room = Room::of(&*self.ingest.machine.disk(), &self.data_dir);
        let free = room.free_bytes.map(|bytes| (Labels::new(), bytes as f64));
        sheet.gauge("merganser_speed_disk_free_bytes", "Bytes free on the log's file system.", free)?;
        let reserve = one(room.reserve_bytes as f64);
        sheet.gauge("merganser_speed_disk_reserve_bytes", "Bytes kept back for a full disk; 0 once they are given up.", reserve)?;
        let (letters, bytes, limit) = self.ingest.dead_letters.kept();
        sheet.gauge("merganser_speed_dead_letters", "Refused rows that are kept.", one(letters as f64))?;
        sheet.gauge("merganser_speed_dead_letter_bytes", "Bytes of refused rows.", one(bytes as f64))?;
        sheet.gauge("merganser_speed_dead_letter_limit_bytes", "log.dead_letter_bytes.", one(limit as f64))
    }

    fn write_slices(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let weights: Vec<(Labels, Weight)> = self.partitions().map(|p| (labels(p), p.weight())).collect();
        let each = |of: fn(&Weight) -> usize| weights.iter().map(move |(labels, weight)| (labels.clone(), of(weight) as f64));
        sheet.gauge("merganser_speed_slices", "Slices of all definitions.", each(|weight| weight.slices))?;
        sheet.gauge(
            "merganser_speed_slice_rows",
            "Their rows of states, one a key and bucket or some more.",
            each(|weight| weight.rows),
        )?;
        sheet.gauge("merganser_speed_slice_bytes", "Their memory.", each(|weight| weight.bytes))
    }

    fn write_archive(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let metrics = &self.ingest.metrics;
        let now = now_us(&*self.ingest.machine);
        let age = |append_time_us: i64| now.saturating_sub(append_time_us).max(0) as f64 / 1e6;
        let ages = self.partitions().filter_map(|p| Some((labels(p), self.oldest_unarchived_us(p)?.map_or(0.0, age))));
        let help = "Age of the oldest record that is not archived; 0 if there is none.";
        sheet.gauge("merganser_speed_oldest_unarchived_age_seconds", help, ages.collect::<Vec<_>>())?;
        let failures = metrics.archive_failures.get();
        sheet.counter("merganser_speed_archive_failures", "Segments and erasures that could not be archived, each time.", one(failures))?;
        sheet.counter(
            "merganser_speed_scrub_rounds",
            "Times that all closed segments were read again.",
            one(metrics.scrub_rounds.get()),
        )?;
        let findings = metrics.scrub_findings.get();
        sheet.counter("merganser_speed_scrub_findings", "Damaged segments that were found.", one(findings))?;
        let damaged = metrics.damaged_segments.load(Ordering::Relaxed) as f64;
        sheet.gauge("merganser_speed_damaged_segments", "Those that the last round left damaged.", one(damaged))
    }

    /// How old the oldest record of a partition that is not archived is; nothing if all are, or it cannot be read. It reads the log.
    pub(crate) fn unarchived_age(&self, partition: &Partition) -> Option<Duration> {
        let append_time_us = self.oldest_unarchived_us(partition)??;
        let age_us = now_us(&*self.ingest.machine).saturating_sub(append_time_us);
        Some(Duration::from_micros(u64::try_from(age_us).unwrap_or(0)))
    }

    /// When the first record that is not archived was appended; nothing if all are, and no answer if it cannot be read.
    fn oldest_unarchived_us(&self, partition: &Partition) -> Option<Option<i64>> {
        let offset = self.archive.archived(partition.number).max(partition.log.start());
        if offset >= partition.log.head() {
            return Some(None);
        }
        // It is the first of its segment.
        let entry = partition.log.read(offset..offset + 1).ok()?.next()?.ok()?;
        Some(Some(match record::decode(&entry.payload, partition.number as i32, offset, &self.ingest.schema).ok()? {
            Record::Event(_, position) => position.append_time_us,
            Record::Erasure(erasure) => erasure.append_time_us,
        }))
    }

    fn partitions(&self) -> impl Iterator<Item = &Partition> {
        self.ingest.partitions.iter()
    }

    fn by_partition(&self, value: impl Fn(&Partition) -> f64) -> impl Iterator<Item = (Labels, f64)> {
        self.partitions().map(move |p| (labels(p), value(p)))
    }
}

impl Partition {
    /// What the slices of all its views weigh.
    pub(crate) fn weight(&self) -> Weight {
        let visible = self.visible.read().expect("no writer panics while it holds the lock");
        let weights = visible.views.values().map(Slices::weight);
        weights.fold(Weight::default(), |all, one| Weight {
            slices: all.slices + one.slices,
            rows: all.rows + one.rows,
            bytes: all.bytes + one.bytes,
        })
    }
}

fn labels(partition: &Partition) -> Labels {
    vec![("partition", partition.number.to_string())]
}
