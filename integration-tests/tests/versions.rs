//! Versions come and go under questions: definitions change, an older version is taken back, views are recomputed, and no answer is
//! an error or differs from what was acknowledged.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::SeqCst};
use std::time::Duration;

use integration_tests::cluster::Cluster;
use merganser_proto::v1::value::Kind;
use merganser_proto::v1::view_service_client::ViewServiceClient;
use merganser_proto::v1::{AppendEventsRequest, Event, GetUserStatsRequest, GetViewRowsRequest, Provenance};
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Request};

const USERS: usize = 5;
/// Definition changes, each followed by a rollback.
const CHANGES: usize = 10;
/// Versions that are built upon others.
const INCREMENTS: usize = 50;
const TYPES: [&str; 2] = ["return", "sale"];

/// How many events each user, and each type, has: acknowledged, and sent.
#[derive(Default)]
struct Counts {
    of_users: [[AtomicI64; 2]; USERS],
    of_types: [[AtomicI64; 2]; TYPES.len()],
    finished: AtomicBool,
}

/// An answer lies between what was acknowledged before the question and what was sent before the answer.
fn check(before: i64, count: i64, revenue: &str, sent: &AtomicI64, provenance: &Provenance) {
    assert!((before..=sent.load(SeqCst)).contains(&count), "{count} events, {before} were acknowledged: {provenance:?}");
    // Every event has the same amount, so that a half that is missing from one measure alone would show.
    assert_eq!(revenue, if count == 0 { String::new() } else { count.to_string() }, "{provenance:?}");
    assert!(provenance.complete);
    assert_eq!(provenance.batch_event_count + provenance.speed_event_count, count);
}

fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(Duration::from_secs(10));
    request
}

/// Asks about users until all is over; gives how many answers there were, and from which versions.
async fn ask_users(cluster: &Cluster, counts: Arc<Counts>) -> (usize, BTreeSet<i64>) {
    let (mut client, mut answers, mut versions) = (cluster.stats.clone(), 0, BTreeSet::new());
    while !counts.finished.load(SeqCst) {
        let [acknowledged, sent] = &counts.of_users[answers % USERS];
        let before = acknowledged.load(SeqCst);
        let question = GetUserStatsRequest { user_id: format!("user-{}", answers % USERS), ..GetUserStatsRequest::default() };
        let answer = client.get_user_stats(timed(question)).await.unwrap().into_inner();
        let (stats, provenance) = (answer.stats.unwrap(), answer.provenance.unwrap());
        check(before, stats.event_count, &stats.revenue, sent, &provenance);
        versions.insert(provenance.version);
        answers += 1;
    }
    (answers, versions)
}

/// The same about types, whose events lie in all partitions.
async fn ask_types(mut client: ViewServiceClient<Channel>, counts: Arc<Counts>) -> (usize, BTreeSet<i64>) {
    let (mut answers, mut versions) = (0, BTreeSet::new());
    while !counts.finished.load(SeqCst) {
        let [acknowledged, sent] = &counts.of_types[answers % TYPES.len()];
        let before = acknowledged.load(SeqCst);
        let question =
            GetViewRowsRequest { view: "types".into(), key: TYPES[answers % TYPES.len()].into(), ..GetViewRowsRequest::default() };
        let answer = client.get_view_rows(timed(question)).await.unwrap().into_inner();
        let cell = |name: &str| {
            let column = answer.column_names.iter().position(|column| column == name).unwrap();
            answer.rows.first().and_then(|row| row.values[column].kind.clone())
        };
        let count = if let Some(Kind::IntValue(count)) = cell("event_count") { count } else { 0 };
        let revenue = if let Some(Kind::DecimalValue(text)) = cell("revenue") { text } else { String::new() };
        let provenance = answer.provenance.unwrap();
        check(before, count, &revenue, sent, &provenance);
        versions.insert(provenance.version);
        answers += 1;
    }
    (answers, versions)
}

/// Questions about users and about types, until all is over.
struct Asking([JoinHandle<(usize, BTreeSet<i64>)>; 2]);

impl Asking {
    fn start(cluster: &Arc<Cluster>, counts: &Arc<Counts>) -> Self {
        let users = tokio::spawn({
            let (cluster, counts) = (Arc::clone(cluster), Arc::clone(counts));
            async move { ask_users(&cluster, counts).await }
        });
        Self([users, tokio::spawn(ask_types(cluster.views.clone(), Arc::clone(counts)))])
    }

    /// Ends it. There were more than so many answers of each kind, from more than so many versions.
    async fn finish(self, counts: &Counts, least_answers: usize, least_versions: usize) {
        counts.finished.store(true, SeqCst);
        for asked in self.0 {
            let (answers, versions) = asked.await.unwrap();
            println!("{answers} answers from versions {versions:?}");
            assert!(answers > least_answers && versions.len() > least_versions, "{answers} answers from {versions:?}");
        }
    }
}

