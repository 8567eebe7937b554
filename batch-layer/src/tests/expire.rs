//! What goes when its time is over, and what stays whatever the time.

use std::time::SystemTime;

use storage::machine::Machine;
use storage::manifest::expired;
use storage::paths::{ViewFilePath, runs_folder, view_folder};

use super::compact::Later;
use super::*;
use crate::collect::collect;
use crate::expire::{ExpireOptions, Expiry, expire_on};

fn options(master: &Master, keep: usize) -> ExpireOptions {
    ExpireOptions {
        run: RunOptions { grace: Duration::ZERO, ..master.options() },
        keep_versions: keep,
        keep_versions_for: Duration::ZERO,
        keep_reports_for: Duration::ZERO,
        dry_run: false,
    }
}

async fn expire(master: &Master, options: &ExpireOptions) -> Expiry {
    Box::pin(expire_on(&Later, options, &master.store)).await.unwrap()
}

async fn listed(master: &Master) -> Vec<i64> {
    Manifests::new(master.store.clone(), view()).list().await.unwrap()
}

fn numbers(expiry: &Expiry) -> Vec<i64> {
    expiry.versions.iter().map(|going| going.version).collect()
}

/// A full version and five increments: one of many rows, which stay a file of their own, and four of one event each.
async fn six_versions() -> (Master, Vec<Event>) {
    let mut events = random_events(41, 300);
    let mut master = Master::with(&events).await;
    master.publish(&master.options()).await;
    for number in 0..5 {
        let days = if number == 0 { 40 } else { 1 };
        let more: Vec<_> = (0..days).map(|day| event("user-1", &format!("new-{number}-{day}"), day, 100)).collect();
        master.append(&more).await;
        master.publish(&RunOptions { incremental: true, ..master.options() }).await;
        events.extend(more);
    }
    (master, events)
}

/// Proves that versions go from the oldest on, that the newest two, the newest from all events and the young ones stay whatever is
/// asked, that files on which kept versions lie stay and the others go, and that what stays answers as before.
#[tokio::test]
async fn versions_go() {
    let (master, events) = six_versions().await;
    let before = master.answers().await;
    let dry = expire(&master, &ExpireOptions { dry_run: true, ..options(&master, 0) }).await;
    assert_eq!((numbers(&dry), listed(&master).await), (vec![2, 3, 4], vec![1, 2, 3, 4, 5, 6]));
    let young = ExpireOptions { keep_versions_for: Duration::from_secs(20 * 365 * 86_400), ..options(&master, 0) };
    assert!(expire(&master, &young).await.versions.is_empty());
    assert_eq!(numbers(&expire(&master, &options(&master, 4)).await), [2]);
    assert_eq!(numbers(&expire(&master, &options(&master, 0)).await), [3, 4]);
    assert_eq!(listed(&master).await, [1, 5, 6]);
    let last = expire(&master, &options(&master, 0)).await;
    assert!(last.versions.is_empty());

    let mut named = BTreeSet::new();
    for version in [1, 5, 6] {
        let manifest = Manifests::new(master.store.clone(), view()).read(version).await.unwrap();
        named.extend(manifest.files.iter().map(|file| file.path.clone()));
        OpenView::open(&master.store, manifest, &BlockCache::new(0)).await.unwrap();
    }
    let objects = master.store.list(&view_folder(&view())).await.unwrap();
    let files = objects.iter().filter(|object| ViewFilePath::parse(&object.location).is_ok());
    assert_eq!(files.map(|object| object.location.to_string()).collect::<BTreeSet<_>>(), named);
    assert_eq!(master.answers().await, before);
    assert_eq!(before, oracle(&events));
    assert_eq!(master.publish(&RunOptions { force: true, ..master.options() }).await.version, 7);
    // Now that one is the newest from all events.
    assert_eq!(numbers(&expire(&master, &options(&master, 0)).await), [1, 5]);
}

