//! What is erased counts nowhere: not in a run over all events, not in one that builds upon another, imported or not, nor for identity.

use storage::erasures::Erasures;

use super::fake_speed_layer::FakeSpeedLayer;
use super::incremental::{VIEWS, declare, more_events};
use super::*;
use crate::erase::erasures;
use crate::{Depth, rollback, verify};

async fn over(master: &Master) -> RunOptions {
    RunOptions { speed_layer: Some(FakeSpeedLayer::of(master).serve().await), ..master.options() }
}

/// What is left when each erasure takes with it what its user did before.
fn left(events: &[Event]) -> Vec<Event> {
    let mut left: Vec<Event> = Vec::new();
    for event in events {
        match is_erasure(event) {
            true => left.retain(|earlier| earlier.user_id != event.user_id),
            false => left.push(event.clone()),
        }
    }
    left
}

/// Proves that an erasure hides events of the log and imports of before and after, that an identity sent again is a new event, that
/// the keys are audited apart, that a run over a new erasure reads all events and says why, and that receipts are kept.
#[tokio::test]
async fn hidden_and_back_again() {
    let before = [event("user-1", "a", 1, 100), event("user-1", "b", 1, 10), event("user-2", "a", 2, 7), event("user-1", "a", 1, 100)];
    let mut master = Master::with(&before).await;
    let history = [event("user-1", "old", 0, 1000), event("user-3", "old", 0, 3)];
    master.import(&history).await;
    master.publish(&over(&master).await).await;
    assert_eq!(master.answers().await, oracle(&[&history[..], &before].concat()));

    let since = [erasure("user-1"), event("user-1", "a", 1, 5), event("user-1", "a", 1, 5), event("user-2", "b", 2, 1)];
    master.append(&since).await;
    let second = master.publish(&RunOptions { incremental: true, ..over(&master).await }).await;
    assert_eq!((second.built_upon, second.recompute_reason.as_deref()), (None, Some("a user was erased")));
    assert_eq!((second.rows_read, second.erased_count, second.late_duplicate_count, second.event_count), (9, 4, 1, 4));
    assert_eq!((second.audit_kind.as_str(), second.refolded_keys.as_slice()), ("speed layer", &["user-1".to_owned()][..]));
    assert!(second.to_string().contains("erased      4 events"), "{second}");
    let mut all = left(&[&history[..], &before, &since].concat());
    assert_eq!(master.answers().await, oracle(&all));
    let listed = erasures(&master.store).await.unwrap();
    let [one] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!((one.receipt.user_id.as_str(), one.receipt.carried_out.get("user_stats")), ("user-1", Some(&2)));
    assert!(one.waiting.is_empty() && one.at_once == [view()], "{one:?}");

    // Imported later, and hidden all the same; what is built upon that knows which identities are gone, and which came back.
    master.import(&[event("user-1", "older", 0, 2000), event("user-4", "old", 0, 4)]).await;
    let third = master.publish(&RunOptions { incremental: true, ..over(&master).await }).await;
    assert_eq!((third.recompute_reason.as_deref(), third.erased_count, third.event_count), (Some("imports came"), 5, 5));
    let again = [event("user-1", "b", 1, 10), event("user-1", "older", 0, 2000), event("user-1", "a", 1, 5), event("user-4", "old", 0, 4)];
    master.append(&again).await;
    let fourth = master.publish(&RunOptions { incremental: true, ..over(&master).await }).await;
    assert_eq!((fourth.built_upon, fourth.late_duplicate_count, fourth.event_count), (Some(3), 2, 7));
    all.extend([event("user-4", "old", 0, 4)].into_iter().chain(again));
    assert_eq!(master.answers().await, oracle(&all));
    for version in [2, 3, 4] {
        verify(&master.options(), &master.store, Some(version), Depth::Recompute { first: None }, Arc::new(Silent)).await.unwrap();
    }

    // What was computed before may hold it.
    for refused in [
        rollback(&master.options(), &master.store, 1).await.unwrap_err(),
        verify(&master.options(), &master.store, Some(1), Depth::Recompute { first: None }, Arc::new(Silent)).await.unwrap_err(),
    ] {
        assert!(matches!(refused, RunError::ErasedSince { version: 1, erasures: 1, newest: 4, .. }), "{refused}");
    }
    rollback(&master.options(), &master.store, 2).await.unwrap();
}

