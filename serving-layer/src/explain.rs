//! What an answer was made of, for whoever asks how it came to be.

use std::ops::Range;
use std::time::Duration;

use arrow::array::RecordBatch;
use tokio::time::Instant;
use views::{Definition, FoldError, fold};

use crate::question::TimeRange;
use crate::states::RowsByKey;
use crate::version::rows_in;

/// The states of the question's keys in one slice of the realtime view.
#[derive(Debug)]
pub(crate) struct SliceStates {
    pub(crate) partition: i32,
    pub(crate) offsets: Range<i64>,
    pub(crate) rows: Vec<RecordBatch>,
}

/// What one slice adds to an answer.
#[derive(Debug)]
pub(crate) struct Contribution {
    pub(crate) partition: i32,
    pub(crate) offsets: Range<i64>,
    pub(crate) row_count: usize,
    pub(crate) event_count: i64,
}

/// What was read for an answer, and how long that took.
#[derive(Debug, Default)]
pub(crate) struct Effort {
    /// Rows of states of the batch half.
    pub(crate) batch_rows: usize,
    /// Blocks that they lie in.
    pub(crate) batch_blocks: usize,
    pub(crate) batch_elapsed: Duration,
    pub(crate) speed_elapsed: Duration,
    /// Of all slices from the boundary to the head; none if they are not known.
    pub(crate) slices: Vec<Contribution>,
}

impl SliceStates {
    /// The same with the rows in `range` alone.
    pub(crate) fn within(self, range: TimeRange) -> Result<Self, FoldError> {
        let rows = self.rows.iter().map(|rows| rows_in(rows, range)).collect::<Result<_, _>>()?;
        Ok(Self { rows, ..self })
    }

    pub(crate) fn contribution(&self, definition: &Definition) -> Contribution {
        Contribution {
            partition: self.partition,
            offsets: self.offsets.clone(),
            row_count: self.rows.iter().map(RecordBatch::num_rows).sum(),
            event_count: self.rows.iter().map(|rows| fold::event_count(definition, rows)).sum(),
        }
    }
}

impl Effort {
    /// Counts what the batch half is made of.
    pub(crate) fn of_batch(rows: &RowsByKey, batch_elapsed: Duration) -> Self {
        let blocks = || rows.values().flatten();
        Self { batch_rows: blocks().map(RecordBatch::num_rows).sum(), batch_blocks: blocks().count(), batch_elapsed, ..Self::default() }
    }
}

/// What `work` comes to, and how long it took.
pub(crate) async fn timed<T, E>(work: impl Future<Output = Result<T, E>>) -> Result<(T, Duration), E> {
    let started = Instant::now();
    let done = work.await?;
    Ok((done, started.elapsed()))
}
