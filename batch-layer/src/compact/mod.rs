//! Old segments, written again: many small ones become a large one, what was erased goes, what is past a declared retention goes, and what
//! is old moves to the cold store.
//!
//! *Consistency.* Files are written beside those that are there, and count from the moment when the next layout is put
//! ([`storage::master::layout`]). A lease keeps two from working at a time; that only one is right rests on the layout's number. Runs go
//! on meanwhile: what they have listed stays for the grace period.
//!
//! *What a crash leaves behind.* Files that no layout names, which go later, and copies in the cold store, which are used later.

mod erased;
mod expiring;
mod floor;
mod groups;
mod repeats;

use std::fmt;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use indicatif::{HumanBytes, HumanCount};
use storage::config::Config;
use storage::erasures::Erasures;
use storage::identities;
use storage::imports::{self, ImportMeta};
use storage::machine::{Machine, RealMachine};
use storage::master::{self, Layout, SegmentMeta, Without, layout};
use storage::paths::{Id, ViewName};
use storage::store::{Store, StoreError};
use tracing::info;

use crate::error::RunError;
use crate::keeper::{Keeper, Turn};
use crate::options::RunOptions;
use crate::retention::rfc3339;
use erased::{Due, carried_out, with_hidden};
use groups::{Limits, groups, newest_us};

/// Files that are written before a layout names them: after a crash they are written again.
const FILES_A_LAYOUT: usize = 16;
/// So many small files are merged though they do not make a large one.
const LEAST_FILES: usize = 8;

/// What is asked of [`compact`].
#[derive(Clone, Debug)]
pub struct CompactOptions {
    /// Lease, retries and grace.
    pub run: RunOptions,
    /// Segments whose newest event is this old are merged.
    pub after: Duration,
    /// Size that files grow to.
    pub target_bytes: i64,
    /// So many small files are merged though they do not make one of that size.
    pub least_files: usize,
    /// Segments whose newest event is this old are moved to the cold store, if there is one.
    pub cold_after: Duration,
}

impl CompactOptions {
    /// As the settings say.
    #[must_use]
    pub fn from_config(config: &Config) -> Self {
        Self {
            run: RunOptions::from_config(config, ViewName::master_dataset()),
            after: config.batch_layer.compact_after.0,
            target_bytes: i64::try_from(config.batch_layer.compact_bytes.0).unwrap_or(i64::MAX),
            least_files: LEAST_FILES,
            cold_after: config.store.cold_after.0,
        }
    }
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Files in whose place others were written.
    pub before: usize,
    /// Those others.
    pub after: usize,
    /// Bytes of them.
    pub bytes: i64,
    /// Rows that erasures hide and that are not in them.
    pub erased_rows: i64,
    /// Rows past the retention that are not in them.
    pub expired_rows: i64,
    /// Rows of events of before may be gone, now or earlier; microseconds since 1970.
    pub expired_before_us: Option<i64>,
    /// Why the retention lets nothing go, if something is in its way.
    pub held: Option<String>,
    /// Files that were moved to the cold store.
    pub moved: usize,
    /// Files that nobody needed any more and that are gone.
    pub removed: usize,
}

impl fmt::Display for Compacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |n: usize| HumanCount(n as u64);
        let bytes = HumanBytes(u64::try_from(self.bytes).unwrap_or(0));
        writeln!(f, "merged      {} files into {} of {bytes}", count(self.before), count(self.after))?;
        let rows = |n: i64| HumanCount(u64::try_from(n).unwrap_or(0));
        writeln!(f, "erased      {} rows", rows(self.erased_rows))?;
        if let Some(before_us) = self.expired_before_us {
            writeln!(f, "expired     {} rows; events before {} are past the retention", rows(self.expired_rows), rfc3339(before_us))?;
        }
        if let Some(reason) = &self.held {
            writeln!(f, "retention   waits: {reason}")?;
        }
        writeln!(f, "moved       {} files to the cold store", count(self.moved))?;
        write!(f, "removed     {} files that nobody needs any more", count(self.removed))
    }
}

