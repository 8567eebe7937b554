//! Finished rows as messages. Four measures have fields of their own; every other one goes into `measures` by its name.

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
    let total = &finished.total;
    stats.event_count = event_count(total);
    if stats.event_count > 0 {
        stats.found = true;
        for (name, kind) in measures(total, 0) {
            match (name, kind) {
                // What the view calls so, or else how many events went in.
                ("event_count", Some(Kind::IntValue(count))) => stats.event_count = count,
                ("revenue", Some(Kind::DecimalValue(text))) => stats.revenue = text,
                ("first_event_time", Some(Kind::TimestampValue(time))) => stats.first_event_time = Some(time),
                ("last_event_time", Some(Kind::TimestampValue(time))) => stats.last_event_time = Some(time),
                (name, kind) => drop(stats.measures.insert(name.to_owned(), Value { kind })),
            }
        }
    }
    if let Some(buckets) = &finished.buckets {
        stats.buckets = (0..buckets.num_rows()).map(|row| bucket(buckets, row)).collect();
    }
    stats
}

/// One bucket. It has no fields for the first and last time, which therefore stay among its measures.
fn bucket(outputs: &RecordBatch, row: usize) -> Bucket {
    let starts = outputs.column(1).as_primitive::<TimestampMicrosecondType>();
    let mut bucket = Bucket {
        start_time: starts.is_valid(row).then(|| timestamp(starts.value(row))),
        event_count: outputs.column(2).as_primitive::<Int64Type>().value(row),
        ..Bucket::default()
    };
    for (name, kind) in measures(outputs, row) {
        match (name, kind) {
            ("event_count", Some(Kind::IntValue(count))) => bucket.event_count = count,
            ("revenue", Some(Kind::DecimalValue(text))) => bucket.revenue = text,
            (name, kind) => drop(bucket.measures.insert(name.to_owned(), Value { kind })),
        }
    }
    bucket
}

/// The measures of one row by name. One that bears the name of a field and is of another type is a measure like any other.
fn measures(outputs: &RecordBatch, row: usize) -> impl Iterator<Item = (&str, Option<Kind>)> {
    let columns = outputs.schema_ref().fields().iter().zip(outputs.columns()).skip(NOT_MEASURES);
    columns.map(move |(field, column)| (field.name().as_str(), value(column, row).kind))
}

/// Microseconds since 1970 as a protobuf timestamp.
pub(super) fn timestamp(time_us: i64) -> Timestamp {
    let nanos = time_us.rem_euclid(1_000_000) * 1000;
    Timestamp { seconds: time_us.div_euclid(1_000_000), nanos: i32::try_from(nanos).expect("a second has 10^9 nanoseconds") }
}

/// One cell. Null is a value with nothing set.
pub(super) fn value(column: &ArrayRef, row: usize) -> Value {
    Value { kind: column.is_valid(row).then(|| kind(column, row)) }
}

/// A cell that is not null.
fn kind(column: &ArrayRef, row: usize) -> Kind {
    match column.data_type() {
        DataType::Int64 => Kind::IntValue(column.as_primitive::<Int64Type>().value(row)),
        DataType::Float64 => Kind::DoubleValue(column.as_primitive::<Float64Type>().value(row)),
        DataType::Decimal128(_, scale) => Kind::DecimalValue(decimal::format(column.as_primitive::<Decimal128Type>().value(row), *scale)),
        DataType::Boolean => Kind::BoolValue(column.as_boolean().value(row)),
        DataType::Utf8 => Kind::StringValue(column.as_string::<i32>().value(row).to_owned()),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            Kind::TimestampValue(timestamp(column.as_primitive::<TimestampMicrosecondType>().value(row)))
        }
        _ => other_kind(&column.slice(row, 1)),
    }
}

/// The one value of `cell`, of a type that has to be brought to another one, or to text.
fn other_kind(cell: &ArrayRef) -> Kind {
    let as_type = |to: &DataType| cast(cell, to).ok().filter(|cast| cast.is_valid(0));
    let typed = match cell.data_type() {
        DataType::UInt64 => i64::try_from(cell.as_primitive::<UInt64Type>().value(0)).ok().map(Kind::IntValue),
        integer if integer.is_integer() => as_type(&DataType::Int64).map(|cast| kind(&cast, 0)),
        float if float.is_floating() => as_type(&DataType::Float64).map(|cast| kind(&cast, 0)),
        DataType::Decimal256(_, scale) => {
            small(cell.as_primitive::<Decimal256Type>().value(0)).map(|v| Kind::DecimalValue(decimal::format(v, *scale)))
        }
        DataType::LargeUtf8 | DataType::Utf8View => as_type(&DataType::Utf8).map(|cast| kind(&cast, 0)),
        DataType::Timestamp(_, zone) => as_type(&DataType::Timestamp(TimeUnit::Microsecond, zone.clone())).map(|cast| kind(&cast, 0)),
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
