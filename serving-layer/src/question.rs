//! A question, and what can be wrong with it once the view is known.

use std::collections::BTreeSet;

use chrono::{DateTime, SecondsFormat};
use views::{Definition, key};

use crate::ServingError;
use crate::grouping::Grouping;
use crate::position::Position;

/// Most users of one question.
pub(crate) const MAX_USERS: usize = 1000;
/// 1900-01-01T00:00:00Z in microseconds: no event is earlier.
const FIRST_US: i64 = -2_208_988_800_000_000;
/// 2200-01-01T00:00:00Z in microseconds: every event is earlier.
const END_US: i64 = 7_258_118_400_000_000;

/// The first and the last bucket may reach so far beyond the first and the last event.
const SLACK_US: i64 = 366 * 86_400_000_000;

/// What an answer must contain to be given at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consistency {
    /// Both halves.
    Fresh,
    /// Both halves if they can be had, else the batch half, marked incomplete.
    BestEffort,
    /// The batch half.
    BatchOnly,
}

/// Whom or what a question is about.
#[derive(Clone, Debug)]
pub(crate) enum About {
    /// Users, each by itself, in the order of the answer; one may come twice. Of a view whose key is the user alone.
    Users(Vec<String>),
    /// All keys that begin with these columns, each a text of the column's value or null. None at all means every key.
    Beginning {
        parts: Vec<Option<String>>,
        /// The field of the request that has them.
        field: &'static str,
    },
}

/// What somebody wants to know.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) about: About,
    pub(crate) range: TimeRange,
    /// Whether the ends of the range are moments somewhere within the first and the last bucket, and not edges.
    pub(crate) within_buckets: bool,
    pub(crate) grouping: Grouping,
    pub(crate) consistency: Consistency,
    /// The version that is to answer, if not that of now.
    pub(crate) version: Option<i64>,
    pub(crate) min_position: Option<Position>,
    /// Whether the halves are shown apart as well.
    pub(crate) explain: bool,
}

/// A question in the terms of one version.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    /// As the view has them; distinct, in order.
    pub(crate) keys: Vec<String>,
    /// Whether all keys are meant that begin so.
    pub(crate) begin: bool,
    /// What the answer is over.
    pub(crate) range: TimeRange,
    /// What has to be read for that.
    pub(crate) read: TimeRange,
}

impl Question {
    /// Refuses what a version with `definition`, which keeps buckets from `kept_from` on, cannot answer.
    pub(crate) fn resolve(&self, definition: &Definition, kept_from: Option<i64>) -> Result<Resolved, ServingError> {
        if self.grouping != Grouping::Total && !definition.has_buckets() {
            return Err(ServingError::field("granularity", "the view has no buckets; ask for GRANULARITY_TOTAL"));
        }
        let (keys, begin) = match &self.about {
            About::Users(users) => (users.iter().collect::<BTreeSet<_>>().into_iter().cloned().collect(), false),
            About::Beginning { parts, field } => {
                let texts: Vec<Option<&str>> = parts.iter().map(Option::as_deref).collect();
                let parts = definition.canonical_parts(&texts).map_err(|reason| ServingError::field(*field, reason))?;
                let parts = || parts.iter().map(Option::as_deref);
                match parts().len() {
                    0 => (vec![String::new()], true),
                    all if all == definition.key_columns().len() => (vec![key::encode(parts())], false),
                    _ => (vec![key::prefix(parts())], true),
                }
            }
        };
        let mut range = self.range;
        if self.within_buckets && definition.has_buckets() {
            // Before the first event there is nothing to start from.
            range.start_us = range
                .start_us
                .filter(|start_us| *start_us > FIRST_US)
                .map(|us| definition.edges_near(us.min(END_US)))
                .transpose()?
                .map(|e| e.start_us);
            range.end_us = range.end_us.map(|us| end_edge(definition, us.clamp(FIRST_US, END_US))).transpose()?;
        }
        range.check(definition)?;
        let before = range.start_us.map(|start_us| start_us.saturating_sub(self.grouping.reach_us()));
        Ok(Resolved { keys, begin, range, read: TimeRange { start_us: before.max(kept_from), ..range } })
    }
}

