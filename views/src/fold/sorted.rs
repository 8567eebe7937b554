//! `merge` for two batches of states that are in order, as every batch is that leaves a fold.
//!
//! Walking both from the front finds the groups, in their order: nothing is hashed, and nothing need be sorted afterwards.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::{concat_batches, interleave};
use arrow::datatypes::TimestampMicrosecondType;

use super::{Accumulators, FoldError};
use crate::definition::Definition;

/// [`merge`](super::merge) for two batches, each in strictly ascending order of key and bucket, null first; the outcome is too.
///
/// # Errors
/// As of [`merge`](super::merge).
pub fn merge_sorted(definition: &Definition, one: &RecordBatch, other: &RecordBatch) -> Result<RecordBatch, FoldError> {
    let (ones, others) = (Places::of(one), Places::of(other));
    let (mut group_of_one, mut group_of_other) = (Vec::with_capacity(ones.rows), Vec::with_capacity(others.rows));
    // Of each group, where its key and bucket stand: in which batch, in which row.
    let mut groups = Vec::with_capacity(ones.rows.max(others.rows));
    let (mut i, mut j) = (0, 0);
    while i < ones.rows || j < others.rows {
        let order = match (i < ones.rows, j < others.rows) {
            (true, true) => ones.at(i).cmp(&others.at(j)),
            (true, false) => Ordering::Less,
            (false, _) => Ordering::Greater,
        };
        let group = groups.len();
        groups.push(if order.is_le() { (0, i) } else { (1, j) });
        if order.is_le() {
            group_of_one.push(group);
            i += 1;
        }
        if order.is_ge() {
            group_of_other.push(group);
            j += 1;
        }
    }
    if groups.is_empty() {
        return Ok(RecordBatch::new_empty(Arc::clone(definition.state_schema())));
    }
    // In one batch, for an accumulator takes every group that it is told of for one that has rows in the batch.
    let group_of_row = [group_of_one, group_of_other].concat();
    let mut accumulators = Accumulators::new(definition)?;
    accumulators.merge(&concat_batches(definition.state_schema(), [one, other])?, &group_of_row, groups.len())?;
    let column = |i: usize| interleave(&[one.column(i).as_ref(), other.column(i).as_ref()], &groups);
    let mut columns = vec![column(0)?, column(1)?];
    columns.extend(accumulators.states()?);
    Ok(RecordBatch::try_new(Arc::clone(definition.state_schema()), columns)?)
}

/// Keys and buckets of a batch.
struct Places<'a> {
    keys: &'a arrow::array::StringArray,
    buckets: &'a arrow::array::TimestampMicrosecondArray,
    rows: usize,
}

impl<'a> Places<'a> {
    fn of(states: &'a RecordBatch) -> Self {
        let (keys, buckets) = (states.column(0).as_string(), states.column(1).as_primitive::<TimestampMicrosecondType>());
        Self { keys, buckets, rows: states.num_rows() }
    }

    fn at(&self, row: usize) -> (&'a str, Option<i64>) {
        (self.keys.value(row), self.buckets.is_valid(row).then(|| self.buckets.value(row)))
    }
}
