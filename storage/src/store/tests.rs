use super::*;

fn path(text: &str) -> ObjectPath {
    ObjectPath::parse(text).unwrap()
}

/// Both kinds of store; the folder lives as long as the guard.
fn both() -> (tempfile::TempDir, [Store; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let local = Store::open(folder.path().join("new/er").to_str().unwrap()).unwrap();
    (folder, [local, Store::open("memory://").unwrap()])
}

fn names(listed: &[ObjectMeta]) -> Vec<&str> {
    listed.iter().map(|m| m.location.as_ref()).collect()
}

/// Proves that put replaces, that put-if-absent does not, and that reads say which object is missing, in every kind of store.
#[tokio::test]
async fn put_and_get() {
    let (_guard, stores) = both();
    for store in stores {
        let a = path("a/b/one.json");
        let missing = store.get(&a).await.unwrap_err();
        assert!(matches!(&missing, StoreError::NotFound { path } if path == "a/b/one.json"), "{missing}");

        assert_eq!(store.put_if_absent(&a, Bytes::from_static(b"first")).await.unwrap(), PutOutcome::Created);
        assert_eq!(store.put_if_absent(&a, Bytes::from_static(b"second")).await.unwrap(), PutOutcome::Exists);
        assert_eq!(store.get(&a).await.unwrap(), "first");
        store.put_durable(&a, Bytes::from_static(b"third")).await.unwrap();
        assert_eq!(store.get(&a).await.unwrap(), "third");
        assert_eq!(store.get_range(&a, 1..3).await.unwrap(), "hi");

        store.put_durable(&path("a/a.json"), Bytes::new()).await.unwrap();
        store.put_durable(&path("ab.json"), Bytes::new()).await.unwrap();
        assert_eq!(names(&store.list(&path("a")).await.unwrap()), ["a/a.json", "a/b/one.json"]);
        assert!(store.list(&path("nowhere")).await.unwrap().is_empty());

        store.delete(&a).await.unwrap();
        store.delete(&a).await.unwrap();
        assert!(matches!(store.get(&a).await, Err(StoreError::NotFound { .. })));
    }
}

/// Proves that of many writers at once exactly one creates the object, and that its bytes are the ones that stay.
#[tokio::test(flavor = "multi_thread")]
async fn one_winner() {
    let (_guard, stores) = both();
    for store in stores {
        let puts = (0..16u8).map(|i| {
            let store = store.clone();
            tokio::spawn(async move { (i, store.put_if_absent(&path("x/y"), Bytes::from(vec![i; 100])).await.unwrap()) })
        });
        let outcomes = futures::future::try_join_all(puts).await.unwrap();
        let winners: Vec<u8> = outcomes.iter().filter(|(_, o)| *o == PutOutcome::Created).map(|(i, _)| *i).collect();
        assert_eq!(winners.len(), 1);
        assert_eq!(store.get(&path("x/y")).await.unwrap(), vec![winners[0]; 100]);
        assert_eq!(names(&store.list(&path("x")).await.unwrap()), ["x/y"]);
    }
}

/// Proves that an object in the making is invisible, that a dropped one leaves nothing, and that size and hash are those of the
/// bytes.
#[tokio::test]
async fn writer() {
    let (_guard, stores) = both();
    for store in stores {
        let mut dropped = store.create(&path("d/one")).await.unwrap();
        dropped.write_all(b"half").unwrap();
        assert!(store.list(&path("d")).await.unwrap().is_empty());
        drop(dropped);

        let mut writer = store.create(&path("d/one")).await.unwrap();
        writer.write_all(b"hello ").unwrap();
        writer.write_all(b"world").unwrap();
        let info = writer.finish().await.unwrap();
        assert_eq!(info, ObjectInfo { bytes: 11, blake3: blake3::hash(b"hello world").to_hex().to_string() });
        assert_eq!(store.get(&path("d/one")).await.unwrap(), "hello world");
        assert_eq!(store.checksum(&path("d/one")).await.unwrap(), info);
    }
}

/// Proves that the hash of an object of several windows is the hash of all its bytes.
#[tokio::test]
async fn checksum_of_windows() {
    let store = Store::open("memory://").unwrap();
    let bytes: Vec<u8> = (0..HASH_WINDOW_BYTES as usize * 2 + 17).map(|i| (i % 251) as u8).collect();
    store.put_durable(&path("big"), Bytes::from(bytes.clone())).await.unwrap();
    let info = store.checksum(&path("big")).await.unwrap();
    assert_eq!(info, ObjectInfo { bytes: bytes.len() as i64, blake3: blake3::hash(&bytes).to_hex().to_string() });
}

/// Proves that what a crash leaves of an unfinished put is no object, that a live put cleans up, and that nobody can name such
/// a file.
#[tokio::test]
async fn leftovers_are_invisible() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().to_str().unwrap()).unwrap();
    store.put_durable(&path("d/one"), Bytes::from_static(b"1")).await.unwrap();
    store.put_if_absent(&path("d/one"), Bytes::from_static(b"2")).await.unwrap();
    assert_eq!(std::fs::read_dir(folder.path().join("d")).unwrap().count(), 1);

    let crashed = Staged::create(folder.path(), &path("d/two")).unwrap();
    std::mem::forget(crashed);
    assert_eq!(std::fs::read_dir(folder.path().join("d")).unwrap().count(), 2);
    assert_eq!(names(&store.list(&path("d")).await.unwrap()), ["d/one"]);
    assert!(matches!(store.put_durable(&path("d/two#123"), Bytes::new()).await, Err(StoreError::Name { .. })));
}

