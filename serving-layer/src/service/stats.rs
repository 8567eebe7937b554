//! Finished rows as messages. Four measures have fields of their own; every other one goes into `measures` by its name.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Decimal128Type, Decimal256Type, Float64Type, Int64Type, TimeUnit, TimestampMicrosecondType, UInt64Type, i256,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use merganser_proto::v1::value::Kind;
use merganser_proto::v1::{Bucket, UserStats, Value};
use prost_types::Timestamp;
use views::decimal;

use crate::answer::{Finished, event_count};

/// Columns of outputs that come before the measures: key, bucket, how many events. A measure may have the name of one of them.
pub(super) const NOT_MEASURES: usize = 3;

/// The statistics of one user. A user without events is not found, and has no measures.
pub(super) fn user_stats(user_id: &str, finished: &Finished) -> UserStats {
    let mut stats = UserStats { user_id: user_id.to_owned(), ..UserStats::default() };
    if event_count(&finished.total) > 0 {
        let mut row = Row::of(&finished.total, 0);
        stats.found = true;
        stats.event_count = row.event_count();
        stats.revenue = row.revenue();
        stats.first_event_time = row.time("first_event_time");
        stats.last_event_time = row.time("last_event_time");
        stats.measures = row.measures;
    }
    if let Some(buckets) = &finished.buckets {
        stats.buckets = (0..buckets.num_rows()).map(|row| bucket(buckets, row)).collect();
    }
    stats
}

/// One bucket. It has no fields for the first and last time, which therefore stay among its measures.
fn bucket(outputs: &RecordBatch, row: usize) -> Bucket {
    let starts = outputs.column(1).as_primitive::<TimestampMicrosecondType>();
    let mut row_of_bucket = Row::of(outputs, row);
    Bucket {
        start_time: starts.is_valid(row).then(|| timestamp(starts.value(row))),
        event_count: row_of_bucket.event_count(),
        revenue: row_of_bucket.revenue(),
        measures: row_of_bucket.measures,
    }
}

/// Microseconds since 1970 as a protobuf timestamp.
pub(super) fn timestamp(time_us: i64) -> Timestamp {
    let nanos = time_us.rem_euclid(1_000_000) * 1000;
    Timestamp { seconds: time_us.div_euclid(1_000_000), nanos: i32::try_from(nanos).expect("a second has 10^9 nanoseconds") }
}

/// One row of outputs. Taking a measure out leaves the others.
struct Row {
    all_events: i64,
    measures: BTreeMap<String, Value>,
}

impl Row {
    fn of(outputs: &RecordBatch, row: usize) -> Self {
        let schema = outputs.schema();
        let columns = schema.fields().iter().zip(outputs.columns());
        let measures = columns.skip(NOT_MEASURES).map(|(field, column)| (field.name().clone(), value(column, row))).collect();
        Self { all_events: event_count(&outputs.slice(row, 1)), measures }
    }

    /// What the view calls `event_count`, or how many events went in.
    fn event_count(&mut self) -> i64 {
        self.take("event_count", |kind| if let Kind::IntValue(count) = kind { Some(*count) } else { None }).unwrap_or(self.all_events)
    }

    /// Empty if there is no amount, or no such measure.
    fn revenue(&mut self) -> String {
        self.take("revenue", |kind| if let Kind::DecimalValue(text) = kind { Some(text.clone()) } else { None }).unwrap_or_default()
    }

    fn time(&mut self, name: &str) -> Option<Timestamp> {
        self.take(name, |kind| if let Kind::TimestampValue(time) = kind { Some(*time) } else { None })
    }

    /// The measure `name` in the type of its field; one of another type stays among the measures.
    fn take<T>(&mut self, name: &str, typed: impl Fn(&Kind) -> Option<T>) -> Option<T> {
        let taken = typed(self.measures.get(name)?.kind.as_ref()?)?;
        self.measures.remove(name);
        Some(taken)
    }
}

/// One cell. Null is a value with nothing set.
pub(super) fn value(column: &ArrayRef, row: usize) -> Value {
    Value { kind: column.is_valid(row).then(|| kind(&column.slice(row, 1))) }
}

/// The one value of `cell`, which is not null.
fn kind(cell: &ArrayRef) -> Kind {
    let as_type = |to: &DataType| cast(cell, to).ok().filter(|cast| cast.is_valid(0));
    let typed = match cell.data_type() {
        DataType::UInt64 => i64::try_from(cell.as_primitive::<UInt64Type>().value(0)).ok().map(Kind::IntValue),
        integer if integer.is_integer() => as_type(&DataType::Int64).map(|c| Kind::IntValue(c.as_primitive::<Int64Type>().value(0))),
        float if float.is_floating() => as_type(&DataType::Float64).map(|c| Kind::DoubleValue(c.as_primitive::<Float64Type>().value(0))),
        DataType::Decimal128(_, scale) => Some(Kind::DecimalValue(decimal::format(cell.as_primitive::<Decimal128Type>().value(0), *scale))),
        DataType::Decimal256(_, scale) => {
            small(cell.as_primitive::<Decimal256Type>().value(0)).map(|v| Kind::DecimalValue(decimal::format(v, *scale)))
        }
        DataType::Boolean => Some(Kind::BoolValue(cell.as_boolean().value(0))),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            as_type(&DataType::Utf8).map(|c| Kind::StringValue(c.as_string::<i32>().value(0).to_owned()))
        }
        DataType::Timestamp(_, zone) => as_type(&DataType::Timestamp(TimeUnit::Microsecond, zone.clone()))
            .map(|c| Kind::TimestampValue(timestamp(c.as_primitive::<TimestampMicrosecondType>().value(0)))),
        _ => None,
    };
    typed.unwrap_or_else(|| Kind::StringValue(text(cell)))
}

fn small(unscaled: i256) -> Option<i128> {
    unscaled.to_i128()
}

/// Lists, intervals, durations and whatever else Arrow can write.
fn text(cell: &ArrayRef) -> String {
    ArrayFormatter::try_new(cell, &FormatOptions::default()).map_or_else(|e| e.to_string(), |cell| cell.value(0).to_string())
}

#[cfg(test)]
mod tests;
