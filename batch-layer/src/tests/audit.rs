use storage::store::StoreError;

use super::fake_speed_layer::FakeSpeedLayer;
use super::*;
use crate::dedup::EXAMPLES;

/// Version 1 is published over one half of random events, and the other half is archived.
async fn half_published(seed: u64) -> (Master, Vec<Event>) {
    let events = random_events(seed, 400);
    let mut master = Master::with(&events[..200]).await;
    let url = FakeSpeedLayer::of(&master).serve().await;
    let report = master.publish(&RunOptions { speed_layer: Some(url), ..master.options() }).await;
    assert_eq!((report.audit_kind.as_str(), report.audit_fallback.as_deref()), ("second fold", Some("first version")));
    master.append(&events[200..]).await;
    (master, events)
}

/// Proves that the next version is compared with the speed layer for every key, except those that it counted a late duplicate for,
/// which are listed.
#[tokio::test]
async fn passes_against_an_honest_speed_layer() {
    let (master, events) = half_published(11).await;
    let url = FakeSpeedLayer::of(&master).serve().await;
    let report = master.publish(&RunOptions { speed_layer: Some(url), ..master.options() }).await;
    assert_eq!((report.version, report.audit_kind.as_str(), report.log_id.as_str()), (2, "speed layer", "log-1"));

    let mut seen: BTreeSet<_> = events[..200].iter().map(|e| (&e.user_id, &e.event_id)).collect();
    let touched: BTreeSet<_> =
        events[200..].iter().filter(|e| !seen.insert((&e.user_id, &e.event_id))).map(|e| e.user_id.clone()).collect();
    let keys: BTreeSet<_> = events.iter().map(|e| &e.user_id).collect();
    assert!(!touched.is_empty());
    assert_eq!(report.refolded_keys, touched.iter().cloned().collect::<Vec<_>>());
    assert_eq!((report.keys_refolded, report.keys_compared), (touched.len() as i64, (keys.len() - touched.len()) as i64));
    assert_eq!(master.answers().await, oracle(&events));
    let audit = master.latest().await.unwrap().audit.unwrap();
    assert_eq!((audit.keys_compared, audit.keys_refolded), (report.keys_compared, report.keys_refolded));
}

/// Proves that late duplicates are told from differences however many there were before: more than a report gives as examples.
#[tokio::test]
async fn many_late_duplicates() {
    let once: Vec<_> = (0..EXAMPLES + 20).map(|number| event("user-1", &format!("e{number:04}"), 0, 1)).collect();
    let mut master = Master::with(&once).await;
    master.append(&once).await;
    let last = event("user-1", "later", 0, 7);
    master.append(std::slice::from_ref(&last)).await;
    let url = FakeSpeedLayer::of(&master).serve().await;
    master.publish(&RunOptions { speed_layer: Some(url), ..master.options() }).await;

    master.append(&[last, event("user-1", "new", 0, 5)]).await;
    let url = FakeSpeedLayer::of(&master).serve().await;
    let report = master.publish(&RunOptions { speed_layer: Some(url), ..master.options() }).await;
    assert_eq!((report.version, report.late_duplicate_count), (2, EXAMPLES as i64 + 21));
    assert_eq!((report.audit_kind.as_str(), report.audit_fallback.as_deref()), ("speed layer", None));
    assert_eq!(report.refolded_keys, ["user-1"]);
}

/// Proves that a speed layer that folded one event otherwise, missed a key, or has one too many stops the publish and names the key.
#[tokio::test]
async fn a_difference_refuses_and_names_the_key() {
    let (mut master, _) = half_published(12).await;
    master.append(&[event("user-watched", "w1", 2, 500), event("user-watched", "w2", 2, 1)]).await;
    let partition = shard_of("user-watched", PARTITIONS) as usize;
    let last = master.log[partition].len() - 1;

    type Tamper = fn(&mut Event);
    let tampers: [(Tamper, &str); 3] = [
        (|e| e.amount = Some(501), "user-watched"),
        (|e| e.event_time_us += DAY_US, "user-watched"),
        (|e| e.user_id = "user-ghost".into(), "user-ghost"),
    ];
    for (tamper, key) in tampers {
        let mut fake = FakeSpeedLayer::of(&master);
        tamper(&mut fake.log.as_mut().unwrap()[partition][last]);
        let url = fake.serve().await;
        let error = master.run(&RunOptions { speed_layer: Some(url), ..master.options() }).await.unwrap_err();
        assert_eq!(error.exit_code(), 1);
        let RunError::Audit { differences, .. } = &error else { panic!("{error}") };
        assert!(differences.named.iter().any(|d| d.key == key) && error.to_string().contains(key), "{error}");
        assert_eq!(master.latest().await.unwrap().version, 1);
    }
}

/// Proves that a speed layer which no longer holds the range, and a version before whose files are damaged, lead to the second
/// fold, with the reason in the report.
#[tokio::test]
async fn falls_back_to_the_second_fold() {
    let (mut master, _) = half_published(13).await;
    let url = FakeSpeedLayer { log: None, ..FakeSpeedLayer::of(&master) }.serve().await;
    let report = master.publish(&RunOptions { speed_layer: Some(url), ..master.options() }).await;
    assert_eq!(report.audit_kind, "second fold");
    assert!(report.audit_fallback.unwrap().contains("the range is retired"));
    assert!(report.keys_compared > 0 && report.keys_refolded == 0);

    let damaged = master.latest().await.unwrap().files[0].path.clone();
    master.store.delete(&damaged.as_str().into()).await.unwrap();
    master.append(&[event("user-1", "new", 0, 1)]).await;
    let url = FakeSpeedLayer::of(&master).serve().await;
    let report = master.publish(&RunOptions { speed_layer: Some(url), ..master.options() }).await;
    assert!(report.audit_fallback.unwrap().contains(&damaged));
}

/// Proves that a segment missing below the cut is named, that another log and a cut behind the version before are refused, and that
/// a speed layer that is not there is a dependency to try again, with a word about how to do without.
#[tokio::test]
async fn cuts_that_cannot_be() {
    let (master, _) = half_published(14).await;
    let run = async |fake: FakeSpeedLayer| {
        let options = RunOptions { speed_layer: Some(fake.serve().await), ..master.options() };
        master.run(&options).await.unwrap_err()
    };
    let honest = || FakeSpeedLayer::of(&master);

    let mut ahead = honest();
    ahead.boundary[1] += 5;
    let end = master.boundary()[1];
    let error = run(ahead).await;
    assert!(
        matches!(error, RunError::Store(StoreError::Gap { partition: 1, start, end: e, .. }) if start == end && e == end + 5),
        "{error}"
    );
    assert_eq!(error.exit_code(), 1);

    let error = run(FakeSpeedLayer { log_id: "log-2".into(), ..honest() }).await;
    assert!(matches!(error, RunError::OtherLog { version: 1, .. }) && error.exit_code() == 1, "{error}");
    let mut behind = honest();
    behind.boundary[0] = 0;
    let error = run(behind).await;
    assert!(matches!(error, RunError::BoundaryBack { version: 1, .. }) && error.exit_code() == 1, "{error}");

    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = master.run(&RunOptions { speed_layer: Some(format!("http://{closed}")), ..master.options() }).await.unwrap_err();
    assert_eq!(error.exit_code(), 4);
    assert!(error.to_string().contains("--no-speed-layer"), "{error}");
    assert_eq!(master.latest().await.unwrap().version, 1);
}
