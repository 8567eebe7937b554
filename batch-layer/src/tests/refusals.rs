use std::sync::atomic::{AtomicBool, Ordering};

use storage::manifest::{FORMAT_VERSION, ViewFile};
use storage::store::StoreError;

use super::*;
use crate::progress::{Progress, Stage};

fn full_text(error: RunError) -> String {
    format!("{:#}", anyhow::Error::from(error))
}

fn with_sql(options: RunOptions, folder: &tempfile::TempDir, sql: &str) -> RunOptions {
    std::fs::write(folder.path().join("user_stats.sql"), sql).unwrap();
    RunOptions { views_dir: folder.path().to_owned(), ..options }
}

/// Proves that a definition that is none is refused with its file and place, and an undeclared view by name, both as
/// configuration.
#[tokio::test]
async fn definitions() {
    let master = Master::with(&random_events(1, 10)).await;
    let folder = tempfile::tempdir().unwrap();
    let options =
        with_sql(master.options(), &folder, "SELECT user_id,\n count(*) AS event_count,\n sum(price) AS x FROM events GROUP BY user_id");
    let error = master.run(&options).await.unwrap_err();
    assert_eq!(error.exit_code(), 2);
    let text = full_text(error);
    assert!(text.contains("user_stats.sql: line 3, column"), "{text}");

    let options = RunOptions { view: "other".parse().unwrap(), ..master.options() };
    let error = master.run(&options).await.unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(full_text(error).contains("other"));
}

/// Proves that the event on which the SQL fails is named with partition and offset, and that the version before stays.
#[tokio::test]
async fn a_row_on_which_the_view_fails() {
    let mut master = Master::with(&random_events(1, 100)).await;
    master.publish(&master.options()).await;
    let bad = Event { attributes: [("quantity".to_owned(), "0".to_owned())].into(), ..event("user-bad", "bad", 0, 1) };
    master.append(&[bad]).await;
    let partition = shard_of("user-bad", PARTITIONS);
    let at = master.boundary()[partition as usize] - 1;

    let folder = tempfile::tempdir().unwrap();
    let sql = "SELECT user_id, count(*) AS event_count, sum(100 / quantity) AS x FROM events GROUP BY user_id";
    let error = master.run(&with_sql(master.options(), &folder, sql)).await.unwrap_err();
    assert_eq!(error.exit_code(), 1);
    let named =
        matches!(&error, RunError::Event { event_id, partition: p, offset, .. } if event_id == "bad" && *p == partition && *offset == at);
    assert!(named, "{error}");
    assert_eq!(master.latest().await.unwrap().version, 1);
}

/// Publishes another run's version while ours is being audited.
struct Rival {
    store: Store,
    done: AtomicBool,
}

impl Progress for Rival {
    fn begin(&self, _: u64) {}

    fn advance(&self, stage: Stage, _: u64, _: u64) {
        if stage != Stage::Audit || self.done.swap(true, Ordering::SeqCst) {
            return;
        }
        let file = ViewFile {
            path: "views/user_stats/v1-rival/part-00000.parquet".into(),
            shard: 0,
            layer: 0,
            rows: 0,
            bytes: 0,
            blake3: String::new(),
        };
        let manifest = Manifest {
            format_version: FORMAT_VERSION,
            view: view(),
            version: 1,
            parent: None,
            built_upon: None,
            run_id: "rival".into(),
            created_time: String::new(),
            log_id: String::new(),
            boundary: vec![0],
            imports: vec![],
            boundary_records: vec![],
            lease: 0,
            fingerprint: String::new(),
            as_of: None,
            withdrawn: false,
            digest: String::new(),
            event_count: 0,
            row_count: 0,
            late_duplicate_count: 0,
            conflict_count: 0,
            engine: String::new(),
            files: vec![file],
            audit: None,
            accepted_difference: None,
        };
        // A store in memory is ready at once, so this waits for nothing.
        futures::executor::block_on(Manifests::new(self.store.clone(), view()).publish(&manifest)).unwrap();
    }
}

/// Proves that of two runs one publishes, and that the loser says so and deletes nothing.
#[tokio::test]
async fn a_lost_publish() {
    let master = Master::with(&random_events(1, 100)).await;
    let rival = Arc::new(Rival { store: master.store.clone(), done: AtomicBool::new(false) });
    let error = run(&master.options(), &master.store, rival).await.unwrap_err();
    assert_eq!(error.exit_code(), 3);
    assert!(matches!(&error, RunError::Lost { version: 1, winner_run_id } if winner_run_id == "rival"), "{error}");
    assert_eq!(master.latest().await.unwrap().run_id, "rival");
    let files = master.store.list(&"views/user_stats".into()).await.unwrap();
    assert_eq!(files.iter().filter(|file| file.location.as_ref().ends_with(".parquet")).count(), PARTITIONS as usize);
}

/// Proves that an event in a partition that is not its user's stops the run: its duplicates and its key would be missed.
#[tokio::test]
async fn a_misplaced_event() {
    let mut master = Master::with(&[]).await;
    let own = shard_of("user-1", PARTITIONS);
    let wrong = (own + 1) % PARTITIONS;
    master.log[wrong as usize].push(event("user-1", "a", 0, 1));
    master.append(&[]).await;
    let error = master.run(&master.options()).await.unwrap_err();
    assert!(matches!(error, RunError::Misplaced { partition, belongs, .. } if partition == wrong && belongs == own), "{error}");
}

/// Proves that a segment whose events are not within the offsets of its name, in order, each once, is damaged, naming the offset.
#[tokio::test]
async fn a_segment_of_other_offsets() {
    for (ranges, named) in [([1..3, 3..6], 0), ([0..3, 2..4], 3), ([2..4, 0..2], 0)] {
        let mut master = Master::with(&[]).await;
        let partition = shard_of("user-1", PARTITIONS);
        master.log[partition as usize] = (0..6).map(|i| event("user-1", &format!("e{i}"), 0, 1)).collect();
        let rows = ranges.map(|range| master.rows(partition, range.start, range.end));
        let rows = arrow::compute::concat_batches(rows[0].schema_ref(), &rows).unwrap();
        master.write_segment(partition, 0, 5, rows).await;
        let error = master.run(&master.options()).await.unwrap_err();
        let reason = format!("the event of offset {named} is not where it belongs");
        assert!(matches!(&error, RunError::Store(StoreError::Corrupt { reason: found, .. }) if *found == reason), "{error}");
    }
}

/// Proves that segments of a partition beyond the settings are refused as a matter of configuration, not left out.
#[tokio::test]
async fn partitions_beyond_the_settings() {
    let master = Master::with(&random_events(1, 100)).await;
    let error = master.run(&RunOptions { partitions: PARTITIONS - 1, ..master.options() }).await.unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(matches!(error, RunError::Partitions { expected: 2, found: 2 }), "{error}");
}
