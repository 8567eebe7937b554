//! Events past a declared retention leave the files that have them (decision 0015).
//!
//! *Consistency.* Nobody runs meanwhile: the leases of all views are held, so that no version comes to be which was computed from events that are
//! not there any more. Rows that repeat an expired one go first, in a layout of their own; the expired ones then, so that the one is never
//! without the other the wrong way round. The index of identities is forgotten before, and made again by the next run that needs it.
//!
//! *What a crash leaves behind.* Some of what has expired, which no view counts, and which the next compaction takes.

use std::sync::Arc;

use storage::identities;
use storage::imports::{self, ImportMeta};
use storage::master::{self, Expired, Layout, SegmentMeta, Without};
use tracing::info;

use super::erased::carried_out;
use super::floor::{self, Floor};
use super::{Compacted, FILES_A_LAYOUT, Work, repeats};
use crate::error::RunError;
use crate::hidden::Hidden;
use crate::keeper::{Keeper, Turn};
use crate::options::RunOptions;
use crate::progress::{Progress, Silent};
use crate::retention::rfc3339;
use crate::run::{on_blocking_thread, spill_folder};
use crate::sort::SortBounds;
use crate::source::{EventColumns, Source};

/// The files of one partition that may have expired rows.
struct Files {
    partition: u32,
    segments: Vec<SegmentMeta>,
    imports: Vec<Arc<ImportMeta>>,
}

