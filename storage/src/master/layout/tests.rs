#![allow(clippy::single_range_in_vec_init)] // A list of one range is meant.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit};
use chrono::NaiveDate;
use futures::TryStreamExt;
use views::schema::{APPEND_TIME, OFFSET, PARTITION};

use super::*;
use crate::erasures::{Erasure, Erasures};
use crate::master::{
    Places, Without, archived_edge, chain, claim, copy_to_cold, hidden_rows, list_segments, read_segment, rewrite, segment_ending,
    segment_from, segment_of, verify_segment, write_segment,
};
use crate::paths::Id;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("user_id", DataType::Utf8, false),
        Field::new(PARTITION, DataType::Int32, false),
        Field::new(OFFSET, DataType::Int64, false),
        Field::new(APPEND_TIME, DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())), false),
    ]))
}

fn rows(offsets: impl Iterator<Item = i64> + Clone) -> RecordBatch {
    let users: StringArray = offsets.clone().map(|i| Some(format!("user-{}", i % 7))).collect();
    let partitions = Int32Array::from_iter_values(offsets.clone().map(|_| 0));
    let times = TimestampMicrosecondArray::from_iter_values(offsets.clone().map(|i| i * 1000)).with_timezone("+00:00");
    let columns: Vec<arrow::array::ArrayRef> =
        vec![Arc::new(users), Arc::new(partitions), Arc::new(Int64Array::from_iter_values(offsets)), Arc::new(times)];
    RecordBatch::try_new(schema(), columns).unwrap()
}

fn path(range: &Range<i64>) -> SegmentPath {
    let ingest_date = NaiveDate::from_ymd_opt(2026, 11, 21).unwrap();
    SegmentPath { partition: 0, start: range.start, end: range.end, ingest_date }
}

const RANGES: [Range<i64>; 4] = [0..10, 10..25, 25..40, 40..50];

/// A store with four segments.
async fn four() -> Store {
    let store = Store::open("memory://").unwrap();
    for range in RANGES {
        let origin = Origin { log_id: "log-1".to_owned(), last_record: format!("record-{}", range.end - 1) };
        write_segment(&store, &path(&range), schema(), vec![rows(range)], origin).await.unwrap();
    }
    store
}

fn run_id(name: &str) -> Id {
    name.parse().unwrap()
}

/// Rewrites the segments of these numbers.
async fn rewritten(store: &Store, which: Range<usize>, without: &Erasures, name: &str) -> Layout {
    let layout = Layout::newest(store).await.unwrap();
    let segments = list_segments(store).await.unwrap();
    let mut next = layout.next(name);
    next.place(rewrite(store, &segments[which], &Without::erased(without), next.number, &run_id(name)).await.unwrap()).unwrap();
    next
}

async fn offsets(store: &Store, segments: &[SegmentMeta]) -> Vec<i64> {
    let mut found = Vec::new();
    for segment in segments {
        verify_segment(store, segment).await.unwrap();
        let batches: Vec<RecordBatch> =
            read_segment(store, segment, Some(&[OFFSET.to_owned()])).await.unwrap().try_collect().await.unwrap();
        found.extend(batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()));
    }
    found
}

async fn names(store: &Store) -> Vec<String> {
    store.list(&"master".into()).await.unwrap().into_iter().map(|object| object.location.to_string()).collect()
}

