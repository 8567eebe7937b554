use std::sync::Arc;
use std::time::Duration;

use merganser_proto::v1::user_stats_service_client::UserStatsServiceClient;
use merganser_proto::v1::view_service_client::ViewServiceClient;
use merganser_proto::v1::{Consistency, GetViewRowsRequest};
use storage::manifest::{Manifests, expired};
use storage::paths::{ViewFilePath, ViewName};
use storage::store::Store;
use storage::store::faulty::{CallKind, Fault, FaultyStore};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use views::{Definition, EventSchema};

use super::fixture::{Fixture, nobody, publish, serve};
use super::{about, everybody, parts, until, until_version, with};

const OFTEN: Duration = Duration::from_millis(10);
const SQL: &str = views::definition::USER_STATS_SQL;

/// Proves that a question at a retired boundary is asked again of the newest version, without waiting for the watcher.
#[tokio::test]
async fn retired_boundary_reloads() {
    let mut fixture = Fixture::new(&[60], 100).await;
    let (before, provenance) = parts(fixture.client.get_user_stats(about("user-0")).await.unwrap().into_inner());
    assert_eq!(provenance.version, 1);
    fixture.publish(2, 80).await;
    fixture.speed().oldest_boundary = 80;
    let (after, provenance) = parts(fixture.client.get_user_stats(about("user-0")).await.unwrap().into_inner());
    assert_eq!((provenance.version, provenance.complete), (2, true));
    assert_eq!(after, before);
}

