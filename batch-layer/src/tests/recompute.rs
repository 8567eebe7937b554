use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use storage::paths::RunPath;

use super::*;
use crate::progress::{Progress, Stage};
use crate::versions;
use crate::{Depth, verify};

/// Proves that a view of random events, late, repeated and out of order, holds what a plain fold of them gives.
#[tokio::test]
async fn equals_the_oracle() {
    for seed in 0..5 {
        let events = random_events(seed, 400);
        let master = Master::with(&events).await;
        let report = master.publish(&master.options()).await;
        let expected = oracle(&events);
        assert_eq!(master.answers().await, expected, "seed {seed}");
        assert_eq!(report.event_count, expected.values().map(|(count, _)| count).sum::<i64>(), "seed {seed}");
        assert!(report.late_duplicate_count > 0 && report.conflict_count == 0, "seed {seed}");
        assert_eq!(report.event_count + report.late_duplicate_count, 400, "seed {seed}");
    }
}

/// Looks into the spill folder while the sorted rows are read.
struct SpillWatch {
    folder: std::path::PathBuf,
    spilled: AtomicBool,
    rows: [AtomicUsize; 3],
}

impl SpillWatch {
    /// Locks are no rows.
    fn files(folder: &Path) -> usize {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let entries = entries.filter(|path| !path.to_string_lossy().to_lowercase().ends_with("lock"));
        entries.map(|path| if path.is_dir() { Self::files(&path) } else { 1 }).sum()
    }
}

impl Progress for SpillWatch {
    fn begin(&self, _: u64) {}

    fn advance(&self, stage: Stage, rows: u64, _: u64) {
        self.rows[stage as usize].fetch_add(rows as usize, Ordering::SeqCst);
        if stage == Stage::Fold && Self::files(&self.folder) > 0 {
            self.spilled.store(true, Ordering::SeqCst);
        }
    }
}

/// Proves that the digest and every answer are the same whatever the memory and the number of threads, with spilling seen to
/// happen under the small limit and not under the large one, and that nothing is left in the spill folder.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_of_its_inputs() {
    let events = random_events(7, 48_000);
    let mut digests = Vec::new();
    let rows = Master::with(&events).await;
    let sorted_bytes = |partition: u32| {
        let end = rows.log[partition as usize].len();
        rows.rows(partition, 0, end).get_array_memory_size() as u64
    };
    // What the largest partition needs to be sorted in memory: its rows, and their copy in order.
    let peak = 2 * (0..PARTITIONS).map(sorted_bytes).max().unwrap();
    let limits = [(1 << 30, 1, false), (2 * peak, 1, false), (peak / 2, 1, true), (peak / 3, 1, true), (2 << 20, 2, true)];
    for (memory_limit_bytes, threads, spills) in limits {
        let master = Master::with(&events).await;
        let folder = tempfile::tempdir().unwrap();
        let threads = NonZeroUsize::new(threads).unwrap();
        let options = RunOptions { memory_limit_bytes, threads, spill_dir: Some(folder.path().to_owned()), ..master.options() };
        let watch = Arc::new(SpillWatch { folder: folder.path().to_owned(), spilled: AtomicBool::new(false), rows: Default::default() });
        let RunOutcome::Published(report) = run(&options, &master.store, watch.clone()).await.unwrap() else { panic!() };
        assert_eq!(watch.spilled.load(Ordering::SeqCst), spills, "limit {memory_limit_bytes}");
        assert_eq!(watch.rows.each_ref().map(|rows| rows.load(Ordering::SeqCst)), [48_000; 3]);
        assert_eq!(SpillWatch::files(folder.path()), 0);
        assert_eq!(master.answers().await, oracle(&events));
        digests.push((report.digest, report.state_rows, report.late_duplicate_count));
    }
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
}

/// Proves that a repeated identity with other content is a conflict, one with the same content a late duplicate, that the lowest
/// offset stays, and that the report in the store names both offsets.
#[tokio::test]
async fn conflicts_and_late_duplicates() {
    let first = event("user-1", "a", 0, 100);
    let other = Event { amount: Some(999), ..first.clone() };
    let events = [first.clone(), event("user-1", "b", 0, 5), other, first];
    let master = Master::with(&events).await;
    let report = master.publish(&master.options()).await;
    assert_eq!((report.late_duplicate_count, report.conflict_count), (1, 1));
    assert_eq!(master.answers().await, oracle(&events));
    let offsets =
        |removed: &[crate::Removed]| removed.iter().map(|r| (r.event_id.clone(), r.kept_offset, r.removed_offset)).collect::<Vec<_>>();
    assert_eq!(offsets(&report.conflicts), [("a".to_owned(), 0, 2)]);
    assert_eq!(offsets(&report.late_duplicates), [("a".to_owned(), 0, 3)]);

    let manifest = master.latest().await.unwrap();
    assert_eq!((manifest.event_count, manifest.late_duplicate_count, manifest.conflict_count), (2, 1, 1));
    let path = RunPath { view: view(), run_id: report.run_id.parse().unwrap() };
    let stored: RunReport = serde_json::from_slice(&master.store.get(&path.path()).await.unwrap()).unwrap();
    assert_eq!((stored.outcome.as_str(), &stored), ("published", &report));
}

