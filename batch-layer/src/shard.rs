//! Events → files of states.
//!
//! A view by user has a file for each partition of the log, which holds the same users: [`ShardWork`] sorts one partition's events,
//! drops what was sent twice, and folds whole users straight into the file. Any partition may have events of any other key: there the
//! states of each partition go to disk first, in chunks ([`crate::chunk`]), and those of each shard are then sorted and merged.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, StringArray};
use storage::batch_view::ViewWriter;
use storage::identities::First;
use storage::manifest::ViewFile;
use storage::paths::ViewFilePath;
use storage::store::Store;
use views::Definition;
use views::digest::Digest;
use views::schema::OFFSET;

use crate::dedup::{Dedup, Duplicates, New};
use crate::earlier::Earlier;
use crate::error::RunError;
use crate::folding::{Edge, Folding};
use crate::progress::{Progress, Stage};
use crate::sort::{SortBounds, Sorted};
use crate::source::{Source, column};

/// What every piece of work needs.
#[derive(Clone)]
pub(crate) struct Work {
    pub(crate) store: Store,
    pub(crate) definition: Arc<Definition>,
    /// Partitions of the log, which is also how many shards the view has.
    pub(crate) partitions: u32,
    pub(crate) bounds: SortBounds,
    /// Where the first bucket starts that is kept.
    pub(crate) kept_from: Option<i64>,
    pub(crate) progress: Arc<dyn Progress>,
}

/// Events of one partition that no row of the view counts.
#[derive(Default)]
pub(crate) struct Removed {
    pub(crate) duplicates: Duplicates,
    /// Those whose buckets the limit let go.
    pub(crate) past_limit: i64,
    /// Those that the view's WHERE leaves out.
    pub(crate) filtered: i64,
}

/// The events of one partition, and which of them the version before does not cover.
pub(crate) struct Part {
    pub(crate) source: Source,
    pub(crate) new: New,
    /// What came before the events of the source, if those are not all.
    pub(crate) earlier: Option<Arc<Earlier>>,
}

/// A file of states, and the digest of its keys and exact states.
pub(crate) type Shard = (ViewFile, Digest);

/// One partition's events → one file.
pub(crate) struct ShardWork {
    pub(crate) work: Work,
    pub(crate) part: Part,
    pub(crate) path: ViewFilePath,
}

impl ShardWork {
    /// Sorts, deduplicates, folds and writes. Blocks on CPU and disk.
    pub(crate) async fn recompute(self) -> Result<(Shard, Removed), RunError> {
        let mut writing = Writing::create(&self.work, &self.path, self.part.source.partition).await?;
        let mut folding = Folding::new(&self.work, self.part.source.partition, Edge::User)?;
        let mut events = Events::start(&self.work, &self.part)?;
        while let Some(rows) = events.next().await? {
            folding.add(&rows, |states| writing.write(states))?;
        }
        folding.flush(|states| writing.write(states))?;
        let removed = Removed { past_limit: folding.past_limit, filtered: folding.filtered, duplicates: events.dedup.found };
        Ok((Box::pin(writing.finish()).await?, removed))
    }
}

/// One partition's events in order of user, each identity once.
pub(crate) struct Events<'a> {
    part: &'a Part,
    progress: &'a Arc<dyn Progress>,
    sorted: Sorted,
    pub(crate) dedup: Dedup,
}

impl<'a> Events<'a> {
    pub(crate) fn start(work: &'a Work, part: &'a Part) -> Result<Self, RunError> {
        let dedup = Dedup::new(&work.definition, &part.source, work.partitions, part.new.clone());
        Ok(Self { part, progress: &work.progress, sorted: Sorted::events(&part.source, &work.bounds)?, dedup })
    }

    pub(crate) async fn next(&mut self) -> Result<Option<RecordBatch>, RunError> {
        let Some(rows) = self.sorted.next().await? else { return Ok(None) };
        let earlier = match &self.part.earlier {
            Some(earlier) => recall(earlier, &rows).await?,
            None => HashMap::new(),
        };
        let kept = self.dedup.keep(&rows, &earlier)?;
        self.progress.advance(Stage::Fold, rows.num_rows() as u64, 0);
        Ok(Some(self.part.source.columns.widen(&kept)))
    }
}

/// The rows whose identity has an event at a lower offset, by the index of identities.
async fn recall(earlier: &Earlier, rows: &RecordBatch) -> Result<HashMap<usize, First>, RunError> {
    let users = column::<StringArray>(rows, "user_id");
    let events = column::<StringArray>(rows, "event_id");
    let offsets = column::<Int64Array>(rows, OFFSET);
    let mut found = HashMap::new();
    for row in 0..rows.num_rows() {
        if let Some(first) = earlier.first(users.value(row), events.value(row)).await?
            && first.offset < offsets.value(row)
        {
            found.insert(row, first);
        }
    }
    Ok(found)
}

/// One shard's file in the making.
pub(crate) struct Writing {
    exact: Vec<bool>,
    digest: Digest,
    writer: ViewWriter,
}

impl Writing {
    pub(crate) async fn create(work: &Work, path: &ViewFilePath, shard: u32) -> Result<Self, RunError> {
        let writer = ViewWriter::create(&work.store, path, Arc::clone(work.definition.state_schema()), shard).await?;
        Ok(Self { exact: work.definition.exact_states(), digest: Digest::default(), writer })
    }

    pub(crate) fn write(&mut self, states: &RecordBatch) -> Result<(), RunError> {
        self.digest.add(states, &self.exact);
        Ok(self.writer.write(states)?)
    }

    pub(crate) async fn finish(self) -> Result<Shard, RunError> {
        Ok((self.writer.finish().await?, self.digest))
    }
}
