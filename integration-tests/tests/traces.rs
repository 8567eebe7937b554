//! What a collector of traces is told: one question is one trace through both servers, one append another, and a batch run a third.
//!
//! One test, for there is one collector a process.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use integration_tests::cluster::Cluster;
use integration_tests::scrape::Scrape;
use merganser_proto::traces::Traces;
use merganser_proto::v1::{AppendEventsRequest, Event, GetUserStatsRequest, GetUserStatsResponse};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost_types::Timestamp;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

const USER: &str = "somebody-special";
const EVENT: &str = "an-event-of-theirs";
const PATIENCE: Duration = Duration::from_secs(30);

/// Keeps what it is sent, until it answers nobody any more.
#[derive(Clone, Default)]
struct Collector {
    spans: Arc<Mutex<Vec<Span>>>,
    is_away: Arc<AtomicBool>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(&self, request: Request<ExportTraceServiceRequest>) -> Result<Response<ExportTraceServiceResponse>, Status> {
        if self.is_away.load(Ordering::Relaxed) {
            return std::future::pending().await;
        }
        let resources = request.into_inner().resource_spans.into_iter();
        let spans = resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans);
        self.spans.lock().unwrap().extend(spans);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Its address.
    async fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let server = Server::builder().add_service(TraceServiceServer::new(self.clone()));
        tokio::spawn(async move { server.serve_with_incoming(TcpIncoming::from(listener)).await.unwrap() });
        address
    }

    fn all(&self) -> Vec<Span> {
        self.spans.lock().unwrap().clone()
    }

    /// The spans of a trace, once there is one of each of these names.
    async fn trace(&self, is_it: impl Fn(&Span) -> bool, names: &[&str]) -> Vec<Span> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let all = self.all();
            let traces: Vec<_> = all.iter().filter(|span| is_it(span)).map(|span| span.trace_id.clone()).collect();
            for trace in traces {
                let spans: Vec<_> = all.iter().filter(|span| span.trace_id == trace).cloned().collect();
                if names.iter().all(|name| spans.iter().any(|span| span.name == *name)) {
                    return spans;
                }
            }
            let found = || all.iter().map(|span| format!("{} in {:02x?}", span.name, &span.trace_id[..2])).collect::<Vec<_>>();
            assert!(Instant::now() < deadline, "no trace has all of {names:?}; there are {:?}", found());
            sleep(Duration::from_millis(20)).await;
        }
    }
}

fn named<'a>(trace: &'a [Span], name: &str) -> &'a Span {
    let mut found = trace.iter().filter(|span| span.name == name);
    let first = found.next().unwrap_or_else(|| panic!("no {name}"));
    assert!(found.next().is_none(), "{name} is there twice");
    first
}

/// Proves that each of these spans has the parent that is named before it.
fn assert_parents(trace: &[Span], pairs: &[(&str, &str)]) {
    for (parent, child) in pairs {
        assert_eq!(named(trace, child).parent_span_id, named(trace, parent).span_id, "{child} is under {parent}");
    }
}

fn number(span: &Span, attribute: &str) -> i64 {
    let found = span.attributes.iter().find(|found| found.key == attribute).and_then(|found| found.value.clone()?.value);
    let Some(Value::IntValue(number)) = found else { panic!("{attribute} of {span:?} is {found:?}") };
    number
}

/// A trace that begins here, with its number, and a request in it.
fn traced<T>(number: u8, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let parent = format!("00-{}-{}-01", format!("{number:02x}").repeat(16), format!("{number:02x}").repeat(8));
    request.metadata_mut().insert("traceparent", parent.parse().unwrap());
    request
}

fn of(number: u8) -> impl Fn(&Span) -> bool {
    move |span| span.trace_id == [number; 16]
}

async fn ask(cluster: &Cluster, request: Request<GetUserStatsRequest>) -> GetUserStatsResponse {
    cluster.stats.clone().get_user_stats(request).await.unwrap().into_inner()
}

fn about() -> GetUserStatsRequest {
    GetUserStatsRequest { user_id: USER.to_owned(), ..Default::default() }
}

