//! A key as text: the one form in which every layer stores, sorts, ships and places it.
//!
//! A key of one column is the text of its value: `14646`, `true`, `2011-12-09T12:50:00Z`. The parts of a longer one stand one behind
//! the other, so that all keys that begin with the same parts lie together, and a question can name some first parts only. NUL, which
//! no id contains, marks what is not text: the end of a part, a null, and a NUL that an attribute may contain after all.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringArray, StringBuilder};
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;

use crate::decimal::DecimalType;
use crate::fold::FoldError;

/// Longest key, bytes. An event with a longer one is refused.
pub const MAX_KEY_BYTES: usize = 1024;

const MARK: char = '\0';
const NULL: char = '\0';
const END: char = '\u{1}';
const LITERAL: char = '\u{2}';

/// The key that has these parts; a null part is `None`.
#[must_use]
pub fn encode<'a>(parts: impl IntoIterator<Item = Option<&'a str>>) -> String {
    let mut key = String::new();
    for (i, part) in parts.into_iter().enumerate() {
        if i > 0 {
            key.extend([MARK, END]);
        }
        push_part(&mut key, part);
    }
    key
}

/// What every key begins with that has these first parts and more.
#[must_use]
pub fn prefix<'a>(first_parts: impl IntoIterator<Item = Option<&'a str>>) -> String {
    encode(first_parts) + "\0\u{1}"
}

/// The parts of a key that [`encode`] gave.
#[must_use]
pub fn decode(key: &str) -> Vec<Option<String>> {
    let (mut parts, mut part) = (Vec::new(), Some(String::new()));
    let mut chars = key.chars();
    while let Some(c) = chars.next() {
        match (c, &mut part) {
            (MARK, text) => match (chars.next(), text) {
                (Some(END), _) => parts.push(part.replace(String::new())),
                (Some(LITERAL), Some(text)) => text.push(MARK),
                _ => part = None,
            },
            (c, Some(text)) => text.push(c),
            (_, None) => {}
        }
    }
    parts.push(part);
    parts
}

/// A key as a person reads it: `user-1, sale`, with `null` for a null.
#[must_use]
pub fn for_people(key: &str) -> String {
    decode(key).into_iter().map(|part| part.unwrap_or_else(|| "null".to_owned())).collect::<Vec<_>>().join(", ")
}

/// The first part as it stands in the key.
#[must_use]
pub fn first_part(key: &str) -> &str {
    key.split_once("\0\u{1}").map_or(key, |(first, _)| first)
}

fn push_part(key: &mut String, part: Option<&str>) {
    match part {
        None => key.extend([MARK, NULL]),
        Some(text) if text.contains(MARK) => {
            for c in text.chars() {
                key.push(c);
                key.extend((c == MARK).then_some(LITERAL));
            }
        }
        Some(text) => key.push_str(text),
    }
}

/// The keys of rows from the columns of their parts.
///
/// # Errors
/// A key is too long.
pub(crate) fn of_columns(parts: &[ArrayRef], rows: usize) -> Result<ArrayRef, FoldError> {
    let texts = parts.iter().map(|part| cast(part, &DataType::Utf8)).collect::<Result<Vec<_>, _>>()?;
    let texts: Vec<&StringArray> = texts.iter().map(|text| text.as_string::<i32>()).collect();
    if let [text] = texts.as_slice()
        && text.null_count() == 0
        && !text.value_data().contains(&0)
        && text.offsets().windows(2).all(|edges| (edges[1] - edges[0]) as usize <= MAX_KEY_BYTES)
    {
        return Ok(Arc::new((*text).clone()));
    }
    let mut keys = StringBuilder::with_capacity(rows, 0);
    for row in 0..rows {
        let key = encode(texts.iter().map(|text| text.is_valid(row).then(|| text.value(row))));
        if key.len() > MAX_KEY_BYTES {
            return Err(FoldError::KeyTooLong { bytes: key.len() });
        }
        keys.append_value(key);
    }
    Ok(Arc::new(keys.finish()))
}

/// A part as some text of its value. One with more digits than the column has is no value of it.
///
/// # Errors
/// The text is not one of a value of that type.
pub(crate) fn from_person(text: Option<&str>, kind: &DataType) -> Result<ArrayRef, FoldError> {
    let refuse = || ArrowError::CastError("more digits than the column has".to_owned());
    match (text, kind) {
        (Some(text), DataType::Decimal128(precision, scale)) => {
            let exact = DecimalType { precision: *precision, scale: u8::try_from(*scale).map_err(|_| refuse())? };
            exact.parse(text).map_err(|_| refuse())?;
        }
        (Some(text), DataType::Timestamp(..)) => {
            let time = chrono::DateTime::parse_from_rfc3339(text).map_err(|e| ArrowError::CastError(e.to_string()))?;
            if !time.timestamp_subsec_nanos().is_multiple_of(1000) {
                return Err(refuse().into());
            }
        }
        _ => {}
    }
    to_column([text], kind)
}

/// Parts as values of their columns; the text of a value is its only one.
///
/// # Errors
/// A text is not one of a value of that type.
pub(crate) fn to_column<'a>(texts: impl IntoIterator<Item = Option<&'a str>>, kind: &DataType) -> Result<ArrayRef, FoldError> {
    let texts: StringArray = texts.into_iter().collect();
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    Ok(cast_with_options(&texts, kind, &strict)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Proves that the key of one text is that text: stored views and the log's own placement depend on it.
    #[test]
    fn frozen() {
        assert_eq!(encode([Some("user-1")]), "user-1");
        assert_eq!(encode([Some("user-1"), None, Some("a\0b")]), "user-1\0\u{1}\0\0\0\u{1}a\0\u{2}b");
        assert_eq!(decode("user-1\0\u{1}\0\0\0\u{1}a\0\u{2}b"), [Some("user-1".into()), None, Some("a\0b".into())]);
        assert_eq!(encode([Some("")]), "");
        assert_ne!(encode([None]), encode([Some("")]));
    }

    proptest! {
        /// Proves that a key has its parts and no others, and that a prefix is that of the keys with those first parts alone.
        #[test]
        fn there_and_back(a in parts(), b in parts()) {
            let [left, right] = [&a, &b].map(|parts| encode(parts.iter().map(Option::as_deref)));
            prop_assert_eq!(&decode(&left), &a);
            prop_assert_eq!(left == right, a == b);
            let prefix = prefix(a.iter().map(Option::as_deref));
            prop_assert_eq!(right.starts_with(&prefix), b.len() > a.len() && b[..a.len()] == a[..]);
        }
    }

    fn parts() -> impl Strategy<Value = Vec<Option<String>>> {
        prop::collection::vec(prop::option::of("[\0\u{1}\u{2}ab]{0,3}"), 1..4)
    }
}
