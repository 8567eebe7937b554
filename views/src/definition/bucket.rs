//! Edges of buckets, found by asking the bucket expression itself: a time is an edge if its bucket starts there.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray, new_null_array};
use arrow::datatypes::{DataType, TimestampMicrosecondType};
use datafusion::physical_expr::PhysicalExpr;
use std::sync::Arc;

use super::{Definition, DefinitionError};
use crate::fold::FoldError;
use crate::schema::EventSchema;

/// The bucket that holds a time, half-open, in microseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edges {
    /// Where the bucket starts; equal to the time asked for if that is an edge.
    pub start_us: i64,
    /// Where the next one starts.
    pub end_us: i64,
}

/// 400 years: no bucket is as long.
const LONGEST_US: i64 = 400 * 366 * 86_400_000_000;

pub(super) fn edges_near(definition: &Definition, time_us: i64) -> Result<Edges, FoldError> {
    let Some(bucket) = &definition.bucket else { return Ok(Edges { start_us: i64::MIN, end_us: i64::MAX }) };
    let bucket_of = |time_us| bucket_at(bucket.as_ref(), &definition.schema, time_us);
    let start_us = bucket_of(time_us)?;
    let mut step = 1_000_000;
    while step < LONGEST_US && bucket_of(time_us + step)? == start_us {
        step *= 2;
    }
    let (mut inside, mut beyond) = (time_us, time_us + step);
    while beyond - inside > 1 {
        let middle = inside + (beyond - inside) / 2;
        if bucket_of(middle)? == start_us { inside = middle } else { beyond = middle }
    }
    Ok(Edges { start_us, end_us: beyond })
}

pub(super) fn are_edges(definition: &Definition, times_us: &[i64]) -> Result<Vec<bool>, FoldError> {
    let Some(bucket) = &definition.bucket else { return Ok(vec![false; times_us.len()]) };
    let starts = buckets_at(bucket.as_ref(), &definition.schema, times_us)?;
    Ok(starts.iter().zip(times_us).map(|(start, time)| start == time).collect())
}

/// Refuses an expression that is no bucket: it must start at or before the times it holds, and hold its own start.
pub(super) fn check(bucket: Option<&dyn PhysicalExpr>, schema: &EventSchema) -> Result<(), DefinitionError> {
    let Some(bucket) = bucket else { return Ok(()) };
    const SAMPLE_STEP_US: usize = 397 * 86_400_000_000 + 12_345_678;
    let refuse = |why: &str| DefinitionError::new(format!("the bucket {why}; use date_trunc or date_bin of event_time"));
    let times: Vec<i64> = (-2_208_988_800_000_000..7_258_118_400_000_000).step_by(SAMPLE_STEP_US).collect();
    let starts = buckets_at(bucket, schema, &times).map_err(|e| refuse(&format!("fails on some times ({e})")))?;
    if starts.iter().zip(&times).any(|(start, time)| start > time) {
        return Err(refuse("lies after the event"));
    }
    if buckets_at(bucket, schema, &starts).ok() != Some(starts) {
        return Err(refuse("does not hold its own start, so ranges have no edges"));
    }
    Ok(())
}

fn bucket_at(bucket: &dyn PhysicalExpr, schema: &EventSchema, time_us: i64) -> Result<i64, FoldError> {
    buckets_at(bucket, schema, &[time_us]).map(|starts| starts[0])
}

/// Where the bucket of each time starts, for events that have nothing but a time.
fn buckets_at(bucket: &dyn PhysicalExpr, schema: &EventSchema, times_us: &[i64]) -> Result<Vec<i64>, FoldError> {
    let (arrow, rows) = (schema.arrow(), times_us.len());
    let column = |field: &Arc<arrow::datatypes::Field>| -> ArrayRef {
        match (field.name().as_str(), field.data_type()) {
            ("event_time", _) => Arc::new(TimestampMicrosecondArray::from(times_us.to_vec()).with_timezone("+00:00")),
            (_, DataType::Utf8) => Arc::new(arrow::array::StringArray::from(vec![""; rows])),
            (_, kind) if field.is_nullable() => new_null_array(kind, rows),
            (_, kind) => arrow::array::make_array(
                arrow::array::ArrayData::new_null(kind, rows)
                    .into_builder()
                    .nulls(None)
                    .build()
                    .expect("zeros are values of any fixed-width type"),
            ),
        }
    };
    let events = RecordBatch::try_new(Arc::clone(&arrow), arrow.fields().iter().map(column).collect())?;
    let starts = bucket.evaluate(&events)?.into_array(rows)?;
    let starts = starts.as_primitive::<TimestampMicrosecondType>();
    if starts.null_count() > 0 {
        return Err(FoldError::NullBucket);
    }
    Ok(starts.values().to_vec())
}
