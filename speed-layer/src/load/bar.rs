//! The progress bar on stderr: one for all files, over their bytes as stored.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use storage::input::EventFile;
use tokio::time::Instant;

use super::summary::{Tally, grouped};

/// The bar, and what the current file's share of it is.
pub(super) struct Bar {
    bar: ProgressBar,
    /// Sizes of the files before the current one.
    base_bytes: u64,
    /// Rows of the current file that an earlier run had loaded.
    earlier_rows: u64,
    started: Instant,
}

impl Bar {
    /// A bar over `total_bytes`. Even a visible one is drawn on terminals only.
    pub(super) fn new(total_bytes: u64, visible: bool) -> Self {
        let target = if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let style = "{prefix} {wide_bar} {bytes}/{total_bytes} {msg}, {eta} left";
        let style = ProgressStyle::with_template(style).expect("the template is well formed");
        let bar = ProgressBar::with_draw_target(Some(total_bytes), target).with_style(style);
        Self { bar, base_bytes: 0, earlier_rows: 0, started: Instant::now() }
    }

    /// Begins the share of `file`, of which an earlier run had loaded `earlier_rows`.
    pub(super) fn begin(&mut self, file: &EventFile, earlier_rows: u64) {
        self.earlier_rows = earlier_rows;
        self.started = Instant::now();
        self.bar.set_prefix(file.name());
    }

    /// Shows that the current file is acknowledged up to `position_bytes`.
    pub(super) fn acknowledge(&self, position_bytes: u64, tally: &Tally) {
        if self.bar.is_hidden() {
            return;
        }
        let seconds = self.started.elapsed().as_secs_f64().max(0.001);
        let rows_per_second = (tally.received - self.earlier_rows) as f64 / seconds;
        self.bar.set_position(self.base_bytes + position_bytes);
        self.bar.set_message(format!(
            "{} rows, {}/s, {} duplicate, {} rejected",
            grouped(tally.received),
            grouped(rows_per_second as u64),
            grouped(tally.duplicate),
            grouped(tally.rejected),
        ));
    }

    /// Ends the share of `file`.
    pub(super) fn end(&mut self, file: &EventFile) {
        self.base_bytes += file.size_bytes;
        self.bar.set_position(self.base_bytes);
    }
}

/// Leaves no half-drawn line above what is printed next.
impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
