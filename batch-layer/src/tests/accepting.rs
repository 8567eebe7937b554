//! `run --accept-difference`: what a person has judged is published, and nothing else.

use super::fake_speed_layer::FakeSpeedLayer;
use super::*;
use crate::{Depth, verify, versions};

/// Version 1 was made by a fold with a bug: it has one of the watched user's amounts wrong. What came since is archived.
async fn scene() -> (Master, Vec<Event>) {
    let events: Vec<_> = random_events(31, 300).into_iter().chain([event("user-watched", "w1", 1, 500)]).collect();
    let later = random_events(32, 100).into_iter().map(|event| Event { event_id: format!("later-{}", event.event_id), ..event });
    let later: Vec<_> = later.chain([event("user-watched", "w2", 2, 7)]).collect();
    let mut wrong = events.clone();
    wrong.last_mut().unwrap().amount = Some(600);
    let buggy = Master::with(&wrong).await;
    buggy.publish(&against(FakeSpeedLayer::of(&buggy), &buggy).await).await;
    let mut master = Master::with(&events).await;
    for object in buggy.store.list(&"views".into()).await.unwrap() {
        master.store.put_durable(&object.location, buggy.store.get(&object.location).await.unwrap()).await.unwrap();
    }
    master.append(&later).await;
    (master, events.into_iter().chain(later).collect())
}

async fn against(speed: FakeSpeedLayer, master: &Master) -> RunOptions {
    RunOptions { speed_layer: Some(speed.serve().await), ..master.options() }
}

/// The id of a run that found a difference, and how many keys differ.
async fn found(master: &Master, speed: FakeSpeedLayer) -> (String, i64) {
    match master.run(&against(speed, master).await).await {
        Err(RunError::Audit { run_id, differences, .. }) => (run_id, differences.keys),
        other => panic!("{other:?}"),
    }
}

async fn accept(master: &Master, speed: FakeSpeedLayer, run_id: &str) -> Result<RunOutcome, RunError> {
    let options = against(speed, master).await;
    master.run(&RunOptions { accept_difference: Some(run_id.parse().unwrap()), ..options }).await
}

/// Proves that a judged difference is published over the range of the run that found it, whatever came since, that manifest, report and
/// list of versions say so, that the version is what its raw events make, and that the next runs of both kinds go on from it.
#[tokio::test]
async fn what_was_judged() {
    let (mut master, mut events) = scene().await;
    let (run_id, keys) = found(&master, FakeSpeedLayer::of(&master)).await;
    assert_eq!((keys, master.latest().await.unwrap().version), (1, 1));
    let boundary = master.boundary();
    let since = [event("user-watched", "w3", 2, 9), event("user-new", "n", 0, 1)];
    master.append(&since).await;

    let RunOutcome::Published(report) = accept(&master, FakeSpeedLayer::of(&master), &run_id).await.unwrap() else { panic!("nothing") };
    let manifest = master.latest().await.unwrap();
    let accepted = manifest.accepted_difference.clone().unwrap();
    assert_eq!((accepted.run_id.as_str(), accepted.keys, manifest.format_version), (run_id.as_str(), 1, 5));
    assert_eq!((manifest.version, &manifest.boundary, report.accepted_difference.as_ref()), (2, &boundary, Some(&accepted)));
    assert!(report.to_string().contains(&run_id) && report.differences[0].key == "user-watched", "{report}");
    assert_eq!(master.answers().await, oracle(&events));
    let listed = versions::list(&master.store, &view()).await.unwrap();
    let table = versions::table(&listed, chrono::DateTime::UNIX_EPOCH);
    assert!(table.lines().nth(1).unwrap().contains(&run_id) && !table.lines().nth(2).unwrap().contains(&run_id), "{table}");
    let depth = Depth::Recompute { first: None };
    assert!(verify(&master.options(), &master.store, Some(2), depth, Arc::new(Silent)).await.unwrap().unwrap().keys_compared > 1);

    events.extend(since);
    for incremental in [true, false] {
        master.append(&[event("user-watched", &format!("then-{incremental}"), 3, 2)]).await;
        events.push(event("user-watched", &format!("then-{incremental}"), 3, 2));
        let options = RunOptions { incremental, ..against(FakeSpeedLayer::of(&master), &master).await };
        let report = master.publish(&options).await;
        assert_eq!((report.audit_kind.as_str(), report.built_upon.is_some(), report.differing_keys), ("speed layer", incremental, 0));
        assert_eq!((master.answers().await, master.latest().await.unwrap().accepted_difference), (oracle(&events), None));
    }
    // Its difference is published, so it is there no more.
    let again = accept(&master, FakeSpeedLayer::of(&master), &run_id).await.unwrap_err();
    assert!(matches!(&again, RunError::OtherDifference { reason, .. } if reason.contains("version 1")), "{again}");
}

