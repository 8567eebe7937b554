//! SELECTs from decisions: mostly what a view may be, with arguments of the right kind, and a little beyond.

use crate::choices::Choices;

const LITERALS: [&str; 24] = [
    "0",
    "1",
    "-1",
    "2.5",
    "1e308",
    "NULL",
    "true",
    "''",
    "'sale'",
    "'day'",
    "'%a_'",
    "9223372036854775807",
    "9223372036854775808",
    "99999999999999999999999999999999999999",
    "INTERVAL '1' DAY",
    "INTERVAL '3 months'",
    "DATE '2024-02-29'",
    "TIMESTAMP '1900-01-01T00:00:00Z'",
    "'NaN'::double",
    "X'00ff'",
    "0.1",
    "'2024-02-29'",
    "'ä€😀'",
    "-9223372036854775808",
];

const TYPES: [&str; 16] = [
    "bigint",
    "int",
    "smallint",
    "tinyint unsigned",
    "double",
    "float",
    "decimal(38,10)",
    "decimal(28,8)",
    "decimal(5,2)",
    "varchar",
    "boolean",
    "date",
    "timestamp",
    "timestamp(3)",
    "bytea",
    "time",
];

const UNITS: [&str; 12] =
    ["year", "quarter", "month", "week", "day", "hour", "minute", "second", "millisecond", "microsecond", "century", "Day"];

/// What an expression is, roughly.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Number,
    Text,
    Time,
    Truth,
}

use Kind::{Number, Text, Time, Truth};

const KINDS: [Kind; 4] = [Number, Text, Time, Truth];

/// Aggregates with the kinds of their arguments.
const AGGREGATES: [(&str, &[Kind]); 34] = [
    ("sum", &[Number]),
    ("avg", &[Number]),
    ("stddev", &[Number]),
    ("stddev_pop", &[Number]),
    ("var", &[Number]),
    ("var_pop", &[Number]),
    ("median", &[Number]),
    ("approx_median", &[Number]),
    ("min", &[Number]),
    ("max", &[Time]),
    ("min", &[Text]),
    ("max", &[Truth]),
    ("count", &[Text]),
    ("count", &[Number]),
    ("approx_distinct", &[Text]),
    ("approx_distinct", &[Number]),
    ("approx_distinct", &[Time]),
    ("bool_and", &[Truth]),
    ("bool_or", &[Truth]),
    ("first_value", &[Text]),
    ("last_value", &[Number]),
    ("first_value", &[Time]),
    ("array_agg", &[Text]),
    ("array_agg", &[Number]),
    ("corr", &[Number, Number]),
    ("covar_samp", &[Number, Number]),
    ("covar_pop", &[Number, Number]),
    ("regr_slope", &[Number, Number]),
    ("regr_count", &[Number, Number]),
    ("regr_r2", &[Number, Number]),
    ("string_agg", &[Text, Text]),
    ("any_value", &[Number]),
    ("nth_value", &[Text, Number]),
    ("grouping", &[Text]),
];

/// Functions with the kinds of their arguments.
const NUMBERS: [(&str, &[Kind]); 24] = [
    ("abs", &[Number]),
    ("ceil", &[Number]),
    ("floor", &[Number]),
    ("round", &[Number]),
    ("sqrt", &[Number]),
    ("signum", &[Number]),
    ("power", &[Number, Number]),
    ("ln", &[Number]),
    ("exp", &[Number]),
    ("trunc", &[Number]),
    ("factorial", &[Number]),
    ("gcd", &[Number, Number]),
    ("lcm", &[Number, Number]),
    ("char_length", &[Text]),
    ("ascii", &[Text]),
    ("octet_length", &[Text]),
    ("strpos", &[Text, Text]),
    ("levenshtein", &[Text, Text]),
    ("find_in_set", &[Text, Text]),
    ("coalesce", &[Number, Number]),
    ("nullif", &[Number, Number]),
    ("greatest", &[Number, Number]),
    ("least", &[Number, Number]),
    ("atan2", &[Number, Number]),
];
const TEXTS: [(&str, &[Kind]); 20] = [
    ("lower", &[Text]),
    ("upper", &[Text]),
    ("initcap", &[Text]),
    ("reverse", &[Text]),
    ("btrim", &[Text]),
    ("substr", &[Text, Number]),
    ("left", &[Text, Number]),
    ("right", &[Text, Number]),
    ("repeat", &[Text, Number]),
    ("lpad", &[Text, Number]),
    ("rpad", &[Text, Number, Text]),
    ("concat", &[Text, Text]),
    ("concat_ws", &[Text, Text, Number]),
    ("replace", &[Text, Text, Text]),
    ("split_part", &[Text, Text, Number]),
    ("translate", &[Text, Text, Text]),
    ("to_hex", &[Number]),
    ("chr", &[Number]),
    ("coalesce", &[Text, Text]),
    ("to_char", &[Time, Text]),
];
const TIMES: [(&str, &[Kind]); 5] =
    [("to_timestamp", &[Number]), ("to_timestamp", &[Text]), ("coalesce", &[Time, Time]), ("nullif", &[Time, Time]), ("now", &[])];
