//! The batch layer folds the whole master dataset, up to a boundary, into a batch view, and publishes it.
//!
//! A run is the handover of the design, in this order. It decides where to cut (`cut`): the speed layer seals what it has and
//! names the boundary C. It recomputes `[0, C)`, a log partition at a time: `source` reads the segments in the columns that the
//! definition needs, `sort` brings them in order of user, event and offset (within a memory limit, spilling), `dedup` drops
//! what was sent twice, `folding` makes states of what stays, and `shard` writes them, sorted, as one file a shard. Then `audit` reads the
//! files back and compares every key with another computation of the same. Only then the manifest is put if absent, which is
//! the moment of publishing; a report of the run is written beside.
//!
//! One run of a view works at a time (`keeper`): it holds a lease and looks at it once more before it publishes. A run that fails,
//! loses or dies changes and deletes nothing: it leaves files that no manifest names, and the old version serves on; a later run
//! removes them behind its publish, after a grace period (`collect`). This crate never looks at event times to decide what is in: the boundary is a log offset.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::disallowed_methods))]

/// Every finished value, compared before anybody sees it.
mod audit;
/// How far a run is, in the store.
mod beacon;
/// States on their way to the shard they belong to.
mod chunk;
/// What dead runs left.
mod collect;
/// Old segments, written again.
pub mod compact;
/// The files of a new version.
mod compute;
/// Where the batch view ends.
mod cut;
/// Same identity, counted once.
mod dedup;
/// Which SQL a run folds with.
mod definition;
/// What came before the events that a run reads.
mod earlier;
/// Erasure of a user, and its receipt.
pub mod erase;
/// What a run can end in, and its exit code.
mod error;
/// What is past its keep-for.
pub mod expire;
/// Sorted rows → states.
mod folding;
/// What erasures leave of the events.
mod hidden;
/// History, from files.
pub mod import;
/// A version built upon the one before.
mod increment;
/// A difference that a person has judged.
mod judged;
/// The lease of a run.
mod keeper;
/// What runs came to, for Prometheus.
pub mod metrics;
/// What a run is asked to do.
mod options;
/// A file of events.
mod piece;
/// How far a run is.
pub mod progress;
/// An answer as it is given now, counted again from the raw events.
mod recount;
/// What a run did, for people and for the store.
mod report;
/// How long events are kept, and what that asks of views.
mod retention;
/// An older version, published again.
mod rollback;
/// Where every row went.
mod rows;
/// The handover, step by step.
mod run;
/// When a run is due.
pub mod schedule;
/// The speed layer, as a run meets it.
mod service;
/// Events → files of states.
mod shard;
/// Sorting within a memory limit.
mod sort;
/// Segments → batches of events.
mod source;
/// Where a sort spills to.
mod spill;
/// Lists for people.
mod table;
/// A published version, checked again.
mod verify;
/// The published versions, listed.
pub mod versions;
/// A view that nobody answers any more.
mod withdraw;

pub use audit::{Difference, Differences};
pub use definition::declared;
pub use error::RunError;
pub use judged::view_of_run;
pub use options::RunOptions;
pub use recount::{Recount, recount};
pub use report::{Removed, RunReport};
pub use rollback::rollback;
pub use rows::Rows;
pub use run::{RunOutcome, run, run_on};
pub use verify::{Depth, Verified, verify};
pub use withdraw::withdraw;

#[cfg(test)]
mod tests;
