//! Old segments, written again beneath runs that go on.

use std::time::SystemTime;

use storage::erasures::Erasures;
use storage::log::disk::{Disk, OsDisk};
use storage::machine::Machine;
use storage::master::{Layout, list_segments};
use storage::store::faulty::{Fault, FaultyStore};

use super::*;
use crate::compact::{CompactOptions, Compacted, compact_on};
use crate::expire::{ExpireOptions, expire_on};

/// A machine on which everything that is there is old.
#[derive(Debug)]
pub(super) struct Later;

impl Machine for Later {
    fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(OsDisk)
    }

    fn now(&self) -> SystemTime {
        SystemTime::now() + Duration::from_secs(10 * 365 * 86_400)
    }

    fn random(&self) -> u128 {
        storage::machine::RealMachine.random()
    }
}

/// Merges any two adjacent segments, keeps nothing for anybody, and moves nothing.
pub(super) fn eager(master: &Master) -> CompactOptions {
    CompactOptions {
        run: RunOptions { view: ViewName::master_dataset(), grace: Duration::ZERO, ..master.options() },
        after: Duration::ZERO,
        target_bytes: 1 << 20,
        least_files: 2,
        cold_after: Duration::ZERO,
    }
}

async fn compact(master: &Master, options: &CompactOptions) -> Result<Compacted, RunError> {
    Box::pin(compact_on(&Later, options, &master.store)).await
}

/// A dataset of many small segments, with a version over the first half.
async fn many_segments(seed: u64, count: usize, store: Store) -> (Master, Vec<Event>) {
    let events = random_events(seed, count);
    let mut master = Master { store, ..Master::new(schema()) };
    for (number, some) in events.chunks(7).enumerate() {
        master.append_time_us += DAY_US;
        master.append(some).await;
        if number == count / 14 {
            master.publish(&master.options()).await;
        }
    }
    (master, events)
}

async fn digest_of_all(master: &Master) -> String {
    master.publish(&RunOptions { force: true, ..master.options() }).await.digest
}

/// Proves that after a compaction there are few files, that the old ones are gone, and that runs from all events and increments over a
/// boundary in the middle of a file end with the digest that they would have had.
#[tokio::test]
async fn the_same_digest() {
    let (master, events) = many_segments(31, 200, Store::open("memory://").unwrap()).await;
    let before = list_segments(&master.store).await.unwrap().len();
    let expected = {
        let (other, _) = many_segments(31, 200, Store::open("memory://").unwrap()).await;
        digest_of_all(&other).await
    };
    let done = compact(&master, &eager(&master)).await.unwrap();
    assert_eq!((done.before, done.after, done.removed, done.erased_rows), (before, 3, before, 0));
    assert_eq!(list_segments(&master.store).await.unwrap().len(), 3);
    let files = master.store.list(&storage::paths::events_folder()).await.unwrap();
    assert_eq!(files.len(), 3, "{files:?}");

    let increment = master.publish(&RunOptions { incremental: true, ..master.options() }).await;
    assert_eq!((increment.built_upon, &increment.digest), (Some(1), &expected));
    assert!(increment.rows_read < 200, "{increment:?}");
    assert_eq!(digest_of_all(&master).await, expected);
    assert_eq!(master.answers().await, oracle(&events));
    // What is large or alone is left alone.
    assert_eq!(compact(&master, &eager(&master)).await.unwrap(), Compacted::default());
}

/// Proves that a run which listed the segments before a compaction goes on with them as long as the grace period lasts.
#[tokio::test]
async fn files_stay_for_the_grace_period() {
    let (master, _) = many_segments(32, 60, Store::open("memory://").unwrap()).await;
    let listed = list_segments(&master.store).await.unwrap();
    let patient = |years: u64| CompactOptions {
        run: RunOptions { grace: Duration::from_secs(years * 365 * 86_400), ..eager(&master).run },
        ..eager(&master)
    };
    assert_eq!(compact(&master, &patient(11)).await.unwrap().removed, 0);
    for segment in &listed {
        storage::master::verify_segment(&master.store, segment).await.unwrap();
    }
    assert_eq!(compact(&master, &patient(9)).await.unwrap().removed, listed.len());
}

