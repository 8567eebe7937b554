//! What running servers tell: that their numbers are true, that the documented names are those that there are, and that readiness
//! says no when it is no.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use integration_tests::cluster::Cluster;
use integration_tests::scrape::{Scrape, get};
use merganser_proto::v1::{AppendEventsRequest, Consistency, Event, GetUserStatsRequest};
use prost_types::Timestamp;
use storage::config::{Config, Period};
use storage::manifest::Manifests;
use storage::paths::ViewName;

const FAILED_QUESTIONS: &str = r#"merganser_serving_calls_total{method="GetUserStats",code="UNAVAILABLE"}"#;
/// In no label, nor anywhere else in what is told.
const USER: &str = "somebody-special";

fn event(id: usize) -> Event {
    let user_id = format!("{USER}-{}", id % 5);
    let event_time = Some(Timestamp { seconds: 1_700_000_000, nanos: 0 });
    Event { event_id: format!("event-{id}"), user_id, event_time, amount: "1.50".to_owned(), ..Event::default() }
}

async fn send(cluster: &Cluster, events: Vec<Event>) {
    cluster.ingest.clone().append_events(AppendEventsRequest { events }).await.unwrap();
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Names and types, as the tables of docs/operations.md have them.
fn documented() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(repository().join("docs/operations.md")).unwrap();
    let row = |line: &str| {
        let (name, rest) = line.strip_prefix("| `merganser_")?.split_once("` | ")?;
        Some((format!("merganser_{name}"), rest.split(' ').next()?.to_owned()))
    };
    let rows: Vec<_> = text.lines().filter_map(row).collect();
    let names = rows.iter().cloned().collect::<BTreeMap<_, _>>();
    assert_eq!(names.len(), rows.len(), "a name stands twice in the tables");
    names
}

/// A cluster to which good, bad, repeated and contradicting rows were sent, with a version and questions.
async fn used(folder: &Path) -> (Cluster, Scrape) {
    let adjust = |config: &mut Config| {
        config.log.partitions = 2;
        config.events.attributes.insert("quantity".to_owned(), "int64".to_owned().try_into().unwrap());
    };
    let cluster = Cluster::start(false, adjust).await.unwrap();
    let bad = |change: fn(&mut Event)| {
        let mut event = event(1000);
        change(&mut event);
        event
    };
    send(&cluster, (0..50).map(event).collect()).await;
    // 10 of them again, 20 new ones; one with another content; one of each fault.
    let mut second: Vec<_> = (40..70).map(event).collect();
    second.push(Event { amount: "2".to_owned(), ..event(3) });
    second.push(bad(|event| event.user_id.clear()));
    second.push(bad(|event| event.user_id = "x".repeat(2000)));
    second.push(bad(|event| event.amount = USER.to_owned()));
    second.push(bad(|event| event.event_time = None));
    second.push(bad(|event| event.event_time = Some(Timestamp { seconds: i64::MAX, nanos: 0 })));
    second.push(bad(|event| drop(event.attributes.insert("quantity".to_owned(), USER.to_owned()))));
    send(&cluster, second).await;
    // A record that is no event.
    cluster.erase(&format!("{USER}-gone")).await.unwrap();
    let version = cluster.batch_run().await.unwrap().unwrap();
    cluster.wait_for_version(version).await.unwrap();
    cluster.erase(&format!("{USER}-gone")).await.unwrap();
    send(&cluster, (70..75).map(event).collect()).await;
    for _ in 0..2 {
        let question = GetUserStatsRequest { user_id: format!("{USER}-0"), ..GetUserStatsRequest::default() };
        cluster.stats.clone().get_user_stats(question).await.unwrap();
    }
    let file = folder.join("merganser.prom");
    batch_layer::metrics::write(&cluster.store(), &BTreeMap::new(), &file).await.unwrap();
    let batch = Scrape::parse(&std::fs::read_to_string(file).unwrap()).unwrap();
    (cluster, batch)
}

/// Proves that every metric that servers and runs tell is in the tables of docs/operations.md with its type, that every one in the tables
/// is told, and that nobody's id is a label.
#[tokio::test(flavor = "multi_thread")]
async fn names_are_those_of_the_tables() {
    let folder = tempfile::tempdir().unwrap();
    let (cluster, batch) = used(folder.path()).await;
    let speed = Scrape::of(cluster.speed_http().unwrap()).await.unwrap();
    let serving = Scrape::of(cluster.serving_http().unwrap()).await.unwrap();
    let mut told = BTreeMap::new();
    for (scrape, prefix) in [(&speed, "merganser_speed_"), (&serving, "merganser_serving_"), (&batch, "merganser_batch_")] {
        for (name, kind) in &scrape.types {
            assert!(name.starts_with(prefix), "{name}");
            told.insert(name.clone(), kind.clone());
        }
        let samples: Vec<&String> = scrape.samples.keys().collect();
        let personal: Vec<_> = samples.iter().filter(|sample| sample.contains(USER) || sample.contains("event-")).collect();
        assert!(personal.is_empty(), "{personal:?}");
        assert!(samples.len() < 1000, "{} samples", samples.len());
    }
    assert_eq!(told, documented());
    cluster.stop().await.unwrap();
}

