//! What the three programs have in common as programs, and nothing that any of them does.
//!
//! Answers go to stdout by [`mod@print`], complaints to stderr; colours only where somebody sees them. [`about`] are the sub-commands
//! about a program itself: completions, man pages, its part of `docs/reference.md`. [`doctor`] looks at the machine before it hurts.
//! [`mod@logs`], [`auth`] and [`tls`] make of the settings what the protocol crate and the log take. Exit codes are in [`exit`]. Decision 0020 says why this is a crate.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::disallowed_methods))]

/// Sub-commands about the program itself.
pub mod about;
/// `[auth]` and `[client]`.
pub mod auth;
/// What could keep a program from its work, and what to do about it.
pub mod doctor;
/// Exit codes.
pub mod exit;
/// Logs on stderr.
pub mod logs;
/// What to do about failures that every command can meet.
mod next;
/// Answers and complaints.
pub mod print;
/// A command line as a page.
mod reference;
/// `[tls]`.
pub mod tls;

pub use print::{Output, Printed};
