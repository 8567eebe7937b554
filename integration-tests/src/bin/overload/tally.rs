//! Outcomes of the calls of one row, and the row.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt;

/// What came of the calls of one row.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) answered: Vec<Duration>,
    pub(crate) refused: Vec<Duration>,
    /// Refused without saying when to try again.
    pub(crate) refused_silently: usize,
    pub(crate) failed: usize,
    pub(crate) seconds: f64,
}

impl Tally {
    pub(crate) fn add(&mut self, took: Duration, outcome: &Result<(), Status>) {
        match outcome {
            Ok(()) => self.answered.push(took),
            Err(status) if status.code() == Code::ResourceExhausted => {
                self.refused.push(took);
                self.refused_silently += usize::from(status.get_details_retry_info().is_none());
            }
            Err(_) => self.failed += 1,
        }
    }

    /// Answered a second.
    pub(crate) fn goodput(&self) -> f64 {
        self.answered.len() as f64 / self.seconds
    }

    /// Offered a second.
    pub(crate) fn offered(&self) -> f64 {
        (self.answered.len() + self.refused.len() + self.failed) as f64 / self.seconds
    }

    pub(crate) fn percentile(&self, percent: f64) -> Duration {
        let mut times = self.answered.clone();
        times.sort_unstable();
        let last = times.len().saturating_sub(1);
        times.get((last as f64 * percent / 100.0).round() as usize).copied().unwrap_or_default()
    }
}

/// Prints the head of the table.
#[allow(clippy::print_stdout)]
pub(crate) fn print_head() {
    println!(
        "{:28} {:>9} {:>9} {:>9} {:>9} {:>9} {:>8} {:>9} {:>9} {:>8}",
        "load", "offered/s", "goodput/s", "refused/s", "failed", "p50 ms", "p99 ms", "p99/idle", "good/peak", "RSS MiB"
    );
}

/// Prints one row.
#[allow(clippy::print_stdout)]
pub(crate) fn print_row(name: &str, tally: &Tally, idle_p99: Duration, peak: f64, resident_bytes: u64) {
    let ms = |percent| tally.percentile(percent).as_secs_f64() * 1000.0;
    println!(
        "{name:28} {:>9.0} {:>9.0} {:>9.0} {:>9} {:>9.2} {:>8.2} {:>9.1} {:>9.2} {:>8}{}",
        tally.offered(),
        tally.goodput(),
        tally.refused.len() as f64 / tally.seconds,
        tally.failed,
        ms(50.0),
        ms(99.0),
        tally.percentile(99.0).as_secs_f64() / idle_p99.as_secs_f64().max(1e-9),
        tally.goodput() / peak.max(1e-9),
        resident_bytes >> 20,
        if tally.refused_silently > 0 { format!("  ({} refused without RetryInfo)", tally.refused_silently) } else { String::new() }
    );
}
