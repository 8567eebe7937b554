//! One event in CSV, split by hand as RFC 4180 says.

use super::{PlainEvent, text};

/// The cells of a record.
pub(super) fn cells(record: &[u8]) -> Vec<String> {
    let record = String::from_utf8_lossy(record);
    let mut cells = vec![String::new()];
    let mut quoted = false;
    let mut letters = record.trim_end_matches(['\r', '\n']).chars().peekable();
    while let Some(letter) = letters.next() {
        let cell = cells.last_mut().expect("it begins with one cell");
        match letter {
            '"' if quoted && letters.next_if_eq(&'"').is_some() => cell.push('"'),
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(String::new()),
            _ => cell.push(letter),
        }
    }
    cells
}

/// The event in `record`, if it is one.
pub(super) fn event(columns: &[String], record: &[u8]) -> Option<PlainEvent> {
    let cells = cells(record);
    if cells.len() != columns.len() {
        return None;
    }
    let cell = |name: &str| columns.iter().position(|column| column.trim() == name).map_or("", |i| cells[i].as_str());
    text::event(cell("event_id").to_owned(), cell("user_id").to_owned(), cell("event_time"), cell("amount"))
}
