//! What is true of a file of frames after a crash.
//!
//! **Consistency.** Frames count while they are valid and their offsets count up. What begins behind
//! the last of them is told apart by what lies further on:
//! - a start or a trailer: whoever wrote it had synced all before it, so what is invalid here was
//!   durable once. That is [`LogError::Damaged`], and nothing is changed;
//! - anything else, or nothing: it is the batch whose sync never returned, however its sectors reached
//!   the disk. It is cut.
//!
//! In format 1, which has no starts and no trailers, any later frame is damage, and a damaged last
//! record cannot be told from a torn one.
//!
//! **What a crash leaves behind.** What recovery keeps may sit in the page cache alone, even as pages
//! that a failed sync left marked clean; so it writes the same bytes once more before it syncs, and
//! nothing is shown to anybody that a power cut could still take back. It may itself be cut short and
//! repeated.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    LogError,
    disk::Disk,
    frame::{FRAME_HEADER_BYTES, Kind},
    journal::{Journal, Shape},
};

/// Opens the file, shows every payload to `visit`, cuts a torn tail and makes what is left durable.
///
/// # Errors
/// [`LogError::Damaged`], with nothing changed, when something invalid lies before what was durable.
pub(crate) fn recover(
    disk: Arc<dyn Disk>,
    path: PathBuf,
    shape: Shape,
    visit: impl FnMut(&[u8]) -> Result<(), LogError>,
) -> Result<Journal, LogError> {
    let mut bytes = disk.read(&path).map_err(LogError::io("read", &path))?;
    let whole = scan(&path, &bytes, shape, visit)?;
    if whole.torn_bytes > 0 {
        let (torn_bytes, next_offset) = (whole.torn_bytes, whole.next_offset);
        tracing::warn!(path = %path.display(), torn_bytes, next_offset, "cut a torn tail");
    }
    bytes.truncate(whole.end_bytes);
    let end_bytes = bytes.len() as u64;

    let file = disk.open_for_writing(&path).map_err(LogError::io("open", &path))?;
    disk.write_at(&file, 0, &bytes).map_err(LogError::io("write", &path))?;
    disk.set_len(&file, end_bytes).map_err(LogError::io("cut", &path))?;
    disk.sync_data(&file).map_err(LogError::io("sync", &path))?;
    Ok(Journal::go_on(disk, file, shape.coding, end_bytes, whole.next_offset))
}

/// The whole frames of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Whole {
    /// Where the last record ends.
    pub(super) end_bytes: usize,
    /// The offset after it.
    pub(super) next_offset: i64,
    /// What lies behind, trailer left out.
    pub(super) torn_bytes: usize,
}

/// Goes through all frames of a file's bytes.
pub(super) fn scan(
    path: &Path,
    bytes: &[u8],
    shape: Shape,
    mut visit: impl FnMut(&[u8]) -> Result<(), LogError>,
) -> Result<Whole, LogError> {
    let mut whole = Whole { end_bytes: shape.header_bytes, next_offset: shape.first_offset, torn_bytes: 0 };
    let mut rest = bytes.get(shape.header_bytes..).unwrap_or_default();
    let mut trailer_bytes = 0;
    while let Some(frame) = shape.coding.decode(rest) {
        check_offset(path, whole.end_bytes as u64, frame.offset, whole.next_offset)?;
        if frame.kind == Kind::Trailer {
            trailer_bytes = FRAME_HEADER_BYTES;
            break;
        }
        visit(frame.payload)?;
        let frame_bytes = FRAME_HEADER_BYTES + frame.payload.len();
        rest = &rest[frame_bytes..];
        whole.end_bytes += frame_bytes;
        whole.next_offset += 1;
    }
    check_tail(path, whole.end_bytes as u64, rest, whole.next_offset, shape)?;
    whole.torn_bytes = rest.len() - trailer_bytes;
    Ok(whole)
}

/// A frame whose checksum holds must carry the offset that is due.
pub(crate) fn check_offset(path: &Path, byte: u64, found: i64, due: i64) -> Result<(), LogError> {
    if found == due {
        return Ok(());
    }
    Err(LogError::damaged(path, byte, format!("a frame of offset {found} stands where {due} is due")))
}

/// What follows the last whole record must be a tail that was never durable.
pub(crate) fn check_tail(path: &Path, byte: u64, tail: &[u8], due: i64, shape: Shape) -> Result<(), LogError> {
    match shape.coding.find_later(tail, due) {
        None => Ok(()),
        Some(at) => {
            let later = byte + at as u64;
            let reason = format!("no valid frame of offset {due}, but byte {later} shows that one was durable here");
            Err(LogError::damaged(path, byte, reason))
        }
    }
}
