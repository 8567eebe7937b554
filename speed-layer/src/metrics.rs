//! What is counted as it happens: an atomic add or two each time, no lock, no allocation. [`crate::told`] gives it names.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use merganser_proto::metrics::{Counter, Durations, Labels};
use storage::log::LogError;
use views::Refusal;

use crate::error::SpeedError;

/// See the names in `told`.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) received: Counter,
    pub(crate) accepted: Counter,
    pub(crate) duplicates: Counter,
    /// Rows of requests that were answered with an error, as far as nothing became of them.
    pub(crate) failed: Counter,
    refused: [Counter; REASONS.len()],
    appends: [Counter; OUTCOMES.len()],
    /// Of requests that were acknowledged.
    pub(crate) append_durations: Durations,
    pub(crate) sync_durations: Durations,
    /// Events that were written to the log; counted by its writers, where the others are counted by whoever answers.
    pub(crate) log_events: Counter,
    pub(crate) archive_failures: Counter,
    pub(crate) scrub_rounds: Counter,
    pub(crate) scrub_findings: Counter,
    /// As the last round found them.
    pub(crate) damaged_segments: AtomicU64,
}

/// Why rows are refused. No reason is named after what somebody sent.
const REASONS: [&str; 10] =
    ["missing", "too_long", "nul_character", "event_time", "amount", "attribute", "conflict", "narrow_version", "view_fails", "other"];
/// How requests end.
const OUTCOMES: [&str; 7] = ["acknowledged", "queue_full", "disk_full", "dead_letters_full", "log_failed", "stopping", "other"];

/// What became of the rows of one request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) accepted: usize,
    pub(crate) duplicates: usize,
    /// By reason.
    refused: [usize; REASONS.len()],
}

impl Tally {
    /// Counts a row that was refused and is kept as a dead letter.
    pub(crate) fn refuse(&mut self, refusal: &Refusal) {
        self.refused[reason(refusal)] += 1;
    }

    fn refused(&self) -> usize {
        self.refused.iter().sum()
    }
}

impl Metrics {
    /// Counts a request of so many rows that took so long to acknowledge, or failed.
    pub(crate) fn append<E: AsRef<SpeedError>>(&self, rows: usize, tally: &Tally, outcome: Result<Duration, E>) {
        self.received.inc_by(rows as u64);
        self.accepted.inc_by(tally.accepted as u64);
        self.duplicates.inc_by(tally.duplicates as u64);
        for (counter, rows) in self.refused.iter().zip(tally.refused).filter(|(_, rows)| *rows > 0) {
            counter.inc_by(rows as u64);
        }
        match outcome {
            Ok(elapsed) => {
                self.appends[0].inc();
                self.append_durations.observe(elapsed);
            }
            Err(error) => {
                self.appends[ending(error.as_ref())].inc();
                self.failed.inc_by(rows.saturating_sub(tally.accepted + tally.duplicates + tally.refused()) as u64);
            }
        }
    }

    /// Every row, by what became of it.
    pub(crate) fn rows(&self) -> Vec<(Labels, u64)> {
        let refused = self.refused.iter().map(Counter::get).sum();
        let rows =
            [("accepted", self.accepted.get()), ("duplicate", self.duplicates.get()), ("refused", refused), ("failed", self.failed.get())];
        rows.map(|(outcome, rows)| (vec![("outcome", outcome.to_owned())], rows)).into()
    }

    pub(crate) fn refused(&self) -> Vec<(Labels, u64)> {
        named("reason", &REASONS, &self.refused)
    }

    pub(crate) fn appends(&self) -> Vec<(Labels, u64)> {
        named("outcome", &OUTCOMES, &self.appends)
    }
}

fn named(label: &'static str, names: &[&str], counters: &[Counter]) -> Vec<(Labels, u64)> {
    names.iter().zip(counters).map(|(name, counter)| (vec![(label, (*name).to_owned())], counter.get())).collect()
}

fn place(names: &[&str], name: &str) -> usize {
    names.iter().position(|known| *known == name).expect("it is in the list")
}

fn reason(refusal: &Refusal) -> usize {
    let text = refusal.reason.as_str();
    let name = match refusal.field.split('.').next().unwrap_or_default() {
        _ if text == "is missing" => "missing",
        _ if text.starts_with("is longer than ") || text.starts_with("are larger than ") => "too_long",
        _ if text == "contains a NUL character" => "nul_character",
        "event_id" => "conflict",
        "event_time" => "event_time",
        "amount" => "amount",
        "attributes" if text.contains(": a version that is kept reads it as ") => "narrow_version",
        "attributes" => "attribute",
        "event" => "view_fails",
        _ => "other",
    };
    place(&REASONS, name)
}

fn ending(error: &SpeedError) -> usize {
    let name = match error {
        SpeedError::QueueFull { .. } | SpeedError::QueueBytesFull { .. } => "queue_full",
        SpeedError::Log(LogError::DiskFull { .. }) => "disk_full",
        SpeedError::DeadLettersFull { .. } => "dead_letters_full",
        SpeedError::Log(_) => "log_failed",
        SpeedError::Stopping | SpeedError::Ended { .. } => "stopping",
        _ => "other",
    };
    place(&OUTCOMES, name)
}
