//! An answer as it is given now, against the raw events of its keys: *a version ⊕ what the speed layer folded since = a fold of the raw
//! events*, up to the same offsets.
//!
//! Each half is folded again by itself, in one pass over the events, so that one sees which of them is at fault. An event from the
//! boundary on that repeats an earlier one is in neither fold and is counted: the speed layer does not know it from a new one when the
//! earlier one lies beyond its window or was imported, and the next run takes it out.

use std::collections::HashSet;

use arrow::array::{AsArray, BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::filter_record_batch;
use futures::TryStreamExt;
use views::fold::{self, from_bucket};
use views::schema::OFFSET;
use views::{Definition, FoldError, Granularity};

use super::compare::{Comparison, Keys, text};
use super::second::{Tree, chosen, first_seen, of_keys};
use super::{Differences, Touched};
use crate::error::RunError;
use crate::folding::failed_on;
use crate::progress::Stage;
use crate::source::{Source, column};

/// States of some keys, of the two halves of an answer; each key and bucket once in a half, in order.
#[derive(Clone, Debug)]
pub(crate) struct Halves {
    /// What lies below the boundary of the version.
    pub(crate) batch: RecordBatch,
    /// What lies from it on.
    pub(crate) speed: RecordBatch,
}

impl Halves {
    pub(crate) fn none(definition: &Definition) -> Self {
        let none = RecordBatch::new_empty(definition.state_schema().clone());
        Self { batch: none.clone(), speed: none }
    }

    /// Both, merged.
    pub(crate) fn whole(&self, definition: &Definition) -> Result<RecordBatch, FoldError> {
        fold::merge(definition, [&self.batch, &self.speed])
    }

    fn kept(&self, kept_from: Option<i64>) -> Result<Self, FoldError> {
        Ok(Self { batch: from_bucket(&self.batch, kept_from)?, speed: from_bucket(&self.speed, kept_from)? })
    }
}

/// Whose answer is looked at.
pub(crate) struct Live<'a> {
    pub(crate) definition: &'a Definition,
    /// The first column of the keys, as it stands in them.
    pub(crate) first: String,
    /// Where the first bucket starts that the version keeps.
    pub(crate) kept_from: Option<i64>,
}

impl Live<'_> {
    /// Of states, those of the keys, in the buckets that are kept.
    pub(crate) fn of_keys(&self, states: &RecordBatch) -> Result<RecordBatch, FoldError> {
        let keys = self.keys();
        let wanted: BooleanArray = states.column(0).as_string::<i32>().iter().map(|key| key.map(|key| keys.hold(key))).collect();
        from_bucket(&filter_record_batch(states, &wanted)?, self.kept_from)
    }

    /// Folds the raw events of a partition, and counts those from `boundary` on that repeat an earlier one. Blocks on CPU.
    ///
    /// # Errors
    /// A damaged file, by name; an event on which the view fails.
    pub(crate) async fn folded_again(&self, source: &Source, boundary: i64) -> Result<(Halves, i64), RunError> {
        let (definition, partition) = (self.definition, source.partition);
        let failed = |source| RunError::Fold { partition, source };
        let (mut seen, mut repeats) = (HashSet::new(), 0);
        let [mut below, mut above] = [Tree::new(definition), Tree::new(definition)];
        let mut batches = source.batches(Stage::Read);
        while let Some(mut batch) = batches.try_next().await? {
            if definition.is_by_user() {
                // No identity of another user is one of theirs.
                let users = column::<StringArray>(&batch, "user_id");
                let theirs: Vec<_> = (0..batch.num_rows()).map(|row| users.value(row) == self.first).collect();
                batch = chosen(&batch, theirs);
            }
            let is_first = first_seen(&batch, &mut seen);
            let is_below: Vec<_> = column::<Int64Array>(&batch, OFFSET).values().iter().map(|offset| *offset < boundary).collect();
            let of = |wanted: [bool; 2]| {
                let marks = is_first.iter().zip(&is_below).map(|(first, below)| [*first, *below] == wanted);
                of_keys(definition, &source.columns.widen(&chosen(&batch, marks)), &self.keys()).map_err(failed)
            };
            repeats += of([false, false])?.num_rows() as i64;
            for (tree, events) in [(&mut below, of([true, true])?), (&mut above, of([true, false])?)] {
                let states = fold::partial(definition, &events).map_err(|error| failed_on(definition, partition, &events, error))?;
                tree.add(states).map_err(failed)?;
            }
        }
        let halves = Halves { batch: below.finish().map_err(failed)?, speed: above.finish().map_err(failed)? };
        Ok((halves.kept(self.kept_from).map_err(failed)?, repeats))
    }

    /// Compares what is answered with the fold of the raw events: how many keys there are, and what differs.
    pub(crate) fn compare(&self, answered: &Halves, folded: &Halves) -> Result<(i64, Differences), FoldError> {
        let mut comparison = Comparison::new(self.definition, Keys::AllBut(Touched::default()), None);
        comparison.window(&answered.whole(self.definition)?, &[folded.whole(self.definition)?])?;
        Ok((comparison.keys_compared, comparison.differences))
    }

    /// Of each key of the states, its measures over all buckets, for people.
    pub(crate) fn shown(&self, states: &RecordBatch) -> Result<Vec<(String, Vec<String>)>, FoldError> {
        let rows = fold::finish(self.definition, [states], Granularity::Total)?;
        let keys = rows.column(0).as_string::<i32>();
        let measures = |row: usize| rows.columns()[3..].iter().map(|column| text(column, row)).collect();
        Ok((0..rows.num_rows()).map(|row| (keys.value(row).to_owned(), measures(row))).collect())
    }

    fn keys(&self) -> Keys {
        Keys::Beginning(self.first.clone())
    }
}
