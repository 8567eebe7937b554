//! The realtime view of one partition under one definition: partial states of `[boundary, head)`, by offset.
//!
//! A slice holds the states of one log segment, so every edge of a segment is a *cut* from which an answer can start, after
//! a restart too. In a slice the states lie in a few sorted runs; a new run is merged with the one before it while that is
//! not much larger, so that there are about log2(rows) runs and each row is merged about as often. Runs never change:
//! readers keep theirs while a merged one takes their place.
//!
//! A view by user has nothing of a user from below their erasure, in no slice, and knows who was erased since its oldest boundary: of
//! those the batch half does not count either (decision 0012). In other views a user's rows cannot be told from others'; there the
//! next run leaves them out.

/// All states, in order.
mod ordered;
/// States in order of their keys.
mod run;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use arrow::array::RecordBatch;
use views::{Definition, FoldError, fold};

pub(crate) use ordered::Ordered;
pub(crate) use run::Run;

/// The newest slice, one step on: how many of its runs stay, and the run behind them.
#[derive(Debug)]
pub(crate) struct Grown {
    kept: usize,
    newest: Arc<Run>,
}

/// A slice that does not start or end where it was asked for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("offset {offset} is not the edge of a slice that is kept")]
pub(crate) struct NoSuchEdge {
    /// The offset asked for.
    pub(crate) offset: i64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Slices {
    definition: Arc<Definition>,
    slices: VecDeque<Slice>,
    erased: Arc<Erased>,
}

/// Users who were erased, each with the offset of the newest erasure; in views by user alone.
pub(crate) type Erased = BTreeMap<String, i64>;

/// What slices become without a user: for each that had something of them, where it starts and the runs that stay.
pub(crate) type Without = Vec<(i64, Vec<Arc<Run>>)>;

/// How much is held.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weight {
    pub(crate) slices: usize,
    /// Of states.
    pub(crate) rows: usize,
    pub(crate) bytes: usize,
}

/// The states of one segment.
#[derive(Clone, Debug)]
pub(crate) struct Slice {
    /// Its lower edge.
    pub(crate) start: i64,
    /// Each in order of key and bucket.
    pub(crate) runs: Vec<Arc<Run>>,
}

impl Slices {
    /// No slice yet; [`Slices::cut`] makes the first.
    pub(crate) fn new(definition: Arc<Definition>) -> Self {
        Self { definition, slices: VecDeque::new(), erased: Arc::default() }
    }

    pub(crate) fn definition(&self) -> &Arc<Definition> {
        &self.definition
    }

    /// Starts a slice at `offset`, where the log starts a segment.
    pub(crate) fn cut(&mut self, offset: i64) {
        let last = self.slices.back().map(|slice| slice.start);
        assert!(last.is_none_or(|start| start <= offset), "cuts move forward");
        if last != Some(offset) {
            self.slices.push_back(Slice { start: offset, runs: Vec::new() });
        }
    }

    /// What the newest slice becomes with the states of the newest events: `None` if they have none. Changes nothing, so it
    /// can be had before the events are in the log.
    ///
    /// # Errors
    /// The states do not merge.
    pub(crate) fn with(&self, states: RecordBatch) -> Result<Option<Grown>, FoldError> {
        if states.num_rows() == 0 {
            return Ok(None);
        }
        let runs = &self.slices.back().expect("cut() comes first").runs;
        let (mut kept, mut newest) = (runs.len(), states);
        while kept > 0 && runs[kept - 1].states().num_rows() <= 2 * newest.num_rows() {
            newest = fold::merge_sorted(&self.definition, runs[kept - 1].states(), &newest)?;
            kept -= 1;
        }
        Ok(Some(Grown { kept, newest: Arc::new(Run::new(newest)) }))
    }

    /// Takes over what [`Slices::with`] made; nothing was added in between.
    pub(crate) fn grow(&mut self, grown: Grown) {
        let runs = &mut self.slices.back_mut().expect("cut() comes first").runs;
        runs.truncate(grown.kept);
        runs.push(grown.newest);
    }

