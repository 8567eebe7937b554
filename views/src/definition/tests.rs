use arrow::datatypes::Int64Type;

use super::*;
use crate::columns::{Position, to_batch};
use crate::event::Event;
use crate::fold::{Granularity, finish, partial};
use crate::schema::AttributeType;

fn schema() -> EventSchema {
    EventSchema {
        attributes: [("quantity".to_owned(), AttributeType::Int64), ("item".to_owned(), AttributeType::String)].into(),
        ..Default::default()
    }
}

fn refused(sql: &str) -> DefinitionError {
    match Definition::parse(sql, &schema()) {
        Ok(_) => panic!("accepted: {sql}"),
        Err(error) => error,
    }
}

/// Proves that the shipped view is accepted with and without declared attributes, and what its states are.
#[test]
fn the_shipped_view() {
    let definition = Definition::user_stats(&EventSchema::default());
    let names: Vec<_> = definition.output_schema().fields().iter().map(|f| f.name().as_str()).collect();
    assert_eq!(names, ["key", "bucket", "_event_count", "event_count", "revenue", "first_event_time", "last_event_time"]);
    assert_eq!(definition.event_columns(), ["user_id", "event_time", "amount"]);
    assert!(definition.exact_states().iter().all(|exact| *exact));
}

/// Proves that what a view cannot have is refused at its place, with what to write instead.
#[test]
fn refusals() {
    let cases = [
        ("", None, "empty"),
        ("SELECT user_id, count(*) FROM events GROUP BY user_id; SELECT 1", Some((1, 56)), "second statement"),
        ("DELETE FROM events", Some((1, 1)), "a view is a SELECT"),
        ("SELECT user_id, count(* FROM events", Some((1, 25)), "Expected"),
        ("SELECT user_id, count(*)\nFROM events a JOIN events b ON a.user_id = b.user_id GROUP BY user_id", Some((2, 15)), "joins"),
        ("SELECT user_id, count(*) FROM events, events GROUP BY user_id", None, "joins"),
        ("SELECT user_id, count(*) FROM (SELECT * FROM events) GROUP BY user_id", Some((1, 32)), "one table"),
        ("SELECT user_id, count(*) FROM other GROUP BY user_id", Some((1, 31)), "one table"),
        ("WITH e AS (SELECT * FROM events) SELECT user_id, count(*) FROM e GROUP BY user_id", Some((1, 1)), "WITH"),
        ("SELECT user_id, count(*) FROM events GROUP BY user_id ORDER BY user_id", Some((1, 55)), "ORDER BY"),
        ("SELECT user_id, count(*) FROM events GROUP BY user_id LIMIT 5", Some((1, 55)), "LIMIT"),
        ("SELECT DISTINCT user_id FROM events GROUP BY user_id", Some((1, 8)), "DISTINCT"),
        ("SELECT user_id, count(*) FROM events GROUP BY user_id HAVING count(*) > 1", Some((1, 55)), "HAVING"),
        ("SELECT user_id, count(*) FROM events GROUP BY user_id UNION SELECT user_id, 1 FROM events", Some((1, 1)), "set operations"),
        ("SELECT user_id, sum(amount) OVER () FROM events GROUP BY user_id", Some((1, 17)), "window"),
        ("SELECT user_id, count(*) FROM events GROUP BY ROLLUP(user_id)", None, "grouping sets"),
        ("SELECT user_id, count(*) FROM events GROUP BY ALL", Some((1, 38)), "GROUP BY ALL"),
        ("SELECT user_id, count(*) FROM events", Some((1, 37)), "key"),
        ("SELECT count(*) FROM events GROUP BY date_trunc('day', event_time)", None, "a key beside its time bucket"),
        ("SELECT event_type, count(*) FROM events GROUP BY event_type, user_id", None, "user_id first"),
        ("SELECT count(*) FROM events GROUP BY CAST(quantity AS double)", None, "no part of a key"),
        (
            "SELECT user_id, count(*) FROM events GROUP BY user_id, date_trunc('day', event_time AT TIME ZONE 'America/Havana')",
            None,
            "reckons in a time zone",
        ),
        ("SELECT item, last_value(quantity) AS q FROM events GROUP BY item", None, "no order of their own"),
        ("SELECT user_id, count(*) AS _event_count FROM events GROUP BY user_id", None, "_event_count"),
        ("-- keep: 48h\nSELECT user_id, count(*) FROM events GROUP BY user_id", None, "keep lets buckets go"),
        (
            "-- keep: long\nSELECT user_id, count(*) FROM events GROUP BY user_id, date_trunc('day', event_time)",
            Some((1, 1)),
            "keep is a number",
        ),
        ("SELECT user_id,\n  sum(amont) FROM events GROUP BY user_id", Some((2, 7)), "unknown column amont"),
        ("SELECT user_id, max(_offset) FROM events GROUP BY user_id", Some((1, 21)), "unknown column _offset"),
        ("SELECT user_id, max(now()) FROM events GROUP BY user_id", Some((1, 21)), "now does not give"),
        ("SELECT user_id, count(*) FROM events WHERE event_time > current_date() GROUP BY user_id", Some((1, 57)), "current_date"),
        ("SELECT user_id, max(random()) FROM events GROUP BY user_id", Some((1, 21)), "random"),
        ("SELECT user_id, frobnicate(amount) FROM events GROUP BY user_id", Some((1, 17)), "unknown function"),
        ("SELECT user_id, any_value(item) FROM events GROUP BY user_id", Some((1, 17)), "first_value"),
        ("SELECT user_id, nth_value(item, 2 ORDER BY event_time) FROM events GROUP BY user_id", Some((1, 17)), "nth_value"),
        ("SELECT user_id, avg(quantity) AS event_count FROM events GROUP BY user_id", None, "event_count is the name of a field"),
        ("SELECT user_id, max(item) AS revenue FROM events GROUP BY user_id", None, "revenue is the name of a field"),
        ("SELECT user_id, string_agg(item, ',') FROM events GROUP BY user_id", Some((1, 17)), "array_agg"),
        ("SELECT user_id, first_value(DISTINCT item) FROM events GROUP BY user_id", None, "no order of its own"),
        ("SELECT user_id, sum(amount * amount) FROM events GROUP BY user_id", None, "could wrap around"),
        ("SELECT user_id, avg(amount * amount) FROM events GROUP BY user_id", None, "could wrap around"),
        ("SELECT user_id, (SELECT 1) FROM events GROUP BY user_id", Some((1, 18)), "subqueries"),
        ("SELECT user_id, count(*) FROM events WHERE user_id IN (SELECT item FROM events) GROUP BY user_id", None, "subqueries"),
        ("SELECT * FROM events GROUP BY user_id", Some((1, 8)), "*"),
        (
            "SELECT user_id, count(*) FROM events GROUP BY user_id, date_trunc('day', event_time), date_trunc('hour', event_time)",
            None,
            "two time buckets",
        ),
        ("SELECT user_id, count(*) FROM events GROUP BY user_id, event_time + interval '1 day'", None, "after the event"),
        ("SELECT user_id, count(*) FROM events GROUP BY user_id, date_trunc('day', event_time) - interval '1 hour'", None, "own start"),
        ("SELECT user_id, count(*) AS n, sum(amount) AS n FROM events GROUP BY user_id", None, "n"),
        ("SELECT user_id, 1 AS one FROM events GROUP BY user_id", None, "aggregates alone"),
        ("SELECT user_id, count(*) FROM events WHERE amount > $1 GROUP BY user_id", Some((1, 53)), "placeholders"),
        ("SELECT user_id, sum(item) FROM events GROUP BY user_id", None, ""),
        ("SELECT user_id, count(*) FROM events GROUP BY user_id FOR UPDATE", Some((1, 1)), "other clauses"),
    ];
    for (sql, place, fragment) in cases {
        let error = refused(sql);
        let found = error.place.map(|p| (p.line, p.column));
        if place.is_some() {
            assert_eq!(found, place, "{sql}: {error}");
        }
        assert!(error.message.contains(fragment), "{sql}: {error}");
    }
}

