//! Replays against a real speed layer whose schema is mended, or broken, between them.

use std::future::pending;

use merganser_proto::v1::ingest_service_client::IngestServiceClient;
use merganser_proto::v1::realtime_view_service_client::RealtimeViewServiceClient;
use merganser_proto::v1::{AppendEventsRequest, EraseUserRequest, Event};
use prost_types::Timestamp;
use storage::config::Config;
use storage::config::{ClientConfig, TlsConfig};
use storage::dead_letter::SettledLetters;
use storage::log::LogError;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::SpeedError;

struct Server {
    address: String,
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), SpeedError>>,
}

/// A server over `place` that takes the attribute `quantity` as this type.
async fn serve(place: &Place, quantity: &str) -> Server {
    let mut config = Config::default();
    config.log.dir.clone_from(&place.data_dir);
    config.log.partitions = 2;
    config.events.attributes.insert("quantity".into(), quantity.to_owned().try_into().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(crate::run(config, place.store.clone(), listener, shutdown.clone()));
    Server { address, shutdown, running }
}

impl Server {
    async fn send(&self, events: Vec<Event>) -> (i64, i64, usize) {
        let mut client = IngestServiceClient::connect(self.address.clone()).await.unwrap();
        let answer = client.append_events(AppendEventsRequest { events }).await.unwrap().into_inner();
        (answer.accepted_count, answer.duplicate_count, answer.rejected.len())
    }

    async fn replay(&self, place: &Place, selection: Selection) -> (ReplaySummary, Result<(), DeadLetterError>) {
        let options = ReplayOptions {
            address: self.address.clone(),
            tls: TlsConfig::default(),
            client: ClientConfig::default(),
            place: place.clone(),
            selection,
            batch_rows: 3,
        };
        let mut summary = ReplaySummary::default();
        let outcome = replay(&options, pending(), &mut summary).await;
        (summary, outcome)
    }

    /// Accepted, duplicate, still refused.
    async fn replay_all(&self, place: &Place) -> (u64, u64, u64) {
        let (summary, outcome) = self.replay(place, Selection::default()).await;
        outcome.unwrap();
        (summary.accepted, summary.duplicate, summary.still_refused())
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.running.await.unwrap().unwrap();
    }
}

fn event(id: u32, quantity: &str) -> Event {
    Event {
        event_id: format!("e{id}"),
        user_id: format!("u{}", id % 5),
        event_time: Some(Timestamp { seconds: 7, nanos: 0 }),
        attributes: [("quantity".to_owned(), quantity.to_owned())].into(),
        ..Event::default()
    }
}

fn place(dir: &tempfile::TempDir) -> Place {
    Place { data_dir: dir.path().join("data"), store: Store::open("memory://").unwrap() }
}

async fn counts(place: &Place) -> (u64, u64) {
    let listing = list(place, &Selection::default(), false).await.unwrap();
    (listing.outstanding, listing.settled)
}

/// Proves that what a mended schema accepts is accepted once, over requests of a few rows, that a second replay sends nothing,
/// and that one whose settlements were lost finds duplicates.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn once_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let place = place(&dir);
    let server = serve(&place, "int64").await;
    assert_eq!(server.send((0..10).map(|id| event(id, if id < 7 { "six" } else { "6" })).collect()).await, (3, 0, 7));
    assert_eq!(server.replay_all(&place).await, (0, 0, 7));
    assert_eq!(counts(&place).await, (7, 0), "a row that is refused for the same reason keeps its letter and gets no other");
    server.stop().await;

    let server = serve(&place, "string").await;
    assert_eq!(server.replay_all(&place).await, (7, 0, 0));
    assert_eq!(counts(&place).await, (0, 7));
    let (summary, _) = server.replay(&place, Selection::default()).await;
    assert_eq!(summary, ReplaySummary { settled_before: 7, ..ReplaySummary::default() });

    // As after a kill between the answers and what they settle.
    std::fs::remove_file(place.data_dir.join("dead-letter/settled/settled.log")).unwrap();
    assert_eq!(server.replay_all(&place).await, (0, 7, 0));
    assert_eq!(server.replay_all(&place).await, (0, 0, 0));
    server.stop().await;
}

