//! From a letter back to the event that was sent.
//!
//! The letters of a server have the event as it came over the wire. Those of imports may have it as it stood in a file, with its
//! time in RFC 3339; then the rules of `load` apply. Nothing is guessed: what cannot be brought back digit by digit is not sent.

use merganser_proto::v1::Event;
use prost::Message;
use prost_types::Timestamp;
use serde_json::{Map, Number, Value};
use storage::input::event_of_json;

use crate::load::message;

/// The largest event that fits in a request, whose limit is 4 MiB.
const MAX_EVENT_BYTES: usize = (4 << 20) - 64;
/// A number read as a float is what was written if it has no more digits than this.
const EXACT_DIGITS: usize = 15;

/// The event of a letter, or why it cannot be sent.
pub(super) fn event_of(letter: &Value) -> Result<Event, String> {
    let Value::Object(members) = letter else {
        return Err("the row is not a JSON object, so there is no event to send".to_owned());
    };
    let mut members = members.clone();
    let time = match members.get("event_time") {
        Some(Value::Object(parts)) => Some(timestamp(parts)?),
        _ => None,
    };
    if time.is_some() {
        members.remove("event_time");
    }
    let rest = Value::Object(members);
    if has_inexact_number(&rest) {
        return Err("a number has more digits than the letter can vouch for; send the row with `speed-layer load`".to_owned());
    }
    let mut event = message(event_of_json(&rest.to_string())?);
    if time.is_some() {
        event.event_time = time;
    }
    match event.encoded_len() {
        bytes if bytes > MAX_EVENT_BYTES => Err("the event is larger than a request can be".to_owned()),
        _ => Ok(event),
    }
}

/// Seconds and nanoseconds, as they came.
fn timestamp(parts: &Map<String, Value>) -> Result<Timestamp, String> {
    let part = |name| parts.get(name).and_then(Value::as_i64);
    let nanos = part("nanos").and_then(|nanos| i32::try_from(nanos).ok());
    match (part("seconds"), nanos) {
        (Some(seconds), Some(nanos)) if parts.len() == 2 => Ok(Timestamp { seconds, nanos }),
        _ => Err("event_time is neither a text nor seconds and nanos".to_owned()),
    }
}

fn has_inexact_number(value: &Value) -> bool {
    match value {
        Value::Number(number) => !is_exact(number),
        Value::Array(values) => values.iter().any(has_inexact_number),
        Value::Object(members) => members.values().any(has_inexact_number),
        _ => false,
    }
}

fn is_exact(number: &Number) -> bool {
    let text = number.to_string();
    let digits = text.split(['e', 'E']).next().unwrap_or_default().bytes().filter(u8::is_ascii_digit).count();
    !number.is_f64() || digits <= EXACT_DIGITS
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use views::{RawEvent, Refusal};

    use super::*;
    use crate::ingest::dead_letter;
    use crate::service::raw_event;

    /// Proves that a letter of a server gives back exactly the event that was refused, odd values included.
    #[test]
    fn what_was_sent() {
        let whole = RawEvent {
            event_id: "e-1".into(),
            user_id: "ü\n\"".into(),
            event_time: Some((-5, 999_999_999)),
            event_type: "sale".into(),
            amount: "12.3400000000000000001".into(),
            attributes: [("a".to_owned(), String::new()), ("b".to_owned(), "1.50".to_owned())].into(),
        };
        let strange = RawEvent { event_time: Some((i64::MAX, i32::MIN)), ..RawEvent::default() };
        for raw in [whole, strange, RawEvent::default()] {
            let letter = dead_letter(&raw, &Refusal::new("amount", "is bad"), 7);
            let read: Value = serde_json::from_str(&letter.event.to_string()).unwrap();
            assert_eq!(raw_event(event_of(&read).unwrap()), raw);
        }
    }

    /// Proves that a row as it stands in a file becomes the event that `load` makes of it.
    #[test]
    fn a_row_of_a_file() {
        let row = json!({"event_id": "e", "user_id": 17, "event_time": "2026-11-21T12:34:56Z", "amount": 12.34, "attributes": {"n": 3, "x": null, "y": true}});
        let event = raw_event(event_of(&row).unwrap());
        assert_eq!((event.user_id.as_str(), event.amount.as_str(), event.event_time), ("17", "12.34", Some((1_795_264_496, 0))));
        assert_eq!(event.attributes, [("n".to_owned(), "3".to_owned()), ("y".to_owned(), "true".to_owned())].into());
    }

    /// Proves that what cannot be sent says why, and that no digit is made up.
    #[test]
    fn what_cannot_be_sent() {
        for (row, expected) in [
            (json!("{\"event_id\": broken"), "not a JSON object"),
            (json!(null), "not a JSON object"),
            (json!({"event_time": "yesterday"}), "RFC 3339"),
            (json!({"event_time": {"seconds": 1}}), "seconds and nanos"),
            (json!({"event_time": {"seconds": 1, "nanos": 1_i64 << 40}}), "seconds and nanos"),
            (json!({"amount": 0.123_456_789_012_345_6}), "more digits"),
            (json!({"attributes": {"a": [1]}}), "neither text"),
            (json!({"colour": "red"}), "unknown field"),
            (json!({"user_id": "x".repeat(MAX_EVENT_BYTES)}), "larger than a request"),
        ] {
            let reason = event_of(&row).unwrap_err();
            assert!(reason.contains(expected), "{reason}");
        }
        assert!(event_of(&json!({"amount": 12_345_678.901_234_5})).is_ok());
    }
}
