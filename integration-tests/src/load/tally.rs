//! What came of a row of calls: when they were answered, and how.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use tonic::Status;

/// Latencies are told apart to three digits, up to a minute.
const DIGITS: u8 = 3;
const LONGEST_US: u64 = 60_000_000;
/// Complaints that are kept with their words.
const KEPT_COMPLAINTS: usize = 5;

/// Outcomes of calls. Those of several callers add up.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Of answered calls, in microseconds.
    pub latency_us: Histogram<u64>,
    /// By gRPC code.
    pub errors: BTreeMap<String, u64>,
    /// Answers that were compared.
    pub checked: u64,
    /// Answers that were not right.
    pub wrong: u64,
    /// What was wrong with the first of them.
    pub complaints: Vec<String>,
    /// Calls that were due and not sent, because too many were not answered yet.
    pub skipped: u64,
}

impl Default for Tally {
    fn default() -> Self {
        let latency_us = Histogram::new_with_bounds(1, LONGEST_US, DIGITS).expect("these bounds make a histogram");
        Self { latency_us, errors: BTreeMap::new(), checked: 0, wrong: 0, complaints: Vec::new(), skipped: 0 }
    }
}

/// What an answered call says of its answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Checked {
    /// It was not compared with anything.
    No,
    /// It is right.
    Right,
    /// It is not, and why.
    Wrong(String),
}

impl Tally {
    /// One call that took so long.
    pub fn add(&mut self, took: Duration, outcome: Result<Checked, Status>) {
        match outcome {
            Err(status) => *self.errors.entry(format!("{:?}", status.code())).or_default() += 1,
            Ok(checked) => {
                self.latency_us.saturating_record(u64::try_from(took.as_micros()).unwrap_or(LONGEST_US).max(1));
                self.checked += u64::from(checked != Checked::No);
                if let Checked::Wrong(complaint) = checked {
                    self.wrong += 1;
                    self.complain(complaint);
                }
            }
        }
    }

    fn complain(&mut self, complaint: String) {
        if self.complaints.len() < KEPT_COMPLAINTS {
            self.complaints.push(complaint);
        }
    }

    /// Both together.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.latency_us.add(&other.latency_us).expect("all have the same bounds");
        for (code, count) in other.errors {
            *self.errors.entry(code).or_default() += count;
        }
        self.checked += other.checked;
        self.wrong += other.wrong;
        self.skipped += other.skipped;
        other.complaints.into_iter().for_each(|complaint| self.complain(complaint));
        self
    }

    /// Calls that were not answered.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    /// The figures of these calls, which took `seconds` altogether, each of `items` users or events.
    #[must_use]
    pub fn figures(&self, seconds: f64, items: u64) -> Figures {
        let at = |quantile| self.latency_us.value_at_quantile(quantile);
        Figures {
            seconds,
            answered: self.latency_us.len(),
            per_second: self.latency_us.len() as f64 / seconds,
            items_per_second: (self.latency_us.len() * items) as f64 / seconds,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            errors: self.errors.clone(),
            checked: self.checked,
            wrong: self.wrong,
            skipped: self.skipped,
        }
    }
}

/// A row of calls in numbers.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// How long the row took.
    pub seconds: f64,
    /// Calls that were answered.
    pub answered: u64,
    /// The same a second.
    pub per_second: f64,
    /// Users or events in them, a second.
    pub items_per_second: f64,
    /// Half of the calls were answered faster.
    pub p50_us: u64,
    /// 90 % were.
    pub p90_us: u64,
    /// 99 % were.
    pub p99_us: u64,
    /// 99.9 % were.
    pub p999_us: u64,
    /// By gRPC code.
    pub errors: BTreeMap<String, u64>,
    /// Answers that were compared.
    pub checked: u64,
    /// Answers that were not right.
    pub wrong: u64,
    /// Calls that were due and not sent.
    pub skipped: u64,
}
