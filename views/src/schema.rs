//! The event schema: which columns an event has, and of which type. Declared in `merganser.toml` under `[events]`.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use serde::{Deserialize, Serialize};

use crate::decimal::DecimalType;

/// Columns that every event has, in the order of [`EventSchema::arrow`].
pub const EVENT_COLUMNS: [&str; 5] = ["event_id", "user_id", "event_time", "event_type", "amount"];
/// Columns that the log adds; a view definition cannot name them.
pub const LOG_COLUMNS: [&str; 5] = [EXTRA, PARTITION, OFFSET, APPEND_TIME, CONTENT_HASH];
/// Undeclared attributes, a JSON object of strings, null if there are none.
pub const EXTRA: &str = "_extra";
/// The log partition, Int32.
pub const PARTITION: &str = "_partition";
/// The offset in its partition, Int64.
pub const OFFSET: &str = "_offset";
/// When it was appended, by the clock of the server: a UTC timestamp in microseconds.
pub const APPEND_TIME: &str = "_append_time";
/// XXH3-64 of what the producer sent, Int64: the same identity with another hash is a conflict.
pub const CONTENT_HASH: &str = "_content_hash";

/// Digits of the widest `amount`.
const MAX_AMOUNT_PRECISION: u8 = 28;

/// Digits of the largest whole number of 64 bits.
const INT64_DIGITS: u8 = 19;

/// A timestamp as events and buckets have it: UTC, microseconds.
#[must_use]
pub fn timestamp_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()))
}

/// The type of a declared attribute, written in `merganser.toml` as `"string"`, `"int64"`, `"float64"`, `"bool"`,
/// `"timestamp"` or `"decimal(P,S)"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum AttributeType {
    /// UTF-8 text.
    String,
    /// A signed 64-bit integer.
    Int64,
    /// A double. Sums over it depend on the order of adding in the last digits.
    Float64,
    /// `true` or `false`.
    Bool,
    /// RFC 3339, kept in microseconds.
    Timestamp,
    /// An exact decimal.
    Decimal(DecimalType),
}

impl AttributeType {
    /// The Arrow type of the column.
    #[must_use]
    pub fn arrow(self) -> DataType {
        match self {
            Self::String => DataType::Utf8,
            Self::Int64 => DataType::Int64,
            Self::Float64 => DataType::Float64,
            Self::Bool => DataType::Boolean,
            Self::Timestamp => timestamp_type(),
            Self::Decimal(d) => DataType::Decimal128(d.precision, d.scale as i8),
        }
    }
}

impl AttributeType {
    /// The type of a stored column; `None` if no attribute has such a one.
    #[must_use]
    pub fn of_arrow(stored: &DataType) -> Option<Self> {
        Some(match stored {
            DataType::Utf8 => Self::String,
            DataType::Int64 => Self::Int64,
            DataType::Float64 => Self::Float64,
            DataType::Boolean => Self::Bool,
            DataType::Decimal128(precision, scale) => {
                Self::Decimal(DecimalType { precision: *precision, scale: u8::try_from(*scale).ok()? })
            }
            other => return Some(Self::Timestamp).filter(|_| *other == timestamp_type()),
        })
    }

    /// Whether every text that has a value in `self` has the same value in `wider`, to the last digit, and that value can be had from
    /// the stored one: so that a column may be declared `wider` from now on. Nothing widens to a float, which rounds, and only what
    /// has one text to a string, which is the text as it was sent.
    #[must_use]
    pub fn widens_to(self, wider: Self) -> bool {
        let whole = |decimal: DecimalType| decimal.precision - decimal.scale;
        match (self, wider) {
            (Self::Int64, Self::Decimal(to)) => whole(to) >= INT64_DIGITS,
            (Self::Decimal(from), Self::Decimal(to)) => to.scale >= from.scale && whole(to) >= whole(from),
            (Self::Bool, Self::String) => true,
            (from, to) => from == to,
        }
    }
}

/// A schema that cannot be: the sentence says what to change.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct SchemaError(String);

impl TryFrom<String> for AttributeType {
    type Error = SchemaError;

    fn try_from(text: String) -> Result<Self, SchemaError> {
        Ok(match text.as_str() {
            "string" => Self::String,
            "int64" => Self::Int64,
            "float64" => Self::Float64,
            "bool" => Self::Bool,
            "timestamp" => Self::Timestamp,
            other => Self::Decimal(parse_decimal_type(other)?),
        })
    }
}

