//! Traces: what was done for a call, where and for how long, told to an OpenTelemetry collector over OTLP.
//!
//! Code marks its work by [`trace_span!`](crate::trace_span), which is one look at an atomic while nobody collects. A call brings the
//! trace that it belongs to in its `traceparent` (W3C Trace Context), and takes it along to the next server, so that a question is one
//! trace through all layers. Work that is done for several calls at once belongs to the first of them, and is linked with the others.
//!
//! What is told are names, numbers and places in the log: no user, no key, no value, no token. A collector that is away costs nothing but its
//! spans: they go through a queue with an end, and what does not fit is counted.

/// From the code to the collector.
mod queue;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{SpanContext, Status, TraceContextExt, TracerProvider};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, SpanExporter as _};
use tonic::Code;
use tonic::codegen::http::{HeaderMap, HeaderValue};
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::registry::LookupSpan;

use crate::metrics::{Labels, Sheet};
use queue::Exporting;

/// The target of every span of a trace, so that none is taken for a line of the log.
pub const TARGET: &str = "merganser_trace";
/// The one header that is read and written. What else a caller says of its trace is no business of ours.
const TRACEPARENT: &str = "traceparent";
/// What the header has at least; the parser of the library is content with less.
const TRACEPARENT_BYTES: usize = 55;
/// Calls that one piece of shared work is linked with at most.
const MAX_LINKS: usize = 32;
/// What the collector may take for a batch of spans.
const EXPORT_PATIENCE: Duration = Duration::from_secs(5);

static ON: AtomicBool = AtomicBool::new(false);
static COUNTS: Counts = Counts { sent: AtomicU64::new(0), dropped: AtomicU64::new(0), failed: AtomicU64::new(0) };

/// Spans of this process.
struct Counts {
    /// The collector has them.
    sent: AtomicU64,
    /// There was no room in the queue.
    dropped: AtomicU64,
    /// The collector did not take them.
    failed: AtomicU64,
}

/// A span of a trace by its name, under the current one, with fields as `tracing` has them; none at all while nobody collects.
#[macro_export]
macro_rules! trace_span {
    ($name:literal $(, $($fields:tt)*)?) => {
        if $crate::traces::are_on() {
            ::tracing::trace_span!(target: "merganser_trace", $name, $($($fields)*)?)
        } else {
            ::tracing::Span::none()
        }
    };
}

/// Whether anybody collects.
#[must_use]
pub fn are_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// The current span, for work that goes on elsewhere; none at all while nobody collects.
#[must_use]
pub fn current() -> Span {
    if are_on() { Span::current() } else { Span::none() }
}

/// Traces of this process, from [`Traces::start`] to [`Traces::end`].
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
    exporting: Exporting,
}

impl Traces {
    /// Collects for the OTLP collector at `endpoint`, `http://host:4317`, which need not be up: of the traces that begin here this part, and
    /// of those that others began what they say. Within a runtime. An empty endpoint is none, and nobody collects.
    ///
    /// # Errors
    /// The endpoint is no address.
    pub fn start(endpoint: &str, sample_ratio: f64, service: &'static str) -> Result<Option<Self>, ExporterBuildError> {
        if endpoint.is_empty() {
            return Ok(None);
        }
        let mut exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(EXPORT_PATIENCE).build()?;
        let resource = Resource::builder_empty().with_service_name(service).build();
        exporter.set_resource(&resource);
        let (queue, exporting) = queue::start(exporter);
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(sample_ratio)));
        let provider = SdkTracerProvider::builder().with_span_processor(queue).with_sampler(sampler).with_resource(resource).build();
        ON.store(true, Ordering::Relaxed);
        Ok(Some(Self { provider, exporting }))
    }

    /// What makes spans of a subscriber ours.
    pub fn layer<S>(&self) -> impl Layer<S> + Send + Sync + 'static + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        let tracer = self.provider.tracer("merganser");
        let layer = tracing_opentelemetry::layer().with_tracer(tracer).with_location(false).with_threads(false);
        let layer = layer.with_tracked_inactivity(false).with_target(false).with_level(false).with_context_activation(false);
        layer.with_filter(Targets::new().with_target(TARGET, LevelFilter::TRACE))
    }

    /// Collects nothing more, and waits a little until the collector has what there is.
    pub async fn end(self) {
        ON.store(false, Ordering::Relaxed);
        self.exporting.end().await;
    }
}