impl Work<'_> {
    /// Takes what has expired out of segments and imports. Where something is in the way it says so and does nothing.
    pub(super) async fn expire_events(&self, layout: Layout, done: &mut Compacted) -> Result<Layout, RunError> {
        let options = &self.options.run;
        if options.retention.is_none() {
            return Ok(layout);
        }
        let found = match Floor::find(options, self.store, &layout).await? {
            Ok(floor) => floor,
            Err(reason) => return Ok(waiting(layout, done, reason)),
        };
        if self.with_older(&layout, &found).await?.is_empty() {
            return Ok(layout);
        }
        let mut keepers = Vec::new();
        let outcome = match self.take_all(&mut keepers).await {
            Ok(()) => Box::pin(self.expire_alone(layout, &keepers, done)).await,
            Err(error @ RunError::Busy { .. }) => Ok(waiting(layout, done, error.to_string())),
            Err(error) => Err(error),
        };
        for keeper in keepers {
            keeper.release().await;
        }
        outcome
    }

    /// Takes the lease of every view.
    async fn take_all(&self, keepers: &mut Vec<Keeper>) -> Result<(), RunError> {
        for view in floor::views(&self.options.run, self.store).await? {
            let options = RunOptions { view, ..self.options.run.clone() };
            keepers.push(Turn::take(self.machine, &options, self.store).await?.keeper);
        }
        Ok(())
    }

    async fn expire_alone(&self, mut layout: Layout, keepers: &[Keeper], done: &mut Compacted) -> Result<Layout, RunError> {
        // Nothing is published from here on, so this one holds.
        let floor = match Floor::find(&self.options.run, self.store, &layout).await? {
            Ok(floor) => floor,
            Err(reason) => return Ok(waiting(layout, done, reason)),
        };
        let erasures = carried_out(self.store).await?;
        let mut is_forgotten = false;
        for Files { partition, segments, imports } in self.with_older(&layout, &floor).await? {
            let source = self.source(partition, &segments, &imports, &Hidden::by(&erasures));
            let spill = spill_folder(&self.options.run).await?;
            let bounds = SortBounds { memory_bytes: self.options.run.memory_bytes_a_thread(), spill_dir: spill.path().to_owned() };
            let expired = on_blocking_thread(repeats::note(source, floor.of(partition), bounds)).await?;
            if !expired.go.is_empty() {
                let repeats = Expired { before_us: i64::MIN, go: expired.go.clone(), ..Expired::default() };
                let without = Without { expired: Some(repeats), ..Without::default() };
                layout = self.write_without(layout, partition, &without, floor.before_us, keepers, done).await?;
            }
            if !is_forgotten {
                identities::forget(self.store).await?;
                is_forgotten = true;
            }
            let without = Without { erasures: erasures.clone(), expired: Some(expired) };
            layout = self.write_without(layout, partition, &without, floor.before_us, keepers, done).await?;
        }
        if done.expired_rows > 0 {
            info!(before = rfc3339(floor.before_us), rows = done.expired_rows, "events past the retention are gone");
        }
        Ok(layout)
    }

    /// The partitions of which some file may have settled events from before the floor, with all that they have.
    async fn with_older(&self, layout: &Layout, floor: &Floor) -> Result<Vec<Files>, RunError> {
        let all = master::list_segments_in(self.store, layout).await?;
        let imports: Vec<Arc<ImportMeta>> = imports::list(self.store).await?.into_iter().map(Arc::new).collect();
        let mut found = Vec::new();
        for partition in 0..floor.below.len() as u32 {
            let expired = floor.of(partition);
            let segments = master::chain(&all, partition, 0..master::archived_edge(&all, partition))?;
            let mut has_older = false;
            for segment in segments.iter().filter(|segment| segment.range().start < expired.below) {
                has_older = has_older || is_older(master::oldest_event_us(self.store, segment).await?, &expired);
            }
            for import in imports.iter().filter(|import| expired.imports.contains(&import.import)) {
                has_older = has_older || is_older(master::oldest_imported_us(self.store, import, partition).await?, &expired);
            }
            if has_older {
                found.push(Files { partition, segments, imports: imports.clone() });
            }
        }
        Ok(found)
    }

    fn source(&self, partition: u32, segments: &[SegmentMeta], imports: &[Arc<ImportMeta>], hidden: &Arc<Hidden>) -> Source {
        let columns = Arc::new(EventColumns::identity_and_time(&self.options.run.events));
        let mut chains = vec![Vec::new(); partition as usize];
        chains.push(segments.to_vec());
        let silent: Arc<dyn Progress> = Arc::new(Silent);
        let mut sources = Source::of_chains(self.store, &columns, imports, chains, hidden, &silent);
        sources.pop().expect("there is a chain for each")
    }

    /// Writes every file of the partition again that has rows which `without` leaves out.
    async fn write_without(
        &self,
        mut layout: Layout,
        partition: u32,
        without: &Without,
        before_us: i64,
        keepers: &[Keeper],
        done: &mut Compacted,
    ) -> Result<Layout, RunError> {
        let (store, run_id) = (self.store, self.run_id);
        let mut due = Vec::new();
        for segment in master::list_segments_in(store, &layout).await? {
            if segment.path.partition == partition && master::leaving_rows(store, &segment, without).await? > 0 {
                due.push(segment);
            }
        }
        for some in due.chunks(FILES_A_LAYOUT) {
            let mut next = layout.next(run_id.as_str());
            for segment in some {
                let placed = Box::pin(master::rewrite(store, std::slice::from_ref(segment), without, next.number, run_id)).await?;
                done.note(segment.rows() - placed.rows(), placed.expired() - segment.expired(), placed.bytes);
                next.place(placed)?;
            }
            layout = self.publish_expired(next, before_us, keepers).await?;
        }
        let mut next = layout.next(run_id.as_str());
        let mut is_due = false;
        for import in imports::list(store).await? {
            let rewritten = master::rewrite_import(store, &import, partition, without, next.number, run_id);
            if let Some(placed) = Box::pin(rewritten).await? {
                done.note(import.rows(partition) - placed.rows, placed.expired - import.expired(partition), placed.bytes);
                next.place_import(placed);
                is_due = true;
            }
        }
        if is_due { self.publish_expired(next, before_us, keepers).await } else { Ok(layout) }
    }

    async fn publish_expired(&self, mut next: Layout, before_us: i64, keepers: &[Keeper]) -> Result<Layout, RunError> {
        for keeper in keepers {
            keeper.check().await?;
        }
        next.expire(before_us);
        self.publish(next).await
    }
}

impl Compacted {
    /// A file was written again, so many rows shorter, of which so many have expired.
    fn note(&mut self, fewer: i64, expired: i64, bytes: i64) {
        self.before += 1;
        self.after += 1;
        self.bytes += bytes;
        self.expired_rows += expired;
        self.erased_rows += fewer - expired;
    }
}

fn is_older(oldest_us: Option<i64>, expired: &Expired) -> bool {
    oldest_us.is_some_and(|oldest_us| oldest_us < expired.before_us)
}

fn waiting(layout: Layout, done: &mut Compacted, reason: String) -> Layout {
    done.held = Some(reason);
    layout
}
