//! What is computed: the schema of events, and a view definition as three verbs over it.
//!
//! A view is one SQL aggregate over `events`. It is checked once ([`Definition::parse`]) and folded twice: the batch
//! layer folds the whole master dataset, the speed layer folds what came after. [`fold::partial`] turns events into
//! partial states, [`fold::merge`] merges states in any grouping and order, [`fold::finish`] turns states into what
//! a reader sees. Outputs are never merged. All three drive DataFusion's own aggregate functions, so there is one
//! meaning of `avg` in the whole system.
//!
//! This crate does no I/O, reads no clock and knows neither gRPC nor files.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::disallowed_methods))]

/// Days, weeks and months of a place.
pub mod calendar;
/// Events as Arrow columns.
pub mod columns;
/// Decimal text and unscaled integers.
pub mod decimal;
/// SQL → checked definition.
pub mod definition;
/// A digest of states that is the same on every machine.
pub mod digest;
/// One event: as sent, as checked, and why refused.
pub mod event;
/// The three verbs.
pub mod fold;
/// A key as text.
pub mod key;
/// Which columns an event has.
pub mod schema;
/// The one hash that places a key.
pub mod shard;
mod sum;
/// States as bytes between layers.
pub mod wire;

pub use definition::{Definition, DefinitionError};
pub use event::{Event, RawEvent, Refusal};
pub use fold::{FoldError, Granularity};
pub use schema::EventSchema;
pub use shard::{shard_of, shard_of_key};
