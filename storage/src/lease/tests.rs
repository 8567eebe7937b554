use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::store::faulty::{Call, CallKind, Fault, FaultyStore};

const TTL: Duration = Duration::from_secs(30);

fn view() -> ViewName {
    "user_stats".parse().unwrap()
}

fn memory() -> Store {
    Store::open("memory://").unwrap()
}

async fn held(store: &Store, run_id: &str) -> Lease {
    match Lease::acquire(store, &view(), run_id, TTL).await.unwrap() {
        Acquired::Held(lease) => lease,
        Acquired::Busy { holder } => panic!("{holder} has it"),
    }
}

async fn busy(store: &Store, run_id: &str) -> String {
    match Lease::acquire(store, &view(), run_id, TTL).await.unwrap() {
        Acquired::Held(_) => panic!("{run_id} has it"),
        Acquired::Busy { holder } => holder,
    }
}

/// Renews every third of the time to live, until it is aborted.
fn keep_alive(mut lease: Lease) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            sleep(TTL / 3).await;
            assert!(lease.renew().await.unwrap());
        }
    })
}

/// Proves that the bytes of a lease never change.
#[test]
fn frozen_bytes() {
    let beat = Beat { format_version: 1, number: 3, run_id: "r1".to_owned(), beat: 2, ttl_ms: 30_000, released: false };
    let expected = r#"{
  "format_version": 1,
  "number": 3,
  "run_id": "r1",
  "beat": 2,
  "ttl_ms": 30000,
  "released": false,
  "checksum": "CHECKSUM"
}
"#;
    let checksum = blake3::hash(expected.split(",\n  \"checksum").next().unwrap().as_bytes()).to_hex();
    let expected = expected.replace("CHECKSUM", &checksum);
    assert_eq!(String::from_utf8(json::encode(&beat)).unwrap(), expected);
    assert_eq!(parse(&LeasePath { view: view(), number: 3 }, expected.as_bytes()).unwrap(), beat);
}

/// Proves that a contender finds a living holder busy within a third of the time to live and a little, and that it follows a
/// release at once, under a higher number.
#[tokio::test(start_paused = true)]
async fn a_living_holder_and_a_release() {
    let store = memory();
    let first = held(&store, "a").await;
    assert_eq!(first.number(), 1);
    let renewing = keep_alive(first);
    let asked = Instant::now();
    assert_eq!(busy(&store, "b").await, "a");
    assert!(asked.elapsed() <= TTL / 2, "{:?}", asked.elapsed());
    renewing.abort();

    let mut again = held(&store, "c").await;
    let number = again.number();
    again.release().await.unwrap();
    let asked = Instant::now();
    assert_eq!(held(&store, "d").await.number(), number + 2);
    assert!(asked.elapsed() < TTL / 10);
}

/// Proves that a silent holder is followed after its whole time to live and not before, and that it then cannot renew, does not
/// believe that it holds the lease, and does no harm when it releases.
#[tokio::test(start_paused = true)]
async fn a_zombie() {
    let store = memory();
    let mut zombie = held(&store, "zombie").await;
    assert!(zombie.renew().await.unwrap() && zombie.still_held().await.unwrap());
    sleep(TTL * 10).await;

    let asked = Instant::now();
    let mut next = held(&store, "next").await;
    assert!(asked.elapsed() >= TTL && asked.elapsed() <= TTL + TTL / 10, "{:?}", asked.elapsed());
    assert!(next.number() > zombie.number());
    assert!(!zombie.still_held().await.unwrap());
    assert!(!zombie.renew().await.unwrap());
    assert_eq!(zombie.holder().await.unwrap(), "next");
    zombie.release().await.unwrap();
    assert!(next.still_held().await.unwrap() && next.renew().await.unwrap());
}

/// Proves that a holder that renews while a contender waits keeps the lease whatever the contender's clock says, and that of many
/// contenders for a dead holder's lease one gets it.
#[tokio::test(start_paused = true)]
async fn many_contenders() {
    let store = memory();
    drop(held(&store, "dead").await);
    let contenders = (0..8).map(|i| {
        let store = store.clone();
        tokio::spawn(async move { matches!(Lease::acquire(&store, &view(), &format!("r{i}"), TTL).await.unwrap(), Acquired::Held(_)) })
    });
    let won = futures::future::try_join_all(contenders).await.unwrap();
    assert_eq!(won.iter().filter(|won| **won).count(), 1);
}