fn keys(sql: &str, events: &[Event]) -> (Definition, Vec<String>) {
    let definition = Definition::parse(sql, &schema()).unwrap();
    let at = |(event, offset)| (event, Position { partition: 0, offset, append_time_us: 0, content_hash: 0 });
    let batch = to_batch(events.iter().zip(0..).map(at), &schema());
    let keys = definition.keys(&batch).unwrap().iter().flatten().map(str::to_owned).collect();
    (definition, keys)
}

fn sale(user_id: &str, item: Option<&str>, quantity: i64) -> Event {
    Event {
        event_id: "e".into(),
        user_id: user_id.into(),
        event_time_us: 86_400_000_000,
        event_type: "sale".into(),
        amount: None,
        attributes: item
            .map(|item| ("item".to_owned(), item.to_owned()))
            .into_iter()
            .chain([("quantity".to_owned(), quantity.to_string())])
            .collect(),
    }
}

/// Proves that a key can be any columns and expressions, nulls among them, and that its values come back in their types.
#[test]
fn any_key() {
    let events = [sale("u", Some("tea"), 3), sale("u", None, -4)];
    let of = |group_by: &str| keys(&format!("SELECT {group_by}, count(*) AS n FROM events GROUP BY {group_by}"), &events).1;
    assert_eq!(of("user_id"), ["u", "u"]);
    assert_eq!(of("item"), ["tea", "\0\0"]);
    assert_eq!(of("user_id, event_type"), ["u\0\u{1}sale", "u\0\u{1}sale"]);
    assert_eq!(of("quantity > 0, date_part('day', event_time)"), ["true\0\u{1}2", "false\0\u{1}2"]);
    assert_eq!(of("upper(item)"), ["TEA", "\0\0"]);

    let (definition, keys) = keys(
        "SELECT item AS article, quantity, count(*) AS n FROM events GROUP BY item, quantity, date_trunc('month', event_time)",
        &events,
    );
    let columns = definition.key_columns();
    assert_eq!(columns.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["article", "quantity"]);
    assert!(!definition.is_by_user() && definition.has_buckets());
    let values = definition.key_values(&keys.into()).unwrap();
    assert_eq!(values[0].as_string::<i32>().iter().collect::<Vec<_>>(), [Some("tea"), None]);
    assert_eq!(values[1].as_primitive::<Int64Type>().values(), &[3, -4]);
    assert_eq!(definition.canonical_parts(&[None, Some("007")]), Ok(vec![None, Some("7".to_owned())]));
    assert!(definition.canonical_parts(&[Some("tea"), Some("x")]).unwrap_err().contains("quantity"));
    let by_amount = Definition::parse("SELECT amount, count(*) AS n FROM events GROUP BY amount", &schema()).unwrap();
    assert_eq!(by_amount.canonical_parts(&[Some("1.50")]), Ok(vec![Some("1.5000".to_owned())]));
    assert!(by_amount.canonical_parts(&[Some("1.23456")]).is_err(), "a rounded key is another key");
    assert!(definition.canonical_parts(&[None; 3]).unwrap_err().contains("article, quantity"));
}

