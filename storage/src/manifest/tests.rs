mod faulty;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::*;
use faulty::Faulty;

fn view() -> ViewName {
    "user_stats".parse().unwrap()
}

fn manifest(version: i64, run_id: &str) -> Manifest {
    Manifest {
        format_version: FORMAT_VERSION,
        view: view(),
        version,
        parent: (version > 1).then(|| version - 1),
        run_id: run_id.to_owned(),
        created_time: "2026-11-21T02:00:00Z".to_owned(),
        log_id: "00112233445566778899aabbccddeeff".to_owned(),
        boundary: vec![100_000, 99_000],
        fingerprint: "f1".to_owned(),
        digest: "d1".to_owned(),
        event_count: 198_999,
        row_count: 7,
        late_duplicate_count: 1,
        conflict_count: 0,
        engine: "datafusion 55.2".to_owned(),
        files: vec![ViewFile {
            path: format!("views/user_stats/v{version}-{run_id}/part-00000.parquet"),
            shard: 0,
            rows: 7,
            bytes: 1234,
            blake3: "ab".repeat(32),
        }],
        audit: Some(AuditSummary { kind: "second_fold".to_owned(), keys_compared: 5, keys_refolded: 1 }),
    }
}

fn manifests() -> Manifests {
    Manifests::new(Store::open("memory://").unwrap(), view())
}

/// Proves that the bytes of a manifest never change: other versions of this program read them.
#[test]
fn frozen_bytes() {
    let expected = r#"{
  "format_version": 1,
  "view": "user_stats",
  "version": 42,
  "parent": 41,
  "run_id": "r1",
  "created_time": "2026-11-21T02:00:00Z",
  "log_id": "00112233445566778899aabbccddeeff",
  "boundary": [
    100000,
    99000
  ],
  "fingerprint": "f1",
  "digest": "d1",
  "event_count": 198999,
  "row_count": 7,
  "late_duplicate_count": 1,
  "conflict_count": 0,
  "engine": "datafusion 55.2",
  "files": [
    {
      "path": "views/user_stats/v42-r1/part-00000.parquet",
      "shard": 0,
      "rows": 7,
      "bytes": 1234,
      "blake3": "abababababababababababababababababababababababababababababababab"
    }
  ],
  "audit": {
    "kind": "second_fold",
    "keys_compared": 5,
    "keys_refolded": 1
  }
}
"#;
    assert_eq!(String::from_utf8(encode(&manifest(42, "r1"))).unwrap(), expected);
    let path = ObjectPath::from("x");
    assert_eq!(decode::<Manifest>(&path, expected.as_bytes()).unwrap(), manifest(42, "r1"));
}

/// Proves that of two publishers one wins, that the loser learns who did, and that publishing again is still a win.
#[tokio::test]
async fn race() {
    let manifests = manifests();
    assert_eq!(manifests.latest().await.unwrap(), None);
    let (a, b) = (manifest(1, "run-a"), manifest(1, "run-b"));
    let (a_outcome, b_outcome) = tokio::join!(manifests.publish(&a), manifests.publish(&b));
    let (winner, loser) = match (a_outcome.unwrap(), b_outcome.unwrap()) {
        (PublishOutcome::Published, lost) => (a, lost),
        (lost, PublishOutcome::Published) => (b, lost),
        neither => panic!("nobody won: {neither:?}"),
    };
    assert_eq!(loser, PublishOutcome::Lost { winner_run_id: winner.run_id.clone() });
    assert_eq!(manifests.publish(&winner).await.unwrap(), PublishOutcome::Published);
    assert_eq!(manifests.latest().await.unwrap(), Some(winner));
}

/// Proves that versions are published without holes and listed in order, foreign files apart.
#[tokio::test]
async fn versions() {
    let manifests = manifests();
    assert!(matches!(manifests.publish(&manifest(2, "r")).await, Err(StoreError::NotFound { .. })));
    for version in 1..=11 {
        manifests.publish(&manifest(version, "r")).await.unwrap();
    }
    manifests.store.put_durable(&ObjectPath::from("views/user_stats/manifests/notes.txt"), Bytes::new()).await.unwrap();
    assert_eq!(manifests.list().await.unwrap(), (1..=11).collect::<Vec<_>>());
    assert_eq!(manifests.latest().await.unwrap().unwrap().version, 11);
}

