//! What one row of an answer is over: a bucket of the view, a period of the calendar, or a window that slides from bucket to bucket.
//!
//! All of it happens to state rows before they are merged: a row is moved to the bucket that stands for its period, or comes once for
//! each window that it is in. Merging states then does the rest, so that an average over a week is one of the week's events.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch, TimestampMicrosecondArray, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::TimestampMicrosecondType;
use views::calendar::{Unit, Zone, next_after, start_of};
use views::{Definition, FoldError, Granularity, fold};

use crate::ServingError;
use crate::question::rfc3339;

/// What the rows of an answer are over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grouping {
    /// The whole range.
    Total,
    /// A bucket of the view.
    Bucket,
    /// A period of the calendar.
    Calendar(Unit, Zone),
    /// All buckets that start less than so many microseconds before one that has events, itself included.
    Window(i64),
}

impl Grouping {
    /// How far before the range rows are needed, in microseconds.
    pub(crate) fn reach_us(self) -> i64 {
        if let Self::Window(length_us) = self { length_us } else { 0 }
    }
}

/// The outputs of state rows, one a key and bucket, period or window; none where the grouping is the total.
///
/// # Errors
/// The buckets do not fit into the periods, or the view's SQL fails.
pub(crate) fn finish(definition: &Definition, rows: &[RecordBatch], grouping: Grouping) -> Result<Option<RecordBatch>, ServingError> {
    let moved: Vec<RecordBatch> = match grouping {
        Grouping::Total => return Ok(None),
        Grouping::Bucket => rows.to_vec(),
        Grouping::Calendar(unit, zone) => {
            check_fit(definition, rows, unit, zone)?;
            rows.iter().map(|rows| with_buckets(rows, |start| start_of(unit, zone, start))).collect::<Result<_, _>>()?
        }
        Grouping::Window(length_us) => {
            // A window belongs to one key, and is there where that has events.
            let merged = fold::merge(definition, rows)?;
            vec![into_windows(&merged, length_us)?]
        }
    };
    Ok(Some(fold::finish(definition, &moved, Granularity::Bucket)?))
}

/// Refuses periods whose edges are inside a bucket that has events, or may have.
fn check_fit(definition: &Definition, rows: &[RecordBatch], unit: Unit, zone: Zone) -> Result<(), ServingError> {
    let starts: BTreeSet<i64> = rows.iter().flat_map(buckets).collect();
    let edges: BTreeSet<i64> = starts.into_iter().flat_map(|start| [start_of(unit, zone, start), next_after(unit, zone, start)]).collect();
    let edges: Vec<i64> = edges.into_iter().collect();
    let fits = definition.are_edges(&edges)?;
    match edges.iter().zip(fits).find(|(_, fits)| !fits) {
        None => Ok(()),
        Some((edge, _)) => Err(ServingError::field(
            "calendar_unit",
            format!(
                "a period in {} starts at {}, which is inside a bucket of the view; ask for buckets, or declare finer ones",
                zone.name(),
                rfc3339(*edge)
            ),
        )),
    }
}

fn buckets(rows: &RecordBatch) -> impl Iterator<Item = i64> {
    rows.column(1).as_primitive::<TimestampMicrosecondType>().iter().flatten().collect::<Vec<_>>().into_iter()
}

fn with_buckets(rows: &RecordBatch, moved: impl Fn(i64) -> i64) -> Result<RecordBatch, FoldError> {
    let starts: TimestampMicrosecondArray = rows.column(1).as_primitive::<TimestampMicrosecondType>().unary(moved);
    let mut columns = rows.columns().to_vec();
    columns[1] = Arc::new(starts.with_timezone("+00:00"));
    Ok(RecordBatch::try_new(rows.schema(), columns)?)
}

/// Each row once for each window that it is in. `rows` have each key and bucket once, in order.
fn into_windows(rows: &RecordBatch, length_us: i64) -> Result<RecordBatch, FoldError> {
    let keys = rows.column(0).as_string::<i32>();
    let starts = rows.column(1).as_primitive::<TimestampMicrosecondType>();
    let (mut taken, mut windows) = (Vec::new(), Vec::new());
    for window in 0..rows.num_rows() {
        let start = starts.value(window);
        let inside = |row: &usize| keys.value(*row) == keys.value(window) && starts.value(*row) > start - length_us;
        for row in (0..=window).rev().take_while(inside) {
            taken.push(row as u32);
            windows.push(start);
        }
    }
    let mut columns = take_record_batch(rows, &UInt32Array::from(taken))?.columns().to_vec();
    columns[1] = Arc::new(TimestampMicrosecondArray::from(windows).with_timezone("+00:00"));
    Ok(RecordBatch::try_new(rows.schema(), columns)?)
}
