//! The files of one partition: their names, their headers, and the chain that they form.
//!
//! **Layout.** A segment is named by the offset of its first record, twenty digits and `.log`, and
//! opens with 52 bytes, little endian: `"MRGNLOG1" | format u32 | partition u32 | base offset i64 |
//! base offset of the segment before i64 | log id, 16 bytes | crc32c u32` of all before it. The
//! first segment of a log names itself as the one before. Frames follow.
//!
//! **Consistency.** Each segment names its predecessor, so that a missing or foreign file is found
//! when the folder is opened, without reading the frames. Where the oldest segment begins is free:
//! older ones may have been trimmed.
//!
//! **What a crash leaves behind.** A segment appears with its whole header or not at all. An
//! unfinished `.tmp` may stay; it is passed over and overwritten.

use std::{
    fs::{self, File},
    io::{BufReader, Read},
    ops::Range,
    path::{Path, PathBuf},
};

use super::{
    LogError, LogId,
    disk::{self, Disk},
};

/// The size of a segment's header; its first frame begins here.
pub(crate) const HEADER_BYTES: usize = 52;

const MAGIC: &[u8; 8] = b"MRGNLOG1";
const FORMAT: u32 = 1;

/// One partition's folder, and whose it is.
#[derive(Clone, Debug)]
pub(crate) struct PartitionFolder {
    pub(crate) dir: PathBuf,
    pub(crate) partition: u32,
    pub(crate) log_id: LogId,
}

impl PartitionFolder {
    /// The folder of `partition` under the log's folder.
    pub(crate) fn new(log_dir: &Path, partition: u32, log_id: LogId) -> PartitionFolder {
        PartitionFolder { dir: log_dir.join(format!("p{partition:04}")), partition, log_id }
    }

    /// Where the segment that begins at `base` is kept.
    pub(crate) fn path(&self, base: i64) -> PathBuf {
        self.dir.join(format!("{base:020}.log"))
    }

    /// The first offsets of all segments, oldest first.
    pub(crate) fn bases(&self) -> Result<Vec<i64>, LogError> {
        let mut bases = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(LogError::io("list", &self.dir))? {
            let entry = entry.map_err(LogError::io("list", &self.dir))?;
            bases.extend(entry.file_name().to_str().and_then(base_in_name));
        }
        bases.sort_unstable();
        Ok(bases)
    }

    /// Creates an empty segment. When this returns it is durable.
    pub(crate) fn create(&self, disk: &dyn Disk, base: i64, previous: i64) -> Result<(), LogError> {
        disk::create_file(disk, &self.path(base), &self.header(base, previous))
    }

    /// Checks that the segments with these first offsets are all there is between the oldest and
    /// the newest.
    pub(crate) fn check_chain(&self, bases: &[i64]) -> Result<(), LogError> {
        let Some(&oldest) = bases.first() else {
            return Err(LogError::damaged(&self.dir, 0, "no segment is left"));
        };
        self.open(oldest)?;
        for pair in bases.windows(2) {
            let (before, base) = (pair[0], pair[1]);
            let (_, previous) = self.open(base)?;
            if previous != before {
                let reason = format!("it continues segment {previous}, but the one before it here is {before}");
                return Err(LogError::damaged(&self.path(base), 24, reason));
            }
        }
        Ok(())
    }

    /// Opens a segment for reading, checks its header, and returns it at its first frame, with the
    /// base of the segment before.
    pub(crate) fn open(&self, base: i64) -> Result<(BufReader<File>, i64), LogError> {
        let path = self.path(base);
        let mut file = BufReader::new(File::open(&path).map_err(LogError::io("open", &path))?);
        let mut header = Vec::with_capacity(HEADER_BYTES);
        file.by_ref().take(HEADER_BYTES as u64).read_to_end(&mut header).map_err(LogError::io("read", &path))?;
        Ok((file, self.check_header(&path, base, &header)?))
    }

    fn header(&self, base: i64, previous: i64) -> [u8; HEADER_BYTES] {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&self.partition.to_le_bytes());
        bytes.extend_from_slice(&base.to_le_bytes());
        bytes.extend_from_slice(&previous.to_le_bytes());
        bytes.extend_from_slice(self.log_id.as_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        bytes.try_into().expect("the fields add up to the header's size")
    }

    /// Returns the base of the segment before.
    fn check_header(&self, path: &Path, base: i64, found: &[u8]) -> Result<i64, LogError> {
        if found.len() < HEADER_BYTES {
            return Err(LogError::damaged(path, found.len() as u64, "the file ends within its header"));
        }
        check_format(path, found, MAGIC, FORMAT)?;
        let previous = found[24..32].try_into().map(i64::from_le_bytes).expect("eight bytes");
        if found == self.header(base, previous) {
            return Ok(previous);
        }
        let expected = format!("no header of partition {}, offset {base}, log {}", self.partition, self.log_id);
        Err(LogError::damaged(path, 0, expected))
    }
}

/// Checks what all headers share: magic, format, and the checksum at the end. The format comes
/// before the checksum, because a newer release may have put the checksum elsewhere.
pub(crate) fn check_format(path: &Path, header: &[u8], magic: &[u8; 8], known: u32) -> Result<(), LogError> {
    if !header.starts_with(magic) {
        return Err(LogError::damaged(path, 0, "it does not begin as a file of this kind"));
    }
    let found = header[8..12].try_into().map(u32::from_le_bytes).expect("four bytes");
    if found > known {
        return Err(LogError::NewerFormat { path: path.to_owned(), found, known });
    }
    let (fields, checksum) = header.split_last_chunk().expect("headers are longer than a checksum");
    if crc32c::crc32c(fields) != u32::from_le_bytes(*checksum) {
        return Err(LogError::damaged(path, 0, "the header's checksum does not hold"));
    }
    Ok(())
}

/// The half-open offset ranges of segments with these first offsets, in a log whose next offset is
/// `head`.
pub(crate) fn ranges(bases: &[i64], head: i64) -> Vec<Range<i64>> {
    let ends = bases.iter().skip(1).copied().chain([head]);
    bases.iter().copied().zip(ends).map(|(base, end)| base..end.min(head)).filter(|range| range.start <= head).collect()
}

fn base_in_name(name: &str) -> Option<i64> {
    let digits = name.strip_suffix(".log")?;
    if digits.len() != 20 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}
