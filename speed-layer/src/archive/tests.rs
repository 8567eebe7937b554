use std::time::Duration;

use storage::log::LogFolder;
use storage::machine::RealMachine;
use storage::master::SegmentMeta;
use tokio::time::timeout;
use views::{Definition, Event};

use super::*;
use crate::dedup::Window;
use crate::ingest::WhenFull;
use crate::partition::{PartitionOptions, fold_log};

struct Rig {
    store: Store,
    folder: LogFolder,
    partition: Partition,
    _dir: tempfile::TempDir,
}

/// A partition with one closed segment of three records, and a store.
async fn rig() -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let folder = LogFolder::open(dir.path(), 1).unwrap();
    let log = folder.partition(0).unwrap();
    let schema = EventSchema::default();
    let definition = Arc::new(Definition::user_stats(&schema));
    let views = vec![fold_log(&log.reader(), &definition, definition.schema(), 0, 0..0).unwrap()];
    let options = PartitionOptions {
        machine: Arc::new(RealMachine),
        schema,
        dedup_window_rows: 100,
        segment_bytes: 1 << 20,
        queue_appends: 16,
        metrics: Arc::default(),
    };
    let (partition, _thread) = Partition::start(log, Window::new(100, 0), views, options, || {}).unwrap();
    let rig = Rig { store: Store::open("memory://").unwrap(), folder, partition, _dir: dir };
    rig.append(0..3).await;
    rig
}

impl Rig {
    /// Appends, and closes the segment.
    async fn append(&self, ids: Range<i64>) {
        let event = |id: i64| Event {
            event_id: format!("e{id}"),
            user_id: "user-1".to_owned(),
            event_time_us: 0,
            event_type: String::new(),
            amount: Some(i128::from(id)),
            attributes: Default::default(),
        };
        let appended = self.partition.place(WhenFull::Wait).await.unwrap().append(ids.map(event).collect());
        appended.await.unwrap().unwrap();
        self.partition.roll(std::time::Duration::ZERO).await.unwrap();
    }

    async fn archive(&self) -> Archive {
        let log_id = self.folder.log_id().to_string();
        Archive::open(&RealMachine, self.store.clone(), EventSchema::default(), 1, &log_id, Arc::default()).await.unwrap()
    }

    async fn seal(&self, archive: &Archive) -> Result<(), SpeedError> {
        archive.archive_up_to(&self.partition, self.partition.closed_to()).await
    }

    async fn listed(&self) -> Vec<SegmentMeta> {
        list_segments(&self.store).await.unwrap()
    }
}

/// Proves that a seal names the log and the fingerprint of its last record, that a segment whose seal a crash left out is archived
/// again at the next start, and that the same objects come out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seal_left_out() {
    let rig = rig().await;
    let archive = rig.archive().await;
    archive.take_epoch(&RealMachine).await.unwrap();
    rig.seal(&archive).await.unwrap();
    let first = rig.listed().await;
    let last = rig.partition.log.read(2..3).unwrap().next().unwrap().unwrap();
    assert_eq!(first[0].seal.last_record, blake3::hash(&last.payload).to_hex().to_string());
    assert_eq!((first[0].seal.rows, &first[0].seal.log_id), (3, &rig.folder.log_id().to_string()));

    rig.store.delete(&first[0].path.seal_path()).await.unwrap();
    let archive = rig.archive().await;
    assert_eq!(archive.edge(0).await, 0);
    archive.take_epoch(&RealMachine).await.unwrap();
    rig.seal(&archive).await.unwrap();
    assert_eq!((archive.edge(0).await, rig.listed().await), (3, first));
}

/// Proves that a server that started earlier archives nothing more and is told to stop, while the later one goes on, and that none
/// archives before it took an epoch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fenced() {
    let rig = rig().await;
    let (first, second) = (rig.archive().await, rig.archive().await);
    assert!(matches!(rig.seal(&first).await, Err(SpeedError::Stopping)));
    first.take_epoch(&RealMachine).await.unwrap();
    rig.seal(&first).await.unwrap();

    second.take_epoch(&RealMachine).await.unwrap();
    rig.append(3..5).await;
    let run = first.run(std::slice::from_ref(&rig.partition), CancellationToken::new());
    let stopped = timeout(Duration::from_secs(20), run).await.expect("it stops by itself");
    assert!(matches!(stopped, Err(SpeedError::Fenced { epoch: 1, newer: 2, .. })), "{stopped:?}");
    assert_eq!(rig.listed().await.len(), 1);
    // A cut that finds out wakes the task that stops the server.
    assert!(matches!(rig.seal(&first).await, Err(SpeedError::Fenced { .. })));

    // It was opened before the first segment was there, and writes it again.
    rig.seal(&second).await.unwrap();
    assert_eq!(master::archived_edge(&rig.listed().await, 0), 5);
}