/// Proves that users who span many batches, and users alone in theirs, are each folded once and whole.
#[tokio::test]
async fn a_huge_user() {
    let mut events: Vec<Event> = (0..20_000).map(|i| event("user-huge", &format!("h{i}"), i % 3, 1)).collect();
    events.extend((0..50).map(|i| event(&format!("user-{i}"), "only", 1, 7)));
    let master = Master::with(&events).await;
    let options = RunOptions { memory_limit_bytes: 2 << 20, ..master.options() };
    master.publish(&options).await;
    assert_eq!(master.answers().await, oracle(&events));
}

/// Proves that a second run over the same events publishes nothing, that a new event or a new definition makes a version, and
/// that an empty store has nothing to fold.
#[tokio::test]
async fn nothing_to_do() {
    let mut master = Master::with(&[]).await;
    let options = master.options();
    assert!(matches!(master.run(&options).await, Ok(RunOutcome::NothingToDo(_))));
    assert_eq!(versions::table(&[], chrono::DateTime::UNIX_EPOCH), versions::NO_VERSION);

    master.append(&random_events(1, 50)).await;
    assert_eq!(master.publish(&options).await.version, 1);
    assert!(matches!(master.run(&options).await, Ok(RunOutcome::NothingToDo(_))));
    master.append(&[event("user-new", "n", 0, 1)]).await;
    assert_eq!(master.publish(&options).await.version, 2);

    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("user_stats.sql"), "SELECT user_id, count(*) AS event_count FROM events GROUP BY user_id").unwrap();
    let changed = RunOptions { views_dir: folder.path().to_owned(), ..options };
    let report = master.publish(&changed).await;
    assert_eq!(
        (report.version, report.audit_kind.as_str(), report.audit_fallback.as_deref()),
        (3, "second fold", Some("no speed layer at hand"))
    );

    let listed = versions::list(&master.store, &view()).await.unwrap();
    let table = versions::table(&listed, chrono::DateTime::UNIX_EPOCH);
    let starts: Vec<&str> = table.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(starts, ["version", "v3", "v2", "v1"]);
}

/// Proves that a published version can be compared with the raw events that it covers, whole or one user alone, whatever came after;
/// and that one which says something else is found out, with the user named.
#[tokio::test]
async fn verified_again() {
    let check = async |master: &Master, version: i64, first: Option<&str>| {
        let depth = Depth::Recompute { first: first.map(str::to_owned) };
        verify(&master.options(), &master.store, Some(version), depth, Arc::new(Silent)).await
    };
    let mut master = Master::with(&random_events(4, 300)).await;
    assert!(verify(&master.options(), &master.store, None, Depth::Files, Arc::new(Silent)).await.unwrap().is_none());
    let report = master.publish(&master.options()).await;
    master.append(&[event("user-1", "later", 0, 1)]).await;
    assert_eq!(check(&master, 1, None).await.unwrap().unwrap().keys_compared, report.keys_compared);
    assert_eq!(check(&master, 1, Some("user-1")).await.unwrap().unwrap().keys_compared, 1);
    assert_eq!(check(&master, 1, Some("nobody")).await.unwrap().unwrap().keys_compared, 0);

    let manifests = Manifests::new(master.store.clone(), view());
    let lies =
        Manifest { version: 2, parent: Some(1), run_id: "lies".into(), boundary: master.boundary(), ..manifests.read(1).await.unwrap() };
    manifests.publish(&lies).await.unwrap();
    assert_eq!(verify(&master.options(), &master.store, None, Depth::Files, Arc::new(Silent)).await.unwrap().unwrap().manifest.version, 2);
    for first in [None, Some("user-1")] {
        let found = check(&master, 2, first).await.unwrap_err();
        assert!(matches!(&found, RunError::Unlike { version: 2, differences } if differences.named[0].key == "user-1"), "{found}");
    }
    assert!(check(&master, 2, Some("user-2")).await.is_ok());
}

/// Proves that a view with a WHERE counts only what it lets in, and passes its audit.
#[tokio::test]
async fn filtered() {
    let events = random_events(3, 300);
    let master = Master::with(&events).await;
    let folder = tempfile::tempdir().unwrap();
    let sql = "SELECT user_id, count(*) AS event_count, avg(CAST(amount AS DOUBLE)) AS mean, approx_distinct(event_id) AS ids \
               FROM events WHERE amount > 0 GROUP BY user_id";
    std::fs::write(folder.path().join("user_stats.sql"), sql).unwrap();
    let report = master.publish(&RunOptions { views_dir: folder.path().to_owned(), ..master.options() }).await;
    let mut seen = BTreeSet::new();
    let distinct = events.iter().filter(|e| seen.insert((&e.user_id, &e.event_id)));
    assert_eq!(report.event_count, distinct.filter(|e| e.amount.unwrap() > 0).count() as i64);
}
