//! What a run over the network did.

use std::fmt;
use std::ops::AddAssign;
use std::time::Duration;

use super::WEATHER;
use super::storm::INCIDENTS;
use crate::sim;
use crate::sim::faults::Fault;

/// What a run did, or several.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What the clients saw, and what struck.
    pub sim: sim::Report,
    /// Appends, questions and batch runs.
    pub operations: u64,
    /// Time on the network.
    pub simulated: Duration,
}

impl Report {
    /// Every kind of fault that can strike.
    pub fn kinds() -> impl Iterator<Item = Fault> {
        INCIDENTS.into_iter().chain([Fault::TwoBatches]).chain(WEATHER)
    }
}

impl crate::seeds::Tally for Report {
    fn runs(&self) -> u64 {
        self.sim.runs
    }

    fn digest(&self) -> &str {
        &self.sim.digest
    }
}

impl AddAssign<&Report> for Report {
    fn add_assign(&mut self, other: &Report) {
        self.sim += &other.sim;
        self.operations += other.operations;
        self.simulated += other.simulated;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sim::Report {
            runs,
            acknowledged,
            duplicates,
            refused,
            unknown,
            answers,
            merged,
            unanswered,
            refused_apart,
            incomplete,
            publishes,
            failed_runs,
            killed_runs,
            ..
        } = &self.sim;
        writeln!(f, "{runs} runs, {} operations, {} s on the network", self.operations, self.simulated.as_secs())?;
        writeln!(f, "{acknowledged} events acknowledged, {duplicates} duplicates, {refused} rows refused, {unknown} appends unknown")?;
        writeln!(f, "{answers} answers judged, {merged} of two halves, {incomplete} say that they are incomplete")?;
        writeln!(f, "{unanswered} questions unanswered, {refused_apart} of them while serving could not reach speed")?;
        writeln!(f, "{publishes} versions published, {failed_runs} runs failed, {killed_runs} killed")?;
        self.sim.tally.write(f, &Self::kinds().collect::<Vec<_>>())
    }
}
