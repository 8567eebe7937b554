use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Decimal128Array, Float64Array, Int64Array, ListBuilder, RecordBatch, StringArray,
    StringBuilder, TimestampMicrosecondArray,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{Field, SchemaRef};
use futures::TryStreamExt;
use object_store::path::Path as ObjectPath;

use super::writer::Shape;
use super::*;
use crate::manifest::{FORMAT_VERSION, Manifest, ViewFile};
use crate::paths::{Id, ViewFilePath, ViewName};
use crate::store::{Store, StoreError};

/// Small enough that a few hundred rows make several blocks and row groups.
const SMALL: Shape = Shape { block_rows: 10, group_rows: 40, group_bytes: usize::MAX };

/// A state column of every kind that DataFusion's aggregates have.
fn schema() -> SchemaRef {
    let decimal = |name, precision| Field::new(name, DataType::Decimal128(precision, 4), true);
    Arc::new(Schema::new(vec![
        Field::new("user_id", DataType::Utf8, false),
        Field::new("bucket", DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())), true),
        Field::new("count", DataType::Int64, false),
        decimal("small_sum", 18),
        decimal("sum", 38),
        Field::new("mean", DataType::Float64, true),
        Field::new("all", DataType::Boolean, true),
        Field::new("sketch", DataType::Binary, true),
        Field::new("set", DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true))), true),
    ]))
}

/// One row for each (key, bucket), every column told by the row's number `i`.
fn states(rows: &[(String, Option<i64>)]) -> RecordBatch {
    let n = 0..rows.len() as i64;
    let sparse = |i: i64| i % 5 != 0;
    let decimals = |precision| {
        let column: Decimal128Array = n.clone().map(|i| sparse(i).then(|| i128::from(i) * 12_345 - 500_000)).collect();
        Arc::new(column.with_precision_and_scale(precision, 4).unwrap()) as ArrayRef
    };
    let mut sets = ListBuilder::new(StringBuilder::new());
    for i in n.clone() {
        (0..i % 4).for_each(|item| sets.values().append_value(format!("item-{i}-{item}")));
        sets.append(sparse(i));
    }
    let sketches: Vec<_> = n.clone().map(|i| sparse(i).then(|| vec![(i % 256) as u8; (i % 40) as usize])).collect();
    RecordBatch::try_new(
        schema(),
        vec![
            Arc::new(StringArray::from_iter_values(rows.iter().map(|(key, _)| key))),
            Arc::new(rows.iter().map(|(_, bucket)| *bucket).collect::<TimestampMicrosecondArray>().with_timezone("+00:00")),
            Arc::new(Int64Array::from_iter_values(n.clone())),
            decimals(18),
            decimals(38),
            Arc::new(n.clone().map(|i| sparse(i).then_some(i as f64 / 7.0)).collect::<Float64Array>()),
            Arc::new(n.clone().map(|i| sparse(i).then_some(i % 2 == 0)).collect::<BooleanArray>()),
            Arc::new(sketches.iter().map(Option::as_deref).collect::<BinaryArray>()),
            Arc::new(sets.finish()),
        ],
    )
    .unwrap()
}

/// Keys with one bucket, with several, and two with so many that they span blocks and a row group.
fn rows() -> Vec<(String, Option<i64>)> {
    let mut rows = Vec::new();
    for key in 0..100 {
        let buckets = match key {
            30 => 95,
            31 => 10,
            _ => key % 4 + 1,
        };
        rows.push((format!("user-{key:03}"), None));
        rows.extend((1..buckets).map(|day| (format!("user-{key:03}"), Some(day * 86_400_000_000))));
    }
    rows
}

fn file_path(shard: u32) -> ViewFilePath {
    let (view, run_id): (ViewName, Id) = ("user_stats".parse().unwrap(), "run-1".parse().unwrap());
    ViewFilePath { view, version: 1, run_id, part: shard }
}

