//! The laws that everything stands on: however the events are split, however the states are grouped and ordered, and
//! though they go through Parquet and back, the answer is that of one fold. Exact, but for measures over floats. And a key by itself is
//! answered as all keys together are.
#![allow(clippy::unwrap_used)]

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, Float64Type};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use proptest::prelude::*;
use views::columns::{Position, to_batch};
use views::event::Event;
use views::fold::{Granularity, finish, finish_key, merge, merge_sorted, partial};
use views::schema::AttributeType;
use views::{Definition, EventSchema};

/// Every aggregate that a view is promised, alone, so that a failure names it.
const MEASURES: &[&str] = &[
    "count(*)",
    "count(item)",
    "sum(amount)",
    "sum(quantity)",
    "sum(price)",
    "avg(amount)",
    "avg(quantity)",
    "min(amount)",
    "max(event_time)",
    "min(item)",
    "max(price)",
    "stddev(price)",
    "stddev_pop(quantity)",
    "var_samp(price)",
    "approx_distinct(item)",
    "approx_distinct(quantity)",
    "approx_percentile_cont(amount, 0.95)",
    "approx_percentile_cont(price, 0.5)",
    "approx_median(quantity)",
    "median(quantity)",
    "count(DISTINCT item)",
    "count(DISTINCT quantity)",
    "count(DISTINCT item), sum(amount)",
    "sum(DISTINCT quantity)",
    "bool_and(fine)",
    "bool_or(fine)",
    "bit_xor(quantity)",
    "first_value(item ORDER BY event_time)",
    "last_value(item ORDER BY event_time)",
    "first_value(amount ORDER BY price DESC)",
    "last_value(quantity ORDER BY event_time DESC, item)",
    "first_value(item)",
    "array_agg(item ORDER BY event_time)",
    "corr(price, quantity)",
    "regr_slope(price, quantity)",
    "sum(amount) FILTER (WHERE event_type = 'sale')",
    "count(DISTINCT item) FILTER (WHERE amount > 0)",
    "first_value(item ORDER BY event_time) FILTER (WHERE fine)",
    "sum(amount) / count(*)",
    "sum(amount) - sum(amount) FILTER (WHERE event_type = 'return')",
    "round(avg(price) * 100)",
    "max(event_time) - min(event_time)",
    "coalesce(sum(amount) FILTER (WHERE item = 'nothing'), 0)",
    "min(upper(event_type))",
];

fn schema() -> EventSchema {
    let attributes = [
        ("item", AttributeType::String),
        ("quantity", AttributeType::Int64),
        ("price", AttributeType::Float64),
        ("fine", AttributeType::Bool),
    ];
    EventSchema { attributes: attributes.map(|(name, kind)| (name.to_owned(), kind)).into(), ..Default::default() }
}

fn definition(measures: &str) -> Definition {
    let sql = format!(
        "SELECT user_id, date_trunc('day', event_time) AS bucket, {measures} FROM events GROUP BY user_id, date_trunc('day', event_time)"
    );
    Definition::parse(&sql, &schema()).unwrap_or_else(|e| panic!("{measures}: {e}"))
}

fn any_event() -> impl Strategy<Value = Event> {
    let attributes =
        (prop::option::of(0..6_u8), prop::option::of(-5..50_i64), prop::option::of(-1000.0..1000.0_f64), prop::option::of(any::<bool>()));
    (0..3_u8, 0..3_i64, 0..4_i64, prop::option::of(-100_000..1_000_000_i128), any::<bool>(), attributes).prop_map(
        |(user, day, second, amount, sale, (item, quantity, price, fine))| Event {
            event_id: String::new(),
            user_id: format!("user-{user}"),
            event_time_us: day * 86_400_000_000 + second * 1_000_000,
            event_type: if sale { "sale".into() } else { "return".into() },
            amount,
            attributes: [
                ("item", item.map(|i| format!("item-{i}"))),
                ("quantity", quantity.map(|q| q.to_string())),
                ("price", price.map(|p| p.to_string())),
                ("fine", fine.map(|f| f.to_string())),
            ]
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .collect(),
        },
    )
}

