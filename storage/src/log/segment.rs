//! The files of one partition: their names, and the chain that they form.
//!
//! **Layout.** A segment is named by the offset of its first record, twenty digits and `.log`. It
//! opens with a header (`header.rs`); frames follow. A closed one of format 2 ends with a trailer.
//!
//! **Consistency.** Each segment names its predecessor, so that a missing or foreign file is found
//! when the folder is opened, without reading the frames. Where the oldest segment begins is free:
//! older ones may have been trimmed.
//!
//! **What a crash leaves behind.** A segment appears with its whole header or not at all. An
//! unfinished `.tmp` may stay; it is passed over.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    LogError, LogId,
    disk::{self, Disk, FileReader},
    header::SegmentHeader,
};

/// One partition's folder, and whose it is.
#[derive(Clone, Debug)]
pub(crate) struct PartitionFolder {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    pub(crate) partition: u32,
    pub(crate) log_id: LogId,
    /// The epoch of this server, the highest that any segment has.
    pub(crate) epoch: i64,
}

impl PartitionFolder {
    /// Where the segment that begins at `base` is kept.
    pub(crate) fn path(&self, base: i64) -> PathBuf {
        self.dir.join(format!("{base:020}.log"))
    }

    /// The first offsets of all segments, oldest first.
    pub(crate) fn bases(&self) -> Result<Vec<i64>, LogError> {
        let names = self.list()?;
        let mut bases: Vec<i64> = names.iter().filter_map(|path| base_in_name(path.file_name()?.to_str()?)).collect();
        bases.sort_unstable();
        Ok(bases)
    }

    fn list(&self) -> Result<Vec<PathBuf>, LogError> {
        self.disk.list(&self.dir).map_err(LogError::io("list", &self.dir))
    }

    /// Removes files that an earlier server did not finish.
    pub(crate) fn remove_unfinished(&self) -> Result<(), LogError> {
        for path in self.list()? {
            if path.extension() == Some(OsStr::new(disk::UNFINISHED)) {
                self.disk.remove(&path).map_err(LogError::io("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Creates an empty segment. When this returns it is durable.
    pub(crate) fn create(&self, base: i64, previous: i64) -> Result<(), LogError> {
        disk::create_file(&*self.disk, &self.path(base), &self.header(base, previous).encode())
    }

    /// The header that this server gives a segment.
    pub(crate) fn header(&self, base: i64, previous: i64) -> SegmentHeader {
        SegmentHeader { partition: self.partition, base, previous, log_id: self.log_id, epoch: Some(self.epoch) }
    }

    /// Checks that the segments with these first offsets are all there is between the oldest and
    /// the newest.
    pub(crate) fn check_chain(&self, bases: &[i64]) -> Result<(), LogError> {
        let Some(&oldest) = bases.first() else {
            return Err(LogError::damaged(&self.dir, 0, "no segment is left"));
        };
        self.open(oldest)?;
        bases.windows(2).try_for_each(|pair| self.check_link(pair[0], pair[1]))
    }

    /// Checks that the segment at `base` continues the one at `before`.
    pub(crate) fn check_link(&self, before: i64, base: i64) -> Result<(), LogError> {
        let previous = self.open(base)?.1.previous;
        if previous == before {
            return Ok(());
        }
        let reason = format!("it continues segment {previous}, but the one before it here is {before}");
        Err(LogError::damaged(&self.path(base), 24, reason))
    }

    /// Opens a segment for reading, checks its header, and returns it at its first frame.
    pub(crate) fn open(&self, base: i64) -> Result<(BufReader<FileReader>, SegmentHeader), LogError> {
        let path = self.path(base);
        let mut file = FileReader::open(&self.disk, &path).map_err(LogError::io("open", &path))?;
        let bytes = file.fill_buf().map_err(LogError::io("read", &path))?;
        let header = SegmentHeader::parse(&path, bytes)?;
        self.check_header(&path, base, &header)?;
        file.consume(header.shape().header_bytes);
        Ok((file, header))
    }

    fn check_header(&self, path: &Path, base: i64, found: &SegmentHeader) -> Result<(), LogError> {
        let damaged = |reason| Err(LogError::damaged(path, 0, reason));
        if (found.partition, found.base, found.log_id) != (self.partition, base, self.log_id) {
            return damaged(format!("no header of partition {}, offset {base}, log {}", self.partition, self.log_id));
        }
        match found.epoch {
            Some(epoch) if epoch > self.epoch => {
                damaged(format!("it was written in epoch {epoch}, but the log's EPOCH says {}: an older copy?", self.epoch))
            }
            _ => Ok(()),
        }
    }
}

/// The half-open offset ranges of segments with these first offsets, in a log whose next offset is
/// `head`.
pub(crate) fn ranges(bases: &[i64], head: i64) -> Vec<Range<i64>> {
    let ends = bases.iter().skip(1).copied().chain([head]);
    bases.iter().copied().zip(ends).map(|(base, end)| base..end.min(head)).filter(|range| range.start <= head).collect()
}

/// The first offset in the name of a segment.
pub(crate) fn base_in_name(name: &str) -> Option<i64> {
    let digits = name.strip_suffix(".log")?;
    if digits.len() != 20 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}
