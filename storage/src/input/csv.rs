//! CSV with a header. Columns that are no field of an event are attributes; an empty cell is an absent value.

use std::collections::BTreeSet;
use std::io::Read;

use csv::{ByteRecord, ReaderBuilder, StringRecord};
use views::RawEvent;

use super::{EventFile, InputError, RawRows, Row, fields};

pub(super) fn rows(source: impl Read + Send + 'static, file: &EventFile) -> Result<RawRows, InputError> {
    let mut reader = ReaderBuilder::new().flexible(true).from_reader(source);
    let read_error = |error: csv::Error| InputError::Read { file: file.path.clone(), line: 0, source: error.into() };
    let columns: Vec<String> = reader.headers().map_err(read_error)?.iter().map(|name| name.trim().to_owned()).collect();
    check(&columns, file)?;

    let mut record = ByteRecord::new();
    Ok(Box::new(std::iter::from_fn(move || match reader.read_byte_record(&mut record) {
        Ok(false) => None,
        Ok(true) => {
            let line = record.position().map_or(0, csv::Position::line);
            Some(Ok(Row { line, event: event(&columns, &record) }))
        }
        Err(error) => Some(Err(error.into())),
    })))
}

fn check(columns: &[String], file: &EventFile) -> Result<(), InputError> {
    let mut seen = BTreeSet::new();
    if let Some(twice) = columns.iter().find(|column| !seen.insert(column.as_str())) {
        return Err(file.column_error(twice, "stands twice in the header"));
    }
    match fields::REQUIRED.iter().find(|required| !seen.contains(**required)) {
        Some(missing) => Err(file.column_error(missing, "is missing in the header")),
        None => Ok(()),
    }
}

fn event(columns: &[String], record: &ByteRecord) -> Result<RawEvent, String> {
    if record.len() != columns.len() {
        return Err(format!("{} cells where the header has {}", record.len(), columns.len()));
    }
    let record = StringRecord::from_byte_record(record.clone()).map_err(|_| "not UTF-8")?;
    let mut event = RawEvent::default();
    for (column, text) in columns.iter().zip(&record) {
        fields::set(&mut event, column, text)?;
    }
    Ok(event)
}