/// Proves that spans have the parents they should, across processes too, that an event's segment can be found by its offset, that no text of a user
/// is in any span, and that a collector which is away keeps nobody waiting and is counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn traces() {
    let collector = Collector::default();
    let address = collector.serve().await;
    let traces = Traces::start(&address, 1.0, "test").unwrap().unwrap();
    tracing_subscriber::registry().with(traces.layer()).init();
    let cluster = Cluster::start(false, |config| config.log.partitions = 2).await.unwrap();

    let event_time = Some(Timestamp { seconds: 1_700_000_000, nanos: 0 });
    let event = |id: &str| Event { event_id: id.to_owned(), user_id: USER.to_owned(), event_time, ..Default::default() };
    let append = AppendEventsRequest { events: vec![event(EVENT)] };
    cluster.ingest.clone().append_events(traced(0xa1, append)).await.unwrap();
    let trace = collector.trace(of(0xa1), &["AppendEvents", "queue", "commit", "fold", "append and sync", "show"]).await;
    assert_eq!(named(&trace, "AppendEvents").parent_span_id, [0xa1; 8]);
    let below =
        [("AppendEvents", "queue"), ("AppendEvents", "commit"), ("commit", "fold"), ("commit", "append and sync"), ("commit", "show")];
    assert_parents(&trace, &below);
    let commit = named(&trace, "commit").clone();
    assert_eq!((number(&commit, "start_offset"), number(&commit, "end_offset")), (0, 1));
    number(named(&trace, "append and sync"), "sync_us");

    cluster.batch_run().await.unwrap();
    let steps = ["batch run", "cut", "Cut", "compute", "audit", "publish"];
    let trace = collector.trace(|span| span.name == "batch run", &steps).await;
    assert!(named(&trace, "batch run").parent_span_id.is_empty());
    let below = ["cut", "compute", "audit", "publish"].map(|step| ("batch run", step));
    assert_parents(&trace, &[below.as_slice(), &[("cut", "Cut")]].concat());
    // Either the cut has sealed it, or whoever seals in the background was first.
    let sealed = collector.trace(|span| span.name == "seal", &["seal"]).await;
    let seal = named(&sealed, "seal");
    assert_eq!(number(seal, "partition"), number(&commit, "partition"));
    assert!((number(seal, "start_offset")..number(seal, "end_offset")).contains(&number(&commit, "start_offset")));

    cluster.wait_for_version(1).await.unwrap();
    cluster.ingest.clone().append_events(AppendEventsRequest { events: vec![event("another")] }).await.unwrap();
    assert_eq!(ask(&cluster, traced(0xb2, about())).await.stats.unwrap().event_count, 2);
    let steps = ["GetUserStats", "pin", "read batch view", "ask speed layer", "call speed layer", "GetStates", "read states", "merge"];
    let trace = collector.trace(of(0xb2), &steps).await;
    assert_eq!(named(&trace, "GetUserStats").parent_span_id, [0xb2; 8]);
    let below = ["pin", "read batch view", "ask speed layer", "merge"].map(|step| ("GetUserStats", step));
    let asked = [("ask speed layer", "call speed layer"), ("call speed layer", "GetStates"), ("GetStates", "read states")];
    assert_parents(&trace, &[below.as_slice(), &asked].concat());

    // The caller does not want this one to be collected, and the next one is nonsense.
    let mut unwanted = traced(0xc3, about());
    let parent = unwanted.metadata().get("traceparent").unwrap().to_str().unwrap().replace("-01", "-00");
    unwanted.metadata_mut().insert("traceparent", parent.parse().unwrap());
    ask(&cluster, unwanted).await;
    let before = collector.all().iter().filter(|span| span.name == "GetUserStats").count();
    for garbage in ["", "garbage", "00-zz-zz-01", &"00-".repeat(1000)] {
        let mut request = Request::new(about());
        request.metadata_mut().insert("traceparent", garbage.parse().unwrap());
        assert_eq!(ask(&cluster, request).await.stats.unwrap().event_count, 2);
    }
    let deadline = Instant::now() + PATIENCE;
    while collector.all().iter().filter(|span| span.name == "GetUserStats").count() < before + 4 {
        assert!(Instant::now() < deadline, "a question with garbage for a parent has no trace");
        sleep(Duration::from_millis(20)).await;
    }
    assert!(!collector.all().iter().any(of(0xc3)));
    let told = format!("{:?}", collector.all());
    assert!(!told.contains(USER) && !told.contains(EVENT), "a text of a user is in a span");

    collector.is_away.store(true, Ordering::Relaxed);
    let failed = async || {
        let scrape = Scrape::of(cluster.serving_http().unwrap()).await.unwrap();
        let of = |outcome: &str| scrape.value(&format!("merganser_serving_trace_spans_total{{outcome=\"{outcome}\"}}")).unwrap();
        (of("sent"), of("failed"))
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        let asked = Instant::now();
        assert_eq!(ask(&cluster, Request::new(about())).await.stats.unwrap().event_count, 2);
        assert!(asked.elapsed() < Duration::from_secs(4), "a question waits for the collector");
        let (sent, failed) = failed().await;
        if sent > 0.0 && failed > 0.0 {
            break;
        }
        assert!(Instant::now() < deadline, "{sent} spans are sent, {failed} have failed");
    }
    cluster.stop().await.unwrap();
    traces.end().await;
}
