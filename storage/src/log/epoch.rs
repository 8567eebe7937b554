//! How often the log has been opened.
//!
//! **Layout.** `<log>/EPOCH`: `{"format":1,"epoch":7}`.
//!
//! **Consistency.** The epoch goes up by one whenever a server opens the log, before it writes
//! anything else. What carries an epoch can thereby tell a server from the one before it.
//!
//! **What a crash leaves behind.** The old number or the new one; a number may be skipped, none is
//! used twice.

use std::{io, path::Path};

use serde::{Deserialize, Serialize};

use super::{
    LogError,
    disk::{self, Disk},
    reserve::Reserve,
};

const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Epoch {
    format: u32,
    epoch: i64,
}

/// Begins the next epoch of the log in `dir` and returns it. When this returns it is durable.
pub(super) fn begin(disk: &dyn Disk, dir: &Path, reserve: &Reserve) -> Result<i64, LogError> {
    let path = dir.join("EPOCH");
    let last = match disk.read(&path) {
        Ok(bytes) => parse_versioned::<Epoch>(&path, &bytes, FORMAT)?.epoch,
        // A new log, or one from before there were epochs.
        Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
        Err(e) => return Err(LogError::io("read", &path)(e)),
    };
    let epoch = last.checked_add(1).filter(|epoch| *epoch > 0);
    let epoch = epoch.ok_or_else(|| LogError::damaged(&path, 0, format!("{last} is no epoch")))?;
    let json = serde_json::to_vec(&Epoch { format: FORMAT, epoch }).expect("numbers are always JSON");
    reserve.spend_on(|| disk::create_file(disk, &path, &json))?;
    Ok(epoch)
}

/// Reads JSON that begins with its format. A newer format may have other fields: its number is
/// looked at before they are.
pub(super) fn parse_versioned<T: for<'de> Deserialize<'de>>(path: &Path, bytes: &[u8], known: u32) -> Result<T, LogError> {
    let damaged = |e: serde_json::Error| LogError::damaged(path, 0, e.to_string());
    let json: serde_json::Value = serde_json::from_slice(bytes).map_err(damaged)?;
    match json.get("format").and_then(serde_json::Value::as_u64).map(u32::try_from) {
        Some(Ok(found)) if found > known => Err(LogError::NewerFormat { path: path.to_owned(), found, known }),
        _ => serde_json::from_value(json).map_err(damaged),
    }
}