/// Proves that a file in the place of several segments answers for each of them, and for every range between two edges, as they did.
#[tokio::test]
async fn as_before() {
    let store = four().await;
    let before = list_segments(&store).await.unwrap();
    assert!(rewritten(&store, 0..3, &Erasures::default(), "a").await.publish(&store).await.unwrap());
    let after = list_segments(&store).await.unwrap();
    assert_eq!((after.len(), after[0].path.range(), after[0].rows()), (2, 0..40, 40));
    assert_eq!((archived_edge(&after, 0), archived_edge(&before, 0)), (50, 50));

    let edges = [0, 10, 25, 40, 50];
    for (i, start) in edges.iter().enumerate() {
        for end in &edges[i..] {
            let links = chain(&after, 0, *start..*end).unwrap();
            assert_eq!(offsets(&store, &links).await, (*start..*end).collect::<Vec<_>>());
            assert_eq!(links.iter().map(SegmentMeta::rows).sum::<i64>(), end - start);
            let last = |links: &[SegmentMeta]| links.last().map(|link| link.last_record().to_owned());
            assert_eq!(last(&links), last(&chain(&before, 0, *start..*end).unwrap()));
        }
    }
    // An edge of no segment is none of the file's.
    assert!(matches!(chain(&after, 0, 0..12), Err(StoreError::Overlap { .. })));
    assert!(matches!(chain(&after, 0, 12..40), Err(StoreError::Overlap { .. })));
    for range in RANGES {
        let found = segment_of(&after, 0, &range).unwrap();
        assert_eq!((found.range(), found.last_record().to_owned()), (range.clone(), format!("record-{}", range.end - 1)));
        assert_eq!(segment_from(&after, 0, range.start).unwrap().range(), range);
        let ending = segment_ending(&after, 0, range.end).unwrap();
        assert_eq!(ending.range(), range);
        assert_eq!(ending.newest_append_us(), (range.end <= 40).then_some((range.end - 1) * 1000));
        assert_eq!(offsets(&store, &[ending]).await, range.clone().collect::<Vec<_>>());
    }
    assert!(segment_of(&after, 0, &(0..12)).is_none() && segment_from(&after, 0, 12).is_none() && segment_ending(&after, 0, 12).is_none());
}

/// Proves that a file with a row too few, too many, twice, out of its range or in another partition is told from one that is as it was said.
#[test]
fn places() {
    let check = |said: i64, offsets: &[i64]| {
        let mut places = Places::new(0, 5..10, said);
        offsets.chunks(2).try_for_each(|some| places.take(&rows(some.iter().copied()))).and_then(|()| places.end())
    };
    let fine: [(i64, &[i64]); 5] = [(5, &[5, 6, 7, 8, 9]), (3, &[5, 7, 9]), (3, &[7, 8, 9]), (3, &[5, 6, 7]), (0, &[])];
    for (said, offsets) in fine {
        assert_eq!(check(said, offsets), Ok(()), "{offsets:?}");
    }
    let wrong: [(i64, &[i64], i64); 8] = [
        (5, &[5, 6, 8, 9], 7),
        (5, &[5, 6, 7, 8], 9),
        (4, &[5, 6, 7, 8, 9], 10),
        (3, &[5, 6], 7),
        (3, &[5, 5, 6], 6),
        (3, &[6, 5, 7], 7),
        (3, &[8, 9, 10], 5),
        (3, &[4, 5, 6], 5),
    ];
    for (said, offsets, first) in wrong {
        assert_eq!(check(said, offsets), Err(first), "{said} {offsets:?}");
    }
    assert_eq!(Places::new(1, 5..10, 5).take(&rows(5..10)), Err(5));
}

/// Proves that a file which is rewritten with others, or with segments that came later, is one file again, with all the parts.
#[tokio::test]
async fn again() {
    let store = four().await;
    assert!(rewritten(&store, 1..3, &Erasures::default(), "a").await.publish(&store).await.unwrap());
    assert!(rewritten(&store, 0..3, &Erasures::default(), "b").await.publish(&store).await.unwrap());
    let after = list_segments(&store).await.unwrap();
    let ranges: Vec<_> = after[0].parts().iter().map(SegmentMeta::range).collect();
    assert_eq!((after.len(), ranges), (1, RANGES.to_vec()));
    assert_eq!(offsets(&store, &after).await, (0..50).collect::<Vec<_>>());
}

/// Proves that hidden rows are left out, that the parts know how many rows they have, and that the record below each edge stays known.
#[tokio::test]
async fn erased() {
    let store = four().await;
    let erasures: Erasures = [Erasure::new(0, 30, "user-2".to_owned(), 0)].into_iter().collect();
    assert_eq!(hidden_rows(&store, &list_segments(&store).await.unwrap()[0], &erasures).await.unwrap(), 2);
    assert!(rewritten(&store, 0..3, &erasures, "a").await.publish(&store).await.unwrap());
    let after = list_segments(&store).await.unwrap();
    let stays: Vec<i64> = (0..50).filter(|i| i % 7 != 2 || *i >= 30).collect();
    assert_eq!(offsets(&store, &after).await, stays);
    let counts: Vec<i64> = after[0].parts().iter().map(SegmentMeta::rows).collect();
    assert_eq!(counts, [8, 13, 15]);
    // Offset 9 is user-2's.
    assert_eq!(segment_ending(&after, 0, 10).unwrap().last_record(), "record-9");
    assert_eq!(hidden_rows(&store, &after[0], &erasures).await.unwrap(), 0);
    for range in [0..10, 10..25, 25..40, 10..40] {
        let expected: Vec<i64> = stays.iter().copied().filter(|i| range.contains(i)).collect();
        assert_eq!(offsets(&store, &chain(&after, 0, range).unwrap()).await, expected);
    }
}