async fn write(store: &Store, shard: u32, shape: Shape, batches: &[RecordBatch]) -> ViewFile {
    let mut writer = ViewWriter::with_shape(store, file_path(shard).path(), schema(), shard, shape).await.unwrap();
    for batch in batches {
        writer.write(batch).unwrap();
    }
    writer.finish().await.unwrap()
}

fn manifest(files: Vec<ViewFile>) -> Manifest {
    Manifest {
        format_version: FORMAT_VERSION,
        view: file_path(0).view,
        version: 1,
        parent: None,
        built_upon: None,
        run_id: "run-1".to_owned(),
        created_time: String::new(),
        log_id: String::new(),
        boundary: vec![],
        imports: vec![],
        boundary_records: vec![],
        lease: 0,
        fingerprint: String::new(),
        as_of: None,
        withdrawn: false,
        digest: String::new(),
        event_count: 0,
        row_count: files.iter().map(|f| f.rows).sum(),
        late_duplicate_count: 0,
        conflict_count: 0,
        engine: String::new(),
        files,
        audit: None,
        accepted_difference: None,
    }
}

fn memory() -> Store {
    Store::open("memory://").unwrap()
}

/// The rows of `key` by the naive way.
fn of_key(all: &RecordBatch, key: &str) -> RecordBatch {
    let keys = all.column(0).as_string::<i32>();
    let mask: BooleanArray = keys.iter().map(|k| Some(k == Some(key))).collect();
    arrow::compute::filter_record_batch(all, &mask).unwrap()
}

/// Proves that every key's rows read back exactly, from any column type, across blocks and row groups, with and without a
/// cache, and that keys before, between and after the stored ones are absent.
#[tokio::test]
async fn point_reads() {
    let store = memory();
    let all = states(&rows());
    let files = vec![write(&store, 0, SMALL, std::slice::from_ref(&all)).await, write(&store, 1, SMALL, &[]).await];
    for capacity_bytes in [0, 64 << 20] {
        let view = OpenView::open(&store, manifest(files.clone()), &BlockCache::new(capacity_bytes)).await.unwrap();
        assert_eq!((view.shards(), view.schema()), (2, &schema()));
        for key in 0..100 {
            let key = format!("user-{key:03}");
            let found = view.rows(0, &key).await.unwrap();
            assert_eq!(concat_batches(&schema(), &found).unwrap(), of_key(&all, &key), "{key}");
            assert!(view.rows(1, &key).await.unwrap().is_empty());
        }
        for absent in ["", "a", "user-0", "user-030a", "user-0300", "user-099a", "z"] {
            assert!(view.rows(0, absent).await.unwrap().is_empty(), "{absent}");
        }
        let scanned: Vec<_> = view.scan(0).unwrap().try_collect().await.unwrap();
        assert_eq!(concat_batches(&schema(), &scanned).unwrap(), all);
    }
}

/// Proves that a scan in pieces gives what is there, whatever the size of the pieces, and reads a piece when it is asked for and not before.
#[tokio::test]
async fn scans_in_pieces() {
    let store = memory();
    let all = states(&rows());
    let files = vec![write(&store, 0, SMALL, std::slice::from_ref(&all)).await, write(&store, 1, SMALL, &[]).await];
    let view = OpenView::open(&store, manifest(files), &BlockCache::new(0)).await.unwrap();
    for (bytes, most_rows) in [(0, 10), (5_000, 40), (64 << 20, 40)] {
        let mut shards = view.scan_in_pieces(bytes);
        assert!(shards.pop().unwrap().try_next().await.unwrap().is_none());
        let scanned: Vec<_> = shards.pop().unwrap().try_collect().await.unwrap();
        assert!(scanned.iter().map(RecordBatch::num_rows).max() <= Some(most_rows), "{bytes} bytes");
        assert_eq!(concat_batches(&schema(), &scanned).unwrap(), all, "{bytes} bytes");
    }
    let mut slow = view.scan_in_pieces(0).remove(0);
    assert_eq!(slow.try_next().await.unwrap().unwrap(), all.slice(0, 10));
    store.delete(&file_path(0).path()).await.unwrap();
    let failed = slow.try_next().await.unwrap_err();
    assert!(failed.to_string().contains("part-00000"), "{failed}");
}