/// Rewrites what is due in the master dataset of `store`.
///
/// # Errors
/// What was published stays; nothing is removed that any layout of the grace period names. [`RunError::Busy`], [`RunError::Fenced`]
/// and [`RunError::LayoutLost`] if another is at work.
pub async fn compact(options: &CompactOptions, store: &Store) -> Result<Compacted, RunError> {
    compact_on(&RealMachine, options, store).await
}

/// [`compact`] on a machine that the caller brings.
///
/// # Errors
/// As [`compact`].
pub async fn compact_on(machine: &dyn Machine, options: &CompactOptions, store: &Store) -> Result<Compacted, RunError> {
    let Turn { run_id, started, store, keeper } = Turn::take(machine, &options.run, store).await?;
    let work = Work { machine, options, store: &store, keeper: &keeper, run_id: &run_id, now: started };
    let done = Box::pin(work.all()).await;
    keeper.release().await;
    done
}

/// Removes files that others took the place of, and nothing else; the answer is how many.
///
/// # Errors
/// As [`compact`].
pub async fn remove_superseded(options: &CompactOptions, store: &Store) -> Result<usize, RunError> {
    let Turn { run_id, started, store, keeper } = Turn::take(&RealMachine, &options.run, store).await?;
    let work = Work { machine: &RealMachine, options, store: &store, keeper: &keeper, run_id: &run_id, now: started };
    let done = Box::pin(work.remove()).await;
    keeper.release().await;
    done
}

struct Work<'a> {
    machine: &'a dyn Machine,
    options: &'a CompactOptions,
    store: &'a Store,
    keeper: &'a Keeper,
    run_id: &'a Id,
    now: SystemTime,
}

