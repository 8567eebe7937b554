use std::sync::atomic::{AtomicBool, Ordering};

use storage::lease::{Acquired, Lease};
use storage::paths::{LeasePath, lease_folder};
use storage::store::faulty::{CallKind, Fault, FaultyStore};

use super::*;
use crate::progress::{Progress, Stage};

/// A store with version 1 over one half of the events, and the other half archived.
async fn half_published(events: &[Event]) -> (FaultyStore, Master) {
    let faulty = FaultyStore::default();
    let mut master = Master { store: Store::from_object_store(Arc::new(faulty.clone())), ..Master::new(schema()) };
    master.append(&events[..events.len() / 2]).await;
    master.publish(&master.options()).await;
    master.append(&events[events.len() / 2..]).await;
    (faulty, master)
}

/// The same, in a copy of the store.
fn fork(faulty: &FaultyStore, master: &Master) -> (FaultyStore, Master) {
    let faulty = faulty.fork();
    let store = Store::from_object_store(Arc::new(faulty.clone()));
    (faulty, Master { store, schema: master.schema.clone(), log: master.log.clone(), archived: master.archived.clone(), append_time_us: 0 })
}

/// As if the time to live of whoever held the lease had passed.
async fn forget_leases(master: &Master) {
    for object in master.store.list(&lease_folder(&view())).await.unwrap() {
        master.store.delete(&object.location).await.unwrap();
    }
}

/// Proves that a run whose k-th call of the store fails, before its effect or after it, and one that dies at it, leave the old
/// version or publish the whole new one, never say published where it is not, and that the next run ends with the same digest.
#[tokio::test]
async fn every_call_of_a_run() {
    let events = random_events(21, 60);
    let (before, after) = (oracle(&events[..30]), oracle(&events));
    let (base_store, base) = half_published(&events).await;
    let (clean_store, clean) = fork(&base_store, &base);
    let digest = clean.publish(&clean.options()).await.digest;
    let calls = clean_store.calls().len() as u64;
    assert!(calls > 40, "{calls}");

    let mut published_in_spite = 0;
    for k in 1..=calls {
        for (fault, dies) in [(Fault::Before, false), (Fault::After, false), (Fault::After, true)] {
            let case = format!("call {k} of {calls}, {fault:?}, dies: {dies}");
            let (faulty, master) = fork(&base_store, &base);
            faulty.plan(move |call| match call.number {
                number if number == k => Some(fault),
                number if number > k && dies => Some(Fault::Before),
                _ => None,
            });
            let outcome = master.run(&master.options()).await;
            faulty.heal();
            let latest = master.latest().await.unwrap();
            match &outcome {
                Ok(_) => assert_eq!(latest.version, 2, "{case}"),
                Err(error) => {
                    assert_eq!(error.exit_code(), 4, "{case}: {error:?}");
                    published_in_spite += i32::from(latest.version == 2);
                    assert!(latest.version == 1 || matches!(error, RunError::Unknown { version: 2, .. }), "{case}: {error:?}");
                }
            }
            assert_eq!(master.answers().await, if latest.version == 1 { before.clone() } else { after.clone() }, "{case}");
            assert!(faulty.calls().iter().all(|call| call.kind != CallKind::Delete || call.path.contains("/lease/")), "{case}");

            forget_leases(&master).await;
            master.run(&master.options()).await.unwrap();
            let latest = master.latest().await.unwrap();
            assert_eq!((latest.version, &latest.digest), (2, &digest), "{case}");
            assert_eq!(master.answers().await, after, "{case}");
        }
    }
    assert!(published_in_spite > 0, "no publish was carried out and then lost its reply");
}

/// Proves that a run whose calls may be repeated does not notice one that fails, whichever it is, and one call in five neither.
#[tokio::test]
async fn tried_again() {
    let events = random_events(22, 60);
    let (base_store, base) = half_published(&events).await;
    let quick = |seed: u64| Retry { tries: 8, first_wait: Duration::from_micros(100), ..Retry::seeded(seed) };
    let (clean_store, clean) = fork(&base_store, &base);
    let digest = clean.publish(&clean.options()).await.digest;
    let calls = clean_store.calls().len() as u64;
    for k in 1..=calls {
        let (faulty, master) = fork(&base_store, &base);
        faulty.plan(move |call| (call.number == k).then_some(if k % 2 == 0 { Fault::Before } else { Fault::After }));
        let report = master.publish(&RunOptions { retry: quick(k), ..master.options() }).await;
        assert_eq!((report.version, &report.digest), (2, &digest), "call {k}");
    }
    for seed in 0..10 {
        let (faulty, master) = fork(&base_store, &base);
        let mut random = StdRng::seed_from_u64(seed);
        faulty.plan(move |_| match random.random_range(0..10) {
            0 => Some(Fault::Before),
            1 => Some(Fault::After),
            _ => None,
        });
        let report = master.publish(&RunOptions { retry: quick(seed), ..master.options() }).await;
        assert_eq!((report.version, &report.digest), (2, &digest), "seed {seed}");
    }
}

