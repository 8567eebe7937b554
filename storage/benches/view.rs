//! What one user's rows of a batch view cost, from a decoded block and from the file.
//!
//! Shapes: twelve buckets a user, and one. The file is on the disk and in the page cache.
#![allow(missing_docs, clippy::unwrap_used, reason = "criterion's macros and a bench's setting up")]

use std::hint::black_box;
use std::sync::Arc;

use arrow::array::{ArrayRef, Decimal128Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use storage::batch_view::{BlockCache, OpenView, ViewWriter};
use storage::manifest::{FORMAT_VERSION, Manifest, ViewFile};
use storage::paths::ViewFilePath;
use storage::store::Store;
use tokio::runtime::Runtime;

const ROWS: u64 = 1_200_000;
const DAY_US: i64 = 86_400_000_000;

/// Rows of states as `user_stats` has them: key, bucket, count, sum, first, last, count.
fn states(rows: std::ops::Range<u64>, buckets: u64) -> RecordBatch {
    let key = |row| format!("user-{:08}", row / buckets);
    let day = |row: u64| (20_000 + (row % buckets).cast_signed()) * DAY_US;
    let times = |shift: i64| {
        Arc::new(TimestampMicrosecondArray::from_iter_values(rows.clone().map(|row| day(row) + shift)).with_timezone("+00:00")) as ArrayRef
    };
    let counts = || Arc::new(Int64Array::from_iter_values(rows.clone().map(|row| (row % 9).cast_signed()))) as ArrayRef;
    let sums = Decimal128Array::from_iter_values(rows.clone().map(|row| i128::from(row * 7919 % 1_000_000)));
    RecordBatch::try_from_iter([
        ("key", Arc::new(StringArray::from_iter_values(rows.clone().map(key))) as ArrayRef),
        ("bucket", times(0)),
        ("count", counts()),
        ("sum", Arc::new(sums.with_precision_and_scale(28, 4).unwrap())),
        ("first", times(3_600_000_000)),
        ("last", times(7_200_000_000)),
        ("all", counts()),
    ])
    .unwrap()
}

async fn write(store: &Store, buckets: u64) -> Manifest {
    let path =
        ViewFilePath { view: "user_stats".parse().unwrap(), version: buckets.cast_signed(), run_id: "run-1".parse().unwrap(), part: 0 };
    let mut writer = ViewWriter::create(store, &path, states(0..0, buckets).schema(), 0).await.unwrap();
    for start in (0..ROWS).step_by(8_192) {
        writer.write(&states(start..ROWS.min(start + 8_192), buckets)).unwrap();
    }
    manifest(path, writer.finish().await.unwrap())
}

fn manifest(path: ViewFilePath, file: ViewFile) -> Manifest {
    Manifest {
        format_version: FORMAT_VERSION,
        view: path.view,
        version: path.version,
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
        row_count: file.rows,
        late_duplicate_count: 0,
        conflict_count: 0,
        engine: String::new(),
        files: vec![file],
        audit: None,
        accepted_difference: None,
    }
}

fn point_reads(c: &mut Criterion) {
    let (runtime, dir) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
    let store = Store::open(&dir.path().display().to_string()).unwrap();
    let mut group = c.benchmark_group("one user's rows");
    for buckets in [1, 12] {
        let manifest = runtime.block_on(write(&store, buckets));
        for (name, cache_bytes) in [("decoded", 256 << 20), ("from the file", 0)] {
            let view = runtime.block_on(OpenView::open(&store, manifest.clone(), &BlockCache::new(cache_bytes))).unwrap();
            let mut next = 0_u64;
            // Of a thousand users, so that all their blocks are decoded soon.
            let mut key = move || {
                next = (next + 7_919) % 1_000;
                format!("user-{:08}", next * (ROWS / buckets / 1_000))
            };
            group.bench_function(BenchmarkId::new(name, format!("{buckets} buckets")), |b| {
                b.iter(|| black_box(runtime.block_on(view.rows(0, &key())).unwrap()));
            });
        }
    }
}

criterion_group!(benches, point_reads);
criterion_main!(benches);
