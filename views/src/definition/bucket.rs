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

/// Refuses an expression that is no bucket: it must start at or before the times it holds, and hold its own start.
pub(super) fn check(bucket: Option<&dyn PhysicalExpr>, schema: &EventSchema) -> Result<(), DefinitionError> {
    let Some(bucket) = bucket else { return Ok(()) };
    const SAMPLE_STEP_US: i64 = 97 * 86_400_000_000 + 12_345_678;
    let mut time_us = -2_208_988_800_000_000;
    while time_us < 7_258_118_400_000_000 {
        let refuse = |why: &str| DefinitionError::new(format!("the bucket {why}; use date_trunc or date_bin of event_time"));
        let start = bucket_at(bucket, schema, time_us).map_err(|e| refuse(&format!("fails on some times ({e})")))?;
        if start > time_us {
            return Err(refuse("lies after the event"));
        }
        if bucket_at(bucket, schema, start).ok() != Some(start) {
            return Err(refuse("does not hold its own start, so ranges have no edges"));
        }
        time_us += SAMPLE_STEP_US;
    }
    Ok(())
}

fn bucket_at(bucket: &dyn PhysicalExpr, schema: &EventSchema, time_us: i64) -> Result<i64, FoldError> {
    let arrow = schema.arrow();
    let column = |field: &Arc<arrow::datatypes::Field>| -> ArrayRef {
        match (field.name().as_str(), field.data_type()) {
            ("event_time", _) => Arc::new(TimestampMicrosecondArray::from(vec![time_us]).with_timezone("+00:00")),
            (_, DataType::Utf8) => Arc::new(arrow::array::StringArray::from(vec![""])),
            (_, kind) if field.is_nullable() => new_null_array(kind, 1),
            (_, kind) => arrow::array::make_array(
                arrow::array::ArrayData::new_null(kind, 1)
                    .into_builder()
                    .nulls(None)
                    .build()
                    .expect("one zero is a value of any fixed-width type"),
            ),
        }
    };
    let row = RecordBatch::try_new(Arc::clone(&arrow), arrow.fields().iter().map(column).collect())?;
    let value = bucket.evaluate(&row)?.into_array(1)?;
    let times = value.as_primitive::<TimestampMicrosecondType>();
    if times.is_null(0) {
        return Err(FoldError::NullBucket);
    }
    Ok(times.value(0))
}