/// Proves that an attribute which was declared in between keeps segments apart, so that the older ones are still read from `_extra`.
#[tokio::test]
async fn other_columns() {
    let mut master = Master::new(EventSchema::default());
    for id in ["a", "b"] {
        master.append(&[event("user-1", id, 0, 1)]).await;
    }
    master.schema = schema();
    for id in ["c", "d"] {
        master.append(&[event("user-1", id, 0, 1)]).await;
    }
    let done = compact(&master, &eager(&master)).await.unwrap();
    assert_eq!((done.before, done.after), (4, 2));
    let folder = tempfile::tempdir().unwrap();
    let sql = "SELECT user_id, count(*) AS event_count, sum(quantity) AS pieces FROM events GROUP BY user_id";
    std::fs::write(folder.path().join("user_stats.sql"), sql).unwrap();
    master.publish(&RunOptions { views_dir: folder.path().to_owned(), ..master.options() }).await;
    assert_eq!(master.totals(sql, ["pieces"]).await, ["8"]);
}

/// Proves that what was erased leaves the files once every view covers the erasure and not before, whichever file it is in, that the
/// index goes too, and that what the user did afterwards stays.
#[tokio::test]
async fn erased_rows_go() {
    let (mut master, mut events) = many_segments(33, 100, Store::open("memory://").unwrap()).await;
    let user = events[3].user_id.clone();
    let history = [event(&user, "long-ago", 1, 7), event("user-x", "long-ago", 1, 8)];
    master.import(&history).await;
    let partition = shard_of(&user, PARTITIONS);
    master.append(&[erasure(&user), event(&user, "again", 4, 5)]).await;
    master.publish(&RunOptions { incremental: true, ..master.options() }).await;
    events.splice(0..0, history);
    // That one was computed from all events, for imports came; this one makes an index.
    let more = [event("user-x", "more", 4, 5)];
    master.append(&more).await;
    assert!(master.publish(&RunOptions { incremental: true, ..master.options() }).await.built_upon.is_some());
    events.extend(more);
    assert!(!master.store.list(&storage::paths::identities_folder()).await.unwrap().is_empty());

    // A view that does not cover it.
    let behind = Manifest {
        view: "behind".parse().unwrap(),
        version: 1,
        boundary: vec![0; 3],
        boundary_records: Vec::new(),
        ..master.latest().await.unwrap()
    };
    let manifests = Manifests::new(master.store.clone(), behind.view.clone());
    manifests.publish(&Manifest { parent: None, ..behind.clone() }.in_its_format()).await.unwrap();
    assert_eq!(compact(&master, &eager(&master)).await.unwrap().erased_rows, 0);
    master.store.delete(&behind.path()).await.unwrap();

    let gone = events.iter().filter(|event| event.user_id == user).count();
    let done = compact(&master, &eager(&master)).await.unwrap();
    assert_eq!((done.before, done.after, done.erased_rows), (2, 2, gone as i64));
    assert_eq!(Layout::newest(&master.store).await.unwrap().erased.len(), 1);
    assert!(master.store.list(&storage::paths::identities_folder()).await.unwrap().is_empty());
    let all = Erasures::list(&master.store).await.unwrap();
    for segment in list_segments(&master.store).await.unwrap() {
        assert_eq!(storage::master::hidden_rows(&master.store, &segment, &all).await.unwrap(), 0);
    }
    // Of the one file that had such rows the rest is there, and the one before it is not.
    let files = if shard_of("user-x", PARTITIONS) == partition { 1 } else { 2 };
    assert_eq!(master.store.list(&storage::paths::imports_folder()).await.unwrap().len(), 2 + files);
    let late = [event(&user, "even-longer-ago", 1, 9)];
    master.import(&late).await;
    master.publish(&master.options()).await;
    assert_eq!(compact(&master, &eager(&master)).await.unwrap().erased_rows, 1);
    assert_eq!(compact(&master, &eager(&master)).await.unwrap(), Compacted::default());
    events.retain(|event| event.user_id != user);
    events.push(event(&user, "again", 4, 5));
    digest_of_all(&master).await;
    assert_eq!(master.answers().await, oracle(&events));
}

