//! The load test: three real processes under load, beside an echo over the same hops in the same run.
//!
//! A figure alone says little on a shared machine. Every path is therefore measured next to its limit: servers that do
//! nothing (`echo`), spoken to by the same client code, over as many hops, with messages of the same size. What counts is the ratio.
//!
//! Two loops drive the load. In the *closed* one a fixed number of callers ask again as soon as they are answered; it finds what a
//! server can do. In the *open* one questions are sent when their time has come, whether others were answered or not, and
//! latency counts from when a question was due (Gil Tene's coordinated omission); it finds how a server behaves below and beyond that.
//!
//! Some of the answers are compared with what the history and the acknowledged events say. A wrong one fails the run.

#![allow(clippy::disallowed_methods, reason = "what is measured here is time")]

/// What is sent, and over which connections.
pub mod calls;
/// Callers who wait for each answer.
pub mod closed;
/// Publishes, rollbacks and restarts while questions are asked.
pub mod disturbance;
/// Servers that do nothing: the limit.
pub mod echo;
/// Events, and what must be answered of them.
pub mod history;
/// Events that go in.
pub mod ingest;
/// What the figures depend on.
pub mod machine;
/// Calls on their time.
pub mod open;
/// The table, the files and the page of a run.
pub mod report;
/// What came of a row of calls.
pub mod tally;
/// The processes.
pub mod world;