impl From<AttributeType> for String {
    fn from(value: AttributeType) -> Self {
        match value {
            AttributeType::String => "string".into(),
            AttributeType::Int64 => "int64".into(),
            AttributeType::Float64 => "float64".into(),
            AttributeType::Bool => "bool".into(),
            AttributeType::Timestamp => "timestamp".into(),
            AttributeType::Decimal(d) => format!("decimal({},{})", d.precision, d.scale),
        }
    }
}

fn parse_decimal_type(text: &str) -> Result<DecimalType, SchemaError> {
    let unknown = || {
        SchemaError(format!(
            "unknown type \"{text}\"; the types are string, int64, float64, bool, timestamp and decimal(P,S), such as decimal(18,4)"
        ))
    };
    let inside = text.strip_prefix("decimal(").and_then(|rest| rest.strip_suffix(')')).ok_or_else(unknown)?;
    let (precision, scale) = inside.split_once(',').ok_or_else(unknown)?;
    let precision: u8 = precision.trim().parse().map_err(|_| unknown())?;
    let scale: u8 = scale.trim().parse().map_err(|_| unknown())?;
    if !(1..=38).contains(&precision) || scale > precision {
        return Err(SchemaError(format!("{text}: precision is 1 to 38, and scale at most precision")));
    }
    Ok(DecimalType { precision, scale })
}

/// The declared part of the schema, `[events]` in `merganser.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct EventSchema {
    /// Type of `amount`, a decimal.
    pub amount: AttributeType,
    /// Typed attributes, which views can use as columns of that name.
    pub attributes: BTreeMap<String, AttributeType>,
}

impl Default for EventSchema {
    fn default() -> Self {
        Self { amount: AttributeType::Decimal(DecimalType { precision: 18, scale: 4 }), attributes: BTreeMap::new() }
    }
}

impl EventSchema {
    /// Checks what the types alone cannot say: `amount` is a decimal, and no attribute takes a name that is taken.
    pub fn validate(&self) -> Result<(), SchemaError> {
        if !matches!(self.amount, AttributeType::Decimal(_)) {
            return Err(SchemaError("events.amount must be a decimal, such as \"decimal(18,4)\": money is never a float".into()));
        }
        if self.amount_type().precision > MAX_AMOUNT_PRECISION {
            return Err(SchemaError(format!(
                "events.amount has at most {MAX_AMOUNT_PRECISION} digits, so that no sum of amounts can wrap around"
            )));
        }
        for name in self.attributes.keys() {
            let plain = name.starts_with(|c: char| c.is_ascii_lowercase())
                && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            if !plain || name.len() > 63 {
                return Err(SchemaError(format!(
                    "events.attributes.{name}: a name is lower-case letters, digits and _, starts with a letter, and has at most 63 of them"
                )));
            }
            if EVENT_COLUMNS.contains(&name.as_str()) {
                return Err(SchemaError(format!("events.attributes.{name}: every event has a column of that name already")));
            }
        }
        Ok(())
    }

    /// Precision and scale of `amount`.
    #[must_use]
    pub fn amount_type(&self) -> DecimalType {
        match self.amount {
            AttributeType::Decimal(d) => d,
            _ => unreachable!("validate() lets only decimals pass"),
        }
    }