    /// Both at once.
    ///
    /// # Errors
    /// The states do not merge.
    pub(crate) fn push(&mut self, states: RecordBatch) -> Result<(), FoldError> {
        if let Some(grown) = self.with(states)? {
            self.grow(grown);
        }
        Ok(())
    }

    /// What the slices become without the rows of a user. Changes nothing, for it may take a while.
    pub(crate) fn without(&self, user_id: &str) -> Without {
        if !self.definition.is_by_user() {
            return Vec::new();
        }
        let changed = |slice: &Slice| {
            let has_some = slice.runs.iter().any(|run| run.has_user(user_id));
            has_some.then(|| (slice.start, slice.runs.iter().filter_map(|run| Run::without(run, user_id)).collect()))
        };
        self.slices.iter().filter_map(changed).collect()
    }

    /// Takes over what [`Slices::without`] made; nothing was added in between. The erasure has the offset `offset`.
    pub(crate) fn erase(&mut self, user_id: &str, offset: i64, without: Without) {
        if self.definition.is_by_user() {
            Arc::make_mut(&mut self.erased).insert(user_id.to_owned(), offset);
        }
        for (start, runs) in without {
            // It may have been retired.
            if let Ok(found) = self.index(start) {
                self.slices[found].runs = runs;
            }
        }
    }

    /// Both at once.
    pub(crate) fn erase_now(&mut self, user_id: &str, offset: i64) {
        let without = self.without(user_id);
        self.erase(user_id, offset, without);
    }

    /// Who was erased from the oldest slice on.
    pub(crate) fn erased(&self) -> &Arc<Erased> {
        &self.erased
    }

    /// All slices from `start` to `end`, both of which must be edges; no end means the head.
    pub(crate) fn between(&self, start: i64, end: Option<i64>) -> Result<Vec<Slice>, NoSuchEdge> {
        let range = self.index(start)?..end.map_or(Ok(self.slices.len()), |end| self.index(end))?;
        Ok(self.slices.range(range).cloned().collect())
    }

    /// The runs of all of them.
    #[cfg(test)]
    pub(crate) fn runs(&self, start: i64, end: Option<i64>) -> Result<Vec<RecordBatch>, NoSuchEdge> {
        Ok(self.between(start, end)?.iter().flat_map(|slice| &slice.runs).map(|run| run.states().clone()).collect())
    }

    fn index(&self, edge: i64) -> Result<usize, NoSuchEdge> {
        self.slices.binary_search_by_key(&edge, |slice| slice.start).map_err(|_| NoSuchEdge { offset: edge })
    }

    /// Drops what lies below `boundary`.
    pub(crate) fn retire_below(&mut self, boundary: i64) {
        while self.slices.len() > 1 && self.slices[1].start <= boundary {
            self.slices.pop_front();
        }
        let oldest = self.slices.front().map_or(boundary, |slice| slice.start);
        if self.erased.values().any(|erased| *erased < oldest) {
            Arc::make_mut(&mut self.erased).retain(|_, erased| *erased >= oldest);
        }
    }

    /// What is held.
    pub(crate) fn weight(&self) -> Weight {
        let runs = || self.slices.iter().flat_map(|slice| &slice.runs);
        Weight {
            slices: self.slices.len(),
            rows: runs().map(|run| run.states().num_rows()).sum(),
            bytes: runs().map(|run| run.bytes()).sum(),
        }
    }

