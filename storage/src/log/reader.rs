//! The reading end of one partition.

use std::{
    collections::VecDeque,
    fs::File,
    io::BufReader,
    ops::Range,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use super::{
    LogError, MAX_RECORD_BYTES, Record,
    frame::{self, FRAME_HEADER_BYTES},
    journal,
    segment::{self, HEADER_BYTES, PartitionFolder},
};

/// Reads one partition while its writer goes on. Cheap to clone; shows durable records only.
#[derive(Clone, Debug)]
pub struct LogReader {
    folder: Arc<PartitionFolder>,
    head: Arc<AtomicI64>,
}

impl LogReader {
    pub(super) fn new(folder: PartitionFolder, head: Arc<AtomicI64>) -> LogReader {
        LogReader { folder: Arc::new(folder), head }
    }

    /// The next offset: everything below it is durable and can be read.
    pub fn head(&self) -> i64 {
        self.head.load(Ordering::Acquire)
    }

    /// The half-open ranges of the segments on disk, oldest first; the last one ends at the head
    /// and may be empty.
    ///
    /// # Errors
    /// [`LogError::Io`] when the folder cannot be listed.
    pub fn segments(&self) -> Result<Vec<Range<i64>>, LogError> {
        // The head first: what lies below it is in files that this listing then finds.
        let head = self.head();
        Ok(segment::ranges(&self.folder.bases()?, head))
    }

    /// Streams exactly the records of a half-open range, in order, across segments. Every checksum
    /// on the way is verified.
    ///
    /// There is no index: a range that begins within a segment costs the reading of what precedes
    /// it there.
    ///
    /// # Errors
    /// [`LogError::NotInLog`] when part of the range is trimmed or not yet durable. The iterator
    /// yields an error in place of the first record that it cannot vouch for, [`LogError::Damaged`]
    /// with file and byte, and then ends.
    pub fn read(&self, range: Range<i64>) -> Result<Records, LogError> {
        let mut segments = VecDeque::from(self.segments()?);
        let available = segments.front().map_or(0, |oldest| oldest.start)..segments.back().map_or(0, |newest| newest.end);
        if !range.is_empty() && (range.start < available.start || range.end > available.end) {
            return Err(LogError::NotInLog { path: self.folder.dir.clone(), wanted: range, available });
        }
        segments.retain(|segment| segment.end > range.start && segment.start < range.end);
        Ok(Records { folder: Arc::clone(&self.folder), segments, current: None, next: range.start, end: range.end })
    }
}

/// The records of a range; see [`LogReader::read`].
#[derive(Debug)]
pub struct Records {
    folder: Arc<PartitionFolder>,
    segments: VecDeque<Range<i64>>,
    current: Option<OpenSegment>,
    next: i64,
    end: i64,
}

impl Iterator for Records {
    type Item = Result<Record, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.end {
            return None;
        }
        let record = self.next_record();
        self.next = if record.is_ok() { self.next + 1 } else { self.end };
        Some(record)
    }
}

impl Records {
    fn next_record(&mut self) -> Result<Record, LogError> {
        loop {
            let Some(segment) = self.current.as_mut().filter(|segment| segment.next < segment.end) else {
                let range = self.segments.pop_front().expect("the range was checked against the segments");
                self.current = Some(OpenSegment::new(&self.folder, range)?);
                continue;
            };
            let record = segment.next_record()?;
            if record.offset >= self.next {
                return Ok(record);
            }
        }
    }
}

#[derive(Debug)]
struct OpenSegment {
    path: PathBuf,
    file: BufReader<File>,
    byte: u64,
    next: i64,
    end: i64,
}

impl OpenSegment {
    fn new(folder: &PartitionFolder, range: Range<i64>) -> Result<OpenSegment, LogError> {
        let (file, _) = folder.open(range.start)?;
        let path = folder.path(range.start);
        Ok(OpenSegment { path, file, byte: HEADER_BYTES as u64, next: range.start, end: range.end })
    }

    fn next_record(&mut self) -> Result<Record, LogError> {
        let record = frame::read(&mut self.file, MAX_RECORD_BYTES).map_err(LogError::io("read", &self.path))?;
        let Some(record) = record else {
            return Err(LogError::damaged(&self.path, self.byte, format!("no valid frame of offset {}", self.next)));
        };
        journal::check_offset(&self.path, self.byte, record.offset, self.next)?;
        self.byte += (FRAME_HEADER_BYTES + record.payload.len()) as u64;
        self.next += 1;
        Ok(record)
    }
}
