use merganser_proto::v1::{Explanation, FileRead, PartitionOffset, Provenance, SliceContribution, UserStats, Value, value::Kind};

use super::*;

fn stats(event_count: i64, revenue: &str, items: i64) -> UserStats {
    UserStats {
        user_id: "14646".into(),
        found: event_count > 0,
        event_count,
        revenue: revenue.into(),
        first_event_time: Some(Timestamp { seconds: 0, nanos: 0 }),
        last_event_time: Some(Timestamp { seconds: 86_400, nanos: 500_000_000 }),
        measures: [("items".to_owned(), Value { kind: Some(Kind::IntValue(items)) })].into(),
        buckets: vec![],
    }
}

fn slice(start_offset: i64, end_offset: i64, event_count: i64) -> SliceContribution {
    SliceContribution { partition: 0, start_offset, end_offset, row_count: event_count.min(1), event_count }
}

fn answer() -> GetUserStatsResponse {
    let provenance = Provenance {
        view: "user_stats".into(),
        version: 3,
        boundary: vec![PartitionOffset { partition: 0, offset: 7 }],
        head: vec![PartitionOffset { partition: 0, offset: 12 }],
        complete: true,
        ..Provenance::default()
    };
    let explanation = Explanation {
        batch: Some(stats(90, "100.5", 7)),
        speed: Some(stats(10, "-0.25", 12)),
        parent_version: 2,
        run_id: "r7".into(),
        late_duplicate_count: 4,
        files: vec![FileRead { path: "views/user_stats/v3-r7/part-00001.parquet".into(), row_count: 640 }],
        batch_row_count: 2,
        batch_block_count: 1,
        batch_duration: Some(prost_types::Duration { seconds: 0, nanos: 420_000 }),
        slices: vec![slice(7, 9, 0), slice(9, 12, 10)],
        speed_duration: Some(prost_types::Duration { seconds: 0, nanos: 1_500_000 }),
        ..Explanation::default()
    };
    GetUserStatsResponse { stats: Some(stats(100, "100.25", 19)), provenance: Some(provenance), explanation: Some(explanation) }
}

/// Proves that the table lines up, halves above the answer, with one line of provenance.
#[test]
fn table() {
    let expected = concat!(
        "        event count  revenue                 first                      last  items\n",
        "batch            90    100.5  1970-01-01T00:00:00Z  1970-01-02T00:00:00.500Z      7\n",
        "speed            10    -0.25  1970-01-01T00:00:00Z  1970-01-02T00:00:00.500Z     12\n",
        "answer          100   100.25  1970-01-01T00:00:00Z  1970-01-02T00:00:00.500Z     19\n",
        "user_stats v3 · boundary [0=7] · head [0=12] · complete\n",
        "v3 by run r7, after v2; it removed 4 late duplicates, 0 of them with other content\n",
        "batch: 2 rows of states in 1 block, 0.420 ms\n",
        "  views/user_stats/v3-r7/part-00001.parquet, which has 640 rows\n",
        "speed: 2 slices, 1.500 ms\n",
        "  partition 0 [9, 12): 10 events in 1 row of states\n",
    );
    assert_eq!(table::render(&answer()).unwrap(), expected);
}

/// Proves that an unknown user is a sentence, and why an answer is incomplete is said.
#[test]
fn unknown_and_incomplete() {
    let mut answer = answer();
    answer.stats = Some(UserStats { user_id: "x".into(), ..UserStats::default() });
    let provenance = answer.provenance.as_mut().unwrap();
    provenance.complete = false;
    provenance.incomplete_reason = "the speed layer is down".into();
    let text = table::render(&answer).unwrap();
    assert!(text.starts_with("user x has no events\n"), "{text}");
    assert!(text.ends_with("incomplete: the speed layer is down\n"), "{text}");
}

/// Proves that the JSON object keeps its names, and that nothing is null and not an empty text.
#[test]
fn json_object() {
    let mut answer = answer();
    answer.stats.as_mut().unwrap().revenue = String::new();
    let object: serde_json::Value = serde_json::from_str(&json::render(&answer).unwrap()).unwrap();
    assert_eq!(object["event_count"], 100);
    assert_eq!(object["revenue"], serde_json::Value::Null);
    assert_eq!(object["measures"]["items"], 19);
    assert_eq!(object["explanation"]["speed"]["revenue"], "-0.25");
    assert_eq!(object["explanation"]["slices"][1]["event_count"], 10);
    assert_eq!(object["explanation"]["files"][0]["row_count"], 640);
    assert_eq!(object["explanation"]["batch_ms"], 0.42);
    assert_eq!(object["provenance"]["head"][0]["offset"], 12);
    assert_eq!(object["last_event_time"], "1970-01-02T00:00:00.500Z");
}

/// Proves that a date is midnight UTC, a time is brought to UTC, and other texts are refused.
#[test]
fn dates() {
    let day = parse_date("2024-01-31").unwrap();
    assert_eq!(day.to_rfc3339(), "2024-01-31T00:00:00+00:00");
    assert_eq!(parse_date("2024-01-31T02:00:00+02:00").unwrap(), day);
    assert!(parse_date("31.1.2024").is_err() && parse_date("2024-01-31T02:00:00").is_err());
}
