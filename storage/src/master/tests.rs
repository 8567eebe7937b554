#![allow(clippy::single_range_in_vec_init)] // A list of one range is meant.

use std::sync::Arc;

use arrow::array::{Array, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use chrono::NaiveDate;

use super::*;
use crate::store::faulty::{CallKind, Fault, FaultyStore};

fn segment(partition: u32, range: Range<i64>) -> SegmentPath {
    let ingest_date = NaiveDate::from_ymd_opt(2026, 11, 21).unwrap();
    SegmentPath { partition, start: range.start, end: range.end, ingest_date }
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("user_id", DataType::Utf8, false),
        Field::new("item", DataType::Utf8, true),
        Field::new("_offset", DataType::Int64, false),
    ]))
}

fn events(range: Range<i64>) -> RecordBatch {
    let users: StringArray = range.clone().map(|i| Some(format!("user-{}", i % 7))).collect();
    let items: StringArray = range.clone().map(|i| (i % 3 > 0).then(|| format!("item {i}"))).collect();
    RecordBatch::try_new(schema(), vec![Arc::new(users), Arc::new(items), Arc::new(Int64Array::from_iter_values(range))]).unwrap()
}

fn memory() -> Store {
    Store::open("memory://").unwrap()
}

fn origin() -> Origin {
    Origin { log_id: "log-1".to_owned(), last_record: "ab".repeat(32) }
}

async fn offsets(store: &Store, meta: &SegmentMeta) -> Result<Vec<i64>, StoreError> {
    let batches: Vec<_> = read_segment(store, meta, None).await?.try_collect().await?;
    let column = |b: &RecordBatch| b.column_by_name("_offset").unwrap().as_any().downcast_ref::<Int64Array>().unwrap().values().to_vec();
    Ok(batches.iter().flat_map(column).collect())
}

/// Proves that a segment reads back row by row, whole and by columns, and that absent columns are just absent.
#[tokio::test]
async fn round_trip() {
    let store = memory();
    let path = segment(3, 100..20_100);
    let seal = write_segment(&store, &path, schema(), vec![events(100..9_000), events(9_000..20_100)], origin()).await.unwrap();
    let listed = list_segments(&store).await.unwrap();
    assert_eq!(listed, [SegmentMeta::archived(path, seal)]);
    assert_eq!(offsets(&store, &listed[0]).await.unwrap(), (100..20_100).collect::<Vec<_>>());

    let wanted = ["_offset".to_owned(), "user_id".to_owned(), "no_such".to_owned()];
    let some: Vec<_> = read_segment(&store, &listed[0], Some(&wanted)).await.unwrap().try_collect().await.unwrap();
    let names: Vec<_> = some[0].schema().fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!(names, ["user_id", "_offset"]);
    assert_eq!(concat_batches(&some[0].schema(), &some).unwrap(), events(100..20_100).project(&[0, 2]).unwrap());
}

/// Proves that a segment's bytes are a function of its rows, and that they have not changed since they were first frozen.
#[tokio::test]
async fn frozen_bytes() {
    let write = |batches: Vec<RecordBatch>| async move {
        write_segment(&memory(), &segment(0, 0..1000), schema(), batches, origin()).await.unwrap()
    };
    let once = write(vec![events(0..1000)]).await;
    let pieces = write(vec![events(0..1), events(1..600), events(600..1000)]).await;
    assert_eq!(once, pieces);
    assert_eq!((once.bytes, once.blake3.as_str()), (5445, "1d4d9ba5d7c770ed290baea411c6e273e333113b2549443a9bee532927f41007"));
}

