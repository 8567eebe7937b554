//! A random question: as it is asked, and what its rows must be.

use std::ops::Range;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use integration_tests::oracle::DAY_US;
use integration_tests::plain_fold::text::money;
use integration_tests::view_oracle::{Cell, Fact, HOUR_US, MINUTE_US, Over, Question, View};
use merganser_proto::v1::value::Kind;
use merganser_proto::v1::{
    CalendarUnit, Consistency, ExportViewRowsRequest, GetTopRowsRequest, GetViewRowsRequest, Granularity, Row, Value,
};
use prost_types::Timestamp;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use tonic::Request;

use crate::declared;

/// 9 March 2025 begins in Havana, where the clock goes from 24:00 to 01:00.
pub(crate) const SPRING_US: i64 = 20_156 * DAY_US + 5 * HOUR_US;
/// 2 November 2025 begins in Havana, where the clock goes from 01:00 to 00:00 an hour later.
const AUTUMN_US: i64 = 20_394 * DAY_US + 4 * HOUR_US;
/// What `user_activity` keeps.
pub(crate) const KEEP_US: i64 = 48 * HOUR_US;
pub(crate) const ALWAYS: Range<i64> = i64::MIN..i64::MAX;

const USERS: [&str; 6] = ["u 1", "ü/?#%", "14646", "a", "ab", "Z"];
const ITEMS: [&str; 4] = ["lamp", "lam", "tea cup", "ü"];
const TYPES: [&str; 2] = ["sale", "refund"];
const TOP_ROWS: usize = 3;
/// How long a question may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A question as it is asked.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) question: Question,
    /// Instead of the start of its range.
    last_us: Option<i64>,
    /// Only the first rows: by which measure, and whether the smallest come first.
    pub(crate) top: Option<(usize, bool)>,
    pub(crate) consistency: Consistency,
    /// Every key, as an export.
    is_export: bool,
}

impl Asked {
    /// One in five is for the first rows of the whole view.
    pub(crate) fn random(view: View, random: &mut StdRng) -> Self {
        let consistency = pick(random, [Consistency::Fresh, Consistency::Fresh, Consistency::BestEffort, Consistency::BatchOnly]);
        let last_us = random.random_ratio(1, 5).then(|| pick(random, [MINUTE_US, 36 * HOUR_US, 3 * DAY_US]));
        let mut edges = [event_time_us(random), event_time_us(random)].map(|time_us| view.bucket(time_us));
        edges.sort_unstable();
        let start = if last_us.is_none() && random.random() { edges[0] } else { ALWAYS.start };
        let end = if edges[0] < edges[1] && random.random() { edges[1] } else { ALWAYS.end };
        let mut question = Question { view, beginning: vec![], range: start..end, over: Over::Total };
        if random.random_ratio(1, 5) {
            let top = Some((random.random_range(0..2), random.random()));
            return Self { question, last_us, top, consistency, is_export: false };
        }
        if random.random_ratio(1, 5) {
            let over = [Over::Total, Over::Bucket, Over::Week, Over::Month];
            let fitting = if view == View::ItemDays { 4 } else { 2 };
            question.over = over[random.random_range(0..fitting)];
            question.range.start = if random.random() { edges[0] } else { ALWAYS.start };
            return Self { question, last_us: None, top: None, consistency, is_export: true };
        }
        let user = if random.random_ratio(1, 20) { "nobody" } else { pick(random, USERS) };
        question.beginning = match view {
            View::ItemDays => vec![text_or_null(&ITEMS, random)],
            View::UserActivity if random.random() => vec![Cell::Text(user.to_owned()), text_or_null(&TYPES, random)],
            View::UserActivity | View::UserStats => vec![Cell::Text(user.to_owned())],
        };
        question.over = match (random.random_range(0..10), view) {
            (0..3, _) => Over::Total,
            (3..5, View::UserActivity) => Over::Window(10 * MINUTE_US),
            (3..5, _) => Over::Window(3 * DAY_US),
            (5, View::ItemDays) => Over::Week,
            (6, View::ItemDays) => Over::Month,
            _ => Over::Bucket,
        };
        Self { question, last_us, top: None, consistency, is_export: false }
    }

    /// As a request for the first rows, if it is one.
    pub(crate) fn top_request(&self) -> Option<GetTopRowsRequest> {
        let (view, range) = (declared(self.question.view), &self.question.range);
        self.top.map(|(measure, ascending)| GetTopRowsRequest {
            view: view.name.to_owned(),
            measure: view.measures[measure].to_owned(),
            limit: TOP_ROWS as i32,
            ascending,
            start_time: end_of_range(range.start),
            end_time: end_of_range(range.end),
            last: self.last_us.map(duration),
            consistency: self.consistency.into(),
            ..Default::default()
        })
    }

    /// As a request for every key, if it is one.
    pub(crate) fn export_request(&self) -> Option<ExportViewRowsRequest> {
        let GetViewRowsRequest { view, start_time, end_time, granularity, calendar_unit, time_zone, consistency, .. } = self.rows_request();
        let request =
            ExportViewRowsRequest { view, start_time, end_time, granularity, calendar_unit, time_zone, consistency, ..Default::default() };
        self.is_export.then_some(request)
    }

