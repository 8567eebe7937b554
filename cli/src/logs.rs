//! Logs on stderr, for people or for machines.

use std::io::stderr;

use crate::print::has_colours_on_stderr;
use merganser_proto::traces::Traces;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// How each line of the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people, in colours on a terminal
    Text,
    /// One JSON object, with the fields of the event beside `timestamp`, `level` and `message`.
    Json,
}

/// Logs from now on what `RUST_LOG` asks for, or `info`; traces go their own way, if there are any.
pub fn start(format: LogFormat, traces: Option<&Traces>) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let Some(traces) = traces else {
        let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
        return match format {
            LogFormat::Text => logs.with_ansi(has_colours_on_stderr()).init(),
            LogFormat::Json => logs.json().flatten_event(true).with_current_span(false).with_span_list(false).init(),
        };
    };
    let logs = tracing_subscriber::fmt::layer().with_writer(stderr);
    let logs = match format {
        LogFormat::Text => logs.with_ansi(has_colours_on_stderr()).boxed(),
        LogFormat::Json => logs.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed(),
    };
    tracing_subscriber::registry().with(traces.layer()).with(logs.with_filter(filter)).init();
}
