//! Whole servers on simulated networks: a slice of `make network` for every day.
//!
//! `SEED=17` sets the first of the consecutive seeds.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use integration_tests::network::{self, Report};

/// Runs of the slice; half a minute on a core.
const RUNS: u64 = 10;

fn first_seed() -> u64 {
    std::env::var("SEED").map_or(1, |text| text.parse().unwrap())
}

/// Proves that servers whose links are cut, held and slowed down, whose connections break and whose processes die lose no
/// acknowledged event, count none twice, and never let an answer without the speed layer's half pass for complete.
#[test]
fn nothing_is_lost_on_a_bad_network() {
    let mut total = Report::default();
    for seed in first_seed()..first_seed() + RUNS {
        let report = network::simulate(seed, false).unwrap_or_else(|wrong| panic!("make network SEED={seed} SEEDS=1 TRACE=1: {wrong}"));
        let faults: u64 = Report::kinds().map(|kind| report.sim.tally.of(kind).in_flight).sum();
        assert!(report.operations >= 1000 && faults >= 3, "seed {seed} does too little\n{report}");
        total += &report;
    }
    println!("{total}");
    let sim = &total.sim;
    assert!(sim.merged > 0 && sim.incomplete > 0 && sim.refused_apart > 0 && sim.publishes >= RUNS, "too little happened\n{total}");
}

/// Proves that a seed is one run, byte for byte, so that a printed one can be replayed.
#[test]
fn seeds_replay() {
    let digest = |seed| network::simulate(seed, false).unwrap().sim.digest;
    let seed = first_seed() + RUNS;
    assert_eq!(digest(seed), digest(seed));
    assert_ne!(digest(seed), digest(seed + 1));
}
