//! Small JSON objects that are written once, with a checksum of their own at the end.
//!
//! # Layout
//! Two spaces, fields in the order of the struct, then `"checksum"`, the BLAKE3 of every byte before its comma, and a newline.
//! The checksum is of bytes, not of fields, so that a reader need not know the fields to check it.

use object_store::path::Path as ObjectPath;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::StoreError;

/// What stands before the checksum.
const BEFORE: &str = ",\n  \"checksum\": \"";
/// What stands behind it.
const BEHIND: &str = "\"\n}\n";
/// Hex digits of a BLAKE3.
const DIGITS: usize = 64;

/// The formats of one kind of object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Formats {
    /// The newest that this program reads.
    pub(crate) known: u32,
    /// The first that has a checksum.
    pub(crate) checked_from: u32,
}

/// The bytes of an object with at least one field.
pub(crate) fn encode(file: &impl Serialize) -> Vec<u8> {
    let mut json = serde_json::to_string_pretty(file).expect("string keys and numbers always serialise");
    let body = json.strip_suffix("\n}").expect("a struct with a field ends so").len();
    json.truncate(body);
    let checksum = blake3::hash(json.as_bytes()).to_hex();
    json.push_str(BEFORE);
    json.push_str(&checksum);
    json.push_str(BEHIND);
    json.into_bytes()
}

/// Reads an object back. The format is looked at first: what a newer program wrote is refused as newer, not as damaged.
///
/// # Errors
/// [`StoreError::NewerFormat`]; [`StoreError::Corrupt`] and [`StoreError::Checksum`], naming the object.
pub(crate) fn decode<T: DeserializeOwned>(path: &ObjectPath, bytes: &[u8], formats: Formats) -> Result<T, StoreError> {
    #[derive(Deserialize)]
    struct Format {
        format_version: u32,
    }
    let damaged = |e: serde_json::Error| StoreError::corrupt(path, e.to_string());
    let found = serde_json::from_slice::<Format>(bytes).map_err(damaged)?.format_version;
    if found > formats.known {
        return Err(StoreError::NewerFormat { path: path.to_string(), found, known: formats.known });
    }
    if found < formats.checked_from {
        return serde_json::from_slice(bytes).map_err(damaged);
    }
    let (mut body, checksum) = split(bytes).ok_or_else(|| StoreError::corrupt(path, "its checksum is not where it belongs"))?;
    let found = blake3::hash(&body).to_hex();
    if found.as_bytes() != checksum {
        let expected = String::from_utf8_lossy(checksum).into_owned();
        return Err(StoreError::Checksum { path: path.to_string(), expected, found: found.to_string() });
    }
    body.extend_from_slice(b"\n}");
    serde_json::from_slice(&body).map_err(damaged)
}

/// What the checksum is of, and the checksum.
fn split(bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let rest = bytes.strip_suffix(BEHIND.as_bytes())?;
    let (rest, checksum) = rest.split_at(rest.len().checked_sub(DIGITS)?);
    Some((rest.strip_suffix(BEFORE.as_bytes())?.to_vec(), checksum))
}