/// Proves which addresses open a store, and that the others are refused with what to write instead.
#[test]
fn urls() {
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().to_str().unwrap();
    for url in [name.to_owned(), format!("{name}/x/y"), format!("file://{name}/z"), "memory://".to_owned()] {
        Store::open(&url).unwrap();
    }
    assert!(folder.path().join("x/y").is_dir() && folder.path().join("z").is_dir());
    for (url, said) in
        [("s3://bucket/x", "later version"), ("", "name a folder"), ("memory://x", "memory://"), ("file://host/x", "file:///")]
    {
        let refused = Store::open(url).unwrap_err().to_string();
        assert!(refused.contains(said), "{refused}");
    }
}

/// Proves that only staged files go, and only those that nobody wrote to for the given time.
#[tokio::test]
async fn old_staged_files() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().to_str().unwrap()).unwrap();
    let long_ago = SystemTime::now() - std::time::Duration::from_secs(7200);
    let write = |name: &str, old: bool| {
        std::fs::create_dir_all(folder.path().join("d/e")).unwrap();
        let file = std::fs::File::create(folder.path().join("d/e").join(name)).unwrap();
        if old {
            file.set_modified(long_ago).unwrap();
        }
    };
    for name in ["old#1230000000001", "old", "old#12x", "old#"] {
        write(name, true);
    }
    write("young#1230000000002", false);
    assert_eq!(store.remove_staged(SystemTime::now() - std::time::Duration::from_secs(3600)).await.unwrap(), 1);
    let mut left: Vec<_> = std::fs::read_dir(folder.path().join("d/e")).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["old", "old#", "old#12x", "young#1230000000002"]);
}

/// Proves that only what may pass is tried again, a bounded number of times and for ten seconds at most, that two seeds wait
/// differently and one seed alike.
#[tokio::test(start_paused = true)]
async fn retries() {
    let calls = async |seed: u64, failures: u64, error: fn() -> StoreError| {
        let began = tokio::time::Instant::now();
        let mut made = 0;
        let outcome = Retry::seeded(seed)
            .run("x", || {
                made += 1;
                let failed = made <= failures;
                async move { if failed { Err(error()) } else { Ok(()) } }
            })
            .await;
        (outcome.is_ok(), made, began.elapsed())
    };
    let bad_moment = || StoreError::backend(&path("x"), object_store::Error::Generic { store: "s", source: "timed out".into() });
    let disk = || StoreError::io("x", std::io::Error::other("EIO"));
    let nothing = std::time::Duration::ZERO;
    assert_eq!(calls(1, 0, bad_moment).await, (true, 1, nothing));
    assert_eq!(calls(1, 1, disk).await, (false, 1, nothing));
    let (ok, made, waited) = calls(1, 4, bad_moment).await;
    assert!(ok && made == 5 && waited >= std::time::Duration::from_millis(3750) && waited <= std::time::Duration::from_secs(10));
    assert_eq!(calls(1, 4, bad_moment).await.2, waited);
    assert_ne!(calls(2, 4, bad_moment).await.2, waited);
    let (ok, made, _) = calls(1, 9, bad_moment).await;
    assert!(!ok && made == 5);
}

/// Proves that a claim is ours whether its put, the reply or both went well, or a client repeated it and found its own object; that
/// it is theirs with their bytes; and unknown where nobody can tell.
#[tokio::test(start_paused = true)]
async fn claims() {
    let faulty = faulty::FaultyStore::default();
    let store = Store::from_object_store(Arc::new(faulty.clone()));
    let claim = async |name: &str, bytes: &'static str| store.claim(&path(name), bytes.into()).await;
    assert_eq!(claim("a", "ours").await.unwrap(), Claim::Ours);
    assert_eq!(claim("a", "ours").await.unwrap(), Claim::Ours);
    assert_eq!(claim("a", "late").await.unwrap(), Claim::Theirs("ours".into()));

    use faulty::{CallKind, Fault};
    faulty.plan(|call| (call.kind == CallKind::Put).then_some(Fault::After));
    assert_eq!(claim("b", "ours").await.unwrap(), Claim::Ours);
    assert_eq!(claim("b", "late").await.unwrap(), Claim::Theirs("ours".into()));
    faulty.plan(|call| (call.kind == CallKind::Put).then_some(Fault::Before));
    assert!(matches!(claim("c", "ours").await, Err(StoreError::UnknownOutcome { .. })));
    faulty.plan(|call| (call.kind == CallKind::Get).then_some(Fault::Nothing));
    assert!(matches!(claim("a", "late").await, Err(StoreError::UnknownOutcome { .. })));

    // The first put fails after its effect, and so does the read; the second put finds the object.
    let start = faulty.calls().len() as u64;
    faulty.plan(move |call| (call.number <= start + 2).then_some(Fault::After));
    assert_eq!(store.with_retry(Retry::seeded(1)).claim(&path("d"), "ours".into()).await.unwrap(), Claim::Ours);
}
