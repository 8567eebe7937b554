//! Calls that were refused, by reason.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use super::refusal::Refusal;
use crate::metrics::{Counter, Sheet};

/// See [`Self::write`].
#[derive(Debug, Default)]
pub(super) struct Counts {
    refused: [AtomicU64; Refusal::REASONS.len()],
    pub(super) reloads: Counter,
    pub(super) failed_reloads: Counter,
}

impl Counts {
    pub(super) fn refuse(&self, refusal: &Refusal) {
        self.refused[refusal.number()].fetch_add(1, Ordering::Relaxed);
    }

    /// Writes `<prefix>_refused_calls_total` and `<prefix>_auth_reloads_total`.
    pub(super) fn write(&self, prefix: &str, sheet: &mut Sheet<'_>) -> fmt::Result {
        let reasons = Refusal::REASONS.iter().zip(&self.refused);
        let refused = reasons.map(|(reason, count)| (vec![("reason", reason.to_ascii_lowercase())], count.load(Ordering::Relaxed)));
        sheet.counter(&format!("{prefix}_refused_calls"), "Calls that were not let in, by reason.", refused)?;
        let reloads = [("loaded", &self.reloads), ("failed", &self.failed_reloads)];
        let reloads = reloads.map(|(outcome, count)| (vec![("outcome", outcome.to_owned())], count.get()));
        sheet.counter(&format!("{prefix}_auth_reloads"), "Times that a file of [auth] had changed.", reloads)
    }
}
