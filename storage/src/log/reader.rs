//! The reading end of one partition.

use std::{
    collections::VecDeque,
    io::{self, BufReader, Read},
    ops::Range,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
};

use super::{
    LogError, Record,
    disk::FileReader,
    frame::{FRAME_HEADER_BYTES, Kind},
    journal::{self, Shape},
    partition::Edges,
    recovery,
    segment::{self, PartitionFolder},
};

/// Reads one partition while its writer goes on. Cheap to clone; shows durable records only.
#[derive(Clone, Debug)]
pub struct LogReader {
    folder: Arc<PartitionFolder>,
    edges: Arc<Edges>,
}

impl LogReader {
    pub(super) fn new(folder: PartitionFolder, edges: Arc<Edges>) -> LogReader {
        LogReader { folder: Arc::new(folder), edges }
    }

    /// The first offset that can be read: what is below it is trimmed.
    pub fn start(&self) -> i64 {
        self.edges.start.load(Ordering::Acquire)
    }

    /// The next offset: everything below it is durable and, from [`LogReader::start`] on, can be
    /// read.
    pub fn head(&self) -> i64 {
        self.edges.head.load(Ordering::Acquire)
    }

    /// The half-open ranges of the segments on disk, oldest first; the last one ends at the head
    /// and may be empty.
    ///
    /// # Errors
    /// [`LogError::Io`] when the folder cannot be listed.
    pub fn segments(&self) -> Result<Vec<Range<i64>>, LogError> {
        // The head first: what lies below it is in files that this listing then finds.
        let head = self.head();
        let mut ranges = segment::ranges(&self.folder.bases()?, head);
        // The start last: what has gone since the listing is not held any more.
        let start = self.start();
        ranges.retain(|range| range.start >= start);
        Ok(ranges)
    }

    /// The bytes of the segments on disk, headers and trailers included, room that is set aside for more left out.
    ///
    /// # Errors
    /// [`LogError::Io`] when the folder or a file cannot be read.
    pub fn bytes(&self) -> Result<u64, LogError> {
        let disk = &self.folder.disk;
        let mut bytes = 0;
        for base in self.folder.bases()? {
            let path = self.folder.path(base);
            match disk.open(&path).and_then(|file| disk.len(&file)) {
                Ok(length) => bytes += length,
                // It was trimmed meanwhile.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(LogError::io("measure", &path)(e)),
            }
        }
        Ok(bytes)
    }

    /// Streams exactly the records of a half-open range, in order, across segments. Every checksum
    /// on the way is verified.
    ///
    /// There is no index: a range that begins within a segment costs the reading of what precedes
    /// it there.
    ///
    /// # Errors
    /// [`LogError::NotInLog`] when part of the range is trimmed or not yet durable. The iterator
    /// yields an error in place of the first record that it cannot vouch for, and then ends:
    /// [`LogError::Damaged`] with file and byte, or [`LogError::NotInLog`] when it was trimmed
    /// meanwhile.
    pub fn read(&self, range: Range<i64>) -> Result<Records, LogError> {
        let mut segments = VecDeque::from(self.segments()?);
        let available = segments.front().map_or(0, |oldest| oldest.start)..segments.back().map_or(0, |newest| newest.end);
        if !range.is_empty() && (range.start < available.start || range.end > available.end) {
            return Err(self.not_in_log(range));
        }
        segments.retain(|segment| segment.end > range.start && segment.start < range.end);
        Ok(Records { log: self.clone(), segments, current: None, next: range.start, end: range.end })
    }

    /// Reads every byte of one closed segment and checks it against its neighbours, its checksums
    /// and its end. What the system has cached is read from there.
    ///
    /// # Errors
    /// [`LogError::Damaged`] with file and byte; [`LogError::NotInLog`] when the range is not that
    /// of a closed segment.
    pub fn verify(&self, range: Range<i64>) -> Result<(), LogError> {
        let segments = self.segments()?;
        let number = segments.iter().position(|segment| *segment == range);
        let Some(number) = number.filter(|number| number + 1 < segments.len()) else {
            return Err(self.not_in_log(range));
        };
        if let Some(before) = number.checked_sub(1) {
            self.folder.check_link(segments[before].start, range.start)?;
        }
        self.folder.check_link(range.start, range.end)?;
        let mut segment = self.open(range.clone(), &range)?;
        while segment.next < segment.end {
            segment.next_record()?;
        }
        segment.check_end()
    }

    /// Opens a segment, for a reader who wants `wanted`.
    fn open(&self, segment: Range<i64>, wanted: &Range<i64>) -> Result<OpenSegment, LogError> {
        match self.folder.open(segment.start) {
            Ok((file, header)) => {
                let shape = header.shape();
                let byte = shape.header_bytes as u64;
                Ok(OpenSegment { path: self.folder.path(segment.start), file, shape, byte, next: segment.start, end: segment.end })
            }
            Err(LogError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound && segment.start < self.start() => {
                Err(self.not_in_log(wanted.clone()))
            }
            Err(e) => Err(e),
        }
    }

    fn not_in_log(&self, wanted: Range<i64>) -> LogError {
        LogError::NotInLog { path: self.folder.dir.clone(), wanted, available: self.start()..self.head() }
    }
}

/// The records of a range; see [`LogReader::read`].
#[derive(Debug)]
pub struct Records {
    log: LogReader,
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
                self.current = Some(self.log.open(range, &(self.next..self.end))?);
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
    file: BufReader<FileReader>,
    shape: Shape,
    byte: u64,
    next: i64,
    end: i64,
}

impl OpenSegment {
    fn next_record(&mut self) -> Result<Record, LogError> {
        let frame = self.shape.coding.read(&mut self.file).map_err(LogError::io("read", &self.path))?;
        let Some(frame) = frame.filter(|frame| frame.kind != Kind::Trailer) else {
            return Err(LogError::damaged(&self.path, self.byte, format!("no valid record of offset {}", self.next)));
        };
        recovery::check_offset(&self.path, self.byte, frame.offset, self.next)?;
        self.byte += (FRAME_HEADER_BYTES + frame.payload.len()) as u64;
        self.next += 1;
        Ok(Record { offset: frame.offset, payload: frame.payload })
    }

    /// A closed segment ends with the trailer, and one of format 1 with its last record.
    fn check_end(&mut self) -> Result<(), LogError> {
        let mut rest = Vec::new();
        self.file.read_to_end(&mut rest).map_err(LogError::io("read", &self.path))?;
        if rest == journal::trailer(self.shape.coding, self.end) {
            return Ok(());
        }
        Err(LogError::damaged(&self.path, self.byte, "a closed segment does not end where its last record does"))
    }
}
