//! Protobuf as tonic sends it, with a bound on how many fields a message has.
//!
//! The size of a message in bytes does not bound what it becomes: an empty `Event` takes two bytes on the wire and a hundred and
//! fifty in memory, so that 4 MiB of them would be 300 MB. Fields of the outermost message are therefore counted before
//! anything is decoded.

use std::marker::PhantomData;

use prost::Message;
use prost::bytes::Buf;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;
use tonic_types::{ErrorDetails, StatusExt};

/// Fields of one message, repeated ones counted each. A request of `speed-layer load` has at most as many events.
pub const MAX_FIELDS: usize = 65_536;

/// What the generated clients and servers speak.
#[derive(Debug, Clone)]
pub struct BoundedCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for BoundedCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as Codec>::Encoder;
    type Decoder = BoundedDecoder<<ProstCodec<T, U> as Codec>::Decoder>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::default().encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder(ProstCodec::<T, U>::default().decoder())
    }
}

/// Refuses a message of more than [`MAX_FIELDS`] fields, and hands others on.
#[derive(Debug, Clone)]
pub struct BoundedDecoder<D>(D);

impl<D: Decoder<Error = Status>> Decoder for BoundedDecoder<D> {
    type Item = D::Item;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        // A message lies in one piece; bytes that no message has are for the decoder to complain about.
        if has_more_fields(buf.chunk(), MAX_FIELDS) {
            let details = ErrorDetails::with_error_info("TOO_MANY_FIELDS", "merganser", []);
            let message = format!("a message has more than {MAX_FIELDS} fields; send fewer at once");
            return Err(Status::with_error_details(Code::InvalidArgument, message, details));
        }
        // prost's complaint names messages and fields, never what is in them.
        self.0.decode(buf)
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.0.buffer_settings()
    }
}

/// Whether the outermost message has more than `max` fields. Stops at the first byte that makes no sense.
fn has_more_fields(mut message: &[u8], max: usize) -> bool {
    let mut fields = 0;
    while let Some(rest) = after_field(message) {
        fields += 1;
        if fields > max {
            return true;
        }
        message = rest;
    }
    false
}

/// What follows the first field; nothing where there is none, or it is cut short.
fn after_field(message: &[u8]) -> Option<&[u8]> {
    let (tag, rest) = varint(message)?;
    match tag & 7 {
        0 => varint(rest).map(|(_, rest)| rest),
        1 => rest.get(8..),
        2 => {
            let (bytes, rest) = varint(rest)?;
            rest.get(usize::try_from(bytes).ok()?..)
        }
        // A group's ends count as a field each.
        3 | 4 => Some(rest),
        5 => rest.get(4..),
        _ => None,
    }
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (i, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[i + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{AppendEventsRequest, Event};

    /// Proves that fields of the outermost message are counted exactly, whatever is inside them.
    #[test]
    fn counts() {
        let filled = Event { event_id: "e".repeat(300), user_id: "u".into(), ..Event::default() };
        let mixed = [Event::default(), filled].into_iter().cycle().take(1000);
        let message = AppendEventsRequest { events: mixed.collect() }.encode_to_vec();
        assert!(has_more_fields(&message, 999));
        assert!(!has_more_fields(&message, 1000));
        // A varint, eight bytes, four bytes and a group of nothing.
        let kinds = [0x08, 0x96, 0x01, 0x11, 1, 2, 3, 4, 5, 6, 7, 8, 0x1d, 1, 2, 3, 4, 0x23, 0x24];
        assert!(has_more_fields(&kinds, 4) && !has_more_fields(&kinds, 5));
    }

    /// Proves that nonsense is left to the decoder, without a panic and without end.
    #[test]
    fn nonsense() {
        for bytes in [&[0xff; 20][..], &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f], &[0x0e], &[0x11, 1], &[]] {
            assert!(!has_more_fields(bytes, 0), "{bytes:?}");
        }
    }
}
