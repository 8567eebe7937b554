//! Refused rows over their whole life: three real servers, a schema that is mended, a replay, and the oracle's word on every answer.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::future::pending;

use integration_tests::cluster::Cluster;
use integration_tests::oracle::{Fact, Figures, Oracle};
use merganser_proto::v1::{AppendEventsRequest, AppendEventsResponse, Event, GetUserStatsRequest};
use prost_types::Timestamp;
use speed_layer::dead_letter::{Place, ReplayOptions, ReplaySummary, Selection, list, replay};
use storage::config::{ByteSize, Config};
use storage::config::{ClientConfig, TlsConfig};
use tonic::{Code, Status};

const USERS: i64 = 7;

/// Every third row has a quantity that only the wider schema takes; every fifth has none of the digits of its amount right.
fn event(id: i64) -> Event {
    let quantity = if id % 3 == 0 { "half a dozen".to_owned() } else { id.to_string() };
    Event {
        event_id: format!("e{id}"),
        user_id: format!("user-{}", id % USERS),
        event_time: Some(Timestamp { seconds: 1_700_000_000 + id * 3600, nanos: 0 }),
        amount: if id % 5 == 0 { "1,50".to_owned() } else { format!("{id}.25") },
        attributes: [("quantity".to_owned(), quantity)].into(),
        ..Event::default()
    }
}

fn fact(id: i64) -> Fact {
    Fact {
        user: format!("user-{}", id % USERS),
        id: format!("e{id}"),
        time_us: (1_700_000_000 + id * 3600) * 1_000_000,
        amount: Some(i128::from(id) * 10_000 + 2_500),
        covered_by: i64::MAX..=i64::MAX,
        record: 0,
    }
}

fn quantity_is(config: &mut Config, kind: &str) {
    config.events.attributes.insert("quantity".into(), kind.to_owned().try_into().unwrap());
}

/// The view is declared in a file: the built-in definition would be another one under another schema.
fn narrow(config: &mut Config) {
    config.log.partitions = 3;
    quantity_is(config, "int64");
    std::fs::create_dir_all(&config.views.dir).unwrap();
    std::fs::write(config.views.dir.join("user_stats.sql"), include_str!("../../views/user_stats.sql")).unwrap();
}

async fn send(cluster: &Cluster, ids: impl Iterator<Item = i64>) -> Result<AppendEventsResponse, Status> {
    let answer = cluster.ingest.clone().append_events(AppendEventsRequest { events: ids.map(event).collect() }).await;
    answer.map(tonic::Response::into_inner)
}

/// Every user's count, sum, first and last time are those of the acknowledged events.
async fn compare(cluster: &Cluster, oracle: &Oracle, when: &str) {
    for user in (0..USERS).map(|user| format!("user-{user}")) {
        let question = GetUserStatsRequest { user_id: user.clone(), ..GetUserStatsRequest::default() };
        let stats = cluster.stats.clone().get_user_stats(question).await.unwrap().into_inner().stats.unwrap();
        let time_us = |time: &Option<Timestamp>| time.as_ref().map(|time| time.seconds * 1_000_000);
        let times_us = time_us(&stats.first_event_time).zip(time_us(&stats.last_event_time));
        let Figures { total, times_us: expected_times, .. } = oracle.answer(&user, 0, i64::MIN..i64::MAX);
        let revenue = total.1.map(|sum| integration_tests::plain_fold::text::money(&stats.revenue).unwrap() - sum);
        assert_eq!((stats.event_count, times_us), (total.0, expected_times), "{user}, {when}");
        assert!(revenue.is_none_or(|difference| difference == 0), "{user}, {when}: {} differs by {revenue:?}", stats.revenue);
    }
}

fn place(cluster: &Cluster) -> Place {
    Place { data_dir: cluster.data_dir(), store: cluster.store() }
}

async fn replay_all(cluster: &Cluster) -> ReplaySummary {
    let options = ReplayOptions {
        address: cluster.speed_url(),
        tls: TlsConfig::default(),
        client: ClientConfig::default(),
        place: place(cluster),
        selection: Selection::default(),
        batch_rows: 16,
    };
    let mut summary = ReplaySummary::default();
    replay(&options, pending(), &mut summary).await.unwrap();
    summary
}

async fn outstanding(cluster: &Cluster) -> Vec<(String, u64)> {
    let listing = list(&place(cluster), &Selection::default(), false).await.unwrap();
    listing.groups.into_iter().map(|group| (group.field, group.outstanding)).collect()
}

