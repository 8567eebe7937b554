use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::store::Retry;
use crate::store::faulty::{CallKind, Fault, FaultyStore};
use crate::store::json::{decode, encode};

fn view() -> ViewName {
    "user_stats".parse().unwrap()
}

fn manifest(version: i64, run_id: &str) -> Manifest {
    Manifest {
        format_version: FORMAT_VERSION,
        view: view(),
        version,
        parent: (version > 1).then(|| version - 1),
        built_upon: None,
        run_id: run_id.to_owned(),
        created_time: "2026-11-21T02:00:00Z".to_owned(),
        log_id: "00112233445566778899aabbccddeeff".to_owned(),
        boundary: vec![100_000, 0],
        imports: vec![],
        boundary_records: vec!["cd".repeat(32), String::new()],
        lease: 5,
        fingerprint: "f1".to_owned(),
        as_of: None,
        withdrawn: false,
        digest: "d1".to_owned(),
        event_count: 198_999,
        row_count: 7,
        late_duplicate_count: 1,
        conflict_count: 0,
        engine: "datafusion 55.2".to_owned(),
        files: vec![ViewFile {
            path: format!("views/user_stats/v{version}-{run_id}/part-00000.parquet"),
            shard: 0,
            layer: 0,
            rows: 7,
            bytes: 1234,
            blake3: "ab".repeat(32),
        }],
        audit: Some(AuditSummary { kind: "second_fold".to_owned(), keys_compared: 5, keys_refolded: 1 }),
        accepted_difference: None,
    }
}

fn manifests() -> Manifests {
    Manifests::new(Store::open("memory://").unwrap(), view())
}

