//! Inputs that nobody would think of, each against an oracle that says what had to come out.
//!
//! A [`Target`] is a function of bytes. Some take them as the text of a file, the others as a row of decisions ([`choices`]) by
//! which they build something valid and then spoil it ([`spoil`]). "It does not panic" is the least that is asked: what is
//! accepted must be what was written, what is refused must say where, and a length in a file must not decide how much memory is
//! taken ([`memory`]). The oracles ([`naive`]) are slow and plain and share no code with the product.
//!
//! The same targets run in two ways: under libFuzzer, led by the coverage of our own crates (`make fuzz`, which needs a C++
//! compiler), and as an ordinary test over the seeds and a few thousand random neighbours of theirs (`tests/seeds.rs`).

/// Bytes as decisions.
pub mod choices;
/// SELECTs from decisions.
pub mod grammar;
/// The largest allocation of a piece of work.
pub mod memory;
/// Decimals, times and positions, read naively.
pub mod naive;
/// Folders for one input.
pub mod scratch;
/// Bytes that are no longer as they were written.
pub mod spoil;
mod targets;

pub use targets::sql::is_view;

/// One thing that is fuzzed.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name on the command line, and its folder under `fuzz/seeds`.
    pub name: &'static str,
    /// Panics when the oracle and the product do not agree.
    pub run: fn(&[u8]),
    /// Random inputs in the slice that `make test` runs.
    pub slice_inputs: usize,
}

/// All of them.
pub const TARGETS: [Target; 11] = [
    Target { name: "log", run: targets::log::run, slice_inputs: 2000 },
    Target { name: "letters", run: targets::letters::run, slice_inputs: 2000 },
    Target { name: "manifest", run: targets::manifest::run, slice_inputs: 5000 },
    Target { name: "layout", run: targets::layout::run, slice_inputs: 5000 },
    Target { name: "event", run: targets::event::run, slice_inputs: 4000 },
    Target { name: "number", run: targets::number::run, slice_inputs: 10000 },
    Target { name: "load", run: targets::load::run, slice_inputs: 2500 },
    Target { name: "sql", run: targets::sql::run, slice_inputs: 200 },
    Target { name: "select", run: targets::select::run, slice_inputs: 250 },
    Target { name: "config", run: targets::config::run, slice_inputs: 2500 },
    Target { name: "position", run: targets::position::run, slice_inputs: 10000 },
];

/// The target of that name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
