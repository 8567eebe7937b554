use std::io;
use std::sync::{Condvar, Mutex};

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use storage::log::disk::{Disk, DiskFile, OsDisk};
use storage::log::{LogFolder, LogId};
use storage::machine::RealMachine;
use views::{Definition, Granularity, fold};

use super::*;

/// What the next syncs do.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Gate {
    Open,
    Shut,
    Failing,
}

/// A disk whose syncs wait at a gate, or fail.
#[derive(Debug)]
struct GatedDisk {
    gate: Mutex<(Gate, usize)>,
    changed: Condvar,
}

impl GatedDisk {
    fn new() -> Arc<Self> {
        Arc::new(Self { gate: Mutex::new((Gate::Open, 0)), changed: Condvar::new() })
    }

    fn set(&self, gate: Gate) {
        self.gate.lock().unwrap().0 = gate;
        self.changed.notify_all();
    }

    /// Returns once so many syncs have come to the gate.
    fn wait_for_syncs(&self, syncs: usize) {
        let gate = self.gate.lock().unwrap();
        let patience = std::time::Duration::from_secs(30);
        let (_gate, waited) = self.changed.wait_timeout_while(gate, patience, |(_, arrived)| *arrived < syncs).unwrap();
        assert!(!waited.timed_out(), "nobody syncs");
    }

    fn syncs(&self) -> usize {
        self.gate.lock().unwrap().1
    }
}

impl Disk for GatedDisk {
    fn sync_data(&self, file: &DiskFile) -> io::Result<()> {
        let mut gate = self.gate.lock().unwrap();
        gate.1 += 1;
        self.changed.notify_all();
        gate = self.changed.wait_while(gate, |(gate, _)| *gate == Gate::Shut).unwrap();
        match gate.0 {
            Gate::Failing => Err(io::Error::other("planted")),
            _ => OsDisk.sync_data(file),
        }
    }
}

struct Rig {
    disk: Arc<GatedDisk>,
    _dir: tempfile::TempDir,
    _folder: LogFolder,
    partition: Partition,
}

fn rig_with(sql: &str) -> Rig {
    let disk = GatedDisk::new();
    let dir = tempfile::tempdir().unwrap();
    let folder = LogFolder::open_on(Arc::clone(&disk) as Arc<dyn Disk>, dir.path(), 1, LogId::from_bytes([7; 16])).unwrap();
    let log = folder.partition(0).unwrap();
    let schema = EventSchema::default();
    let definition = Arc::new(Definition::parse(sql, &schema).unwrap());
    let views = vec![fold_log(&log.reader(), &definition, definition.schema(), 0, 0..log.head()).unwrap()];
    let options = PartitionOptions {
        machine: Arc::new(RealMachine),
        schema,
        dedup_window_rows: 100,
        segment_bytes: 1 << 20,
        queue_appends: 16,
        metrics: Arc::default(),
    };
    let (partition, _thread) = Partition::start(log, Window::new(100, 0), views, options, || {}).unwrap();
    Rig { disk, _dir: dir, _folder: folder, partition }
}

fn rig() -> Rig {
    rig_with(views::definition::USER_STATS_SQL)
}

fn event(id: &str, amount: i128) -> Event {
    Event {
        event_id: id.into(),
        user_id: "u".into(),
        event_time_us: 0,
        event_type: String::new(),
        amount: Some(amount),
        attributes: BTreeMap::new(),
    }
}

impl Rig {
    async fn append(&self, events: Vec<Event>) -> oneshot::Receiver<Appended> {
        self.partition.place(WhenFull::Wait).await.unwrap().append(events)
    }

    fn visible_events(&self) -> i64 {
        let visible = self.partition.visible.read().unwrap();
        let slices = visible.views.values().next().unwrap();
        let runs = slices.runs(0, None).unwrap();
        let outputs = fold::finish(slices.definition(), &runs, Granularity::Total).unwrap();
        outputs.column(2).as_primitive::<Int64Type>().values().iter().sum()
    }
}