/// Proves that a boundary which stays retired ends in an error, or in an answer that says it is incomplete, after a bounded
/// number of questions.
#[tokio::test]
async fn retired_for_good() {
    let mut fixture = Fixture::new(&[60], 100).await;
    fixture.speed().oldest_boundary = 80;
    let status = fixture.client.get_user_stats(about("user-0")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(fixture.speed().questions, 6);
    let (stats, provenance) = parts(fixture.client.get_user_stats(with(Consistency::BestEffort)).await.unwrap().into_inner());
    assert!(stats.found && !provenance.complete && provenance.incomplete_reason.contains("BOUNDARY_RETIRED"));
}

/// Proves that a swap in the middle of a batch get changes nothing in it.
#[tokio::test]
async fn one_version_per_answer() {
    let mut fixture = Fixture::with(SQL, &[60], 100, OFTEN).await;
    until_version(&mut fixture.client, 1).await;
    let expected = fixture.client.batch_get_user_stats(everybody()).await.unwrap().into_inner();

    let everything = fixture.gate.forget_permits(usize::MAX);
    let mut asking = fixture.client.clone();
    let answered_before = fixture.speed().arrived;
    let answer = tokio::spawn(async move { asking.batch_get_user_stats(everybody()).await });
    until(|| fixture.speed().arrived > answered_before).await;
    fixture.publish(2, 80).await;
    until_version(&mut fixture.client, 2).await;
    fixture.gate.add_permits(everything);

    let during = answer.await.unwrap().unwrap().into_inner();
    assert_eq!(during, expected);
    let after = fixture.client.batch_get_user_stats(everybody()).await.unwrap().into_inner();
    assert_eq!(after.stats, expected.stats);
    assert_eq!(after.provenance.unwrap().version, 2);
}

/// Proves that a version waits until the speed layer can answer from it, and that the one before answers meanwhile.
#[tokio::test]
async fn waits_for_the_speed_layer() {
    let mut fixture = Fixture::with(SQL, &[60], 100, OFTEN).await;
    until_version(&mut fixture.client, 1).await;
    fixture.speed().unprepared = true;
    fixture.publish(2, 80).await;
    for _ in 0..20 {
        let (_, provenance) = parts(fixture.client.get_user_stats(about("user-0")).await.unwrap().into_inner());
        assert_eq!((provenance.version, provenance.complete), (1, true));
    }
    fixture.speed().unprepared = false;
    until_version(&mut fixture.client, 2).await;
}

/// Proves that a damaged version never answers, that the one before goes on, and that the next good one is taken.
#[tokio::test]
async fn damaged_version_is_refused() {
    let mut fixture = Fixture::new(&[60], 100).await;
    until_version(&mut fixture.client, 1).await;
    let right = parts(fixture.client.get_user_stats(about("user-0")).await.unwrap().into_inner()).0;
    fixture.publish(2, 80).await;
    let part = ViewFilePath { view: "user_stats".parse().unwrap(), version: 2, run_id: "run-2".parse().unwrap(), part: 0 };
    let mut bytes = fixture.store.get(&part.path()).await.unwrap().to_vec();
    bytes[10] ^= 1;
    fixture.store.put_durable(&part.path(), bytes.into()).await.unwrap();
    fixture.speed().oldest_boundary = 80;
    assert_eq!(fixture.client.get_user_stats(about("user-0")).await.unwrap_err().code(), Code::Unavailable);
    fixture.speed().oldest_boundary = 0;
    assert_eq!(parts(fixture.client.get_user_stats(about("user-0")).await.unwrap().into_inner()).0, right);
    fixture.publish(3, 90).await;
    fixture.speed().oldest_boundary = 80;
    let (stats, provenance) = parts(fixture.client.get_user_stats(about("user-0")).await.unwrap().into_inner());
    assert_eq!((stats, provenance.version), (right, 3));
}

/// Proves that a view which is published and cannot be opened is no view that is not there: questions about it say what is in the way, the
/// other view goes on, and nothing is said any more once nothing is published.
#[tokio::test]
async fn a_view_that_cannot_be_opened() {
    let store = Store::open("memory://").unwrap();
    publish(&store, &Definition::user_stats(&EventSchema::default()), 1, 60).await;
    let manifest = "views/other/manifests/00000000000000000001.json";
    store.put_durable(&manifest.into(), "no manifest".into()).await.unwrap();
    let shutdown = CancellationToken::new();
    let (channel, _server) = serve(&store, &nobody().await, OFTEN, &shutdown).await;
    let mut views = ViewServiceClient::new(channel.clone());
    let mut ask = async || views.get_view_rows(GetViewRowsRequest { view: "other".to_owned(), ..Default::default() }).await.unwrap_err();
    let refused = async {
        loop {
            // Before it was tried it may be none, or be being opened.
            let status = ask().await;
            if status.message().contains("cannot be opened") {
                return status;
            }
        }
    };
    let status = tokio::time::timeout(Duration::from_secs(10), refused).await.expect("nobody finds the view");
    assert!(status.code() == Code::Unavailable && status.message().contains("other is published"), "{status:?}");
    UserStatsServiceClient::new(channel).get_user_stats(with(Consistency::BatchOnly)).await.unwrap();
    store.delete(&manifest.into()).await.unwrap();
    let gone = async { while ask().await.code() != Code::NotFound {} };
    tokio::time::timeout(Duration::from_secs(10), gone).await.expect("what is gone is still in the way");
    shutdown.cancel();
}

/// Proves that a version which is damaged while it answers is found out, answers nothing more though its blocks are cached, and
/// answers again once its files are whole.
#[tokio::test]
async fn damage_in_service() {
    let mut fixture = Fixture::new(&[60], 100).await;
    let right = parts(fixture.client.get_user_stats(about("user-0")).await.unwrap().into_inner()).0;
    let part = ViewFilePath { view: "user_stats".parse().unwrap(), version: 1, run_id: "run-1".parse().unwrap(), part: 1 };
    let whole = fixture.store.get(&part.path()).await.unwrap();
    let mut bytes = whole.to_vec();
    bytes[10] ^= 1;
    fixture.store.put_durable(&part.path(), bytes.into()).await.unwrap();
    let refused = async {
        loop {
            match fixture.client.get_user_stats(about("user-0")).await {
                Ok(answer) => assert_eq!(parts(answer.into_inner()).0, right),
                Err(status) => return status,
            }
        }
    };
    let status = tokio::time::timeout(Duration::from_secs(10), refused).await.expect("nobody finds the damage");
    assert!(status.code() == Code::DataLoss && status.message().contains("part-00001.parquet"), "{status:?}");
    fixture.store.put_durable(&part.path(), whole).await.unwrap();
    let answered = async { while fixture.client.get_user_stats(about("user-0")).await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(10), answered).await.expect("nobody finds that it is whole again");
}

/// Proves that a block which cannot be read makes the answer an error, and not a smaller one, and that it is read again later.
#[tokio::test]
async fn failed_read_is_an_error() {
    let faulty = FaultyStore::default();
    let store = Store::from_object_store(Arc::new(faulty.clone()));
    publish(&store, &Definition::user_stats(&EventSchema::default()), 1, 60).await;
    let shutdown = CancellationToken::new();
    let (channel, _server) = serve(&store, &nobody().await, OFTEN, &shutdown).await;
    let mut client = UserStatsServiceClient::new(channel);
    // Nobody of that name is in any block, so none is read by the time the server is up.
    let mut nobody = with(Consistency::BatchOnly);
    nobody.user_id = "zzz".to_owned();
    assert!(!parts(client.get_user_stats(nobody).await.unwrap().into_inner()).0.found);
    faulty.plan(|call| (call.kind == CallKind::Get).then_some(Fault::Before));
    let refused = client.get_user_stats(with(Consistency::BatchOnly)).await.expect_err("a failed read is no answer");
    assert!(refused.message().contains("part-0000"), "{refused:?}");
    faulty.heal();
    let (stats, _) = parts(client.get_user_stats(with(Consistency::BatchOnly)).await.unwrap().into_inner());
    assert_eq!(stats.event_count, 20);
    shutdown.cancel();
}

/// Proves that without any speed layer a published version is served, the batch half of it at once.
#[tokio::test]
async fn starts_without_a_speed_layer() {
    let store = Store::open("memory://").unwrap();
    publish(&store, &Definition::user_stats(&EventSchema::default()), 1, 60).await;
    let shutdown = CancellationToken::new();
    let (channel, server) = serve(&store, &nobody().await, OFTEN, &shutdown).await;
    let mut client = UserStatsServiceClient::new(channel);
    let (stats, provenance) = parts(client.get_user_stats(with(Consistency::BatchOnly)).await.unwrap().into_inner());
    assert_eq!((stats.event_count, provenance.version), (20, 1));
    assert_eq!(client.get_user_stats(about("user-0")).await.unwrap_err().code(), Code::Unavailable);

    shutdown.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(10), server).await.expect("the server stops in its time of grace");
    assert!(ended.unwrap().is_ok());
}

