//! What a run notes in its report as it goes on, and what the report is checked for before anything is published.

use std::collections::BTreeSet;
use std::sync::Arc;

use storage::manifest::Manifest;
use storage::master::SegmentMeta;
use storage::paths::RunPath;
use tokio::time::Instant;
use tracing::warn;

use super::Run;
use crate::audit::Touched;
use crate::dedup::EXAMPLES;
use crate::error::RunError;
use crate::hidden::Hidden;
use crate::rows::{self, Rows};
use crate::shard::Removed;

impl Run<'_> {
    /// Sums up what was removed; the answer is the keys that the speed layer counted too often.
    pub(super) fn note_duplicates(&mut self, removed: &[Removed]) -> BTreeSet<String> {
        let report = &mut self.report;
        let found = || removed.iter().map(|removed| &removed.duplicates);
        report.late_duplicate_count = found().map(|d| d.late_count).sum();
        report.conflict_count = found().map(|d| d.conflict_count).sum();
        report.late_duplicates = found().flat_map(|d| d.late.iter().cloned()).take(EXAMPLES).collect();
        report.conflicts = found().flat_map(|d| d.conflicts.iter().cloned()).take(EXAMPLES).collect();
        report.correction_count = found().map(|d| d.correction_count).sum();
        report.corrections = found().flat_map(|d| d.corrections.iter().cloned()).take(EXAMPLES).collect();
        found().flat_map(|d| d.touched_keys.iter().cloned()).collect()
    }

    /// Counts what erasures have hidden, and adds what the version before counts of it, or the speed layer does.
    pub(super) fn note_hidden(&mut self, hidden: &Hidden, touched: &mut Touched) -> Result<(), RunError> {
        let found = hidden.take().map_err(|source| RunError::HiddenKeys { source })?;
        self.report.erased_count = found.rows;
        touched.keys.extend(found.touched_keys);
        if let Some(parent) = self.parent.as_ref().filter(|_| self.definition.is_by_user()) {
            let new = self.master.erasures.from(&parent.boundary);
            touched.users = new.iter().map(|erasure| erasure.user_id.clone()).collect();
        }
        Ok(())
    }

    pub(super) fn note_rows(&mut self, manifest: &Manifest, base: Option<&Manifest>, removed: &[Removed]) -> Result<(), RunError> {
        let chains = self.cut.chains(&self.master.segments)?;
        let segments: i64 = chains.iter().flatten().map(SegmentMeta::rows).sum();
        let erasures = self.master.erasures.iter().count() as i64;
        // Only a file that was written again may have lost what was erased, or has expired, of which the layout has the number.
        let rewritten = chains.iter().flatten().filter(|segment| segment.is_rewritten());
        let gone = rewritten.map(|segment| self.master.records(segment) - segment.rows() - segment.expired()).sum();
        let expired: i64 = chains.iter().flatten().map(SegmentMeta::expired).sum();
        let imports = rows::of_imports(self.master.imports.iter().map(Arc::as_ref));
        // What the version below was made from: all but the rows that this run has read, and those that have expired since, which are
        // some of those that have expired.
        let expired_in_all = expired + rows::expired_of_imports(self.master.imports.iter().map(Arc::as_ref));
        let below = segments + imports + expired_in_all - self.report.rows_read;
        self.report.rows = Rows {
            log: manifest.boundary.iter().sum(),
            segments,
            erasures,
            gone,
            expired,
            imports,
            counted: manifest.event_count,
            late_duplicates: manifest.late_duplicate_count,
            conflicts: manifest.conflict_count,
            erased: self.report.erased_count,
            filtered: removed.iter().map(|removed| removed.filtered).sum(),
            past_limit: removed.iter().map(|removed| removed.past_limit).sum(),
            left_out_before: base.map_or(0, |base| below - base.event_count - base.late_duplicate_count - base.conflict_count),
            left_out_and_gone: if base.is_some() { expired_in_all } else { 0 },
        };
        Ok(())
    }

    /// Every row of the log below the boundary is archived, and every archived one is counted or was left out for a reason.
    pub(super) fn check_rows(&self) -> Result<(), RunError> {
        match self.report.rows.reconcile(self.definition.has_filter() || self.definition.has_limit()) {
            true => Ok(()),
            false => Err(RunError::Rows(Box::new(self.report.rows.clone()))),
        }
    }

    /// Best effort: the version is published or not, whatever becomes of the report.
    pub(super) async fn write_report(&mut self, published: &Result<(), RunError>, started: Instant) {
        let report = &mut self.report;
        report.elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        report.outcome = published.as_ref().map_or_else(full_text, |()| "published".to_owned());
        let path = RunPath { view: self.options.view.clone(), run_id: self.run_id.clone() };
        if let Err(error) = report.store(self.store, &path).await {
            warn!(path = %path.path(), %error, "the report of the run could not be written");
        }
    }
}

/// An error with its causes, in one line.
fn full_text(error: &RunError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
