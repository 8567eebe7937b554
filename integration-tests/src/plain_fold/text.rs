//! Texts to numbers and back, exactly.

use super::PlainEvent;

const MICROS_PER_SECOND: i64 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;
/// Digits of money behind the point.
const SCALE: i64 = 4;
/// Money has fewer than 18 digits in all.
const MONEY_END: i128 = 10_i128.pow(18);

/// The event of these texts, if it is one of a user.
pub(super) fn event(event_id: String, user_id: String, event_time: &str, amount: &str) -> Option<PlainEvent> {
    checked(event_id, user_id, time(event_time)?, amount)
}

/// As [`event`], with the time in microseconds.
pub(super) fn checked(event_id: String, user_id: String, time_us: i64, amount: &str) -> Option<PlainEvent> {
    let usable = |id: &str, longest: usize| (1..=longest).contains(&id.len()) && !id.contains('\0');
    let years = days(1900, 1, 1)..days(2200, 1, 1);
    let known = years.contains(&time_us.div_euclid(SECONDS_PER_DAY * MICROS_PER_SECOND));
    if !usable(&event_id, 128) || !usable(&user_id, 256) || !known {
        return None;
    }
    let amount = if amount.is_empty() { None } else { Some(money(amount)?) };
    Some(PlainEvent { user_id, event_id, time_us, amount })
}

/// Ten-thousandths; nothing if the text is no number or would have to be rounded.
#[must_use]
pub fn money(text: &str) -> Option<i128> {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let exponent: i64 = exponent.parse().ok()?;
    let (sign, digits) = match mantissa.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, mantissa.strip_prefix('+').unwrap_or(mantissa)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let Ok(number) = digits.trim_start_matches('0').parse::<i128>() else {
        return digits.bytes().all(|byte| byte == b'0').then_some(0);
    };
    let shift = exponent + SCALE - fraction.len() as i64;
    let power = 10_i128.checked_pow(u32::try_from(shift.abs()).ok()?)?;
    let unscaled = if shift >= 0 { number.checked_mul(power)? } else { (number % power == 0).then_some(number / power)? };
    (unscaled < MONEY_END).then_some(sign * unscaled)
}

/// Microseconds since 1970 of an RFC 3339 time; finer digits are cut.
#[must_use]
pub fn time(text: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let digits = text.get(range)?;
        if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
    };
    let separators = [(4, "-"), (7, "-"), (10, "Tt "), (13, ":"), (16, ":")];
    if !separators.iter().all(|(at, any)| text.get(*at..at + 1).is_some_and(|letter| any.contains(letter))) {
        return None;
    }
    let [year, month, day, hour, minute, second] =
        [number(0..4)?, number(5..7)?, number(8..10)?, number(11..13)?, number(14..16)?, number(17..19)?];
    let days = days(year, month, day);
    if date(days) != (year, month, day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let rest = text.get(19..)?;
    let zone_at = rest.find(['Z', 'z', '+', '-'])?;
    let (fraction, zone) = rest.split_at(zone_at);
    let micros = match fraction.strip_prefix('.') {
        None if fraction.is_empty() => 0,
        Some(digits) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("{digits:0<6}")[..6].parse().ok()?
        }
        _ => return None,
    };
    let seconds = days * SECONDS_PER_DAY + hour * 3600 + minute * 60 + second - offset(zone)?;
    Some(seconds * MICROS_PER_SECOND + micros)
}

/// Seconds east of UTC of `Z` or `+02:00`.
fn offset(zone: &str) -> Option<i64> {
    if zone.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    let two_digits = |text: &str| if text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit()) { text.parse::<i64>().ok() } else { None };
    let (hours, minutes) = (two_digits(hours)?, two_digits(minutes)?);
    let seconds = hours * 3600 + minutes * 60;
    (hours < 24 && minutes < 60).then_some(if zone.starts_with('-') { -seconds } else { seconds })
}

/// Days since 1970 of a date of the proleptic Gregorian calendar (Howard Hinnant, *chrono-compatible low-level date algorithms*).
#[must_use]
pub fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Year, month and day; the inverse of [`days`].
#[must_use]
pub fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = days.div_euclid(146_097) * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

/// Money for people: `-168,469.60`.
#[must_use]
pub fn show_money(unscaled: i128) -> String {
    let magnitude = unscaled.unsigned_abs();
    let fraction = format!("{:04}", magnitude % 10_000);
    let shown = if fraction.ends_with("00") { &fraction[..2] } else { fraction.trim_end_matches('0') };
    let sign = if unscaled < 0 { "-" } else { "" };
    format!("{sign}{}.{shown}", grouped(magnitude / 10_000))
}

/// A number with a comma between each three digits.
#[must_use]
pub fn grouped(number: impl Into<u128>) -> String {
    let digits = number.into().to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