/// Proves that whoever asks for an expired version is told so, and that a note says which it was.
#[tokio::test]
async fn it_has_expired() {
    let (master, _) = six_versions().await;
    // The note and what it is of stay for the grace period.
    let patient = ExpireOptions { keep_reports_for: Duration::from_secs(20 * 365 * 86_400), ..options(&master, 0) };
    let expiry = expire(&master, &patient).await;
    assert_eq!(numbers(&expiry), [2, 3, 4]);
    for (asked, said) in [(3, "has expired"), (9, "no version 9")] {
        let error = crate::rollback(&master.options(), &master.store, asked).await.unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
    let error = crate::verify(&master.options(), &master.store, Some(2), crate::Depth::Files, Arc::new(Silent)).await.unwrap_err();
    assert!(matches!(error, RunError::Expired { version: 2, .. }), "{error}");
    assert_eq!(crate::versions::expired(&master.store, &view()).await.unwrap(), [4, 3, 2]);
    assert_eq!(expired::read(&master.store, &view(), 3).await.unwrap().unwrap().version, 3);
    assert_eq!(crate::versions::list(&master.store, &view()).await.unwrap().len(), 3);
}

/// Proves that files of a version that has expired stay until a grace period after it did, however old they are, for who opened it may
/// still be reading.
#[tokio::test]
async fn files_go_later() {
    let (master, _) = six_versions().await;
    let old = Manifests::new(master.store.clone(), view()).read(3).await.unwrap();
    let before = SystemTime::now();
    let ten_years = Duration::from_secs(10 * 365 * 86_400);
    let run = RunOptions { grace: ten_years * 2, ..master.options() };
    let patient = ExpireOptions { run, keep_reports_for: ten_years * 2, ..options(&master, 0) };
    assert_eq!(expire(&master, &patient).await.versions.len(), 3);
    let open = OpenView::open(&master.store, old, &BlockCache::new(0)).await.unwrap();
    let collected = async |now: SystemTime| collect(&master.store, &view(), Duration::ZERO, now).await.unwrap().files;
    assert_eq!(collected(before).await, 0);
    assert!(!open.rows(shard_of("user-1", PARTITIONS), "user-1").await.unwrap().is_empty());
    assert!(collected(Later.now()).await > 0);
}

/// Proves that a version which may count an erased user goes whatever is to be kept, once a newer one does not, and not before.
#[tokio::test]
async fn erased_users_take_versions_along() {
    let (mut master, _) = six_versions().await;
    let keep_all = ExpireOptions { keep_versions: 100, ..options(&master, 0) };
    master.append(&[erasure("user-1")]).await;
    assert!(expire(&master, &keep_all).await.versions.is_empty());
    master.publish(&master.options()).await;
    assert_eq!(numbers(&expire(&master, &keep_all).await), [1, 2, 3, 4, 5, 6]);
    master.append(&[erasure("user-1")]).await;
    assert!(expire(&master, &keep_all).await.versions.is_empty());
    let newest = master.latest().await.unwrap();
    let withdrawn = Manifest { version: 8, run_id: "run-8".to_owned(), files: Vec::new(), row_count: 0, withdrawn: true, ..newest };
    Manifests::new(master.store.clone(), view()).publish(&withdrawn.in_its_format()).await.unwrap();
    assert_eq!(numbers(&expire(&master, &keep_all).await), [7]);
    assert_eq!(listed(&master).await, [8]);
}

/// Proves that reports of runs go when they are past their keep-for, unless their version is kept, and definitions that no version needs.
#[tokio::test]
async fn reports_and_definitions() {
    let (master, _) = six_versions().await;
    let reports = async || {
        let objects = master.store.list(&runs_folder(&view())).await.unwrap();
        objects.iter().filter(|object| storage::paths::RunPath::parse(&object.location).is_ok()).count()
    };
    assert_eq!(reports().await, 6);
    let patient = ExpireOptions { keep_reports_for: Duration::from_secs(20 * 365 * 86_400), ..options(&master, 0) };
    expire(&master, &patient).await;
    assert_eq!(reports().await, 6);
    let definition = "views/user_stats/definitions/0a1b.json";
    master.store.put_durable(&definition.into(), "{}".into()).await.unwrap();
    let done = expire(&master, &options(&master, 0)).await;
    assert_eq!((reports().await, done.definitions), (3, 1));
    assert_eq!(crate::expire::expire_dead_letters(&master.store, Duration::ZERO).await.unwrap(), (0, 0));
    master.publish(&RunOptions { incremental: true, force: true, ..master.options() }).await;
}
