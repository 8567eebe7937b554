//! Spans on their way to the collector: a queue with an end, and one task that sends what is in it.
//!
//! `opentelemetry_sdk` has such a processor. It does not tell how many spans it has dropped, which whoever looks for one wants to know.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter as _, SpanProcessor};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{COUNTS, EXPORT_PATIENCE};

/// Spans that wait, a kilobyte or so each.
const QUEUED_SPANS: usize = 8192;
/// Spans that are sent together.
const BATCH_SPANS: usize = 512;
/// What there is between two batches, so that a span does not travel alone.
const PAUSE: Duration = Duration::from_millis(200);
/// How long a process that ends waits for the collector.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// The end of the queue where spans go in.
#[derive(Debug)]
pub(super) struct Queue(mpsc::Sender<SpanData>);

/// The task at its other end.
#[derive(Debug)]
pub(super) struct Exporting {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

pub(super) fn start(exporter: SpanExporter) -> (Queue, Exporting) {
    let (sender, spans) = mpsc::channel(QUEUED_SPANS);
    let stop = CancellationToken::new();
    let task = tokio::spawn(export(exporter, spans, stop.clone()));
    (Queue(sender), Exporting { stop, task })
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    /// Never waits.
    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() && self.0.try_send(span).is_err() {
            COUNTS.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl Exporting {
    pub(super) async fn end(self) {
        self.stop.cancel();
        // What the collector has not taken by then is lost, as it would be if the process were killed.
        let _ended = timeout(END_PATIENCE, self.task).await;
    }
}

async fn export(exporter: SpanExporter, mut spans: mpsc::Receiver<SpanData>, stop: CancellationToken) {
    let mut is_well = true;
    let mut batch = Vec::new();
    loop {
        let waited = stop.run_until_cancelled(spans.recv_many(&mut batch, BATCH_SPANS)).await;
        if waited.is_none() {
            // The last ones.
            while let Ok(span) = spans.try_recv() {
                batch.push(span);
            }
        }
        let is_last = stop.is_cancelled() || (waited == Some(0));
        let count = batch.len() as u64;
        if count > 0 {
            let sent = timeout(EXPORT_PATIENCE, exporter.export(std::mem::take(&mut batch))).await;
            let failure = match sent {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("it took too long".to_owned()),
            };
            let counted: &AtomicU64 = if failure.is_none() { &COUNTS.sent } else { &COUNTS.failed };
            counted.fetch_add(count, Ordering::Relaxed);
            match (is_well, failure) {
                (true, Some(reason)) => {
                    warn!(reason, "the collector of traces does not take them; they are lost until it does");
                    is_well = false;
                }
                (false, None) => {
                    info!("the collector of traces takes them again");
                    is_well = true;
                }
                _ => {}
            }
        }
        if is_last {
            return;
        }
        // Cut short by the end.
        let _stopped = stop.run_until_cancelled(sleep(PAUSE)).await;
    }
}