/// Appends an event of each type for each user.
async fn append(cluster: &Cluster, counts: &Counts, round: usize) {
    let mut events = Vec::new();
    for user in 0..USERS {
        for (kind, event_type) in TYPES.into_iter().enumerate() {
            counts.of_users[user][1].fetch_add(1, SeqCst);
            counts.of_types[kind][1].fetch_add(1, SeqCst);
            events.push(Event {
                event_id: format!("{round}-{kind}"),
                user_id: format!("user-{user}"),
                event_time: Some(prost_types::Timestamp { seconds: 86_400 * (round as i64 % 3), nanos: 0 }),
                event_type: event_type.to_owned(),
                amount: "1".to_owned(),
                ..Event::default()
            });
        }
    }
    let answer = cluster.ingest.clone().append_events(timed(AppendEventsRequest { events })).await.unwrap().into_inner();
    assert_eq!(answer.accepted_count as usize, USERS * TYPES.len());
    for [acknowledged, _] in &counts.of_users {
        acknowledged.fetch_add(TYPES.len() as i64, SeqCst);
    }
    for [acknowledged, _] in &counts.of_types {
        acknowledged.fetch_add(USERS as i64, SeqCst);
    }
}

async fn publish(cluster: &Cluster, view: &str) -> i64 {
    cluster.start_batch_run_of(view).await.unwrap().unwrap().expect("there is something to publish")
}

/// Polls until the view answers from `version`.
async fn until_answers(cluster: &Cluster, view: &str, version: i64) {
    let question = || GetViewRowsRequest { view: view.to_owned(), key: "nothing".to_owned(), ..GetViewRowsRequest::default() };
    let polled = async {
        loop {
            let answer = cluster.views.clone().get_view_rows(timed(question())).await;
            if answer.is_ok_and(|answer| answer.into_inner().provenance.unwrap().version >= version) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), polled).await.expect("the version comes to answer");
}

/// Proves that a view is withdrawn only once its file is gone, that nobody answers for it then, that no event is refused on its
/// account, after a restart too, and that it comes back whole when it is declared again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn withdrawn_and_declared_again() {
    let mut cluster = Cluster::start(true, |config| config.log.partitions = 3).await.unwrap();
    let folder = cluster.folder().join("views");
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("types.sql");
    // It fails on an event whose amount is zero.
    let sql = "SELECT event_type, count(*) AS event_count, sum(amount) AS revenue, sum(1 / CAST(amount AS BIGINT)) AS fails
               FROM events GROUP BY event_type";
    std::fs::write(&file, sql).unwrap();
    let counts = Arc::new(Counts::default());
    append(&cluster, &counts, 0).await;
    let first = publish(&cluster, "types").await;
    until_answers(&cluster, "types", first).await;
    let of_nothing = async || {
        let event = Event {
            event_id: "of nothing".to_owned(),
            user_id: "user-0".to_owned(),
            event_time: Some(prost_types::Timestamp::default()),
            amount: "0".to_owned(),
            ..Event::default()
        };
        let answer = cluster.ingest.clone().append_events(timed(AppendEventsRequest { events: vec![event] })).await.unwrap().into_inner();
        (answer.accepted_count, answer.rejected.len())
    };
    assert_eq!(of_nothing().await, (0, 1));
    assert!(cluster.withdraw("user_stats").await.unwrap_err().to_string().contains("built in"));
    assert!(cluster.withdraw("types").await.unwrap_err().to_string().contains("still declared"));
    std::fs::remove_file(&file).unwrap();
    assert_eq!(cluster.withdraw("types").await.unwrap(), first + 1);
    assert!(cluster.withdraw("types").await.unwrap_err().to_string().contains("no version that is answered"));
    until_gone(&cluster, "types").await;
    let accepted = async {
        while of_nothing().await.1 > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), accepted).await.expect("the speed layer lets go of the view");

    cluster.stop_speed().await.unwrap();
    cluster.start_speed().await.unwrap();
    cluster.restart_serving().await.unwrap();
    until_gone(&cluster, "types").await;
    let sql = "SELECT event_type, count(*) AS event_count, sum(amount) AS revenue FROM events GROUP BY event_type";
    std::fs::write(&file, sql).unwrap();
    append(&cluster, &counts, 1).await;
    let again = publish(&cluster, "types").await;
    assert_eq!(again, first + 2);
    until_answers(&cluster, "types", again).await;
    append(&cluster, &counts, 2).await;
    counts.finished.store(false, SeqCst);
    let asking = tokio::spawn(ask_types(cluster.views.clone(), Arc::clone(&counts)));
    tokio::time::sleep(Duration::from_millis(200)).await;
    counts.finished.store(true, SeqCst);
    assert!(asking.await.unwrap().0 > 0);
    cluster.stop().await.unwrap();
}

