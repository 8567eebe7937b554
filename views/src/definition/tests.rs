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
        ("SELECT event_type, count(*) FROM events GROUP BY event_type", None, "user_id"),
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
        ("SELECT user_id, item, count(*) FROM events GROUP BY user_id, item", None, "made of event_time"),
        ("SELECT user_id, count(*) FROM events GROUP BY user_id, date_trunc('day', event_time), item", None, "one time bucket"),
        ("SELECT user_id, count(*) FROM events GROUP BY user_id, date_part('year', event_time)", None, "must be a time"),
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

/// Proves that a definition names every column that it reads, wherever it reads it: what it does not name is not read from the
/// master dataset, and would be null there.
#[test]
fn columns_that_are_read() {
    let of = |sql: &str| {
        let mut columns = Definition::parse(sql, &schema()).unwrap().event_columns();
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
        ("approx_distinct", "approx_distinct(item)", "5c8bf652c5ffe119"),
        ("approx_percentile_cont", "approx_percentile_cont(quantity, 0.5)", "0eb593068d2fa6ca"),
        ("avg", "avg(amount)", "39cdb14143514ffd"),
        ("bool_and", "bool_and(quantity > 2)", "4c10800bd04218ad"),
        ("bool_or", "bool_or(quantity > 2)", "1da60f6d45d8f94d"),
        ("count", "count(DISTINCT item), count(*)", "dfcc561554cbc1f2"),
        ("first_value", "first_value(item ORDER BY event_time)", "1ec20d24cee42749"),
        ("last_value", "last_value(item ORDER BY event_time)", "0c61474148553737"),
        ("max", "max(amount)", "f03c53d06735e893"),
        ("min", "min(event_time)", "588fb190e8993eee"),
        ("stddev", "stddev(quantity)", "b0d0fc9f485c6e9c"),
        ("stddev_pop", "stddev_pop(quantity)", "b0d0fc9f485c6e9c"),
        ("sum", "sum(amount), sum(quantity)", "04cbd86e42e98b63"),
        ("var", "var(quantity)", "b0d0fc9f485c6e9c"),
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
        digest.update(&states, &vec![true; states.num_columns()]);
        (name, measures, digest.finish()[..16].to_owned())
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
