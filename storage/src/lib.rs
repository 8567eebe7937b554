//! Where it is kept: the log on the speed layer's disk, and in the object store the master dataset, the batch views and the
//! manifests.
//!
//! Events go into a [`log`] and are durable there before anybody is told. A closed segment of the log becomes a Parquet file
//! of the [`master`] dataset. A batch run writes the files of a [`batch_view`] and then one [`manifest`], put if absent, which
//! is the moment of publishing: files that no manifest names do not exist. Every path in the store is made in [`paths`], every
//! byte goes through [`store`], which syncs what it writes before anything relies on it.
//!
//! This crate knows no SQL and no gRPC. It never deletes what is not yet safe, and a byte that is not as it was written is an
//! error that names the file, never a default.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::disallowed_methods))]

// Batch views: files of partial states, written once, read by key.
pub mod batch_view;
// `merganser.toml`.
pub mod config;
// Refused rows, kept.
pub mod dead_letter;
// Users who are gone.
pub mod erasures;
// Which identities there are, so that a few new events need not be compared with all old ones.
pub mod identities;
// History that did not come through the log.
pub mod imports;
// Files that others wrote, as rows.
pub mod input;
// Of many batch runs one at a time.
pub mod lease;
// Accepted events in order, durable.
pub mod log;
// The machine underneath: disk, clock, chance, threads.
pub mod machine;
// Which files are a version.
pub mod manifest;
// Closed segments as Parquet.
pub mod master;
// Tables for others to read.
pub mod output;
// Where each object is.
pub mod paths;
// An event as the log keeps it.
pub mod record;
// How far batch runs are.
pub mod progress;
// The object store.
pub mod store;
