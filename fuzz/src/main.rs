//! The targets under libFuzzer: `FUZZ_TARGET=log fuzz CORPUS…` fuzzes, `FUZZ_TARGET=log fuzz FILE` replays one input.
#![no_main]
#![allow(unsafe_code, reason = "fuzz_target! exports the symbol that libFuzzer calls")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;

use fuzz_targets::{TARGETS, Target, target};

/// What `FUZZ_TARGET` names.
static CHOSEN: LazyLock<&'static Target> = LazyLock::new(|| {
    // libFuzzer's hook ends the process at every panic, also at one that the product itself catches.
    drop(std::panic::take_hook());
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    target(&name).unwrap_or_else(|| {
        let known: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        #[allow(clippy::print_stderr, reason = "a program of the command line")]
        {
            eprintln!("FUZZ_TARGET is \"{name}\"; it names one of {}", known.join(", "));
        }
        std::process::exit(2)
    })
});

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let chosen = *CHOSEN;
    if catch_unwind(AssertUnwindSafe(|| (chosen.run)(input))).is_err() {
        std::process::abort();
    }
});