/// Proves that old segments move to the cold store, that runs read them there, that one that is not there ends a run as something to
/// try again, and that nothing is lost.
#[tokio::test]
async fn the_cold_store() {
    let (mut master, events) = many_segments(34, 60, Store::open("memory://").unwrap()).await;
    let expected = digest_of_all(&master).await;
    let (hot, cold) = (master.store.clone(), FaultyStore::default());
    master.store = hot.with_cold(Store::from_object_store(Arc::new(cold.clone())));
    let done = compact(&master, &eager(&master)).await.unwrap();
    assert_eq!(done.moved, 3);
    assert!(hot.list(&storage::paths::events_folder()).await.unwrap().is_empty());
    assert_eq!(digest_of_all(&master).await, expected);

    let version = master.latest().await.unwrap().version;
    cold.plan(|_| Some(Fault::Before));
    assert_eq!(master.run(&RunOptions { force: true, ..master.options() }).await.unwrap_err().exit_code(), 4);
    cold.heal();
    for other in [hot.with_cold(Store::open("memory://").unwrap()), hot.clone()] {
        let other = Master { store: other, ..Master::new(schema()) };
        let error = other.run(&RunOptions { force: true, ..other.options() }).await.unwrap_err();
        assert!([2, 4].contains(&error.exit_code()), "{error}");
    }
    assert_eq!((master.latest().await.unwrap().version, master.answers().await), (version, oracle(&events)));

    // New events need nothing of what is cold.
    master.append(&[event("user-1", "new", 3, 1)]).await;
    let index = master.publish(&RunOptions { incremental: true, ..master.options() }).await;
    cold.plan(|_| Some(Fault::Before));
    master.append(&[event("user-1", "newer", 3, 1)]).await;
    let increment = master.publish(&RunOptions { incremental: true, ..master.options() }).await;
    assert_eq!(increment.built_upon, Some(index.version));

    // Nothing is mounted where files were moved to before.
    cold.heal();
    master.append(&[event("user-1", "newest", 3, 1)]).await;
    let unmounted = Store::open("memory://").unwrap();
    let store = std::mem::replace(&mut master.store, hot.with_cold(unmounted.clone()));
    let error = compact(&master, &eager(&master)).await.unwrap_err();
    assert!(error.exit_code() == 4 && unmounted.list(&storage::paths::events_folder()).await.unwrap().is_empty(), "{error}");
    master.store = store;
    assert!(compact(&master, &eager(&master)).await.unwrap().moved > 0);

    // Another log's.
    master.append(&[event("user-1", "last", 3, 1)]).await;
    let foreign = Store::open("memory://").unwrap();
    storage::master::claim(&foreign, "log-2").await.unwrap();
    master.store = hot.with_cold(foreign);
    assert!(matches!(compact(&master, &eager(&master)).await, Err(RunError::OtherCold { .. })));
}

