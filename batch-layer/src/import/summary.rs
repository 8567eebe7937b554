//! What an import did, for people.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use chrono::DateTime;
use indicatif::{HumanBytes, HumanCount};
use serde::Serialize;
use storage::imports::ImportMeta;
use views::Refusal;

use super::ImportError;
use crate::table::aligned;

/// Reasons that are told apart in one file.
const MAX_REASONS: usize = 1000;
const OTHER_REASONS: &str = "other reasons";
/// Reasons that are shown.
const SHOWN_REASONS: usize = 10;

/// Why rows were refused, and how many for each reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reasons(BTreeMap<String, u64>);

impl Reasons {
    pub(super) fn blame(&mut self, refusal: &Refusal) {
        let reason = format!("{} {}", refusal.field, refusal.reason).trim().to_owned();
        let full = self.0.len() >= MAX_REASONS && !self.0.contains_key(&reason);
        *self.0.entry(if full { OTHER_REASONS.to_owned() } else { reason }).or_default() += 1;
    }
}

/// A file that is in the master dataset.
#[derive(Debug)]
pub enum Imported {
    /// By this command.
    Now(ImportMeta, Reasons),
    /// Its content was there before.
    Already(ImportMeta),
    /// An earlier input of this command has the same content; what became of that stands there.
    Twice,
}

/// The end of an import. Displays as a small table.
#[derive(Debug)]
pub struct ImportSummary {
    /// What became of each input, in the order in which they were given.
    pub files: Vec<(String, Result<Imported, ImportError>)>,
    elapsed: Duration,
}

impl ImportSummary {
    pub(super) fn new(files: Vec<(String, Result<Imported, ImportError>)>, elapsed: Duration) -> Self {
        Self { files, elapsed }
    }

    /// 0 if every file is in, 2 if settings or a mapping kept one out, 1 if anything else did.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        self.files.iter().filter_map(|(_, file)| file.as_ref().err()).map(ImportError::exit_code).max().unwrap_or(0)
    }

    /// Rows received, written and refused by this command.
    #[must_use]
    pub fn rows(&self) -> [i64; 3] {
        self.new_files()
            .fold([0; 3], |sum, (meta, _)| [sum[0] + meta.received_count, sum[1] + meta.written_count, sum[2] + meta.refused_count])
    }

    fn new_files(&self) -> impl Iterator<Item = (&ImportMeta, &Reasons)> {
        self.files.iter().filter_map(|(_, file)| if let Ok(Imported::Now(meta, reasons)) = file { Some((meta, reasons)) } else { None })
    }
}

impl fmt::Display for ImportSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let already = self.files.iter().filter(|(_, file)| matches!(file, Ok(Imported::Already(_) | Imported::Twice))).count();
        let failed = self.files.iter().filter(|(_, file)| file.is_err()).count();
        let [received, written, refused] = self.rows().map(count);
        let failed = if failed == 0 { String::new() } else { format!(", {failed} failed") };
        writeln!(f, "files       {} imported, {already} already there{failed}", self.new_files().count())?;
        writeln!(f, "rows        {received} = {written} written + {refused} refused")?;
        let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
        for (reason, rows) in self.new_files().flat_map(|(_, reasons)| &reasons.0) {
            *reasons.entry(reason).or_default() += rows;
        }
        let mut reasons: Vec<_> = reasons.into_iter().collect();
        reasons.sort_by_key(|(_, rows)| std::cmp::Reverse(*rows));
        for (reason, rows) in reasons.iter().take(SHOWN_REASONS) {
            writeln!(f, "refused     {} because {reason}", HumanCount(*rows))?;
        }
        if let Some(more) = reasons.len().checked_sub(SHOWN_REASONS).filter(|more| *more > 0) {
            writeln!(f, "refused     for {more} more reasons")?;
        }
        write!(f, "elapsed     {:.1} s", self.elapsed.as_secs_f64())
    }
}

/// The committed imports as a table.
#[must_use]
pub fn table(imports: &[ImportMeta]) -> String {
    if imports.is_empty() {
        return "no import yet".to_owned();
    }
    aligned(["import", "rows", "refused", "size", "first event", "last event", "content", "mapping", "file"], imports.iter().map(cells))
}

fn cells(import: &ImportMeta) -> [String; 9] {
    let bytes: i64 = import.files.iter().map(|file| file.bytes).sum();
    let time =
        |us: Option<i64>| us.and_then(DateTime::from_timestamp_micros).map_or_else(|| "-".to_owned(), |t| t.format("%F %T").to_string());
    let short = |digest: &str| digest.get(..12).unwrap_or(digest).to_owned();
    [
        import.import.to_string(),
        count(import.written_count),
        count(import.refused_count),
        HumanBytes(u64::try_from(bytes).unwrap_or(0)).to_string(),
        time(import.first_event_time_us),
        time(import.last_event_time_us),
        short(&import.identity.content),
        import.identity.mapping.as_deref().map_or_else(|| "-".to_owned(), short),
        import.name.clone(),
    ]
}

fn count(n: i64) -> String {
    HumanCount(u64::try_from(n).unwrap_or(0)).to_string()
}
