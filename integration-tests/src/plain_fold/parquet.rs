//! Events in Parquet, by the record API: row by row, no Arrow.

use std::fs::File;
use std::io;
use std::path::Path;

use parquet::file::reader::SerializedFileReader;
use parquet::record::{Field, Row};

use super::{PlainEvent, Rows, text};

pub(super) fn rows(path: &Path) -> io::Result<Rows> {
    let reader = SerializedFileReader::new(File::open(path)?).map_err(io::Error::other)?;
    Ok(Box::new(reader.into_iter().map(|row| Ok(event(&row.map_err(io::Error::other)?)))))
}

fn event(row: &Row) -> Option<PlainEvent> {
    let mut texts = [const { String::new() }; 3];
    let mut time_us = None;
    for (name, field) in row.get_column_iter() {
        match name.as_str() {
            "event_id" => texts[0] = plain(field),
            "user_id" => texts[1] = plain(field),
            "amount" => texts[2] = plain(field),
            "event_time" => time_us = micros(field),
            _ => {}
        }
    }
    let [event_id, user_id, amount] = texts;
    text::checked(event_id, user_id, time_us?, &amount)
}

fn plain(field: &Field) -> String {
    match field {
        Field::Null => String::new(),
        Field::Str(text) => text.clone(),
        field => field.to_string(),
    }
}

fn micros(field: &Field) -> Option<i64> {
    match field {
        Field::TimestampMicros(micros) => Some(*micros),
        Field::TimestampMillis(millis) => millis.checked_mul(1000),
        // Nanoseconds have no name of their own in the record API.
        Field::Long(nanos) => Some(nanos.div_euclid(1000)),
        Field::Str(text) => text::time(text),
        _ => None,
    }
}
