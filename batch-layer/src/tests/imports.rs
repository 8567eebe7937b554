//! Runs over history that did not come through the log.

use super::fake_speed_layer::FakeSpeedLayer;
use super::*;

async fn over(master: &Master) -> RunOptions {
    RunOptions { speed_layer: Some(FakeSpeedLayer::of(master).serve().await), ..master.options() }
}

/// Proves that a run covers what was imported since, that an event that is both imported and live counts once and as it was imported,
/// that such keys are the only ones left out of the comparison with the speed layer, and that the manifest says what is covered.
#[tokio::test]
async fn imported_and_live() {
    let live = [event("user-1", "both", 1, 100), event("user-1", "live", 1, 10), event("user-2", "live", 2, 7)];
    let mut master = Master::with(&live).await;
    let first = master.publish(&over(&master).await).await;
    assert_eq!((first.imports.as_slice(), first.event_count), (&[][..], 3));

    // One of the same content, one of another, one of a user that nobody else has, and one that comes live only later.
    let history = [
        event("user-1", "both", 1, 100),
        event("user-2", "live", 2, 8),
        event("user-3", "old", 0, 5),
        event("user-4", "later", 0, 3),
        event("user-3", "old", 0, 5),
    ];
    master.import(&history).await;
    master.append(&[event("user-4", "later", 0, 3), event("user-5", "new", 3, 1)]).await;
    let second = master.publish(&RunOptions { incremental: true, ..over(&master).await }).await;
    assert_eq!((second.built_upon, second.recompute_reason.as_deref()), (None, Some("imports came")));
    assert_eq!((second.audit_kind.as_str(), second.imports.as_slice(), second.rows_read), ("speed layer", &[1][..], 10));
    assert_eq!((second.late_duplicate_count, second.conflict_count, second.event_count), (3, 1, 6));
    assert_eq!(second.refolded_keys, ["user-1", "user-2", "user-3", "user-4"]);
    assert!(second.late_duplicates.iter().all(|removed| storage::imports::import_of(removed.kept_offset) == Some(1)));
    let all: Vec<_> = history.iter().chain(&live).cloned().chain([event("user-5", "new", 3, 1)]).collect();
    assert_eq!(master.answers().await, oracle(&all));
    assert_eq!(master.latest().await.unwrap().imports, [1]);
    assert!(matches!(master.run(&over(&master).await).await.unwrap(), RunOutcome::NothingToDo(_)));

    // What is built upon it knows the imported identities too.
    master.append(&[event("user-3", "old", 0, 5), event("user-6", "new", 3, 2)]).await;
    let third = master.publish(&RunOptions { incremental: true, ..over(&master).await }).await;
    assert_eq!((third.built_upon, third.late_duplicate_count, third.event_count), (Some(2), 1, 7));
    assert_eq!(third.refolded_keys, ["user-3"]);
    let all: Vec<_> = all.into_iter().chain([event("user-6", "new", 3, 2)]).collect();
    assert_eq!(master.answers().await, oracle(&all));
}

/// Proves that history alone can be published, before there is a log, and that a version whose import is gone is no ground to build on.
#[tokio::test]
async fn before_the_log() {
    let mut master = Master::new(schema());
    let history = random_events(9, 300);
    master.import(&history).await;
    let first = master.publish(&master.options()).await;
    assert_eq!((first.boundary.as_slice(), first.rows_read), (&[0, 0, 0][..], 300));
    assert_eq!(master.answers().await, oracle(&history));
    let crate::Verified { keys_compared, .. } =
        crate::verify(&master.options(), &master.store, None, crate::Depth::Recompute { first: None }, Arc::new(Silent))
            .await
            .unwrap()
            .unwrap();
    assert!(keys_compared > 0);

    let live = random_events(10, 200);
    master.append(&live).await;
    master.publish(&over(&master).await).await;
    let all: Vec<_> = history.into_iter().chain(live).collect();
    assert_eq!(master.answers().await, oracle(&all));

    for object in ["claim.json", "import.json"] {
        master.store.delete(&format!("master/imports/{:020}/{object}", 1).into()).await.unwrap();
    }
    master.append(&[event("user-1", "more", 1, 1)]).await;
    let refused = master.run(&over(&master).await).await.unwrap_err();
    assert!(matches!(refused, RunError::ImportGone { import: 1 }), "{refused}");
}
