//! A refused row, and the name that its content gives it.

use std::{
    fmt,
    io::{self, Write},
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::log::frame::FRAME_HEADER_BYTES;

/// A refused row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeadLetter {
    /// When it was received, in microseconds since 1970, UTC.
    pub received_time_us: i64,
    /// The field that was at fault.
    pub field: String,
    /// What was wrong with it.
    pub reason: String,
    /// The event as received.
    pub event: Value,
}

impl DeadLetter {
    /// The user of the row, if it is an object that names one.
    #[must_use]
    pub fn user_id(&self) -> Option<&str> {
        self.event.get("user_id")?.as_str()
    }
}

/// Names a letter by its content: the first 16 bytes of BLAKE3 over the JSON array `[event, field,
/// reason]` with sorted keys.
///
/// Shown as 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LetterId([u8; 16]);

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl FromStr for LetterId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let well_formed = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match u128::from_str_radix(text, 16) {
            Ok(number) if well_formed => Ok(LetterId(number.to_be_bytes())),
            _ => Err(format!("{text:?} is not a letter's id, which is 32 lower-case hexadecimal digits")),
        }
    }
}

impl TryFrom<String> for LetterId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<LetterId> for String {
    fn from(id: LetterId) -> String {
        id.to_string()
    }
}

impl DeadLetter {
    /// The id of this letter; when it was received plays no part in it.
    pub fn id(&self) -> LetterId {
        let mut json = Vec::from(b"[");
        write_canonical(&self.event, &mut json);
        json.push(b',');
        write_json(&self.field, &mut json);
        json.push(b',');
        write_json(&self.reason, &mut json);
        json.push(b']');
        let hash = blake3::hash(&json);
        LetterId(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes"))
    }

    /// What the letter takes in the file.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        let mut json = Counted(0);
        serde_json::to_writer(&mut json, self).expect("strings, numbers and JSON values are always JSON, and counting takes them");
        (FRAME_HEADER_BYTES + size_of::<LetterId>()) as u64 + json.0
    }
}

/// Bytes that are counted and let go.
struct Counted(u64);

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A payload: the id of a letter, then the JSON of `value`.
pub(super) fn with_id(id: LetterId, value: &impl Serialize) -> Vec<u8> {
    let mut payload = Vec::from(id.0);
    write_json(value, &mut payload);
    payload
}

/// JSON with the keys of every object sorted, whichever way the map keeps them.
fn write_canonical(value: &Value, json: &mut Vec<u8>) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_unstable_by_key(|(key, _)| *key);
            json.push(b'{');
            for (i, (key, value)) in entries.into_iter().enumerate() {
                json.extend_from_slice(if i == 0 { b"" } else { b"," });
                write_json(key, json);
                json.push(b':');
                write_canonical(value, json);
            }
            json.push(b'}');
        }
        Value::Array(values) => {
            json.push(b'[');
            for (i, value) in values.iter().enumerate() {
                json.extend_from_slice(if i == 0 { b"" } else { b"," });
                write_canonical(value, json);
            }
            json.push(b']');
        }
        scalar => write_json(scalar, json),
    }
}

fn write_json(value: &(impl Serialize + ?Sized), json: &mut Vec<u8>) {
    serde_json::to_writer(json, value).expect("strings, numbers and JSON values are always JSON, and memory takes them");
}

/// Parts a payload into the letter's id and its JSON; `None` where it is shorter than an id.
pub(super) fn split(payload: &[u8]) -> Option<(LetterId, &[u8])> {
    payload.split_first_chunk().map(|(id, json)| (LetterId(*id), json))
}
