//! An answer as one JSON object, in the names of the contract. Decimals and times are texts, null is null.

use std::collections::BTreeMap;

use merganser_proto::v1::value::Kind;
use merganser_proto::v1::{
    Bucket, Explanation, FileRead, GetUserStatsResponse, PartitionOffset, Provenance, Row, SliceContribution, UserStats, Value,
};
use prost_types::Timestamp;
use serde_json::{Map, json};

use super::explanation::millis;
use super::time_text;

/// The object, on lines of its own.
pub(super) fn render(answer: &GetUserStatsResponse) -> anyhow::Result<String> {
    let mut object = answer.stats.as_ref().map(stats).unwrap_or_default();
    object.insert("provenance".to_owned(), answer.provenance.as_ref().map(provenance).into());
    if let Some(halves) = &answer.explanation {
        object.insert("explanation".to_owned(), explanation(halves));
    }
    Ok(serde_json::to_string_pretty(&object)? + "\n")
}

/// Rows of a view, each an object of its columns.
pub(super) fn rows(names: &[String], rows: &[Row], from: Option<&Provenance>) -> serde_json::Value {
    let object = |row: &Row| names.iter().cloned().zip(row.values.iter().map(json_of)).collect::<Map<_, _>>();
    json!({ "columns": names, "rows": rows.iter().map(object).collect::<Vec<_>>(), "provenance": from.map(provenance) })
}

fn explanation(explanation: &Explanation) -> serde_json::Value {
    let file = |file: &FileRead| json!({ "path": file.path, "row_count": file.row_count });
    let slice = |slice: &SliceContribution| {
        json!({
            "partition": slice.partition,
            "start_offset": slice.start_offset,
            "end_offset": slice.end_offset,
            "row_count": slice.row_count,
            "event_count": slice.event_count,
        })
    };
    json!({
        "batch": explanation.batch.as_ref().map(stats),
        "speed": explanation.speed.as_ref().map(stats),
        "parent_version": explanation.parent_version,
        "run_id": text(&explanation.run_id),
        "late_duplicate_count": explanation.late_duplicate_count,
        "conflict_count": explanation.conflict_count,
        "files": explanation.files.iter().map(file).collect::<Vec<_>>(),
        "batch_row_count": explanation.batch_row_count,
        "batch_block_count": explanation.batch_block_count,
        "batch_ms": explanation.batch_duration.as_ref().map(millis),
        "slices": explanation.slices.iter().map(slice).collect::<Vec<_>>(),
        "slices_missing_reason": text(&explanation.slices_missing_reason),
        "speed_ms": explanation.speed_duration.as_ref().map(millis),
    })
}

fn stats(stats: &UserStats) -> Map<String, serde_json::Value> {
    let fields = json!({
        "user_id": stats.user_id,
        "found": stats.found,
        "event_count": stats.event_count,
        "revenue": text(&stats.revenue),
        "first_event_time": time(stats.first_event_time.as_ref()),
        "last_event_time": time(stats.last_event_time.as_ref()),
        "measures": measures(&stats.measures),
        "buckets": stats.buckets.iter().map(bucket).collect::<Vec<_>>(),
    });
    match fields {
        serde_json::Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn bucket(bucket: &Bucket) -> serde_json::Value {
    json!({
        "start_time": time(bucket.start_time.as_ref()),
        "event_count": bucket.event_count,
        "revenue": text(&bucket.revenue),
        "measures": measures(&bucket.measures),
    })
}

fn provenance(provenance: &Provenance) -> serde_json::Value {
    json!({
        "view": provenance.view,
        "version": provenance.version,
        "computed_time": time(provenance.computed_time.as_ref()),
        "boundary": offsets(&provenance.boundary),
        "head": offsets(&provenance.head),
        "complete": provenance.complete,
        "incomplete_reason": text(&provenance.incomplete_reason),
        "batch_event_count": provenance.batch_event_count,
        "speed_event_count": provenance.speed_event_count,
        "fingerprint": provenance.fingerprint,
    })
}

fn offsets(offsets: &[PartitionOffset]) -> Vec<serde_json::Value> {
    offsets.iter().map(|at| json!({ "partition": at.partition, "offset": at.offset })).collect()
}

fn measures(measures: &BTreeMap<String, Value>) -> Map<String, serde_json::Value> {
    measures.iter().map(|(name, value)| (name.clone(), json_of(value))).collect()
}

fn json_of(value: &Value) -> serde_json::Value {
    match &value.kind {
        None => serde_json::Value::Null,
        Some(Kind::IntValue(v)) => json!(v),
        Some(Kind::DoubleValue(v)) => json!(v),
        Some(Kind::DecimalValue(v) | Kind::StringValue(v)) => json!(v),
        Some(Kind::BoolValue(v)) => json!(v),
        Some(Kind::TimestampValue(v)) => json!(time_text(Some(v))),
    }
}

/// Null where the contract has an empty text for nothing.
fn text(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn time(time: Option<&Timestamp>) -> Option<String> {
    time.map(|time| time_text(Some(time)))
}
