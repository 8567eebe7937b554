//! What an append to the log costs on this disk, its fdatasync included: alone, and shared by a thousand records.
#![allow(missing_docs, clippy::unwrap_used, reason = "criterion's macros and a bench's setting up")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use storage::log::LogFolder;

fn appends(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let folder = LogFolder::open(dir.path(), 1).unwrap();
    let mut log = folder.partition(0).unwrap();
    let record = vec![7_u8; 200];
    let mut group = c.benchmark_group("append and sync of 200-byte records");
    for records in [1, 100, 1_000, 8_192] {
        group.throughput(Throughput::Elements(records));
        group.bench_function(BenchmarkId::from_parameter(records), |b| {
            b.iter(|| log.append((0..records).map(|_| black_box(record.as_slice()))).unwrap());
        });
    }
}

criterion_group!(benches, appends);
criterion_main!(benches);
