//! One append-only file of frames: a segment that is being written, or the dead letters.
//!
//! **Layout.** A header of the owner's, then frames whose offsets count up without a gap, then, in
//! format 2, a trailer that the next batch overwrites.
//!
//! **Consistency.** Room is set aside before anything is written, so that a full disk refuses an
//! append and costs nothing. An append is one write and one fdatasync; when it returns, its records
//! are durable. Then the trailer is written, without a sync: that it exists shows that the sync before
//! it returned. When a write fails for lack of room after all, what was written is cut off again;
//! when any other write or a sync fails, the journal is poisoned and nothing is tried again, because
//! after a failed sync the system may take the lost pages for clean ones.
//!
//! **What a crash leaves behind.** The records of every append that returned, then any mixture of
//! the sectors of the one that did not. `recovery.rs` tells the rest.

use std::{ops::Range, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    LogError,
    disk::{Disk, DiskFile},
    frame::{Coding, FRAME_HEADER_BYTES, Format, Kind},
};

/// A batch's buffer is kept for the next one up to this size.
const KEPT_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// Room is set aside in steps of this size, or, where the disk has less, of what is needed.
const RESERVE_STEP_BYTES: u64 = 4 * 1024 * 1024;

/// What the frames of a file look like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Bytes before the first frame.
    pub(crate) header_bytes: usize,
    /// The first frame's offset.
    pub(crate) first_offset: i64,
    pub(crate) coding: Coding,
}

/// The writing end of a file of frames.
#[derive(Debug)]
pub(crate) struct Journal {
    file: DiskFile,
    disk: Arc<dyn Disk>,
    coding: Coding,
    end_bytes: u64,
    /// Up to where the disk has promised room.
    reserved_bytes: u64,
    next_offset: i64,
    /// The trailer is in the file.
    vouched: bool,
    buffer: Vec<u8>,
    poison: Option<Arc<LogError>>,
    last_sync: Duration,
}

impl Journal {
    /// Goes on in a file that ends, durably, with the record before `next_offset` at byte
    /// `end_bytes`.
    pub(super) fn go_on(disk: Arc<dyn Disk>, file: DiskFile, coding: Coding, end_bytes: u64, next_offset: i64) -> Journal {
        let (buffer, poison) = (Vec::new(), None);
        let mut journal = Journal {
            file,
            disk,
            coding,
            end_bytes,
            reserved_bytes: 0,
            next_offset,
            vouched: false,
            buffer,
            poison,
            last_sync: Duration::ZERO,
        };
        // Without it the file is no worse than before.
        let _no_room = journal.vouch();
        journal
    }

