//! Numbers, sizes, ages and moments as people read them.

use std::time::Duration;

use chrono::DateTime;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// 1234567 → `1,234,567`.
pub(super) fn count(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut grouped = if number < 0 { "−".to_owned() } else { String::new() };
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `1 event`, `2 events`.
pub(super) fn counted(number: i64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// 12906 → `12.6 KiB`.
pub(super) fn bytes(bytes: i64) -> String {
    let (mut size, mut unit) = (bytes.max(0) as f64, 0);
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    if unit == 0 || size >= 100.0 { format!("{size:.0} {}", UNITS[unit]) } else { format!("{size:.1} {}", UNITS[unit]) }
}

/// The two largest units of an age: `45 s`, `3 h 20 min`, `9 days`.
pub(super) fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    let two = |large: u64, unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{large} {unit}"),
        _ => format!("{large} {unit} {small} {small_unit}"),
    };
    match seconds {
        0..MINUTE => format!("{seconds} s"),
        MINUTE..HOUR => format!("{} min", seconds / MINUTE),
        HOUR..DAY => two(seconds / HOUR, "h", seconds % HOUR / MINUTE, "min"),
        _ if seconds < 2 * DAY => two(1, "day", seconds % DAY / HOUR, "h"),
        _ => format!("{} days", seconds / DAY),
    }
}

/// How long before `now_us` a moment was: `3 h 20 min ago`. One that is to come, by this clock, is `just now`.
pub(super) fn ago(time_us: i64, now_us: i64) -> String {
    match u64::try_from(now_us.saturating_sub(time_us)) {
        Ok(us) if us >= 1_000_000 => format!("{} ago", age(Duration::from_micros(us))),
        _ => "just now".to_owned(),
    }
}

/// `2026-11-30 02:00:03 UTC`; a midnight is its date alone.
pub(super) fn moment(time_us: i64) -> String {
    match DateTime::from_timestamp_micros(time_us) {
        Some(time) if time_us.rem_euclid(DAY as i64 * 1_000_000) == 0 => time.format("%Y-%m-%d").to_string(),
        Some(time) => time.format("%Y-%m-%d %H:%M:%S UTC").to_string(),
        None => format!("{time_us} µs since 1970"),
    }
}

/// Microseconds since 1970 of an RFC 3339 time.
pub(super) fn parsed(time: &str) -> Option<i64> {
    Some(DateTime::parse_from_rfc3339(time).ok()?.timestamp_micros())
}

/// 0.00042 → `0.42 ms`.
pub(super) fn seconds(seconds: f64) -> String {
    match seconds {
        s if s >= 10.0 => format!("{s:.0} s"),
        s if s >= 1.0 => format!("{s:.1} s"),
        s if s >= 0.01 => format!("{:.0} ms", s * 1e3),
        s if s >= 0.001 => format!("{:.1} ms", s * 1e3),
        s => format!("{:.2} ms", s * 1e3),
    }
}

/// A rate: whole numbers from ten on.
pub(super) fn rate(per_second: f64) -> String {
    match per_second {
        r if r >= 10.0 => count(r.round() as i64),
        r if r > 0.0 => format!("{r:.1}"),
        _ => "0".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves what people read, at the edges of each unit.
    #[test]
    fn as_read() {
        assert_eq!([0, 999, 1000, -1_234_567, i64::MAX].map(count), ["0", "999", "1,000", "−1,234,567", "9,223,372,036,854,775,807"]);
        assert_eq!(
            [0, 1023, 1024, 12_906, 150 << 20, i64::MAX].map(bytes),
            ["0 B", "1023 B", "1.0 KiB", "12.6 KiB", "150 MiB", "8192 PiB"]
        );
        let ages = [0, 59, 60, 3599, 3600, 12_000, 86_400, 90_000, 172_800].map(|s| age(Duration::from_secs(s)));
        assert_eq!(ages, ["0 s", "59 s", "1 min", "59 min", "1 h", "3 h 20 min", "1 day", "1 day 1 h", "2 days"]);
        assert_eq!([ago(5, 0), ago(0, 61_000_000)], ["just now", "1 min ago"]);
        assert_eq!(
            [moment(0), moment(1_000_001), moment(i64::MAX)],
            ["1970-01-01", "1970-01-01 00:00:01 UTC", "9223372036854775807 µs since 1970"]
        );
        assert_eq!([0.00042, 0.0042, 0.042, 4.2, 42.0].map(seconds), ["0.42 ms", "4.2 ms", "42 ms", "4.2 s", "42 s"]);
        assert_eq!([0.0, 0.25, 9.96, 1234.5].map(rate), ["0", "0.2", "10.0", "1,235"]);
    }
}
