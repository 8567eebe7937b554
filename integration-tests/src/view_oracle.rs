//! What the rows of three views must be: the acknowledged events, added up anew for every question. It shares no code with the product.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::oracle::DAY_US;

pub const HOUR_US: i64 = DAY_US / 24;
pub const MINUTE_US: i64 = HOUR_US / 60;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cell {
    Null,
    Text(String),
    Count(i64),
    /// Ten-thousandths.
    Money(i128),
    /// Microseconds since 1970.
    Time(i64),
}

/// One acknowledged event, here once however often it was sent.
#[derive(Clone, Debug)]
pub struct Fact {
    pub user: String,
    pub id: String,
    pub time_us: i64,
    pub event_type: Cell,
    pub amount: Option<i128>,
    pub item: Cell,
}

/// By item and day of Havana; by user, type and minute; by user and day of UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum View {
    ItemDays,
    UserActivity,
    UserStats,
}

/// What one row is over; weeks and months are Havana's, a window is so many microseconds up to a bucket, itself included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    Total,
    Bucket,
    Week,
    Month,
    Window(i64),
}

/// About the keys that begin with these cells, none for all keys, over the buckets that start in a range.
#[derive(Clone, Debug)]
pub struct Question {
    pub view: View,
    pub beginning: Vec<Cell>,
    pub range: Range<i64>,
    pub over: Over,
}

impl View {
    fn key(self, fact: &Fact) -> Vec<Cell> {
        match self {
            Self::ItemDays => vec![fact.item.clone()],
            Self::UserActivity => vec![Cell::Text(fact.user.clone()), fact.event_type.clone()],
            Self::UserStats => vec![Cell::Text(fact.user.clone())],
        }
    }

    pub fn bucket(self, time_us: i64) -> i64 {
        match self {
            Self::ItemDays => midnight(havana_day(time_us)),
            Self::UserActivity => time_us.div_euclid(MINUTE_US) * MINUTE_US,
            Self::UserStats => time_us.div_euclid(DAY_US) * DAY_US,
        }
    }

    fn measures(self, facts: &[&Fact]) -> Vec<Cell> {
        let (amounts, times) = (facts.iter().filter_map(|fact| fact.amount), facts.iter().map(|fact| fact.time_us));
        let mut cells = vec![Cell::Count(facts.len() as i64), amounts.clone().reduce(|a, b| a + b).map_or(Cell::Null, Cell::Money)];
        match self {
            Self::ItemDays => cells.push(amounts.max().map_or(Cell::Null, Cell::Money)),
            Self::UserActivity => {}
            Self::UserStats => cells.extend([times.clone().min(), times.max()].into_iter().flatten().map(Cell::Time)),
        }
        cells
    }
}

impl Question {
    /// By key, nulls first, and bucket. Buckets that start before `kept_from_us` are gone.
    pub fn rows(&self, facts: &[Fact], kept_from_us: i64) -> Vec<Vec<Cell>> {
        let placed = facts.iter().map(|fact| (self.view.key(fact), self.view.bucket(fact.time_us), fact));
        let kept: Vec<_> = placed.filter(|(key, start, _)| key.starts_with(&self.beginning) && *start >= kept_from_us).collect();
        let asked = kept.iter().filter(|(_, start, _)| self.range.contains(start));
        let periods: BTreeSet<(&Vec<Cell>, Option<i64>)> = asked.map(|(key, start, _)| (key, self.period(*start))).collect();
        let row = |(key, period): (&Vec<Cell>, Option<i64>)| {
            let holds = |start: &i64| match (self.over, period) {
                (Over::Window(length_us), Some(newest)) => newest - length_us < *start && *start <= newest,
                _ => self.range.contains(start) && self.period(*start) == period,
            };
            let held: Vec<&Fact> = kept.iter().filter(|(of, start, _)| of == key && holds(start)).map(|(.., fact)| *fact).collect();
            key.iter().cloned().chain(period.map(Cell::Time)).chain(self.view.measures(&held)).collect()
        };
        periods.into_iter().map(row).collect()
    }

    /// The first of [`Self::rows`] by a column: nulls last, equal ones by key.
    pub fn top(&self, facts: &[Fact], kept_from_us: i64, column: usize, ascending: bool, limit: usize) -> Vec<Vec<Cell>> {
        let mut rows = self.rows(facts, kept_from_us);
        rows.sort_by(|a, b| {
            let order = if ascending { a[column].cmp(&b[column]) } else { b[column].cmp(&a[column]) };
            (a[column] == Cell::Null).cmp(&(b[column] == Cell::Null)).then(order)
        });
        rows.truncate(limit);
        rows
    }

    /// What the row of this bucket shows as its bucket.
    fn period(&self, start: i64) -> Option<i64> {
        let day = havana_day(start);
        match self.over {
            Over::Total => None,
            Over::Bucket | Over::Window(_) => Some(start),
            Over::Week => Some(midnight(day - (day + 3).rem_euclid(7))),
            Over::Month => Some(midnight(day + 1 - month_and_date(day).1)),
        }
    }
}

/// The date that has begun in Havana, in days since 1970.
fn havana_day(time_us: i64) -> i64 {
    let day = (time_us - 4 * HOUR_US).div_euclid(DAY_US);
    if midnight(day) <= time_us { day } else { day - 1 }
}

/// When a date begins in Havana: at 05:00 UTC, but at 04:00 after the second Sunday of March up to the first one of November.
fn midnight(day: i64) -> i64 {
    let (month, date) = month_and_date(day);
    let sunday_before = date - 1 - (day + 3).rem_euclid(7);
    let summer = (4..=10).contains(&month) || (month == 3 && sunday_before >= 8) || (month == 11 && sunday_before < 1);
    day * DAY_US + if summer { 4 } else { 5 } * HOUR_US
}

/// Of a day from 2000-03-01 to 2100-02-28, in years from March on, as in Howard Hinnant's `civil_from_days`.
fn month_and_date(day: i64) -> (i64, i64) {
    let of_four_years = (day - 11_017).rem_euclid(4 * 365 + 1);
    let of_year = of_four_years - (of_four_years / 365).min(3) * 365;
    let month = (5 * of_year + 2) / 153;
    ((month + 2) % 12 + 1, of_year - (153 * month + 2) / 5 + 1)
}
