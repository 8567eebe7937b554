//! The writing end of one partition.

use std::{
    fs::File,
    ops::Range,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use super::{
    LogError, LogId, LogReader, MAX_RECORD_BYTES,
    disk::{self, Disk},
    journal::{Journal, Shape},
    segment::{self, HEADER_BYTES, PartitionFolder},
};

/// One partition of the log, held by its only writer.
///
/// Every call blocks on the disk: a thread of its own drives each partition.
#[derive(Debug)]
pub struct PartitionLog {
    folder: PartitionFolder,
    disk: Arc<dyn Disk>,
    /// First offsets of all segments; the last one is being written.
    bases: Vec<i64>,
    active: Journal,
    /// The offset after the last durable record, shared with the readers.
    head: Arc<AtomicI64>,
    /// Keeps a second writer out.
    _lock: File,
}

impl PartitionLog {
    /// Opens a partition that exists: checks the chain of its segments, reads the newest to the
    /// end, cuts a torn tail.
    pub(super) fn open(folder: PartitionFolder, disk: Arc<dyn Disk>) -> Result<PartitionLog, LogError> {
        let lock = disk::lock_dir(&folder.dir)?;
        let bases = folder.bases()?;
        folder.check_chain(&bases)?;
        let base = *bases.last().expect("a chain has at least one segment");
        // A crash may have come between a rename and the sync that makes the new name durable.
        disk.sync_dir(&folder.dir).map_err(LogError::io("sync", &folder.dir))?;
        let active = open_segment(&folder, &disk, base)?;
        let head = Arc::new(AtomicI64::new(active.next_offset()));
        Ok(PartitionLog { folder, disk, bases, active, head, _lock: lock })
    }

    /// Appends a batch with one write and one fdatasync, and returns the half-open range of its
    /// offsets. When this returns, the records are durable and readers see them. An empty batch
    /// costs nothing.
    ///
    /// The caller bounds the batch; it is held in memory once more while it is written.
    ///
    /// # Errors
    /// [`LogError::RecordTooLarge`] over [`MAX_RECORD_BYTES`], before anything is written. When the
    /// write or its sync fails, the partition is poisoned: that append answers
    /// [`LogError::DiskFull`] or [`LogError::Poisoned`], its records may or may not be found after
    /// a restart, and every later append answers [`LogError::Poisoned`]. Reading goes on.
    pub fn append<'a>(&mut self, records: impl IntoIterator<Item = &'a [u8]>) -> Result<Range<i64>, LogError> {
        let range = self.active.append(records)?;
        self.head.store(range.end, Ordering::Release);
        Ok(range)
    }

    /// Closes the active segment at the head and starts a new one there. Returns the range of the
    /// closed segment, or `None` where the active one is empty and stays. When this returns, the
    /// edge is durable.
    ///
    /// # Errors
    /// As [`PartitionLog::append`]: a failure poisons the partition. After a restart the edge is
    /// there or it is not.
    pub fn roll(&mut self) -> Result<Option<Range<i64>>, LogError> {
        self.active.check()?;
        let closed = self.active_base()..self.head();
        if closed.is_empty() {
            return Ok(None);
        }
        let next =
            self.folder.create(&*self.disk, closed.end, closed.start).and_then(|()| open_segment(&self.folder, &self.disk, closed.end));
        self.active = next.map_err(|cause| self.active.poison(cause))?;
        self.bases.push(closed.end);
        Ok(Some(closed))
    }

    /// The next offset: everything below it is durable.
    pub fn head(&self) -> i64 {
        self.active.next_offset()
    }

    /// The first offset of the segment that is being written.
    pub fn active_base(&self) -> i64 {
        *self.bases.last().expect("there is always an active segment")
    }

    /// The size of the file that is being written, header included.
    pub fn active_bytes(&self) -> u64 {
        self.active.end_bytes()
    }

    /// The half-open ranges of the closed segments, oldest first.
    pub fn sealed(&self) -> Vec<Range<i64>> {
        let mut ranges = segment::ranges(&self.bases, self.head());
        ranges.pop();
        ranges
    }

    /// A reading end, for any thread, while this one goes on appending.
    pub fn reader(&self) -> LogReader {
        LogReader::new(self.folder.clone(), Arc::clone(&self.head))
    }

    /// The number of this partition.
    pub fn partition(&self) -> u32 {
        self.folder.partition
    }

    /// The log that this partition belongs to.
    pub fn log_id(&self) -> LogId {
        self.folder.log_id
    }

    /// The folder that holds the segments.
    pub fn dir(&self) -> &Path {
        &self.folder.dir
    }
}

fn open_segment(folder: &PartitionFolder, disk: &Arc<dyn Disk>, base: i64) -> Result<Journal, LogError> {
    let shape = Shape { header_bytes: HEADER_BYTES, first_offset: base, max_payload_bytes: MAX_RECORD_BYTES };
    Journal::recover(Arc::clone(disk), folder.path(base), shape, |_| Ok(()))
}