/// Proves that of two who rewrite at a time one wins whatever they rewrote, that old files stay for the grace period, that then all go
/// that the winner took the place of, with the files of the loser, and that nothing that counts ever goes.
#[tokio::test]
async fn one_of_two() {
    let store = four().await;
    let first = rewritten(&store, 0..2, &Erasures::default(), "a").await;
    let second = rewritten(&store, 1..3, &Erasures::default(), "b").await;
    assert!(first.publish(&store).await.unwrap());
    assert!(!second.publish(&store).await.unwrap());
    let counts = list_segments(&store).await.unwrap();
    assert_eq!(counts.iter().map(|s| s.path.range()).collect::<Vec<_>>(), [0..25, 25..40, 40..50]);

    let now = std::time::SystemTime::now();
    let ago = Duration::from_secs(3600);
    assert_eq!(superseded(&store, now - ago).await.unwrap(), Superseded::default());
    let surplus = superseded(&store, now + ago).await.unwrap();
    assert_eq!((surplus.files, surplus.here.len(), surplus.cold.len()), (3, 5, 0), "{surplus:?}");
    // Somebody rewrites meanwhile; what he wrote stays, published or not.
    let third = rewritten(&store, 0..2, &Erasures::default(), "c").await;
    let surplus = superseded(&store, now + ago).await.unwrap();
    for path in &surplus.here {
        store.delete(path).await.unwrap();
        assert_eq!(offsets(&store, &list_segments(&store).await.unwrap()).await, (0..50).collect::<Vec<_>>(), "without {path}");
    }
    assert!(third.publish(&store).await.unwrap());
    assert_eq!(offsets(&store, &list_segments(&store).await.unwrap()).await, (0..50).collect::<Vec<_>>());
    for path in superseded(&store, now + ago).await.unwrap().here {
        store.delete(&path).await.unwrap();
    }
    assert_eq!(offsets(&store, &list_segments(&store).await.unwrap()).await, (0..50).collect::<Vec<_>>());
    assert_eq!(names(&store).await.len(), 1 + 2 + 1, "{:?}", names(&store).await);
}

/// Proves that a segment is read from the cold store when it lies there, that a store that is not configured, empty or lacks the file is
/// told from the others, and that what is rewritten comes back and leaves nothing there.
#[tokio::test]
async fn cold() {
    let (store, cold) = (four().await, Store::open("memory://").unwrap());
    let both = store.with_cold(cold.clone());
    let segments = list_segments(&both).await.unwrap();
    let mut next = Layout::newest(&both).await.unwrap().next("a");
    next.place(copy_to_cold(&both, &segments[0]).await.unwrap()).unwrap();
    assert!(next.publish(&both).await.unwrap());
    let ago = std::time::SystemTime::now() + Duration::from_secs(3600);
    for path in superseded(&both, ago).await.unwrap().here {
        both.delete(&path).await.unwrap();
    }
    assert!(!names(&store).await.contains(&path(&(0..10)).path().to_string()));
    let after = list_segments(&both).await.unwrap();
    assert!(after[0].is_cold() && !after[1].is_cold());
    assert_eq!(offsets(&both, &after).await, (0..50).collect::<Vec<_>>());

    assert!(matches!(verify_segment(&store, &after[0]).await, Err(StoreError::NoCold { .. })));
    let unmounted = store.with_cold(Store::open("memory://").unwrap());
    assert!(matches!(verify_segment(&unmounted, &after[0]).await, Err(StoreError::ColdEmpty { .. })));
    claim(unmounted.cold().unwrap(), "log-1").await.unwrap();
    assert!(matches!(verify_segment(&unmounted, &after[0]).await, Err(StoreError::NotFound { .. })));

    assert!(rewritten(&both, 0..2, &Erasures::default(), "b").await.publish(&both).await.unwrap());
    assert_eq!(offsets(&store, &list_segments(&store).await.unwrap()).await, (0..50).collect::<Vec<_>>());
    let surplus = superseded(&both, ago).await.unwrap();
    assert_eq!(surplus.cold, [path(&(0..10)).path()]);
}