const TRUTHS: [(&str, &[Kind]); 4] =
    [("starts_with", &[Text, Text]), ("contains", &[Text, Text]), ("isnan", &[Number]), ("ends_with", &[Text, Text])];

/// One statement.
pub fn select(choices: &mut Choices<'_>) -> String {
    let bucket = bucket(choices);
    let mut outputs = vec!["user_id".to_owned()];
    outputs.extend(bucket.clone());
    for i in 0..=choices.below(3) {
        outputs.push(format!("{} AS m{i}", measure(choices)));
    }
    let mut sql = format!("SELECT {} FROM events", outputs.join(", "));
    if choices.one_in(4) {
        sql += &format!(" WHERE {}", expression(choices, Truth, 2));
    }
    sql += " GROUP BY user_id";
    if let Some(bucket) = bucket {
        sql += &format!(", {bucket}");
    }
    sql
}

fn bucket(choices: &mut Choices<'_>) -> Option<String> {
    match choices.below(8) {
        0 | 1 => None,
        2..=4 => Some(format!("date_trunc('{}', event_time)", choices.pick(&UNITS))),
        5 => Some(format!("date_bin(INTERVAL '{}' {}, event_time)", choices.below(400), choices.pick(&UNITS))),
        6 => Some(format!("CAST(event_time AS {})", choices.pick(&["date", "timestamp", "timestamp(3)", "timestamp(9)"]))),
        _ => Some(expression(choices, Time, 2)),
    }
}

/// An aggregate, or a little arithmetic over some.
fn measure(choices: &mut Choices<'_>) -> String {
    match choices.below(10) {
        0 => format!("{} {} {}", aggregate(choices), operator(choices), aggregate(choices)),
        1 => format!("{}({})", NUMBERS[choices.below(NUMBERS.len())].0, aggregate(choices)),
        2 => format!("CAST({} AS {})", aggregate(choices), choices.pick(&TYPES)),
        _ => aggregate(choices),
    }
}

fn aggregate(choices: &mut Choices<'_>) -> String {
    if choices.one_in(8) {
        return "count(*)".to_owned();
    }
    if choices.one_in(12) {
        let rank = choices.pick(&["0.95", "0", "1", "2", "NULL"]);
        return format!("approx_percentile_cont({}, {rank})", expression(choices, Number, 1));
    }
    let (name, kinds) = AGGREGATES[choices.below(AGGREGATES.len())];
    let distinct = if choices.one_in(6) { "DISTINCT " } else { "" };
    let mut text = format!("{name}({distinct}{}", arguments(choices, kinds, 2));
    if choices.one_in(6) || name.ends_with("_value") && choices.one_in(2) {
        text += &format!(" ORDER BY {}{}", expression(choices, Time, 1), choices.pick(&["", " DESC", " NULLS FIRST", ", item"]));
    }
    text += ")";
    if choices.one_in(5) {
        text += &format!(" FILTER (WHERE {})", expression(choices, Truth, 1));
    }
    text
}