/// Proves that a row which is refused for another reason is outstanding once, under the new letter; and that it stays outstanding,
/// under some letter, when the old reason comes back, until it is in the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_reason() {
    let dir = tempfile::tempdir().unwrap();
    let place = place(&dir);
    let server = serve(&place, "int64").await;
    server.send(vec![event(0, "six")]).await;
    server.stop().await;

    let server = serve(&place, "bool").await;
    let (summary, _) = server.replay(&place, Selection::default()).await;
    assert_eq!((summary.still_refused(), summary.superseded), (1, 1));
    assert!(summary.refused.contains_key("attributes.quantity is neither true nor false"), "{summary}");
    let listing = list(&place, &Selection::default(), true).await.unwrap();
    let groups: Vec<_> = listing.groups.iter().map(|group| (group.reason.as_str(), group.outstanding, group.settled)).collect();
    assert_eq!(groups, [("is neither true nor false", 1, 0), ("is not a whole number of 64 bits", 0, 1)]);
    server.stop().await;

    for quantity in ["int64", "bool", "int64"] {
        let server = serve(&place, quantity).await;
        assert_eq!(server.replay_all(&place).await, (0, 0, 1), "{quantity}");
        assert_eq!(counts(&place).await, (1, 1), "{quantity}");
        server.stop().await;
    }
    let server = serve(&place, "string").await;
    assert_eq!(server.replay_all(&place).await, (1, 0, 0));
    assert_eq!(counts(&place).await, (0, 2));
    server.stop().await;
}

/// Proves that refused rows of a user who was erased after them are neither listed nor sent and are pruned, and that later ones and
/// those of others stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_erased_users() {
    let dir = tempfile::tempdir().unwrap();
    let place = place(&dir);
    let server = serve(&place, "int64").await;
    assert_eq!(server.send((0..10).map(|id| event(id, "six")).collect()).await, (0, 0, 10));
    let mut client = RealtimeViewServiceClient::connect(server.address.clone()).await.unwrap();
    client.erase_user(EraseUserRequest { user_id: "u1".to_owned() }).await.unwrap();
    assert_eq!(counts(&place).await, (8, 0));
    assert_eq!(server.send(vec![event(11, "six")]).await, (0, 0, 1));
    assert_eq!(counts(&place).await, (9, 0));
    assert_eq!(server.replay_all(&place).await, (0, 0, 9));
    assert!(matches!(prune(&place, i64::MIN).await, Err(DeadLetterError::Log(LogError::Locked { .. }))));
    server.stop().await;
    assert_eq!(prune(&place, i64::MIN).await.unwrap(), Pruned { removed: 2, kept: 9 });
    assert_eq!(counts(&place).await, (9, 0));

    // What is past its keep-for goes too, and what came at that very moment or later stays.
    let mut times: Vec<i64> =
        storage::dead_letter::read_all(&place.data_dir).unwrap().map(|letter| letter.unwrap().1.received_time_us).collect();
    times.sort_unstable();
    let older = times.iter().filter(|time| **time < times[8]).count();
    assert!(older > 0, "{times:?}");
    assert_eq!(prune(&place, times[8]).await.unwrap(), Pruned { removed: older, kept: 9 - older });
    assert_eq!(counts(&place).await, (9 - older as u64, 0));
}