/// Proves that the bytes of a layout never change, and that one which is damaged is an error by name, never an older layout.
#[tokio::test]
async fn frozen() {
    let store = four().await;
    let mut layout = rewritten(&store, 0..2, &Erasures::default(), "a").await;
    layout.erased = vec![Erased { partition: 0, offset: 7 }];
    layout.segments[0].blake3 = "00".repeat(32);
    layout.segments[0].bytes = 1000;
    assert!(layout.publish(&store).await.unwrap());
    let at = LayoutPath { number: 1 }.path();
    let good = store.get(&at).await.unwrap();
    let expected = format!(
        r#"{{
  "format_version": 1,
  "number": 1,
  "run_id": "a",
  "segments": [
    {{
      "path": "master/events/ingest_date=2026-11-21/p0000-00000000000000000000-00000000000000000025-00000000000000000001-a.parquet",
      "bytes": 1000,
      "blake3": "{}",
      "log_id": "log-1",
      "parts": [
        {{
          "end": 10,
          "rows": 10,
          "last_record": "record-9",
          "newest_append_us": 9000
        }},
        {{
          "end": 25,
          "rows": 15,
          "last_record": "record-24",
          "newest_append_us": 24000
        }}
      ]
    }}
  ],
  "erased": [
    {{
      "partition": 0,
      "offset": 7
    }}
  ],
  "checksum": ""#,
        "00".repeat(32)
    );
    assert!(String::from_utf8_lossy(&good).starts_with(&expected), "{}", String::from_utf8_lossy(&good));
    for bit in (0..good.len() * 8).step_by(5) {
        let mut bad = good.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        store.put_durable(&at, bad.into()).await.unwrap();
        let refused = list_segments(&store).await.unwrap_err().to_string();
        assert!(refused.contains(at.as_ref()), "{refused}");
    }
    for (from, to) in [("\"rows\": 10", "\"rows\": 11"), ("\"end\": 25", "\"end\": 26"), ("\"end\": 10", "\"end\": 0"), ("25-0", "10-0")] {
        let changed: Layout = serde_json::from_str(&strip(&good).replacen(from, to, 1)).unwrap();
        store.put_durable(&at, json::encode(&changed).into()).await.unwrap();
        assert!(list_segments(&store).await.is_err(), "{to}");
    }
}

/// Proves that the bytes of a layout with a floor never change, that it has a format of its own, which older programs refuse as newer, and that the
/// floor never goes back.
#[tokio::test]
async fn frozen_with_a_floor() {
    let store = four().await;
    let mut layout = rewritten(&store, 0..1, &Erasures::default(), "a").await;
    layout.segments[0].blake3 = "00".repeat(32);
    layout.segments[0].bytes = 1000;
    layout.segments[0].parts[0].rows = 7;
    layout.segments[0].parts[0].expired = 3;
    let path = RewrittenImportPath { import: 1, partition: 0, layout: 1, run_id: run_id("a") }.path().to_string();
    layout.place_import(PlacedImport { import: 1, partition: 0, path, rows: 2, expired: 1, bytes: 9, blake3: "00".repeat(32) });
    layout.expire(5_000_000);
    layout.expire(4_000_000);
    assert!(layout.publish(&store).await.unwrap());
    let good = store.get(&LayoutPath { number: 1 }.path()).await.unwrap();
    let expected = format!(
        r#"{{
  "format_version": 2,
  "number": 1,
  "run_id": "a",
  "segments": [
    {{
      "path": "master/events/ingest_date=2026-11-21/p0000-00000000000000000000-00000000000000000010-00000000000000000001-a.parquet",
      "bytes": 1000,
      "blake3": "{0}",
      "log_id": "log-1",
      "parts": [
        {{
          "end": 10,
          "rows": 7,
          "expired": 3,
          "last_record": "record-9",
          "newest_append_us": 9000
        }}
      ]
    }}
  ],
  "imports": [
    {{
      "import": 1,
      "partition": 0,
      "path": "master/imports/00000000000000000001/p0000-00000000000000000001-a.parquet",
      "rows": 2,
      "expired": 1,
      "bytes": 9,
      "blake3": "{0}"
    }}
  ],
  "expired_before_us": 5000000,
  "checksum": ""#,
        "00".repeat(32)
    );
    assert!(String::from_utf8_lossy(&good).starts_with(&expected), "{}", String::from_utf8_lossy(&good));
    assert_eq!(Layout::newest(&store).await.unwrap().next("b").expired_before_us, Some(5_000_000));
    // What a program of before says of it.
    let old = Formats { known: 1, checked_from: 1 };
    let refused = json::decode::<Layout>(&LayoutPath { number: 1 }.path(), &good, old).unwrap_err();
    assert!(matches!(refused, StoreError::NewerFormat { found: 2, known: 1, .. }), "{refused}");

    let at = LayoutPath { number: 1 }.path();
    for (from, to) in [
        ("\"format_version\": 2", "\"format_version\": 1"),
        ("\"expired_before_us\": 5000000", "\"erased\": []"),
        ("\"rows\": 7", "\"rows\": 8"),
        ("\"expired\": 3", "\"expired\": -3"),
        ("\"expired\": 1", "\"expired\": -1"),
        ("-a.parquet\",\n      \"bytes\"", "-a.parquet\",\n      \"cold\": 1,\n      \"bytes\""),
    ] {
        let text = strip(&good);
        assert!(text.contains(from), "{from}");
        let Ok(changed) = serde_json::from_str::<Layout>(&text.replacen(from, to, 1)) else { continue };
        store.put_durable(&at, json::encode(&changed).into()).await.unwrap();
        let refused = list_segments(&store).await.unwrap_err().to_string();
        assert!(refused.contains(at.as_ref()), "{to}: {refused}");
    }
}