/// Proves that all keys of a user lie where the user's events lie.
#[test]
fn a_users_keys_lie_together() {
    let (definition, keys) =
        keys("SELECT count(*) AS n FROM events GROUP BY user_id, item", &[sale("user-7", Some("tea"), 1), sale("user-7", None, 1)]);
    assert!(definition.is_by_user());
    assert!(keys.iter().all(|key| crate::shard_of_key(key, 64) == crate::shard_of("user-7", 64)));
}

/// Proves that a key that is too long fails on its event, and that one that is just not is taken.
#[test]
fn long_keys() {
    let definition = Definition::parse("SELECT item, count(*) AS n FROM events GROUP BY item", &schema()).unwrap();
    let of = |bytes: usize| {
        let event = sale("u", Some(&"x".repeat(bytes)), 1);
        partial(&definition, &to_batch([(&event, Position { partition: 0, offset: 0, append_time_us: 0, content_hash: 0 })], &schema()))
    };
    assert!(of(crate::key::MAX_KEY_BYTES).is_ok());
    assert_eq!(of(crate::key::MAX_KEY_BYTES + 1).unwrap_err().reason(), "the view's key has 1025 bytes; the longest has 1024");
}

/// Proves that a limit is counted back to the start of a bucket.
#[test]
fn keeps_whole_buckets() {
    let sql = "-- keep: 36h\nSELECT user_id, count(*) AS n FROM events GROUP BY user_id, date_trunc('day', event_time)";
    let definition = Definition::parse(sql, &schema()).unwrap();
    const HOUR: i64 = 3_600_000_000;
    assert_eq!(definition.kept_from(100 * 24 * HOUR).unwrap(), Some(98 * 24 * HOUR));
    assert_eq!(definition.kept_from(100 * 24 * HOUR + 12 * HOUR).unwrap(), Some(99 * 24 * HOUR));
    assert_eq!(Definition::user_stats(&schema()).kept_from(0).unwrap(), None);
    assert_ne!(definition.fingerprint(), Definition::parse(&sql.replace("36h", "37h"), &schema()).unwrap().fingerprint());
}