/// Proves that another difference is refused as one that nobody has judged: other values of the same key, another key, none at all, one
/// against something else, and any under another definition.
#[tokio::test]
async fn what_was_not_judged() {
    let (master, _) = scene().await;
    let (run_id, _) = found(&master, FakeSpeedLayer::of(&master)).await;
    let refused = async |speed: FakeSpeedLayer, why: &str| {
        let error = accept(&master, speed, &run_id).await.unwrap_err();
        assert!(matches!(&error, RunError::OtherDifference { judged, reason } if *judged == run_id && reason.contains(why)), "{error}");
        assert_eq!((error.exit_code(), master.latest().await.unwrap().version), (1, 1));
    };
    let place = |user: &str| shard_of(user, PARTITIONS) as usize;
    let mut lying = FakeSpeedLayer::of(&master);
    lying.log.as_mut().unwrap()[place("user-watched")].last_mut().unwrap().amount = Some(8);
    refused(lying, "in 1 keys too, with other values").await;
    let mut lying = FakeSpeedLayer::of(&master);
    lying.log.as_mut().unwrap()[place("user-watched")].last_mut().unwrap().user_id = "user-ghost".to_owned();
    refused(lying, "this run finds one in 2").await;
    refused(FakeSpeedLayer { log: None, ..FakeSpeedLayer::of(&master) }, "second fold").await;

    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("user_stats.sql"), "SELECT user_id, count(*) AS event_count FROM events GROUP BY user_id").unwrap();
    let options = RunOptions { views_dir: folder.path().to_owned(), ..against(FakeSpeedLayer::of(&master), &master).await };
    let error = master.run(&RunOptions { accept_difference: Some(run_id.parse().unwrap()), ..options }).await.unwrap_err();
    assert!(matches!(&error, RunError::OtherDifference { reason, .. } if reason.contains("definition")), "{error}");

    // A speed layer with the same bug as version 1 had: it agrees with nothing that was judged.
    let honest = Master::with(&random_events(31, 300)).await;
    honest.publish(&honest.options()).await;
    let none = accept(&honest, FakeSpeedLayer::of(&honest), &run_id).await.unwrap_err();
    assert!(matches!(none, RunError::NoJudgedRun { .. }) && none.exit_code() == 2, "{none}");
}

/// Proves that a run that is not there, one of another view, and one that did not fail by an audit are matters of configuration.
#[tokio::test]
async fn no_such_run() {
    let (master, _) = scene().await;
    let (run_id, _) = found(&master, FakeSpeedLayer::of(&master)).await;
    for wrong in ["20260101T000000000Z-00000000", "x"] {
        let error = accept(&master, FakeSpeedLayer::of(&master), wrong).await.unwrap_err();
        assert!(matches!(&error, RunError::NoJudgedRun { .. }) && error.exit_code() == 2, "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("other.sql"), "SELECT user_id, count(*) AS n FROM events GROUP BY user_id").unwrap();
    let other = RunOptions { view: "other".parse().unwrap(), views_dir: folder.path().to_owned(), ..master.options() };
    let error = master.run(&RunOptions { accept_difference: Some(run_id.parse().unwrap()), ..other.clone() }).await.unwrap_err();
    assert!(matches!(&error, RunError::NoJudgedRun { .. }) && error.exit_code() == 2, "{error}");
    let views = [other.view.clone(), view()];
    assert_eq!(crate::view_of_run(&master.store, &views, &run_id.parse().unwrap()).await.unwrap(), view());

    let published = master.publish(&other).await.run_id;
    let error = master.run(&RunOptions { accept_difference: Some(published.parse().unwrap()), ..other }).await.unwrap_err();
    assert!(matches!(&error, RunError::NothingJudged { outcome, .. } if outcome == "published") && error.exit_code() == 2, "{error}");
}