/// Proves that a damaged, swapped or missing segment refuses the run by name, with the old version in place.
#[tokio::test]
async fn a_damaged_master_dataset() {
    let events = random_events(23, 200);
    let (base_store, base) = half_published(&events).await;
    let segments = storage::master::list_segments(&base.store).await.unwrap();
    let path = segments[1].path.path();
    let whole = base.store.get(&path).await.unwrap().to_vec();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 4;
    let mut zeroed = whole.clone();
    zeroed[..64].fill(0);
    let swapped = base.store.get(&segments[2].path.path()).await.unwrap().to_vec();
    for bytes in [Some(flipped), Some(zeroed), Some(whole[..whole.len() - 1].to_vec()), Some(swapped), None] {
        let (_, master) = fork(&base_store, &base);
        match bytes {
            Some(bytes) => master.store.put_durable(&path, bytes.into()).await.unwrap(),
            None => master.store.delete(&path).await.unwrap(),
        }
        let error = master.run(&master.options()).await.unwrap_err();
        assert_eq!(error.exit_code(), 1);
        assert!(error.to_string().contains(path.as_ref()), "{error}");
        assert_eq!(master.latest().await.unwrap().version, 1);
    }

    // Not sealed is not archived: a cut ends before it.
    let (_, master) = fork(&base_store, &base);
    master.store.delete(&segments[1].path.seal_path()).await.unwrap();
    let report = master.publish(&master.options()).await;
    assert_eq!(report.boundary[segments[1].path.partition as usize], segments[1].path.start);
}

/// Proves that segments of another log are refused by name.
#[tokio::test]
async fn a_foreign_segment() {
    let mut master = Master::new(schema());
    storage::master::claim(&master.store, "log-2").await.unwrap();
    master.append(&random_events(1, 20)).await;
    let error = master.run(&master.options()).await.unwrap_err();
    assert!(matches!(&error, RunError::ForeignSegment { found, .. } if found == "log-1"), "{error}");
}

/// Proves that the manifest names the record below each boundary, none where there is none, and the lease.
#[tokio::test]
async fn what_the_manifest_knows() {
    let master = Master::with(&[event("user-1", "a", 0, 1), event("user-1", "b", 0, 1)]).await;
    master.publish(&master.options()).await;
    let manifest = master.latest().await.unwrap();
    let expected: Vec<String> =
        (0..PARTITIONS).map(|p| if p == shard_of("user-1", PARTITIONS) { format!("record-{p}-1") } else { String::new() }).collect();
    assert_eq!((manifest.boundary_records, manifest.lease), (expected, 1));
}

/// Proves that a run which finds another at work exits 3 without having read a segment, and says whose the lease is.
#[tokio::test]
async fn another_run_is_at_work() {
    let (faulty, master) = half_published(&random_events(24, 40)).await;
    let ttl = Duration::from_millis(300);
    let Acquired::Held(mut other) = Lease::acquire(&master.store, &view(), "other", ttl).await.unwrap() else { panic!() };
    let renewing = tokio::spawn(async move {
        loop {
            tokio::time::sleep(ttl / 6).await;
            assert!(other.renew().await.unwrap());
        }
    });
    let calls = faulty.calls().len();
    let error = master.run(&master.options()).await.unwrap_err();
    renewing.abort();
    assert_eq!(error.exit_code(), 3);
    assert!(matches!(&error, RunError::Busy { holder, .. } if holder == "other") && error.to_string().contains("other"), "{error}");
    assert!(faulty.calls()[calls..].iter().all(|call| call.path.contains("/lease")));

    // Nobody renews any more, so its time to live passes.
    assert_eq!(master.publish(&master.options()).await.version, 2);
}

/// Lets another run follow ours while it is being audited, as it would if ours had slept.
struct Sleep {
    store: Store,
    done: AtomicBool,
}

impl Progress for Sleep {
    fn begin(&self, _: u64) {}

    fn advance(&self, stage: Stage, _: u64, _: u64) {
        if stage != Stage::Audit || self.done.swap(true, Ordering::SeqCst) {
            return;
        }
        // A store in memory is ready at once, so this waits for nothing.
        futures::executor::block_on(async {
            let newest = self.store.list(&lease_folder(&view())).await.unwrap().pop().unwrap();
            assert!(LeasePath::parse(&newest.location).is_ok());
            let json: serde_json::Value = serde_json::from_slice(&self.store.get(&newest.location).await.unwrap()).unwrap();
            for run_id in [json["run_id"].as_str().unwrap(), "rival"] {
                let ttl = Duration::from_secs(30);
                let Acquired::Held(mut lease) = Lease::acquire(&self.store, &view(), run_id, ttl).await.unwrap() else { panic!() };
                if run_id != "rival" {
                    lease.release().await.unwrap();
                }
            }
        });
    }
}

/// Proves that a run which was followed while it slept exits 3, publishes nothing, deletes nothing, and leaves the lease alone.
#[tokio::test]
async fn a_zombie() {
    let (faulty, master) = half_published(&random_events(25, 40)).await;
    let sleep = Arc::new(Sleep { store: master.store.clone(), done: AtomicBool::new(false) });
    let error = run(&master.options(), &master.store, sleep).await.unwrap_err();
    assert_eq!(error.exit_code(), 3);
    assert!(matches!(&error, RunError::Fenced { holder } if holder == "rival"), "{error}");
    assert_eq!(master.latest().await.unwrap().version, 1);
    assert!(faulty.calls().iter().all(|call| call.kind != CallKind::Delete));
    let last = master.store.list(&lease_folder(&view())).await.unwrap().pop().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&master.store.get(&last.location).await.unwrap()).unwrap();
    assert_eq!((json["run_id"].as_str(), json["released"].as_bool()), (Some("rival"), Some(false)));
}