impl Work<'_> {
    async fn all(&self) -> Result<Compacted, RunError> {
        let mut done = Compacted::default();
        let layout = Layout::newest(self.store).await?;
        let layout = self.rewrite(layout, &mut done).await?;
        let layout = self.expire_events(layout, &mut done).await?;
        done.expired_before_us = layout.expired_before_us;
        self.move_to_cold(layout, &mut done).await?;
        done.removed = self.remove().await?;
        Ok(done)
    }

    /// Merges what is due, without what was erased.
    async fn rewrite(&self, mut layout: Layout, done: &mut Compacted) -> Result<Layout, RunError> {
        let erasures = carried_out(self.store).await?;
        let without = Without::erased(&erasures);
        let segments = master::list_segments_in(self.store, &layout).await?;
        let limits = Limits { target_bytes: self.options.target_bytes, least_files: self.options.least_files };
        let is_old = |segment: &SegmentMeta| newest_us(segment) <= self.before_us(self.options.after);
        let mut jobs = Vec::new();
        for group in groups(&segments, is_old, limits) {
            jobs.extend(self.of_same_columns(group, limits).await?);
        }
        let imports = imports::list(self.store).await?;
        let due = Due::of(&layout, &erasures, &imports);
        if due.in_segments {
            jobs.extend(with_hidden(self.store, &segments, &erasures, &layout, &jobs).await?);
        }
        let mut jobs = jobs.into_iter().peekable();
        while jobs.peek().is_some() {
            let mut next = layout.next(self.run_id.as_str());
            for job in jobs.by_ref().take(FILES_A_LAYOUT) {
                let placed = Box::pin(master::rewrite(self.store, &job, &without, next.number, self.run_id)).await?;
                done.before += job.len();
                done.after += 1;
                done.bytes += placed.bytes;
                done.erased_rows += job.iter().map(SegmentMeta::rows).sum::<i64>() - placed.rows();
                next.place(placed)?;
            }
            layout = self.publish(next).await?;
        }
        if due.in_segments || due.in_imports {
            layout = self.erase_from_imports(&layout, &erasures, &imports, done).await?;
        }
        Ok(layout)
    }

    /// Takes what was erased out of the imports and the index, and notes that all of it is done.
    async fn erase_from_imports(
        &self,
        layout: &Layout,
        erasures: &Erasures,
        imports: &[ImportMeta],
        done: &mut Compacted,
    ) -> Result<Layout, RunError> {
        let mut next = layout.next(self.run_id.as_str());
        let without = Without::erased(erasures);
        for import in imports {
            for partition in import.files.iter().map(|file| file.partition) {
                let rewritten = master::rewrite_import(self.store, import, partition, &without, next.number, self.run_id);
                if let Some(placed) = Box::pin(rewritten).await? {
                    done.before += 1;
                    done.after += 1;
                    done.bytes += placed.bytes;
                    done.erased_rows += import.rows(partition) - placed.rows;
                    next.place_import(placed);
                }
            }
        }
        identities::forget(self.store).await?;
        next.erased = erasures.iter().map(erased::noted).collect();
        next.erased_from_imports = imports.iter().map(|import| import.import).collect();
        self.publish(next).await
    }

    /// A group, cut where the columns change: an attribute that was declared meanwhile is in the older ones only as text.
    async fn of_same_columns(&self, group: Vec<SegmentMeta>, limits: Limits) -> Result<Vec<Vec<SegmentMeta>>, RunError> {
        let mut cut: Vec<(_, Vec<SegmentMeta>)> = Vec::new();
        for segment in group {
            let columns = master::parquet_schema(self.store, &segment).await?.fields().clone();
            match cut.last_mut() {
                Some((same, segments)) if *same == columns => segments.push(segment),
                _ => cut.push((columns, vec![segment])),
            }
        }
        Ok(cut.into_iter().map(|(_, segments)| segments).filter(|segments| limits.is_worth_it(segments)).collect())
    }

    async fn move_to_cold(&self, layout: Layout, done: &mut Compacted) -> Result<(), RunError> {
        let Some(cold) = self.store.cold() else { return Ok(()) };
        let segments = master::list_segments_in(self.store, &layout).await?;
        let before = self.before_us(self.options.cold_after);
        let due: Vec<_> = segments.into_iter().filter(|segment| !segment.is_cold() && newest_us(segment) <= before).collect();
        if let Some(first) = due.first() {
            // The mark by which a cold store that is there is told from a folder where nothing is mounted. The first move puts it there.
            let expected = first.seal.log_id.clone();
            let found = if layout.has_cold() {
                let empty = || StoreError::ColdEmpty { path: first.file().to_string() };
                master::owner(cold).await?.ok_or_else(empty)?
            } else {
                master::claim(cold, &expected).await?
            };
            if found != expected {
                return Err(RunError::OtherCold { expected, found });
            }
        }
        let mut layout = layout;
        for some in due.chunks(FILES_A_LAYOUT) {
            let mut next = layout.next(self.run_id.as_str());
            for segment in some {
                next.place(Box::pin(master::copy_to_cold(self.store, segment)).await?)?;
            }
            layout = self.publish(next).await?;
            done.moved += some.len();
        }
        Ok(())
    }

    async fn publish(&self, layout: Layout) -> Result<Layout, RunError> {
        // The last look: from here on only the put-if-absent decides.
        self.keeper.check().await?;
        if !layout.publish(self.store).await? {
            return Err(RunError::LayoutLost);
        }
        info!(layout = layout.number, files = layout.segments.len(), "the master dataset has a new layout");
        Ok(layout)
    }

    async fn remove(&self) -> Result<usize, RunError> {
        let Some(before) = self.now.checked_sub(self.options.run.grace) else { return Ok(0) };
        let surplus = layout::superseded(self.store, before).await?;
        self.keeper.check().await?;
        for path in &surplus.here {
            self.store.delete(path).await?;
        }
        if let Some(cold) = self.store.cold() {
            for path in &surplus.cold {
                cold.delete(path).await?;
            }
        }
        identities::remove_unsealed(self.store, before).await?;
        Ok(surplus.files)
    }

    /// So long ago, in microseconds since 1970. Of a segment that lies as it was archived only the day is known: to be of any age, it need
    /// not be over.
    fn before_us(&self, age: Duration) -> i64 {
        if age.is_zero() {
            return i64::MAX;
        }
        let now = DateTime::<Utc>::from(self.now).timestamp_micros();
        now.saturating_sub(i64::try_from(age.as_micros()).unwrap_or(i64::MAX))
    }
}
