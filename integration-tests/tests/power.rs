//! The power cut at many moments of a recorded run.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

use std::time::Duration;

use integration_tests::chaos::power::{self, Cuts};
use integration_tests::chaos::world::Programs;

/// Any sector that was not synced may be missing, also before one that is there.
const CUTS: Cuts = Cuts { logs: 60, servers: 6, any_sector: true };
const LENGTH: Duration = Duration::from_secs(8);

/// Proves that whatever a disk forgets that was not synced, every event that was acknowledged before the power was cut is
/// there and is counted once, and that the servers come up on what is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_when_the_power_is_cut() {
    let seed = std::env::var("SEED").ok().map_or_else(rand::random, |text| text.parse().unwrap());
    println!("SEED={seed}");
    let programs = Programs::build().unwrap();
    let report = Box::pin(power::play(&programs, CUTS, LENGTH, seed)).await.unwrap_or_else(|error| panic!("SEED={seed}: {error:#}"));
    println!("{report}");
    assert_eq!(report.wrong_cuts, 0, "SEED={seed}\n{report}");
    assert!(report.logs == CUTS.logs && report.servers == CUTS.servers && report.kinds_of_calls() > 25, "{report}");
}