/// Proves that a layout is refused which names two files for one part of an import, in whatever order, or a file that was written for a
/// later one.
#[tokio::test]
async fn one_file_a_part() {
    let store = four().await;
    let at = LayoutPath { number: 1 }.path();
    let mut later = rewritten(&store, 0..2, &Erasures::default(), "a").await;
    let placed = |partition, layout, name: &str| {
        let path = RewrittenImportPath { import: 1, partition, layout, run_id: run_id(name) }.path().to_string();
        PlacedImport { import: 1, partition, path, rows: 2, expired: 0, bytes: 9, blake3: "00".repeat(32) }
    };
    let with = |imports: Vec<PlacedImport>| Layout { imports, ..Layout::default().next("a") };
    let read = async |layout: Layout| {
        store.put_durable(&at, json::encode(&layout).into()).await.unwrap();
        Layout::newest(&store).await.map_err(|e| e.to_string())
    };
    read(with(vec![placed(0, 1, "a"), placed(1, 1, "a")])).await.unwrap();
    for imports in [
        vec![placed(0, 1, "a"), placed(0, 1, "b")],
        vec![placed(0, 1, "a"), placed(1, 1, "a"), placed(0, 1, "b")],
        vec![placed(1, 1, "a"), placed(0, 1, "a")],
    ] {
        let refused = read(with(imports)).await.unwrap_err();
        assert!(refused.contains(at.as_ref()) && refused.contains("a second file for what an import has"), "{refused}");
    }
    assert!(read(with(vec![placed(0, 2, "a")])).await.is_err());
    later.segments[0].path = later.segments[0].path.replace("00001-a.parquet", "00002-a.parquet");
    let refused = read(Layout { number: 1, ..later }).await.unwrap_err();
    assert!(refused.contains("was written for a later layout"), "{refused}");
}

/// The JSON without its checksum.
fn strip(bytes: &[u8]) -> String {
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    format!("{}\n}}", &text[..text.rfind(",\n  \"checksum\"").unwrap()])
}

/// Proves that a name which is almost that of a rewritten segment or a layout is none.
#[test]
fn near_misses() {
    let good =
        "master/events/ingest_date=2026-11-21/p0000-00000000000000000000-00000000000000000025-00000000000000000001-20261121T0-ab.parquet";
    let read = RewrittenPath::parse(&good.into()).unwrap();
    assert_eq!((read.layout, read.run_id.as_str(), read.path().as_ref()), (1, "20261121T0-ab", good));
    assert!(SegmentPath::parse(&good.into()).is_err());
    for (from, to) in [("-20261121T0-ab", ""), ("0001-", "0000-"), ("000001-", "00001-"), ("p0000", "p+000"), ("025-", "000-")] {
        assert!(RewrittenPath::parse(&good.replacen(from, to, 1).as_str().into()).is_err(), "{to}");
    }
    for path in ["master/layout/1.json", "master/layout/00000000000000000000.json"] {
        assert!(LayoutPath::parse(&path.into()).is_err(), "{path}");
    }
}
