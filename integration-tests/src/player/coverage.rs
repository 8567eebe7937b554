//! What the schedules did, in numbers: a proof is worth what it covers.

use std::fmt;
use std::ops::AddAssign;

use crate::schedule::Schedule;

/// Counts over one schedule, or over many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it, and Display says it again")]
pub struct Coverage {
    pub schedules: usize,
    pub least_operations: usize,
    pub least_partitions: usize,
    pub least_publishes: usize,
    pub operations: usize,
    pub events: usize,
    pub duplicates: usize,
    pub conflicts: usize,
    pub slipped: usize,
    pub refused: usize,
    pub erasures: usize,
    pub resent: usize,
    pub cuts: usize,
    pub publishes: usize,
    pub speed_restarts: usize,
    pub serving_restarts: usize,
    pub answers: usize,
    pub answers_during_publishes: usize,
    pub from_both_halves: usize,
    pub unavailable: usize,
}

impl Coverage {
    /// Of a schedule that has not begun.
    pub(super) fn of(schedule: &Schedule) -> Self {
        Self {
            schedules: 1,
            least_operations: schedule.operations.len(),
            least_partitions: schedule.partitions as usize,
            ..Self::default()
        }
    }

    /// What no schedule may leave at 0, with its name.
    #[must_use]
    pub fn kinds(&self) -> [(&'static str, usize); 15] {
        [
            ("events accepted", self.events),
            ("duplicates sent", self.duplicates),
            ("conflicts sent", self.conflicts),
            ("copies beyond the window", self.slipped),
            ("rows refused", self.refused),
            ("users erased", self.erasures),
            ("events sent again after it", self.resent),
            ("cuts", self.cuts),
            ("publishes", self.publishes),
            ("restarts of the speed layer", self.speed_restarts),
            ("restarts of the serving layer", self.serving_restarts),
            ("answers equal to the oracle", self.answers),
            ("… while a publish was under way", self.answers_during_publishes),
            ("… merged from two filled halves", self.from_both_halves),
            ("refused without a speed layer", self.unavailable),
        ]
    }
}

impl AddAssign<&Self> for Coverage {
    fn add_assign(&mut self, other: &Self) {
        let least = |ours: usize, theirs: usize| if self.schedules == 0 { theirs } else { ours.min(theirs) };
        self.least_operations = least(self.least_operations, other.least_operations);
        self.least_partitions = least(self.least_partitions, other.least_partitions);
        self.least_publishes = least(self.least_publishes, other.publishes);
        self.schedules += other.schedules;
        self.operations += other.operations;
        self.events += other.events;
        self.duplicates += other.duplicates;
        self.conflicts += other.conflicts;
        self.slipped += other.slipped;
        self.refused += other.refused;
        self.erasures += other.erasures;
        self.resent += other.resent;
        self.cuts += other.cuts;
        self.publishes += other.publishes;
        self.speed_restarts += other.speed_restarts;
        self.serving_restarts += other.serving_restarts;
        self.answers += other.answers;
        self.answers_during_publishes += other.answers_during_publishes;
        self.from_both_halves += other.from_both_halves;
        self.unavailable += other.unavailable;
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} schedules, {} operations; each at least {} operations, {} partitions, {} publishes",
            self.schedules, self.operations, self.least_operations, self.least_partitions, self.least_publishes
        )?;
        for (name, count) in self.kinds() {
            writeln!(f, "{count:>10}  {name}")?;
        }
        Ok(())
    }
}