fn batch(events: &[Event], first_offset: usize) -> RecordBatch {
    let position = |i: usize| Position { partition: 0, offset: (first_offset + i) as i64, append_time_us: 0, content_hash: 0 };
    to_batch(events.iter().enumerate().map(|(i, event)| (event, position(i))), &schema())
}

fn through_parquet(states: &RecordBatch) -> RecordBatch {
    let mut writer = ArrowWriter::try_new(Vec::new(), states.schema(), None).unwrap();
    writer.write(states).unwrap();
    let bytes = bytes::Bytes::from(writer.into_inner().unwrap());
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap();
    let batches: Vec<_> = reader.map(Result::unwrap).collect();
    concat_batches(&states.schema(), &batches).unwrap()
}

/// Splits at `cuts`, then merges two random states at a time until one is left.
fn split_and_merge(definition: &Definition, events: &[Event], cuts: &[prop::sample::Index], picks: &[prop::sample::Index]) -> RecordBatch {
    let mut edges: Vec<usize> = cuts.iter().map(|cut| cut.index(events.len() + 1)).chain([0, events.len()]).collect();
    edges.sort_unstable();
    let parts = edges.windows(2).map(|edge| partial(definition, &batch(&events[edge[0]..edge[1]], edge[0])).unwrap());
    let mut states: Vec<RecordBatch> = parts.map(|part| through_parquet(&part)).collect();
    for pick in picks.iter().cycle() {
        if states.len() == 1 {
            break;
        }
        let one = states.swap_remove(pick.index(states.len()));
        let other = states.swap_remove(pick.index(states.len()));
        states.push(through_parquet(&merge(definition, [&one, &other]).unwrap()));
    }
    states.pop().unwrap()
}

fn assert_same(definition: &Definition, merged: &RecordBatch, direct: &RecordBatch) -> Result<(), TestCaseError> {
    for ((i, exact), field) in definition.exact_outputs().iter().enumerate().zip(direct.schema().fields()) {
        let (merged, direct) = (merged.column(i), direct.column(i));
        if *exact || *field.data_type() != DataType::Float64 {
            let inexact_digest = !*exact && !field.data_type().is_floating();
            prop_assert!(inexact_digest || merged == direct, "{}: {:?} is not {:?}", field.name(), merged, direct);
        } else {
            assert_close(field.name(), merged, direct)?;
        }
    }
    Ok(())
}

fn assert_close(name: &str, merged: &ArrayRef, direct: &ArrayRef) -> Result<(), TestCaseError> {
    let (merged, direct) = (merged.as_primitive::<Float64Type>(), direct.as_primitive::<Float64Type>());
    for row in 0..direct.len() {
        prop_assert_eq!(merged.is_null(row), direct.is_null(row), "{}", name);
        let (a, b) = (merged.value(row), direct.value(row));
        // A t-digest is an estimate whose order of merging shows; every other float measure differs in last digits only.
        let tolerance = if name.contains("approx_") { 0.3 * (b.abs() + 1000.0) } else { 1e-7 * (b.abs() + 1.0) };
        prop_assert!(direct.is_null(row) || (a - b).abs() <= tolerance || (a.is_nan() && b.is_nan()), "{}: {} is not {}", name, a, b);
    }
    Ok(())
}

/// The outputs of each key by itself, one after the other, from the states of two halves of the events.
fn key_by_key(definition: &Definition, halves: &[RecordBatch], granularity: Granularity) -> RecordBatch {
    let rows_of = |key: &str, half: &RecordBatch| {
        let keys = half.column(0).as_string::<i32>().iter().map(|found| found == Some(key)).collect::<Vec<_>>();
        filter_record_batch(half, &keys.into()).unwrap()
    };
    let of_key = |key: String| finish_key(definition, &halves.iter().map(|half| rows_of(&key, half)).collect::<Vec<_>>(), granularity);
    let outputs: Vec<_> = (0..3).map(|user| of_key(format!("user-{user}")).unwrap()).collect();
    concat_batches(definition.output_schema(), &outputs).unwrap()
}

