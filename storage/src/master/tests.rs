#![allow(clippy::single_range_in_vec_init)] // A list of one range is meant.

use std::sync::Arc;

use arrow::array::{Array, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use chrono::NaiveDate;

use super::*;

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
    let info = write_segment(&store, &path, schema(), vec![events(100..9_000), events(9_000..20_100)]).await.unwrap();
    let listed = list_segments(&store).await.unwrap();
    assert_eq!(listed, [SegmentMeta { path, bytes: info.bytes as u64 }]);
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
    let write = |batches: Vec<RecordBatch>| async move { write_segment(&memory(), &segment(0, 0..1000), schema(), batches).await.unwrap() };
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
    let first = write_segment(&store, &path, schema(), vec![events(0..10)]).await.unwrap();
    assert_eq!(write_segment(&store, &path, schema(), vec![events(0..10)]).await.unwrap(), first);

    let refused = write_segment(&store, &path, schema(), vec![events(1..11)]).await.unwrap_err();
    assert!(matches!(&refused, StoreError::Conflict { path: p } if *p == path.path().to_string()), "{refused}");
    let metas = list_segments(&store).await.unwrap();
    assert_eq!(offsets(&store, &metas[0]).await.unwrap(), (0..10).collect::<Vec<_>>());
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
    let info = write_segment(&store, &path, schema(), vec![events(0..10)]).await.unwrap();
    assert_eq!(info.bytes, bytes.len() as i64);
    assert_eq!(store.get(&path.path()).await.unwrap(), bytes);
}

/// Proves that a segment cut short fails with its name, and is never shorter or empty.
#[tokio::test]
async fn truncated() {
    let store = memory();
    let path = segment(0, 0..1000);
    write_segment(&store, &path, schema(), vec![events(0..1000)]).await.unwrap();
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
    let metas = |ranges: &[Range<i64>]| -> Vec<SegmentMeta> {
        let mut all: Vec<_> = ranges.iter().map(|r| SegmentMeta { path: segment(1, r.clone()), bytes: 1 }).collect();
        all.push(SegmentMeta { path: segment(0, 0..1000), bytes: 1 });
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
