//! One partition's events, recomputed into one file of states.

use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, StringArray};
use storage::batch_view::ViewWriter;
use storage::manifest::ViewFile;
use storage::paths::ViewFilePath;
use storage::store::Store;
use views::digest::Digest;
use views::fold::{self, Fold};
use views::schema::OFFSET;
use views::{Definition, FoldError};

use crate::dedup::{Dedup, Duplicates};
use crate::error::RunError;
use crate::progress::{Progress, Stage};
use crate::sort::{SortBounds, Sorted};
use crate::source::{Source, column};

/// A table of groups is emptied at the first user edge after so many events; one user with more is folded in pieces.
const FOLD_ROWS: usize = 8192;

/// Everything that one shard's file depends on, and where it goes.
pub(crate) struct ShardWork {
    pub(crate) store: Store,
    pub(crate) definition: Arc<Definition>,
    pub(crate) source: Source,
    /// Partitions of the log, which are the shards of the view.
    pub(crate) partitions: u32,
    pub(crate) path: ViewFilePath,
    pub(crate) bounds: SortBounds,
    /// Where the events begin that the version before does not cover.
    pub(crate) new_from: i64,
    pub(crate) progress: Arc<dyn Progress>,
}

/// One shard, written.
pub(crate) struct Shard {
    pub(crate) file: ViewFile,
    /// Of keys and exact states.
    pub(crate) digest: String,
    pub(crate) duplicates: Duplicates,
}

impl ShardWork {
    /// Sorts, deduplicates, folds and writes. Blocks on CPU and disk.
    pub(crate) async fn recompute(self) -> Result<Shard, RunError> {
        let partition = self.source.partition;
        let writer = ViewWriter::create(&self.store, &self.path, Arc::clone(self.definition.state_schema()), partition).await?;
        let mut dedup = Dedup::new(partition, self.partitions, self.new_from);
        let mut folding = Folding::new(&self.definition, partition, writer)?;
        let mut sorted = Sorted::start(&self.source, &self.bounds)?;
        while let Some(rows) = sorted.next().await? {
            let kept = dedup.keep(&rows)?;
            folding.add(&self.source.columns.widen(&kept))?;
            self.progress.advance(Stage::Fold, rows.num_rows() as u64, 0);
        }
        let (file, digest) = Box::pin(folding.finish()).await?;
        Ok(Shard { file, digest, duplicates: dedup.found })
    }
}

/// Sorted events → states, handed on whole users at a time.
struct Folding<'a> {
    definition: &'a Definition,
    exact: Vec<bool>,
    partition: u32,
    fold: Fold<'a>,
    /// Events in `fold`.
    rows: usize,
    /// The user of the last event, who may have more.
    last_user: Option<String>,
    digest: Digest,
    writer: ViewWriter,
}

impl<'a> Folding<'a> {
    fn new(definition: &'a Definition, partition: u32, writer: ViewWriter) -> Result<Self, RunError> {
        let fold = Fold::new(definition).map_err(|source| RunError::Fold { partition, source })?;
        let exact = definition.exact_states();
        Ok(Self { definition, exact, partition, fold, rows: 0, last_user: None, digest: Digest::default(), writer })
    }

    fn add(&mut self, events: &RecordBatch) -> Result<(), RunError> {
        let users = column::<StringArray>(events, "user_id");
        let Some(last_row) = events.num_rows().checked_sub(1) else { return Ok(()) };
        let last_user = users.value(last_row);
        let edge = (0..=last_row).rev().take_while(|row| users.value(*row) == last_user).last().expect("the last row is of the last user");
        let continues = self.last_user.as_deref() == Some(last_user);
        if edge > 0 || !continues {
            self.update(&events.slice(0, edge))?;
            if self.rows >= FOLD_ROWS {
                self.flush()?;
            }
        }
        self.update(&events.slice(edge, events.num_rows() - edge))?;
        self.last_user = Some(last_user.to_owned());
        Ok(())
    }

    fn update(&mut self, events: &RecordBatch) -> Result<(), RunError> {
        self.rows += events.num_rows();
        self.fold.update(events).map_err(|error| failed_on(self.definition, self.partition, events, error))
    }

    /// Writes the states of the whole users so far.
    fn flush(&mut self) -> Result<(), RunError> {
        let failed = |source| RunError::Fold { partition: self.partition, source };
        let fresh = Fold::new(self.definition).map_err(failed)?;
        let states = std::mem::replace(&mut self.fold, fresh).into_states().map_err(failed)?;
        self.rows = 0;
        self.digest.update(&states, &self.exact);
        Ok(self.writer.write(&states)?)
    }

    async fn finish(mut self) -> Result<(ViewFile, String), RunError> {
        self.flush()?;
        Ok((self.writer.finish().await?, self.digest.finish()))
    }
}

/// The event that the definition fails on, if it is one alone.
pub(crate) fn failed_on(definition: &Definition, partition: u32, events: &RecordBatch, error: FoldError) -> RunError {
    for row in 0..events.num_rows() {
        if let Err(error) = fold::partial(definition, &events.slice(row, 1)) {
            let event_id = column::<StringArray>(events, "event_id").value(row).to_owned();
            let offset = column::<Int64Array>(events, OFFSET).value(row);
            return RunError::Event { event_id, partition, offset, reason: error.reason() };
        }
    }
    RunError::Fold { partition, source: error }
}
