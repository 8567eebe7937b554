//! `-- keep: 48h`: how long a view keeps its buckets.
//!
//! The limit is counted back from a moment that the manifest of each version names, so that the same version keeps the same buckets
//! wherever and whenever it is read.

use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, Tokenizer, Whitespace};

use super::error::{DefinitionError, Place};

const MARK: &str = "keep:";
const MINUTE_US: i64 = 60_000_000;
/// Letters of units and what they are in microseconds.
const UNITS: [(char, i64); 4] = [('m', MINUTE_US), ('h', 60 * MINUTE_US), ('d', 1440 * MINUTE_US), ('w', 7 * 1440 * MINUTE_US)];
/// Longer than there are events.
const LONGEST_US: i64 = 400 * 366 * 1440 * MINUTE_US;

/// The limit that a comment of the SQL sets, in microseconds. SQL that is not even tokens has none; the parser says what is wrong with it.
///
/// # Errors
/// It is no time, there are two, or it stands in the middle of a comment, where it may be meant or not.
pub(super) fn parse(sql: &str) -> Result<Option<i64>, DefinitionError> {
    let mut found = None;
    for token in Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location().unwrap_or_default() {
        let Token::Whitespace(Whitespace::SingleLineComment { comment, .. } | Whitespace::MultiLineComment(comment)) = &token.token else {
            continue;
        };
        let comment = comment.trim().to_lowercase();
        let Location { line, column } = token.span.start;
        let refuse = |message: &str| Err(DefinitionError::at(Some(Place { line, column }), message));
        let Some(period) = comment.strip_prefix(MARK) else {
            let is_meant = comment.strip_prefix("keep").is_some_and(|rest| rest.trim_start().starts_with(|c: char| c.is_ascii_digit()));
            match is_meant || comment.contains(MARK) {
                true => return refuse("write the limit in a comment of its own, such as -- keep: 48h"),
                false => continue,
            }
        };
        let Some(micros) = micros(period.trim()) else { return refuse("keep is a number with m, h, d or w, such as -- keep: 48h") };
        if found.replace(micros).is_some() {
            return refuse("a second keep; a view keeps its buckets for one time");
        }
    }
    Ok(found)
}

fn micros(period: &str) -> Option<i64> {
    let unit = period.chars().last()?;
    let (_, unit_us) = UNITS.iter().find(|(letter, _)| *letter == unit)?;
    let number = period[..period.len() - unit.len_utf8()].trim_end();
    let number: i64 = number.bytes().all(|b| b.is_ascii_digit()).then(|| number.parse().ok()).flatten()?;
    number.checked_mul(*unit_us).filter(|micros| (1..=LONGEST_US).contains(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that a limit is read wherever a comment says it, and that what is none is refused at its place.
    #[test]
    fn limits() {
        for (sql, expected) in [
            ("SELECT 1", None),
            ("SELECT 1 -- Keep: 1h", Some(3_600_000_000)),
            ("/* keep: 1d */ SELECT 1", Some(86_400_000_000)),
            ("SELECT '\n-- keep: 1h'", None),
            ("-- keep: 48h\nSELECT 1", Some(48 * 3_600_000_000)),
            ("SELECT 1\n  --keep:2 w", Some(14 * 86_400_000_000)),
        ] {
            assert_eq!(parse(sql), Ok(expected), "{sql}");
        }
        for wrong in [
            "-- keep: 48",
            "-- keep: h",
            "-- keep: -1h",
            "-- keep: 0m",
            "-- keep: 900000w",
            "-- keep: 1é",
            "-- keep: 1h\n-- keep: 1h",
            "-- we keep: 1h",
            "-- keep 48h",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse("\n  -- keep: x").unwrap_err().place, Some(Place { line: 2, column: 3 }));
    }
}
