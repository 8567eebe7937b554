//! What a fold costs: a micro-batch into states, states into states, the states of one key into an answer.
//!
//! Shapes: `few` users (16), `many` (each event its own), `skewed` (half of the events are of one user in eight).
#![allow(missing_docs, clippy::unwrap_used, reason = "criterion's macros and a bench's setting up")]

use std::hint::black_box;

use arrow::array::RecordBatch;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use views::columns::{Position, to_batch};
use views::fold::{finish_key, merge_sorted, partial};
use views::{Definition, Event, EventSchema, Granularity};

const DAY_US: i64 = 86_400_000_000;
/// Events of a micro-batch: the most that share one sync.
const EVENTS: u64 = 8_192;

/// The user of an event.
type Shape = fn(u64) -> u64;

fn event(number: u64, user: u64) -> Event {
    Event {
        event_id: format!("event-{number:012}"),
        user_id: format!("user-{user:08}"),
        event_time_us: 20_000 * DAY_US + (number % 30).cast_signed() * DAY_US,
        event_type: "sale".into(),
        amount: Some(i128::from(number % 100_000)),
        attributes: Default::default(),
    }
}

fn batch(events: impl Iterator<Item = Event>, definition: &Definition) -> RecordBatch {
    let events: Vec<Event> = events.collect();
    let position = Position { partition: 0, offset: 0, append_time_us: 0, content_hash: 0 };
    to_batch(events.iter().map(|event| (event, position)), definition.schema())
}

fn micro_batches(c: &mut Criterion) {
    let definition = Definition::user_stats(&EventSchema::default());
    let mut group = c.benchmark_group("partial of a micro-batch");
    group.throughput(Throughput::Elements(EVENTS));
    let shapes: [(&str, Shape); 3] =
        [("few", |i| i % 16), ("many", |i| i), ("skewed", |i| if i % 2 == 0 { (i / 2) % (EVENTS / 8) % 64 } else { i })];
    for (shape, user) in shapes {
        let events = batch((0..EVENTS).map(|i| event(i, user(i))), &definition);
        group.bench_with_input(BenchmarkId::from_parameter(shape), &events, |b, events| b.iter(|| partial(&definition, black_box(events))));
    }
}

fn merges(c: &mut Criterion) {
    let definition = Definition::user_stats(&EventSchema::default());
    let mut group = c.benchmark_group("merge of a run and one of half its size");
    for rows in [8_192, 131_072] {
        let states = |from: u64, step: usize| {
            let events = (from..rows).step_by(step).map(|i| event(i, i));
            partial(&definition, &batch(events, &definition)).unwrap()
        };
        let (older, newer) = (states(0, 1), states(1, 2));
        group.throughput(Throughput::Elements((older.num_rows() + newer.num_rows()) as u64));
        group.bench_function(BenchmarkId::from_parameter(rows), |b| {
            b.iter(|| merge_sorted(&definition, black_box(&older), black_box(&newer)))
        });
    }
}

fn answers(c: &mut Criterion) {
    let definition = Definition::user_stats(&EventSchema::default());
    let mut group = c.benchmark_group("finish of one key's twelve buckets");
    let states = |days: std::ops::Range<u64>| partial(&definition, &batch(days.map(|i| event(i, 7)), &definition)).unwrap();
    let halves = [states(0..11), states(10..12)];
    for (name, granularity) in [("total", Granularity::Total), ("per bucket", Granularity::Bucket)] {
        group.bench_function(name, |b| b.iter(|| finish_key(&definition, black_box(&halves), granularity)));
    }
}

criterion_group!(benches, micro_batches, merges, answers);
criterion_main!(benches);
