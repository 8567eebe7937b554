//! The changes of files that a recorded run made, in order, as `shim/shim.c` writes them down.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

const MAGIC: [u8; 4] = *b"SHIM";
const HEADER_BYTES: usize = 52;

/// The classes of paths, by the number that a record has.
pub const CLASSES: [&str; 14] = [
    "other",
    "log-segment",
    "log-new",
    "log-identity",
    "dead-letter",
    "master",
    "master-log",
    "view-file",
    "definition",
    "manifest",
    "run-report",
    "lease",
    "staged",
    "folder",
];

/// One change, or one end of a sync. Paths are relative to the folder, "" being the folder itself.
#[derive(Clone, Debug)]
pub enum Change {
    /// An empty file has come to be.
    Create(String),
    /// Bytes were written from an offset on.
    Write(String, u64, Vec<u8>),
    /// A file was cut or grown.
    Truncate(String, u64),
    /// A thread begins a sync of a file, with its length, or of a folder.
    SyncBegin(String, Option<u64>, i32),
    /// The thread's sync has ended, well or not.
    SyncEnd(String, bool, i32),
    /// A name was changed; what had the second one is gone.
    Rename(String, String),
    /// A file has a second name.
    Link(String, String),
    /// A name is gone.
    Remove(String),
    /// A folder has come to be.
    Folder(String),
}

/// A record.
#[derive(Clone, Debug)]
pub struct Record {
    /// Length of the trace once this was written.
    pub end: u64,
    /// Call and class, as points are named.
    pub call: (&'static str, &'static str),
    /// What.
    pub change: Change,
}

/// Reads a trace whose paths lie below `folder`.
///
/// # Errors
/// It is not as the library writes it.
pub fn read(trace: &Path, folder: &Path) -> Result<Vec<Record>> {
    let bytes = std::fs::read(trace).with_context(|| trace.display().to_string())?;
    let mut records = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        // A process that is killed while it writes a record leaves its beginning; the next one follows at once.
        let whole = total(&bytes[at..]).is_some_and(|total| bytes[at + total..].is_empty() || bytes[at + total..].starts_with(&MAGIC));
        if !whole {
            let next = bytes[at + 1..].windows(MAGIC.len()).position(|window| window == MAGIC);
            at = next.map_or(bytes.len(), |next| at + 1 + next);
            continue;
        }
        let record = parse(&bytes[at..], folder).with_context(|| format!("{} at byte {at}", trace.display()))?;
        at += record.0;
        records.push(Record { end: at as u64, ..record.1 });
    }
    Ok(records)
}

/// The length of the record at the start of `bytes`, if it is there to its end.
fn total(bytes: &[u8]) -> Option<usize> {
    let total = u32::from_le_bytes(*bytes.strip_prefix(&MAGIC)?.first_chunk()?) as usize;
    (HEADER_BYTES..=bytes.len()).contains(&total).then_some(total)
}

fn parse(bytes: &[u8], folder: &Path) -> Result<(usize, Record)> {
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let [total, path_bytes, path2_bytes, data_bytes] = [4, 40, 44, 48].map(|at| u32_at(at) as usize);
    ensure!(total == HEADER_BYTES + path_bytes + path2_bytes + data_bytes, "its lengths do not add up");
    let (op, class) = (u32_at(8) & 0xffff, u32_at(8) >> 16);
    let (thread, ended_well, is_folder) = (u32_at(12).cast_signed(), u32_at(16) == 0, u32_at(20) == 1);
    let (offset, size) = (u64_at(24), u64_at(32));
    let (path, rest) = bytes[HEADER_BYTES..total].split_at(path_bytes);
    let (path2, data) = rest.split_at(path2_bytes);
    let relative = |path: &[u8]| -> Result<String> {
        let path = Path::new(std::str::from_utf8(path)?);
        Ok(path.strip_prefix(folder)?.display().to_string())
    };
    let first = relative(path)?;
    let (call, change) = match op {
        1 => ("open", Change::Create(first)),
        2 => ("write", Change::Write(first, offset, data.to_vec())),
        3 => ("truncate", Change::Truncate(first, size)),
        4 => ("", Change::SyncBegin(first, (!is_folder).then_some(size), thread)),
        5 => (if offset == 1 { "fdatasync" } else { "fsync" }, Change::SyncEnd(first, ended_well, thread)),
        6 => ("rename", Change::Rename(first, relative(path2)?)),
        7 => ("link", Change::Link(first, relative(path2)?)),
        8 | 10 => ("unlink", Change::Remove(first)),
        9 => ("mkdir", Change::Folder(first)),
        other => bail!("a change of kind {other}"),
    };
    let class = CLASSES.get(class as usize).copied().context("a class that is not known")?;
    Ok((total, Record { end: 0, call: (call, class), change }))
}

/// How often each call of each class occurs.
#[must_use]
pub fn calls(records: &[Record]) -> BTreeMap<(&'static str, &'static str), usize> {
    let mut counts = BTreeMap::new();
    for record in records.iter().filter(|record| !record.call.0.is_empty()) {
        *counts.entry(record.call).or_insert(0) += 1;
    }
    counts
}
