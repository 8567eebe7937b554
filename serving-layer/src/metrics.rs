//! What is counted as it happens: an atomic add or two each time, no lock, no allocation. [`crate::told`] gives it names.

use std::fmt;

use merganser_proto::metrics::{Counter, Durations, Labels, Sheet};
use tokio::time::Instant;

use crate::ServingError;

/// See the names in `told`.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) get_states: SpeedCalls,
    pub(crate) prepare_version: SpeedCalls,
    /// Up to their first message.
    pub(crate) stream_states: SpeedCalls,
    /// Answers without the realtime half, and those whose realtime half has not come to the position that was asked for.
    without_speed: Counter,
    behind: Counter,
    /// Times that a view could not be opened.
    pub(crate) unopened_views: Counter,
}

/// How a call to the speed layer ends. One whose question is given up meanwhile counts as abandoned.
const OUTCOMES: [&str; 5] = ["answered", "stale", "refused", "unavailable", "abandoned"];

/// Calls of one method of the speed layer.
#[derive(Debug, Default)]
pub(crate) struct SpeedCalls {
    outcomes: [Counter; OUTCOMES.len()],
    durations: Durations,
}

/// A call that is under way.
pub(crate) struct Asked<'a> {
    calls: &'a SpeedCalls,
    since: Instant,
    outcome: usize,
}

impl SpeedCalls {
    pub(crate) fn begin(&self) -> Asked<'_> {
        Asked { calls: self, since: Instant::now(), outcome: OUTCOMES.len() - 1 }
    }
}

impl Asked<'_> {
    pub(crate) fn answered(mut self, error: Option<&ServingError>) {
        self.outcome = match error {
            None => 0,
            Some(ServingError::Stale { .. }) => 1,
            Some(ServingError::SpeedRefused { .. }) => 2,
            Some(_) => 3,
        };
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.calls.outcomes[self.outcome].inc();
        self.calls.durations.observe(self.since.elapsed());
    }
}

impl Metrics {
    /// Counts an answer that may lack events.
    pub(crate) fn incomplete(&self, has_speed_half: bool) {
        if has_speed_half { &self.behind } else { &self.without_speed }.inc();
    }

    pub(crate) fn write(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let methods = [("GetStates", &self.get_states), ("PrepareVersion", &self.prepare_version), ("StreamStates", &self.stream_states)];
        let calls = methods.iter().flat_map(|(method, calls)| {
            let outcomes = OUTCOMES.iter().zip(&calls.outcomes);
            outcomes.map(|(outcome, count)| (vec![("method", (*method).to_owned()), ("outcome", (*outcome).to_owned())], count.get()))
        });
        sheet.counter("merganser_serving_speed_calls", "Calls to the speed layer, by method and outcome.", calls)?;
        let durations = methods.iter().map(|(method, calls)| (vec![("method", (*method).to_owned())], calls.durations.clone()));
        sheet.durations("merganser_serving_speed_call_duration_seconds", "What they take.", durations)?;
        let incomplete = [("speed_layer_unavailable", &self.without_speed), ("position_not_reached", &self.behind)];
        let incomplete: Vec<(Labels, u64)> =
            incomplete.iter().map(|(reason, count)| (vec![("reason", (*reason).to_owned())], count.get())).collect();
        sheet.counter("merganser_serving_incomplete_answers", "Answers with complete = false, by reason.", incomplete)
    }
}