    pub(crate) fn rows_request(&self) -> GetViewRowsRequest {
        let Question { view, beginning, range, over } = &self.question;
        let part = |cell: &Cell| Value { kind: text(cell).map(Kind::StringValue) };
        let (key, key_parts) = match beginning.as_slice() {
            [Cell::Text(key)] if *over == Over::Total => (key.as_str(), vec![]),
            parts => ("", parts.iter().map(part).collect()),
        };
        let (calendar_unit, time_zone) = match over {
            Over::Week => (CalendarUnit::Week, "America/Havana"),
            Over::Month => (CalendarUnit::Month, "America/Havana"),
            _ => (CalendarUnit::Unspecified, ""),
        };
        GetViewRowsRequest {
            key_parts,
            start_time: end_of_range(range.start),
            end_time: end_of_range(range.end),
            last: self.last_us.map(duration),
            granularity: if *over == Over::Total { Granularity::Total } else { Granularity::Bucket }.into(),
            calendar_unit: calendar_unit.into(),
            time_zone: time_zone.to_owned(),
            window: if let Over::Window(length_us) = over { Some(duration(*length_us)) } else { None },
            consistency: self.consistency.into(),
            ..about(declared(*view).name, key)
        }
    }

    /// What the rows must be at that time.
    pub(crate) fn rows(&self, facts: &[Fact], kept_from_us: i64, now_us: i64) -> Vec<Vec<Cell>> {
        let question = self.at(now_us);
        match self.top {
            None => question.rows(facts, kept_from_us),
            Some((measure, up)) => question.top(facts, kept_from_us, declared(question.view).key.len() + measure, up, TOP_ROWS),
        }
    }

    /// The question with its range at that time, for all rows.
    pub(crate) fn at(&self, now_us: i64) -> Question {
        let mut question = self.question.clone();
        if let Some(last_us) = self.last_us {
            question.range.start = question.view.bucket(question.range.end.min(now_us) - last_us);
        }
        question
    }
}

/// A new event.
pub(crate) fn random_fact(id: String, random: &mut StdRng) -> Fact {
    Fact {
        user: pick(random, USERS).to_owned(),
        id,
        time_us: event_time_us(random),
        event_type: text_or_null(&TYPES, random),
        amount: random.random_bool(0.8).then(|| random.random_range(-1_000_000..=1_000_000)),
        item: text_or_null(&ITEMS, random),
    }
}

/// Near the changes of Havana's clock, near the end of what is kept, or in the last four days.
fn event_time_us(random: &mut StdRng) -> i64 {
    let edges = [SPRING_US, SPRING_US + 23 * HOUR_US, AUTUMN_US, AUTUMN_US + HOUR_US, AUTUMN_US + 25 * HOUR_US];
    match random.random_range(0..8) {
        0..3 => pick(random, edges) + random.random_range(-3 * DAY_US..3 * DAY_US),
        3 => pick(random, edges) + random.random_range(-1..=1),
        4 => now_us() - KEEP_US + random.random_range(-2 * MINUTE_US..2 * MINUTE_US),
        _ => now_us() - random.random_range(0..8) * 12 * HOUR_US - random.random_range(0..30 * MINUTE_US),
    }
}

fn pick<T: Clone, const N: usize>(random: &mut StdRng, from: [T; N]) -> T {
    from.choose(random).expect("there are some").clone()
}

fn text_or_null(texts: &[&str], random: &mut StdRng) -> Cell {
    texts.get(random.random_range(0..=texts.len())).map_or(Cell::Null, |text| Cell::Text((*text).to_owned()))
}

pub(crate) fn text(cell: &Cell) -> Option<String> {
    if let Cell::Text(text) = cell { Some(text.clone()) } else { None }
}

pub(crate) fn cells(row: Row) -> Result<Vec<Cell>> {
    let cell = |value: Value| {
        Ok(match value.kind {
            None => Cell::Null,
            Some(Kind::StringValue(text)) => Cell::Text(text),
            Some(Kind::IntValue(count)) => Cell::Count(count),
            Some(Kind::DecimalValue(text)) => Cell::Money(money(&text).with_context(|| format!("the decimal {text:?}"))?),
            Some(Kind::TimestampValue(time)) => Cell::Time(micros(&time)),
            Some(other) => bail!("no view has a {other:?}"),
        })
    };
    row.values.into_iter().map(cell).collect()
}

pub(crate) fn about(view: &str, key: &str) -> GetViewRowsRequest {
    GetViewRowsRequest { view: view.to_owned(), key: key.to_owned(), ..Default::default() }
}

pub(crate) fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(TIMEOUT);
    request
}

fn end_of_range(time_us: i64) -> Option<Timestamp> {
    (time_us != ALWAYS.start && time_us != ALWAYS.end).then(|| timestamp(time_us))
}

pub(crate) fn timestamp(time_us: i64) -> Timestamp {
    Timestamp { seconds: time_us.div_euclid(1_000_000), nanos: time_us.rem_euclid(1_000_000) as i32 * 1000 }
}

pub(crate) fn duration(length_us: i64) -> prost_types::Duration {
    prost_types::Duration { seconds: length_us / 1_000_000, nanos: (length_us % 1_000_000) as i32 * 1000 }
}

pub(crate) fn micros(time: &Timestamp) -> i64 {
    time.seconds * 1_000_000 + i64::from(time.nanos / 1000)
}

pub(crate) fn now_us() -> i64 {
    SystemTime::UNIX_EPOCH.elapsed().expect("it is later than 1970").as_micros() as i64
}
