//! One event: as a producer sends it, and as it is once checked. Bad rows are refused one by one, with field and reason.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::schema::{AttributeType, EventSchema};

/// Longest `user_id`, bytes of UTF-8.
pub const MAX_USER_ID_BYTES: usize = 256;
/// Longest `event_id`, bytes of UTF-8.
pub const MAX_EVENT_ID_BYTES: usize = 128;
/// Longest `event_type`, bytes of UTF-8.
pub const MAX_EVENT_TYPE_BYTES: usize = 128;
/// Names and values of all attributes together, bytes of UTF-8.
pub const MAX_ATTRIBUTES_BYTES: usize = 64 * 1024;

/// 1900-01-01T00:00:00Z, the first accepted `event_time`, in microseconds.
pub(crate) const FIRST_TIME_US: i64 = -2_208_988_800_000_000;
/// 2200-01-01T00:00:00Z, the first refused one, in microseconds.
const END_TIME_US: i64 = 7_258_118_400_000_000;

/// An event as a producer sends it. Empty texts mean "absent".
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RawEvent {
    /// Unique per user.
    pub event_id: String,
    /// The key.
    pub user_id: String,
    /// Seconds and nanoseconds since 1970, UTC.
    pub event_time: Option<(i64, i32)>,
    /// Optional.
    pub event_type: String,
    /// Decimal text, optional.
    pub amount: String,
    /// Text of each attribute, declared or not.
    pub attributes: BTreeMap<String, String>,
}

/// A checked event: every value fits its column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// 1 to [`MAX_EVENT_ID_BYTES`] bytes.
    pub event_id: String,
    /// 1 to [`MAX_USER_ID_BYTES`] bytes.
    pub user_id: String,
    /// Microseconds since 1970, UTC, from 1900 to 2200.
    pub event_time_us: i64,
    /// May be empty, which is null.
    pub event_type: String,
    /// Unscaled value in the scale of the schema.
    pub amount: Option<i128>,
    /// Text of each attribute; declared ones parse to their type.
    pub attributes: BTreeMap<String, String>,
}

/// Why a row is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The field to mend, such as `amount` or `attributes.quantity`.
    pub field: String,
    /// What is wrong with it, without the value itself: it may be long, or private.
    pub reason: String,
}

impl Refusal {
    /// A refusal of `field`.
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }
}

/// Checks one event against the schema.
///
/// # Errors
/// The first field that does not fit, in the order of the message.
pub fn check(raw: &RawEvent, schema: &EventSchema) -> Result<Event, Refusal> {
    check_id("event_id", &raw.event_id, MAX_EVENT_ID_BYTES)?;
    check_id("user_id", &raw.user_id, MAX_USER_ID_BYTES)?;
    let event_time_us = check_time(raw.event_time)?;
    if raw.event_type.len() > MAX_EVENT_TYPE_BYTES {
        return Err(Refusal::new("event_type", format!("is longer than {MAX_EVENT_TYPE_BYTES} bytes")));
    }
    let amount = match raw.amount.as_str() {
        "" => None,
        text => Some(schema.amount_type().parse(text).map_err(|e| Refusal::new("amount", e.to_string()))?),
    };
    let bytes: usize = raw.attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > MAX_ATTRIBUTES_BYTES {
        return Err(Refusal::new("attributes", format!("are larger than {MAX_ATTRIBUTES_BYTES} bytes together")));
    }
    for (name, value) in &raw.attributes {
        if let Some(kind) = schema.attributes.get(name) {
            Typed::parse(value, *kind).map_err(|reason| Refusal::new(format!("attributes.{name}"), reason))?;
        }
    }
    Ok(Event {
        event_id: raw.event_id.clone(),
        user_id: raw.user_id.clone(),
        event_time_us,
        event_type: raw.event_type.clone(),
        amount,
        attributes: raw.attributes.clone(),
    })
}

/// Checks the id of a user that somebody names.
///
/// # Errors
/// It is none that an event can have.
pub fn check_user_id(user_id: &str) -> Result<(), Refusal> {
    check_id("user_id", user_id, MAX_USER_ID_BYTES)
}

/// Why a view that reads attributes in narrower types than events are checked against cannot take an event: it would be null there.
/// `typed` has the name of each, the view's type and the wider one.
#[must_use]
pub fn too_wide(event: &Event, typed: &[(String, AttributeType, AttributeType)]) -> Option<Refusal> {
    typed.iter().find_map(|(name, narrow, wide)| {
        let text = event.attributes.get(name)?;
        let reason = Typed::parse(text, *narrow).err().filter(|_| Typed::parse(text, *wide).is_ok())?;
        let narrow = String::from(*narrow);
        Some(Refusal::new(format!("attributes.{name}"), format!("{reason}: a version that is kept reads it as {narrow}")))
    })
}

fn check_id(field: &str, id: &str, max_bytes: usize) -> Result<(), Refusal> {
    if id.is_empty() {
        return Err(Refusal::new(field, "is missing"));
    }
    if id.len() > max_bytes {
        return Err(Refusal::new(field, format!("is longer than {max_bytes} bytes")));
    }
    if id.contains('\0') {
        return Err(Refusal::new(field, "contains a NUL character"));
    }
    Ok(())
}

fn check_time(time: Option<(i64, i32)>) -> Result<i64, Refusal> {
    let refuse = |reason: &str| Err(Refusal::new("event_time", reason));
    let Some((seconds, nanos)) = time else { return refuse("is missing") };
    if !(0..1_000_000_000).contains(&nanos) {
        return refuse("has nanoseconds outside 0 to 999,999,999");
    }
    match seconds.checked_mul(1_000_000).and_then(|us| us.checked_add(i64::from(nanos / 1000))) {
        Some(us) if (FIRST_TIME_US..END_TIME_US).contains(&us) => Ok(us),
        _ => refuse("is outside the years 1900 to 2199"),
    }
}

