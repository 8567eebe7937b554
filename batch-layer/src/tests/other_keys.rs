//! Views by another key than the user, whose events lie in all partitions, and views that keep buckets for a time.

use views::key;

use super::fake_speed_layer::FakeSpeedLayer;
use super::*;
use crate::declared as declared_in;

const BY_TYPE: &str = "SELECT event_type, date_trunc('day', event_time) AS day, count(*) AS n, sum(amount) AS revenue
                       FROM events GROUP BY event_type, date_trunc('day', event_time)";

/// A folder with one view, and a run over it.
fn declared(master: &Master, sql: &str) -> (tempfile::TempDir, RunOptions) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("by_type.sql"), sql).unwrap();
    let options = RunOptions { view: "by_type".parse().unwrap(), views_dir: folder.path().to_owned(), ..master.options() };
    (folder, options)
}

/// Random events of few types, some of none.
fn typed_events(seed: u64, count: usize) -> Vec<Event> {
    let mut events = random_events(seed, count);
    for event in &mut events {
        let number: usize = event.event_id[1..].parse().unwrap();
        event.event_type = if number.is_multiple_of(7) { String::new() } else { format!("type-{}", number % 41) };
    }
    events
}

/// Type, `null` for none, and day → count and revenue, from the files of a version.
async fn rows(master: &Master, options: &RunOptions, sql: &str) -> Answers {
    let definition = Definition::parse(sql, &schema()).unwrap();
    let manifest = Manifests::new(master.store.clone(), options.view.clone()).latest().await.unwrap().unwrap();
    let open = OpenView::open(&master.store, manifest, &BlockCache::new(0)).await.unwrap();
    let mut found = Answers::new();
    for shard in 0..open.shards() {
        let states: Vec<RecordBatch> = open.scan(shard).unwrap().try_collect().await.unwrap();
        let rows = fold::finish(&definition, &states, Granularity::Bucket).unwrap();
        for row in 0..rows.num_rows() {
            let key = rows.column(0).as_string::<i32>().value(row);
            assert_eq!(views::shard_of_key(key, PARTITIONS), shard);
            let bucket = rows.column(1).as_primitive::<TimestampMicrosecondType>().value(row);
            let count = rows.column(3).as_primitive::<Int64Type>().value(row);
            let revenue = rows.column(4).as_primitive::<Decimal128Type>().value(row);
            assert_eq!(found.insert((key::for_people(key), bucket / DAY_US), (count, revenue)), None);
        }
    }
    found
}

/// The oracle, by type.
fn by_type(events: &[Event]) -> Answers {
    let mut seen = BTreeSet::new();
    let mut answers = Answers::new();
    for event in events.iter().filter(|event| seen.insert((&event.user_id, &event.event_id))) {
        let kind = if event.event_type.is_empty() { "null" } else { &event.event_type };
        let answer = answers.entry((kind.to_owned(), event.event_time_us.div_euclid(DAY_US))).or_default();
        *answer = (answer.0 + 1, answer.1 + event.amount.unwrap());
    }
    answers
}

/// Proves that events of one key are counted together though they lie in all partitions, each once, and that the view is the same
/// whatever memory and threads there are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_all_partitions() {
    let events = typed_events(5, 6_000);
    let master = Master::with(&events).await;
    let (_folder, options) = declared(&master, BY_TYPE);
    let first = master.publish(&options).await;
    assert_eq!(rows(&master, &options, BY_TYPE).await, by_type(&events));
    assert_eq!((first.audit_kind.as_str(), first.keys_compared), ("second fold", 42));
    let scarce = RunOptions { memory_limit_bytes: 1 << 20, threads: NonZeroUsize::new(2).unwrap(), force: true, ..options.clone() };
    let second = master.publish(&scarce).await;
    assert_eq!((second.version, second.digest), (2, first.digest));
    assert_eq!(rows(&master, &options, BY_TYPE).await, by_type(&events));
}

