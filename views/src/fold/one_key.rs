//! `finish` for one key, which is what a question is mostly about.
//!
//! There is no table of groups to fill: all rows are of one key, so a row's group is its bucket, or there is one group. That is what a
//! point answer can save; the accumulators are the same.

use std::iter::repeat_n;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::compute::concat_batches;
use arrow::datatypes::TimestampMicrosecondType;

use super::{Accumulators, FoldError, Granularity};
use crate::definition::Definition;

/// [`finish`](super::finish) for states that are all of one key.
///
/// # Errors
/// As of [`finish`](super::finish).
pub fn finish_key(definition: &Definition, states: &[RecordBatch], granularity: Granularity) -> Result<RecordBatch, FoldError> {
    let Some(first) = states.iter().find(|batch| batch.num_rows() > 0) else {
        return Ok(RecordBatch::new_empty(Arc::clone(definition.output_schema())));
    };
    let bucket_of_row = match granularity {
        Granularity::Total => vec![None; states.iter().map(RecordBatch::num_rows).sum()],
        Granularity::Bucket => states.iter().flat_map(|batch| batch.column(1).as_primitive::<TimestampMicrosecondType>()).collect(),
    };
    let mut buckets = bucket_of_row.clone();
    buckets.sort_unstable();
    buckets.dedup();
    let group = |bucket: &Option<i64>| buckets.binary_search(bucket).expect("each row's bucket is among them");
    let group_of_row: Vec<usize> = bucket_of_row.iter().map(group).collect();

    // In one batch, for an accumulator takes every group that it is told of for one that has rows in the batch.
    let mut accumulators = Accumulators::new(definition)?;
    accumulators.merge(&concat_batches(definition.state_schema(), states)?, &group_of_row, buckets.len())?;
    let key = first.column(0).as_string::<i32>().value(0);
    let keys = StringArray::from_iter_values(repeat_n(key, buckets.len()));
    let buckets = TimestampMicrosecondArray::from(buckets).with_data_type(first.column(1).data_type().clone());
    accumulators.outputs(vec![Arc::new(keys), Arc::new(buckets)])
}
