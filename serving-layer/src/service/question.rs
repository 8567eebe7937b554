//! Requests, checked field by field as far as that needs no view.

use std::ops::RangeInclusive;
use std::time;

use chrono::{DateTime, SecondsFormat};
use merganser_proto::v1::value::Kind;
use merganser_proto::v1::{
    self, BatchGetUserStatsRequest, ExportViewRowsRequest, GetTopRowsRequest, GetUserStatsRequest, GetViewRowsRequest, Value,
    WatchUserStatsRequest,
};
use prost_types::{Duration, Timestamp};
use views::calendar::{Unit, Zone};
use views::event::MAX_USER_ID_BYTES;

use crate::ServingError;
use crate::grouping::Grouping;
use crate::position::Position;
use crate::question::{About, Consistency, MAX_USERS, Question, TimeRange};

/// Between two answers of a watch, where it does not say.
const WATCH_INTERVAL: time::Duration = time::Duration::from_secs(1);
/// What it may say: each look asks the speed layer, and so has a least price.
const WATCH_INTERVALS: RangeInclusive<time::Duration> = time::Duration::from_millis(100)..=time::Duration::from_secs(3600);

impl TryFrom<GetUserStatsRequest> for Question {
    type Error = ServingError;

    fn try_from(request: GetUserStatsRequest) -> Result<Self, ServingError> {
        check_id("user_id", &request.user_id)?;
        let version = version(request.version)?;
        Ok(Self {
            about: About::Users(vec![request.user_id]),
            range: range(request.start_time, request.end_time)?,
            within_buckets: false,
            grouping: grouping(request.granularity)?,
            consistency: consistency(request.consistency, version)?,
            version,
            min_position: min_position(&request.min_position)?,
            explain: request.explain,
        })
    }
}

impl TryFrom<BatchGetUserStatsRequest> for Question {
    type Error = ServingError;

    fn try_from(request: BatchGetUserStatsRequest) -> Result<Self, ServingError> {
        let version = version(request.version)?;
        let count = request.user_ids.len();
        if count > MAX_USERS {
            return Err(ServingError::field("user_ids", format!("are {count}; ask about at most {MAX_USERS} users at once")));
        }
        for (i, user_id) in request.user_ids.iter().enumerate() {
            check_id(&format!("user_ids[{i}]"), user_id)?;
        }
        Ok(Self {
            about: About::Users(request.user_ids),
            range: range(request.start_time, request.end_time)?,
            within_buckets: false,
            grouping: grouping(request.granularity)?,
            consistency: consistency(request.consistency, version)?,
            version,
            min_position: min_position(&request.min_position)?,
            explain: false,
        })
    }
}

/// The question of a watch, and what there is at least between two of its answers.
pub(super) fn of_watch(request: WatchUserStatsRequest) -> Result<(Question, time::Duration), ServingError> {
    let interval = match request.min_interval {
        None => WATCH_INTERVAL,
        Some(asked) => time::Duration::try_from(asked).ok().filter(|asked| WATCH_INTERVALS.contains(asked)).ok_or_else(|| {
            let (least, most) = (WATCH_INTERVALS.start().as_millis(), WATCH_INTERVALS.end().as_secs());
            ServingError::field("min_interval", format!("is to be from {least} ms to {most} s"))
        })?,
    };
    if request.version != 0 {
        return Err(ServingError::field("version", "cannot be watched, for an earlier version does not change; get its answer once"));
    }
    let WatchUserStatsRequest { user_id, start_time, end_time, granularity, consistency, min_position, explain, version, .. } = request;
    let question = GetUserStatsRequest { user_id, start_time, end_time, granularity, consistency, min_position, explain, version };
    Ok((question.try_into()?, interval))
}

/// The question of a request for rows; `now_us` is the time of day, in microseconds since 1970.
pub(super) fn of_rows(request: GetViewRowsRequest, now_us: i64) -> Result<Question, ServingError> {
    let version = version(request.version)?;
    let grouping = over(request.granularity, request.calendar_unit, &request.time_zone, request.window)?;
    let (range, within_buckets) = range_or_last(request.start_time, request.end_time, request.last, now_us)?;
    let (parts, field) = match (request.key.as_str(), request.key_parts.as_slice()) {
        ("", []) => return Err(ServingError::field("key", "is missing; set key, or key_parts for a null or an empty text")),
        (key, []) => (vec![Some(key.to_owned())], "key"),
        ("", parts) => (parts.iter().map(part).collect::<Result<_, _>>()?, "key_parts"),
        _ => return Err(ServingError::field("key_parts", "cannot be set together with key")),
    };
    Ok(Question {
        about: About::Beginning { parts, field },
        range,
        within_buckets,
        grouping,
        consistency: consistency(request.consistency, version)?,
        version,
        min_position: min_position(&request.min_position)?,
        explain: false,
    })
}