/// Proves that a manifest of a newer format is refused as such, and that one which cannot be true is refused with the reason.
#[tokio::test]
async fn refused() {
    let manifests = manifests();
    let plain = String::from_utf8(encode(&manifest(1, "r1"))).unwrap();
    for (from, to, said) in [
        ("\"format_version\": 1", "\"format_version\": 2, \"new_field\": 0", "has format 2"),
        ("\"digest\"", "\"digests\"", "digests"),
        ("\"version\": 1,", "\"version\": 9,", "version 9"),
        ("\"rows\": 7", "\"rows\": 8", "row_count"),
        ("\"shard\": 0", "\"shard\": 1", "shards"),
        ("99000", "-1", "below zero"),
        ("\"bytes\": 1234", "\"bytes\": -1", "below zero"),
        ("\"view\": \"user_stats\"", "\"view\": \"../x\"", "../x"),
        ("  }\n}\n", "  }\n", "EOF"),
    ] {
        assert!(plain.contains(from), "{from}");
        manifests.store.put_durable(&manifests.path(1), plain.replace(from, to).into()).await.unwrap();
        let refused = manifests.latest().await.unwrap_err().to_string();
        assert!(refused.contains(said) && refused.contains("00000000000000000001.json"), "{refused}");
    }
}

/// Proves that rows which add up to more than 64 bits are not what wraps around to `row_count`.
#[test]
fn rows_beyond_64_bits() {
    let mut files = vec![manifest(1, "r1").files.remove(0); 4];
    (0_u32..).zip(&mut files).for_each(|(shard, file)| (file.shard, file.rows) = (shard, 1 << 62));
    let wrapped = Manifest { files, row_count: 0, ..manifest(1, "r1") };
    assert!(wrapped.contradiction().is_some_and(|said| said.contains("row_count")));
}

/// Proves that a put whose reply is lost is won or lost by its run id, and unknown where reading back fails or finds nothing.
#[tokio::test]
async fn unknown_outcomes() {
    let faulty = Arc::new(Faulty::default());
    let manifests = Manifests::new(Store::from_object_store(faulty.clone()), view());

    faulty.lose_reply.store(true, Ordering::Relaxed);
    assert_eq!(manifests.publish(&manifest(1, "ours")).await.unwrap(), PublishOutcome::Published);
    let late = manifests.publish(&manifest(1, "late")).await.unwrap();
    assert_eq!(late, PublishOutcome::Lost { winner_run_id: "ours".to_owned() });
    faulty.lose_reply.store(false, Ordering::Relaxed);

    faulty.drop_put.store(true, Ordering::Relaxed);
    assert!(matches!(manifests.publish(&manifest(2, "ours")).await, Err(StoreError::UnknownOutcome { .. })));
    faulty.drop_put.store(false, Ordering::Relaxed);

    faulty.fail_get.store(true, Ordering::Relaxed);
    assert!(matches!(manifests.publish(&manifest(1, "late")).await, Err(StoreError::UnknownOutcome { .. })));
    assert!(matches!(manifests.latest().await, Err(StoreError::Backend { .. })));
}

/// Proves that a list which does not show the newest versions yet does not hide them, damaged ones neither.
#[tokio::test]
async fn partial_list() {
    let faulty = Arc::new(Faulty::default());
    let manifests = Manifests::new(Store::from_object_store(faulty.clone()), view());
    for version in 1..=3 {
        manifests.publish(&manifest(version, "r")).await.unwrap();
    }
    faulty.empty_list.store(true, Ordering::Relaxed);
    assert_eq!(manifests.latest().await.unwrap().unwrap().version, 3);
    manifests.store.put_durable(&manifests.path(4), Bytes::from_static(b"{")).await.unwrap();
    assert!(matches!(manifests.latest().await, Err(StoreError::Corrupt { .. })));
}

/// Proves that a definition stays as it was first stored, and that another fingerprint is not found.
#[tokio::test]
async fn definitions() {
    let definitions = Definitions::new(Store::open("memory://").unwrap(), view());
    let first = DefinitionFile {
        format_version: FORMAT_VERSION,
        sql: "SELECT 1".to_owned(),
        fingerprint: "f1".to_owned(),
        schema: serde_json::json!({"amount": "decimal(18,4)"}),
    };
    definitions.put(&first).await.unwrap();
    definitions.put(&DefinitionFile { sql: "select 1".to_owned(), ..first.clone() }).await.unwrap();
    assert_eq!(definitions.get("f1").await.unwrap(), first);
    assert!(matches!(definitions.get("f2").await, Err(StoreError::NotFound { .. })));
    assert!(matches!(definitions.get("../f").await, Err(StoreError::Name { .. })));
}