fn hold_the_laws(cases: u32, measures: &[&str]) {
    for measure in measures {
        let definition = definition(measure);
        let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
        let indexes = || prop::collection::vec(any::<prop::sample::Index>(), 1..6);
        let outcome = proptest::test_runner::TestRunner::new(config).run(
            &(prop::collection::vec(any_event(), 0..40), indexes(), indexes()),
            |(events, cuts, picks)| {
                let at_once = partial(&definition, &batch(&events, 0)).unwrap();
                let merged = split_and_merge(&definition, &events, &cuts, &picks);
                for granularity in [Granularity::Bucket, Granularity::Total] {
                    let direct = finish(&definition, [&at_once], granularity).unwrap();
                    assert_same(&definition, &finish(&definition, [&merged], granularity).unwrap(), &direct)?;
                    let (some, others) = events.split_at(cuts[0].index(events.len() + 1));
                    let halves = [(some, 0), (others, some.len())].map(|(half, first)| partial(&definition, &batch(half, first)).unwrap());
                    let together = finish(&definition, &halves, granularity).unwrap();
                    assert_same(&definition, &key_by_key(&definition, &halves, granularity), &together)?;
                    let [one, other] = &halves;
                    prop_assert_eq!(
                        digest(&definition, &merge_sorted(&definition, one, other).unwrap()),
                        digest(&definition, &merge(&definition, &halves).unwrap())
                    );
                }
                let exact: Vec<usize> = definition.exact_states().iter().enumerate().filter(|(_, e)| **e).map(|(i, _)| i).collect();
                prop_assert_eq!(digest(&definition, &merged), digest(&definition, &at_once), "exact states {:?}", exact);
                Ok(())
            },
        );
        outcome.unwrap_or_else(|e| panic!("{measure}: {e}"));
    }
}

fn digest(definition: &Definition, states: &RecordBatch) -> String {
    let mut digest = views::digest::Digest::default();
    digest.add(states, &definition.exact_states());
    digest.to_string()
}

/// Proves the laws for each aggregate by itself: the answers, and the digest of the exact states.
#[test]
fn each_aggregate_by_itself() {
    hold_the_laws(24, MEASURES);
}

/// Proves the laws for all aggregates in one definition, where the states of one stand beside those of another.
#[test]
fn all_aggregates_together() {
    let named: Vec<String> =
        MEASURES.iter().filter(|m| !m.contains("), ")).enumerate().map(|(i, m)| format!("{m} AS \"approx_{i}\"")).collect();
    hold_the_laws(24, &[named.join(", ").as_str()]);
}

/// Proves that a group whose values are all null stays null beside groups that have values, in whichever batch they come: accumulators
/// take it for granted that a group is new where it first has a row.
#[test]
fn null_is_not_zero() {
    let definition = definition("sum(amount), min(amount), avg(amount)");
    let event = |day: i64, amount: Option<i128>| Event {
        event_id: String::new(),
        user_id: "user-0".into(),
        event_time_us: day * 86_400_000_000,
        event_type: String::new(),
        amount,
        attributes: Default::default(),
    };
    let states = |events: &[Event]| partial(&definition, &batch(events, 0)).unwrap();
    let (filled, empty) = (states(&[event(1, Some(5)), event(3, Some(7))]), states(&[event(2, None), event(4, None)]));
    for halves in [[filled.clone(), empty.clone()], [empty, filled]] {
        let [one, other] = &halves;
        assert_eq!(merge_sorted(&definition, one, other).unwrap(), merge(&definition, &halves).unwrap());
        for granularity in [Granularity::Bucket, Granularity::Total] {
            let outputs = finish_key(&definition, &halves, granularity).unwrap();
            assert_eq!(outputs, finish(&definition, &halves, granularity).unwrap());
            assert_eq!(outputs.column(3).null_count(), if granularity == Granularity::Bucket { 2 } else { 0 });
        }
    }
}
