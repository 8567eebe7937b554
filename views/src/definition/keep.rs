//! `-- keep: 48h`: how long a view keeps its buckets.
//!
//! The limit is counted back from a moment that the manifest of each version names, so that the same version keeps the same buckets
//! wherever and whenever it is read.

use super::error::{DefinitionError, Place};

const MARK: &str = "keep:";
const MINUTE_US: i64 = 60_000_000;
/// Letters of units and what they are in microseconds.
const UNITS: [(char, i64); 4] = [('m', MINUTE_US), ('h', 60 * MINUTE_US), ('d', 1440 * MINUTE_US), ('w', 7 * 1440 * MINUTE_US)];
/// Longer than there are events.
const LONGEST_US: i64 = 400 * 366 * 1440 * MINUTE_US;

/// The limit that a comment of the SQL sets, in microseconds.
///
/// # Errors
/// It is no time, or there are two.
pub(super) fn parse(sql: &str) -> Result<Option<i64>, DefinitionError> {
    let mut found = None;
    for (line, text) in (1..).zip(sql.lines()) {
        let Some(comment) = text.trim_start().strip_prefix("--") else { continue };
        let Some(period) = comment.trim_start().strip_prefix(MARK) else { continue };
        let column = text.chars().count() - text.trim_start().chars().count() + 1;
        let refuse = |message: &str| DefinitionError::at(Some(Place { line, column: column as u64 }), message);
        if found.is_some() {
            return Err(refuse("a second keep; a view keeps its buckets for one time"));
        }
        let micros = micros(period.trim());
        found = Some(micros.ok_or_else(|| refuse("keep is a number with m, h, d or w, such as -- keep: 48h"))?);
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

    /// Proves that a limit is read wherever a line says it, and that what is none is refused at its place.
    #[test]
    fn limits() {
        for (sql, expected) in [
            ("SELECT 1", None),
            ("SELECT 1 -- keep: 1h", None),
            ("-- keep: 48h\nSELECT 1", Some(48 * 3_600_000_000)),
            ("SELECT 1\n  --keep:2 w", Some(14 * 86_400_000_000)),
        ] {
            assert_eq!(parse(sql), Ok(expected), "{sql}");
        }
        for wrong in
            ["-- keep: 48", "-- keep: h", "-- keep: -1h", "-- keep: 0m", "-- keep: 900000w", "-- keep: 1é", "-- keep: 1h\n-- keep: 1h"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse("\n  -- keep: x").unwrap_err().place, Some(Place { line: 2, column: 3 }));
    }
}