/// Writes `<prefix>_trace_spans_total`.
///
/// # Errors
/// The sheet's.
pub fn write(prefix: &str, sheet: &mut Sheet<'_>) -> fmt::Result {
    let outcomes = [("sent", &COUNTS.sent), ("dropped", &COUNTS.dropped), ("failed", &COUNTS.failed)];
    let samples =
        outcomes.map(|(outcome, count)| -> (Labels, u64) { (vec![("outcome", outcome.to_owned())], count.load(Ordering::Relaxed)) });
    sheet.counter(&format!("{prefix}_trace_spans"), "Spans of traces, by what became of them on the way to the collector.", samples)
}

/// The span of a call, part of the trace that its headers name. What they say that is none is as if they had said nothing.
pub(crate) fn of_call(method: &'static str, headers: &HeaderMap) -> Span {
    let span =
        crate::trace_span!("call", otel.name = method, otel.kind = "server", rpc.system = "grpc", otel.status_code = tracing::field::Empty);
    if !span.is_disabled() {
        let caller = TraceContextPropagator::new().extract(&Headers(headers));
        if caller.span().span_context().is_valid() {
            // It fails for a span that nobody records.
            let _unrecorded = span.set_parent(caller);
        }
    }
    span
}

/// Notes that a call has failed.
pub(crate) fn failed(span: &Span, code: Code) {
    if code != Code::Ok && !span.is_disabled() {
        span.set_status(Status::error(format!("{code:?}")));
    }
}

/// Writes the current span into the headers of a call.
pub(crate) fn pass_on(headers: &mut HeaderMap) {
    if are_on() {
        let current = Span::current().context();
        if current.span().span_context().is_valid() {
            TraceContextPropagator::new().inject_context(&current, &mut HeadersMut(headers));
        }
    }
}

/// The span of work that is done for all of these spans at once: under the first of them that is told, and linked with the others.
pub fn shared<'a>(spans: impl IntoIterator<Item = &'a Span>, begin: impl FnOnce() -> Span) -> Span {
    if !are_on() {
        return Span::none();
    }
    let spans: Vec<&Span> = spans.into_iter().filter(|span| !span.is_disabled()).take(MAX_LINKS).collect();
    let Some(parent) = spans.iter().find(|span| context(span).is_sampled()).or(spans.first()) else { return begin() };
    let shared = parent.in_scope(begin);
    for other in spans.iter().filter(|span| span.id() != parent.id()) {
        shared.add_link(context(other));
        other.add_link(context(&shared));
    }
    shared
}

fn context(span: &Span) -> SpanContext {
    span.context().span().span_context().clone()
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        let header = self.0.get(key).filter(|_| key == TRACEPARENT)?;
        header.to_str().ok().filter(|text| text.len() >= TRACEPARENT_BYTES)
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT]
    }
}

struct HeadersMut<'a>(&'a mut HeaderMap);

impl Injector for HeadersMut<'_> {
    fn set(&mut self, key: &str, value: String) {
        if key == TRACEPARENT
            && let Ok(value) = HeaderValue::try_from(value)
        {
            self.0.insert(TRACEPARENT, value);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Proves which headers name a trace, and that whatever else they hold is as good as none.
    #[test]
    fn traceparents() {
        let parent = |text: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(TRACEPARENT, HeaderValue::from_bytes(text).unwrap());
            headers.insert("tracestate", HeaderValue::from_static("secret=1"));
            let context = TraceContextPropagator::new().extract(&Headers(&headers));
            let span = context.span().span_context().clone();
            assert_eq!(span.trace_state().header(), "");
            span.is_valid().then(|| span.trace_id().to_string())
        };
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(parent(good.as_bytes()).as_deref(), Some("0af7651916cd43dd8448eb211c80319c"));
        let zeros = "00-00000000000000000000000000000000-b7ad6b7169203331-01";
        for garbage in ["", "00", "garbage", zeros, &good[..54], &good.to_uppercase(), &good.repeat(100), "00-----", "ff-é"] {
            assert_eq!(parent(garbage.as_bytes()), None, "{garbage}");
        }
        assert_eq!(parent(b"\xff\xfe"), None);
    }

    /// Proves that nothing is made, read or written while nobody collects.
    #[test]
    fn off() {
        assert!(crate::trace_span!("work", number = 1).is_none());
        let mut headers = HeaderMap::new();
        pass_on(&mut headers);
        assert!(headers.is_empty() && of_call("GetUserStats", &headers).is_none());
        assert!(shared([&Span::none()], || unreachable!("nobody asks for it")).is_none());
    }
}
