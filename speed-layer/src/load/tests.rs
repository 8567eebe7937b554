//! Whole loads against a server that lives in this file: it judges like the real one, and breaks on demand.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::future::pending;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use merganser_proto::v1::ingest_service_server::{IngestService, IngestServiceServer};
use merganser_proto::v1::{AppendEventsRequest, AppendEventsResponse, Event, RowError, StreamEventsRequest, StreamEventsResponse};
use storage::config::{ClientConfig, TlsConfig};
use storage::input::InputError;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use tonic_types::StatusExt;

use super::*;
use crate::service::DEAD_LETTERS_FULL;

/// Remembers what it was sent, refuses events without a user, and fails as planned.
#[derive(Default)]
struct Log {
    seen: BTreeSet<(String, String)>,
    /// Sizes of the requests, in order of arrival.
    requests: Vec<usize>,
    /// Appends this many more requests, then fails one with the status instead of answering it.
    fail_after: Option<(usize, Status)>,
    /// Answers this many more requests, then none, for ever.
    stall_after: Option<usize>,
    /// Leaves one accepted row out of every answer.
    miscounts: bool,
    /// Told when a request arrives that is not going to be answered.
    stalled: Arc<Notify>,
}

impl Log {
    fn append(&mut self, events: Vec<Event>) -> StreamEventsResponse {
        self.requests.push(events.len());
        let mut response = StreamEventsResponse { position: "log-1:7".to_owned(), ..Default::default() };
        for (index, event) in events.into_iter().enumerate() {
            if event.user_id.is_empty() {
                let (field, reason) = ("user_id".to_owned(), "is missing".to_owned());
                response.rejected.push(RowError { index: index as i32, event_id: event.event_id, field, reason });
            } else if self.seen.insert((event.user_id, event.event_id)) {
                response.accepted_count += 1;
            } else {
                response.duplicate_count += 1;
            }
        }
        response.accepted_count -= i64::from(self.miscounts);
        response
    }
}

#[derive(Clone, Default)]
struct FakeServer(Arc<Mutex<Log>>);

#[tonic::async_trait]
impl IngestService for FakeServer {
    type StreamEventsStream = BoxStream<'static, Result<StreamEventsResponse, Status>>;

    async fn append_events(&self, _: Request<AppendEventsRequest>) -> Result<Response<AppendEventsResponse>, Status> {
        Ok(Response::new(AppendEventsResponse { position: "log-1:7".to_owned(), ..Default::default() }))
    }

    async fn stream_events(&self, requests: Request<Streaming<StreamEventsRequest>>) -> Result<Response<Self::StreamEventsStream>, Status> {
        let log = self.0.clone();
        let responses = requests.into_inner().then(move |request| {
            let log = log.clone();
            async move {
                let events = request?.events;
                if log.lock().unwrap().stall_after == Some(0) {
                    log.lock().unwrap().stalled.notify_one();
                    pending::<()>().await;
                }
                let mut log = log.lock().unwrap();
                let response = log.append(events);
                log.stall_after = log.stall_after.map(|left| left - 1);
                match log.fail_after.take() {
                    Some((0, status)) => Err(status),
                    planned => {
                        log.fail_after = planned.map(|(left, status)| (left - 1, status));
                        Ok(response)
                    }
                }
            }
        });
        Ok(Response::new(responses.boxed()))
    }
}

impl FakeServer {
    async fn start(&self) -> String {
        self.start_at("127.0.0.1:0").await
    }

    async fn start_at(&self, socket: &str) -> String {
        let listener = TcpListener::bind(socket).await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let service = IngestServiceServer::new(self.clone());
        let incoming = TcpListenerStream::new(listener);
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        address
    }

    fn log(&self) -> std::sync::MutexGuard<'_, Log> {
        self.0.lock().unwrap()
    }
}

fn write_events(path: &Path, ids: std::ops::Range<usize>) {
    let line = |id| format!("{{\"event_id\":\"{id}\",\"user_id\":\"u{}\",\"event_time\":\"2026-11-21T08:00:00Z\"}}\n", id % 7);
    fs::write(path, ids.map(line).collect::<String>()).unwrap();
}

