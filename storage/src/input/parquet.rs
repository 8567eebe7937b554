//! Parquet with the columns of events. Other columns are attributes; `attributes` may itself be a map, a struct or JSON text.
//!
//! This reads what users bring, of any make, and knows nothing of the files that the layers write for each other.

use std::fs::File;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::{CastOptions, can_cast_types, cast, cast_with_options};
use arrow::datatypes::{DataType, Field, Fields, Int64Type, TimeUnit};
use arrow::error::ArrowError;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use views::RawEvent;

use super::{DecodeError, EventFile, InputError, Position, RawRows, Row, fields};

/// Rows decoded at a time.
pub(super) const DECODE_ROWS: usize = 1024;

pub(super) fn rows(source: File, file: &EventFile, position: &Position) -> Result<RawRows, InputError> {
    let read_error = |error: parquet::errors::ParquetError| InputError::Read { file: file.path.clone(), line: 0, source: error.into() };
    let builder = ParquetRecordBatchReaderBuilder::try_new(source).map_err(read_error)?;
    check_columns(builder.schema().fields()).map_err(|(column, problem)| file.column_error(&column, problem))?;
    let total_rows = builder.metadata().file_metadata().num_rows().max(1).unsigned_abs();
    let size_bytes = file.size_bytes;
    let batches = builder.with_batch_size(DECODE_ROWS).build().map_err(read_error)?;

    let position = position.clone();
    let mut line = 0;
    let decoded = batches.map(move |batch| events(&batch?).map_err(DecodeError::from));
    Ok(Box::new(decoded.flat_map(flatten).map(move |event| {
        line += 1;
        // Row groups are read ahead, so the share of the rows tells more than the bytes would.
        position.set((u128::from(size_bytes) * u128::from(line) / u128::from(total_rows)) as u64);
        Ok(Row { line, event: event? })
    })))
}

/// The events of a batch one by one, or its one error.
fn flatten(
    events: Result<Vec<Result<RawEvent, String>>, DecodeError>,
) -> Box<dyn Iterator<Item = Result<Result<RawEvent, String>, DecodeError>> + Send> {
    match events {
        Ok(events) => Box::new(events.into_iter().map(Ok)),
        Err(error) => Box::new(std::iter::once(Err(error))),
    }
}

/// Refuses columns that cannot be those of events: the column, and what is wrong with it.
///
/// # Errors
/// The first that is missing, stands twice, or is of a type that is no use there.
pub fn check_columns(columns: &Fields) -> Result<(), (String, String)> {
    let names = |name: &str| columns.iter().filter(|column| column.name() == name).count();
    if let Some(missing) = fields::REQUIRED.iter().find(|required| names(required) == 0) {
        return Err(((*missing).to_owned(), "is missing".to_owned()));
    }
    for column in columns {
        if names(column.name()) > 1 {
            return Err((column.name().clone(), "stands twice".to_owned()));
        }
        if let Some(problem) = problem(column) {
            return Err((column.name().clone(), problem));
        }
    }
    Ok(())
}

fn problem(column: &Field) -> Option<String> {
    let textual = |kind: &DataType| !kind.is_nested() && can_cast_types(kind, &DataType::Utf8);
    let fits = match (column.name().as_str(), column.data_type()) {
        ("event_time", DataType::Timestamp(..)) => true,
        ("event_time", kind) => is_text(kind),
        ("attributes", DataType::Struct(members)) => members.iter().all(|member| textual(member.data_type())),
        ("attributes", DataType::Map(entries, _)) => match entries.data_type() {
            DataType::Struct(pair) => pair.iter().all(|side| textual(side.data_type())),
            _ => false,
        },
        (_, kind) => textual(kind),
    };
    (!fits).then(|| format!("has the type {}, which is no use there", column.data_type()))
}

fn is_text(kind: &DataType) -> bool {
    match kind {
        DataType::Dictionary(_, values) => is_text(values),
        kind => matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View),
    }
}

/// One event for each row of the batch, or why the row is none. Columns that are no field of an event are attributes.
///
/// # Errors
/// A column whose type has no text.
pub fn events(batch: &RecordBatch) -> Result<Vec<Result<RawEvent, String>>, ArrowError> {
    let mut events = vec![Ok(RawEvent::default()); batch.num_rows()];
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        match (field.name().as_str(), field.data_type()) {
            ("event_time", DataType::Timestamp(unit, _)) => set_times(&mut events, column, *unit)?,
            ("attributes", DataType::Struct(_)) => {
                let members = column.as_struct();
                for (name, member) in members.column_names().into_iter().zip(members.columns()) {
                    let member = text(member)?;
                    let value = |row| (members.is_valid(row) && member.is_valid(row)).then(|| member.value(row));
                    each(&mut events, |row, event| set_attribute(event, name, value(row)));
                }
            }
            ("attributes", DataType::Map(..)) => set_map(&mut events, column)?,
            (name, _) => {
                let column = text(column)?;
                each(&mut events, |row, event| match column.is_valid(row) {
                    true => fields::set(event, name, column.value(row)),
                    false => Ok(()),
                });
            }
        }
    }
    Ok(events)
}

/// Runs `step` over the rows that are events so far; the first reason against a row stays.
fn each(events: &mut [Result<RawEvent, String>], mut step: impl FnMut(usize, &mut RawEvent) -> Result<(), String>) {
    for (row, slot) in events.iter_mut().enumerate() {
        if let Ok(event) = slot
            && let Err(reason) = step(row, event)
        {
            *slot = Err(reason);
        }
    }
}

fn set_attribute(event: &mut RawEvent, name: &str, value: Option<&str>) -> Result<(), String> {
    if let Some(value) = value {
        event.attributes.insert(name.to_owned(), value.to_owned());
    }
    Ok(())
}

fn set_times(events: &mut [Result<RawEvent, String>], column: &ArrayRef, unit: TimeUnit) -> Result<(), ArrowError> {
    let per_second = match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    };
    let ticks = cast(column, &DataType::Int64)?;
    let ticks = ticks.as_primitive::<Int64Type>();
    each(events, |row, event| {
        event.event_time = ticks.is_valid(row).then(|| fields::timestamp(ticks.value(row), per_second));
        Ok(())
    });
    Ok(())
}

fn set_map(events: &mut [Result<RawEvent, String>], column: &ArrayRef) -> Result<(), ArrowError> {
    let map = column.as_map();
    let (keys, values) = (text(map.keys())?, text(map.values())?);
    each(events, |row, event| {
        if map.is_null(row) {
            return Ok(());
        }
        let offsets = map.value_offsets();
        for entry in offsets[row] as usize..offsets[row + 1] as usize {
            set_attribute(event, keys.value(entry), values.is_valid(entry).then(|| values.value(entry)))?;
        }
        Ok(())
    });
    Ok(())
}

/// The column as text, numbers in their own digits. Bytes that are no text are an error, never an absent value.
fn text(column: &ArrayRef) -> Result<StringArray, ArrowError> {
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    Ok(cast_with_options(column, &DataType::Utf8, &strict)?.as_string::<i32>().clone())
}