/// What format 1 wrote.
const FORMAT_1: &str = r#"{
  "format_version": 1,
  "view": "user_stats",
  "version": 42,
  "parent": 41,
  "run_id": "r1",
  "created_time": "2026-11-21T02:00:00Z",
  "log_id": "00112233445566778899aabbccddeeff",
  "boundary": [
    100000,
    0
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

/// Proves that the bytes of a manifest never change: other versions of this program read them. Those of format 1 are read too, as
/// a manifest that knows no records and no lease.
#[test]
fn frozen_bytes() {
    let path = ObjectPath::from("x");
    let read = decode::<Manifest>(&path, FORMAT_1.as_bytes(), FORMATS).unwrap();
    assert_eq!(read, Manifest { format_version: 1, boundary_records: vec![], lease: 0, ..manifest(42, "r1") });

    let expected = FORMAT_1
        .replace("\"format_version\": 1", "\"format_version\": 2")
        .replace(
            "    0\n  ],\n",
            &format!("    0\n  ],\n  \"boundary_records\": [\n    \"{}\",\n    \"\"\n  ],\n  \"lease\": 5,\n", "cd".repeat(32)),
        )
        .replace("  }\n}\n", "  },\n  \"checksum\": \"3c188bf938d8a4868e226d640c2be78ccf294a1f5945ca8254465f71be5645fb\"\n}\n");
    assert_eq!(String::from_utf8(encode(&manifest(42, "r1"))).unwrap(), expected);
    assert_eq!(decode::<Manifest>(&path, expected.as_bytes(), FORMATS).unwrap(), manifest(42, "r1"));
}

/// Proves that layers and imports are written in format 4 and nothing else is, so that older programs read what they can, and that files
/// and imports out of order are refused.
#[test]
fn layers_and_imports() {
    let plain = manifest(42, "r1");
    let file = |shard, layer| ViewFile { shard, layer, ..plain.files[0].clone() };
    let of = |files: &[(u32, u32)]| Manifest { files: files.iter().map(|(shard, layer)| file(*shard, *layer)).collect(), ..plain.clone() };
    let layered = of(&[(0, 0), (0, 1), (1, 0)]).in_its_format();
    assert_eq!((layered.format_version, layered.contradiction(), layered.shards(), layered.layers(0).count()), (4, None, 2, 2));
    let written = String::from_utf8(encode(&layered)).unwrap();
    assert_eq!(written.matches("\"shard\": 0,\n      \"layer\": 1,\n      \"rows\": 7").count(), 1);
    assert_eq!(written.matches("layer").count(), 1);
    assert_eq!(decode::<Manifest>(&ObjectPath::from("x"), written.as_bytes(), FORMATS).unwrap(), layered);
    let importing = Manifest { imports: vec![1, 3], ..plain.clone() }.in_its_format();
    assert_eq!((importing.format_version, importing.contradiction()), (4, None));
    assert!(String::from_utf8(encode(&importing)).unwrap().contains("\"imports\": [\n    1,\n    3\n  ],\n  \"boundary_records\""));
    assert_eq!(Manifest { as_of: Some(1), ..plain.clone() }.in_its_format().format_version, 3);
    for wrong in [of(&[(0, 1)]), of(&[(0, 0), (0, 2)]), of(&[(0, 0), (1, 1)]), of(&[(0, 0), (0, 0)]), of(&[(0, 0), (0, 1), (0, 1)])] {
        assert!(wrong.contradiction().is_some_and(|said| said.contains("layers in order")), "{:?}", wrong.files);
    }
    for imports in [vec![0], vec![2, 2], vec![3, 1]] {
        assert!(Manifest { imports, ..plain.clone() }.contradiction().is_some_and(|said| said.contains("imports")));
    }
    // More rows than all files have, where some lie under others; not just as many, where none do.
    assert!(Manifest { row_count: 22, ..layered }.contradiction().is_some());
}

/// Proves that an accepted difference is written in format 5, behind all else, that nothing else is, and that its bytes are frozen.
#[test]
fn an_accepted_difference() {
    let accepted_difference = Some(AcceptedDifference { run_id: "r0".to_owned(), keys: 3 });
    let accepting = Manifest { accepted_difference, ..manifest(42, "r1") }.in_its_format();
    assert_eq!((accepting.format_version, manifest(42, "r1").in_its_format().format_version), (5, 2));
    let written = String::from_utf8(encode(&accepting)).unwrap();
    let tail =
        "    \"keys_refolded\": 1\n  },\n  \"accepted_difference\": {\n    \"run_id\": \"r0\",\n    \"keys\": 3\n  },\n  \"checksum\": \"";
    assert!(written.contains(tail), "{written}");
    assert_eq!(decode::<Manifest>(&ObjectPath::from("x"), written.as_bytes(), FORMATS).unwrap(), accepting);
}

/// Proves that no flipped bit of a manifest goes unnoticed, and that the file is named.
#[test]
fn every_bit() {
    let path = ObjectPath::from("views/user_stats/manifests/x.json");
    let good = encode(&manifest(42, "r1"));
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let refused = decode::<Manifest>(&path, &bad, FORMATS).unwrap_err().to_string();
        assert!(refused.contains("manifests/x.json"), "{refused}");
    }
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
        ("\"format_version\": 2", "\"format_version\": 6, \"new_field\": 0", "has format 6"),
        ("\"event_count\": 198999", "\"event_count\": 198998", "BLAKE3"),
        ("\"checksum\"", "\"checksun\"", "checksum"),
    ] {
        let changed = plain.replace(from, to);
        assert!(changed != plain, "{from}");
        manifests.store.put_durable(&manifests.path(1), changed.into()).await.unwrap();
        let refused = manifests.latest().await.unwrap_err().to_string();
        assert!(refused.contains(said) && refused.contains("00000000000000000001.json"), "{refused}");
    }
}

