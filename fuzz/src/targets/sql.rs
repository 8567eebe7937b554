//! Any text as a view definition: refused with a reason, or a view that obeys the law: folding two halves and merging is folding
//! the whole.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use views::columns::{Position, to_batch};
use views::decimal::DecimalType;
use views::fold::{FoldError, Granularity, finish, merge, partial};
use views::schema::AttributeType;
use views::{Definition, Event, EventSchema};

/// Judging a definition takes milliseconds; on a machine that does other things too, not a thousand times as long.
const LONGEST: Duration = Duration::from_secs(10);
const DAY_US: i64 = 86_400_000_000;

static SCHEMA: LazyLock<EventSchema> = LazyLock::new(|| {
    let typed = [
        ("due", AttributeType::Timestamp),
        ("fine", AttributeType::Bool),
        ("item", AttributeType::String),
        ("price", AttributeType::Float64),
        ("quantity", AttributeType::Int64),
        ("weight", AttributeType::Decimal(DecimalType { precision: 38, scale: 10 })),
    ];
    EventSchema { attributes: typed.map(|(name, kind)| (name.to_owned(), kind)).into(), ..Default::default() }
});

pub(crate) fn run(input: &[u8]) {
    judge(&String::from_utf8_lossy(input));
}

/// Whether `sql` is a view over the events of this target.
pub fn is_view(sql: &str) -> bool {
    Definition::parse(sql, &SCHEMA).is_ok()
}

pub(super) fn judge(sql: &str) {
    let started = Instant::now();
    match Definition::parse(sql, &SCHEMA) {
        Err(error) => assert!(!error.message.trim().is_empty(), "it does not say what is wrong"),
        Ok(definition) => {
            // A bucket is tried at a thousand times of three centuries, once is enough.
            if !definition.has_buckets() {
                let again = Definition::parse(definition.sql(), &SCHEMA).expect("it was a view before");
                assert_eq!(again.fingerprint(), definition.fingerprint(), "the same text is another view");
            }
            obeys_the_law(&definition);
        }
    }
    assert!(started.elapsed() < LONGEST, "took {:?}", started.elapsed());
}

/// Three users, three days; empty, huge, negative and missing values.
static EVENTS: LazyLock<Vec<Event>> = LazyLock::new(|| {
    let values: [[&str; 6]; 8] = [
        ["2024-02-29T23:59:59.999999Z", "true", "apple", "1.5", "3", "0.5"],
        ["", "", "", "", "", ""],
        ["1900-01-01T00:00:00Z", "false", "Äpfel, \"rot\"\\", "-0.0", "-9223372036854775808", "-1"],
        ["2199-12-31T23:59:59Z", "true", "apple", "1e308", "9223372036854775807", "9999999999999999999999999999"],
        ["1970-01-01T00:00:00Z", "", "", "1e308", "0", "0"],
        ["", "false", "a\0b", "5e-324", "1", "0.0000000001"],
        ["2024-02-29T00:00:00Z", "true", "pear", "", "3", ""],
        ["2025-11-02T04:30:00Z", "true", "apple", "1.5", "", "7"],
    ];
    let names = ["due", "fine", "item", "price", "quantity", "weight"];
    let event = |(i, values): (usize, &[&str; 6])| Event {
        event_id: format!("e{i}"),
        user_id: format!("user-{}", i % 3),
        event_time_us: [0, 1_719_000_000_000_000, -2_208_988_800_000_000, 7_258_118_399_999_999][i % 4] - (i as i64 / 4) * DAY_US / 2,
        event_type: ["", "sale", "return"][i % 3].to_owned(),
        amount: [Some(999_999_999_999_999_999), None, Some(-1), Some(0), Some(12_345)][i % 5],
        attributes: names
            .iter()
            .zip(values)
            .filter(|(_, text)| !text.is_empty())
            .map(|(n, t)| ((*n).to_owned(), (*t).to_owned()))
            .collect(),
    };
    let mut events: Vec<Event> = values.iter().enumerate().map(event).collect();
    for event in &mut events {
        event.event_time_us = event.event_time_us.max(-2_208_988_800_000_000);
    }
    events
});

/// `events[from..to]` at their offsets.
fn batch(from: usize, to: usize) -> RecordBatch {
    let at = |offset: usize| Position { partition: 0, offset: offset as i64, append_time_us: 0, content_hash: 0 };
    to_batch(EVENTS[from..to].iter().enumerate().map(|(i, event)| (event, at(from + i))), &SCHEMA)
}

fn obeys_the_law(definition: &Definition) {
    let end = EVENTS.len();
    let whole = partial(definition, &batch(0, end));
    for cut in [1, 4] {
        let halves = partial(definition, &batch(0, cut)).and_then(|left| Ok([left, partial(definition, &batch(cut, end))?]));
        match (&whole, halves) {
            (Ok(whole), Ok(halves)) => {
                let merged = merge(definition, &halves).expect("states of the definition's own");
                for granularity in [Granularity::Total, Granularity::Bucket] {
                    same(definition, finish(definition, [&merged], granularity), finish(definition, [whole], granularity));
                }
            }
            (Err(_), Err(_)) => {}
            (Ok(_), Err(error)) => panic!("the whole folds, and a half of it does not: {}", error.reason()),
            (Err(error), Ok(_)) => panic!("both halves fold, and the whole does not: {}", error.reason()),
        }
    }
}

fn same(definition: &Definition, merged: Result<RecordBatch, FoldError>, direct: Result<RecordBatch, FoldError>) {
    let (merged, direct) = match (merged, direct) {
        (Ok(merged), Ok(direct)) => (merged, direct),
        (Err(_), Err(_)) => return,
        (merged, direct) => panic!("one answer fails: {merged:?}, {direct:?}"),
    };
    assert_eq!(merged.num_rows(), direct.num_rows(), "rows");
    let outputs = definition.exact_outputs().into_iter().zip(definition.estimated_outputs());
    for ((i, (exact, estimated)), field) in outputs.enumerate().zip(direct.schema().fields()) {
        let (merged, direct) = (merged.column(i), direct.column(i));
        if exact {
            assert!(merged == direct, "{}: {merged:?} is not {direct:?}", field.name());
        } else if !estimated {
            close(field.name(), merged, direct);
        }
    }
}

/// Floats in any order of adding: null where the other is null, and near it. Sums that leave the range of a float on the way
/// are not near anything.
fn close(name: &str, merged: &ArrayRef, direct: &ArrayRef) {
    let float = |column: &ArrayRef, row: usize| match column.data_type() {
        DataType::Float64 => Some(column.as_primitive::<Float64Type>().value(row)),
        DataType::Float32 => Some(f64::from(column.as_primitive::<Float32Type>().value(row))),
        _ => None,
    };
    for row in 0..direct.len() {
        assert_eq!(merged.is_null(row), direct.is_null(row), "{name}: null in row {row}");
        let (Some(a), Some(b)) = (float(merged, row), float(direct, row)) else { return };
        let huge = |x: f64| !x.is_finite() || x.abs() > 1e9;
        assert!(direct.is_null(row) || huge(a) || huge(b) || (a - b).abs() <= 1e-6 * (b.abs() + 1.0), "{name}: {a} is not {b}");
    }
}
