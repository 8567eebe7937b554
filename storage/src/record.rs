//! What is in the log: events, and erasures of users.
//!
//! An event is protobuf, so that fields can be added and old records still read. Amounts are decimal text and attributes are text as
//! sent, so a record outlives a change of the schema. Anything else begins with a zero, which no protobuf message does, and its kind:
//! a release that knows events only says that it cannot be read (decision 0012).

use std::collections::BTreeMap;

use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, sint64};
use twox_hash::XxHash3_64;
use views::columns::Position;
use views::{Event, EventSchema, decimal};

use crate::erasures::Erasure;

/// What a record begins with that is no event; its kind follows.
const NO_EVENT: u8 = 0;
/// The kind of an erasure.
const ERASURE: u8 = 1;

/// One record of the log.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// A fact, and where it stands.
    Event(Event, Position),
    /// Everything of a user that lies below it is gone.
    Erasure(Erasure),
}

/// The record of an event, for whoever reads it; [`Content`] writes the same. Field numbers are for ever.
#[derive(Clone, PartialEq, Message)]
struct EventRecord {
    #[prost(string, tag = "1")]
    event_id: String,
    #[prost(string, tag = "2")]
    user_id: String,
    #[prost(sint64, tag = "3")]
    event_time_us: i64,
    #[prost(string, tag = "4")]
    event_type: String,
    /// Decimal text, empty for none.
    #[prost(string, tag = "5")]
    amount: String,
    #[prost(btree_map = "string, string", tag = "6")]
    attributes: BTreeMap<String, String>,
    #[prost(sint64, tag = "7")]
    append_time_us: i64,
}

/// The record of an erasure, behind its kind. Field numbers are for ever.
#[derive(Clone, PartialEq, Message)]
struct ErasureRecord {
    #[prost(string, tag = "1")]
    user_id: String,
    #[prost(sint64, tag = "2")]
    append_time_us: i64,
}

/// A record that is not one, or that no longer fits the schema.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The bytes are no record, though their checksum holds: written by a later version, or by something else.
    #[error("record {offset} of partition {partition} cannot be read")]
    Decode {
        /// Log partition.
        partition: i32,
        /// Offset in it.
        offset: i64,
        /// What is wrong with the bytes.
        #[source]
        source: prost::DecodeError,
    },
    /// It is neither an event nor an erasure.
    #[error("record {offset} of partition {partition} is of kind {kind}, which this release does not know; a newer one wrote it")]
    Kind {
        /// Log partition.
        partition: i32,
        /// Offset in it.
        offset: i64,
        /// Its second byte.
        kind: u8,
    },
    /// The amount does not fit the schema's type, which must have been narrowed since.
    #[error(
        "record {offset} of partition {partition}: amount {reason}; events.amount in merganser.toml is too narrow for what is in the log"
    )]
    Amount {
        /// Log partition.
        partition: i32,
        /// Offset in it.
        offset: i64,
        /// How it does not fit.
        reason: decimal::DecimalError,
    },
}

/// What the producer sent, as the first part of a record: all but the time of appending, which follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content(Vec<u8>);

impl Content {
    /// Of an event.
    #[must_use]
    pub fn of(event: &Event, schema: &EventSchema) -> Self {
        let amount = event.amount.map(|unscaled| decimal::format(unscaled, schema.amount_type().scale as i8)).unwrap_or_default();
        let mut bytes = Vec::with_capacity(ROOM);
        put_text(1, &event.event_id, &mut bytes);
        put_text(2, &event.user_id, &mut bytes);
        if event.event_time_us != 0 {
            sint64::encode(3, &event.event_time_us, &mut bytes);
        }
        put_text(4, &event.event_type, &mut bytes);
        put_text(5, &amount, &mut bytes);
        for (name, value) in &event.attributes {
            encode_key(6, WireType::LengthDelimited, &mut bytes);
            encode_varint((text_len(name) + text_len(value)) as u64, &mut bytes);
            put_text(1, name, &mut bytes);
            put_text(2, value, &mut bytes);
        }
        Self(bytes)
    }

    /// XXH3-64: the same identity with another hash is a conflict.
    #[must_use]
    pub fn hash(&self) -> i64 {
        XxHash3_64::oneshot(&self.0).cast_signed()
    }

    /// The whole record.
    #[must_use]
    pub fn into_record(mut self, append_time_us: i64) -> Vec<u8> {
        if append_time_us != 0 {
            sint64::encode(7, &append_time_us, &mut self.0);
        }
        self.0
    }
}

/// What most events take.
const ROOM: usize = 256;

/// A text field as protobuf has it, absent where it is empty.
fn put_text(tag: u32, text: &str, bytes: &mut Vec<u8>) {
    if !text.is_empty() {
        encode_key(tag, WireType::LengthDelimited, bytes);
        encode_varint(text.len() as u64, bytes);
        bytes.extend_from_slice(text.as_bytes());
    }
}

/// What [`put_text`] puts, under one of the first fifteen tags.
fn text_len(text: &str) -> usize {
    if text.is_empty() { 0 } else { 1 + encoded_len_varint(text.len() as u64) + text.len() }
}

/// [`Content::hash`] of an event.
#[must_use]
pub fn content_hash(event: &Event, schema: &EventSchema) -> i64 {
    Content::of(event, schema).hash()
}

/// The bytes of an event's record.
#[must_use]
pub fn encode(event: &Event, append_time_us: i64, schema: &EventSchema) -> Vec<u8> {
    Content::of(event, schema).into_record(append_time_us)
}

