//! How far a run is: a bar on a terminal, a line every few seconds elsewhere.

use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{HumanBytes, HumanCount, HumanDuration, ProgressBar, ProgressStyle};
use tokio::time::Instant;

/// Pause between lines where there is no terminal.
const LINE_PAUSE: Duration = Duration::from_secs(5);

/// What a run does with each event, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Reads it from the master dataset.
    Read,
    /// Folds it.
    Fold,
    /// Compares it with another computation.
    Audit,
}

/// Number of [`Stage`]s.
const STAGES: u64 = 3;

/// Is told how far a run is, from any thread.
pub trait Progress: Send + Sync {
    /// `rows` events are to go through all stages.
    fn begin(&self, rows: u64);
    /// So many more rows went through `stage`, and so many more bytes of segments were read.
    fn advance(&self, stage: Stage, rows: u64, bytes: u64);
    /// The run is over.
    fn end(&self) {}
}

/// Tells nobody.
#[derive(Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: u64) {}
    fn advance(&self, _: Stage, _: u64, _: u64) {}
}

/// Tells a person, on stderr.
#[derive(Debug)]
pub struct Terminal {
    bar: ProgressBar,
    /// Where there is no terminal, when the next line is due.
    next_line: Option<Mutex<Instant>>,
    started: Instant,
    total_rows: AtomicU64,
    read_rows: AtomicU64,
    read_bytes: AtomicU64,
    steps: AtomicU64,
}

impl Default for Terminal {
    fn default() -> Self {
        let is_terminal = io::stderr().is_terminal();
        let style = ProgressStyle::with_template("{wide_bar} {percent}% {msg}").expect("the template is well formed");
        let bar = if is_terminal { ProgressBar::no_length() } else { ProgressBar::hidden() };
        Self {
            bar: bar.with_style(style),
            next_line: (!is_terminal).then(|| Mutex::new(Instant::now() + LINE_PAUSE)),
            started: Instant::now(),
            total_rows: AtomicU64::new(0),
            read_rows: AtomicU64::new(0),
            read_bytes: AtomicU64::new(0),
            steps: AtomicU64::new(0),
        }
    }
}

impl Progress for Terminal {
    fn begin(&self, rows: u64) {
        self.total_rows.store(rows, Ordering::Relaxed);
        self.bar.set_length(rows * STAGES);
    }

    fn advance(&self, stage: Stage, rows: u64, bytes: u64) {
        if stage == Stage::Read {
            self.read_rows.fetch_add(rows, Ordering::Relaxed);
            self.read_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        let steps = self.steps.fetch_add(rows, Ordering::Relaxed) + rows;
        self.bar.set_position(steps);
        match &self.next_line {
            None => self.bar.set_message(self.message(steps)),
            Some(next_line) => {
                let mut due = next_line.lock().expect("nobody panics with the lock");
                if *due <= Instant::now() {
                    *due = Instant::now() + LINE_PAUSE;
                    let percent = 100 * steps / (self.total_rows.load(Ordering::Relaxed) * STAGES).max(1);
                    // A closed stderr is no reason to stop a run.
                    let _ = writeln!(io::stderr(), "{percent}% {}", self.message(steps));
                }
            }
        }
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}

impl Terminal {
    fn message(&self, steps: u64) -> String {
        let total = self.total_rows.load(Ordering::Relaxed);
        let left = self.started.elapsed().as_secs_f64() * (total * STAGES).saturating_sub(steps) as f64 / steps.max(1) as f64;
        format!(
            "{} of {} events read, {}, {} left",
            HumanCount(self.read_rows.load(Ordering::Relaxed)),
            HumanCount(total),
            HumanBytes(self.read_bytes.load(Ordering::Relaxed)),
            HumanDuration(Duration::from_secs_f64(left)),
        )
    }
}