/// The value of a declared attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Typed {
    /// See [`AttributeType::String`].
    String(String),
    /// See [`AttributeType::Int64`].
    Int64(i64),
    /// See [`AttributeType::Float64`]; finite.
    Float64(f64),
    /// See [`AttributeType::Bool`].
    Bool(bool),
    /// Microseconds since 1970, UTC.
    Timestamp(i64),
    /// Unscaled.
    Decimal(i128),
}

impl Typed {
    /// The value of `text` in a column of type `kind`, or the reason why it has none.
    pub fn parse(text: &str, kind: AttributeType) -> Result<Self, String> {
        match kind {
            AttributeType::String => Ok(Self::String(text.to_owned())),
            AttributeType::Int64 => text.parse().map(Self::Int64).map_err(|_| "is not a whole number of 64 bits".to_owned()),
            AttributeType::Float64 => match text.parse::<f64>() {
                Ok(value) if value.is_finite() => Ok(Self::Float64(value)),
                _ => Err("is not a finite number".to_owned()),
            },
            AttributeType::Bool => match text {
                "true" => Ok(Self::Bool(true)),
                "false" => Ok(Self::Bool(false)),
                _ => Err("is neither true nor false".to_owned()),
            },
            AttributeType::Timestamp => parse_timestamp(text).map(Self::Timestamp),
            AttributeType::Decimal(d) => d.parse(text).map(Self::Decimal).map_err(|e| e.to_string()),
        }
    }
}

fn parse_timestamp(text: &str) -> Result<i64, String> {
    let time = DateTime::parse_from_rfc3339(text).map_err(|_| "is not an RFC 3339 time".to_owned())?;
    let utc = time.with_timezone(&Utc);
    check_time(Some((utc.timestamp(), utc.timestamp_subsec_nanos().min(999_999_999) as i32))).map_err(|r| r.reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> RawEvent {
        RawEvent {
            event_id: "e1".into(),
            user_id: "u1".into(),
            event_time: Some((1_700_000_000, 123_456_789)),
            event_type: "sale".into(),
            amount: "12.34".into(),
            attributes: [("quantity".to_owned(), "6".to_owned()), ("note".to_owned(), "kept".to_owned())].into(),
        }
    }

    fn schema() -> EventSchema {
        EventSchema { attributes: [("quantity".to_owned(), AttributeType::Int64)].into(), ..Default::default() }
    }

    /// Proves that a good row passes with its digits cut to microseconds and its money exact.
    #[test]
    fn accepts() {
        let event = check(&good(), &schema()).unwrap();
        assert_eq!((event.event_time_us, event.amount), (1_700_000_000_123_456, Some(123_400)));
        let sparse = RawEvent { event_type: String::new(), amount: String::new(), attributes: BTreeMap::new(), ..good() };
        assert_eq!(check(&sparse, &schema()).unwrap().amount, None);
    }

    /// Proves that each field is refused under its own name.
    #[test]
    fn refuses_by_field() {
        type Spoil = fn(&mut RawEvent);
        let cases: [(&str, Spoil); 12] = [
            ("event_id", |e| e.event_id.clear()),
            ("event_id", |e| e.event_id = "x".repeat(129)),
            ("user_id", |e| e.user_id.clear()),
            ("user_id", |e| e.user_id = "x".repeat(257)),
            ("user_id", |e| e.user_id = "a\0b".into()),
            ("event_time", |e| e.event_time = None),
            ("event_time", |e| e.event_time = Some((i64::MAX, 0))),
            ("event_time", |e| e.event_time = Some((0, -1))),
            ("event_time", |e| e.event_time = Some((7_258_118_400, 0))),
            ("amount", |e| e.amount = "1.23456".into()),
            ("attributes.quantity", |e| {
                e.attributes.insert("quantity".into(), "six".into());
            }),
            ("attributes", |e| {
                e.attributes.insert("note".into(), "x".repeat(MAX_ATTRIBUTES_BYTES));
            }),
        ];
        for (field, spoil) in cases {
            let mut raw = good();
            spoil(&mut raw);
            assert_eq!(check(&raw, &schema()).unwrap_err().field, field);
        }
    }

    /// Proves that times before 1970 are cut towards the past's own microsecond, and the edges are half-open.
    #[test]
    fn time_edges() {
        assert_eq!(check_time(Some((-1, 999_999_999))), Ok(-1));
        assert_eq!(check_time(Some((-2_208_988_800, 0))), Ok(FIRST_TIME_US));
        assert!(check_time(Some((-2_208_988_801, 999_999_999))).is_err());
        assert!(check_time(Some((7_258_118_399, 999_999_999))).is_ok());
    }

    /// Proves that typed attributes take their own texts and no others.
    #[test]
    fn typed_attributes() {
        assert_eq!(Typed::parse("2024-01-01T00:00:00+01:00", AttributeType::Timestamp), Ok(Typed::Timestamp(1_704_063_600_000_000)));
        for (text, kind) in [
            ("NaN", AttributeType::Float64),
            ("1e999", AttributeType::Float64),
            ("yes", AttributeType::Bool),
            ("9223372036854775808", AttributeType::Int64),
            ("2024-01-01", AttributeType::Timestamp),
            ("2300-01-01T00:00:00Z", AttributeType::Timestamp),
        ] {
            assert!(Typed::parse(text, kind).is_err(), "{text}");
        }
    }
}