/// Proves that ids, field and reason choose what is sent, and that an id of nothing is an error before anything is sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_choice() {
    let dir = tempfile::tempdir().unwrap();
    let place = place(&dir);
    let server = serve(&place, "int64").await;
    let nobody = Event { user_id: String::new(), ..event(3, "6") };
    server.send(vec![event(0, "six"), event(1, "six"), event(2, "six"), nobody]).await;
    let mut lines = Vec::new();
    rows(&place, &Selection::default(), false, false, &mut lines).await.unwrap();
    let lines = String::from_utf8(lines).unwrap();
    let id = lines.lines().next().unwrap()[..12].to_owned();
    assert_eq!(lines.lines().count(), 4, "{lines}");
    let shown = show(&place, &id).await.unwrap();
    assert!(shown.contains("\"six\"") && shown.contains("\"settled\": null"), "{shown}");
    server.stop().await;

    let server = serve(&place, "string").await;
    let sent = |selection: Selection| async { server.replay(&place, selection).await.0.sent };
    assert_eq!(sent(Selection { field: Some("user_id".into()), ..Selection::default() }).await, 1);
    assert_eq!(sent(Selection { reason: Some("whole number".into()), field: Some("user_id".into()), ..Selection::default() }).await, 0);
    let (summary, outcome) = server.replay(&place, Selection { ids: vec![id.clone(), "xyz".into()], ..Selection::default() }).await;
    assert!(matches!(outcome, Err(DeadLetterError::UnknownId { begin }) if begin == "xyz") && summary.sent == 0);
    assert_eq!(sent(Selection { ids: vec![id.clone()], ..Selection::default() }).await, 1);
    assert_eq!(counts(&place).await, (3, 1));
    assert_eq!(sent(Selection { reason: Some("whole number".into()), ..Selection::default() }).await, 2);
    assert_eq!(server.replay_all(&place).await, (0, 0, 1));
    let shown = show(&place, &id).await.unwrap();
    assert!(shown.contains("\"settled\": \"the event is in the log\""), "{shown}");
    server.stop().await;
}

/// Proves that the rows of imports are listed and sent too, each once wherever it is kept, that one refused again is superseded by
/// the server's letter, and that one which is no event is counted by reason and stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_imports() {
    let dir = tempfile::tempdir().unwrap();
    let place = place(&dir);
    let server = serve(&place, "int64").await;
    let row = |event: serde_json::Value| {
        serde_json::json!({"received_time_us": 7, "field": "attributes.quantity", "reason": "is odd", "event": event}).to_string() + "\n"
    };
    let whole = |id: &str, quantity: &str| serde_json::json!({"event_id": id, "user_id": "u", "event_time": "2026-11-21T12:00:00Z", "attributes": {"quantity": quantity}});
    let lines = [row(whole("a", "6")), row(whole("b", "six")), row("{ broken".into())].concat();
    for number in [1, 2] {
        let path = storage::paths::ImportPath { import: number, object: storage::paths::ImportObject::DeadLetters }.path();
        place.store.put_durable(&path, lines.clone().into()).await.unwrap();
    }
    assert_eq!(counts(&place).await, (3, 0));
    let (summary, outcome) = server.replay(&place, Selection::default()).await;
    outcome.unwrap();
    assert_eq!((summary.accepted, summary.still_refused(), summary.superseded), (1, 1, 1));
    assert_eq!(summary.unsendable.values().map(|rows| rows.count).sum::<u64>(), 1, "{summary}");
    assert_eq!(counts(&place).await, (2, 2), "the broken row, and the letter that the server keeps of b");
    assert_eq!(server.replay_all(&place).await, (0, 0, 1));
    assert_eq!(counts(&place).await, (2, 2));
    server.stop().await;
}

/// Proves that letters are not settled by the log of another server, nor while another replay runs, nor where no server answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_keeps_it_from_going_on() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [here, there] = [place(&dirs[0]), place(&dirs[1])];
    let server = serve(&here, "int64").await;
    server.send(vec![event(0, "six")]).await;
    server.stop().await;

    let other = serve(&there, "string").await;
    let (_, outcome) = other.replay(&here, Selection::default()).await;
    assert!(matches!(outcome, Err(DeadLetterError::OtherLog { .. })), "{outcome:?}");
    other.stop().await;

    let server = serve(&here, "string").await;
    let held = SettledLetters::open(&here.data_dir).unwrap();
    let (_, outcome) = server.replay(&here, Selection::default()).await;
    assert!(matches!(outcome, Err(DeadLetterError::Log(LogError::Locked { .. }))), "{outcome:?}");
    drop(held);
    let address = server.address.clone();
    server.stop().await;

    let options = ReplayOptions {
        address,
        tls: TlsConfig::default(),
        client: ClientConfig::default(),
        place: here.clone(),
        selection: Selection::default(),
        batch_rows: 3,
    };
    let interrupted = tokio::time::sleep(std::time::Duration::from_millis(300));
    let outcome = replay(&options, interrupted, &mut ReplaySummary::default()).await;
    assert!(matches!(outcome, Err(DeadLetterError::Send(crate::load::LoadError::Interrupted))), "{outcome:?}");
    assert_eq!(counts(&here).await, (1, 0));
}