/// Proves that rows refused under one schema are accepted once under a wider one, in the realtime view and in the batch views
/// before and after; that a second replay and a producer that sends its rows again add nothing; and that rows which stay bad
/// stay outstanding, each once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn refused_mended_replayed() {
    let mut cluster = Cluster::start(false, narrow).await.unwrap();
    let mut oracle = Oracle::default();
    let answer = send(&cluster, 0..150).await.unwrap();
    let good = |id: &i64| id % 3 != 0 && id % 5 != 0;
    (0..150).filter(good).for_each(|id| oracle.acknowledge(fact(id)));
    assert_eq!((answer.accepted_count, answer.rejected.len()), (80, 70));
    compare(&cluster, &oracle, "under the narrow schema").await;
    let first = cluster.batch_run().await.unwrap().unwrap();
    cluster.wait_for_version(first).await.unwrap();

    cluster.stop_speed().await.unwrap();
    cluster.adjust(|config| quantity_is(config, "string"));
    cluster.start_speed().await.unwrap();
    let summary = replay_all(&cluster).await;
    (0..150).filter(|id| id % 3 == 0 && id % 5 != 0).for_each(|id| oracle.acknowledge(fact(id)));
    assert_eq!((summary.sent, summary.accepted, summary.duplicate, summary.still_refused()), (70, 40, 0, 30), "{summary}");
    compare(&cluster, &oracle, "after the replay").await;
    assert_eq!(outstanding(&cluster).await, [("amount".to_owned(), 30)]);

    let summary = replay_all(&cluster).await;
    assert_eq!((summary.sent, summary.accepted, summary.duplicate, summary.still_refused()), (30, 0, 0, 30), "{summary}");
    let answer = send(&cluster, 0..150).await.unwrap();
    assert_eq!((answer.accepted_count, answer.duplicate_count, answer.rejected.len()), (0, 120, 30));
    assert_eq!(outstanding(&cluster).await, [("amount".to_owned(), 30)]);
    compare(&cluster, &oracle, "after everything was sent twice").await;

    let second = cluster.batch_run().await.unwrap().unwrap();
    cluster.wait_for_version(second).await.unwrap();
    compare(&cluster, &oracle, "from a recompute over both schemas").await;
    cluster.stop().await.unwrap();
}

/// Proves that at the cap a request with refused rows is refused whole over the wire, with its reason and no delay to try again
/// after, while good rows go on; and that a replay and a pruned file make room again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_cap_and_the_way_out() {
    use tonic_types::StatusExt;

    let mut cluster = Cluster::start(false, |config| {
        narrow(config);
        config.log.dead_letter_bytes = ByteSize(4096);
    })
    .await
    .unwrap();
    let bad = |id: &i64| id % 3 == 0 && id % 5 != 0;
    let mut kept = 0;
    let refused = loop {
        let next = (kept * 3..).find(bad).unwrap();
        let ids = (next..).filter(bad).take(1).chain([1]);
        match send(&cluster, ids).await {
            Ok(_) => kept = next / 3 + 1,
            Err(status) => break status,
        }
    };
    let letters = outstanding(&cluster).await[0].1;
    assert!(letters > 5, "{letters}");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert_eq!(refused.get_details_error_info().unwrap().reason, "DEAD_LETTERS_FULL");
    assert!(refused.get_details_retry_info().is_none() && refused.message().contains("log.dead_letter_bytes"), "{refused}");
    assert_eq!(send(&cluster, [2, 4].into_iter()).await.unwrap().accepted_count, 2);

    cluster.batch_run().await.unwrap();
    cluster.stop_speed().await.unwrap();
    cluster.adjust(|config| quantity_is(config, "string"));
    cluster.start_speed().await.unwrap();
    assert_eq!(replay_all(&cluster).await.accepted, letters);
    cluster.stop_speed().await.unwrap();
    let pruned = storage::dead_letter::prune(&cluster.data_dir(), |_| false).unwrap();
    assert_eq!((pruned.removed as u64, pruned.kept), (letters, 0));
    cluster.start_speed().await.unwrap();
    assert_eq!(send(&cluster, (0..50).filter(|id| id % 5 == 0)).await.unwrap().rejected.len(), 10);
    cluster.stop().await.unwrap();
}
