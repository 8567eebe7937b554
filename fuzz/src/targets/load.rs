//! Event files: whatever lies in them, the reader gives rows and reasons and never loses its place; and what was written into
//! them, in any of the ways that JSON and CSV allow, is what it gives.

use std::fs;
use std::path::Path;

use merganser_proto::v1::Event;
use prost_types::Timestamp;
use serde_json::Value;
use speed_layer::load;

use super::number::{decimal_text, time_text};
use crate::choices::Choices;
use crate::{naive, scratch};

type Row = (u64, Result<Event, String>);

pub(crate) fn run(input: &[u8]) {
    let Some((kind, rest)) = input.split_first() else { return };
    match kind {
        0 => written_json(&mut Choices::new(rest)),
        1 => written_csv(&mut Choices::new(rest)),
        2 => drop(rows("events.jsonl.gz", rest)),
        3 => drop(rows("events.csv.zst", rest)),
        4 => drop(rows("events.parquet", rest)),
        // Seeds are plain files: JSON Lines begin with a brace, the rest is CSV.
        b'{' => any_json(input),
        _ => drop(rows("events.csv", input)),
    }
}

/// The rows up to an error, which names the file.
fn rows(name: &str, bytes: &[u8]) -> Vec<Row> {
    let folder = scratch::folder();
    let path = folder.path().join(name);
    fs::write(&path, bytes).expect("the folder takes files");
    let names = |error: load::LoadError, path: &Path| assert!(error.to_string().contains(&*path.to_string_lossy()), "{error}");
    let mut found: Vec<Row> = Vec::new();
    match load::rows(&path) {
        Err(error) => names(error, &path),
        Ok(rows) => {
            for row in rows {
                match row {
                    Err(error) => names(error, &path),
                    Ok(row) => {
                        // A lone carriage return ends a CSV row, and no line.
                        let same_line = u64::from(!name.contains("csv"));
                        assert!(found.last().is_none_or(|last| last.0 + same_line <= row.0), "lines count up");
                        found.push(row);
                    }
                }
            }
        }
    }
    found
}

/// A row that is an event is an object whose members say the same.
fn any_json(bytes: &[u8]) {
    let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    for (line, event) in rows("events.jsonl", bytes) {
        let Ok(event) = event else { continue };
        let text = String::from_utf8_lossy(lines[line as usize - 1]);
        let Ok(object) = serde_json::from_str::<Value>(text.trim().trim_start_matches('\u{feff}')) else {
            // A number too large for a float is JSON all the same.
            continue;
        };
        let fields =
            [("event_id", &event.event_id), ("user_id", &event.user_id), ("event_type", &event.event_type), ("amount", &event.amount)];
        for (name, found) in fields {
            same(&object[name], found);
        }
        for (name, found) in &event.attributes {
            same(&object["attributes"][name], found);
        }
    }
}

fn same(value: &Value, found: &str) {
    match value {
        Value::Null => assert_eq!(found, ""),
        Value::String(text) => assert_eq!(found, text),
        // Digits travel as they stand.
        number => assert_eq!(found.parse::<Value>().ok().as_ref(), Some(number)),
    }
}

/// An event that a file can hold, and the text of its time.
fn event(choices: &mut Choices<'_>) -> (Event, String) {
    let (mut time, mut event_time) = (String::new(), None);
    if !choices.one_in(8) {
        let text = time_text(choices);
        if let Some(us) = naive::time(&text).map(|us| us as i64) {
            event_time = Some(Timestamp { seconds: us.div_euclid(1_000_000), nanos: us.rem_euclid(1_000_000) as i32 * 1000 });
            time = text;
        }
    }
    let mut event = Event { event_time, amount: decimal_text(choices), ..Event::default() };
    (event.event_id, event.user_id, event.event_type) = (choices.text(10), choices.text(10), choices.text(10));
    for _ in 0..choices.below(4) {
        let name = choices.text(6);
        event.attributes.insert(name, choices.text(10));
    }
    (event, time)
}

