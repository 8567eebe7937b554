//! All states of some runs in order of key and bucket, each pair once, a part at a time.
//!
//! Runs never change, so what comes out is what there was when they were taken, however long the reading takes. They stay in memory that
//! long. Beside them a part is all that is held.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::TimestampMicrosecondType;
use views::{Definition, FoldError, fold};

use super::run::{Run, first_where, keys};

/// Most rows of a part, before they are merged, or a row of each run.
const PART_ROWS: usize = 8_192;
/// What they take at most, or what one row of each run takes.
const PART_BYTES: usize = 1 << 20;

/// See the module.
pub(crate) struct Ordered {
    definition: Arc<Definition>,
    rest: Vec<Rest>,
    part_rows: usize,
    /// Rows of the longest run that were good for a part.
    ahead: usize,
}

/// The rows of a run from `start` on.
struct Rest {
    run: Arc<Run>,
    start: usize,
}

/// Where a row stands among all.
type Place<'a> = (&'a str, Option<i64>);

impl Rest {
    fn rows(&self) -> usize {
        self.run.states().num_rows() - self.start
    }

    fn place(&self, row: usize) -> Place<'_> {
        let (keys, buckets) = (keys(self.run.states()), self.run.states().column(1).as_primitive::<TimestampMicrosecondType>());
        (keys.value(row), buckets.is_valid(row).then(|| buckets.value(row)))
    }

    /// The first row behind `edge`.
    fn end(&self, edge: Place<'_>) -> usize {
        first_where(self.start..self.run.states().num_rows(), |row| self.place(row) > edge)
    }
}

impl Ordered {
    /// Of runs that are each in order.
    pub(crate) fn new(definition: Arc<Definition>, runs: impl IntoIterator<Item = Arc<Run>>) -> Self {
        let rest: Vec<_> = runs.into_iter().map(|run| Rest { run, start: 0 }).collect();
        let (rows, bytes) = rest.iter().fold((1, 1), |(rows, bytes), rest| (rows + rest.rows(), bytes + rest.run.bytes()));
        let part_rows = (PART_BYTES / bytes.div_ceil(rows)).clamp(1, PART_ROWS);
        Self { definition, rest, part_rows, ahead: part_rows }
    }

    #[cfg(test)]
    fn with_part_rows(mut self, part_rows: usize) -> Self {
        (self.part_rows, self.ahead) = (part_rows, part_rows);
        self
    }

    /// The next rows; `None` after the last. Computes.
    ///
    /// # Errors
    /// The states do not merge.
    pub(crate) fn next(&mut self) -> Result<Option<RecordBatch>, FoldError> {
        self.rest.retain(|rest| rest.rows() > 0);
        let Some(ends) = self.ends() else { return Ok(None) };
        let part = self.rest.iter_mut().zip(ends).filter(|(rest, end)| *end > rest.start).map(|(rest, end)| {
            let rows = rest.run.states().slice(rest.start, end - rest.start);
            rest.start = end;
            rows
        });
        let part = concat_batches(self.definition.state_schema(), &part.collect::<Vec<_>>())?;
        fold::merge(&self.definition, [&part]).map(Some)
    }

    /// Where the next part ends in each run: behind one place in all of them.
    fn ends(&mut self) -> Option<Vec<usize>> {
        let longest = self.rest.iter().max_by_key(|rest| rest.rows())?;
        let ahead = self.ahead.min(longest.rows());
        let mut edge = longest.place(longest.start + ahead - 1);
        loop {
            let ends: Vec<usize> = self.rest.iter().map(|rest| rest.end(edge)).collect();
            let taken = || self.rest.iter().zip(&ends).map(|(rest, end)| (end - rest.start, rest));
            let rows: usize = taken().map(|(rows, _)| rows).sum();
            let (most, of) = taken().max_by_key(|(rows, _)| *rows)?;
            if rows <= self.part_rows || most == 1 {
                // So many are tried first next time.
                self.ahead = if rows <= self.part_rows / 2 { (2 * ahead).min(self.part_rows) } else { most };
                return Some(ends);
            }
            edge = of.place(of.start + most / 2 - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use views::columns::{Position, to_batch};
    use views::{Event, EventSchema};

    use super::*;

    fn run(definition: &Definition, events: &[(u8, u8)]) -> Option<Arc<Run>> {
        let event = |(user, day): &(u8, u8)| Event {
            event_id: String::new(),
            user_id: format!("user-{user}"),
            event_time_us: i64::from(*day) * 86_400_000_000,
            event_type: String::new(),
            amount: Some(10_000),
            attributes: Default::default(),
        };
        let events: Vec<_> = events.iter().map(event).collect();
        let position = Position { partition: 0, offset: 0, append_time_us: 0, content_hash: 0 };
        let rows = to_batch(events.iter().map(|event| (event, position)), definition.schema());
        let states = fold::partial(definition, &rows).unwrap();
        (states.num_rows() > 0).then(|| Arc::new(Run::new(states)))
    }

    proptest! {
        /// Proves that the parts, one behind the other, are the merge of all runs, and that none is larger than it may be.
        #[test]
        fn parts_are_the_merge(
            runs in prop::collection::vec(prop::collection::vec((0u8..9, 0u8..9), 0..60), 0..12),
            part_rows in 1usize..40,
        ) {
            let definition = Arc::new(Definition::user_stats(&EventSchema::default()));
            let runs: Vec<_> = runs.iter().filter_map(|events| run(&definition, events)).collect();
            let expected = fold::merge(&definition, runs.iter().map(|run| run.states())).unwrap();
            let mut ordered = Ordered::new(Arc::clone(&definition), runs.iter().cloned()).with_part_rows(part_rows);
            let mut parts = Vec::new();
            while let Some(part) = ordered.next().unwrap() {
                prop_assert!((1..=part_rows.max(runs.len())).contains(&part.num_rows()), "{} rows", part.num_rows());
                parts.push(part);
            }
            prop_assert_eq!(concat_batches(definition.state_schema(), &parts).unwrap(), expected);
        }
    }
}