/// Proves that a compaction that moves to the cold store, and an expiry, whose k-th call of either store fails, before its effect or
/// after it, or who die at it, leave everything to answer and to compute from, and that the next ones end what was begun.
#[tokio::test]
async fn every_call() {
    let (hot, cold) = (FaultyStore::default(), FaultyStore::default());
    let (mut base, events) = many_segments(35, 40, Store::from_object_store(Arc::new(hot.clone()))).await;
    base.append(&[erasure("nobody")]).await;
    base.publish(&RunOptions { incremental: true, ..base.options() }).await;
    let expected = digest_of_all(&base).await;
    let of = |hot: &FaultyStore, cold: &FaultyStore| {
        let store = Store::from_object_store(Arc::new(hot.clone())).with_cold(Store::from_object_store(Arc::new(cold.clone())));
        Master { store, ..Master::new(schema()) }
    };
    async fn both(master: &Master) -> Result<(), RunError> {
        let expire = ExpireOptions {
            run: RunOptions { grace: Duration::ZERO, ..master.options() },
            keep_versions: 1,
            keep_versions_for: Duration::ZERO,
            keep_reports_for: Duration::ZERO,
            dry_run: false,
        };
        compact(master, &eager(master)).await?;
        Box::pin(expire_on(&Later, &expire, &master.store)).await.map(|_| ())
    }
    async fn forget_leases(master: &Master) {
        for object in master.store.list(&"runs".into()).await.unwrap() {
            master.store.delete(&object.location).await.unwrap();
        }
    }
    let (clean_hot, clean_cold) = (hot.fork(), cold.fork());
    let clean = of(&clean_hot, &clean_cold);
    both(&clean).await.unwrap();
    let left = |store: &FaultyStore| {
        let store = Store::from_object_store(Arc::new(store.clone()));
        async move { store.list(&"".into()).await.unwrap().len() }
    };
    let (hot_calls, cold_calls) = (clean_hot.calls().len() as u64, clean_cold.calls().len() as u64);
    assert!(hot_calls > 60 && cold_calls > 10, "{hot_calls} {cold_calls}");
    let expected_versions = Manifests::new(clean.store.clone(), view()).list().await.unwrap();
    forget_leases(&clean).await;
    let expected_left = (left(&clean_hot).await, left(&clean_cold).await);
    for (is_cold, calls) in [(false, hot_calls), (true, cold_calls)] {
        for k in 1..=calls {
            for (fault, dies) in [(Fault::Before, false), (Fault::After, false), (Fault::After, true)] {
                let case = format!("call {k} of {calls}, cold: {is_cold}, {fault:?}, dies: {dies}");
                let (hot, cold) = (hot.fork(), cold.fork());
                let master = of(&hot, &cold);
                let (failing, other) = if is_cold { (&cold, &hot) } else { (&hot, &cold) };
                let died = Arc::new(std::sync::atomic::AtomicBool::new(false));
                let dead = Arc::clone(&died);
                failing.plan(move |call| match call.number {
                    number if number == k => {
                        dead.store(dies, std::sync::atomic::Ordering::SeqCst);
                        Some(fault)
                    }
                    number if number > k && dies => Some(Fault::Before),
                    _ => None,
                });
                other.plan(move |_| died.load(std::sync::atomic::Ordering::SeqCst).then_some(Fault::Before));
                if let Err(error) = both(&master).await {
                    assert_eq!(error.exit_code(), 4, "{case}: {error:?}");
                }
                hot.heal();
                cold.heal();
                forget_leases(&master).await;
                assert_eq!(master.answers().await, oracle(&events), "{case}");
                let copy = of(&hot.fork(), &cold.fork());
                assert_eq!(digest_of_all(&copy).await, expected, "{case}");
                // What is begun is ended, and what it left is found; the second time because files go after manifests.
                both(&master).await.unwrap_or_else(|e| panic!("{case}: {e}"));
                both(&master).await.unwrap_or_else(|e| panic!("{case}: {e}"));
                forget_leases(&master).await;
                assert_eq!(Manifests::new(master.store.clone(), view()).list().await.unwrap(), expected_versions, "{case}");
                let (now_hot, now_cold) = (left(&hot).await, left(&cold).await);
                assert!(now_hot <= expected_left.0 && now_cold == expected_left.1, "{case}: {now_hot} {now_cold} for {expected_left:?}");
            }
        }
    }
}

/// Proves that one who lost changes nothing.
#[tokio::test]
async fn another_was_first() {
    let (master, _) = many_segments(36, 60, Store::open("memory://").unwrap()).await;
    let segments = list_segments(&master.store).await.unwrap();
    let next = Layout::default().next("rival");
    assert!(next.publish(&master.store).await.unwrap());
    assert!(!Layout::default().next("late").publish(&master.store).await.unwrap());
    assert_eq!(list_segments(&master.store).await.unwrap(), segments);
    assert!(matches!(Layout::newest(&master.store).await, Ok(layout) if layout.run_id == "rival"));
}