/// Proves that while the sync is under way nothing is acknowledged and nothing is shown, neither an event nor a duplicate of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_before_the_sync() {
    let rig = rig();
    let before = rig.disk.syncs();
    rig.disk.set(Gate::Shut);
    let mut first = rig.append(vec![event("a", 1)]).await;
    let mut duplicate = rig.append(vec![event("a", 1)]).await;
    let disk = Arc::clone(&rig.disk);
    tokio::task::spawn_blocking(move || disk.wait_for_syncs(before + 1)).await.unwrap();
    assert!(first.try_recv().is_err() && duplicate.try_recv().is_err(), "acknowledged before the sync");
    assert_eq!(rig.visible_events(), 0, "shown before the sync");
    assert_eq!(rig.partition.visible.read().unwrap().head, 0);
    rig.disk.set(Gate::Open);
    assert_eq!(first.await.unwrap().unwrap().0, [Verdict::Accepted]);
    assert_eq!(duplicate.await.unwrap().unwrap().0, [Verdict::Duplicate]);
    assert_eq!(rig.visible_events(), 1);
}

/// Proves that after a failed sync nothing is acknowledged or shown, and that no later append pretends otherwise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_is_an_error_for_ever() {
    let rig = rig();
    rig.disk.set(Gate::Failing);
    assert!(rig.append(vec![event("a", 1)]).await.await.unwrap().is_err());
    rig.disk.set(Gate::Open);
    assert!(rig.append(vec![event("a", 1)]).await.await.unwrap().is_err(), "the sync was tried again");
    assert_eq!(rig.visible_events(), 0);
}

/// Proves that appends which wait share one sync, and that each gets its own verdicts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_sync_for_all_that_wait() {
    let rig = rig();
    rig.disk.set(Gate::Shut);
    let before = rig.disk.syncs();
    let first = rig.append(vec![event("0", 1)]).await;
    let disk = Arc::clone(&rig.disk);
    tokio::task::spawn_blocking(move || disk.wait_for_syncs(before + 1)).await.unwrap();
    let mut waiting = Vec::new();
    for i in 1..10 {
        waiting.push(rig.append(vec![event(&i.to_string(), 1), event("0", 1)]).await);
    }
    rig.disk.set(Gate::Open);
    assert_eq!(first.await.unwrap().unwrap(), (vec![Verdict::Accepted], 1));
    for appended in waiting {
        assert_eq!(appended.await.unwrap().unwrap(), (vec![Verdict::Accepted, Verdict::Duplicate], 10));
    }
    assert_eq!(rig.disk.syncs(), before + 2);
}

/// Proves that an event on which the view fails is refused alone, before the log, and that its retry is refused too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_the_view_cannot_take() {
    let rig = rig_with("SELECT user_id, sum(1 / CAST(amount AS BIGINT)) AS s FROM events GROUP BY user_id");
    let events = || vec![event("good", 10_000), event("bad", 0), event("bad", 0), event("better", 20_000)];
    let refused = |verdict: &Verdict| matches!(verdict, Verdict::Refused(refusal) if refusal.reason.contains("a declared view fails"));
    let (verdicts, head) = rig.append(events()).await.await.unwrap().unwrap();
    assert!(
        verdicts[0] == Verdict::Accepted && refused(&verdicts[1]) && refused(&verdicts[2]) && verdicts[3] == Verdict::Accepted,
        "{verdicts:?}"
    );
    assert_eq!((head, rig.visible_events()), (2, 2));
    let (verdicts, _) = rig.append(events()).await.await.unwrap().unwrap();
    assert!(verdicts[0] == Verdict::Duplicate && refused(&verdicts[1]), "{verdicts:?}");
}

/// Proves that the same identity with other content is a conflict, in one group and across groups.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conflicts() {
    let rig = rig();
    let conflict = |verdict: &Verdict| matches!(verdict, Verdict::Refused(refusal) if refusal.field == "event_id");
    let (verdicts, _) = rig.append(vec![event("a", 1), event("a", 2)]).await.await.unwrap().unwrap();
    assert!(verdicts[0] == Verdict::Accepted && conflict(&verdicts[1]), "{verdicts:?}");
    let (verdicts, head) = rig.append(vec![event("a", 3)]).await.await.unwrap().unwrap();
    assert!(conflict(&verdicts[0]) && head == 1, "{verdicts:?}");
}