/// The bytes of an erasure's record.
#[must_use]
pub fn encode_erasure(user_id: &str, append_time_us: i64) -> Vec<u8> {
    let record = ErasureRecord { user_id: user_id.to_owned(), append_time_us };
    [&[NO_EVENT, ERASURE], record.encode_to_vec().as_slice()].concat()
}

/// Whether a record is an event, by its first byte.
#[must_use]
pub fn is_event(payload: &[u8]) -> bool {
    payload.first() != Some(&NO_EVENT)
}

/// What a record says.
///
/// # Errors
/// The bytes are no record, or one of a kind that is not known here, or the schema no longer holds an event's amount.
pub fn decode(payload: &[u8], partition: i32, offset: i64, schema: &EventSchema) -> Result<Record, RecordError> {
    match payload {
        [NO_EVENT, ERASURE, rest @ ..] => {
            let record = ErasureRecord::decode(rest).map_err(|source| RecordError::Decode { partition, offset, source })?;
            Ok(Record::Erasure(Erasure::new(partition.cast_unsigned(), offset, record.user_id, record.append_time_us)))
        }
        [NO_EVENT, kind, ..] => Err(RecordError::Kind { partition, offset, kind: *kind }),
        _ => decode_event(payload, partition, offset, schema).map(|(event, position)| Record::Event(event, position)),
    }
}

fn decode_event(payload: &[u8], partition: i32, offset: i64, schema: &EventSchema) -> Result<(Event, Position), RecordError> {
    let record = EventRecord::decode(payload).map_err(|source| RecordError::Decode { partition, offset, source })?;
    let amount = match record.amount.as_str() {
        "" => None,
        text => Some(schema.amount_type().parse(text).map_err(|reason| RecordError::Amount { partition, offset, reason })?),
    };
    let append_time_us = record.append_time_us;
    let event = Event {
        event_id: record.event_id,
        user_id: record.user_id,
        event_time_us: record.event_time_us,
        event_type: record.event_type,
        amount,
        attributes: record.attributes,
    };
    let content_hash = content_hash(&event, schema);
    Ok((event, Position { partition, offset, append_time_us, content_hash }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        Event {
            event_id: "e1".into(),
            user_id: "u1".into(),
            event_time_us: -1,
            event_type: "sale".into(),
            amount: Some(123_400),
            attributes: [("b".to_owned(), "2".to_owned()), ("a".to_owned(), "1".to_owned())].into(),
        }
    }

    /// Proves that the format never changes: logs outlive releases.
    #[test]
    fn frozen_bytes() {
        let bytes = encode(&event(), 5, &EventSchema::default());
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "0a02653112027531180122047361 6c652a0531322e333432060a016112013132060a01621201323 80a".replace(' ', ""));
    }

    /// Proves that what is written by hand is what protobuf would write, whatever is absent.
    #[test]
    fn written_as_it_is_read() {
        let schema = EventSchema::default();
        let sparse = Event { event_time_us: 0, event_type: String::new(), amount: None, attributes: BTreeMap::new(), ..event() };
        let odd = Event { attributes: [(String::new(), "v".repeat(300)), ("n".into(), String::new())].into(), amount: Some(-1), ..event() };
        for (event, append_time_us) in [(event(), 5), (sparse, 0), (odd, -3)] {
            let derived = EventRecord {
                event_id: event.event_id.clone(),
                user_id: event.user_id.clone(),
                event_time_us: event.event_time_us,
                event_type: event.event_type.clone(),
                amount: event.amount.map(|unscaled| decimal::format(unscaled, 4)).unwrap_or_default(),
                attributes: event.attributes.clone(),
                append_time_us,
            };
            assert_eq!(encode(&event, append_time_us, &schema), derived.encode_to_vec());
        }
    }

    /// Proves that what goes in comes out, and that the hash is of the content, not of the time of appending.
    #[test]
    fn round_trip() {
        let schema = EventSchema::default();
        let read = decode(&encode(&event(), 5, &schema), 3, 7, &schema).unwrap();
        let Record::Event(read, position) = read else { panic!("{read:?}") };
        assert_eq!((read, position.partition, position.offset, position.append_time_us), (event(), 3, 7, 5));
        assert_eq!(position.content_hash, content_hash(&event(), &schema));
        let other = Event { amount: None, ..event() };
        assert_ne!(content_hash(&other, &schema), position.content_hash);
    }

    /// Proves that the record of an erasure never changes, comes back, and is nothing that a release could read which knows events only.
    #[test]
    fn erasures() {
        let bytes = encode_erasure("u1", 5);
        assert_eq!(bytes, [0, 1, 0x0a, 2, b'u', b'1', 0x10, 10]);
        let erasure = Erasure::new(3, 7, "u1".to_owned(), 5);
        assert_eq!(decode(&bytes, 3, 7, &EventSchema::default()).unwrap(), Record::Erasure(erasure));
        assert!(EventRecord::decode(bytes.as_slice()).is_err());
        let newer = decode(&[0, 2, 7], 3, 7, &EventSchema::default()).unwrap_err().to_string();
        assert!(newer.starts_with("record 7 of partition 3 is of kind 2"), "{newer}");
    }

    /// Proves that bytes which are no record are an error with their place.
    #[test]
    fn damaged() {
        let error = decode(&[0x0a, 0xff], 1, 9, &EventSchema::default()).unwrap_err().to_string();
        assert!(error.contains("record 9 of partition 1"), "{error}");
    }
}