fn written_json(choices: &mut Choices<'_>) {
    let (mut text, mut expected) = (String::new(), Vec::new());
    for line in 1..=1 + choices.below(4) as u64 {
        if choices.one_in(4) {
            text += choices.pick(&["\n", " \t\r\n"]);
            expected.push(None);
            continue;
        }
        let (event, time) = event(choices);
        let mut members = vec![
            ("event_id", json_text(&event.event_id, choices)),
            ("user_id", json_text(&event.user_id, choices)),
            ("event_type", json_text(&event.event_type, choices)),
            ("amount", json_text(&event.amount, choices)),
            ("event_time", if time.is_empty() { "null".to_owned() } else { json_text(&time, choices) }),
        ];
        let attributes = event.attributes.iter().map(|(name, value)| (json_text(name, choices), json_text(value, choices)));
        let attributes: Vec<(String, String)> = attributes.collect();
        members.push(("attributes", object(attributes, choices)));
        let turns = choices.below(members.len());
        members.rotate_left(turns);
        let members = members.into_iter().map(|(name, value)| (json_text(name, choices), value)).collect();
        text += &object(members, choices);
        text += choices.pick(&["\n", "\r\n"]);
        expected.push(Some((line, event)));
    }
    let expected: Vec<Row> = expected.into_iter().enumerate().filter_map(|(i, e)| e.map(|(_, event)| (i as u64 + 1, Ok(event)))).collect();
    assert_eq!(rows("events.jsonl", text.as_bytes()), expected, "{text}");
}

fn object(members: Vec<(String, String)>, choices: &mut Choices<'_>) -> String {
    let space = choices.pick(&["", " ", "\t", "  "]);
    let members: Vec<String> = members.iter().map(|(name, value)| format!("{space}{name}{space}:{space}{value}{space}")).collect();
    format!("{{{}}}", members.join(","))
}

/// A JSON string with some of its characters escaped, in one way or another.
fn json_text(text: &str, choices: &mut Choices<'_>) -> String {
    let escape_all = choices.one_in(4);
    let mut json = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => json += "\\\"",
            '\\' => json += "\\\\",
            '/' if escape_all => json += "\\/",
            c if c < ' ' || escape_all => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| json += &format!("\\u{unit:04X}")),
            c => json.push(c),
        }
    }
    json + "\""
}

fn written_csv(choices: &mut Choices<'_>) {
    let mut header = vec!["event_id", "user_id", "event_time", "event_type", "amount", "item", "Größe", "a,\"b"];
    let turns = choices.below(header.len());
    header.rotate_left(turns);
    let line_end = choices.pick(&["\n", "\r\n"]);
    let mut text = header.iter().map(|name| csv_cell(name, choices)).collect::<Vec<_>>().join(",") + line_end;
    let mut expected: Vec<Event> = Vec::new();
    for _ in 0..choices.below(5) {
        let (mut event, time) = event(choices);
        let values: Vec<String> = std::mem::take(&mut event.attributes).into_values().collect();
        let attribute = |i: usize| values.get(i).cloned().unwrap_or_default();
        let mut cells = Vec::new();
        for name in &header {
            let value = match *name {
                "event_id" => event.event_id.clone(),
                "user_id" => event.user_id.clone(),
                "event_time" => time.clone(),
                "event_type" => event.event_type.clone(),
                "amount" => event.amount.clone(),
                "item" => attribute(0),
                "Größe" => attribute(1),
                _ => attribute(2),
            };
            cells.push(csv_cell(&value, choices));
            if ["item", "Größe", "a,\"b"].contains(name) && !value.is_empty() {
                event.attributes.insert((*name).to_owned(), value);
            }
        }
        text += &(cells.join(",") + line_end);
        expected.push(event);
    }
    let found: Vec<Event> = rows("events.csv", text.as_bytes()).into_iter().map(|(_, event)| event.expect("the row is an event")).collect();
    assert_eq!(found, expected, "{text}");
}

/// In quotation marks where they are needed, and sometimes where they are not.
fn csv_cell(text: &str, choices: &mut Choices<'_>) -> String {
    match text.contains(['"', ',', '\r', '\n']) || choices.one_in(3) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}