/// Proves that a renewal whose reply is lost is ours when it is tried again, that one whose outcome stays unknown is found by the
/// next, and that a release ends the lease whichever of them were carried out.
#[tokio::test(start_paused = true)]
async fn lost_replies() {
    let faulty = FaultyStore::default();
    let store = Store::from_object_store(Arc::new(faulty.clone()));
    let mut lease = held(&store, "a").await;
    faulty.plan(|call| (call.kind == CallKind::Put).then_some(Fault::After));
    assert!(lease.renew().await.unwrap());
    for (fault, renewed) in [(Fault::Before, false), (Fault::After, true)] {
        faulty.plan(move |call| (call.kind != CallKind::List).then_some(if call.kind == CallKind::Put { fault } else { Fault::Before }));
        assert!(matches!(lease.renew().await, Err(StoreError::UnknownOutcome { .. })));
        faulty.heal();
        assert_eq!(newest(&store, &view()).await.unwrap().unwrap().number > lease.number(), renewed);
        assert!(lease.still_held().await.unwrap() && lease.renew().await.unwrap());
    }
    faulty.plan(|call| (call.kind != CallKind::List).then_some(if call.kind == CallKind::Put { Fault::After } else { Fault::Before }));
    assert!(lease.renew().await.is_err());
    faulty.heal();
    lease.release().await.unwrap();
    assert!(newest(&store, &view()).await.unwrap().unwrap().released);
    assert!(!lease.still_held().await.unwrap());
}

/// Proves that old objects are removed and the last few stay, so that a contender which slept since the first one still loses.
#[tokio::test(start_paused = true)]
async fn collected() {
    let store = memory();
    let mut lease = held(&store, "a").await;
    for _ in 0..30 {
        assert!(lease.renew().await.unwrap());
    }
    let listed = store.list(&lease_folder(&view())).await.unwrap();
    assert_eq!(listed.len() as i64, KEPT + 1);
    assert!(lease.still_held().await.unwrap());

    // One that looked when the newest was 1 makes object 2, which was removed, and sees that it is late.
    let late = Beat { number: 2, run_id: "late".to_owned(), beat: 0, ..lease.newest.clone() };
    put(&store, &view(), &late).await.unwrap();
    assert_eq!(newest(&store, &view()).await.unwrap().unwrap().run_id, "a");
    assert!(lease.still_held().await.unwrap() && lease.renew().await.unwrap());
}

/// Proves that a contender which is shown an old list makes an object that was there long ago, and learns that it is late; and that
/// an object which was removed after it was listed is not taken for there being none.
#[tokio::test(start_paused = true)]
async fn an_old_list() {
    let faulty = FaultyStore::default();
    let store = Store::from_object_store(Arc::new(faulty.clone()));
    let mut lease = held(&store, "a").await;
    for _ in 0..30 {
        assert!(lease.renew().await.unwrap());
    }
    let nothing_once = |kind: CallKind| {
        let mut is_first = true;
        move |call: &Call| (call.kind == kind && std::mem::take(&mut is_first)).then_some(Fault::Nothing)
    };
    faulty.plan(nothing_once(CallKind::List));
    assert_eq!(busy(&store, "late").await, "a");
    faulty.plan(nothing_once(CallKind::Get));
    assert_eq!(newest(&store, &view()).await.unwrap().map(|beat| beat.number), Some(lease.number()));
}

/// Proves over random schedules that runs which look at their lease before they publish do so one after the other, each on the
/// version before, also where holders sleep past their time to live; those that lost say so.
#[tokio::test(start_paused = true)]
async fn random_schedules() {
    let mut fenced = 0;
    for seed in 0..200u64 {
        let store = memory();
        let working = Arc::new(AtomicI64::new(0));
        let mut random = StdRng::seed_from_u64(seed);
        let jobs = (0..random.random_range(2..=8)).map(|job| {
            let (store, working) = (store.clone(), Arc::clone(&working));
            let (wait_s, work_s) = (random.random_range(0..90), random.random_range(1..40));
            let zombie = random.random_range(0..3) == 0;
            tokio::spawn(async move {
                sleep(Duration::from_secs(wait_s)).await;
                let Acquired::Held(mut lease) = Lease::acquire(&store, &view(), &format!("job-{job}"), TTL).await.unwrap() else {
                    return (0, 0);
                };
                if zombie {
                    sleep(Duration::from_secs(work_s) + TTL).await;
                } else {
                    // An honest run is alone while it works, whoever sleeps.
                    assert_eq!(working.fetch_add(1, Ordering::SeqCst), 0, "seed {seed}");
                    for _ in 0..work_s / 10 {
                        sleep(TTL / 3).await;
                        assert!(lease.renew().await.unwrap(), "seed {seed}");
                    }
                    assert!(lease.still_held().await.unwrap(), "seed {seed}");
                    working.fetch_sub(1, Ordering::SeqCst);
                    lease.release().await.unwrap();
                    return (1, 0);
                }
                (0, i32::from(!lease.still_held().await.unwrap()))
            })
        });
        let jobs: Vec<_> = jobs.collect();
        for (honest, late) in futures::future::try_join_all(jobs).await.unwrap() {
            assert!(honest + late <= 1);
            fenced += late;
        }
    }
    assert!(fenced > 10, "only {fenced} holders were fenced");
}
