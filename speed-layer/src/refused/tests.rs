use serde_json::json;

use super::*;

fn letter(user: u32) -> DeadLetter {
    DeadLetter { received_time_us: 7, field: "amount".into(), reason: "is bad".into(), event: json!({ "user_id": format!("{user:04}") }) }
}

fn queue(dir: &std::path::Path, cap_bytes: u64) -> DeadLetterQueue {
    DeadLetterQueue::start(DeadLetters::open(dir).unwrap(), cap_bytes).unwrap().0
}

/// What an empty file and so many letters take.
fn bytes_of(letters: u64) -> u64 {
    16 + letters * letter(0).file_bytes()
}

async fn keep(queue: &DeadLetterQueue, users: std::ops::Range<u32>) -> Result<(), Arc<SpeedError>> {
    let letters = || users.clone().map(letter);
    let room = queue.room_for(letters, "nothing").await?;
    queue.keep(letters().collect()).await?;
    drop(room);
    Ok(())
}

/// Proves that letters go up to the cap and not beyond, that room set aside counts and comes back, that known letters need none,
/// and that the error says how full it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cap() {
    let dir = tempfile::tempdir().unwrap();
    let queue = queue(dir.path(), bytes_of(10));
    keep(&queue, 0..6).await.unwrap();
    let held = queue.room_for(|| (100..104).map(letter), "nothing").await.unwrap();
    assert!(keep(&queue, 6..7).await.is_err(), "what is set aside is taken");
    drop(held);
    let error = keep(&queue, 6..11).await.unwrap_err();
    let SpeedError::DeadLettersFull { letters, bytes, cap_bytes, .. } = *error else { panic!("{error}") };
    assert_eq!((letters, bytes, cap_bytes), (6, bytes_of(6), bytes_of(10)));
    keep(&queue, 2..10).await.unwrap();
    keep(&queue, 0..10).await.unwrap();
    assert!(keep(&queue, 9..11).await.is_err());
    queue.stop().await;
    queue.ended().await;
    assert_eq!(storage::dead_letter::read_all(dir.path()).unwrap().count(), 10);
}

/// Proves that a file which is over the cap, because it was lowered, still lets known letters through.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lowered_cap() {
    let dir = tempfile::tempdir().unwrap();
    let first = queue(dir.path(), bytes_of(10));
    keep(&first, 0..6).await.unwrap();
    first.stop().await;
    first.ended().await;
    let second = queue(dir.path(), bytes_of(3));
    keep(&second, 0..6).await.unwrap();
    assert!(keep(&second, 6..7).await.is_err());
}

/// Proves that the alarm comes at 80 % and once, and again after a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_alarm() {
    let dir = tempfile::tempdir().unwrap();
    let first = queue(dir.path(), bytes_of(10));
    keep(&first, 0..7).await.unwrap();
    assert!(!first.fill.level().warned);
    keep(&first, 0..8).await.unwrap();
    assert!(first.fill.level().warned);
    first.stop().await;
    first.ended().await;
    assert!(queue(dir.path(), bytes_of(10)).fill.level().warned);
}

/// Proves that rows are counted by field and reason, without particulars, and that the number of reasons is bounded.
#[test]
fn counts() {
    let counts = RefusedCounts::default();
    let view = |what: &str| Refusal::new("event", format!("a declared view fails on it: {what}"));
    counts.add([Refusal::new("user_id", "is missing"), view("a"), view("b")].iter());
    counts.add([Refusal::new("user_id", "is missing")].iter());
    let rows = |field: &str, reason: &str, rows| RefusedCount { field: field.into(), reason: reason.into(), rows };
    assert_eq!(counts.all(), [rows("event", "a declared view fails on it", 2), rows("user_id", "is missing", 2)]);
    counts.add((0..1000).map(|i| Refusal::new(format!("attributes.a{i}"), "is no number")).collect::<Vec<_>>().iter());
    let all = counts.all();
    assert_eq!((all.len(), all.iter().map(|count| count.rows).sum::<u64>()), (MAX_REASONS + 1, 1004));
}
