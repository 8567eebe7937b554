//! One record on disk.
//!
//! **Layout.** `length u32 | crc32c u32 | offset i64 | payload`, little endian. The length counts
//! the payload alone; the checksum (Castagnoli, RFC 3720) runs over the offset's bytes and the
//! payload. A block of zeros is no frame, since the checksum of eight zero bytes is not zero.
//!
//! **Consistency.** A frame counts when its checksum holds and its offset is the one that is due.
//!
//! **What a crash leaves behind.** Any prefix of the frames that were being written, or, before
//! their sync, any mixture of old and new blocks. [`find_later`] tells such a tail from damage in
//! the middle of a file.

use std::io::{self, Read};

/// The largest payload of a record in the log, in bytes.
pub const MAX_RECORD_BYTES: usize = 1024 * 1024;

/// What a frame adds to its payload, in bytes.
pub(crate) const FRAME_HEADER_BYTES: usize = 16;

/// A record as it was read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its position in the partition.
    pub offset: i64,
    /// What was appended.
    pub payload: Vec<u8>,
}

/// A frame whose checksum holds, within the bytes that were searched.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) offset: i64,
    pub(crate) payload: &'a [u8],
}

struct Header {
    payload_bytes: usize,
    checksum: u32,
    offset: i64,
}

impl Header {
    fn parse(bytes: &[u8; FRAME_HEADER_BYTES]) -> Header {
        let (length, rest) = bytes.split_first_chunk().expect("sixteen bytes hold four");
        let (checksum, rest) = rest.split_first_chunk().expect("twelve bytes hold four");
        let (offset, _) = rest.split_first_chunk().expect("eight bytes hold eight");
        Header {
            payload_bytes: u32::from_le_bytes(*length) as usize,
            checksum: u32::from_le_bytes(*checksum),
            offset: i64::from_le_bytes(*offset),
        }
    }

    fn covers(&self, payload: &[u8]) -> bool {
        self.checksum == checksum(self.offset, payload)
    }
}

fn checksum(offset: i64, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&offset.to_le_bytes()), payload)
}

/// Appends the frame of one record to `buffer`.
pub(crate) fn encode(buffer: &mut Vec<u8>, offset: i64, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("the journal refuses payloads over its limit");
    buffer.extend_from_slice(&length.to_le_bytes());
    buffer.extend_from_slice(&checksum(offset, payload).to_le_bytes());
    buffer.extend_from_slice(&offset.to_le_bytes());
    buffer.extend_from_slice(payload);
}

/// The frame at the start of `bytes`, if a valid one is there.
pub(crate) fn decode(bytes: &[u8], max_payload_bytes: usize) -> Option<Frame<'_>> {
    let (header, rest) = bytes.split_first_chunk()?;
    let header = Header::parse(header);
    if header.payload_bytes > max_payload_bytes {
        return None;
    }
    let payload = rest.get(..header.payload_bytes)?;
    header.covers(payload).then_some(Frame { offset: header.offset, payload })
}

/// The frame that `source` yields next, if a valid one does; `None` is also the answer at its end.
pub(crate) fn read(source: &mut impl Read, max_payload_bytes: usize) -> io::Result<Option<Record>> {
    let mut header = [0; FRAME_HEADER_BYTES];
    if !fill(source, &mut header)? {
        return Ok(None);
    }
    let header = Header::parse(&header);
    if header.payload_bytes > max_payload_bytes {
        return Ok(None);
    }
    let mut payload = vec![0; header.payload_bytes];
    if !fill(source, &mut payload)? || !header.covers(&payload) {
        return Ok(None);
    }
    Ok(Some(Record { offset: header.offset, payload }))
}

fn fill(source: &mut impl Read, bytes: &mut [u8]) -> io::Result<bool> {
    match source.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}

/// Where, after an invalid frame at the start of `bytes`, a valid one begins.
///
/// `due` is the offset that the invalid frame should have had. A later frame counts when as many
/// frames as its offset says could stand before it; the bytes of a payload that happen to look like
/// a frame of another time do not.
pub(crate) fn find_later(bytes: &[u8], due: i64, max_payload_bytes: usize) -> Option<usize> {
    (1..bytes.len()).find(|&at| {
        let Some((header, _)) = bytes[at..].split_first_chunk() else {
            return false;
        };
        let frames_that_fit = (at / FRAME_HEADER_BYTES) as i64;
        // The offset first: it rules out nearly every place, and costs no checksum.
        (due..=due.saturating_add(frames_that_fit)).contains(&Header::parse(header).offset)
            && decode(&bytes[at..], max_payload_bytes).is_some()
    })
}