    /// Appends the records under the next offsets and returns these. When this returns, the records
    /// are durable.
    ///
    /// No records, no I/O. The caller bounds the batch: all of it is held in memory once more.
    ///
    /// # Errors
    /// [`LogError::RecordTooLarge`] before anything is written. [`LogError::DiskFull`] when there
    /// is no room: nothing was written, or it is gone again, and the next append may succeed.
    /// [`LogError::Poisoned`] when the write or the sync failed, and ever after.
    pub(crate) fn append<'a>(&mut self, records: impl IntoIterator<Item = &'a [u8]>) -> Result<Range<i64>, LogError> {
        self.check()?;
        let first = self.next_offset;
        let next = self.encode(records)?;
        if next == first {
            return Ok(first..first);
        }
        self.make_room()?;
        self.vouched = false;
        let written = self.disk.write_at(&self.file, self.end_bytes, &self.buffer).map_err(LogError::io("write", self.file.path()));
        match written {
            Ok(()) => self.sync()?,
            Err(cause @ LogError::DiskFull { .. }) => return Err(self.cut_back(cause)),
            Err(cause) => return Err(self.poison(cause)),
        }
        self.end_bytes += self.buffer.len() as u64;
        self.next_offset = next;
        // The records are durable with or without it.
        let _no_trailer = self.vouch();
        Ok(first..next)
    }

    /// Ends the file for good: makes it durable to its last byte, trailer included, and gives back
    /// what room it has not used. Appending may go on.
    ///
    /// # Errors
    /// [`LogError::DiskFull`] when there is no room for the trailer; [`LogError::Poisoned`] when the
    /// file could not be synced, and ever after.
    pub(crate) fn seal(&mut self) -> Result<(), LogError> {
        self.check()?;
        if !self.vouched {
            self.vouch()?;
        }
        let end_bytes = self.end_bytes + self.trailer_bytes();
        self.reserved_bytes = end_bytes;
        let cut = self.disk.set_len(&self.file, end_bytes).map_err(LogError::io("cut", self.file.path()));
        cut.map_err(|cause| self.poison(cause))?;
        self.sync()
    }

    /// Fills the buffer with the frames of `records` and returns the offset after the last.
    fn encode<'a>(&mut self, records: impl IntoIterator<Item = &'a [u8]>) -> Result<i64, LogError> {
        self.buffer.clear();
        self.buffer.shrink_to(KEPT_BUFFER_BYTES);
        encode_batch(&mut self.buffer, self.coding, self.next_offset, records)
    }

    /// Has the disk promise room for the buffer and a trailer.
    fn make_room(&mut self) -> Result<(), LogError> {
        let wanted = self.end_bytes + self.buffer.len() as u64 + self.trailer_bytes();
        if wanted <= self.reserved_bytes {
            return Ok(());
        }
        let reserve = |bytes: u64| match self.disk.reserve(&self.file, bytes) {
            Ok(()) => Ok(bytes),
            Err(e) => Err(LogError::io("reserve room for", self.file.path())(e)),
        };
        let reserved = match reserve(wanted.next_multiple_of(RESERVE_STEP_BYTES)) {
            Err(LogError::DiskFull { .. }) => reserve(wanted),
            other => other,
        };
        match reserved {
            Ok(bytes) => self.reserved_bytes = bytes,
            Err(full @ LogError::DiskFull { .. }) => return Err(full),
            Err(cause) => return Err(self.poison(cause)),
        }
        Ok(())
    }

    /// After a write that met a full disk: takes back, durably, what was written, so that the answer
    /// "refused" stays true whatever comes.
    fn cut_back(&mut self, full: LogError) -> LogError {
        self.reserved_bytes = 0;
        let cut = self.disk.set_len(&self.file, self.end_bytes).map_err(LogError::io("cut", self.file.path()));
        if let Err(cause) = cut {
            return self.poison(cause);
        }
        if let Err(poisoned) = self.sync() {
            return poisoned;
        }
        let _no_room = self.vouch();
        full
    }

    fn sync(&mut self) -> Result<(), LogError> {
        let started = Instant::now();
        let synced = self.disk.sync_data(&self.file).map_err(LogError::io("sync", self.file.path()));
        self.last_sync = started.elapsed();
        synced.map_err(|cause| self.poison(cause))
    }

    /// Writes the trailer behind the last record, which is durable.
    fn vouch(&mut self) -> Result<(), LogError> {
        let trailer = trailer(self.coding, self.next_offset);
        if !trailer.is_empty() {
            self.disk.write_at(&self.file, self.end_bytes, &trailer).map_err(LogError::io("write", self.file.path()))?;
        }
        self.vouched = true;
        Ok(())
    }

    fn trailer_bytes(&self) -> u64 {
        match self.coding.format {
            Format::One => 0,
            Format::Two(_) => FRAME_HEADER_BYTES as u64,
        }
    }

    /// Refuses once a write has failed.
    pub(crate) fn check(&self) -> Result<(), LogError> {
        match &self.poison {
            None => Ok(()),
            Some(cause) => Err(LogError::Poisoned { path: self.file.path().to_owned(), cause: Arc::clone(cause) }),
        }
    }

    /// Takes no more records from now on, and returns what to tell the caller of the write that
    /// failed.
    pub(crate) fn poison(&mut self, cause: LogError) -> LogError {
        let cause = Arc::clone(self.poison.insert(Arc::new(cause)));
        LogError::Poisoned { path: self.file.path().to_owned(), cause }
    }

    /// The offset that the next record gets.
    pub(crate) fn next_offset(&self) -> i64 {
        self.next_offset
    }

    /// How long the newest sync took.
    pub(crate) fn last_sync(&self) -> Duration {
        self.last_sync
    }

    /// Where the last record ends.
    pub(crate) fn end_bytes(&self) -> u64 {
        self.end_bytes
    }
}

/// Appends the frames of one batch to `buffer` and returns the offset after the last.
///
/// # Errors
/// [`LogError::RecordTooLarge`].
pub(crate) fn encode_batch<'a>(
    buffer: &mut Vec<u8>,
    coding: Coding,
    first_offset: i64,
    records: impl IntoIterator<Item = &'a [u8]>,
) -> Result<i64, LogError> {
    let mut next = first_offset;
    for payload in records {
        if payload.len() > coding.max_payload_bytes {
            return Err(LogError::RecordTooLarge { bytes: payload.len(), max_bytes: coding.max_payload_bytes });
        }
        let kind = if next == first_offset { Kind::Start } else { Kind::Record };
        coding.encode(buffer, kind, next, payload);
        next += 1;
    }
    Ok(next)
}

/// The trailer of a file whose next offset is `next`; none in format 1.
pub(crate) fn trailer(coding: Coding, next: i64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(FRAME_HEADER_BYTES);
    if coding.format != Format::One {
        coding.encode(&mut bytes, Kind::Trailer, next, &[]);
    }
    bytes
}