/// Proves that a segment of erasures alone is covered as any other, that a version of nobody is one, and that a user who was never
/// there can be erased.
#[tokio::test]
async fn erasures_alone() {
    let mut master = Master::with(&[erasure("user-1"), erasure("user-1")]).await;
    let report = master.publish(&over(&master).await).await;
    assert_eq!((report.rows_read, report.event_count, report.boundary.iter().sum::<i64>()), (0, 0, 2));
    master.append(&[event("user-1", "a", 0, 1)]).await;
    let second = master.publish(&RunOptions { incremental: true, ..over(&master).await }).await;
    assert_eq!((second.built_upon, second.event_count), (Some(1), 1));
    master.append(&[erasure("user-1")]).await;
    let third = master.publish(&over(&master).await).await;
    assert_eq!((third.event_count, third.erased_count, third.state_rows), (0, 1, 0));
    assert!(matches!(master.run(&over(&master).await).await.unwrap(), RunOutcome::NothingToDo(_)));
}

/// Proves that a user who is erased after the cut is in the version, though the speed layer has nothing of them any more, and that one
/// who is not erased and whom it has lost stops the publish.
#[tokio::test]
async fn erased_after_the_cut() {
    for incremental in [false, true] {
        let mut master = Master::with(&[event("user-1", "a", 1, 100), event("user-2", "a", 1, 7)]).await;
        master.publish(&over(&master).await).await;
        let between = [event("user-1", "b", 1, 10), event("user-2", "b", 1, 1)];
        master.append(&between).await;
        let boundary = master.boundary();
        master.append(&[erasure("user-1")]).await;
        let speed = FakeSpeedLayer { boundary, ..FakeSpeedLayer::of(&master) };
        let options = RunOptions { incremental, ..master.options() };

        let mut lost = speed.clone();
        lost.log.as_mut().unwrap().iter_mut().flatten().filter(|e| e.user_id == "user-2").for_each(|e| e.amount = Some(0));
        let refused = master.run(&RunOptions { speed_layer: Some(lost.serve().await), ..options.clone() }).await.unwrap_err();
        let RunError::Audit { differences, .. } = refused else { panic!("{refused}") };
        assert_eq!(differences.named.iter().map(|d| d.key.as_str()).collect::<Vec<_>>(), ["user-2"]);

        let report = master.publish(&RunOptions { speed_layer: Some(speed.serve().await), ..options }).await;
        assert_eq!((report.built_upon.is_some(), report.event_count, report.erased_count), (incremental, 4, 0));
        assert_eq!((report.audit_kind.as_str(), report.keys_refolded), ("speed layer", 1));
        let next = master.publish(&over(&master).await).await;
        assert_eq!((next.event_count, next.erased_count), (2, 2));
    }
}

/// Proves that whatever is erased, sent again and imported, by whatever key, a version that was built upon another is the one that all
/// events give, that both are what a second fold says, and that users' figures are the oracle's.
#[tokio::test]
async fn random_erasures() {
    let folder = tempfile::tempdir().unwrap();
    for (number, declared) in VIEWS.into_iter().enumerate() {
        let mut random = StdRng::seed_from_u64(600 + number as u64);
        let mut master = Master::new(schema());
        let (mut all, mut imported) = (Vec::new(), Vec::new());
        for round in 0..6 {
            let mut more = more_events(&mut random, &all, 60);
            for _ in 0..random.random_range(0..3) * (round % 2) {
                let user = format!("user-{}", random.random_range(0..12));
                more.insert(random.random_range(0..=more.len()), erasure(&user));
            }
            if round == 3 {
                imported = random_events(900 + number as u64, 40);
                imported.iter_mut().for_each(|event| event.event_id += "-imported");
                master.import(&imported).await;
            }
            master.append_time_us = 5 * DAY_US + round;
            master.append(&more).await;
            all.extend(more);
            let url = FakeSpeedLayer { sql: declared.1, ..FakeSpeedLayer::of(&master) }.serve().await;
            let options = RunOptions { speed_layer: Some(url), ..declare(&folder, &master, declared) };
            let report = master.publish(&options).await;
            assert_eq!(report.audit_kind, if round == 0 { "second fold" } else { "speed layer" }, "{declared:?}: {report:?}");
            let whole = master.publish(&RunOptions { incremental: false, force: true, ..options.clone() }).await;
            assert_eq!((report.digest, report.event_count), (whole.digest, whole.event_count), "{declared:?}, round {round}");
            verify(&options, &master.store, None, Depth::Recompute { first: None }, Arc::new(Silent)).await.unwrap();
            if declared.0 == "user_stats" {
                let events: Vec<_> = imported.iter().chain(&all).cloned().collect();
                assert_eq!(master.answers().await, oracle(&left(&events)), "round {round}");
            }
        }
        assert!(Erasures::list(&master.store).await.unwrap().iter().count() > 0, "nobody was erased");
    }
}
