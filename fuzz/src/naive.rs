//! Decimals, times and positions, read so naively that it cannot be wrong: digits are moved about as text, days are counted one
//! by one. None of it is the product's code.

use std::collections::BTreeMap;

/// The unscaled value of `text` in `decimal(precision, scale)`, if it has one.
#[must_use]
pub fn decimal(text: &str, precision: usize, scale: usize) -> Option<i128> {
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], small_number(&text[at + 1..])?),
        None => (text, 0),
    };
    let unsigned = mantissa.strip_prefix(['-', '+']).unwrap_or(mantissa);
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    // The point moves; zeros come in where it leaves the digits behind.
    let point = whole.len() as i64 + exponent;
    let digits = if point < 0 { "0".repeat(point.unsigned_abs() as usize) + &digits } else { digits };
    let point = point.max(0) as usize;
    let digits = format!("{digits:0<point$}");
    let (whole, fraction) = digits.split_at(point);
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    if whole.len() > precision - scale || fraction.len() > scale {
        return None;
    }
    let unscaled: i128 = format!("0{whole}{fraction:0<scale$}").parse().ok()?;
    Some(if mantissa.starts_with('-') { -unscaled } else { unscaled })
}

/// A sign or none, then one to four digits.
fn small_number(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let plain = (1..=4).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let number: i64 = plain.then(|| digits.parse().ok()).flatten()?;
    Some(if text.starts_with('-') { -number } else { number })
}

/// Microseconds since 1970 of `YYYY-MM-DDThh:mm:ss[.digits](Z|±hh:mm)`; `None` for what is not written exactly so.
#[must_use]
pub fn time(text: &str) -> Option<i128> {
    let digits = |from: usize, to: usize| {
        let part = text.get(from..to)?;
        part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse::<i64>().ok()).flatten()
    };
    let stands = |at: usize, mark: &str| text.get(at..at + 1) == Some(mark);
    if !(stands(4, "-") && stands(7, "-") && stands(10, "T") && stands(13, ":") && stands(16, ":")) {
        return None;
    }
    let (year, month, day) = (digits(0, 4)?, digits(5, 7)?, digits(8, 10)?);
    let (hour, minute, second) = (digits(11, 13)?, digits(14, 16)?, digits(17, 19)?);
    if !(1..=12).contains(&month) || !(1..=days_of(year, month)).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let rest = text.get(19..)?;
    let zone_at = rest.find(['Z', '+', '-'])?;
    let micros = match &rest[..zone_at] {
        "" => 0,
        fraction => micros_of(fraction.strip_prefix('.')?)?,
    };
    let minutes_east = match &rest[zone_at..] {
        "Z" => 0,
        offset => minutes_east(offset)?,
    };
    let seconds = ((days_before(year, month, day) * 24 + hour) * 60 + minute - minutes_east) * 60 + second;
    Some(i128::from(seconds) * 1_000_000 + i128::from(micros))
}

/// The first six digits after the point; there may be more, which are cut.
fn micros_of(fraction: &str) -> Option<i64> {
    if fraction.is_empty() || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    format!("{fraction:0<6}")[..6].parse().ok()
}

fn minutes_east(offset: &str) -> Option<i64> {
    let (hours, minutes) = offset.get(1..)?.split_once(':')?;
    let two = |part: &str| (part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit())).then(|| part.parse::<i64>().ok()).flatten();
    let (hours, minutes) = (two(hours)?, two(minutes)?);
    if hours > 23 || minutes > 59 {
        return None;
    }
    let east = hours * 60 + minutes;
    Some(if offset.starts_with('-') { -east } else { east })
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to this one, by adding up years and months.
fn days_before(year: i64, month: i64, day: i64) -> i64 {
    let of_year = |year| if is_leap(year) { 366 } else { 365 };
    let years: i64 = if year >= 1970 { (1970..year).map(of_year).sum() } else { -(year..1970).map(of_year).sum::<i64>() };
    years + (1..month).map(|month| days_of(year, month)).sum::<i64>() + day - 1
}

/// The log and the offsets of a position token, by the letter of its grammar.
#[must_use]
pub fn position(token: &str) -> Option<(String, BTreeMap<i32, i64>)> {
    let colon = token.find(':').filter(|at| *at > 0)?;
    let mut offsets = BTreeMap::new();
    if colon + 1 < token.len() {
        for pair in token[colon + 1..].split(',') {
            let equals = pair.find('=')?;
            let plain = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
            let (partition, offset) = (&pair[..equals], &pair[equals + 1..]);
            if !plain(partition) || !plain(offset) {
                return None;
            }
            let (partition, offset) = (partition.parse().ok()?, offset.parse().ok()?);
            if offsets.insert(partition, offset).is_some() {
                return None;
            }
        }
    }
    Some((token[..colon].to_owned(), offsets))
}
