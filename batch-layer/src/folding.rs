//! Sorted events folded into states, a table at a time.

use arrow::array::{Int64Array, RecordBatch, StringArray};
use views::fold::{self, Fold};
use views::schema::OFFSET;
use views::{Definition, FoldError};

use crate::error::RunError;
use crate::shard::Work;
use crate::source::column;

/// A table of groups is emptied at the first edge after so many rows; one user with more is folded in pieces.
const FOLD_ROWS: usize = 8192;
/// The memory of a work is shared by its sort and the table of groups of a chunk.
pub(crate) const CHUNK_SHARE: usize = 2;

/// What rows have in common that must be handed on together.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Edge {
    /// Events of one user.
    User,
    /// Nothing: states of one key may be handed on in parts.
    None,
}

/// Sorted events → states, handed on a table at a time.
pub(crate) struct Folding<'a> {
    definition: &'a Definition,
    partition: u32,
    kept_from: Option<i64>,
    edge: Edge,
    /// A table without edges is emptied at this size, bytes.
    full: usize,
    fold: Fold<'a>,
    /// Rows in `fold`.
    rows: usize,
    /// The user of the last row, who may have more.
    last: Option<String>,
    /// Events whose buckets the limit let go.
    pub(crate) past_limit: i64,
    /// Events that the WHERE leaves out.
    pub(crate) filtered: i64,
}

impl<'a> Folding<'a> {
    pub(crate) fn new(work: &'a Work, partition: u32, edge: Edge) -> Result<Self, RunError> {
        let definition: &Definition = &work.definition;
        let fold = Fold::new(definition).map_err(|source| RunError::Fold { partition, source })?;
        let full = work.bounds.memory_bytes;
        Ok(Self { definition, partition, kept_from: work.kept_from, edge, full, fold, rows: 0, last: None, past_limit: 0, filtered: 0 })
    }

    /// Folds rows; `hand_on` gets the states of what is complete.
    pub(crate) fn add(&mut self, rows: &RecordBatch, hand_on: impl FnMut(&RecordBatch) -> Result<(), RunError>) -> Result<(), RunError> {
        let Some(last_row) = rows.num_rows().checked_sub(1) else { return Ok(()) };
        let by = match self.edge {
            Edge::User => column::<StringArray>(rows, "user_id"),
            Edge::None => {
                self.update(rows)?;
                return if self.fold.size() >= self.full { self.flush(hand_on) } else { Ok(()) };
            }
        };
        let last = by.value(last_row);
        let edge = (0..=last_row).rev().take_while(|row| by.value(*row) == last).last().expect("the last row is its own");
        let continues = self.last.as_deref() == Some(last);
        if edge > 0 || !continues {
            self.update(&rows.slice(0, edge))?;
            if self.rows >= FOLD_ROWS {
                self.flush(hand_on)?;
            }
        }
        self.update(&rows.slice(edge, rows.num_rows() - edge))?;
        self.last = Some(last.to_owned());
        Ok(())
    }

    fn update(&mut self, rows: &RecordBatch) -> Result<(), RunError> {
        self.rows += rows.num_rows();
        self.fold.update(rows).map_err(|error| failed_on(self.definition, self.partition, rows, error))?;
        if self.definition.has_filter() {
            let counted = self.definition.counted(rows).map_err(|source| RunError::Fold { partition: self.partition, source })?;
            self.filtered += (rows.num_rows() - counted.num_rows()) as i64;
        }
        Ok(())
    }

    /// Hands on the states of what was folded so far.
    pub(crate) fn flush(&mut self, mut hand_on: impl FnMut(&RecordBatch) -> Result<(), RunError>) -> Result<(), RunError> {
        let failed = |source| RunError::Fold { partition: self.partition, source };
        let fresh = Fold::new(self.definition).map_err(failed)?;
        let states = std::mem::replace(&mut self.fold, fresh).into_states().map_err(failed)?;
        self.rows = 0;
        let kept = fold::from_bucket(&states, self.kept_from).map_err(failed)?;
        self.past_limit += fold::event_count(self.definition, &states) - fold::event_count(self.definition, &kept);
        hand_on(&kept)
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
