//! One event in JSON. Numbers keep the digits that the file has: they never become floats.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde::Deserialize;
use serde::de::IgnoredAny;
use views::RawEvent;

use super::fields;

/// The event that `text` holds, or why it holds none.
pub fn event(text: &str) -> Result<RawEvent, String> {
    let mut event = RawEvent::default();
    for (name, raw) in members(text)? {
        let value = || scalar(&name, raw).map(Option::unwrap_or_default);
        match name.as_str() {
            "event_id" => event.event_id = value()?.into_owned(),
            "user_id" => event.user_id = value()?.into_owned(),
            "event_time" => {
                event.event_time = scalar(&name, raw)?.map(|text| fields::time(&text)).transpose()?;
            }
            "event_type" => event.event_type = value()?.into_owned(),
            "amount" => event.amount = value()?.into_owned(),
            "attributes" if raw == "null" => {}
            "attributes" => event.attributes = attributes(raw)?,
            _ => {
                return Err(format!("unknown field `{name}`: what is no field of an event goes into attributes"));
            }
        }
    }
    Ok(event)
}

/// The members of a JSON object as attributes; null is an absent one.
pub(super) fn attributes(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut attributes = BTreeMap::new();
    for (name, raw) in members(text).map_err(|reason| format!("attributes: {reason}"))? {
        let qualified = format!("attributes.{name}");
        if let Some(value) = scalar(&qualified, raw)? {
            attributes.insert(name, value.into_owned());
        }
    }
    Ok(attributes)
}

/// The content of a string; a number or a boolean as it is written; nothing for null.
fn scalar<'a>(name: &str, raw: &'a str) -> Result<Option<Cow<'a, str>>, String> {
    match raw.as_bytes() {
        [b'"', ..] => match serde_json::from_str::<Text<'a>>(raw) {
            Ok(Text(text)) => Ok(Some(text)),
            Err(_) => Err(format!("{name} is not valid Unicode")),
        },
        [b'{' | b'[', ..] => Err(format!("{name} is neither text nor a number nor a boolean")),
        b"null" => Ok(None),
        _ => Ok(Some(Cow::Borrowed(raw))),
    }
}

#[derive(Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

/// The members of a JSON object, each value as it is written.
///
/// `serde_json` has `RawValue` for this, behind a feature that would be on for every crate of the workspace, DataFusion
/// included; its parser also tells where a value ends, which is all that is needed.
pub(super) fn members(text: &str) -> Result<BTreeMap<String, &str>, String> {
    serde_json::from_str::<IgnoredAny>(text).map_err(|_| "not valid JSON".to_owned())?;
    // From here on, the text is one JSON value.
    let mut rest = text.trim_start().strip_prefix('{').ok_or("not a JSON object")?;
    let mut members = BTreeMap::new();
    loop {
        rest = rest.trim_start_matches([',', ' ', '\t', '\r', '\n']);
        if rest.starts_with('}') {
            return Ok(members);
        }
        let (name, behind) = split_value(rest);
        let value = behind.trim_start().strip_prefix(':').expect("a colon follows the name of a member");
        let (value, behind) = split_value(value.trim_start());
        let name: String = serde_json::from_str(name).map_err(|_| "a name is not valid Unicode")?;
        match members.entry(name) {
            Entry::Vacant(place) => place.insert(value),
            Entry::Occupied(place) => return Err(format!("`{}` stands twice", place.key())),
        };
        rest = behind;
    }
}

/// The value that `text` begins with, and what stands behind it. The text is known to be valid.
fn split_value(text: &str) -> (&str, &str) {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    values.next().expect("a value begins here").expect("the whole text was parsed before");
    text.split_at(values.byte_offset())
}