/// Proves that the alert rules, their tests and the dashboard ask for metrics that there are, and for all of a kind by its own names.
#[test]
fn rules_and_dashboard_ask_for_what_there_is() {
    let mut known = BTreeSet::new();
    for (name, kind) in documented() {
        if kind == "histogram" {
            known.extend(["_bucket", "_sum", "_count"].map(|suffix| format!("{name}{suffix}")));
        } else {
            known.insert(name);
        }
    }
    let dashboard = std::fs::read_to_string(repository().join("deploy/grafana/merganser.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let mut expressions: Vec<String> = targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect();
    assert!(expressions.len() > 30, "{}", expressions.len());
    for file in ["rules.yml", "rules_test.yml"] {
        expressions.push(std::fs::read_to_string(repository().join("deploy/prometheus").join(file)).unwrap());
    }
    let mut asked = BTreeSet::new();
    for expression in &expressions {
        let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        asked.extend(words.filter(|word| word.starts_with("merganser_")).map(str::to_owned));
    }
    let unknown: Vec<_> = asked.difference(&known).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    // Nothing is counted for nobody: a metric that no panel and no alert asks for is told to those who look for it by themselves.
    assert!(asked.len() > 40, "{}", asked.len());
}

/// Proves that the numbers of both servers and of a run are those of what was sent and asked, counted by hand.
#[tokio::test(flavor = "multi_thread")]
async fn numbers_are_true() {
    let folder = tempfile::tempdir().unwrap();
    let (mut cluster, batch) = used(folder.path()).await;
    let speed = Scrape::of(cluster.speed_http().unwrap()).await.unwrap();
    let expected = [
        ("merganser_speed_ready", 1.0),
        ("merganser_speed_rows_received_total", 92.0),
        (r#"merganser_speed_rows_total{outcome="accepted"}"#, 75.0),
        (r#"merganser_speed_rows_total{outcome="duplicate"}"#, 10.0),
        (r#"merganser_speed_rows_total{outcome="refused"}"#, 7.0),
        (r#"merganser_speed_rows_total{outcome="failed"}"#, 0.0),
        (r#"merganser_speed_refused_rows_total{reason="conflict"}"#, 1.0),
        (r#"merganser_speed_refused_rows_total{reason="missing"}"#, 2.0),
        (r#"merganser_speed_refused_rows_total{reason="too_long"}"#, 1.0),
        (r#"merganser_speed_refused_rows_total{reason="amount"}"#, 1.0),
        (r#"merganser_speed_refused_rows_total{reason="event_time"}"#, 1.0),
        (r#"merganser_speed_refused_rows_total{reason="attribute"}"#, 1.0),
        (r#"merganser_speed_refused_rows_total{reason="other"}"#, 0.0),
        ("merganser_speed_log_events_total", 75.0),
        ("merganser_speed_log_failed", 0.0),
        ("merganser_speed_dead_letters", 7.0),
        ("merganser_speed_dead_letter_limit_bytes", (1u64 << 30) as f64),
        ("merganser_speed_disk_reserve_bytes", (1u64 << 20) as f64),
        ("merganser_speed_queue_bytes", 0.0),
        ("merganser_speed_damaged_segments", 0.0),
    ];
    for (sample, value) in expected {
        assert_eq!(speed.value(sample).unwrap(), value, "{sample}");
    }
    let sums = [
        ("merganser_speed_log_head_offset", 77.0),
        ("merganser_speed_log_archived_offset", 71.0),
        ("merganser_speed_log_records", 77.0),
        ("merganser_speed_log_full", 0.0),
        ("merganser_speed_queue_appends", 0.0),
    ];
    for (name, value) in sums {
        assert_eq!(speed.sum(name), value, "{name}");
    }
    // One empty request of the cluster's own, to see whether it serves.
    let appends = speed.value(r#"merganser_speed_appends_total{outcome="acknowledged"}"#).unwrap();
    assert_eq!(appends, speed.value("merganser_speed_append_duration_seconds_count").unwrap());
    assert_eq!(appends, speed.value(r#"merganser_speed_calls_total{method="AppendEvents",code="OK"}"#).unwrap());
    assert!(speed.value("merganser_speed_log_sync_duration_seconds_count").unwrap() >= 3.0);
    assert!(speed.value("merganser_speed_disk_free_bytes").unwrap() > 0.0);
    assert!(speed.sum("merganser_speed_log_bytes") > 0.0 && speed.sum("merganser_speed_slice_bytes") > 0.0);
    assert!(speed.sum("merganser_speed_oldest_unarchived_age_seconds") > 0.0);

    let serving = Scrape::of(cluster.serving_http().unwrap()).await.unwrap();
    let expected = [
        ("merganser_serving_ready", 1.0),
        ("merganser_serving_speed_layer_reachable", 1.0),
        (r#"merganser_serving_version{view="user_stats"}"#, 1.0),
        (r#"merganser_serving_version_damaged{view="user_stats"}"#, 0.0),
        (r#"merganser_serving_swaps_total{view="user_stats"}"#, 1.0),
        (r#"merganser_serving_incomplete_answers_total{reason="speed_layer_unavailable"}"#, 0.0),
        ("merganser_serving_watches", 0.0),
    ];
    for (sample, value) in expected {
        assert_eq!(serving.value(sample).unwrap(), value, "{sample}");
    }
    // The same user twice.
    assert!(serving.value("merganser_serving_cache_misses_total").unwrap() >= 1.0);
    assert!(serving.value("merganser_serving_cache_hits_total").unwrap() >= 1.0);
    assert_eq!(serving.sum("merganser_serving_version_boundary_offset"), 71.0);
    let newest = Manifests::new(cluster.store(), ViewName::user_stats()).latest().await.unwrap().unwrap();
    let computed = chrono_seconds(&newest.created_time);
    assert_eq!(serving.value(r#"merganser_serving_version_computed_timestamp_seconds{view="user_stats"}"#).unwrap(), computed);
    let rows = |place: &str| batch.value(&format!(r#"merganser_batch_rows{{view="user_stats",place="{place}"}}"#)).unwrap();
    assert_eq!(["log", "segments", "erasures", "counted", "late_duplicates", "imports"].map(rows), [71.0, 70.0, 1.0, 70.0, 0.0, 0.0]);
    assert_eq!(batch.value(r#"merganser_batch_last_run_exit_code{view="user_stats"}"#).unwrap(), 0.0);
    assert_eq!(batch.value(r#"merganser_batch_last_success_timestamp_seconds{view="user_stats"}"#).unwrap(), computed);

    // Without the speed layer.
    let before = serving.samples.get(FAILED_QUESTIONS).copied().unwrap_or_default();
    cluster.stop_speed().await.unwrap();
    let question = |consistency: Consistency| GetUserStatsRequest {
        user_id: format!("{USER}-0"),
        consistency: consistency.into(),
        ..GetUserStatsRequest::default()
    };
    assert!(
        !cluster.stats.clone().get_user_stats(question(Consistency::BestEffort)).await.unwrap().into_inner().provenance.unwrap().complete
    );
    cluster.stats.clone().get_user_stats(question(Consistency::Fresh)).await.unwrap_err();
    let serving = Scrape::of(cluster.serving_http().unwrap()).await.unwrap();
    assert_eq!(serving.value(r#"merganser_serving_incomplete_answers_total{reason="speed_layer_unavailable"}"#).unwrap(), 1.0);
    assert_eq!(serving.value(FAILED_QUESTIONS).unwrap(), before + 1.0);
    assert_eq!(serving.value("merganser_serving_ready").unwrap(), 1.0);
    cluster.start_speed().await.unwrap();
    cluster.stop().await.unwrap();
}

/// RFC 3339 in UTC, as manifests have it, with milliseconds or microseconds.
fn chrono_seconds(text: &str) -> f64 {
    let time: prost_types::Timestamp = text.parse().unwrap();
    (time.seconds * 1_000_000 + i64::from(time.nanos / 1000)) as f64 / 1e6
}

/// Proves that a server over a version whose files are damaged says that it is not ready, and why, though it lives; and that it is
/// ready again when they are whole.
#[tokio::test(flavor = "multi_thread")]
async fn not_ready_while_damaged() {
    let cluster = Cluster::start(false, |config| config.serving_layer.scrub_interval = Period::from_millis(20)).await.unwrap();
    send(&cluster, (0..50).map(event).collect()).await;
    let version = cluster.batch_run().await.unwrap().unwrap();
    cluster.wait_for_version(version).await.unwrap();
    let http = cluster.serving_http().unwrap();
    assert_eq!(get(http, "/readyz").await.unwrap(), (200, "ready\n".to_owned()));
    let newest = Manifests::new(cluster.store(), ViewName::user_stats()).latest().await.unwrap().unwrap();
    let file = cluster.folder().join("store").join(&newest.files[0].path);
    let whole = std::fs::read(&file).unwrap();
    let mut spoilt = whole.clone();
    spoilt[whole.len() / 2] ^= 1;
    std::fs::write(&file, spoilt).unwrap();
    let (status, reason) = when(http, |status| status != 200).await;
    assert_eq!(status, 503);
    assert!(reason.starts_with("not ready: version 1 of user_stats is damaged: ") && reason.contains(&newest.files[0].path), "{reason}");
    assert_eq!(get(http, "/healthz").await.unwrap(), (200, "alive\n".to_owned()));
    let scrape = Scrape::of(http).await.unwrap();
    assert_eq!(scrape.value("merganser_serving_ready").unwrap(), 0.0);
    assert_eq!(scrape.value(r#"merganser_serving_version_damaged{view="user_stats"}"#).unwrap(), 1.0);
    std::fs::write(&file, whole).unwrap();
    assert_eq!(when(http, |status| status == 200).await.1, "ready\n");
    cluster.stop().await.unwrap();
}

async fn when(http: std::net::SocketAddr, holds: impl Fn(u16) -> bool) -> (u16, String) {
    for _ in 0..3000 {
        let answer = get(http, "/readyz").await.unwrap();
        if holds(answer.0) {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited in vain");
}
