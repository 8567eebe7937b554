//! A user is erased: what every kind of question says at once, after the next run, and what it refuses to say.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::sync::Arc;

use batch_layer::RunOptions;
use batch_layer::erase::{erase, erasures, table};
use batch_layer::progress::Silent;
use integration_tests::cluster::Cluster;
use merganser_proto::v1::value::Kind;
use merganser_proto::v1::{
    AppendEventsRequest, BatchGetUserStatsRequest, Consistency, Event, GetTopRowsRequest, GetUserStatsRequest, GetViewRowsRequest, Row,
};
use storage::config::{ClientConfig, Config};
use storage::paths::ViewName;

use tonic::{Code, Status};
use tonic_types::StatusExt;

const USER_TYPES: &str = "SELECT user_id, event_type, count(*) AS event_count FROM events GROUP BY user_id, event_type";
const TYPES: &str = "SELECT event_type, count(*) AS event_count FROM events GROUP BY event_type";

async fn append(cluster: &Cluster, ids: std::ops::Range<usize>, users: &[&str]) {
    let event = |id: usize, user: &&str| Event {
        event_id: format!("e{id}"),
        user_id: (*user).to_owned(),
        event_time: Some(prost_types::Timestamp { seconds: 1_767_225_600 + id as i64, nanos: 0 }),
        event_type: ["sale", "return"][id % 2].to_owned(),
        amount: "1".to_owned(),
        ..Event::default()
    };
    let events: Vec<_> = ids.flat_map(|id| users.iter().map(move |user| event(id, user))).collect();
    let sent = events.len() as i64;
    let answer = cluster.ingest.clone().append_events(AppendEventsRequest { events }).await.unwrap().into_inner();
    assert_eq!(answer.accepted_count, sent, "{answer:?}");
}

