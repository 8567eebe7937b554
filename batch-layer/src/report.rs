//! What a run did: a JSON object under `runs/`, one for each run that got as far as having an id, and a summary for people.

use std::fmt;

use chrono::{DateTime, NaiveDateTime, Utc};
use indicatif::{HumanBytes, HumanCount, HumanDuration};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use storage::imports::import_of;
use storage::manifest::AcceptedDifference;
use storage::paths::{Id, RunPath};
use storage::store::{Store, StoreError};

use crate::audit::Difference;
use crate::rows::Rows;

/// The report of one run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct RunReport {
    /// The view.
    pub view: String,
    /// The run.
    pub run_id: String,
    /// `"published"`, or why not.
    pub outcome: String,
    /// The version that was published, or was meant to be.
    pub version: i64,
    /// The version before.
    pub parent: Option<i64>,
    /// The version that it was built upon, if the run was incremental.
    #[serde(default)]
    pub built_upon: Option<i64>,
    /// Why the run was not incremental, if it was meant to be.
    #[serde(default)]
    pub recompute_reason: Option<String>,
    /// When it began, RFC 3339 in UTC.
    pub started_time: String,
    /// How long it took.
    pub elapsed_ms: u64,
    /// The log whose offsets the boundary counts.
    pub log_id: String,
    /// Per partition, the first offset that is not covered.
    pub boundary: Vec<i64>,
    /// Numbers of the imports that are covered.
    #[serde(default)]
    pub imports: Vec<i64>,
    /// Fingerprint of the definition.
    pub fingerprint: String,
    /// Digest of keys and exact states.
    pub digest: String,
    /// Rows of the master dataset that were read to be folded, duplicates included.
    pub rows_read: i64,
    /// Events that the new view counts.
    pub event_count: i64,
    /// Duplicates that were removed, conflicts not included.
    pub late_duplicate_count: i64,
    /// The first of them.
    pub late_duplicates: Vec<Removed>,
    /// Rows that were read and do not count, because their users were erased after them.
    #[serde(default)]
    pub erased_count: i64,
    /// Repeated identities with other content, removed as well.
    pub conflict_count: i64,
    /// The first of them.
    pub conflicts: Vec<Removed>,
    /// Those of both kinds that this run was the first to see: the version before and the speed layer counted them.
    #[serde(default)]
    pub correction_count: i64,
    /// The first of them.
    #[serde(default)]
    pub corrections: Vec<Removed>,
    /// Where every row went.
    #[serde(default)]
    pub rows: Rows,
    /// Rows of states.
    pub state_rows: i64,
    /// Bytes of the view's files.
    pub view_bytes: i64,
    /// What was compared with: `"speed layer"` or `"second fold"`.
    pub audit_kind: String,
    /// Why not with the speed layer, if not.
    pub audit_fallback: Option<String>,
    /// Keys whose finished values were compared.
    pub keys_compared: i64,
    /// Keys that a late duplicate or an erasure touched, so that the speed layer could not be asked for them. In a view by user, an erased
    /// user counts as one key.
    pub keys_refolded: i64,
    /// The first of them.
    pub refolded_keys: Vec<String>,
    /// Keys that differ from what the new view was compared with.
    #[serde(default)]
    pub differing_keys: i64,
    /// Over every value that differs, as [`Differences::digest`](crate::Differences); empty where none does.
    #[serde(default)]
    pub difference_digest: String,
    /// One value of each of the first keys that differ.
    pub differences: Vec<Difference>,
    /// What was published in spite of a difference, if anything was.
    #[serde(default)]
    pub accepted_difference: Option<AcceptedDifference>,
}

/// A row that was removed because another of the same identity is there.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Removed {
    /// The user.
    pub user_id: String,
    /// The event.
    pub event_id: String,
    /// The partition of both.
    pub partition: u32,
    /// Offset of the row that counts; below zero in an import ([`storage::imports`]).
    pub kept_offset: i64,
    /// Offset of the row that was removed.
    pub removed_offset: i64,
    /// Whether its content was another.
    #[serde(default)]
    pub is_conflict: bool,
}

impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { user_id, event_id, partition, kept_offset, removed_offset, is_conflict } = self;
        let place = |offset: i64| match import_of(offset) {
            Some(import) => format!("offset {offset} (import {import})"),
            None => format!("offset {offset}"),
        };
        let content = if *is_conflict { ", whose content is another," } else { "" };
        let (kept, removed) = (place(*kept_offset), place(*removed_offset));
        write!(f, "event {event_id} of {user_id}, partition {partition}: {kept} counts, {removed}{content} is taken out")
    }
}

/// Corrections that the summary lists; the report has more of them.
const LISTED: usize = 10;

impl RunReport {
    /// What the version before and the speed layer had counted once too often.
    fn write_corrections(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, removed) in self.corrections.iter().take(LISTED).enumerate() {
            writeln!(f, "{:<12}{removed}", if index == 0 { "corrected" } else { "" })?;
        }
        let more = self.correction_count - self.corrections.len().min(LISTED) as i64;
        match more > 0 {
            true => {
                writeln!(f, "{:<12}and {more} more; runs/{}/{}.json has the first {}", "", self.view, self.run_id, self.corrections.len())
            }
            false => Ok(()),
        }
    }

    /// Writes the report to its place in the store, durably.
    pub(crate) async fn store(&self, store: &Store, path: &RunPath) -> Result<(), StoreError> {
        let json = serde_json::to_vec_pretty(self).expect("texts and numbers are JSON");
        store.put_durable(&path.path(), json.into()).await
    }
}

/// The summary that a run ends with.
impl fmt::Display for RunReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |n: i64| HumanCount(u64::try_from(n).unwrap_or(0));
        let boundary = self.boundary.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let refolded = if self.keys_refolded == 0 { String::new() } else { format!(", {} refolded", count(self.keys_refolded)) };
        writeln!(f, "published   {} v{}  ({})", self.view, self.version, self.run_id)?;
        match (self.built_upon, &self.recompute_reason) {
            (Some(base), _) => writeln!(f, "computed    from v{base} and {} newer rows", count(self.rows_read))?,
            (None, Some(reason)) => writeln!(f, "computed    from all {} rows ({reason})", count(self.rows_read))?,
            (None, None) => writeln!(f, "computed    from all {} rows", count(self.rows_read))?,
        }
        writeln!(f, "boundary    {boundary}")?;
        if !self.imports.is_empty() {
            writeln!(f, "imports     {}", self.imports.len())?;
        }
        writeln!(f, "events      {}", count(self.event_count))?;
        writeln!(f, "removed     {} late duplicates, {} conflicts", count(self.late_duplicate_count), count(self.conflict_count))?;
        if self.erased_count > 0 {
            writeln!(f, "erased      {} events of erased users, left out", count(self.erased_count))?;
        }
        self.write_corrections(f)?;
        writeln!(f, "rows        {}", self.rows)?;
        writeln!(f, "view        {} rows, {}", count(self.state_rows), HumanBytes(u64::try_from(self.view_bytes).unwrap_or(0)))?;
        let equal = count((self.keys_compared - self.differing_keys).max(0));
        writeln!(f, "audit       {equal} keys equal to the {}{refolded}", self.audit_kind)?;
        if let Some(accepted) = &self.accepted_difference {
            writeln!(f, "accepted    the difference of run {}, in {} keys", accepted.run_id, count(accepted.keys))?;
        }
        writeln!(f, "digest      {}", self.digest.get(..20).unwrap_or(&self.digest))?;
        write!(f, "elapsed     {}", HumanDuration(Duration::from_millis(self.elapsed_ms)))
    }
}

/// The time in a run's id.
const RUN_TIME: &str = "%Y%m%dT%H%M%S%3fZ";

/// A new run's id: it sorts by time, and no two are the same.
pub(crate) fn new_run_id(now: DateTime<Utc>, random: u32) -> Id {
    let id = format!("{}-{random:08x}", now.format(RUN_TIME));
    id.parse().expect("digits, letters and a hyphen")
}

/// When the run of that id began; `None` if it is not an id of ours.
pub(crate) fn began(run_id: &str) -> Option<DateTime<Utc>> {
    let (time, _) = run_id.split_once('-')?;
    NaiveDateTime::parse_from_str(time, RUN_TIME).ok().map(|time| time.and_utc())
}
