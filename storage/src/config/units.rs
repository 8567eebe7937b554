//! `"64MiB"` and `"250ms"`: settings carry their unit in the text.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A number of bytes, written `"512B"`, `"4KiB"`, `"64MiB"` or `"1GiB"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct ByteSize(pub u64);

/// A length of time, written `"250ms"`, `"5s"`, `"10m"`, `"2h"` or `"30d"`; a day has 24 hours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Period(pub Duration);

/// Largest unit first.
const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
/// Largest unit first, in milliseconds; `ms` stands before `m` and `s`, which end it or begin it.
const PERIODS: [(&str, u64); 5] = [("ms", 1), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)];

impl Period {
    /// Of so many seconds.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// Of so many milliseconds.
    #[must_use]
    pub const fn from_millis(ms: u64) -> Self {
        Self(Duration::from_millis(ms))
    }
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (number, unit) = units.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))?;
    number.trim_end().parse::<u64>().ok()?.checked_mul(*unit)
}

impl TryFrom<String> for ByteSize {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        parse(&text, &SIZES)
            .map(Self)
            .ok_or_else(|| format!("\"{text}\" is not a size; write a whole number with B, KiB, MiB or GiB, such as \"64MiB\""))
    }
}

impl TryFrom<String> for Period {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let ms = parse(&text, &PERIODS);
        ms.map(Self::from_millis)
            .ok_or_else(|| format!("\"{text}\" is not a time; write a whole number with ms, s, m, h or d, such as \"250ms\""))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, unit) = SIZES.into_iter().find(|(_, unit)| self.0 >= *unit && self.0.is_multiple_of(*unit)).unwrap_or(("B", 1));
        write!(f, "{}{name}", self.0 / unit)
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let largest_first = [PERIODS[1], PERIODS[2], PERIODS[3], PERIODS[4], PERIODS[0]];
        let (name, unit) = largest_first.into_iter().find(|(_, unit)| ms >= *unit && ms.is_multiple_of(*unit)).unwrap_or(("ms", 1));
        write!(f, "{}{name}", ms / unit)
    }
}

impl From<ByteSize> for String {
    fn from(value: ByteSize) -> Self {
        value.to_string()
    }
}

impl From<Period> for String {
    fn from(value: Period) -> Self {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that every unit reads, writes back shortest, and that nothing without a unit passes.
    #[test]
    fn texts() {
        for text in ["512B", "4KiB", "64MiB", "3GiB", "1000B", "0B"] {
            assert_eq!(ByteSize::try_from(text.to_owned()).unwrap().to_string(), text);
        }
        for text in ["250ms", "5s", "10m", "2h", "90d", "90s", "0ms"] {
            assert_eq!(Period::try_from(text.to_owned()).unwrap().to_string(), text);
        }
        for text in ["", "64", "64MB", "-1B", "1.5s", "s", "99999999999999999999h"] {
            assert!(ByteSize::try_from(text.to_owned()).is_err() && Period::try_from(text.to_owned()).is_err(), "{text}");
        }
    }
}
