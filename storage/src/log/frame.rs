//! One record on disk, and the trailer that vouches for those before it.
//!
//! **Layout.** `length u32 | crc32c u32 | offset i64 | payload`, little endian. In format 2 the
//! upper bits of the length say what the frame is: bit 31 is always set, bit 30 (*start*) on the
//! first frame of a batch, bit 29 (*trailer*) on a frame without payload whose offset is the next
//! one to come; the other bits count the payload's bytes. The checksum (Castagnoli, RFC 3720) goes on
//! from that of the file's header, over the length's bytes, the offset's, and the payload: a frame
//! of another file is none here. In format 1 all bits of the length count, and the checksum runs
//! over the offset's bytes and the payload alone. A block of zeros is no frame in either.
//!
//! **Consistency.** A frame counts when its checksum holds and its offset is the one that is due.
//!
//! **What a crash leaves behind.** Any prefix of the frames that were being written, or, before
//! their sync, any mixture of old and new sectors. [`Coding::find_later`] tells such a tail from
//! damage in the middle of a file.

use std::io::{self, Read};

/// The largest payload of a record in the log, in bytes.
pub const MAX_RECORD_BYTES: usize = 1024 * 1024;

/// What a frame adds to its payload, in bytes; also the size of a trailer.
pub(crate) const FRAME_HEADER_BYTES: usize = 16;

/// The upper bits of the length in format 2.
const RECORD: u32 = 0b100 << 29;
const START: u32 = 0b110 << 29;
const TRAILER: u32 = 0b101 << 29;
const KINDS: u32 = 0b111 << 29;

/// A record as it was read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its position in the partition.
    pub offset: i64,
    /// What was appended.
    pub payload: Vec<u8>,
}

/// How the frames of a file are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    One,
    /// With the checksum of the file's header.
    Two(u32),
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The first record of a batch: everything before it had been synced when it was written.
    Start,
    /// Another record of the batch, or any record in format 1.
    Record,
    /// No record: everything before it had been synced when it was written.
    Trailer,
}

/// A frame whose checksum holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame<P> {
    pub(crate) kind: Kind,
    pub(crate) offset: i64,
    pub(crate) payload: P,
}

/// What is needed to write and read the frames of a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Coding {
    pub(crate) format: Format,
    /// The largest payload.
    pub(crate) max_payload_bytes: usize,
}

struct Header {
    length: u32,
    checksum: u32,
    offset: i64,
}

impl Header {
    fn parse(bytes: &[u8; FRAME_HEADER_BYTES]) -> Header {
        let (length, rest) = bytes.split_first_chunk().expect("sixteen bytes hold four");
        let (checksum, rest) = rest.split_first_chunk().expect("twelve bytes hold four");
        let (offset, _) = rest.split_first_chunk().expect("eight bytes hold eight");
        Header { length: u32::from_le_bytes(*length), checksum: u32::from_le_bytes(*checksum), offset: i64::from_le_bytes(*offset) }
    }
}

impl Coding {
    /// Appends a frame to `buffer`.
    pub(crate) fn encode(&self, buffer: &mut Vec<u8>, kind: Kind, offset: i64, payload: &[u8]) {
        assert!(payload.len() <= self.max_payload_bytes, "the journal refuses payloads over its limit");
        let bytes = payload.len() as u32;
        let length = match (self.format, kind) {
            (Format::One, _) => bytes,
            (Format::Two(_), Kind::Start) => bytes | START,
            (Format::Two(_), Kind::Record) => bytes | RECORD,
            (Format::Two(_), Kind::Trailer) => bytes | TRAILER,
        };
        buffer.extend_from_slice(&length.to_le_bytes());
        buffer.extend_from_slice(&self.checksum(length, offset, payload).to_le_bytes());
        buffer.extend_from_slice(&offset.to_le_bytes());
        buffer.extend_from_slice(payload);
    }

    /// The frame at the start of `bytes`, if a valid one is there.
    pub(crate) fn decode<'a>(&self, bytes: &'a [u8]) -> Option<Frame<&'a [u8]>> {
        let (header, rest) = bytes.split_first_chunk()?;
        let header = Header::parse(header);
        let (kind, payload_bytes) = self.kind_and_bytes(header.length)?;
        let payload = rest.get(..payload_bytes)?;
        self.covers(&header, payload).then_some(Frame { kind, offset: header.offset, payload })
    }

    /// The frame that `source` yields next, if a valid one does; `None` is also the answer at its
    /// end.
    pub(crate) fn read(&self, source: &mut impl Read) -> io::Result<Option<Frame<Vec<u8>>>> {
        let mut header = [0; FRAME_HEADER_BYTES];
        if !fill(source, &mut header)? {
            return Ok(None);
        }
        let header = Header::parse(&header);
        let Some((kind, payload_bytes)) = self.kind_and_bytes(header.length) else {
            return Ok(None);
        };
        let mut payload = vec![0; payload_bytes];
        if !fill(source, &mut payload)? || !self.covers(&header, &payload) {
            return Ok(None);
        }
        Ok(Some(Frame { kind, offset: header.offset, payload }))
    }

    /// Where, after an invalid frame at the start of `bytes`, or after a trailer there, a frame
    /// begins that shows that what is before it had been synced: a start or a trailer; in format 1,
    /// which has neither, any frame.
    ///
    /// `due` is the offset that a record at the start of `bytes` would have. A later frame counts
    /// when as many frames as its offset says could stand before it.
    pub(crate) fn find_later(&self, bytes: &[u8], due: i64) -> Option<usize> {
        let least = match self.format {
            Format::One => due,
            Format::Two(_) => due.saturating_add(1),
        };
        (1..bytes.len()).find(|&at| {
            let Some((header, _)) = bytes[at..].split_first_chunk() else {
                return false;
            };
            let header = Header::parse(header);
            let frames_that_fit = (at / FRAME_HEADER_BYTES) as i64;
            // The offset first: it rules out nearly every place, and costs no checksum.
            (least..=due.saturating_add(frames_that_fit)).contains(&header.offset)
                && self.decode(&bytes[at..]).is_some_and(|frame| self.vouches(frame.kind))
        })
    }

    fn vouches(&self, kind: Kind) -> bool {
        matches!(self.format, Format::One) || matches!(kind, Kind::Start | Kind::Trailer)
    }

    /// What a length says; `None` where no frame has it.
    fn kind_and_bytes(&self, length: u32) -> Option<(Kind, usize)> {
        let (kind, bytes) = match self.format {
            Format::One => (Kind::Record, length),
            Format::Two(_) => {
                let kind = match length & KINDS {
                    RECORD => Kind::Record,
                    START => Kind::Start,
                    TRAILER => Kind::Trailer,
                    _ => return None,
                };
                (kind, length & !KINDS)
            }
        };
        let bytes = bytes as usize;
        let max_bytes = if kind == Kind::Trailer { 0 } else { self.max_payload_bytes };
        (bytes <= max_bytes).then_some((kind, bytes))
    }

    fn covers(&self, header: &Header, payload: &[u8]) -> bool {
        header.checksum == self.checksum(header.length, header.offset, payload)
    }

    fn checksum(&self, length: u32, offset: i64, payload: &[u8]) -> u32 {
        let before = match self.format {
            Format::One => 0,
            Format::Two(file) => crc32c::crc32c_append(file, &length.to_le_bytes()),
        };
        crc32c::crc32c_append(crc32c::crc32c_append(before, &offset.to_le_bytes()), payload)
    }
}

fn fill(source: &mut impl Read, bytes: &mut [u8]) -> io::Result<bool> {
    match source.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}
