//! `make test-docs`: what a reader types is typed, and what the page says that is printed is compared.
//!
//! A page that says so (`page`) is read from top to bottom in a working copy of its own: each `$ ` line of its `console` blocks
//! goes to a shell as it stands, and what the shell prints is compared with the lines below it (`pattern`). The layers get free
//! ports by `MERGANSER_…` settings, so the commands stay as they are for everybody else (`world`).

/// A page, its blocks, and what it says about being typed.
pub mod page;
/// What is printed, compared with what the page says.
pub mod pattern;
/// What `docs/reference.md` says of settings and commands.
pub mod reference;
/// A shell that is typed into.
pub mod terminal;
/// A page from its first line to its last.
pub mod typist;
/// The working copy and the ports.
pub mod world;
