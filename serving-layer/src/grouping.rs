//! What one row of an answer is over: a bucket of the view, a period of the calendar, or a window that slides from bucket to bucket.
//!
//! All of it happens to state rows before they are merged: a row is moved to the bucket that stands for its period, or comes once for
//! each window that it is in. Merging states then does the rest, so that an average over a week is one of the week's events.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch, TimestampMicrosecondArray, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::TimestampMicrosecondType;
use views::calendar::{Unit, Zone, next_after, start_of};
use views::{Definition, FoldError, fold};

use crate::ServingError;
use crate::question::rfc3339;

/// Most buckets that the windows of one answer may have together.
const MAX_PAIRS: usize = 1_000_000;

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

/// The state rows in the buckets that stand for what the grouping has: to finish them by key and bucket gives its rows. None where it
/// is the total.
///
/// # Errors
/// The buckets do not fit into the periods, or there are too many windows.
pub(crate) fn moved(definition: &Definition, rows: &[RecordBatch], grouping: Grouping) -> Result<Option<Vec<RecordBatch>>, ServingError> {
    Ok(Some(match grouping {
        Grouping::Total => return Ok(None),
        Grouping::Bucket => rows.to_vec(),
        Grouping::Calendar(unit, zone) => {
            check_fit(definition, rows, unit, zone)?;
            rows.iter().map(|rows| with_buckets(rows, |start| start_of(unit, zone, start))).collect::<Result<_, _>>()?
        }
        Grouping::Window(length_us) => {
            // A window belongs to one key, and is there where that has events.
            let merged = fold::merge(definition, rows)?;
            let windows = windows(&merged, length_us);
            let pairs: usize = windows.iter().map(Range::len).sum();
            if pairs > MAX_PAIRS {
                return Err(ServingError::field(
                    "window",
                    format!("would add up {pairs} buckets, and {MAX_PAIRS} are allowed; ask for a shorter range or window"),
                ));
            }
            vec![into_windows(&merged, &windows)?]
        }
    }))
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

/// For each row the rows that are in its window. `rows` have each key and bucket once, in order.
fn windows(rows: &RecordBatch, length_us: i64) -> Vec<Range<usize>> {
    let keys = rows.column(0).as_string::<i32>();
    let starts = rows.column(1).as_primitive::<TimestampMicrosecondType>();
    let mut first = 0;
    let window = |row: usize| {
        while keys.value(first) != keys.value(row) || starts.value(first) <= starts.value(row) - length_us {
            first += 1;
        }
        first..row + 1
    };
    (0..rows.num_rows()).map(window).collect()
}

/// Each row once for each window that it is in.
fn into_windows(rows: &RecordBatch, windows: &[Range<usize>]) -> Result<RecordBatch, FoldError> {
    let starts = rows.column(1).as_primitive::<TimestampMicrosecondType>();
    let taken: UInt32Array = windows.iter().flat_map(|window| window.clone().map(|row| row as u32)).collect::<Vec<_>>().into();
    let of_window: Vec<i64> = windows.iter().flat_map(|window| std::iter::repeat_n(starts.value(window.end - 1), window.len())).collect();
    let mut columns = take_record_batch(rows, &taken)?.columns().to_vec();
    columns[1] = Arc::new(TimestampMicrosecondArray::from(of_window).with_timezone("+00:00"));
    Ok(RecordBatch::try_new(rows.schema(), columns)?)
}

#[cfg(test)]
mod tests {
    use views::columns::{Position, to_batch};
    use views::{Event, EventSchema, Granularity};

    use super::*;

    /// Proves which buckets are in a window: those of the same key that start less than its length before.
    #[test]
    fn what_is_in_a_window() {
        let definition = Definition::user_stats(&EventSchema::default());
        let event = |user: &str, day: i64| Event {
            event_id: day.to_string(),
            user_id: user.to_owned(),
            event_time_us: day * 86_400_000_000,
            event_type: String::new(),
            amount: None,
            attributes: Default::default(),
        };
        let events = [event("a", 1), event("a", 2), event("a", 5), event("b", 2), event("b", 3)];
        let position = Position { partition: 0, offset: 0, append_time_us: 0, content_hash: 0 };
        let rows = fold::partial(&definition, &to_batch(events.iter().map(|event| (event, position)), definition.schema())).unwrap();
        let days = |days: i64| windows(&rows, days * 86_400_000_000);
        assert_eq!(days(1), [0..1, 1..2, 2..3, 3..4, 4..5]);
        assert_eq!(days(2), [0..1, 0..2, 2..3, 3..4, 3..5]);
        assert_eq!(days(4), [0..1, 0..2, 1..3, 3..4, 3..5]);
        let found = moved(&definition, &[rows], Grouping::Window(4 * 86_400_000_000)).unwrap().unwrap();
        let found = fold::finish(&definition, &found, Granularity::Bucket).unwrap();
        assert_eq!(found.column(2).as_primitive::<arrow::datatypes::Int64Type>().values(), &[1, 2, 2, 1, 2]);
    }
}
