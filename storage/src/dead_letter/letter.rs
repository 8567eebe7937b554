//! A refused row, and the name that its content gives it.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

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

/// Names a letter by its content: the first 16 bytes of BLAKE3 over the JSON array `[event, field,
/// reason]` with sorted keys.
///
/// Shown as 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LetterId([u8; 16]);

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
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

    /// What the file keeps of the letter: its id, then its JSON.
    pub(super) fn payload(&self, id: LetterId) -> Vec<u8> {
        let mut payload = Vec::from(id.0);
        write_json(self, &mut payload);
        payload
    }
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