/// Proves the shape that ships: pages of 1,000 rows, row groups of 64,000, and a read that decodes one block only.
#[tokio::test]
async fn default_shape() {
    let store = memory();
    let rows: Vec<_> = (0..130_500).map(|i| (format!("user-{i:07}"), Some(0))).collect();
    let all = states(&rows);
    let mut writer = ViewWriter::create(&store, &file_path(0), schema(), 0).await.unwrap();
    for start in (0..all.num_rows()).step_by(8192) {
        writer.write(&all.slice(start, 8192.min(all.num_rows() - start))).unwrap();
    }
    let file = writer.finish().await.unwrap();
    assert_eq!(file.rows, 130_500);

    let bytes = store.get(&file_path(0).path()).await.unwrap();
    let mut footer =
        parquet::file::metadata::ParquetMetaDataReader::new().with_page_index_policy(parquet::file::metadata::PageIndexPolicy::Required);
    footer.try_parse(&bytes).unwrap();
    let footer = footer.finish().unwrap();
    assert_eq!(footer.row_groups().iter().map(|g| g.num_rows()).collect::<Vec<_>>(), [64_000, 64_000, 2_500]);
    for column in &footer.offset_index().unwrap()[0] {
        let starts: Vec<i64> = column.page_locations().iter().map(|p| p.first_row_index).collect();
        assert_eq!(starts, (0..64).map(|page| page * 1000).collect::<Vec<_>>());
    }

    let cache = BlockCache::new(64 << 20);
    let view = OpenView::open(&store, manifest(vec![file]), &cache).await.unwrap();
    for i in [0, 999, 1000, 63_999, 64_000, 129_999, 130_000, 130_499] {
        let found = view.rows(0, &format!("user-{i:07}")).await.unwrap();
        assert_eq!(found, [all.slice(i, 1)], "{i}");
    }
    cache.settle().await;
    assert_eq!(cache.blocks(), 6);
}

/// Proves that the file is a function of its rows, not of how they were cut into batches, and that a row group ends at a block
/// when its states grow large.
#[tokio::test]
async fn batches_do_not_show() {
    let all = states(&rows());
    let shape = Shape { group_bytes: 2_000, ..SMALL };
    let whole = write(&memory(), 0, shape, std::slice::from_ref(&all)).await;
    for step in [1, 7, 10, 33] {
        let batches: Vec<_> = (0..all.num_rows()).step_by(step).map(|s| all.slice(s, step.min(all.num_rows() - s))).collect();
        assert_eq!(write(&memory(), 0, shape, &batches).await, whole, "{step}");
    }
    assert_ne!(write(&memory(), 0, SMALL, &[all]).await.blake3, whole.blake3, "2,000 bytes end a row group before 40 rows do");
}

/// Proves that a byte changed anywhere in a file, a shortened file and a missing one keep the version from opening, by name.
#[tokio::test]
async fn damage() {
    let store = memory();
    let all = states(&rows()[..60]);
    let file = write(&store, 0, SMALL, &[all]).await;
    let path = ObjectPath::from(file.path.as_str());
    let good = store.get(&path).await.unwrap();
    let cache = BlockCache::new(1 << 20);

    let mut failures = Vec::new();
    for position in 0..good.len() {
        let mut bad = good.to_vec();
        bad[position] ^= 1 << (position % 8);
        store.put_durable(&path, bad.into()).await.unwrap();
        failures.push(OpenView::open(&store, manifest(vec![file.clone()]), &cache).await.map(|_| position).unwrap_err());
    }
    store.put_durable(&path, good.slice(1..)).await.unwrap();
    failures.push(OpenView::open(&store, manifest(vec![file.clone()]), &cache).await.map(|_| 0).unwrap_err());
    for failed in failures {
        assert!(matches!(&failed, StoreError::Checksum { path, .. } if *path == file.path), "{failed}");
    }

    store.delete(&path).await.unwrap();
    let failed = OpenView::open(&store, manifest(vec![file.clone()]), &cache).await.unwrap_err();
    assert!(matches!(&failed, StoreError::NotFound { path } if *path == file.path), "{failed}");
}