/// Proves that a manifest of format 1, which has no checksum, is refused where it cannot be true.
#[tokio::test]
async fn refused_of_format_1() {
    let manifests = manifests();
    for (from, to, said) in [
        ("\"digest\"", "\"digests\"", "digests"),
        ("\"version\": 42,", "\"version\": 9,", "version 9"),
        ("\"rows\": 7", "\"rows\": 8", "row_count"),
        ("\"shard\": 0", "\"shard\": 1", "shards"),
        ("\"bytes\": 1234", "\"bytes\": -1", "below zero"),
        ("\"fingerprint\"", "\"boundary_records\": [\"\"], \"fingerprint\"", "boundary_records of 1"),
        ("\"view\": \"user_stats\"", "\"view\": \"../x\"", "../x"),
        ("  }\n}\n", "  }\n", "EOF"),
    ] {
        manifests.store.put_durable(&manifests.path(42), FORMAT_1.replace(from, to).into()).await.unwrap();
        let refused = manifests.read(42).await.unwrap_err().to_string();
        assert!(refused.contains(said) && refused.contains("00000000000000000042.json"), "{refused}");
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

fn over(faulty: &FaultyStore, retry: Retry) -> Manifests {
    Manifests::new(Store::from_object_store(Arc::new(faulty.clone())).with_retry(retry), view())
}

/// Proves that a put whose reply is lost is won or lost by its run id, and unknown where reading back fails or finds nothing.
#[tokio::test]
async fn unknown_outcomes() {
    let faulty = FaultyStore::default();
    let manifests = over(&faulty, Retry::NONE);
    let only = |kind: CallKind, fault: Fault| faulty.plan(move |call| (call.kind == kind).then_some(fault));

    only(CallKind::Put, Fault::After);
    assert_eq!(manifests.publish(&manifest(1, "ours")).await.unwrap(), PublishOutcome::Published);
    let late = manifests.publish(&manifest(1, "late")).await.unwrap();
    assert_eq!(late, PublishOutcome::Lost { winner_run_id: "ours".to_owned() });

    only(CallKind::Put, Fault::Before);
    assert!(matches!(manifests.publish(&manifest(2, "ours")).await, Err(StoreError::UnknownOutcome { .. })));

    only(CallKind::Get, Fault::Before);
    assert!(matches!(manifests.publish(&manifest(1, "late")).await, Err(StoreError::UnknownOutcome { .. })));
    assert!(matches!(manifests.latest().await, Err(StoreError::Backend { .. })));
}

/// Proves that a publish is tried again over failing puts and reads, a bounded number of times within ten seconds, and that it
/// ends the same whether the failed put was carried out or not.
#[tokio::test(start_paused = true)]
async fn tried_again() {
    for fault in [Fault::Before, Fault::After] {
        for failures in 0..12 {
            let faulty = FaultyStore::default();
            let manifests = over(&faulty, Retry::seeded(failures));
            faulty.plan(move |call| (call.number <= failures).then_some(fault));
            let began = tokio::time::Instant::now();
            let outcome = manifests.publish(&manifest(1, "ours")).await;
            assert!(began.elapsed() <= Duration::from_secs(10));
            // Five puts and a read after each: the last read finds what a failed put left, if it left anything.
            let resolved = failures < if fault == Fault::Before { 9 } else { 10 };
            match resolved {
                true => assert_eq!(outcome.unwrap(), PublishOutcome::Published, "{failures} failures"),
                false => assert!(matches!(outcome, Err(StoreError::UnknownOutcome { .. })), "{failures} failures"),
            }
            assert!(faulty.calls().len() <= 10, "{failures} failures");
        }
    }
}

/// Proves that with one put in five failing, before its effect or after it, of two publishers of each version exactly one wins,
/// both know it, and nothing is deleted.
#[tokio::test(start_paused = true)]
async fn one_put_in_five() {
    let faulty = FaultyStore::default();
    let mut draws = 0u32;
    faulty.plan(move |call| {
        draws = draws.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        match (call.kind, draws >> 24) {
            (CallKind::Put, 0..26) => Some(Fault::Before),
            (CallKind::Put, 26..52) => Some(Fault::After),
            _ => None,
        }
    });
    let (a, b) = (over(&faulty, Retry::seeded(1)), over(&faulty, Retry::seeded(2)));
    for version in 1..=200 {
        let (ours, theirs) = (manifest(version, "run-a"), manifest(version, "run-b"));
        let (ours, theirs) = tokio::join!(a.publish(&ours), b.publish(&theirs));
        let stored = a.read(version).await.unwrap().run_id;
        let lost = PublishOutcome::Lost { winner_run_id: stored.clone() };
        let expected = if stored == "run-a" { (PublishOutcome::Published, lost) } else { (lost, PublishOutcome::Published) };
        assert_eq!((ours.unwrap(), theirs.unwrap()), expected, "version {version}");
    }
    assert!(faulty.calls().iter().all(|call| call.kind != CallKind::Delete));
}

/// Proves that a list which does not show the newest versions yet does not hide them, damaged ones neither.
#[tokio::test]
async fn partial_list() {
    let faulty = FaultyStore::default();
    let manifests = over(&faulty, Retry::NONE);
    for version in 1..=3 {
        manifests.publish(&manifest(version, "r")).await.unwrap();
    }
    faulty.plan(|call| (call.kind == CallKind::List).then_some(Fault::Nothing));
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

/// Proves that the newest version is known by its number though its manifest cannot be read, so that a server can start from
/// the one before.
#[tokio::test]
async fn newest_of_damaged() {
    let manifests = manifests();
    assert_eq!(manifests.newest().await.unwrap(), None);
    assert_eq!(manifests.publish(&manifest(1, "r1")).await.unwrap(), PublishOutcome::Published);
    assert_eq!(manifests.publish(&manifest(2, "r2")).await.unwrap(), PublishOutcome::Published);
    manifests.store.put_durable(&manifests.path(2), "{".into()).await.unwrap();
    assert_eq!(manifests.newest().await.unwrap(), Some(2));
    assert!(manifests.latest().await.is_err() && manifests.read(1).await.is_ok());
}
