//! Logs on stderr, for people or for machines.

use std::io::stderr;

use cli::print::has_colours_on_stderr;
use tracing_subscriber::EnvFilter;

/// How each line of the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// For people, in colours on a terminal
    Text,
    /// One JSON object, with the fields of the event beside `timestamp`, `level` and `message`.
    Json,
}

/// Logs from now on what `RUST_LOG` asks for, or `info`.
pub(crate) fn start(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    match format {
        LogFormat::Text => logs.with_ansi(has_colours_on_stderr()).init(),
        LogFormat::Json => logs.json().flatten_event(true).with_current_span(false).with_span_list(false).init(),
    }
}