    #[cfg(test)]
    pub(crate) fn rows(&self) -> usize {
        self.weight().rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::AsArray;
    use views::columns::{Position, to_batch};
    use views::{Event, EventSchema, Granularity};

    fn states(definition: &Definition, user: &str, offset: i64) -> RecordBatch {
        let event = Event {
            event_id: offset.to_string(),
            user_id: user.into(),
            event_time_us: 0,
            event_type: String::new(),
            amount: Some(10_000),
            attributes: Default::default(),
        };
        let position = Position { partition: 0, offset, append_time_us: 0, content_hash: 0 };
        fold::partial(definition, &to_batch([(&event, position)], definition.schema())).unwrap()
    }

    fn filled(cuts: &[i64], head: i64) -> Slices {
        let definition = Arc::new(Definition::user_stats(&EventSchema::default()));
        let mut slices = Slices::new(Arc::clone(&definition));
        for offset in 0..head {
            if cuts.contains(&offset) {
                slices.cut(offset);
            }
            slices.push(states(&definition, &format!("user-{}", offset % 7), offset)).unwrap();
        }
        slices
    }

    fn count(slices: &Slices, user: &str, start: i64, end: Option<i64>) -> i64 {
        let slices_of = slices.between(start, end).unwrap();
        let rows: Vec<_> = slices_of.iter().flat_map(|slice| &slice.runs).map(|run| run.rows_of(user, false)).collect();
        let outputs = fold::finish(slices.definition(), &rows, Granularity::Total).unwrap();
        outputs.column(2).as_primitive::<arrow::datatypes::Int64Type>().values().iter().sum()
    }

    /// Proves that an answer from each cut counts each event once, and that no other offset is a cut.
    #[test]
    fn answers_start_at_cuts() {
        let slices = filled(&[0, 50, 80], 100);
        assert_eq!(count(&slices, "user-0", 0, None), 15);
        assert_eq!(count(&slices, "user-0", 50, None), 7);
        assert_eq!(count(&slices, "user-0", 50, Some(80)), 4);
        assert_eq!(count(&slices, "nobody", 0, None), 0);
        assert_eq!(slices.between(51, None).unwrap_err(), NoSuchEdge { offset: 51 });
    }

    /// Proves that runs are merged, so that a lookup stays short and memory follows keys, not events.
    #[test]
    fn runs_stay_few() {
        let slices = filled(&[0], 1000);
        assert!(slices.runs(0, None).unwrap().len() <= 10);
        assert!(slices.rows() <= 21);
    }

    /// Proves that an erased user is in no slice any more, whatever else begins like them, that what they do afterwards is, and that
    /// erasures are forgotten with the slices that they lie in.
    #[test]
    fn erases() {
        let mut slices = filled(&[0, 50, 80], 100);
        slices.erase_now("user-", 98);
        slices.erase_now("user-1", 99);
        assert_eq!((count(&slices, "user-1", 0, None), count(&slices, "user-0", 0, None)), (0, 15));
        let definition = Arc::clone(slices.definition());
        slices.push(states(&definition, "user-1", 100)).unwrap();
        assert_eq!(count(&slices, "user-1", 0, None), 1);
        slices.erase_now("user-2", 101);
        slices.cut(102);
        slices.retire_below(100);
        assert_eq!(slices.erased().keys().collect::<Vec<_>>(), ["user-", "user-1", "user-2"]);
        slices.retire_below(102);
        assert!(slices.erased().is_empty());
    }

    /// Proves that rows of a longer key go with their user, and that a view without users keeps what it has.
    #[test]
    fn erases_by_longer_keys() {
        for (sql, left) in [("SELECT user_id, event_type", 1), ("SELECT event_type", 2)] {
            let group = sql.trim_start_matches("SELECT ");
            let sql = format!("{sql}, count(*) AS event_count FROM events GROUP BY {group}");
            let definition = Arc::new(Definition::parse(&sql, &EventSchema::default()).unwrap());
            let mut slices = Slices::new(Arc::clone(&definition));
            slices.cut(0);
            slices.push(states(&definition, "user-1", 0)).unwrap();
            slices.cut(1);
            slices.push(states(&definition, "user-10", 1)).unwrap();
            slices.erase_now("user-1", 2);
            assert_eq!((slices.rows(), slices.erased().len()), (left, left % 2), "{sql}");
        }
    }

    /// Proves that retiring drops what is below the boundary, refuses it afterwards, and keeps the rest.
    #[test]
    fn retires() {
        let mut slices = filled(&[0, 50, 80], 100);
        slices.retire_below(50);
        assert!(slices.between(0, None).is_err());
        assert_eq!(count(&slices, "user-0", 50, None), 7);
        slices.retire_below(1000);
        assert_eq!(count(&slices, "user-0", 80, None), 3);
    }
}