/// Proves that sealing twice is harmless and that other rows under the same name are refused, naming the file.
#[tokio::test]
async fn repeated_and_conflicting() {
    let store = memory();
    let path = segment(0, 0..10);
    let first = write_segment(&store, &path, schema(), vec![events(0..10)], origin()).await.unwrap();
    assert_eq!(write_segment(&store, &path, schema(), vec![events(0..10)], origin()).await.unwrap(), first);

    let refused = write_segment(&store, &path, schema(), vec![events(1..11)], origin()).await.unwrap_err();
    assert!(matches!(&refused, StoreError::Conflict { path: p } if *p == path.path().to_string()), "{refused}");
    let metas = list_segments(&store).await.unwrap();
    assert_eq!(offsets(&store, &metas[0]).await.unwrap(), (0..10).collect::<Vec<_>>());
}

/// Proves that the bytes of a seal never change, and that no flipped bit of one goes unnoticed.
#[tokio::test]
async fn frozen_seal() {
    let store = memory();
    let path = segment(0, 0..1000);
    write_segment(&store, &path, schema(), vec![events(0..1000)], origin()).await.unwrap();
    let good = store.get(&path.seal_path()).await.unwrap();
    let expected = format!(
        r#"{{
  "format_version": 1,
  "rows": 1000,
  "bytes": 5445,
  "blake3": "1d4d9ba5d7c770ed290baea411c6e273e333113b2549443a9bee532927f41007",
  "log_id": "log-1",
  "last_record": "{}",
  "checksum": "426b700b0bb3219f4f2cb6d9c5033207521bdcd51cc50cc9d8c1d9d92bf6ebce"
}}
"#,
        "ab".repeat(32)
    );
    assert_eq!(String::from_utf8(good.to_vec()).unwrap(), expected);
    for bit in 0..good.len() * 8 {
        let mut bad = good.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        store.put_durable(&path.seal_path(), bad.into()).await.unwrap();
        let refused = list_segments(&store).await.unwrap_err().to_string();
        assert!(refused.contains(path.seal_path().as_ref()), "{refused}");
    }
}

/// Proves that a segment whose seal is missing is not archived, that writing it again seals the same bytes, and that a seal which
/// says something else is a conflict by name and stays.
#[tokio::test]
async fn unsealed() {
    let store = memory();
    let path = segment(0, 0..10);
    let write = async |origin: Origin| write_segment(&store, &path, schema(), vec![events(0..10)], origin).await;
    let first = write(origin()).await.unwrap();
    let parquet = store.get(&path.path()).await.unwrap();
    store.delete(&path.seal_path()).await.unwrap();
    assert_eq!(list_segments(&store).await.unwrap(), []);

    assert_eq!(write(origin()).await.unwrap(), first);
    assert_eq!(store.get(&path.path()).await.unwrap(), parquet);
    let listed = list_segments(&store).await.unwrap();
    assert_eq!(archived_edge(&listed, 0), 10);

    for other in [Origin { log_id: "log-2".to_owned(), ..origin() }, Origin { last_record: String::new(), ..origin() }] {
        let refused = write(other).await.unwrap_err();
        assert!(matches!(&refused, StoreError::Conflict { path: p } if *p == path.seal_path().to_string()), "{refused}");
    }
    assert_eq!(list_segments(&store).await.unwrap(), listed);
}

/// Proves that an unsealed segment whose columns are not today's is sealed if it has the same events, and refused if it has others.
#[tokio::test]
async fn unsealed_with_other_columns() {
    let batch = |hashes: [i64; 2], more: bool| {
        let text = |values: [&str; 2]| Arc::new(StringArray::from(values.to_vec())) as arrow::array::ArrayRef;
        let number = |values: [i64; 2]| Arc::new(Int64Array::from(values.to_vec())) as arrow::array::ArrayRef;
        let mut columns = vec![
            ("user_id", text(["u", "u"])),
            ("event_id", text(["a", "b"])),
            (PARTITION, number([0, 0])),
            (OFFSET, number([0, 1])),
            (CONTENT_HASH, number(hashes)),
        ];
        if more {
            columns.push(("item", text(["x", "y"])));
        }
        RecordBatch::try_from_iter(columns).unwrap()
    };
    let store = memory();
    let path = segment(0, 0..2);
    let write = async |batch: RecordBatch| write_segment(&store, &path, batch.schema(), vec![batch], origin()).await;
    let first = write(batch([1, 2], false)).await.unwrap();
    store.delete(&path.seal_path()).await.unwrap();
    assert!(matches!(write(batch([1, 3], true)).await, Err(StoreError::Conflict { .. })));
    assert_eq!(list_segments(&store).await.unwrap(), []);
    assert_eq!(write(batch([1, 2], true)).await.unwrap(), first);
}