/// Proves that names do not decide a fingerprint, and that meaning, types and settings do.
#[test]
fn fingerprints() {
    let print = |sql: &str, schema: &EventSchema| Definition::parse(sql, schema).unwrap().fingerprint().to_owned();
    let base = "SELECT user_id, sum(amount) AS revenue FROM events GROUP BY user_id";
    let spaced = "select user_id,\n  sum(amount) as revenue -- money\nFROM events GROUP BY user_id";
    assert_eq!(print(base, &schema()), print(spaced, &schema()));
    for other in [
        "SELECT user_id, sum(amount) AS income FROM events GROUP BY user_id",
        "SELECT user_id, sum(amount) AS revenue FROM events WHERE amount > 0 GROUP BY user_id",
        "SELECT user_id, sum(quantity) AS revenue FROM events GROUP BY user_id",
    ] {
        assert_ne!(print(base, &schema()), print(other, &schema()), "{other}");
    }
    let finer = EventSchema { amount: String::from("decimal(20,6)").try_into().unwrap(), ..schema() };
    assert_ne!(print(base, &schema()), print(base, &finer));
}

/// Proves that edges come from the bucket expression itself, months and weeks included.
#[test]
fn edges() {
    let edges = |unit: &str, time_us| {
        let sql = format!("SELECT user_id, count(*) FROM events GROUP BY user_id, {unit}");
        Definition::parse(&sql, &schema()).unwrap().edges_near(time_us).unwrap()
    };
    const DAY: i64 = 86_400_000_000;
    assert_eq!(edges("date_trunc('day', event_time)", 5), Edges { start_us: 0, end_us: DAY });
    assert_eq!(edges("date_trunc('day', event_time)", -1), Edges { start_us: -DAY, end_us: 0 });
    assert_eq!(edges("date_trunc('month', event_time)", 40 * DAY), Edges { start_us: 31 * DAY, end_us: 59 * DAY });
    assert_eq!(edges("date_bin(interval '15 minutes', event_time)", 0), Edges { start_us: 0, end_us: 900_000_000 });
}

