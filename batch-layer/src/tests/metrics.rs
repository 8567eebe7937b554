//! The file that runs leave for Prometheus.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use chrono::{DateTime, Utc};
use storage::paths::ViewName;

use super::*;
use crate::metrics::{Attempt, write};

fn at(seconds: i64, exit_code: u8) -> Attempt {
    Attempt { exit_code, started: DateTime::<Utc>::from_timestamp(seconds, 0).unwrap(), elapsed: Duration::from_millis(1500) }
}

/// The samples of a file, by name and labels as they stand there.
fn samples(file: &Path) -> BTreeMap<String, f64> {
    let text = std::fs::read_to_string(file).unwrap();
    let sample = |line: &str| line.rsplit_once(' ').map(|(sample, value)| (sample.to_owned(), value.parse().unwrap()));
    text.lines().filter(|line| !line.starts_with('#')).map(|line| sample(line).unwrap()).collect()
}

/// Proves that the file has where every row went, that a failed run changes how the last run ended and not when the last good one was, that
/// a run that finds nothing to do is a good one, also when the next one is over another view, and that anybody may read it.
#[tokio::test]
async fn what_runs_leave() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("merganser.prom");
    // Two repeated, of which one has another content.
    let mut events: Vec<Event> = (0..20).map(|i| event("user-1", &format!("e{i}"), i % 3, 7)).collect();
    events.push(events[3].clone());
    events.push(Event { event_type: "other".to_owned(), ..events[4].clone() });
    let master = Master::with(&events).await;
    let report = master.publish(&master.options()).await;
    let published = DateTime::parse_from_rfc3339(&master.latest().await.unwrap().created_time).unwrap().timestamp_micros() as f64 / 1e6;
    let name = |metric: &str| format!("merganser_batch_{metric}{{view=\"user_stats\"}}");
    let place = |place: &str| format!("merganser_batch_rows{{view=\"user_stats\",place=\"{place}\"}}");

    // What the process does not know is in the store.
    write(&master.store, &BTreeMap::new(), &file).await.unwrap();
    let first = samples(&file);
    let rows = [("log", 22.0), ("segments", 22.0), ("imports", 0.0), ("counted", 20.0), ("late_duplicates", 1.0), ("conflicts", 1.0)];
    for (term, rows) in rows {
        assert_eq!(first[&place(term)], rows, "{term}");
    }
    assert_eq!((first[&name("version")], first[&name("events")], first[&name("last_run_exit_code")]), (1.0, 20.0, 0.0));
    assert_eq!(first[&name("last_success_timestamp_seconds")], published);
    assert_eq!(first[&name("last_run_duration_seconds")], report.elapsed_ms as f64 / 1e3);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);

    let later = published as i64 + 1000;
    let failed = BTreeMap::from([(view(), at(later, 4))]);
    write(&master.store, &failed, &file).await.unwrap();
    let second = samples(&file);
    assert_eq!((second[&name("last_run_exit_code")], second[&name("last_run_timestamp_seconds")]), (4.0, later as f64));
    assert_eq!((second[&name("last_success_timestamp_seconds")], second[&place("counted")]), (published, 20.0));

    let nothing_to_do = BTreeMap::from([(view(), at(later, 99))]);
    write(&master.store, &nothing_to_do, &file).await.unwrap();
    assert_eq!(samples(&file)[&name("last_success_timestamp_seconds")], later as f64 + 1.5);
    let other: ViewName = "other".parse().unwrap();
    write(&master.store, &BTreeMap::from([(other, at(later + 5, 2))]), &file).await.unwrap();
    let last = samples(&file);
    assert_eq!(last[&name("last_success_timestamp_seconds")], later as f64 + 1.5);
    assert_eq!(last["merganser_batch_last_run_exit_code{view=\"other\"}"], 2.0);
    assert!(!last.contains_key("merganser_batch_last_success_timestamp_seconds{view=\"other\"}"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// Proves that a file that cannot be written is an error that names it.
#[tokio::test]
async fn what_cannot_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let master = Master::with(&[event("user-1", "e", 1, 7)]).await;
    let error = write(&master.store, &BTreeMap::new(), &folder.path().join("missing/merganser.prom")).await.unwrap_err();
    assert!(error.to_string().contains("missing/merganser.prom cannot be used"), "{error}");
}
