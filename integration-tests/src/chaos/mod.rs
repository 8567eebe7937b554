//! Real processes, killed and unplugged, and an auditor who knows what was acknowledged.
//!
//! The binaries run as they are. A loader sends events as fast as they are taken, readers ask without a pause, the batch
//! layer publishes; meanwhile each process is killed at random or at a named point (`points`), or stopped for a while.
//! Every answer is held against `model`, a list of what was sent and acknowledged that shares no code with the product.
//!
//! A library between the servers and the C library (`shim`, `shim/shim.c`) kills at the n-th call of a kind, makes calls
//! fail, and writes down every change of a file with its syncs. From such a `trace` a `disk` is made as it could be
//! after a power cut at any moment: what was synced is there, and of the rest whatever the seed says.
//!
//! What is not seen: changes that do not go through the C library, and memory that was never written. The loader waits for
//! each request and repeats it until it is answered, so a kill leaves open at most one request a connection.

#![allow(clippy::disallowed_methods, reason = "the processes, their clocks and their deaths are real")]

/// What must hold at the end, for every user, partition and refused row.
pub mod audit;
/// What a disk may hold after a power cut.
pub mod disk;
/// What happened, in numbers.
pub mod figures;
/// Kills, stops and restarts.
pub mod killer;
/// A full disk, too few file handles, a long stop.
pub mod limits;
/// Appends over several connections.
pub mod loader;
/// What was sent and what was acknowledged.
pub mod model;
/// The named points.
pub mod points;
/// A recorded run, and the power cuts in it.
pub mod power;
/// One process of the product.
pub mod process;
/// Questions, each answer judged.
pub mod reader;
/// The whole run: servers, loader, readers, killers, audit.
pub mod run;
/// The library in C, built and set.
pub mod shim;
/// The changes of files, in order.
pub mod trace;
/// One data folder, its servers' addresses and settings.
pub mod world;
