//! What became of the rows: counted while loading, kept with the progress, shown at the end.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Reasons that are told apart; rows beyond count under [`OTHER_REASONS`].
const MAX_REASONS: usize = 1000;
const OTHER_REASONS: &str = "other reasons";
/// Places kept for each reason.
const MAX_PLACES: usize = 3;
/// Reasons that the closing table shows.
const SHOWN_REASONS: usize = 10;

/// Counts of rows. `received = accepted + duplicate + rejected`, always.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Rows of the file that were dealt with.
    pub received: u64,
    /// Rows that the server appended.
    pub accepted: u64,
    /// Rows that the server had already. After a broken connection, rows may count here that were appended just before.
    pub duplicate: u64,
    /// Rows that were refused: by the server, or here because they are no events.
    pub rejected: u64,
    /// Of `rejected`, the rows that are no events. They were not sent, so the server keeps no dead letter of them.
    pub unreadable: u64,
    /// Why rows were rejected.
    pub reasons: BTreeMap<String, Reason>,
}

/// One reason to reject rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// Rows rejected for it.
    pub count: u64,
    /// The first few of them, as `file:line`; in Parquet files `file:row`.
    pub places: Vec<String>,
}

impl Tally {
    /// Counts one rejected row under its reason; `received` and `rejected` are the caller's.
    pub(super) fn blame(&mut self, reason: String, place: impl FnOnce() -> String) {
        let known = self.reasons.contains_key(&reason);
        let reason = if known || self.reasons.len() < MAX_REASONS { reason } else { OTHER_REASONS.to_owned() };
        let entry = self.reasons.entry(reason).or_default();
        entry.count += 1;
        if entry.places.len() < MAX_PLACES {
            entry.places.push(place());
        }
    }

    fn add(&mut self, other: &Self) {
        self.received += other.received;
        self.accepted += other.accepted;
        self.duplicate += other.duplicate;
        self.rejected += other.rejected;
        self.unreadable += other.unreadable;
        for (reason, more) in &other.reasons {
            let entry = self.reasons.entry(reason.clone()).or_default();
            entry.count += more.count;
            let room = MAX_PLACES.saturating_sub(entry.places.len());
            entry.places.extend(more.places.iter().take(room).cloned());
        }
    }
}

/// How a file came to be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// In this run, from the first row.
    Loaded,
    /// In this run, behind the rows of an earlier one.
    Resumed {
        /// Rows that the earlier run had loaded.
        after_rows: u64,
    },
    /// In an earlier run. Nothing was sent; the counts are those of that run.
    AlreadyLoaded,
}

/// One loaded file.
#[derive(Clone, Debug)]
pub struct FileSummary {
    /// The file, as it was given.
    pub file: PathBuf,
    /// How it came to be loaded.
    pub outcome: Outcome,
    /// Its rows, those of earlier runs included.
    pub tally: Tally,
}

/// The end of a load. Displays as a small table.
#[derive(Clone, Debug, Default)]
pub struct LoadSummary {
    /// The files, in the order they were given.
    pub files: Vec<FileSummary>,
    /// Rows dealt with in this run.
    pub sent_rows: u64,
    /// How long this run took.
    pub elapsed: Duration,
}

impl LoadSummary {
    /// The rows of all files together, those of earlier runs included.
    #[must_use]
    pub fn total(&self) -> Tally {
        let mut total = Tally::default();
        self.files.iter().for_each(|file| total.add(&file.tally));
        total
    }

    /// The same for a program.
    #[must_use]
    pub fn document(&self) -> Value {
        let file = |file: &FileSummary| {
            let (outcome, after_rows) = match file.outcome {
                Outcome::Loaded => ("loaded", 0),
                Outcome::Resumed { after_rows } => ("resumed", after_rows),
                Outcome::AlreadyLoaded => ("already_loaded", file.tally.received),
            };
            json!({ "file": file.file, "outcome": outcome, "rows_loaded_before": after_rows, "rows": file.tally })
        };
        json!({
            "files": self.files.iter().map(file).collect::<Vec<_>>(),
            "total": self.total(),
            "sent_rows": self.sent_rows,
            "elapsed_ms": u64::try_from(self.elapsed.as_millis()).unwrap_or(u64::MAX),
        })
    }
}

impl fmt::Display for LoadSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.total();
        let names: Vec<_> = self.files.iter().map(|file| file.file.display().to_string()).collect();
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max("total".len());
        writeln!(f, "{:width$}  {:>13} = {:>13} + {:>13} + {:>13}", "file", "received", "accepted", "duplicate", "rejected")?;
        for (name, file) in names.iter().zip(&self.files) {
            write_row(f, name, width, &file.tally)?;
            match file.outcome {
                Outcome::Loaded => writeln!(f)?,
                Outcome::Resumed { after_rows } => writeln!(f, "  resumed after row {}", grouped(after_rows))?,
                Outcome::AlreadyLoaded => writeln!(f, "  already loaded")?,
            }
        }
        if self.files.len() > 1 {
            write_row(f, "total", width, &total)?;
            writeln!(f)?;
        }
        write_reasons(f, &total)?;
        let seconds = self.elapsed.as_secs_f64();
        let rows_per_second = self.sent_rows as f64 / seconds.max(0.001);
        let (rows, rate) = (grouped(self.sent_rows), grouped(rows_per_second as u64));
        write!(f, "\n{rows} rows in {seconds:.1} s, {rate} rows/s")
    }
}

fn write_row(f: &mut fmt::Formatter<'_>, name: &str, width: usize, tally: &Tally) -> fmt::Result {
    let [received, accepted, duplicate, rejected] = [tally.received, tally.accepted, tally.duplicate, tally.rejected].map(grouped);
    write!(f, "{name:width$}  {received:>13} = {accepted:>13} + {duplicate:>13} + {rejected:>13}")
}

/// The most frequent reasons, first places included.
fn write_reasons(f: &mut fmt::Formatter<'_>, total: &Tally) -> fmt::Result {
    if total.reasons.is_empty() {
        return Ok(());
    }
    let mut reasons: Vec<_> = total.reasons.iter().collect();
    reasons.sort_by_key(|(_, reason)| std::cmp::Reverse(reason.count));
    writeln!(f, "\nrejected because")?;
    for (text, reason) in reasons.iter().take(SHOWN_REASONS) {
        writeln!(f, "{:>13}  {text}  ({})", grouped(reason.count), reason.places.join(", "))?;
    }
    if let Some(more) = reasons.len().checked_sub(SHOWN_REASONS).filter(|more| *more > 0) {
        writeln!(f, "{:>13}  {} more reasons", "", grouped(more as u64))?;
    }
    if total.unreadable > 0 {
        let unreadable = grouped(total.unreadable);
        writeln!(f, "{unreadable} of them are no events at all and were not sent: they stay in their file, and no dead letter has them")?;
    }
    Ok(())
}

/// A number with a comma between each three digits.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
