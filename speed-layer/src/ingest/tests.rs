use std::collections::BTreeMap;

use storage::dead_letter::{DeadLetters, read_all};
use storage::log::LogFolder;
use storage::machine::RealMachine;

use super::*;
use crate::layer::first_end;
use crate::partition::PartitionOptions;
use tokio::task::JoinSet;

struct Rig {
    ingest: Ingest,
    _folder: LogFolder,
    dir: tempfile::TempDir,
}

/// Two partitions whose threads panic when a segment is closed.
fn rig(queue_bytes: u64) -> Rig {
    rig_with(queue_bytes, 1 << 20)
}

fn rig_with(queue_bytes: u64, letter_bytes: u64) -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let folder = LogFolder::open(dir.path(), 2).unwrap();
    let partition = |number| {
        let log = folder.partition(number).unwrap();
        let options = PartitionOptions {
            machine: Arc::new(RealMachine),
            schema: EventSchema::default(),
            dedup_window_rows: 100,
            segment_bytes: 1 << 20,
            queue_appends: 1,
            metrics: Arc::default(),
        };
        Partition::start(log, crate::dedup::Window::new(100, 0), Vec::new(), options, || panic!("planted")).unwrap().0
    };
    let partitions = [partition(0), partition(1)].into();
    let (dead_letters, _thread) = DeadLetterQueue::start(DeadLetters::open(dir.path()).unwrap(), letter_bytes).unwrap();
    let schema = Arc::new(EventSchema::default());
    let room = QueueRoom::new(queue_bytes);
    let log_failed = Arc::new(watch::channel(false).0);
    let (machine, refused) = (Arc::new(RealMachine), Arc::default());
    let ingest =
        Ingest { machine, schema, log_id: "log".into(), partitions, dead_letters, refused, room, log_failed, metrics: Arc::default() };
    Rig { ingest, _folder: folder, dir }
}

/// One event for each of some users, of about a kibibyte.
fn events(users: std::ops::Range<u32>) -> Vec<RawEvent> {
    let event = |user| RawEvent {
        event_id: format!("e{user}"),
        user_id: format!("u{user}"),
        event_time: Some((0, 0)),
        attributes: BTreeMap::from([("note".to_owned(), "x".repeat(700))]),
        ..RawEvent::default()
    };
    users.map(event).collect()
}

/// Proves that events beyond the bytes of the queue are refused while others wait, that a stream waits for room instead, that a
/// request larger than the queue is taken alone, and that all room is given back when they are written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_wait() {
    let rig = rig(10 << 10);
    let all = rig.ingest.room.free.available_permits();
    let first = rig.ingest.queue(events(0..8), WhenFull::Wait).await.unwrap();
    let refused = rig.ingest.queue(events(8..12), WhenFull::Refuse).await.err().unwrap();
    assert!(matches!(*refused, SpeedError::QueueBytesFull { waiting_bytes } if waiting_bytes > 7 << 10), "{refused}");
    let mut waiting = std::pin::pin!(rig.ingest.queue(events(12..16), WhenFull::Wait));
    assert!(futures::poll!(&mut waiting).is_pending(), "there is no room");
    assert_eq!(rig.ingest.finish(first).await.unwrap().accepted, 8);
    let waited = waiting.await.unwrap();
    assert_eq!(rig.ingest.finish(waited).await.unwrap().accepted, 4);
    let large = rig.ingest.queue(events(20..80), WhenFull::Refuse).await.unwrap();
    assert_eq!(rig.ingest.finish(large).await.unwrap().accepted, 60);
    assert_eq!(rig.ingest.room.free.available_permits(), all);
}

/// Proves that a request for a partition whose queue is full is refused whole: nothing of it is queued elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_partitions_or_none() {
    let rig = rig(1 << 20);
    // Whoever holds the only place of partition 1 has not sent anything yet.
    let held = rig.ingest.partitions[1].place(WhenFull::Refuse).await.unwrap();
    let refused = rig.ingest.queue(events(0..20), WhenFull::Refuse).await.err().unwrap();
    assert!(matches!(*refused, SpeedError::QueueFull { partition: 1 }), "{refused}");
    drop(held);
    let outcome = rig.ingest.finish(rig.ingest.queue(events(0..20), WhenFull::Refuse).await.unwrap()).await.unwrap();
    assert_eq!((outcome.accepted, outcome.duplicates), (20, 0));
}

/// Proves that the end of a thread that writes is noticed, by its name, and that nothing is noticed before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thread_that_panics() {
    let rig = rig(1 << 20);
    let mut tasks = JoinSet::new();
    tasks.spawn(std::future::pending());
    let outcome = rig.ingest.finish(rig.ingest.queue(events(0..20), WhenFull::Wait).await.unwrap()).await.unwrap();
    assert_eq!(outcome.accepted, 20);
    let partitions = Arc::clone(&rig.ingest.partitions);
    let mut end = Box::pin(first_end(&partitions, &rig.ingest.dead_letters, &mut tasks));
    assert!(futures::poll!(&mut end).is_pending());
    assert!(partitions[1].roll(std::time::Duration::ZERO).await.is_err());
    assert_eq!(end.await.to_string(), "the thread of partition 1 ended by itself; the server cannot go on without it");

    // And that of a task.
    let rig = self::rig(1 << 20);
    tasks.abort_all();
    let end = first_end(&rig.ingest.partitions, &rig.ingest.dead_letters, &mut tasks).await;
    assert!(end.to_string().starts_with("the task"), "{end}");
}

async fn append(ingest: &Ingest, events: Vec<RawEvent>) -> Result<Outcome, Arc<SpeedError>> {
    ingest.finish(ingest.queue(events, WhenFull::Refuse).await?).await
}

/// Proves that a request whose refused rows cannot be kept is refused whole, with nothing of it in the log, while requests
/// without such rows and those whose letters are kept already go on; that after a refusal by the log itself the good rows are in;
/// and that refused rows are counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_up_to_a_cap() {
    let bad = |id: &str| RawEvent { event_id: id.into(), event_time: Some((0, 0)), ..RawEvent::default() };
    let rig = rig_with(1 << 20, 400);
    let one = |user, id| events(user..user + 1).into_iter().chain([bad(id)]).collect::<Vec<_>>();
    let first = append(&rig.ingest, one(0, "x1")).await.unwrap();
    assert_eq!((first.accepted, first.refused.len()), (1, 1));

    let full = append(&rig.ingest, one(1, "x2")).await.unwrap_err();
    assert!(matches!(*full, SpeedError::DeadLettersFull { letters: 1, .. }), "{full}");
    assert!(full.to_string().contains("nothing of it was taken"), "{full}");
    assert_eq!(append(&rig.ingest, events(1..2)).await.unwrap().accepted, 1, "it was not taken before");
    let again = append(&rig.ingest, one(0, "x1")).await.unwrap();
    assert_eq!((again.duplicates, again.refused.len()), (1, 1));

    let conflict = RawEvent { event_type: "other".into(), ..events(0..1).remove(0) };
    let full = append(&rig.ingest, events(2..3).into_iter().chain([conflict]).collect()).await.unwrap_err();
    assert!(full.to_string().contains("its good rows are in the log"), "{full}");
    assert_eq!(append(&rig.ingest, events(2..3)).await.unwrap().duplicates, 1);

    assert_eq!(read_all(rig.dir.path()).unwrap().count(), 1);
    let counted: Vec<_> = rig.ingest.refused.all().into_iter().map(|count| (count.field, count.rows)).collect();
    assert_eq!(counted, [("user_id".to_owned(), 2)]);
}
