//! The log: accepted events in order, durable before they are acknowledged.
//!
//! **Layout.**
//! ```text
//! <data>/log/LOCK                               locked by the server that has the folder
//! <data>/log/LOG                                {"format":1,"log_id":"<32 hex digits>","partitions":4}, written once
//! <data>/log/EPOCH                              {"format":1,"epoch":7}: how often the log was opened
//! <data>/log/RESERVE                            room kept back for the hour when the disk is full
//! <data>/log/p0000/00000000000000000000.log     a segment, named by its first offset: a header, then one frame a record
//! <data>/log/p0000/00000000000000004711.log     the newest segment is the active one, the others are closed for ever
//! ```
//! `header.rs` tells the header byte by byte, `frame.rs` the frame.
//!
//! **Consistency.** A partition has one writer ([`PartitionLog`]) and any number of readers
//! ([`LogReader`]). Offsets count up from 0 without a gap. An append is one write and one fdatasync
//! for the whole batch; a reader sees it once it is synced, never before. Behind the last record
//! stands a trailer, which shows that what is before it was synced; the next append overwrites it. All but
//! the newest segment of a partition are durable to their last byte, because a segment is closed only
//! after its last append was. Old segments go, oldest first, when they are trimmed.
//!
//! **A full disk.** Room is set aside before an append writes anything, so that
//! [`LogError::DiskFull`] costs nothing and passes when there is room again. Reading, trimming and closing
//! segments go on.
//!
//! **What a crash leaves behind.** The records of every append that returned, at their offsets, and
//! perhaps the first few of the one that did not. Opening cuts a torn tail, that is, an invalid
//! suffix in which nothing shows that it was synced, and makes the rest durable before anybody reads
//! it. Anything else that is not as it was written is [`LogError::Damaged`], names file and byte, and
//! changes nothing; a closed segment can be written afresh from the archive. What this folder alone
//! cannot tell is that its newest files were taken away or that an older copy of all of it was put
//! back: whoever knows a boundary above the head must refuse it.
//!
//! The code blocks, on purpose: it belongs on threads of its own.

// All calls on the disk, and the seam for fault tests.
pub mod disk;
/// How often the log was opened.
mod epoch;
/// What can go wrong.
mod error;
/// The folder, its identity and its lock.
mod folder;
/// One record on disk.
pub(crate) mod frame;
/// The front of a segment.
pub(crate) mod header;
/// The identity of a log.
mod id;
/// One append-only file of frames; shared with the dead letters.
pub(crate) mod journal;
/// The writing end of a partition.
mod partition;
/// The reading end of a partition.
mod reader;
/// What is true after a crash.
pub(crate) mod recovery;
/// Closed segments, written afresh.
mod repair;
/// Room kept back.
mod reserve;
/// The files of a partition.
pub(crate) mod segment;

#[cfg(test)]
pub(crate) mod tests;

pub use error::LogError;
pub use folder::{LogFolder, read_log_id};
pub use frame::{MAX_RECORD_BYTES, Record};
pub use id::LogId;
pub use partition::PartitionLog;
pub use reader::{LogReader, Records};
pub use reserve::Room;
