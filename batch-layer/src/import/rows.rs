//! Rows as checked events, or as what is kept of a refused one.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::{can_cast_types, cast};
use arrow::datatypes::{DataType, Decimal128Type, Field, Schema};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use chrono::DateTime;
use serde_json::{Map, Value, json};
use storage::input::{self, Row};
use views::{Event, EventSchema, RawEvent, Refusal, decimal, event};

/// What became of a row.
#[derive(Debug)]
pub(super) enum Outcome {
    Event(Event),
    /// Why not, and the row as far as it can be shown.
    Refused(Refusal, Value),
}

/// A row of a file of events.
pub(super) fn judge(row: Row, schema: &EventSchema) -> Outcome {
    match row.event {
        Err(reason) => broken(row.line, reason),
        Ok(raw) => match event::check(&raw, schema) {
            Ok(event) => Outcome::Event(event),
            Err(refusal) => Outcome::Refused(refusal, shown(&raw)),
        },
    }
}

/// A line that is no row.
pub(super) fn broken(line: u64, reason: String) -> Outcome {
    Outcome::Refused(Refusal::new("", reason), json!({ "line": line }))
}

/// The event in the form of a file of events, so that it can be mended and sent again.
fn shown(raw: &RawEvent) -> Value {
    let time = |(seconds, nanos)| DateTime::from_timestamp(seconds, u32::try_from(nanos).ok()?);
    json!({
        "event_id": raw.event_id,
        "user_id": raw.user_id,
        "event_time": raw.event_time.and_then(time).map(|time| time.to_rfc3339()),
        "event_type": raw.event_type,
        "amount": raw.amount,
        "attributes": raw.attributes,
    })
}

/// The same of an event that was checked.
pub(super) fn shown_event(event: &Event, schema: &EventSchema) -> Value {
    let time = DateTime::from_timestamp_micros(event.event_time_us);
    json!({
        "event_id": event.event_id,
        "user_id": event.user_id,
        "event_time": time.map(|time| time.to_rfc3339()),
        "event_type": event.event_type,
        "amount": event.amount.map(|unscaled| decimal::format(unscaled, schema.amount_type().scale as i8)),
        "attributes": event.attributes,
    })
}

/// The rows that a mapping gave.
pub(super) fn judge_batch(batch: &RecordBatch, schema: &EventSchema) -> Result<Vec<Outcome>, ArrowError> {
    let batch = shortest_decimals(batch)?;
    let mut refused_texts = None;
    let mut outcomes = Vec::with_capacity(batch.num_rows());
    for (row, raw) in input::events(&batch)?.into_iter().enumerate() {
        let checked = match raw {
            Ok(raw) => event::check(&raw, schema),
            Err(reason) => Err(Refusal::new("", reason)),
        };
        outcomes.push(match checked {
            Ok(event) => Outcome::Event(event),
            Err(refusal) => {
                let texts = match &mut refused_texts {
                    Some(texts) => texts,
                    none => none.insert(texts(&batch)?),
                };
                let member = |(name, column): &(String, StringArray)| {
                    (name.clone(), if column.is_valid(row) { column.value(row).into() } else { Value::Null })
                };
                Outcome::Refused(refusal, Value::Object(texts.iter().map(member).collect::<Map<_, _>>()))
            }
        });
    }
    Ok(outcomes)
}

/// Every decimal as the shortest text: how many digits the other rows of a file have must not be seen in an event.
fn shortest_decimals(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let column = |(field, column): (&Arc<Field>, &ArrayRef)| match field.data_type() {
        DataType::Decimal128(_, scale) => {
            let values = column.as_primitive::<Decimal128Type>().iter();
            let texts: StringArray = values.map(|value| value.map(|value| decimal::format(value, *scale))).collect();
            (Field::new(field.name(), DataType::Utf8, true), Arc::new(texts) as ArrayRef)
        }
        _ => (field.as_ref().clone(), Arc::clone(column)),
    };
    let (fields, columns): (Vec<Field>, Vec<ArrayRef>) = batch.schema_ref().fields().iter().zip(batch.columns()).map(column).unzip();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

/// Every column as text.
pub(super) fn texts(batch: &RecordBatch) -> Result<Vec<(String, StringArray)>, ArrowError> {
    let text = |column: &ArrayRef| {
        if !column.data_type().is_nested() && can_cast_types(column.data_type(), &DataType::Utf8) {
            return Ok(cast(column, &DataType::Utf8)?.as_string::<i32>().clone());
        }
        let options = FormatOptions::default();
        let formatter = ArrayFormatter::try_new(column, &options)?;
        let value = |row| column.is_valid(row).then(|| formatter.value(row).to_string());
        Ok::<_, ArrowError>((0..column.len()).map(value).collect())
    };
    batch.schema_ref().fields().iter().zip(batch.columns()).map(|(field, column)| Ok((field.name().clone(), text(column)?))).collect()
}