/// The first edge at or after a moment.
fn end_edge(definition: &Definition, time_us: i64) -> Result<i64, ServingError> {
    let edges = definition.edges_near(time_us)?;
    Ok(if edges.start_us == time_us { time_us } else { edges.end_us })
}

/// A half-open range of event time in microseconds since 1970, open where an end is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TimeRange {
    pub(crate) start_us: Option<i64>,
    pub(crate) end_us: Option<i64>,
}

impl TimeRange {
    /// Whether every event is in it.
    pub(crate) fn is_everything(self) -> bool {
        self == Self::default()
    }

    /// Whether a bucket that starts at `bucket_us` is in it; the ends are on edges, so no bucket is half in.
    pub(crate) fn holds(self, bucket_us: i64) -> bool {
        self.start_us.is_none_or(|start| start <= bucket_us) && self.end_us.is_none_or(|end| bucket_us < end)
    }

    fn check(self, definition: &Definition) -> Result<(), ServingError> {
        for (field, time) in [("start_time", self.start_us), ("end_time", self.end_us)] {
            if let Some(time_us) = time {
                check_edge(field, time_us, definition)?;
            }
        }
        match (self.start_us, self.end_us) {
            (Some(start), Some(end)) if start >= end => {
                Err(ServingError::field("end_time", "is not after start_time; a range is half-open, its end exclusive"))
            }
            _ => Ok(()),
        }
    }
}

fn check_edge(field: &str, time_us: i64, definition: &Definition) -> Result<(), ServingError> {
    if !(FIRST_US - SLACK_US..=END_US + SLACK_US).contains(&time_us) {
        return Err(ServingError::field(field, "is outside the years 1900 to 2200, where no event is"));
    }
    if !definition.has_buckets() {
        return Err(ServingError::field(field, "the view has no time buckets and answers over all time only"));
    }
    let edges = definition.edges_near(time_us)?;
    if edges.start_us == time_us {
        return Ok(());
    }
    let (before, after) = (rfc3339(edges.start_us), rfc3339(edges.end_us));
    Err(ServingError::field(field, format!("is inside a bucket of the view; the nearest edges are {before} and {after}")))
}

/// RFC 3339 in UTC.
pub(crate) fn rfc3339(time_us: i64) -> String {
    let time = DateTime::from_timestamp_micros(time_us).expect("an edge near the years 1900 to 2200 is a date");
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

#[cfg(test)]
mod tests {
    use views::EventSchema;

    use super::*;

    const DAY_US: i64 = 86_400_000_000;

    fn refusal(range: TimeRange, sql: &str) -> Option<String> {
        let definition = Definition::parse(sql, &EventSchema::default()).unwrap();
        range.check(&definition).err().map(|e| e.to_string())
    }

    fn range(start_us: i64, end_us: i64) -> TimeRange {
        TimeRange { start_us: Some(start_us), end_us: Some(end_us) }
    }

    /// Proves that ranges on edges pass up to the ends of time, and that others are refused with the edges around them.
    #[test]
    fn edges() {
        let daily = views::definition::USER_STATS_SQL;
        assert_eq!(refusal(range(0, DAY_US), daily), None);
        assert_eq!(refusal(range(FIRST_US, END_US), daily), None);
        assert_eq!(
            refusal(range(0, DAY_US + 1), daily).unwrap(),
            "end_time: is inside a bucket of the view; the nearest edges are 1970-01-02T00:00:00Z and 1970-01-03T00:00:00Z"
        );
        assert!(refusal(range(DAY_US, DAY_US), daily).unwrap().starts_with("end_time: is not after"));
        assert!(refusal(range(FIRST_US - 400 * DAY_US, 0), daily).unwrap().contains("1900 to 2200"));
        assert!(refusal(range(0, END_US + 400 * DAY_US), daily).unwrap().contains("1900 to 2200"));
    }

    /// Proves that a view without buckets takes neither ranges nor the question for buckets.
    #[test]
    fn no_buckets() {
        let sql = "SELECT user_id, count(*) AS event_count FROM events GROUP BY user_id";
        assert!(refusal(range(0, DAY_US), sql).unwrap().contains("no time buckets"));
        assert_eq!(refusal(TimeRange::default(), sql), None);
    }
}