/// The question of a request for the first keys.
pub(super) fn of_top(request: &GetTopRowsRequest, now_us: i64) -> Result<Question, ServingError> {
    let version = version(request.version)?;
    let (range, within_buckets) = range_or_last(request.start_time, request.end_time, request.last, now_us)?;
    Ok(Question {
        about: About::Beginning { parts: Vec::new(), field: "view" },
        range,
        within_buckets,
        grouping: Grouping::Total,
        consistency: consistency(request.consistency, version)?,
        version,
        min_position: min_position(&request.min_position)?,
        explain: false,
    })
}

/// The question of a request for all rows.
pub(super) fn of_export(request: ExportViewRowsRequest) -> Result<Question, ServingError> {
    let version = version(request.version)?;
    Ok(Question {
        about: About::Beginning { parts: Vec::new(), field: "view" },
        range: range(request.start_time, request.end_time)?,
        within_buckets: false,
        grouping: over(request.granularity, request.calendar_unit, &request.time_zone, None)?,
        consistency: consistency(request.consistency, version)?,
        version,
        min_position: min_position(&request.min_position)?,
        explain: false,
    })
}

/// What the rows are over.
fn over(granularity: i32, calendar_unit: i32, time_zone: &str, length: Option<Duration>) -> Result<Grouping, ServingError> {
    let mut grouping = grouping(granularity)?;
    let zone = zone(time_zone)?;
    for (over, field) in [(calendar(calendar_unit, zone)?, "calendar_unit"), (window(length)?, "window")] {
        match (over, grouping) {
            (None, _) => {}
            (Some(_), Grouping::Total) => return Err(ServingError::field(field, "is about buckets; set GRANULARITY_BUCKET")),
            (Some(over), Grouping::Bucket) => grouping = over,
            (Some(_), _) => return Err(ServingError::field(field, "cannot be asked for together with calendar_unit")),
        }
    }
    if !time_zone.is_empty() && !matches!(grouping, Grouping::Calendar(..)) {
        return Err(ServingError::field("time_zone", "is that of calendar_unit, which is not set"));
    }
    Ok(grouping)
}

/// The text of a part of a key; `None` is null.
fn part(value: &Value) -> Result<Option<String>, ServingError> {
    Ok(Some(match &value.kind {
        None => return Ok(None),
        Some(Kind::StringValue(text) | Kind::DecimalValue(text)) => text.clone(),
        Some(Kind::IntValue(number)) => number.to_string(),
        Some(Kind::BoolValue(truth)) => truth.to_string(),
        Some(Kind::TimestampValue(time)) => {
            let time = micros("key_parts", Some(*time))?.and_then(DateTime::from_timestamp_micros);
            let time = time.ok_or_else(|| ServingError::field("key_parts", "have a time that is no date"))?;
            time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
        }
        Some(Kind::DoubleValue(_)) => return Err(ServingError::field("key_parts", "have a double, which is no part of a key")),
    }))
}

fn zone(name: &str) -> Result<Zone, ServingError> {
    let name = if name.is_empty() { "UTC" } else { name };
    // The name that was sent may be anything.
    Zone::parse(name).map_err(|_| ServingError::field("time_zone", "is no name of the IANA database, such as Europe/Berlin"))
}

fn calendar(number: i32, zone: Zone) -> Result<Option<Grouping>, ServingError> {
    let unit = match v1::CalendarUnit::try_from(number) {
        Ok(v1::CalendarUnit::Unspecified) => return Ok(None),
        Ok(v1::CalendarUnit::Day) => Unit::Day,
        Ok(v1::CalendarUnit::Week) => Unit::Week,
        Ok(v1::CalendarUnit::Month) => Unit::Month,
        Ok(v1::CalendarUnit::Quarter) => Unit::Quarter,
        Ok(v1::CalendarUnit::Year) => Unit::Year,
        Err(_) => return Err(ServingError::field("calendar_unit", format!("has no value {number}"))),
    };
    Ok(Some(Grouping::Calendar(unit, zone)))
}

