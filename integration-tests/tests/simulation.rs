//! T1, a slice of it: simulated runs from consecutive seeds. `make sim SEEDS=50000` for more.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

use integration_tests::sim::{FAULTS, Report, simulate};

/// Seeds of the slice.
const SEEDS: std::ops::Range<u64> = 0..150;

/// Proves that whatever dies, fails or is lost, every acknowledged event is counted exactly once in every answer, and that every
/// kind of fault occurs.
#[test]
fn nothing_lost_nothing_twice() {
    let mut total = Report::default();
    for seed in SEEDS {
        total +=
            &simulate(seed, false).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}\nreplay: make sim SEED={seed} SEEDS=1 TRACE=1"));
    }
    println!("{total}");
    let missing: Vec<_> = FAULTS.into_iter().filter(|fault| total.tally.of(*fault).recovered == 0).collect();
    assert!(missing.is_empty(), "never happened: {missing:?}");
    assert!(total.merged > 0 && total.publishes > 0);
    let kept = [total.erasures, total.upkeeps, total.expired_versions, total.merged_files, total.erased_rows];
    assert!(kept.iter().all(|times| *times > 0), "nobody was erased, or nothing looked after: {kept:?}");
}

/// Proves that one seed is one run, byte for byte: every call and answer, the disk and all objects at the end.
#[test]
fn one_seed_is_one_run() {
    for seed in 0..10 {
        assert_eq!(simulate(seed, false).unwrap().digest, simulate(seed, false).unwrap().digest, "seed {seed}");
    }
    assert_ne!(simulate(1, false).unwrap().digest, simulate(2, false).unwrap().digest);
}
