//! Calendar periods in the time of a place: where the day, week, month, quarter or year that holds a UTC time starts, and the next one.
//!
//! A date comes when the local clock first shows its midnight or anything later, and a period starts when its first date comes. That
//! settles what clock changes leave open. A midnight that is shown twice counts the first time. One that the clock jumps over counts at
//! the jump; a date that it jumps over whole comes together with the next one, so its day is empty and holds no time. If the clock goes
//! back over midnight, the new day goes on. Periods thus follow one another without gap or overlap, whatever the clock does.
//!
//! Times are integers: microseconds (`_us`) or seconds (`_s`) since 1970, UTC, or in the local clock's count where a name says `shown`.
//! Offsets are whole seconds, local mean time included, so all the reckoning in here is in seconds and exact. The tables are those of
//! [`chrono_tz`] and end with 2099: from then on a zone keeps the offset it had last, be it the one of summer.

use chrono::{DateTime, Datelike, Days, Months, NaiveDate, Offset, TimeZone};
use chrono_tz::Tz;

/// The release of the IANA database that the rules are from, such as `2025b`. Another one may cut the same events otherwise.
pub use chrono_tz::IANA_TZDB_VERSION as DATABASE_VERSION;

/// The length of a period in local dates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// One date.
    Day,
    /// Seven dates from a Monday, as in ISO 8601.
    Week,
    /// From the first of a month.
    Month,
    /// Three months, from the first of January, April, July or October.
    Quarter,
    /// From the first of January.
    Year,
}

impl Unit {
    /// The unit of that English name in the singular, such as `"day"` or `"Quarter"`; small and capital letters are alike.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let named = [("day", Self::Day), ("week", Self::Week), ("month", Self::Month), ("quarter", Self::Quarter), ("year", Self::Year)];
        named.into_iter().find_map(|(name, unit)| name.eq_ignore_ascii_case(text).then_some(unit))
    }

    /// The first date of the period that holds `date`, and the first of the next one.
    fn dates(self, date: NaiveDate) -> (NaiveDate, NaiveDate) {
        let (past_months, months) = match self {
            Self::Day => return (date, date + Days::new(1)),
            Self::Week => {
                let monday = date - Days::new(date.weekday().num_days_from_monday().into());
                return (monday, monday + Days::new(7));
            }
            Self::Month => (0, 1),
            Self::Quarter => (date.month0() % 3, 3),
            Self::Year => (date.month0(), 12),
        };
        let first = date - Days::new(date.day0().into()) - Months::new(past_months);
        (first, first + Months::new(months))
    }
}

/// A time zone of the IANA database, with its whole history of offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zone(Tz);

/// No time zone has that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a time zone; write the IANA name, capitals included, such as \"America/Havana\" or \"UTC\"")]
pub struct UnknownZone(String);

const DAY_S: i64 = 86_400;

/// Sixteen hours: no clock was ever set as far from UTC.
const FARTHEST_S: i64 = 16 * 3600;

impl Zone {
    /// The zone of exactly that name, such as `"America/Havana"` or `"UTC"`; other names of a zone that the database keeps do as well.
    ///
    /// # Errors
    ///
    /// If the database has no such name, written with the same capitals.
    pub fn parse(name: &str) -> Result<Self, UnknownZone> {
        name.parse().map(Self).map_err(|_| UnknownZone(name.to_owned()))
    }

    /// The name that [`Zone::parse`] took.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.0.name()
    }

    /// The zone as `chrono` wants it.
    #[must_use]
    pub fn tz(self) -> Tz {
        self.0
    }

    /// What the local clock shows at `time_s`, less `time_s`.
    fn offset_s(self, time_s: i64) -> i64 {
        let time = DateTime::from_timestamp(time_s, 0).expect("the caller's time is a date");
        self.0.offset_from_utc_datetime(&time.naive_utc()).fix().local_minus_utc().into()
    }

    /// When `date` comes: the first time at which the local clock shows its midnight or anything later.
    ///
    /// That is within [`FARTHEST_S`] of the same midnight in UTC. No zone changes its offset twice in six days, let alone in these hours:
    /// if it is the same at both ends of them it is so throughout, and if not it changes once.
    fn coming_of_s(self, date: NaiveDate) -> i64 {
        let shown_s = i64::from(date.to_epoch_days()) * DAY_S;
        let (mut before_s, mut change_s) = (shown_s - FARTHEST_S, shown_s + FARTHEST_S);
        let (old_s, new_s) = (self.offset_s(before_s), self.offset_s(change_s));
        while old_s != new_s && change_s - before_s > 1 {
            let middle_s = before_s + (change_s - before_s) / 2;
            if self.offset_s(middle_s) == old_s { before_s = middle_s } else { change_s = middle_s }
        }
        let unchanged_s = shown_s - old_s;
        if unchanged_s < change_s { unchanged_s } else { change_s.max(shown_s - new_s) }
    }
}