/// Proves that a flipped bit, a zeroed block, a cut, a missing and a swapped file of a sealed segment are each found, naming the file.
#[tokio::test]
async fn damaged() {
    let store = memory();
    for range in [0..1000, 1000..2000] {
        write_segment(&store, &segment(0, range.clone()), schema(), vec![events(range)], origin()).await.unwrap();
    }
    let metas = list_segments(&store).await.unwrap();
    let path = metas[0].path.path();
    let whole = store.get(&path).await.unwrap();
    verify_segment(&store, &metas[0]).await.unwrap();

    let mut damages: Vec<(String, Bytes)> = (0..whole.len() * 8)
        .step_by(7)
        .map(|bit| {
            let mut bad = whole.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            (format!("bit {bit}"), bad.into())
        })
        .collect();
    let mut zeroed = whole.to_vec();
    zeroed[512..1024].fill(0);
    damages.push(("a block of zeros".to_owned(), zeroed.into()));
    damages.push(("a cut".to_owned(), whole.slice(..whole.len() - 1)));
    damages.push(("another segment".to_owned(), store.get(&metas[1].path.path()).await.unwrap()));
    for (damage, bytes) in damages {
        store.put_durable(&path, bytes).await.unwrap();
        let found = verify_segment(&store, &metas[0]).await.unwrap_err().to_string();
        assert!(found.contains(path.as_ref()), "{damage}: {found}");
    }
    store.delete(&path).await.unwrap();
    assert_eq!(list_segments(&store).await.unwrap(), metas);
    let found = verify_segment(&store, &metas[0]).await.unwrap_err();
    assert!(matches!(&found, StoreError::NotFound { path: p } if *p == path.to_string()), "{found}");
}

/// Proves that each start gets the next epoch, each once, that the newest is known by its instance, and that a lagging list and a
/// lost reply change nothing.
#[tokio::test]
async fn epochs() {
    let faulty = FaultyStore::default();
    let store = Store::from_object_store(Arc::new(faulty.clone()));
    assert_eq!(newest_epoch(&store).await.unwrap(), None);
    assert_eq!(claim_epoch(&store, "log-1", "a").await.unwrap(), 1);
    assert_eq!(epoch_after(&store, 1).await.unwrap(), None);

    faulty.plan(|call| match call.kind {
        CallKind::List => Some(Fault::Nothing),
        CallKind::Put => Some(Fault::After),
        _ => None,
    });
    assert_eq!(claim_epoch(&store, "log-1", "b").await.unwrap(), 2);
    assert_eq!(epoch_after(&store, 1).await.unwrap(), Some((2, "b".to_owned())));
    faulty.heal();

    // One that looked before the others took theirs goes on to the first number that is free.
    let mut reads = 0;
    faulty.plan(move |call| {
        reads += u64::from(call.kind == CallKind::Get);
        (call.kind == CallKind::List || reads == 1).then_some(Fault::Nothing)
    });
    assert_eq!(claim_epoch(&store, "log-1", "c").await.unwrap(), 3);
    faulty.heal();
    assert_eq!(newest_epoch(&store).await.unwrap(), Some((3, "c".to_owned())));
}

