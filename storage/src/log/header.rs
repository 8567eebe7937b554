//! The bytes at the front of a segment.
//!
//! **Layout.** Little endian: `"MRGNLOG1" | format u32 | partition u32 | base offset i64 | base
//! offset of the segment before i64 | log id, 16 bytes | epoch i64 | crc32c u32` of all before it, 60
//! bytes in format 2. In format 1 there is no epoch, which makes 52. The first segment of a log names
//! itself as the one before.
//!
//! **Consistency.** The epoch is that of the server that wrote the segment. New segments have format 2;
//! one of format 1 keeps it to its end.

use std::path::Path;

use super::{
    LogError, LogId,
    frame::{Coding, Format, MAX_RECORD_BYTES},
    journal::Shape,
};

/// The most that a header takes.
pub(crate) const MAX_HEADER_BYTES: usize = 60;

const HEADER_BYTES_1: usize = 52;
const MAGIC: &[u8; 8] = b"MRGNLOG1";
const FORMAT: u32 = 2;

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) partition: u32,
    /// The offset of its first record.
    pub(crate) base: i64,
    /// The base of the segment before.
    pub(crate) previous: i64,
    pub(crate) log_id: LogId,
    /// The epoch in which it was written; none in format 1.
    pub(crate) epoch: Option<i64>,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(MAX_HEADER_BYTES);
        bytes.extend_from_slice(MAGIC);
        let format = if self.epoch.is_some() { FORMAT } else { 1 };
        bytes.extend_from_slice(&format.to_le_bytes());
        bytes.extend_from_slice(&self.partition.to_le_bytes());
        bytes.extend_from_slice(&self.base.to_le_bytes());
        bytes.extend_from_slice(&self.previous.to_le_bytes());
        bytes.extend_from_slice(self.log_id.as_bytes());
        if let Some(epoch) = self.epoch {
            bytes.extend_from_slice(&epoch.to_le_bytes());
        }
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        bytes
    }

    /// Reads the header at the start of `bytes`.
    ///
    /// # Errors
    /// [`LogError::Damaged`] or [`LogError::NewerFormat`].
    pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<SegmentHeader, LogError> {
        let format = check_kind(path, bytes, MAGIC, FORMAT)?;
        let header_bytes = if format == 1 { HEADER_BYTES_1 } else { MAX_HEADER_BYTES };
        let fields = check_sum(path, bytes, header_bytes)?;
        Ok(SegmentHeader {
            partition: u32::from_le_bytes(array(&fields[12..])),
            base: i64::from_le_bytes(array(&fields[16..])),
            previous: i64::from_le_bytes(array(&fields[24..])),
            log_id: LogId::from_bytes(array(&fields[32..])),
            epoch: (format != 1).then(|| i64::from_le_bytes(array(&fields[48..]))),
        })
    }

    /// What its frames look like.
    pub(crate) fn shape(&self) -> Shape {
        let bytes = self.encode();
        let format = match self.epoch {
            None => Format::One,
            Some(_) => Format::Two(u32::from_le_bytes(array(&bytes[bytes.len() - 4..]))),
        };
        let coding = Coding { format, max_payload_bytes: MAX_RECORD_BYTES };
        Shape { header_bytes: bytes.len(), first_offset: self.base, coding }
    }
}

/// Checks what all headers begin with, magic and format, and returns the format. It comes before the
/// checksum, because a newer release may have put the checksum elsewhere.
pub(crate) fn check_kind(path: &Path, header: &[u8], magic: &[u8; 8], known: u32) -> Result<u32, LogError> {
    if header.len() < 12 {
        return Err(LogError::damaged(path, header.len() as u64, "the file ends within its header"));
    }
    if !header.starts_with(magic) {
        return Err(LogError::damaged(path, 0, "it does not begin as a file of this kind"));
    }
    match u32::from_le_bytes(array(&header[8..])) {
        0 => Err(LogError::damaged(path, 8, "there is no format 0")),
        found if found > known => Err(LogError::NewerFormat { path: path.to_owned(), found, known }),
        found => Ok(found),
    }
}

/// Checks the checksum that ends a header, and returns what it covers.
pub(crate) fn check_sum<'a>(path: &Path, bytes: &'a [u8], header_bytes: usize) -> Result<&'a [u8], LogError> {
    let Some(header) = bytes.get(..header_bytes) else {
        return Err(LogError::damaged(path, bytes.len() as u64, "the file ends within its header"));
    };
    let (fields, checksum) = header.split_last_chunk().expect("headers are longer than a checksum");
    if crc32c::crc32c(fields) != u32::from_le_bytes(*checksum) {
        return Err(LogError::damaged(path, 0, "the header's checksum does not hold"));
    }
    Ok(fields)
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    *bytes.first_chunk().expect("the header's length was checked")
}