async fn run(cluster: &Cluster, view: &str) -> i64 {
    let version = cluster.start_batch_run_as(view, true).await.unwrap().unwrap().unwrap();
    let answered = async {
        loop {
            let answer = cluster.views.clone().get_top_rows(all(view, Consistency::Fresh)).await;
            if answer.is_ok_and(|answer| answer.into_inner().provenance.unwrap().version == version) {
                return version;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), answered).await.expect("the new version never answers")
}

/// Texts of the key's columns, and the count.
fn cells(rows: Vec<Row>) -> Vec<String> {
    let cell = |kind: Option<Kind>| match kind {
        Some(Kind::StringValue(text)) => text,
        Some(Kind::IntValue(count)) => count.to_string(),
        other => format!("{other:?}"),
    };
    rows.into_iter().map(|row| row.values.into_iter().map(|value| cell(value.kind)).collect::<Vec<_>>().join(" ")).collect()
}

/// All rows of a view, those with most events first.
fn all(view: &str, consistency: Consistency) -> GetTopRowsRequest {
    let (view, measure) = (view.to_owned(), "event_count".to_owned());
    GetTopRowsRequest { view, measure, limit: 9, consistency: consistency.into(), ..GetTopRowsRequest::default() }
}

async fn all_rows(cluster: &Cluster, view: &str, consistency: Consistency) -> Vec<String> {
    cells(cluster.views.clone().get_top_rows(all(view, consistency)).await.unwrap().into_inner().rows)
}

async fn rows_of(cluster: &Cluster, user: &str) -> Vec<String> {
    let question = GetViewRowsRequest { view: "user_types".to_owned(), key: user.to_owned(), ..GetViewRowsRequest::default() };
    cells(cluster.views.clone().get_view_rows(question).await.unwrap().into_inner().rows)
}

async fn count_of(cluster: &Cluster, user: &str, consistency: Consistency, version: i64) -> Result<i64, Status> {
    let question = GetUserStatsRequest { user_id: user.to_owned(), consistency: consistency.into(), version, ..Default::default() };
    let answer = cluster.stats.clone().get_user_stats(question).await?.into_inner();
    let (stats, provenance) = (answer.stats.unwrap(), answer.provenance.unwrap());
    assert_eq!(stats.event_count, provenance.batch_event_count + provenance.speed_event_count);
    assert_eq!(stats.found, stats.event_count > 0);
    Ok(stats.event_count)
}

/// Proves that views by user, however they are asked, have nothing of an erased user from the answer of the erasure on, that other
/// views have nothing after the next run, that what comes afterwards counts though its ids were there before, that versions which
/// hold what is erased are neither shown nor taken back, and that receipts say how far it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn gone_from_every_answer() {
    let cluster = Cluster::start(true, |config| config.log.partitions = 3).await.unwrap();
    std::fs::create_dir_all(cluster.folder().join("views")).unwrap();
    for (view, sql) in [("user_types", USER_TYPES), ("types", TYPES)] {
        std::fs::write(cluster.folder().join(format!("views/{view}.sql")), sql).unwrap();
    }
    append(&cluster, 0..4, &["ann", "anna", "bob"]).await;
    for view in ["user_stats", "user_types", "types"] {
        assert_eq!(run(&cluster, view).await, 1);
    }
    append(&cluster, 4..6, &["ann", "anna", "bob"]).await;
    assert_eq!(all_rows(&cluster, "types", Consistency::Fresh).await, ["return 9", "sale 9"]);
    assert_eq!(count_of(&cluster, "ann", Consistency::Fresh, 0).await.unwrap(), 6);

    let erased = erase(&cluster.store(), &cluster.speed_url(), &cluster.tls(), &ClientConfig::default(), "ann").await.unwrap();
    let names = |views: &[storage::paths::ViewName]| views.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    assert_eq!((names(&erased.at_once), names(&erased.waiting)), ("user_stats user_types".into(), "types user_stats user_types".into()));
    let said = erased.to_string();
    assert!(said.contains("other views: types\n") && said.contains("by user: user_stats, user_types\n"), "{said}");

    // At once.
    let others = ["anna return 3", "anna sale 3", "bob return 3", "bob sale 3"];
    assert_eq!(count_of(&cluster, "ann", Consistency::Fresh, 0).await.unwrap(), 0);
    assert_eq!(count_of(&cluster, "anna", Consistency::Fresh, 0).await.unwrap(), 6);
    assert_eq!(all_rows(&cluster, "user_types", Consistency::Fresh).await, others);
    assert_eq!(rows_of(&cluster, "ann").await, Vec::<String>::new());
    assert_eq!(rows_of(&cluster, "anna").await, others[..2]);
    let batch = BatchGetUserStatsRequest { user_ids: ["bob", "ann"].map(str::to_owned).into(), ..Default::default() };
    let stats = cluster.stats.clone().batch_get_user_stats(batch).await.unwrap().into_inner().stats;
    assert_eq!(stats.iter().map(|stats| stats.event_count).collect::<Vec<_>>(), [6, 0]);
    let explained = GetUserStatsRequest { user_id: "ann".to_owned(), explain: true, ..Default::default() };
    let explanation = cluster.stats.clone().get_user_stats(explained).await.unwrap().into_inner().explanation.unwrap();
    let at = explanation.erased.unwrap();
    assert_eq!((at.partition, at.offset), (erased.receipt.partition as i32, erased.receipt.offset));
    assert_eq!((explanation.batch.unwrap().event_count, explanation.batch_row_count), (0, 1));
    let batch_only = async {
        while count_of(&cluster, "ann", Consistency::BatchOnly, 0).await.unwrap() > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        all_rows(&cluster, "user_types", Consistency::BatchOnly).await
    };
    let batch_only = tokio::time::timeout(std::time::Duration::from_secs(30), batch_only).await.expect("the batch half still has them");
    assert_eq!(batch_only, ["anna return 2", "anna sale 2", "bob return 2", "bob sale 2"]);
    assert_eq!(all_rows(&cluster, "types", Consistency::Fresh).await, ["return 9", "sale 9"], "by other keys after the next run");

    // Afterwards.
    append(&cluster, 0..1, &["ann"]).await;
    assert_eq!(count_of(&cluster, "ann", Consistency::Fresh, 0).await.unwrap(), 1);
    for view in ["user_stats", "user_types", "types"] {
        assert_eq!(run(&cluster, view).await, 2);
    }
    assert_eq!(all_rows(&cluster, "types", Consistency::Fresh).await, ["sale 7", "return 6"]);
    assert_eq!(all_rows(&cluster, "user_types", Consistency::Fresh).await, [&others[..], &["ann sale 1"]].concat());
    assert_eq!(count_of(&cluster, "ann", Consistency::BatchOnly, 0).await.unwrap(), 1);
    for consistency in [Consistency::Fresh, Consistency::BatchOnly] {
        for user in ["ann", "bob"] {
            let refused = count_of(&cluster, user, consistency, 1).await.unwrap_err();
            let reason = refused.get_details_error_info().unwrap().reason;
            assert_eq!((refused.code(), reason.as_str()), (Code::FailedPrecondition, "VERSION_ERASED"), "{refused:?}");
        }
    }
    assert_eq!(count_of(&cluster, "ann", Consistency::BatchOnly, 2).await.unwrap(), 1);
    let refused = format!("{:#}", cluster.rollback("types", 1).await.unwrap_err());
    assert!(refused.contains("version 1 of types was computed before 1 erasure that version 2 has carried out"), "{refused}");

    let listed = erasures(&cluster.store()).await.unwrap();
    let [one] = &listed[..] else { panic!("{listed:?}") };
    assert!(one.waiting.is_empty() && one.receipt.carried_out.values().eq(&[2, 2, 2]), "{one:?}");
    assert!(table(&listed).ends_with("types v2, user_stats v2, user_types v2  -"), "{}", table(&listed));
    cluster.stop().await.unwrap();
}

