//! The name of a definition's states: equal names mean states that may be merged, byte for byte the same format.

use arrow::datatypes::SchemaRef;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;

use super::lower::Lowered;
use super::session::PINNED;
use crate::schema::EventSchema;

/// Raise when the meaning of a definition changes without its text, say by another completion of ORDER BY.
const MEANING: u32 = 1;

/// Hex of 16 bytes: the SQL as the parser writes it, how long it keeps, the rules of time zones if it asks for them, the pinned settings, the event schema, the states and their formats.
pub(super) fn of(lowered: &Lowered, keep_us: Option<i64>, states: &SchemaRef, schema: &EventSchema) -> String {
    let mut text = format!("merganser view {MEANING}\n{}\n", lowered.normal_sql);
    if let Some(keep_us) = keep_us {
        text += &format!("keep {keep_us}\n");
    }
    if lowered.is_local {
        text += &format!("time zones {}\n", crate::calendar::DATABASE_VERSION);
    }
    for (name, value) in PINNED {
        text += &format!("{name}={value}\n");
    }
    for field in schema.arrow().fields() {
        text += &format!("event {} {}\n", field.name(), field.data_type());
    }
    for field in states.fields() {
        text += &format!("state {} {}\n", field.name(), field.data_type());
    }
    for aggregate in &lowered.aggregates {
        text += &format!("format {}\n", state_format(&aggregate.function));
    }
    blake3::hash(text.as_bytes()).to_hex()[..32].to_owned()
}

/// Aggregates whose state bytes are frozen by a test, with the number of their format. Raise the number of one when a
/// new DataFusion writes it otherwise.
pub(crate) const FROZEN: [(&str, u32); 14] = [
    ("approx_distinct", 1),
    ("approx_percentile_cont", 1),
    ("avg", 1),
    ("bool_and", 1),
    ("bool_or", 1),
    ("count", 1),
    ("first_value", 1),
    ("last_value", 1),
    ("max", 1),
    ("min", 1),
    ("stddev", 1),
    ("stddev_pop", 1),
    ("sum", 1),
    ("var", 1),
];

/// The format of an aggregate that nobody froze may change with any major version of the engine.
fn state_format(function: &AggregateFunctionExpr) -> String {
    let name = function.fun().name();
    let distinct = if function.is_distinct() { " distinct" } else { "" };
    match FROZEN.iter().find(|(frozen, _)| *frozen == name) {
        Some((_, format)) => format!("{name}{distinct}/{format}"),
        None => format!("{name}{distinct}/datafusion-{}", datafusion::DATAFUSION_VERSION.split('.').next().unwrap_or_default()),
    }
}