fn window(length: Option<Duration>) -> Result<Option<Grouping>, ServingError> {
    Ok(length.map(|length| length_us("window", length)).transpose()?.map(Grouping::Window))
}

/// A range, and whether it starts and ends with the buckets that hold its ends.
fn range_or_last(
    start: Option<Timestamp>,
    end: Option<Timestamp>,
    last: Option<Duration>,
    now_us: i64,
) -> Result<(TimeRange, bool), ServingError> {
    let mut range = range(start, end)?;
    let Some(last) = last else { return Ok((range, false)) };
    if range.start_us.is_some() {
        return Err(ServingError::field("last", "is instead of start_time; leave one of them out"));
    }
    let end_us = range.end_us.unwrap_or(now_us);
    range.start_us = Some(end_us.saturating_sub(length_us("last", last)?));
    range.end_us = Some(end_us);
    Ok((range, true))
}

/// Microseconds, at least one and at most what there are events for.
fn length_us(field: &str, length: Duration) -> Result<i64, ServingError> {
    const LONGEST_US: i64 = 300 * 366 * 86_400_000_000;
    let micros = length.seconds.checked_mul(1_000_000).and_then(|us| us.checked_add(i64::from(length.nanos / 1000)));
    let micros = micros.filter(|micros| (1..=LONGEST_US).contains(micros));
    micros.ok_or_else(|| ServingError::field(field, "is to be longer than nothing, and shorter than three hundred years"))
}

fn check_id(field: &str, user_id: &str) -> Result<(), ServingError> {
    match user_id.len() {
        0 => Err(ServingError::field(field, "is empty")),
        1..=MAX_USER_ID_BYTES => Ok(()),
        bytes => Err(ServingError::field(field, format!("is {bytes} bytes long; an id has at most {MAX_USER_ID_BYTES}"))),
    }
}

fn range(start: Option<Timestamp>, end: Option<Timestamp>) -> Result<TimeRange, ServingError> {
    Ok(TimeRange { start_us: micros("start_time", start)?, end_us: micros("end_time", end)? })
}

/// Microseconds since 1970. Finer digits are refused: no bucket has an edge there.
fn micros(field: &str, time: Option<Timestamp>) -> Result<Option<i64>, ServingError> {
    let Some(time) = time else { return Ok(None) };
    if !(0..1_000_000_000).contains(&time.nanos) {
        return Err(ServingError::field(field, "has nanos outside 0 to 999,999,999"));
    }
    if time.nanos % 1000 != 0 {
        return Err(ServingError::field(field, "has digits finer than a microsecond, where no bucket has an edge"));
    }
    let micros = time.seconds.checked_mul(1_000_000).and_then(|us| us.checked_add(i64::from(time.nanos / 1000)));
    micros.map(Some).ok_or_else(|| ServingError::field(field, "is outside the years 1900 to 2200, where no event is"))
}

fn grouping(number: i32) -> Result<Grouping, ServingError> {
    match v1::Granularity::try_from(number) {
        Ok(v1::Granularity::Unspecified | v1::Granularity::Total) => Ok(Grouping::Total),
        Ok(v1::Granularity::Bucket) => Ok(Grouping::Bucket),
        Err(_) => Err(ServingError::field("granularity", format!("has no value {number}"))),
    }
}

/// Zero is the version that answers now.
fn version(number: i64) -> Result<Option<i64>, ServingError> {
    match number {
        0 => Ok(None),
        1.. => Ok(Some(number)),
        _ => Err(ServingError::field("version", "is negative; versions are numbered from 1, and 0 is the one that answers now")),
    }
}

/// Who names a version wants what it said, unless he says otherwise.
fn consistency(number: i32, version: Option<i64>) -> Result<Consistency, ServingError> {
    match v1::Consistency::try_from(number) {
        Ok(v1::Consistency::Unspecified) if version.is_some() => Ok(Consistency::BatchOnly),
        Ok(v1::Consistency::Unspecified | v1::Consistency::Fresh) => Ok(Consistency::Fresh),
        Ok(v1::Consistency::BestEffort) => Ok(Consistency::BestEffort),
        Ok(v1::Consistency::BatchOnly) => Ok(Consistency::BatchOnly),
        Err(_) => Err(ServingError::field("consistency", format!("has no value {number}"))),
    }
}

fn min_position(token: &str) -> Result<Option<Position>, ServingError> {
    (!token.is_empty()).then(|| Position::parse(token)).transpose()
}