    /// Every column of a stored event: [`EVENT_COLUMNS`], the attributes by name, then [`LOG_COLUMNS`].
    #[must_use]
    pub fn arrow(&self) -> SchemaRef {
        let mut fields = vec![
            Field::new("event_id", DataType::Utf8, false),
            Field::new("user_id", DataType::Utf8, false),
            Field::new("event_time", timestamp_type(), false),
            Field::new("event_type", DataType::Utf8, true),
            Field::new("amount", self.amount.arrow(), true),
        ];
        fields.extend(self.attributes.iter().map(|(name, kind)| Field::new(name, kind.arrow(), true)));
        fields.extend([
            Field::new(EXTRA, DataType::Utf8, true),
            Field::new(PARTITION, DataType::Int32, false),
            Field::new(OFFSET, DataType::Int64, false),
            Field::new(APPEND_TIME, timestamp_type(), false),
            Field::new(CONTENT_HASH, DataType::Int64, false),
        ]);
        Arc::new(Schema::new(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that each type's name reads back as itself, and that a wrong one is refused with the list.
    #[test]
    fn type_names() {
        for name in ["string", "int64", "float64", "bool", "timestamp", "decimal(18,4)"] {
            let kind = AttributeType::try_from(name.to_owned()).unwrap();
            assert_eq!(String::from(kind), name);
        }
        for wrong in ["text", "decimal", "decimal(0,0)", "decimal(39,2)", "decimal(4,5)", "decimal(4)"] {
            assert!(AttributeType::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }

    fn kind(name: &str) -> AttributeType {
        AttributeType::try_from(name.to_owned()).unwrap()
    }

    /// Proves which types widen to which, and that nothing else does.
    #[test]
    fn widenings() {
        let names = [
            "string",
            "int64",
            "float64",
            "bool",
            "timestamp",
            "decimal(19,0)",
            "decimal(18,0)",
            "decimal(22,3)",
            "decimal(21,3)",
            "decimal(38,19)",
        ];
        let wider = [
            ("int64", "decimal(19,0)"),
            ("int64", "decimal(22,3)"),
            ("int64", "decimal(38,19)"),
            ("bool", "string"),
            ("decimal(18,0)", "decimal(19,0)"),
            ("decimal(18,0)", "decimal(22,3)"),
            ("decimal(18,0)", "decimal(21,3)"),
            ("decimal(18,0)", "decimal(38,19)"),
            ("decimal(19,0)", "decimal(22,3)"),
            ("decimal(19,0)", "decimal(38,19)"),
            ("decimal(21,3)", "decimal(22,3)"),
            ("decimal(21,3)", "decimal(38,19)"),
            ("decimal(22,3)", "decimal(38,19)"),
        ];
        for from in names {
            for to in names {
                assert_eq!(kind(from).widens_to(kind(to)), from == to || wider.contains(&(from, to)), "{from} to {to}");
                assert_eq!(AttributeType::of_arrow(&kind(from).arrow()), Some(kind(from)));
            }
        }
    }

    /// Proves that a text which has a value in a type has the same one in every wider type: as the log folds it, so the stored column is
    /// cast.
    #[test]
    fn the_same_value() {
        use crate::event::Typed;
        let texts = [
            "0",
            "-0",
            "+7",
            "007",
            "9223372036854775807",
            "-9223372036854775808",
            "1e3",
            "12.5",
            ".5",
            "5.",
            "-0.125",
            "1.000",
            "999999999999999999.999",
            "true",
            "false",
            "x",
            "",
        ];
        let unscaled = |typed: Typed, kind: AttributeType| match (typed, kind) {
            (Typed::Int64(value), _) => (i128::from(value), 0),
            (Typed::Decimal(value), AttributeType::Decimal(d)) => (value, d.scale),
            other => panic!("{other:?}"),
        };
        let mut compared = 0;
        for from in ["int64", "bool", "decimal(18,0)", "decimal(21,3)"].map(kind) {
            for to in ["string", "decimal(19,0)", "decimal(22,3)", "decimal(38,19)"].map(kind) {
                for text in texts.into_iter().filter(|text| from.widens_to(to) && Typed::parse(text, from).is_ok()) {
                    compared += 1;
                    let wide = Typed::parse(text, to).unwrap();
                    if to == AttributeType::String {
                        assert_eq!(wide, Typed::String(text.to_owned()));
                        continue;
                    }
                    let (stored, scale) = unscaled(Typed::parse(text, from).unwrap(), from);
                    let (wide, wide_scale) = unscaled(wide, to);
                    assert_eq!(wide, stored * 10_i128.pow(u32::from(wide_scale - scale)), "{text} from {from:?} to {to:?}");
                }
            }
        }
        assert!(compared > 50, "{compared}");
    }

    /// Proves that an attribute cannot shadow a column or carry a name that SQL would have to quote.
    #[test]
    fn attribute_names() {
        for (name, fine) in [("quantity", true), ("amount", false), ("_offset", false), ("Item", false), ("a-b", false), ("", false)] {
            let schema = EventSchema { attributes: [(name.to_owned(), AttributeType::Int64)].into(), ..Default::default() };
            assert_eq!(schema.validate().is_ok(), fine, "{name}");
        }
    }
}