/// Proves that the same rows in another encoding count as the same segment.
#[tokio::test]
async fn other_encoding() {
    let store = memory();
    let path = segment(0, 0..10);
    let mut writer = ArrowWriter::try_new(Vec::new(), schema(), None).unwrap();
    writer.write(&events(0..10)).unwrap();
    let bytes = Bytes::from(writer.into_inner().unwrap());
    store.put_durable(&path.path(), bytes.clone()).await.unwrap();
    let info = write_segment(&store, &path, schema(), vec![events(0..10)], origin()).await.unwrap();
    assert_eq!(info.bytes, bytes.len() as i64);
    assert_eq!(store.get(&path.path()).await.unwrap(), bytes);
}

/// Proves that a segment cut short fails with its name, and is never shorter or empty.
#[tokio::test]
async fn truncated() {
    let store = memory();
    let path = segment(0, 0..1000);
    write_segment(&store, &path, schema(), vec![events(0..1000)], origin()).await.unwrap();
    let whole = store.get(&path.path()).await.unwrap();
    for length in [0, 4, whole.len() / 2, whole.len() - 1] {
        store.put_durable(&path.path(), whole.slice(..length)).await.unwrap();
        let metas = list_segments(&store).await.unwrap();
        let failed = offsets(&store, &metas[0]).await.unwrap_err();
        assert!(failed.to_string().contains(path.path().as_ref()), "{length}: {failed}");
    }
}

/// Proves that a chain covers its range exactly, and names both neighbours of a gap and of an overlap.
#[test]
fn chains() {
    let meta = |partition, range: Range<i64>| {
        let path = segment(partition, range);
        SegmentMeta::archived(path, Seal::of(&Bytes::new(), 0, origin()))
    };
    let metas = |ranges: &[Range<i64>]| -> Vec<SegmentMeta> {
        let mut all: Vec<_> = ranges.iter().map(|r| meta(1, r.clone())).collect();
        all.push(meta(0, 0..1000));
        all.reverse();
        all
    };
    let ranges = |links: Vec<SegmentMeta>| links.iter().map(|s| s.path.range()).collect::<Vec<_>>();
    let name = |range| segment(1, range).path().to_string();

    let good = metas(&[0..10, 10..15, 15..40]);
    assert_eq!(ranges(chain(&good, 1, 0..40).unwrap()), [0..10, 10..15, 15..40]);
    assert_eq!(ranges(chain(&good, 1, 10..15).unwrap()), vec![10..15]);
    assert_eq!(ranges(chain(&good, 1, 0..0).unwrap()), vec![]);
    assert_eq!(ranges(chain(&good, 2, 7..7).unwrap()), vec![]);

    let fails = |ranges: &[Range<i64>], asked: Range<i64>| chain(&metas(ranges), 1, asked).unwrap_err();
    match fails(&[0..10, 15..40], 0..40) {
        StoreError::Gap { partition: 1, start: 10, end: 15, before, after } => assert_eq!((before, after), (name(0..10), name(15..40))),
        other => panic!("{other}"),
    }
    match fails(&[0..10, 9..40], 0..40) {
        StoreError::Overlap { first, second } => assert_eq!((first, second), (name(0..10), name(9..40))),
        other => panic!("{other}"),
    }
    match fails(&[0..10, 0..10, 10..40], 0..40) {
        StoreError::Overlap { first, second } => assert_eq!((first, second), (name(0..10), name(0..10))),
        other => panic!("{other}"),
    }
    assert!(matches!(fails(&[5..40], 0..40), StoreError::Gap { start: 0, end: 5, .. }));
    assert!(matches!(fails(&[0..10], 0..40), StoreError::Gap { start: 10, end: 40, .. }));
    assert!(matches!(fails(&[], 0..40), StoreError::Gap { start: 0, end: 40, .. }));
    assert!(matches!(fails(&[0..41], 0..40), StoreError::Overlap { .. }));
    assert!(matches!(fails(&[0..10, 10..40], 5..40), StoreError::Overlap { .. }));
}
