//! The proof that the layers together are right: a harness as a library, two programs and the tests over it.
//!
//! Whatever is compared with the product shares no code with it. `plain_fold` reads event files with parsers of its own and
//! adds them up, `oracle` is a list of acknowledged events; neither knows what a log, a boundary or a state is. The product
//! is met in two ways: as real processes, by the programs `demo` and `run-servers`, and as three servers in the process of a
//! test (`cluster`), which random operations (`schedule`, `player`) drive while every answer is compared.
//!
//! Nothing here waits for a fixed time as a proof of anything: it polls for a condition, with a deadline.

#![cfg_attr(test, allow(clippy::unwrap_used))]

/// Where versions end.
pub mod boundaries;
/// Certificates for one test.
pub mod certificates;
/// Real processes, killed and unplugged.
pub mod chaos;
/// Three real servers in one process.
pub mod cluster;
/// What a reader of the documentation types.
pub mod docs;
/// Who is known to the servers of one test.
pub mod identities;
/// The servers under load, beside an echo.
pub mod load;
/// T2: whole servers on a network that one seed decides.
pub mod network;
/// What every answer must be, from a list of acknowledged events.
#[allow(missing_docs, reason = "sixty lines, and every name says it")]
pub mod oracle;
/// An event file added up with no code of the product.
pub mod plain_fold;
/// A schedule carried out, every answer compared.
pub mod player;
/// The layers as processes: started, listened to, stopped on every exit path.
pub mod processes;
/// Random operations from one printed seed.
pub mod schedule;
/// What a server tells over HTTP.
pub mod scrape;
/// Consecutive seeds on every core.
pub mod seeds;
// T1: everything on one thread, from one seed. (Its own text links to its items, which do not resolve beside text of this file.)
pub mod sim;
/// What every row of a view must be, from a list of acknowledged events.
#[allow(missing_docs, reason = "every name says it")]
pub mod view_oracle;