/// Proves that such a view is compared with what the speed layer folded in all partitions, and that a late row with the identity of
/// another is refolded under its own key, which is the one that the speed layer counted it for.
#[tokio::test]
async fn late_duplicates_of_another_key() {
    // Its key is touched by no other row.
    let own = Event { event_type: "origin".into(), ..event("user-own", "own", 0, 5) };
    let mut events = typed_events(11, 400);
    events.insert(0, own.clone());
    let mut master = Master::with(&events[..200]).await;
    let (_folder, options) = declared(&master, BY_TYPE);
    let url = FakeSpeedLayer { sql: BY_TYPE, ..FakeSpeedLayer::of(&master) }.serve().await;
    master.publish(&RunOptions { speed_layer: Some(url), ..options.clone() }).await;
    let mut later = events[200..].to_vec();
    later.push(Event { event_type: "moved".into(), ..own });
    master.append(&later).await;

    let url = FakeSpeedLayer { sql: BY_TYPE, ..FakeSpeedLayer::of(&master) }.serve().await;
    let report = master.publish(&RunOptions { speed_layer: Some(url), ..options.clone() }).await;
    assert_eq!((report.audit_kind.as_str(), report.audit_fallback.as_deref(), report.conflict_count), ("speed layer", None, 1));
    assert!(report.refolded_keys.contains(&"moved".to_owned()), "{:?}", report.refolded_keys);
    let all: Vec<_> = events[..200].iter().chain(&later).cloned().collect();
    assert_eq!(rows(&master, &options, BY_TYPE).await, by_type(&all));
}

/// Proves that a speed layer that folded one event otherwise stops the publish of such a view, and that the key is named.
#[tokio::test]
async fn a_difference_is_named() {
    let events = typed_events(12, 100);
    let mut master = Master::with(&events[..50]).await;
    let (_folder, options) = declared(&master, BY_TYPE);
    let url = FakeSpeedLayer { sql: BY_TYPE, ..FakeSpeedLayer::of(&master) }.serve().await;
    master.publish(&RunOptions { speed_layer: Some(url), ..options.clone() }).await;
    master.append(&events[50..]).await;
    let mut log = master.log.clone();
    let wrong = log.iter_mut().flat_map(|events| events.last_mut()).next().unwrap();
    wrong.event_type = "never".into();
    let url = FakeSpeedLayer { sql: BY_TYPE, log: Some(log), ..FakeSpeedLayer::of(&master) }.serve().await;
    let error = master.run(&RunOptions { speed_layer: Some(url), ..options.clone() }).await.unwrap_err();
    assert!(error.exit_code() == 1 && error.to_string().contains("never"), "{error}");
    assert_eq!(Manifests::new(master.store.clone(), options.view).newest().await.unwrap(), Some(1));
}

/// Proves that a limit lets whole buckets go, counted back from when the newest event was appended and no matter what their events
/// claim, that the version says so, and that the audit against the speed layer holds over buckets that go.
#[tokio::test]
async fn a_limit() {
    const KEPT: &str = "-- keep: 36h
        SELECT event_type, date_trunc('day', event_time) AS day, count(*) AS n, sum(amount) AS revenue
        FROM events GROUP BY event_type, date_trunc('day', event_time)";
    let events = typed_events(3, 500);
    let mut master = Master::with(&[]).await;
    let (_folder, options) = declared(&master, KEPT);
    let kept_from_day =
        |day: i64| move |events: &[Event]| -> Answers { by_type(events).into_iter().filter(|((_, d), _)| *d >= day).collect() };

    // 36 hours before the end of day 3 is in day 2; before the end of day 4, in day 3.
    for (part, newest_day, first_day) in [(&events[..250], 3, 2), (&events[250..], 4, 3)] {
        master.append_time_us = (newest_day + 1) * DAY_US - 1;
        master.append(part).await;
        let url = FakeSpeedLayer { sql: KEPT, ..FakeSpeedLayer::of(&master) }.serve().await;
        let report = master.publish(&RunOptions { speed_layer: Some(url), ..options.clone() }).await;
        let expected = kept_from_day(first_day)(&events[..if newest_day == 3 { 250 } else { 500 }]);
        assert!(!expected.is_empty());
        assert_eq!(rows(&master, &options, KEPT).await, expected);
        let manifest = Manifests::new(master.store.clone(), options.view.clone()).latest().await.unwrap().unwrap();
        assert_eq!((manifest.as_of, manifest.format_version), (Some((newest_day + 1) * DAY_US - 1), 3));
        assert_eq!(report.audit_kind, if newest_day == 3 { "second fold" } else { "speed layer" });
    }
}

