//! The writing end of one partition.

use std::{
    ops::Range,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use super::{
    LogError, LogId, LogReader,
    disk::{self, DiskLock},
    journal::Journal,
    recovery, repair,
    reserve::Reserve,
    segment::{self, PartitionFolder},
};

/// One partition of the log, held by its only writer.
///
/// Every call blocks on the disk: a thread of its own drives each partition.
#[derive(Debug)]
pub struct PartitionLog {
    folder: PartitionFolder,
    reserve: Arc<Reserve>,
    /// First offsets of all segments; the last one is being written.
    bases: Vec<i64>,
    active: Journal,
    edges: Arc<Edges>,
    /// A sync of the folder failed while segments were removed.
    trim_failure: Option<Arc<LogError>>,
    /// Keeps a second writer out.
    _lock: DiskLock,
}

/// Where what can be read begins and ends, shared with the readers.
#[derive(Debug)]
pub(super) struct Edges {
    /// The first offset held.
    pub(super) start: AtomicI64,
    /// The offset after the last durable record.
    pub(super) head: AtomicI64,
}

impl PartitionLog {
    /// Opens a partition that exists: checks the chain of its segments, reads the newest to the
    /// end, cuts a torn tail.
    pub(super) fn open(folder: PartitionFolder, reserve: Arc<Reserve>) -> Result<PartitionLog, LogError> {
        let lock = disk::lock(&*folder.disk, &folder.dir)?;
        let bases = folder.bases()?;
        folder.check_chain(&bases)?;
        let base = *bases.last().expect("a chain has at least one segment");
        folder.remove_unfinished()?;
        // A crash may have come between a rename or a removal and the sync that makes it durable.
        folder.disk.sync_dir(&folder.dir).map_err(LogError::io("sync", &folder.dir))?;
        let active = open_segment(&folder, base)?;
        let edges = Edges { start: AtomicI64::new(bases[0]), head: AtomicI64::new(active.next_offset()) };
        Ok(PartitionLog { folder, reserve, bases, active, edges: Arc::new(edges), trim_failure: None, _lock: lock })
    }

    /// Appends a batch with one write and one fdatasync, and returns the half-open range of its
    /// offsets. When this returns, the records are durable and readers see them. An empty batch
    /// costs nothing.
    ///
    /// The caller bounds the batch; it is held in memory once more while it is written.
    ///
    /// # Errors
    /// [`LogError::RecordTooLarge`] over [`MAX_RECORD_BYTES`](super::MAX_RECORD_BYTES) and
    /// [`LogError::DiskFull`]: nothing of the batch is in the log, nor will be after a restart, and
    /// the next append may succeed. When the write or its sync fails otherwise, the partition is
    /// poisoned: that append and every later one answer [`LogError::Poisoned`], and its records may
    /// or may not be found after a restart. Reading goes on.
    pub fn append<'a>(&mut self, records: impl IntoIterator<Item = &'a [u8]>) -> Result<Range<i64>, LogError> {
        let range = self.active.append(records)?;
        self.edges.head.store(range.end, Ordering::Release);
        Ok(range)
    }

    /// Closes the active segment at the head and starts a new one there. Returns the range of the
    /// closed segment, or `None` where the active one is empty and stays. When this returns, the
    /// edge is durable. On a full disk it uses the room that the log keeps back.
    ///
    /// # Errors
    /// [`LogError::Poisoned`] when a sync failed, or it cannot be told whether the new segment is
    /// there: after a restart the edge is there or it is not. After any other error it is not, and
    /// the partition goes on as it was.
    pub fn roll(&mut self) -> Result<Option<Range<i64>>, LogError> {
        self.active.check()?;
        let closed = self.active_base()..self.head();
        if closed.is_empty() {
            return Ok(None);
        }
        let (folder, active) = (&self.folder, &mut self.active);
        let created = self.reserve.spend_on(|| {
            active.seal()?;
            folder.create(closed.end, closed.start)
        });
        if let Err(cause) = created {
            active.check()?;
            // Once it has its name, a restart would take it for the active one.
            return Err(match folder.disk.exists(&folder.path(closed.end)) {
                Ok(false) => cause,
                _ => active.poison(cause),
            });
        }
        *active = open_segment(folder, closed.end).map_err(|cause| active.poison(cause))?;
        self.bases.push(closed.end);
        self.reserve.fill();
        Ok(Some(closed))
    }

    /// Removes closed segments that lie wholly below offset `below`, oldest first, and returns
    /// their ranges. When this returns they are gone for good; a crash leaves the newer ones of
    /// them.
    ///
    /// # Errors
    /// [`LogError::Io`] when a segment cannot be removed, and the next call tries again;
    /// [`LogError::Poisoned`] when the folder could not be synced, and for every call after that.
    /// Appending and reading go on.
    pub fn trim(&mut self, below: i64) -> Result<Vec<Range<i64>>, LogError> {
        let (disk, dir) = (&self.folder.disk, &self.folder.dir);
        let mut removed = Vec::new();
        while self.bases.len() > 1 && self.bases[1] <= below {
            if let Some(cause) = &self.trim_failure {
                return Err(LogError::Poisoned { path: dir.clone(), cause: Arc::clone(cause) });
            }
            let range = self.bases[0]..self.bases[1];
            let path = self.folder.path(range.start);
            // Readers first: who finds the file gone then knows why.
            self.edges.start.store(range.end, Ordering::Release);
            match disk.remove(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(LogError::io("remove", &path)(e)),
                _ => {}
            }
            // One by one: if several removals were under way at a power cut, a newer segment might
            // be gone and an older one still there.
            if let Err(e) = disk.sync_dir(dir) {
                let cause = Arc::clone(self.trim_failure.insert(Arc::new(LogError::io("sync", dir)(e))));
                return Err(LogError::Poisoned { path: dir.clone(), cause });
            }
            self.bases.remove(0);
            removed.push(range);
        }
        if !removed.is_empty() {
            self.reserve.fill();
        }
        Ok(removed)
    }

    /// Writes a closed segment afresh from its records, because it was found damaged. When this
    /// returns it is durable; after a crash it is the old one or the new one. Readers that have the
    /// old file open finish with it.
    ///
    /// All of it is held in memory at once.
    ///
    /// # Errors
    /// [`LogError::NotInLog`] when the range is not that of a closed segment;
    /// [`LogError::RecordCount`] when there are not as many records as it has offsets, and
    /// [`LogError::RecordTooLarge`]; [`LogError::DiskFull`] or [`LogError::Io`] when it could not be
    /// written.
    pub fn replace_closed<'a>(&mut self, range: Range<i64>, records: impl IntoIterator<Item = &'a [u8]>) -> Result<(), LogError> {
        repair::replace(&self.folder, &self.bases, range, records)
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
        LogReader::new(self.folder.clone(), Arc::clone(&self.edges))
    }

    /// How long the sync of the newest append took, or of whatever else was synced last in the active segment.
    pub fn last_sync(&self) -> Duration {
        self.active.last_sync()
    }

    /// The number of this partition.
    pub fn partition(&self) -> u32 {
        self.folder.partition
    }

    /// The log that this partition belongs to.
    pub fn log_id(&self) -> LogId {
        self.folder.log_id
    }

    /// The epoch in which this writer was opened.
    pub fn epoch(&self) -> i64 {
        self.folder.epoch
    }

    /// The folder that holds the segments.
    pub fn dir(&self) -> &Path {
        &self.folder.dir
    }
}

fn open_segment(folder: &PartitionFolder, base: i64) -> Result<Journal, LogError> {
    let (_, header) = folder.open(base)?;
    recovery::recover(Arc::clone(&folder.disk), folder.path(base), header.shape(), |_| Ok(()))
}
