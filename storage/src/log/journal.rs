//! One append-only file of frames: a segment that is being written, or the dead letters.
//!
//! **Layout.** A header of the owner's, then frames whose offsets count up without a gap.
//!
//! **Consistency.** An append is one write and one fdatasync. When it returns, its records are
//! durable; when it fails, the journal is poisoned and nothing is tried again, because after a
//! failed sync the system may take the lost pages for clean ones.
//!
//! **What a crash leaves behind.** The records of every append that returned, then any prefix of
//! the one that did not, perhaps with a torn frame. Recovery keeps the whole frames and cuts the
//! rest. What it kept may sit in the page cache alone, even as pages that a failed sync left marked
//! clean; so recovery writes the same bytes once more before it syncs, and nothing is shown to
//! anybody that a power cut could still take back. One case looks the same from here: damage to the
//! very last frame of a file is cut like a torn one.

use std::{
    fs::{self, File},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{LogError, disk::Disk, frame};

/// A batch's buffer is kept for the next one up to this size.
const KEPT_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// What the frames of a file look like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Bytes before the first frame.
    pub(crate) header_bytes: usize,
    /// The first frame's offset.
    pub(crate) first_offset: i64,
    /// The largest payload.
    pub(crate) max_payload_bytes: usize,
}

/// The writing end of a file of frames.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    disk: Arc<dyn Disk>,
    max_payload_bytes: usize,
    end_bytes: u64,
    next_offset: i64,
    buffer: Vec<u8>,
    poison: Option<Arc<LogError>>,
}

impl Journal {
    /// Opens the file, shows every payload to `visit`, cuts a torn tail and makes what is left
    /// durable.
    ///
    /// # Errors
    /// [`LogError::Damaged`], with nothing changed, when something invalid has a valid frame behind
    /// it.
    pub(crate) fn recover(
        disk: Arc<dyn Disk>,
        path: PathBuf,
        shape: Shape,
        mut visit: impl FnMut(&[u8]) -> Result<(), LogError>,
    ) -> Result<Journal, LogError> {
        let mut bytes = fs::read(&path).map_err(LogError::io("read", &path))?;
        let whole = scan(&path, &bytes, shape, &mut visit)?;
        if whole.end_bytes < bytes.len() {
            let cut_bytes = bytes.len() - whole.end_bytes;
            let next_offset = whole.next_offset;
            tracing::warn!(path = %path.display(), cut_bytes, next_offset, "cut a torn tail");
        }
        bytes.truncate(whole.end_bytes);
        let end_bytes = bytes.len() as u64;

        let file = File::options().write(true).open(&path).map_err(LogError::io("open", &path))?;
        disk.write_at(&path, &file, 0, &bytes).map_err(LogError::io("write", &path))?;
        disk.set_len(&path, &file, end_bytes).map_err(LogError::io("cut", &path))?;
        disk.sync_data(&path, &file).map_err(LogError::io("sync", &path))?;
        Ok(Journal {
            path,
            file,
            disk,
            max_payload_bytes: shape.max_payload_bytes,
            end_bytes,
            next_offset: whole.next_offset,
            buffer: Vec::new(),
            poison: None,
        })
    }