/// Proves that what a limit let go stays gone when the clock of the speed layer, or of the run, is behind that of the version before.
#[tokio::test]
async fn a_limit_never_goes_back() {
    const KEPT: &str = "-- keep: 1d
        SELECT event_type, date_trunc('day', event_time) AS day, count(*) AS n, sum(amount) AS revenue
        FROM events GROUP BY event_type, date_trunc('day', event_time)";
    let events = typed_events(3, 300);
    let mut master = Master::with(&[]).await;
    let (_folder, options) = declared(&master, KEPT);
    for (part, appended_on) in [(&events[..150], 4), (&events[150..], 1)] {
        master.append_time_us = appended_on * DAY_US;
        master.append(part).await;
        let url = FakeSpeedLayer { sql: KEPT, ..FakeSpeedLayer::of(&master) }.serve().await;
        master.publish(&RunOptions { speed_layer: Some(url), ..options.clone() }).await;
        assert!(rows(&master, &options, KEPT).await.keys().all(|(_, day)| *day >= 3));
    }
}

/// Proves that a key which only the WHERE keeps from failing is not asked of events that the view does not count.
#[tokio::test]
async fn a_key_guarded_by_where() {
    const GUARDED: &str = "SELECT CAST(event_type AS BIGINT) AS kind, count(*) AS n, sum(amount) AS revenue
                           FROM events WHERE event_type = '7' GROUP BY CAST(event_type AS BIGINT)";
    let of_type = |id: &str, kind: &str| Event { event_type: kind.into(), ..event("user-1", id, 0, 1) };
    let mut master = Master::with(&[of_type("a", "7"), of_type("b", "hot")]).await;
    let (_folder, options) = declared(&master, GUARDED);
    for more in [vec![], vec![of_type("b", "hot"), of_type("a", "7"), of_type("c", "7")]] {
        master.append(&more).await;
        let url = FakeSpeedLayer { sql: GUARDED, ..FakeSpeedLayer::of(&master) }.serve().await;
        let report = master.publish(&RunOptions { speed_layer: Some(url), ..options.clone() }).await;
        assert_eq!((report.event_count, report.late_duplicate_count), if more.is_empty() { (1, 0) } else { (2, 2) });
    }
}

/// Proves that every file of the folder is a view, that the built-in one is there without, and that a name that is none is refused.
#[test]
fn which_views_there_are() {
    let folder = tempfile::tempdir().unwrap();
    let names = || {
        let (views, misnamed) = declared_in(folder.path()).unwrap();
        (views.iter().map(ToString::to_string).collect::<Vec<_>>(), misnamed)
    };
    assert_eq!(declared_in(&folder.path().join("none")).unwrap().0.len(), 1);
    for file in ["items.sql", "user_stats.sql", "notes.txt"] {
        std::fs::write(folder.path().join(file), "").unwrap();
    }
    assert_eq!(names().0, ["items", "user_stats"]);
    std::fs::write(folder.path().join("My View.sql"), "").unwrap();
    let (views, misnamed) = names();
    assert_eq!(views, ["items", "user_stats"]);
    assert!(misnamed[0].exit_code() == 2 && misnamed[0].to_string().contains("My View.sql"), "{misnamed:?}");
}

/// Proves that the view that answers about users is kept by user.
#[tokio::test]
async fn user_stats_by_another_key() {
    let master = Master::with(&typed_events(1, 10)).await;
    let (folder, options) = declared(&master, BY_TYPE);
    std::fs::rename(folder.path().join("by_type.sql"), folder.path().join("user_stats.sql")).unwrap();
    let error = master.run(&RunOptions { view: view(), ..options }).await.unwrap_err();
    assert!(error.exit_code() == 2 && error.to_string().contains("user_id alone"), "{error}");
}
