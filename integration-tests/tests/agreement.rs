//! Random schedules against three real servers: every answer equals the oracle's.
//!
//! `SCHEDULES=1000` sets how many, `SEED=17` the first of their consecutive seeds.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr)]

use std::io::Write;
use std::sync::{Arc, Mutex};

use integration_tests::player::{self, Coverage};
use integration_tests::schedule::Schedule;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Schedules under way at once: they wait for the disk most of the time.
const SIDE_BY_SIDE: usize = 4;
/// Schedules unless told otherwise, enough for every kind of event to occur.
const DEFAULT_SCHEDULES: u64 = 25;

/// Proves that whatever clients and operators do, in whatever order, each acknowledged event counts exactly once in every
/// answer, on the right side of the boundary, also while a version is published and after restarts.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_answer_equals_the_oracle() {
    let errors = Errors::listen();
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (first, count) = (number("SEED", 1), number("SCHEDULES", DEFAULT_SCHEDULES));
    println!("seeds {first} to {}", first + count - 1);

    let room = Arc::new(Semaphore::new(SIDE_BY_SIDE));
    let mut playing = JoinSet::new();
    for seed in first..first + count {
        let room = Arc::clone(&room);
        playing.spawn(async move {
            let _place = room.acquire_owned().await.unwrap();
            player::play(Schedule::from_seed(seed)).await
        });
    }
    let mut coverage = Coverage::default();
    while let Some(played) = playing.join_next().await {
        coverage += &played.unwrap().unwrap_or_else(|error| panic!("{error:#}"));
    }
    println!("{coverage}");
    assert_eq!(errors.seen(), Vec::<String>::new(), "servers logged errors");
    assert!(coverage.least_operations >= 200 && coverage.least_partitions >= 3 && coverage.least_publishes >= 2, "{coverage}");
    if count >= DEFAULT_SCHEDULES {
        let missing: Vec<_> = coverage.kinds().into_iter().filter(|(_, count)| *count == 0).collect();
        assert!(missing.is_empty(), "never happened: {missing:?}");
    }
}

/// Proves that a seed means one schedule, so that a printed one can be replayed.
#[test]
fn seeds_replay() {
    let text = |seed| format!("{:?}", Schedule::from_seed(seed));
    assert_eq!(text(42), text(42));
    assert_ne!(text(42), text(43));
}

/// Lines that the servers log at ERROR.
#[derive(Clone, Default)]
struct Errors(Arc<Mutex<Vec<u8>>>);

impl Errors {
    fn listen() -> Self {
        let errors = Self::default();
        let writer = errors.clone();
        tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::ERROR)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .init();
        errors
    }

    fn seen(&self) -> Vec<String> {
        String::from_utf8_lossy(&self.0.lock().unwrap()).lines().map(str::to_owned).collect()
    }
}

impl Write for Errors {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
