//! A slice of the fuzzing that needs no C++ compiler: every seed, and random neighbours of the seeds.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::thread;

use fuzz_targets::choices::Choices;
use fuzz_targets::spoil::spoil;
use fuzz_targets::{TARGETS, Target, grammar, is_view, naive};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

/// As `make fuzz` has it.
const MAX_INPUT_BYTES: usize = 2048;

/// `FUZZ_SEED`, or the one that every run of the tests uses.
fn seed() -> u64 {
    std::env::var("FUZZ_SEED").map_or(1, |text| text.parse().expect("FUZZ_SEED is a number"))
}

/// The checked-in inputs of a target, by name.
fn seeds(target: &Target) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target.name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut seeds: Vec<_> =
        entries.map(|entry| entry.unwrap().path()).map(|path| (path.display().to_string(), fs::read(path).unwrap())).collect();
    seeds.sort();
    seeds
}

/// Bytes out of nothing, or a seed with some of it changed, or two that were joined.
fn neighbour(seeds: &[(String, Vec<u8>)], random: &mut StdRng) -> Vec<u8> {
    let any = |random: &mut StdRng, most: usize| {
        let mut bytes = vec![0; random.random_range(0..=most)];
        random.fill_bytes(&mut bytes);
        bytes
    };
    if random.random_ratio(1, 3) {
        return any(random, 256);
    }
    let mut input = seeds[random.random_range(0..seeds.len())].1.clone();
    if random.random_ratio(1, 5) {
        let other = &seeds[random.random_range(0..seeds.len())].1;
        input.truncate(random.random_range(0..=input.len()));
        input.extend_from_slice(&other[random.random_range(0..=other.len())..]);
    }
    for _ in 0..random.random_range(1..6) {
        let decisions = any(random, 80);
        spoil(&mut input, &mut Choices::new(&decisions));
    }
    input.truncate(MAX_INPUT_BYTES);
    input
}

fn run(target: &Target, name: &str, input: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_err() {
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-failed", target.name));
        fs::write(&kept, input).unwrap();
        panic!(
            "target {} fails on {name}, kept as {}; copy it to fuzz/seeds/{} once it is mended",
            target.name,
            kept.display(),
            target.name
        );
    }
}

/// Proves that every seed, each of which was once a bug or shows a part of a format, and thousands of its neighbours agree with
/// the oracles.
#[test]
fn seeds_and_their_neighbours() {
    let fuzz = |target: Target| {
        let seeds = seeds(&target);
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        seeds.iter().for_each(|(name, input)| run(&target, name, input));
        let mut random = StdRng::seed_from_u64(seed());
        for i in 0..target.slice_inputs {
            run(&target, &format!("random input {i} of FUZZ_SEED={}", seed()), &neighbour(&seeds, &mut random));
        }
    };
    let threads: Vec<_> = TARGETS.map(|target| (target, thread::spawn(move || fuzz(target)))).into();
    let failed: Vec<&str> = threads.into_iter().filter_map(|(target, thread)| thread.join().is_err().then_some(target.name)).collect();
    assert!(failed.is_empty(), "failed: {}", failed.join(", "));
}

/// Proves that the grammar writes views, not only refusals: without them the law would hold of nothing.
#[test]
fn the_grammar_writes_views() {
    let mut random = StdRng::seed_from_u64(seed());
    let views = (0..200).filter(|_| {
        let mut decisions = [0; 60];
        random.fill_bytes(&mut decisions);
        is_view(&grammar::select(&mut Choices::new(&decisions)))
    });
    let views = views.count();
    assert!(views >= 20, "{views} of 200 are views");
}

/// Proves that the oracles know right from wrong where a person can see it.
#[test]
fn the_oracles_by_hand() {
    assert_eq!(naive::decimal("-12.3400e1", 18, 4), Some(-1_234_000));
    assert_eq!(naive::decimal("1e-4", 18, 4), Some(1));
    assert_eq!(naive::decimal("1e-5", 18, 4), None);
    assert_eq!(naive::decimal("1000", 3, 0), None);
    assert_eq!(naive::decimal("0e9999", 3, 0), Some(0));
    assert_eq!(naive::time("1970-01-01T01:00:00.0000019+01:00"), Some(1));
    assert_eq!(naive::time("2000-02-30T00:00:00Z"), None);
    assert_eq!(naive::time("1969-12-31T23:59:59.999999Z"), Some(-1));
    assert_eq!(naive::time("2024-03-01T00:00:00Z"), Some(1_709_251_200_000_000));
    assert_eq!(naive::position("a:0=7,3=0").unwrap().1, [(0, 7), (3, 0)].into());
    assert_eq!(naive::position("a:0=7,"), None);
}