/// Proves that a server starts where the version before the newest has expired, as it does when it counts somebody who was erased.
#[tokio::test]
async fn starts_though_the_one_before_has_expired() {
    let store = Store::open("memory://").unwrap();
    let definition = Definition::user_stats(&EventSchema::default());
    for (version, end) in [(1, 20), (2, 60)] {
        publish(&store, &definition, version, end).await;
    }
    let first = Manifests::new(store.clone(), ViewName::user_stats()).read(1).await.unwrap();
    expired::expire(&store, &first, "users were erased whom it may still count").await.unwrap();
    let shutdown = CancellationToken::new();
    let (channel, server) = serve(&store, &nobody().await, OFTEN, &shutdown).await;
    let mut client = UserStatsServiceClient::new(channel);
    let (stats, provenance) = parts(client.get_user_stats(with(Consistency::BatchOnly)).await.unwrap().into_inner());
    assert_eq!((stats.event_count, provenance.version), (20, 2));
    shutdown.cancel();
    server.await.unwrap().unwrap();
}

/// Proves that a first version which cannot be understood keeps the server from starting, with the reason.
#[tokio::test]
async fn first_version_must_be_understood() {
    let store = Store::open("memory://").unwrap();
    publish(&store, &Definition::user_stats(&EventSchema::default()), 1, 60).await;
    let definitions = store.list(&"views/user_stats/definitions".into()).await.unwrap();
    let path = &definitions[0].location;
    let text = String::from_utf8(store.get(path).await.unwrap().to_vec()).unwrap();
    // In the first format, which has no checksum.
    let (text, _) = text.split_once(",\n  \"checksum\"").unwrap();
    let text = text.replace("\"format_version\": 2", "\"format_version\": 1").replace("sum(amount)", "max(amount)");
    store.put_durable(path, format!("{text}\n}}\n").into()).await.unwrap();
    let (_, server) = serve(&store, &nobody().await, OFTEN, &CancellationToken::new()).await;
    let refused = server.await.unwrap().unwrap_err();
    assert!(refused.to_string().contains("version 1 is refused: its definition: it has the fingerprint"), "{refused}");
}