/// Proves that an answer which is counted again from the raw events is the one that the serving layer gives, in both of its halves, before
/// and after its user was erased.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn counted_again() {
    let cluster = Cluster::start(true, |config| config.log.partitions = 3).await.unwrap();
    let options = RunOptions::from_config(&Config::default(), ViewName::user_stats());
    let options = RunOptions { speed_layer: Some(cluster.speed_url()), ..options };
    // The version, raw events, the speed layer, raw events, both, raw events.
    let counts = async |user: &str| {
        let recount = batch_layer::recount(&options, &cluster.store(), user, Arc::new(Silent)).await.unwrap().unwrap();
        recount.verdict().unwrap();
        recount.table[1..].iter().map(|row| row[3].clone()).collect::<Vec<_>>()
    };
    append(&cluster, 0..4, &["ann", "bob"]).await;
    run(&cluster, "user_stats").await;
    append(&cluster, 4..6, &["ann", "bob"]).await;
    for user in ["ann", "bob"] {
        assert_eq!(counts(user).await, ["4", "4", "2", "2", "6", "6"]);
        assert_eq!(count_of(&cluster, user, Consistency::Fresh, 0).await.unwrap(), 6);
    }
    erase(&cluster.store(), &cluster.speed_url(), &cluster.tls(), &ClientConfig::default(), "ann").await.unwrap();
    append(&cluster, 5..6, &["ann"]).await;
    assert_eq!(counts("ann").await, ["-", "-", "1", "1", "1", "1"]);
    assert_eq!(count_of(&cluster, "ann", Consistency::Fresh, 0).await.unwrap(), 1);
    run(&cluster, "user_stats").await;
    assert_eq!(counts("ann").await, ["1", "1", "-", "-", "1", "1"]);
    assert_eq!(counts("bob").await, ["6", "6", "-", "-", "6", "6"]);
    cluster.stop().await.unwrap();
}