/// Proves that a local day is one bucket where midnight happens twice and where it is skipped, and that what is no unit or zone is
/// refused at its place.
#[test]
fn local_days() {
    let parse = |unit: &str, zone: &str| {
        let bucket = format!("date_trunc('{unit}', event_time, {zone})");
        Definition::parse(&format!("SELECT user_id,\n {bucket} AS day, count(*) AS n FROM events GROUP BY user_id, {bucket}"), &schema())
    };
    let definition = parse("day", "'America/Havana'").unwrap();
    assert_eq!(definition.bucket_name(), Some("day"));
    let us = |text: &str| text.parse::<chrono::DateTime<chrono::Utc>>().unwrap().timestamp_micros();
    let edges = |time| definition.edges_near(us(time)).unwrap();
    let twice = Edges { start_us: us("2025-11-02T04:00:00Z"), end_us: us("2025-11-03T05:00:00Z") };
    assert!(["2025-11-02T04:30:00Z", "2025-11-02T05:00:00Z", "2025-11-03T04:59:59Z"].into_iter().all(|time| edges(time) == twice));
    let skipped = Edges { start_us: us("2025-03-09T05:00:00Z"), end_us: us("2025-03-10T04:00:00Z") };
    assert_eq!(edges("2025-03-09T12:00:00Z"), skipped);
    assert_eq!(definition.are_edges(&[twice.start_us, us("2025-11-02T05:00:00Z")]).unwrap(), [true, false]);
    for (unit, zone, column, fragment) in
        [("hour", "'UTC'", 13, "units day"), ("day", "'Havana'", 32, "not a time zone"), ("day", "item", 32, "write a text")]
    {
        let refused = parse(unit, zone).unwrap_err();
        assert!(refused.message.contains(fragment), "{refused}");
        assert_eq!(refused.place, Some(Place { line: 2, column }), "{refused}");
    }
}

/// Proves that a definition names every column that it reads, wherever it reads it: what it does not name is not read from the
/// master dataset, and would be null there.
#[test]
fn columns_that_are_read() {
    let of = |sql: &str| {
        let mut columns = Definition::parse(sql, &schema()).unwrap().event_columns().to_vec();
        columns.sort_unstable();
        columns
    };
    assert_eq!(of("SELECT user_id, count(*) AS n FROM events GROUP BY user_id"), ["user_id"]);
    assert_eq!(of("SELECT user_id, sum(quantity) AS n FROM events GROUP BY user_id"), ["quantity", "user_id"]);
    assert_eq!(of("SELECT user_id, count(*) AS n FROM events WHERE amount > 0 GROUP BY user_id"), ["amount", "user_id"]);
    assert_eq!(
        of("SELECT user_id, count(*) FILTER (WHERE event_type = 'return') AS n FROM events GROUP BY user_id"),
        ["event_type", "user_id"]
    );
    assert_eq!(of("SELECT user_id, count(*) AS n FROM events GROUP BY user_id, date_trunc('day', event_time)"), ["event_time", "user_id"]);
}

/// Proves that integers are summed without wrapping around at 64 bits.
#[test]
fn integer_sums_do_not_wrap() {
    let definition = Definition::parse("SELECT user_id, sum(quantity) AS n FROM events GROUP BY user_id", &schema()).unwrap();
    let events: Vec<_> = (0..2)
        .map(|i| {
            let event = Event {
                event_id: i.to_string(),
                user_id: "u".into(),
                event_time_us: 0,
                event_type: String::new(),
                amount: None,
                attributes: [("quantity".to_owned(), i64::MAX.to_string())].into(),
            };
            (event, Position { partition: 0, offset: i, append_time_us: 0, content_hash: 0 })
        })
        .collect();
    let batch = to_batch(events.iter().map(|(e, p)| (e, *p)), &schema());
    let outputs = finish(&definition, [&partial(&definition, &batch).unwrap()], Granularity::Total).unwrap();
    let sum = arrow::util::display::array_value_to_string(outputs.column(3), 0).unwrap();
    assert_eq!(sum, "18446744073709551614");
}