    /// Appends the records under the next offsets and returns these. When this returns, the records
    /// are durable.
    ///
    /// No records, no I/O. The caller bounds the batch: all of it is held in memory once more.
    ///
    /// # Errors
    /// [`LogError::RecordTooLarge`] before anything is written; [`LogError::DiskFull`] or
    /// [`LogError::Poisoned`] when the write or the sync failed, and [`LogError::Poisoned`] ever
    /// after.
    pub(crate) fn append<'a>(&mut self, records: impl IntoIterator<Item = &'a [u8]>) -> Result<Range<i64>, LogError> {
        self.check()?;
        let first = self.next_offset;
        let next = self.encode(records)?;
        if next == first {
            return Ok(first..first);
        }
        let written = self
            .disk
            .write_at(&self.path, &self.file, self.end_bytes, &self.buffer)
            .map_err(LogError::io("write", &self.path))
            .and_then(|()| self.disk.sync_data(&self.path, &self.file).map_err(LogError::io("sync", &self.path)));
        if let Err(cause) = written {
            return Err(self.poison(cause));
        }
        self.end_bytes += self.buffer.len() as u64;
        self.next_offset = next;
        Ok(first..next)
    }

    /// Fills the buffer with the frames of `records` and returns the offset after the last.
    fn encode<'a>(&mut self, records: impl IntoIterator<Item = &'a [u8]>) -> Result<i64, LogError> {
        self.buffer.clear();
        self.buffer.shrink_to(KEPT_BUFFER_BYTES);
        let mut next = self.next_offset;
        for payload in records {
            if payload.len() > self.max_payload_bytes {
                return Err(LogError::RecordTooLarge { bytes: payload.len(), max_bytes: self.max_payload_bytes });
            }
            frame::encode(&mut self.buffer, next, payload);
            next += 1;
        }
        Ok(next)
    }

    /// Refuses once a write has failed.
    pub(crate) fn check(&self) -> Result<(), LogError> {
        match &self.poison {
            None => Ok(()),
            Some(cause) => Err(LogError::Poisoned { path: self.path.clone(), cause: Arc::clone(cause) }),
        }
    }

    /// Takes no more records from now on, and returns what to tell the caller of the write that
    /// failed.
    pub(crate) fn poison(&mut self, cause: LogError) -> LogError {
        let full = match &cause {
            LogError::DiskFull { path } => Some(LogError::DiskFull { path: path.clone() }),
            _ => None,
        };
        let cause = Arc::clone(self.poison.insert(Arc::new(cause)));
        full.unwrap_or(LogError::Poisoned { path: self.path.clone(), cause })
    }

    /// The offset that the next record gets.
    pub(crate) fn next_offset(&self) -> i64 {
        self.next_offset
    }

    /// The file's size, header included.
    pub(crate) fn end_bytes(&self) -> u64 {
        self.end_bytes
    }
}

/// The whole frames of a file: where they end, and the offset after the last.
struct Whole {
    end_bytes: usize,
    next_offset: i64,
}

fn scan(path: &Path, bytes: &[u8], shape: Shape, visit: &mut impl FnMut(&[u8]) -> Result<(), LogError>) -> Result<Whole, LogError> {
    let mut whole = Whole { end_bytes: shape.header_bytes, next_offset: shape.first_offset };
    let mut rest = bytes.get(shape.header_bytes..).unwrap_or_default();
    while let Some(frame) = frame::decode(rest, shape.max_payload_bytes) {
        check_offset(path, whole.end_bytes as u64, frame.offset, whole.next_offset)?;
        visit(frame.payload)?;
        let frame_bytes = frame::FRAME_HEADER_BYTES + frame.payload.len();
        rest = &rest[frame_bytes..];
        whole.end_bytes += frame_bytes;
        whole.next_offset += 1;
    }
    check_tail(path, whole.end_bytes as u64, rest, whole.next_offset, shape.max_payload_bytes)?;
    Ok(whole)
}

/// A frame whose checksum holds must carry the offset that is due.
pub(crate) fn check_offset(path: &Path, byte: u64, found: i64, due: i64) -> Result<(), LogError> {
    if found == due {
        return Ok(());
    }
    Err(LogError::damaged(path, byte, format!("a frame of offset {found} stands where {due} is due")))
}

/// What follows the last whole frame must be a torn tail, that is, hold no valid frame.
pub(crate) fn check_tail(path: &Path, byte: u64, tail: &[u8], due: i64, max_payload_bytes: usize) -> Result<(), LogError> {
    match frame::find_later(tail, due, max_payload_bytes) {
        None => Ok(()),
        Some(at) => {
            let later = byte + at as u64;
            let reason = format!("no valid frame of offset {due}, but a valid one follows at byte {later}");
            Err(LogError::damaged(path, byte, reason))
        }
    }
}