fn options(address: &str, folder: &Path, file: &str) -> LoadOptions {
    LoadOptions {
        tls: TlsConfig::default(),
        client: ClientConfig::default(),
        address: address.to_owned(),
        files: vec![folder.join(file)],
        batch_rows: 10,
        in_flight: 4,
        state_dir: folder.join("state"),
        progress: false,
        again: false,
    }
}

fn counts(summary: &LoadSummary) -> [u64; 4] {
    let total = summary.total();
    [total.received, total.accepted, total.duplicate, total.rejected]
}

#[tokio::test]
async fn every_row_is_accounted_for() {
    // Proves that received = accepted + duplicate + rejected, with the reasons and places of both kinds of rejection.
    let (server, folder) = (FakeServer::default(), tempfile::tempdir().unwrap());
    let good = r#"{"event_id":"1","user_id":"u","event_time":"2026-11-21T08:00:00Z"}"#;
    let lines = [good, "{", r#"{"event_id":"2"}"#, good, "", "{", r#"{"event_id":"3"}"#];
    fs::write(folder.path().join("a.jsonl"), lines.join("\n")).unwrap();
    let mut options = options(&server.start().await, folder.path(), "a.jsonl");
    options.batch_rows = 2;
    let summary = run(options, pending()).await.unwrap();
    assert_eq!(counts(&summary), [6, 1, 1, 4]);
    assert_eq!(summary.total().unreadable, 2);
    let reason = |text: &str| summary.total().reasons[text].clone();
    assert_eq!(reason("not valid JSON"), Reason { count: 2, places: vec!["a.jsonl:2".into(), "a.jsonl:6".into()] });
    assert_eq!(reason("user_id is missing"), Reason { count: 2, places: vec!["a.jsonl:3".into(), "a.jsonl:7".into()] });
}

#[tokio::test]
async fn a_finished_file_is_not_sent_again() {
    // Proves that progress belongs to the content, not the name, and that `again` overrides it.
    let (server, folder) = (FakeServer::default(), tempfile::tempdir().unwrap());
    let address = server.start().await;
    write_events(&folder.path().join("a.jsonl"), 0..95);
    let first = run(options(&address, folder.path(), "a.jsonl"), pending()).await.unwrap();
    assert_eq!((counts(&first), first.sent_rows), ([95, 95, 0, 0], 95));
    fs::rename(folder.path().join("a.jsonl"), folder.path().join("b.jsonl")).unwrap();

    let second = run(options(&address, folder.path(), "b.jsonl"), pending()).await.unwrap();
    assert_eq!(second.files[0].outcome, Outcome::AlreadyLoaded);
    assert_eq!((counts(&second), second.sent_rows), ([95, 95, 0, 0], 0));
    assert_eq!(server.log().requests.len(), 10);

    let again = LoadOptions { again: true, ..options(&address, folder.path(), "b.jsonl") };
    let third = run(again, pending()).await.unwrap();
    assert_eq!((counts(&third), third.sent_rows), ([95, 0, 95, 0], 95));
}

#[tokio::test]
async fn a_broken_call_is_taken_up_again() {
    // Proves that no row is lost when calls break after the server appended but before it answered.
    for status in [Status::unavailable("away"), Status::resource_exhausted("busy")] {
        let (server, folder) = (FakeServer::default(), tempfile::tempdir().unwrap());
        server.log().fail_after = Some((3, status));
        write_events(&folder.path().join("a.jsonl"), 0..200);
        let summary = run(options(&server.start().await, folder.path(), "a.jsonl"), pending()).await.unwrap();
        let [received, accepted, duplicate, rejected] = counts(&summary);
        assert_eq!((received, accepted + duplicate, rejected), (200, 200, 0));
        assert!(duplicate >= 10, "the request that failed was appended before");
        assert_eq!(server.log().seen.len(), 200);
    }
}

#[tokio::test]
async fn full_dead_letters_are_not_a_busy_server() {
    // Proves that a load which the server refuses because its dead letters are full ends at once: it would be refused every time.
    let (server, folder) = (FakeServer::default(), tempfile::tempdir().unwrap());
    let details = tonic_types::ErrorDetails::with_error_info(DEAD_LETTERS_FULL, "merganser", []);
    let full = Status::with_error_details(tonic::Code::ResourceExhausted, "no room", details);
    server.log().fail_after = Some((0, full));
    let address = server.start().await;
    write_events(&folder.path().join("a.jsonl"), 0..20);
    let result = run(options(&address, folder.path(), "a.jsonl"), pending()).await;
    assert!(matches!(&result, Err(LoadError::Refused { .. })), "{result:?}");
}

#[tokio::test]
async fn a_refused_call_stops_and_the_next_load_goes_on() {
    // Proves that what was acknowledged before an error is remembered, and only the rest is sent again.
    let (server, folder) = (FakeServer::default(), tempfile::tempdir().unwrap());
    server.log().fail_after = Some((5, Status::permission_denied("no")));
    let address = server.start().await;
    write_events(&folder.path().join("a.jsonl"), 0..200);
    let result = run(options(&address, folder.path(), "a.jsonl"), pending()).await;
    assert!(matches!(&result, Err(LoadError::Refused { .. })), "{result:?}");

    let summary = run(options(&address, folder.path(), "a.jsonl"), pending()).await.unwrap();
    assert_eq!(summary.files[0].outcome, Outcome::Resumed { after_rows: 50 });
    assert_eq!((summary.sent_rows, summary.total().received), (150, 200));
    assert_eq!(server.log().seen.len(), 200);
}

#[tokio::test]
async fn an_interrupted_load_goes_on_where_it_was() {
    // Proves that a stop in mid-load keeps what was acknowledged, no more and no less.
    let (server, folder) = (FakeServer::default(), tempfile::tempdir().unwrap());
    server.log().stall_after = Some(6);
    let stalled = server.log().stalled.clone();
    let address = server.start().await;
    write_events(&folder.path().join("a.jsonl"), 0..200);
    // One request at a time: when the seventh has arrived, six are acknowledged.
    let one_by_one = LoadOptions { in_flight: 1, ..options(&address, folder.path(), "a.jsonl") };
    let result = run(one_by_one, stalled.notified()).await;
    assert!(matches!(&result, Err(LoadError::Interrupted)), "{result:?}");

    server.log().stall_after = None;
    let summary = run(options(&address, folder.path(), "a.jsonl"), pending()).await.unwrap();
    assert_eq!(summary.files[0].outcome, Outcome::Resumed { after_rows: 60 });
    assert_eq!(counts(&summary), [200, 200, 0, 0]);
}

#[test]
fn a_server_may_die_and_come_back() {
    // Proves that a connection that breaks without a status is taken up again, and every row arrives.
    let (server, folder) = (FakeServer::default(), tempfile::tempdir().unwrap());
    server.log().stall_after = Some(6);
    let stalled = server.log().stalled.clone();
    write_events(&folder.path().join("a.jsonl"), 0..200);
    let (client, first, second) = (Runtime::new().unwrap(), Runtime::new().unwrap(), Runtime::new().unwrap());
    let address = first.block_on(server.start_at("127.0.0.1:0"));
    // One request at a time: when the seventh has arrived, six are acknowledged, and it is not appended.
    let one_by_one = LoadOptions { in_flight: 1, ..options(&address, folder.path(), "a.jsonl") };
    let loading = client.spawn(run(one_by_one, pending()));
    client.block_on(stalled.notified());
    drop(first); // returns when the port and every connection are closed
    server.log().stall_after = None;
    second.block_on(server.start_at(address.trim_start_matches("http://")));
    let summary = client.block_on(loading).unwrap().unwrap();
    assert_eq!(counts(&summary), [200, 200, 0, 0]);
    assert_eq!(server.log().seen.len(), 200);
}

#[tokio::test]
async fn an_answer_that_does_not_add_up_is_an_error() {
    // Proves that rows which the server's answer leaves out are never taken for loaded.
    let (server, folder) = (FakeServer::default(), tempfile::tempdir().unwrap());
    server.log().miscounts = true;
    write_events(&folder.path().join("a.jsonl"), 0..20);
    let address = server.start().await;
    let result = run(options(&address, folder.path(), "a.jsonl"), pending()).await;
    assert!(matches!(&result, Err(LoadError::Contract { .. })), "{result:?}");

    server.log().miscounts = false;
    let summary = run(options(&address, folder.path(), "a.jsonl"), pending()).await.unwrap();
    assert_eq!((summary.files[0].outcome, summary.sent_rows), (Outcome::Loaded, 20));
}

#[tokio::test]
async fn requests_are_cut_by_rows_and_by_bytes() {
    // Proves that no request outgrows what a server takes, and that an event too large for any is rejected here.
    let (server, folder) = (FakeServer::default(), tempfile::tempdir().unwrap());
    let event = |id: &str, bytes: usize| format!(r#"{{"event_id":"{id}","user_id":"u","event_type":"{}"}}"#, "x".repeat(bytes));
    let lines = [event("1", 600_000), event("2", 600_000), event("3", 10), event("4", 1_100_000), event("5", 10)];
    fs::write(folder.path().join("a.jsonl"), lines.join("\n")).unwrap();
    let summary = run(options(&server.start().await, folder.path(), "a.jsonl"), pending()).await.unwrap();
    assert_eq!(counts(&summary), [5, 4, 0, 1]);
    assert_eq!(server.log().requests, [1, 3]);
    assert_eq!(summary.total().reasons["the event is larger than 1 MiB"].places, ["a.jsonl:4"]);
}

#[tokio::test]
async fn nothing_is_sent_when_a_file_cannot_be_loaded() {
    // Proves that a misspelt second file stops the load before the first one is sent.
    let (server, folder) = (FakeServer::default(), tempfile::tempdir().unwrap());
    write_events(&folder.path().join("a.jsonl"), 0..10);
    let mut options = options(&server.start().await, folder.path(), "a.jsonl");
    options.files.push(folder.path().join("missing.csv"));
    let result = run(options, pending()).await;
    assert!(matches!(&result, Err(LoadError::Input(InputError::Open { .. }))), "{result:?}");
    assert!(server.log().requests.is_empty());
}

#[tokio::test]
async fn damaged_progress_is_an_error() {
    // Proves that a broken progress file is named, and not taken for a fresh start.
    let (server, folder) = (FakeServer::default(), tempfile::tempdir().unwrap());
    let address = server.start().await;
    write_events(&folder.path().join("a.jsonl"), 0..10);
    run(options(&address, folder.path(), "a.jsonl"), pending()).await.unwrap();
    let saved = fs::read_dir(folder.path().join("state")).unwrap().next().unwrap().unwrap().path();
    fs::write(&saved, "{\"format\":1").unwrap();
    let result = run(options(&address, folder.path(), "a.jsonl"), pending()).await;
    assert!(matches!(&result, Err(LoadError::DamagedProgress { file, .. }) if *file == saved), "{result:?}");
}

#[test]
fn the_summary_reads_as_a_table() {
    // Proves that the columns line up and the reasons come most frequent first.
    let reason = |count| Reason { count, places: vec!["a.csv:2".to_owned()] };
    let tally = Tally {
        received: 541_909,
        accepted: 406_829,
        duplicate: 0,
        rejected: 135_080,
        unreadable: 1,
        reasons: [("not UTF-8".to_owned(), reason(1)), ("user_id is missing".to_owned(), reason(135_079))].into(),
    };
    let file = |name: &str, outcome| FileSummary { file: name.into(), outcome, tally: tally.clone() };
    let files = vec![file("a.csv", Outcome::Loaded), file("longer.csv", Outcome::AlreadyLoaded)];
    let summary = LoadSummary { files, sent_rows: 541_909, elapsed: Duration::from_secs(10) };
    let expected = "\
file             received =      accepted +     duplicate +      rejected
a.csv             541,909 =       406,829 +             0 +       135,080
longer.csv        541,909 =       406,829 +             0 +       135,080  already loaded
total           1,083,818 =       813,658 +             0 +       270,160

rejected because
      270,158  user_id is missing  (a.csv:2, a.csv:2)
            2  not UTF-8  (a.csv:2, a.csv:2)
2 of them are no events at all and were not sent: they stay in their file, and no dead letter has them

541,909 rows in 10.0 s, 54,190 rows/s";
    assert_eq!(summary.to_string(), expected);
}
