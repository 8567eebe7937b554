//! One event in JSON, by `jiter`.

use jiter::{Jiter, Peek};

use super::{PlainEvent, text};

/// The event on `line`, if it is one.
pub(super) fn event(line: &[u8]) -> Option<PlainEvent> {
    let mut json = Jiter::new(line);
    let [mut event_id, mut user_id, mut event_time, mut amount] = [const { String::new() }; 4];
    let mut name = json.next_object().ok()?.map(str::to_owned);
    while let Some(field) = name {
        match field.as_str() {
            "event_id" => event_id = scalar(&mut json)?,
            "user_id" => user_id = scalar(&mut json)?,
            "event_time" => event_time = scalar(&mut json)?,
            "amount" => amount = scalar(&mut json)?,
            "event_type" | "attributes" => json.next_skip().ok()?,
            _ => return None,
        }
        name = json.next_key().ok()?.map(str::to_owned);
    }
    json.finish().ok()?;
    text::event(event_id, user_id, &event_time, &amount)
}

/// A text, or a number in the digits that the file has; null is empty.
fn scalar(json: &mut Jiter<'_>) -> Option<String> {
    match json.peek().ok()? {
        Peek::Null => json.known_null().ok().map(|()| String::new()),
        Peek::String => json.known_str().ok().map(str::to_owned),
        Peek::Array | Peek::Object | Peek::True | Peek::False => None,
        _ => json.next_number_bytes().ok().map(|digits| String::from_utf8_lossy(digits).into_owned()),
    }
}