/// Proves that a manifest which is wrong about a sound file is refused.
#[tokio::test]
async fn wrong_manifest() {
    let store = memory();
    let file = write(&store, 0, SMALL, &[states(&rows())]).await;
    let open = async |manifest| OpenView::open(&store, manifest, &BlockCache::new(0)).await.map(|_| ()).unwrap_err();
    for files in [
        vec![],
        vec![ViewFile { shard: 1, ..file.clone() }],
        vec![ViewFile { rows: file.rows + 1, ..file.clone() }],
        vec![file.clone(), file.clone()],
    ] {
        let failed = open(manifest(files)).await;
        assert!(matches!(failed, StoreError::Corrupt { .. }), "{failed}");
    }
    let failed = open(Manifest { row_count: 1, ..manifest(vec![file]) }).await;
    assert!(failed.to_string().contains("row_count"), "{failed}");
}

/// Proves that a row of a higher layer stands in the place of the one below it, whether it is asked for by key, by prefix or in a scan,
/// that every other row stays, and that a version opened after another one does not read their common file again.
#[tokio::test]
async fn layers() {
    let store = memory();
    let cache = BlockCache::new(64 << 20);
    let lowest = states(&rows());
    // Of the upper layer: a key more, a bucket more of a key that is there, and another row in the place of one.
    let changed = [
        ("user-000".to_owned(), None),
        ("user-030".to_owned(), Some(5 * 86_400_000_000)),
        ("user-030".to_owned(), Some(1)),
        ("user-9".to_owned(), None),
    ];
    let mut changed = changed.to_vec();
    changed.sort();
    let upper = {
        let shifted: Vec<_> = std::iter::repeat_n(("".to_owned(), None), 50).chain(changed.clone()).collect();
        states(&shifted).slice(50, changed.len())
    };
    let bottom = write(&store, 0, SMALL, std::slice::from_ref(&lowest)).await;
    let mut writer = ViewWriter::create_at(&store, ObjectPath::from("views/v/upper.parquet"), schema()).await.unwrap();
    writer.write(&upper).unwrap();
    let top = ViewFile { layer: 1, ..writer.finish().await.unwrap() };
    let row_count = bottom.rows + 2;
    let before = OpenView::open(&store, manifest(vec![bottom.clone()]), &cache).await.unwrap();
    let path = ObjectPath::from(bottom.path.as_str());
    let bytes = store.get(&path).await.unwrap();
    store.delete(&path).await.unwrap();
    let layered = Manifest { row_count, ..manifest(vec![bottom, top]) };
    assert!(OpenView::open(&store, layered.clone(), &cache).await.is_err());
    let view = OpenView::open_after(&store, layered, &cache, Some(&before)).await.unwrap();
    store.put_durable(&path, bytes).await.unwrap();

    let place = |rows: &RecordBatch, row: usize| {
        let buckets = rows.column(1).as_primitive::<arrow::datatypes::TimestampMicrosecondType>();
        (rows.column(0).as_string::<i32>().value(row).to_owned(), buckets.is_valid(row).then(|| buckets.value(row)))
    };
    let mut expected = std::collections::BTreeMap::new();
    for rows in [&lowest, &upper] {
        expected.extend((0..rows.num_rows()).map(|row| (place(rows, row), rows.slice(row, 1))));
    }
    assert_eq!(expected.len() as i64, row_count);
    for key in ["user-000", "user-001", "user-030", "user-9", "user-99"] {
        let rows: Vec<_> = expected.iter().filter(|((of, _), _)| of == key).map(|(_, row)| row).collect();
        let found = concat_batches(&schema(), &view.rows(0, key).await.unwrap()).unwrap();
        assert_eq!(found, concat_batches(&schema(), rows).unwrap(), "{key}");
    }
    let rows: Vec<_> = expected.iter().filter(|((of, _), _)| of.starts_with("user-03")).map(|(_, row)| row).collect();
    let found = concat_batches(&schema(), &view.rows_beginning(0, "user-03").await.unwrap()).unwrap();
    assert_eq!(found, concat_batches(&schema(), rows).unwrap());
}