fn arguments(choices: &mut Choices<'_>, kinds: &[Kind], depth: usize) -> String {
    kinds.iter().map(|kind| expression(choices, *kind, depth)).collect::<Vec<_>>().join(", ")
}

/// One of `kind`, or now and then of any.
fn expression(choices: &mut Choices<'_>, kind: Kind, depth: usize) -> String {
    let kind = if choices.one_in(24) { KINDS[choices.below(4)] } else { kind };
    let Some(inner) = depth.checked_sub(1) else { return leaf(choices, kind) };
    match choices.below(8) {
        0 => match kind {
            Number => format!("({} {} {})", expression(choices, Number, inner), operator(choices), expression(choices, Number, inner)),
            Text => format!("({} || {})", expression(choices, Text, inner), expression(choices, Text, inner)),
            Time => format!("date_trunc('{}', {})", choices.pick(&UNITS), expression(choices, Time, inner)),
            Truth => condition(choices, inner),
        },
        1 => {
            let functions: &[(&str, &[Kind])] = match kind {
                Number => &NUMBERS,
                Text => &TEXTS,
                Time => &TIMES,
                Truth => &TRUTHS,
            };
            let (name, kinds) = functions[choices.below(functions.len())];
            format!("{name}({})", arguments(choices, kinds, inner))
        }
        2 => {
            let then = expression(choices, kind, inner);
            format!("CASE WHEN {} THEN {then} ELSE {} END", condition(choices, inner), leaf(choices, kind))
        }
        3 if kind == Number => format!("EXTRACT({} FROM {})", choices.pick(&UNITS), expression(choices, Time, inner)),
        4 => {
            let from = KINDS[choices.below(4)];
            format!("CAST({} AS {})", expression(choices, from, inner), choices.pick(types(kind)))
        }
        _ => leaf(choices, kind),
    }
}

fn types(kind: Kind) -> &'static [&'static str] {
    match kind {
        Number => &["bigint", "int", "smallint", "double", "float", "decimal(38,10)", "decimal(28,8)", "decimal(5,2)"],
        Text => &["varchar", "text"],
        Time => &["timestamp", "timestamp(3)", "date", "timestamp(9)"],
        Truth => &["boolean"],
    }
}

fn leaf(choices: &mut Choices<'_>, kind: Kind) -> String {
    if choices.one_in(40) {
        return choices.pick(&LITERALS).to_owned();
    }
    let leaves: &[&str] = match kind {
        Number => &["amount", "price", "quantity", "weight", "quantity", "0", "1", "-1", "2.5", "9223372036854775807", "1e308"],
        Text => &["item", "event_type", "event_id", "user_id", "''", "'sale'", "'ä€😀'"],
        Time => &["event_time", "due", "TIMESTAMP '1900-01-01T00:00:00Z'", "event_time"],
        Truth => &["fine", "fine", "true", "false", "NULL"],
    };
    choices.pick(leaves).to_owned()
}

fn condition(choices: &mut Choices<'_>, depth: usize) -> String {
    let kind = KINDS[choices.below(4)];
    match choices.below(7) {
        0 => format!("({} AND {})", leaf(choices, Truth), expression(choices, Truth, depth)),
        1 => format!("{} IS NOT NULL", expression(choices, kind, depth)),
        2 => format!("{} IN ({}, {})", expression(choices, kind, depth), leaf(choices, kind), leaf(choices, kind)),
        3 => format!("{} LIKE {}", expression(choices, Text, depth), choices.pick(&["'%a_'", "''", "'%'", "item"])),
        4 => format!("{} BETWEEN {} AND {}", expression(choices, kind, depth), leaf(choices, kind), leaf(choices, kind)),
        5 => format!("NOT {}", expression(choices, Truth, depth)),
        _ => {
            let (left, right) = (expression(choices, kind, depth), leaf(choices, kind));
            format!("{left} {} {right}", choices.pick(&["=", "<", ">=", "<>", "IS DISTINCT FROM"]))
        }
    }
}

fn operator(choices: &mut Choices<'_>) -> &'static str {
    choices.pick(&["+", "-", "*", "/", "%", "+", "-", "*", "/", "&", "<<"])
}