/// Where the period that holds `time_us` starts: at or before it, and at itself if that is a start.
///
/// # Panics
///
/// More than 260,000 years from now, where [`chrono`] has no dates.
#[must_use]
pub fn start_of(unit: Unit, zone: Zone, time_us: i64) -> i64 {
    period_s(unit, zone, time_us).0 * 1_000_000
}

/// Where the period behind the one that holds `time_us` starts: always after it. Empty periods are passed over.
/// Panics as [`start_of`] does.
#[must_use]
pub fn next_after(unit: Unit, zone: Zone, time_us: i64) -> i64 {
    period_s(unit, zone, time_us).1 * 1_000_000
}

/// Start and end of the period that holds `time_us`: the last one to start until then.
fn period_s(unit: Unit, zone: Zone, time_us: i64) -> (i64, i64) {
    let time_s = time_us.div_euclid(1_000_000);
    let shown_days = (time_s + zone.offset_s(time_s)).div_euclid(DAY_S);
    let shown = i32::try_from(shown_days).ok().and_then(NaiveDate::from_epoch_days).expect("the caller's time is a date");
    let (first, mut next) = unit.dates(shown);
    let (mut start_s, mut end_s) = (zone.coming_of_s(first), zone.coming_of_s(next));
    // A clock that went back shows a period that is over.
    while end_s <= time_s {
        next = unit.dates(next).1;
        (start_s, end_s) = (end_s, zone.coming_of_s(next));
    }
    (start_s, end_s)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UNITS: [Unit; 5] = [Unit::Day, Unit::Week, Unit::Month, Unit::Quarter, Unit::Year];
    const HOUR_US: i64 = 3_600_000_000;

    /// Whether the oracle checks every zone, and looks for changes hour by hour: minutes. For when the tables have changed.
    const ALL_ZONES: bool = false;
    const SCAN_STEP_S: i64 = if ALL_ZONES { 3600 } else { DAY_S };
    /// Clocks that change at midnight, back over midnight, across the date line, by odd seconds, by half an hour, or never.
    const ODD_ZONES: [&str; 12] = [
        "Africa/Cairo",
        "Africa/Monrovia",
        "America/Havana",
        "America/Sao_Paulo",
        "America/St_Johns",
        "America/Toronto",
        "Asia/Gaza",
        "Asia/Kathmandu",
        "Australia/Lord_Howe",
        "Pacific/Apia",
        "Pacific/Kwajalein",
        "UTC",
    ];

    fn zone(name: &str) -> Zone {
        Zone::parse(name).unwrap()
    }

    fn us(text: &str) -> i64 {
        text.parse::<DateTime<chrono::Utc>>().unwrap().timestamp_micros()
    }

    /// Asserts of each `(time, start, next)`, as text in UTC, that the period that holds `time` starts and ends there.
    fn check(unit: Unit, name: &str, periods: &[(&str, &str, &str)]) {
        for (time, start, next) in periods {
            let found = (start_of(unit, zone(name), us(time)), next_after(unit, zone(name), us(time)));
            assert_eq!(found, (us(start), us(next)), "{unit:?} of {time} in {name}");
        }
    }

    /// Proves that a midnight that happens twice counts once, the first time, and that the day has its 25 hours.
    #[test]
    fn midnight_that_happens_twice() {
        let day = ("2025-11-02T04:00:00Z", "2025-11-03T05:00:00Z");
        let before = ("2025-11-02T03:59:59.999999Z", "2025-11-01T04:00:00Z", day.0);
        let inside = ["2025-11-02T04:00:00Z", "2025-11-02T04:59:59Z", "2025-11-02T05:00:00Z", "2025-11-03T04:59:59.999999Z"];
        check(Unit::Day, "America/Havana", &[before]);
        check(Unit::Day, "America/Havana", &inside.map(|time| (time, day.0, day.1)));
        assert_eq!(us(day.1) - us(day.0), 25 * HOUR_US);
    }

    /// Proves that a day whose midnight is skipped starts at the jump, and so does a week, a month or a year that starts with such a day.
    #[test]
    fn midnight_that_is_skipped() {
        let jump = "2018-11-04T03:00:00Z";
        let before = ("2018-11-04T02:59:59.999999Z", "2018-11-03T03:00:00Z", jump);
        check(Unit::Day, "America/Sao_Paulo", &[before, (jump, jump, "2018-11-05T02:00:00Z")]);
        // From 23:30 on Sunday to 00:30 on Monday.
        let jump = "1919-03-31T04:30:00Z";
        let before = ("1919-03-31T04:29:59.999999Z", "1919-03-30T05:00:00Z", jump);
        check(Unit::Day, "America/Toronto", &[before, (jump, jump, "1919-04-01T04:00:00Z")]);
        check(Unit::Week, "America/Toronto", &[(jump, jump, "1919-04-07T04:00:00Z")]);
        check(Unit::Month, "Africa/Cairo", &[("2014-08-20T00:00:00Z", "2014-07-31T22:00:00Z", "2014-08-31T21:00:00Z")]);
        check(Unit::Year, "Africa/Bissau", &[("1975-06-01T00:00:00Z", "1975-01-01T01:00:00Z", "1976-01-01T00:00:00Z")]);
    }

    /// Proves that a whole skipped date is no day: the day before ends where the day after starts.
    #[test]
    fn date_that_is_skipped() {
        let jump = "2011-12-30T10:00:00Z";
        let before = ("2011-12-30T09:59:59.999999Z", "2011-12-29T10:00:00Z", jump);
        check(Unit::Day, "Pacific/Apia", &[before, (jump, jump, "2011-12-31T10:00:00Z")]);
        let jump = "1993-08-21T12:00:00Z";
        let before = ("1993-08-21T11:59:59.999999Z", "1993-08-20T12:00:00Z", jump);
        check(Unit::Day, "Pacific/Kwajalein", &[before, (jump, jump, "1993-08-22T12:00:00Z")]);
    }

    /// Proves that a day goes on though the clock, a minute after its midnight, goes back to the date before.
    #[test]
    fn clock_that_goes_back_over_midnight() {
        let day = ("2006-10-29T02:30:00Z", "2006-10-30T03:30:00Z");
        let inside = ["2006-10-29T02:30:00Z", "2006-10-29T02:31:00Z", "2006-10-29T03:29:59Z", "2006-10-29T03:30:00Z"];
        check(Unit::Day, "America/St_Johns", &inside.map(|time| (time, day.0, day.1)));
    }

    /// Proves that offsets with odd minutes and seconds are kept exactly, and that weeks begin on the Monday of the place.
    #[test]
    fn odd_offsets() {
        let week = ("2025-06-08T18:15:00Z", "2025-06-15T18:15:00Z");
        check(Unit::Week, "Asia/Kathmandu", &["2025-06-08T18:15:00Z", "2025-06-15T18:14:59Z"].map(|time| (time, week.0, week.1)));
        check(Unit::Day, "Africa/Monrovia", &[("1971-06-01T12:00:00Z", "1971-06-01T00:44:30Z", "1971-06-02T00:44:30Z")]);
    }

    /// Proves that months, quarters and years start by the summer clock of the south where that is in force.
    #[test]
    fn southern_seasons() {
        let time = "2025-05-15T00:00:00Z";
        check(Unit::Month, "Australia/Sydney", &[(time, "2025-04-30T14:00:00Z", "2025-05-31T14:00:00Z")]);
        check(Unit::Quarter, "Australia/Sydney", &[(time, "2025-03-31T13:00:00Z", "2025-06-30T14:00:00Z")]);
        check(Unit::Year, "Australia/Sydney", &[(time, "2024-12-31T13:00:00Z", "2025-12-31T13:00:00Z")]);
    }

    /// Proves that names are taken as they are documented, and that a wrong one is answered with what to write.
    #[test]
    fn names() {
        assert_eq!(["day", "WEEK", "Month", "quarter", "year"].map(Unit::parse), UNITS.map(Some));
        assert_eq!(["", "days", "hour", " day"].map(Unit::parse), [None; 4]);
        for tz in chrono_tz::TZ_VARIANTS {
            assert_eq!(zone(tz.name()).name(), tz.name());
        }
        for name in ["", "america/havana", "America/Atlantis", "+01:00", "UTC "] {
            let answer =
                format!("{name:?} is not a time zone; write the IANA name, capitals included, such as \"America/Havana\" or \"UTC\"");
            assert_eq!(Zone::parse(name).unwrap_err().to_string(), answer);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

        /// Proves the laws of periods in every zone: each holds its times and its start, they touch, and they keep the order of times.
        #[test]
        fn laws(
            tz in proptest::sample::select(&chrono_tz::TZ_VARIANTS[..]),
            unit in proptest::sample::select(&UNITS[..]),
            time in us("1890-01-01T00:00:00Z")..us("2210-01-01T00:00:00Z"),
            step in 0..400 * 24 * HOUR_US,
        ) {
            let (zone, later) = (Zone(tz), time + step);
            let (start, next) = (start_of(unit, zone, time), next_after(unit, zone, time));
            prop_assert!(start <= time && time < next);
            prop_assert_eq!((start_of(unit, zone, start), next_after(unit, zone, start)), (start, next));
            prop_assert_eq!((start_of(unit, zone, next - 1), start_of(unit, zone, next)), (start, next));
            let later_start = start_of(unit, zone, later);
            let in_order = if later < next { later_start == start } else { later_start >= next };
            prop_assert!(in_order);
        }
    }

    /// The oracle's clock: from when on, in seconds, a zone has which offset; from 1888 to 2211.
    fn pieces(tz: Tz) -> Vec<(i64, i64)> {
        let offset = |time_s| {
            i64::from(tz.offset_from_utc_datetime(&DateTime::from_timestamp(time_s, 0).unwrap().naive_utc()).fix().local_minus_utc())
        };
        let (mut at, end) = (us("1888-01-01T00:00:00Z") / 1_000_000, us("2211-01-01T00:00:00Z") / 1_000_000);
        let mut pieces = vec![(i64::MIN / 2, offset(at))];
        while at < end {
            let (mut low, mut high) = (at, at + SCAN_STEP_S);
            if offset(low) != offset(high) {
                while high - low > 1 {
                    let middle = (low + high) / 2;
                    if offset(middle) == offset(at) { low = middle } else { high = middle }
                }
                pieces.push((high, offset(high)));
            }
            at += SCAN_STEP_S;
        }
        pieces
    }

    /// The oracle: all starts of periods, by walking the pieces for each date until one shows its midnight or later. Empty ones fall away.
    fn starts_us(unit: Unit, pieces: &[(i64, i64)]) -> Vec<i64> {
        let first = |date: &NaiveDate| match unit {
            Unit::Day => true,
            Unit::Week => date.weekday() == chrono::Weekday::Mon,
            Unit::Month => date.day() == 1,
            Unit::Quarter => date.day() == 1 && [1, 4, 7, 10].contains(&date.month()),
            Unit::Year => date.ordinal() == 1,
        };
        let dates = NaiveDate::from_ymd_opt(1886, 1, 1).unwrap().iter_days().take_while(|date| date.year() <= 2213);
        let came = |date: NaiveDate| {
            let shown = date.and_hms_opt(0, 0, 0).unwrap().and_utc().timestamp();
            let ends = pieces[1..].iter().map(|(from, _)| *from).chain([i64::MAX]);
            let in_piece = |((from, offset), end): (&(i64, i64), i64)| Some((shown - offset).max(*from)).filter(|at| *at < end);
            pieces.iter().zip(ends).find_map(in_piece).unwrap() * 1_000_000
        };
        let mut starts: Vec<i64> = dates.filter(first).map(came).collect();
        starts.dedup();
        starts
    }

    /// Proves that starts and ends are those of the oracle: at random times, around every change of the clock and at the edges near it.
    #[test]
    fn agrees_with_a_walk_over_the_clock() {
        let odd_zones = ODD_ZONES.map(|name| zone(name).0);
        let years = us("1890-01-01T00:00:00Z")..us("2210-01-01T00:00:00Z");
        let (mut compared, mut random) = (0_u64, 1_u64);
        for tz in if ALL_ZONES { &chrono_tz::TZ_VARIANTS[..] } else { &odd_zones[..] } {
            let pieces = pieces(*tz);
            assert!(pieces.windows(2).all(|pair| pair[1].0 - pair[0].0 > 2 * FARTHEST_S), "{tz} changes twice in a day or so");
            assert!(pieces.iter().all(|(_, offset)| offset.abs() < FARTHEST_S), "{tz} is too far from UTC");
            let changes: Vec<i64> = pieces[1..].iter().map(|(from, _)| from * 1_000_000).collect();
            for unit in UNITS {
                let starts = starts_us(unit, &pieces);
                let mut agree = |time: i64| {
                    if years.contains(&time) {
                        let next = starts.partition_point(|start| *start <= time);
                        let found = (start_of(unit, Zone(*tz), time), next_after(unit, Zone(*tz), time));
                        assert_eq!(found, (starts[next - 1], starts[next]), "{unit:?} of {time} in {tz}");
                        compared += 1;
                    }
                };
                for change in &changes {
                    for hours in [-25, -24, -1, 0, 1, 24, 25] {
                        (-1..=1).for_each(|by| agree(change + hours * HOUR_US + by));
                    }
                    let near = starts.partition_point(|start| start <= change);
                    for start in &starts[near - 2..near + 2] {
                        (-1..=1).for_each(|by| agree(start + by));
                    }
                }
                for _ in 0..if ALL_ZONES { 5000 } else { 500 } {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    agree(years.start + (random >> 1) as i64 % (years.end - years.start));
                }
            }
        }
        assert!(compared > 100_000, "only {compared} times compared");
    }
}