/// Polls until nobody answers for the view.
async fn until_gone(cluster: &Cluster, view: &str) {
    let question = || GetViewRowsRequest { view: view.to_owned(), key: "nothing".to_owned(), ..GetViewRowsRequest::default() };
    let polled = async {
        while cluster.views.clone().get_view_rows(timed(question())).await.err().map(|status| status.code()) != Some(Code::NotFound) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), polled).await.expect("the view comes to be gone");
}

/// Proves that fifty versions that were built upon others, and five computed from all events between them, go unnoticed by whoever
/// asks, with events coming in between, of a view by user and of one by another key.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn built_upon_one_another_under_questions() {
    let cluster = Cluster::start(true, |config| config.log.partitions = 3).await.unwrap();
    let folder = cluster.folder().join("views");
    std::fs::create_dir_all(&folder).unwrap();
    let sql = "SELECT event_type, count(*) AS event_count, sum(amount) AS revenue
               FROM events GROUP BY event_type, date_trunc('day', event_time)";
    std::fs::write(folder.join("types.sql"), sql).unwrap();
    let counts = Arc::new(Counts::default());
    append(&cluster, &counts, 0).await;
    for view in ["user_stats", "types"] {
        let version = publish(&cluster, view).await;
        until_answers(&cluster, view, version).await;
    }
    let cluster = Arc::new(cluster);
    let asking = Asking::start(&cluster, &counts);
    for round in 1..=INCREMENTS / 2 {
        for view in ["user_stats", "types"] {
            append(&cluster, &counts, round * 10 + usize::from(view == "types")).await;
            let incremental = cluster.start_batch_run_as(view, true).await.unwrap().unwrap().expect("there is something to publish");
            until_answers(&cluster, view, incremental).await;
        }
        if round % 5 == 0 {
            append(&cluster, &counts, round * 10 + 2).await;
            let view = if round % 2 == 0 { "user_stats" } else { "types" };
            let full = cluster.start_batch_run_as(view, false).await.unwrap().unwrap().expect("there is something to publish");
            until_answers(&cluster, view, full).await;
        }
    }
    asking.finish(&counts, INCREMENTS, INCREMENTS / 4).await;
    Arc::into_inner(cluster).unwrap().stop().await.unwrap();
}

/// Proves that a changed definition and a rollback go unnoticed by whoever asks: ten of each, of a view by user and of one by another
/// key, with events coming in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn changed_and_taken_back_under_questions() {
    let cluster = Cluster::start(true, |config| config.log.partitions = 3).await.unwrap();
    let folder = cluster.folder().join("views");
    std::fs::create_dir_all(&folder).unwrap();
    let declare = |view: &str, key: &str, more: usize| {
        // Each is another definition: a measure more, under another name.
        let sql = format!(
            "SELECT {key}, count(*) AS event_count, sum(amount) AS revenue, max(amount) AS largest_{more}
             FROM events GROUP BY {key}, date_trunc('day', event_time)"
        );
        std::fs::write(folder.join(format!("{view}.sql")), sql).unwrap();
    };
    let views = [("user_stats", "user_id"), ("types", "event_type")];
    let counts = Arc::new(Counts::default());
    append(&cluster, &counts, 0).await;
    for (view, key) in views {
        declare(view, key, 0);
        let version = publish(&cluster, view).await;
        until_answers(&cluster, view, version).await;
    }
    let cluster = Arc::new(cluster);
    let asking = Asking::start(&cluster, &counts);
    for change in 1..=CHANGES {
        for (view, key) in views {
            append(&cluster, &counts, change * 10 + usize::from(view == "types")).await;
            declare(view, key, change);
            let changed = publish(&cluster, view).await;
            until_answers(&cluster, view, changed).await;
            append(&cluster, &counts, change * 10 + 2 + usize::from(view == "types")).await;
            let taken_back = cluster.rollback(view, changed - 1).await.unwrap();
            assert_eq!(taken_back, changed + 1);
            until_answers(&cluster, view, taken_back).await;
        }
    }
    // What is far behind is refused, and so is what was never there.
    for version in [0, 2 * CHANGES as i64 + 1, 99] {
        let refused = cluster.rollback("types", version).await.unwrap_err().to_string();
        assert!(refused.contains("there is no version"), "{refused}");
    }
    asking.finish(&counts, CHANGES, CHANGES).await;
    Arc::into_inner(cluster).unwrap().stop().await.unwrap();
}
