//! An answer as a small table, and one line that says where it came from.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use merganser_proto::v1::value::Kind;
use merganser_proto::v1::{Bucket, GetUserStatsResponse, PartitionOffset, Provenance, UserStats, Value};

use super::{explanation, time_text};

/// Between two columns.
const GAP: &str = "  ";
/// The times that a bucket has among its measures, where a user has fields for them.
const TIMES: [&str; 2] = ["first_event_time", "last_event_time"];

/// One line of the table, before it is aligned.
struct Line {
    label: String,
    event_count: i64,
    revenue: String,
    /// First and last event.
    times: [String; 2],
    measures: BTreeMap<String, String>,
}

/// The table and its line of provenance; for an unknown user one sentence.
pub(super) fn render(answer: &GetUserStatsResponse) -> anyhow::Result<String> {
    let stats = answer.stats.as_ref().context("the server sent no statistics")?;
    let provenance = answer.provenance.as_ref().context("the server sent no provenance")?;
    let from = source(provenance);
    if !stats.found {
        return Ok(format!("user {} has no events\n{from}\n", stats.user_id));
    }
    let mut lines = Vec::new();
    if let Some(halves) = &answer.explanation {
        lines.extend(halves.batch.as_ref().map(|half| Line::of_user("batch", half)));
        lines.extend(halves.speed.as_ref().map(|half| Line::of_user("speed", half)));
    }
    let label = if lines.is_empty() { stats.user_id.as_str() } else { "answer" };
    lines.push(Line::of_user(label, stats));
    lines.extend(stats.buckets.iter().map(Line::of_bucket));
    let made_of = answer.explanation.as_ref().map_or_else(String::new, |explanation| explanation::render(explanation, provenance.version));
    Ok(format!("{}{from}\n{made_of}", aligned(&cells(&lines))))
}

impl Line {
    fn of_user(label: &str, stats: &UserStats) -> Self {
        Self {
            label: label.to_owned(),
            event_count: stats.event_count,
            revenue: stats.revenue.clone(),
            times: [time_text(stats.first_event_time.as_ref()), time_text(stats.last_event_time.as_ref())],
            measures: texts(&stats.measures),
        }
    }

    fn of_bucket(bucket: &Bucket) -> Self {
        let mut measures = texts(&bucket.measures);
        Self {
            label: time_text(bucket.start_time.as_ref()),
            event_count: bucket.event_count,
            revenue: bucket.revenue.clone(),
            times: TIMES.map(|name| measures.remove(name).unwrap_or_default()),
            measures,
        }
    }
}

fn texts(measures: &BTreeMap<String, Value>) -> BTreeMap<String, String> {
    measures.iter().map(|(name, value)| (name.clone(), text(value))).collect()
}

pub(super) fn text(value: &Value) -> String {
    match &value.kind {
        None => "null".to_owned(),
        Some(Kind::IntValue(v)) => v.to_string(),
        Some(Kind::DoubleValue(v)) => v.to_string(),
        Some(Kind::DecimalValue(v) | Kind::StringValue(v)) => v.clone(),
        Some(Kind::BoolValue(v)) => v.to_string(),
        Some(Kind::TimestampValue(v)) => time_text(Some(v)),
    }
}

/// The header and a row for each line; every measure that some line has is a column.
fn cells(lines: &[Line]) -> Vec<Vec<String>> {
    let measures: BTreeSet<&str> = lines.iter().flat_map(|line| line.measures.keys().map(String::as_str)).collect();
    let fixed = ["", "event count", "revenue", "first", "last"].into_iter();
    let header = fixed.chain(measures.iter().copied()).map(str::to_owned).collect();
    let rows = lines.iter().map(|line| {
        let [first, last] = line.times.clone();
        let mut row = vec![line.label.clone(), line.event_count.to_string(), line.revenue.clone(), first, last];
        row.extend(measures.iter().map(|name| line.measures.get(*name).cloned().unwrap_or_default()));
        row
    });
    std::iter::once(header).chain(rows).collect()
}

/// Labels to the left, all else to the right.
pub(super) fn aligned(rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(i, (cell, width))| match i {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        text += cells.collect::<Vec<_>>().join(GAP).trim_end();
        text.push('\n');
    }
    text
}

pub(super) fn source(provenance: &Provenance) -> String {
    let Provenance { view, version, boundary, head, .. } = provenance;
    let version = if *version == 0 { "not published yet".to_owned() } else { format!("v{version}") };
    let complete = if provenance.complete { "complete".to_owned() } else { format!("incomplete: {}", provenance.incomplete_reason) };
    format!("{view} {version} · boundary {} · head {} · {complete}", offsets(boundary), offsets(head))
}

fn offsets(offsets: &[PartitionOffset]) -> String {
    if offsets.is_empty() {
        return "none".to_owned();
    }
    let pairs = offsets.iter().map(|at| format!("{}={}", at.partition, at.offset));
    format!("[{}]", pairs.collect::<Vec<_>>().join(" "))
}