/// Proves that a block which cannot be read any more is an error, not an empty answer, that the failure is not kept, and that
/// what is cached still answers.
#[tokio::test]
async fn failed_reads() {
    let store = memory();
    let all = states(&rows());
    let file = write(&store, 0, SMALL, std::slice::from_ref(&all)).await;
    let path = ObjectPath::from(file.path.as_str());
    let good = store.get(&path).await.unwrap();
    let view = OpenView::open(&store, manifest(vec![file.clone()]), &BlockCache::new(64 << 20)).await.unwrap();

    let warm = view.rows(0, "user-000").await.unwrap();
    store.delete(&path).await.unwrap();
    assert_eq!(view.rows(0, "user-000").await.unwrap(), warm);
    let failed = view.rows(0, "user-050").await.unwrap_err();
    assert!(matches!(&failed, StoreError::Block { path, .. } if *path == file.path), "{failed}");

    store.put_durable(&path, good).await.unwrap();
    assert_eq!(concat_batches(&schema(), &view.rows(0, "user-050").await.unwrap()).unwrap(), of_key(&all, "user-050"));
}

/// Proves that two versions in one cache never answer for one another.
#[tokio::test]
async fn versions_share_a_cache() {
    let store = memory();
    let cache = BlockCache::new(64 << 20);
    let one = |offset: i64| {
        let mut columns = states(&[("a".to_owned(), None)]).columns().to_vec();
        columns[2] = Arc::new(Int64Array::from(vec![offset]));
        RecordBatch::try_new(schema(), columns).unwrap()
    };
    let first = OpenView::open(&store, manifest(vec![write(&store, 0, SMALL, &[one(1)]).await]), &cache).await.unwrap();
    assert_eq!(first.rows(0, "a").await.unwrap(), [one(1)]);

    let file = write(&store, 0, SMALL, &[one(2)]).await;
    for second in [Manifest { version: 2, ..manifest(vec![file.clone()]) }, Manifest { run_id: "run-2".into(), ..manifest(vec![file]) }] {
        let second = OpenView::open(&store, second, &cache).await.unwrap();
        assert_eq!(second.rows(0, "a").await.unwrap(), [one(2)]);
    }
    assert_eq!(first.rows(0, "a").await.unwrap(), [one(1)]);
}

/// Proves that rows out of order, within a batch or between two, are caught before they are written.
#[tokio::test]
async fn order_is_checked() {
    let row = |key: &str, bucket| (key.to_owned(), bucket);
    for (earlier, later) in [
        (row("b", None), row("a", None)),
        (row("a", None), row("a", None)),
        (row("a", Some(1)), row("a", None)),
        (row("a", Some(2)), row("a", Some(1))),
    ] {
        for batches in [vec![states(&[earlier.clone(), later.clone()])], vec![states(&[earlier]), states(&[later])]] {
            let task = tokio::spawn(async move { write(&memory(), 0, SMALL, &batches).await });
            assert!(task.await.unwrap_err().is_panic());
        }
    }
}