/// Proves that the states of every aggregate with a frozen format are still written as they were: stored views outlive
/// releases. A change here needs a new number in [`fingerprint::FROZEN`], not a new expectation.
#[test]
fn frozen_states() {
    let expected = [
        ("approx_distinct", "approx_distinct(item)", "sum-289594289195"),
        ("approx_percentile_cont", "approx_percentile_cont(quantity, 0.5)", "sum-db2620cb795a"),
        ("avg", "avg(amount)", "sum-23d6cb0226d4"),
        ("bool_and", "bool_and(quantity > 2)", "sum-fc5220f8bc71"),
        ("bool_or", "bool_or(quantity > 2)", "sum-2d35dbe62fc1"),
        ("count", "count(DISTINCT item), count(*)", "sum-a9686cafebb7"),
        ("first_value", "first_value(item ORDER BY event_time)", "sum-f452313d79f9"),
        ("last_value", "last_value(item ORDER BY event_time)", "sum-d7e02f555df8"),
        ("max", "max(amount)", "sum-03b17fd239ab"),
        ("min", "min(event_time)", "sum-deb67c875f94"),
        ("stddev", "stddev(quantity)", "sum-96c2e64079e7"),
        ("stddev_pop", "stddev_pop(quantity)", "sum-96c2e64079e7"),
        ("sum", "sum(amount), sum(quantity)", "sum-f5f9edd67b7c"),
        ("var", "var(quantity)", "sum-96c2e64079e7"),
    ];
    assert_eq!(expected.map(|(name, ..)| name), fingerprint::FROZEN.map(|(name, _)| name));
    let event = |i: i64| Event {
        event_id: i.to_string(),
        user_id: format!("u{}", i % 2),
        event_time_us: i * 1_000_003,
        event_type: String::new(),
        amount: Some(i128::from(i) * 12_345),
        attributes: [("quantity".to_owned(), i.to_string()), ("item".to_owned(), format!("item-{}", i % 3))].into(),
    };
    let events: Vec<_> = (0..9).map(|i| (event(i), Position { partition: 0, offset: i, append_time_us: 0, content_hash: 0 })).collect();
    let batch = to_batch(events.iter().map(|(e, p)| (e, *p)), &schema());
    let found = expected.map(|(name, measures, _)| {
        let definition = Definition::parse(&format!("SELECT user_id, {measures} FROM events GROUP BY user_id"), &schema()).unwrap();
        let states = partial(&definition, &batch).unwrap();
        let mut digest = crate::digest::Digest::default();
        digest.add(&states, &vec![true; states.num_columns()]);
        (name, measures, digest.to_string()[..16].to_owned())
    });
    assert_eq!(found, expected.map(|(name, measures, digest)| (name, measures, digest.to_owned())));
}

/// Proves that an expression too deep for a stack is refused with its place before anything descends into it, and that the
/// deepest one that passes fits into the stack of a server's thread.
#[test]
fn deep_expressions() {
    let chain = |terms: usize| format!("SELECT user_id, sum({}) FROM events GROUP BY user_id", vec!["quantity"; terms].join(" + "));
    let parse =
        |sql: String| std::thread::Builder::new().stack_size(2 << 20).spawn(move || Definition::parse(&sql, &deep_schema()).map(|_| ()));
    for terms in [200, 20_000] {
        let refused = parse(chain(terms)).unwrap().join().unwrap().unwrap_err().to_string();
        assert!(refused.contains("without a comma") && refused.contains("line 1"), "{refused}");
    }
    parse(chain(140)).unwrap().join().unwrap().unwrap();
}

fn deep_schema() -> EventSchema {
    EventSchema { attributes: [("quantity".to_owned(), AttributeType::Int64)].into(), ..Default::default() }
}
