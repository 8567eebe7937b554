//! Real processes killed while events come in and versions are published, or stopped for a while.
//!
//! A slice of `make chaos` for every day. `SEED=…` repeats a printed one, as far as processes can be repeated.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

use std::time::Duration;

use integration_tests::chaos::audit;
use integration_tests::chaos::killer::Pace;
use integration_tests::chaos::limits;
use integration_tests::chaos::loader::Shared;
use integration_tests::chaos::run::{self, Size};
use integration_tests::chaos::world::{Programs, World};
use tokio::sync::Mutex;

/// Two cores have room for one of these tests at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Kills that the slice must reach.
const LEAST_KILLS: u64 = 20;
/// Points of birth that it visits.
const BIRTHS: usize = 6;
/// So few that the log is trimmed meanwhile.
const WINDOW_ROWS: u32 = 4_000;
const LENGTH: Duration = Duration::from_secs(35);
const PACE: Pace = Pace { life_ms: (300, 2500), between_runs_ms: (100, 1000), stop_ms: (300, 3000) };

fn seed() -> u64 {
    let seed = std::env::var("SEED").ok().map_or_else(rand::random, |text| text.parse().unwrap());
    println!("SEED={seed}");
    seed
}

/// Proves that whichever process dies, at a named point or at random, every acknowledged event is counted exactly once in
/// every answer, and that requests, log and dead letters add up.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_when_processes_are_killed() {
    let _alone = ALONE.lock().await;
    let seed = seed();
    let programs = Programs::build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new(&programs, folder.path()).unwrap();
    world.set("LOG__DEDUP_WINDOW_ROWS", WINDOW_ROWS);
    let shared = Shared::new(world, 120, None);
    Box::pin(run::births(&programs, &shared, seed, BIRTHS)).await.unwrap();
    let size = Size { connections: 4, readers: 3, users: 120, pace: PACE };
    Box::pin(run::run(&shared, size, LENGTH, seed)).await.unwrap_or_else(|error| panic!("SEED={seed}: {error:#}\n{}", shared.figures));
    let figures = &shared.figures;
    println!("{figures}");
    assert_eq!(figures.wrongs(), 0, "SEED={seed}\n{figures}");
    assert!(figures.kills() >= LEAST_KILLS && figures.kills_with_appends.get() > 0, "too little was killed\n{figures}");
    assert!(audit::trimmed_records(&shared.world.data).unwrap() > 0, "the log was never trimmed");
    assert!(figures.answers.get() > 1000 && figures.publishes.get() > 2 && figures.unknown.get() > 0, "too little happened\n{figures}");
}

/// Proves that a speed layer that stands still for a while, as a machine that sleeps, loses and repeats nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_stopped_server_goes_on() {
    let _alone = ALONE.lock().await;
    let programs = Programs::build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let world = World::new(&programs, folder.path()).unwrap();
    let seconds = std::env::var("STOP_SECONDS").map_or(10, |text| text.parse().unwrap());
    limits::stopped_for(world, Duration::from_secs(seconds)).await.unwrap_or_else(|error| panic!("{error:#}"));
}
