//! Writing a closed segment afresh.
//!
//! **Consistency.** Which records a closed segment holds is fixed by its name and by that of the next;
//! what is in them is known elsewhere once it is archived. So a damaged one can be replaced by
//! one that says the same.
//!
//! **What a crash leaves behind.** The old file or the new one.

use std::ops::Range;

use super::{LogError, disk, journal, segment::PartitionFolder};

/// Writes the segment of `range` from its records, in a partition whose segments have these first
/// offsets. The file itself may be missing, and unreadable anyhow.
pub(super) fn replace<'a>(
    folder: &PartitionFolder,
    bases: &[i64],
    range: Range<i64>,
    records: impl IntoIterator<Item = &'a [u8]>,
) -> Result<(), LogError> {
    let after = bases.partition_point(|base| *base <= range.start);
    let present = after > 0 && bases[after - 1] == range.start;
    let before = after.checked_sub(1 + usize::from(present)).map(|number| bases[number]);
    // Where the file is missing, the next one knows whether there was one that began here.
    let known = present || (before.is_some() && folder.open(range.end).is_ok_and(|(_, next)| next.previous == range.start));
    if range.is_empty() || bases.get(after) != Some(&range.end) || !known {
        let (first, last) = (bases.first().copied().unwrap_or(0), bases.last().copied().unwrap_or(0));
        return Err(LogError::NotInLog { path: folder.dir.clone(), wanted: range, available: first..last });
    }
    let previous = match before {
        Some(before) => before,
        // What came before the oldest is of no consequence; it is kept while it can be read.
        None => folder.open(range.start).map_or(range.start, |(_, header)| header.previous),
    };
    let header = folder.header(range.start, previous);
    let coding = header.shape().coding;
    let mut bytes = header.encode();
    let next = journal::encode_batch(&mut bytes, coding, range.start, records)?;
    if next != range.end {
        return Err(LogError::RecordCount { path: folder.path(range.start), wanted: range.clone(), found: next - range.start });
    }
    bytes.extend(journal::trailer(coding, next));
    disk::create_file(&*folder.disk, &folder.path(range.start), &bytes)
}
