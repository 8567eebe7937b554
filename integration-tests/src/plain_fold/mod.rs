//! An event file added up in the plainest way: one row after the other into a map, each identity once.
//!
//! It shares no code with the product, parsers included: `jiter` reads JSON, a splitter of its own reads CSV, the record API
//! reads Parquet, and money is an `i128` of ten-thousandths. Attributes are not looked at. Memory grows with the number of
//! events (their identities), not with their size.

mod csv;
mod json;
mod parquet;
pub mod records;
pub mod text;

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::Path;

use twox_hash::XxHash3_128;

/// What counts of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlainEvent {
    /// Never empty.
    pub user_id: String,
    /// Never empty.
    pub event_id: String,
    /// Microseconds since 1970.
    pub time_us: i64,
    /// Ten-thousandths.
    pub amount: Option<i128>,
}

/// The rows of a file in order; a row that is no event of a user is `None`.
pub type Rows = Box<dyn Iterator<Item = io::Result<Option<PlainEvent>>>>;

/// Reads `path` as its ending says.
///
/// # Errors
/// A file that cannot be read, or with an ending that is not known.
pub fn rows(path: &Path) -> io::Result<Rows> {
    if records::is_parquet(path) {
        return parquet::rows(path);
    }
    let file = records::open(path)?;
    Ok(match file.header {
        None => Box::new(file.records.map(|line| Ok(json::event(&line?)))),
        Some(header) => {
            let columns = csv::cells(&header);
            Box::new(file.records.map(move |record| Ok(csv::event(&columns, &record?))))
        }
    })
}

/// The four figures of a user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Events.
    pub count: u64,
    /// Sum of the amounts, ten-thousandths; none when no event has one.
    pub revenue: Option<i128>,
    /// Earliest time, microseconds since 1970.
    pub first_us: Option<i64>,
    /// Latest time, microseconds since 1970.
    pub last_us: Option<i64>,
}

impl Stats {
    /// Counts one event.
    pub fn add(&mut self, event: &PlainEvent) {
        self.count += 1;
        self.revenue = [self.revenue, event.amount].into_iter().flatten().reduce(|a, b| a + b);
        self.first_us = self.first_us.into_iter().chain([event.time_us]).min();
        self.last_us = self.last_us.into_iter().chain([event.time_us]).max();
    }

    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            count: self.count + other.count,
            revenue: [self.revenue, other.revenue].into_iter().flatten().reduce(|a, b| a + b),
            first_us: self.first_us.into_iter().chain(other.first_us).min(),
            last_us: self.last_us.into_iter().chain(other.last_us).max(),
        }
    }
}

/// When a row is sent: before the batch run, or after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Before.
    Batch,
    /// After.
    Live,
}

/// A user's figures, by the part that the events arrived in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserStats {
    /// Of the events before the batch run.
    pub batch: Stats,
    /// Of those after it.
    pub live: Stats,
}

impl UserStats {
    /// Of all events.
    #[must_use]
    pub fn total(&self) -> Stats {
        self.batch.plus(&self.live)
    }
}

/// The sums so far.
#[derive(Clone, Debug, Default)]
pub struct PlainFold {
    /// By user.
    pub users: BTreeMap<String, UserStats>,
    /// Rows that are no event of a user.
    pub skipped: u64,
    /// Rows whose identity had been there before.
    pub repeated: u64,
    seen: HashSet<u128>,
}

impl PlainFold {
    /// Adds the rows of `path` that `of` places in `part`. The rows are numbered from 0.
    ///
    /// # Errors
    /// As [`rows`].
    pub fn add_file(&mut self, path: &Path, part: Part, of: impl Fn(u64) -> Part) -> io::Result<()> {
        for (row, event) in (0..).zip(rows(path)?) {
            let event = event?;
            if of(row) == part {
                self.add(part, event);
            }
        }
        Ok(())
    }

    fn add(&mut self, part: Part, event: Option<PlainEvent>) {
        let Some(event) = event else {
            self.skipped += 1;
            return;
        };
        // A line feed cannot slide from one id into the other without changing their lengths.
        let identity = format!("{}\n{}\n{}", event.user_id.len(), event.user_id, event.event_id);
        if !self.seen.insert(XxHash3_128::oneshot(identity.as_bytes())) {
            self.repeated += 1;
            return;
        }
        let user = self.users.entry(event.user_id.clone()).or_default();
        match part {
            Part::Batch => user.batch.add(&event),
            Part::Live => user.live.add(&event),
        }
    }

    /// The figures of all users together.
    #[must_use]
    pub fn total(&self) -> UserStats {
        self.users
            .values()
            .fold(UserStats::default(), |sum, user| UserStats { batch: sum.batch.plus(&user.batch), live: sum.live.plus(&user.live) })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
