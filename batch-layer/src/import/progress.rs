//! How far an import is: a bar on a terminal, a line every few seconds elsewhere.

use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

/// Pause between lines where there is no terminal.
const LINE_PAUSE: Duration = Duration::from_secs(5);

/// Tells a person, on stderr; over all files, by their bytes as stored.
#[derive(Debug)]
pub struct Bar {
    bar: ProgressBar,
    /// Where there is no terminal, when the next line is due.
    next_line: Option<Mutex<Instant>>,
    started: Instant,
    total_bytes: AtomicU64,
    bytes: AtomicU64,
    rows: AtomicU64,
    total_files: AtomicU64,
    files: AtomicU64,
}

impl Bar {
    /// One on stderr, or one that tells nobody.
    #[must_use]
    pub fn new(visible: bool) -> Self {
        let is_terminal = io::stderr().is_terminal();
        let style =
            ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {msg}, {eta} left").expect("the template is well formed");
        let target = if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self {
            bar: ProgressBar::with_draw_target(Some(0), target).with_style(style),
            next_line: (visible && !is_terminal).then(|| Mutex::new(Instant::now() + LINE_PAUSE)),
            started: Instant::now(),
            total_bytes: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            rows: AtomicU64::new(0),
            total_files: AtomicU64::new(0),
            files: AtomicU64::new(0),
        }
    }

    pub(super) fn begin(&self, bytes: u64, files: usize) {
        self.total_bytes.store(bytes, Ordering::Relaxed);
        self.total_files.store(files as u64, Ordering::Relaxed);
        self.bar.set_length(bytes);
    }

    /// A file was fetched that has so many bytes.
    pub(super) fn more(&self, bytes: u64) {
        let total = self.total_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.bar.set_length(total);
    }

    /// So many more rows were written or refused, and so many more bytes were read.
    pub(super) fn advance(&self, rows: u64, bytes: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
        let read = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.bar.set_position(read);
        if self.next_line.is_none() {
            self.bar.set_message(self.message());
        } else if self.line_is_due() {
            let total = HumanBytes(self.total_bytes.load(Ordering::Relaxed));
            // A closed stderr is no reason to stop an import.
            let _ = writeln!(io::stderr(), "{} of {total}, {}", HumanBytes(read), self.message());
        }
    }

    /// A file is there already.
    pub(super) fn skip(&self, bytes: u64) {
        self.advance(0, bytes);
    }

    pub(super) fn file_done(&self) {
        self.files.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    fn line_is_due(&self) -> bool {
        let Some(next_line) = &self.next_line else { return false };
        let mut due = next_line.lock().expect("nobody panics with the lock");
        let is_due = *due <= Instant::now();
        if is_due {
            *due = Instant::now() + LINE_PAUSE;
        }
        is_due
    }

    fn message(&self) -> String {
        let count = |counter: &AtomicU64| HumanCount(counter.load(Ordering::Relaxed));
        format!("{} rows, {} of {} files", count(&self.rows), count(&self.files), count(&self.total_files))
    }
}
