//! An event as it is sent: refused naming the first field that is wrong, or kept, and then it is the same event in the log's
//! record, in its columns and in the built-in view.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Decimal128Type, Int64Type};
use merganser_proto::v1;
use prost::Message;
use serde_json::Value;
use storage::record::{self, Record};
use views::Definition;
use views::columns::to_batch;
use views::decimal::DecimalType;
use views::event::{self, Event, RawEvent};
use views::fold::{Granularity, finish, partial};
use views::schema::{AttributeType, EventSchema};

use super::number::{decimal_text, time_text};
use crate::choices::Choices;
use crate::naive;

/// A narrow amount without attributes, and a wide one with an attribute of every type.
static SCHEMAS: LazyLock<[(EventSchema, Definition); 2]> = LazyLock::new(|| {
    let decimal = |precision, scale| AttributeType::Decimal(DecimalType { precision, scale });
    let typed = [
        ("due", AttributeType::Timestamp),
        ("fine", AttributeType::Bool),
        ("item", AttributeType::String),
        ("price", AttributeType::Float64),
        ("quantity", AttributeType::Int64),
        ("share", decimal(38, 38)),
        ("tiny", decimal(1, 0)),
        ("weight", decimal(38, 10)),
    ];
    let attributes = typed.map(|(name, kind)| (name.to_owned(), kind)).into();
    [EventSchema::default(), EventSchema { amount: decimal(28, 10), attributes }].map(|schema| {
        schema.validate().expect("a schema that a server would start with");
        let definition = Definition::user_stats(&schema);
        (schema, definition)
    })
});

pub(crate) fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let (schema, definition) = &SCHEMAS[choices.below(2)];
    if choices.one_in(4) {
        any_record(choices.rest(), schema);
        return;
    }
    let raw = match choices.one_in(4) {
        true => match v1::Event::decode(choices.rest()) {
            Ok(sent) => from_message(sent),
            Err(_) => return,
        },
        false => from_choices(&mut choices),
    };
    match (event::check(&raw, schema), wrong_field(&raw, schema)) {
        (Ok(event), None) => {
            assert_eq!(Some(&event), expected(&raw, schema).as_ref(), "the event is not what was sent");
            kept(&event, schema, definition);
        }
        (Err(refusal), Some(field)) => {
            assert_eq!(refusal.field, field, "{}", refusal.reason);
            assert!(!refusal.reason.is_empty());
        }
        (outcome, field) => panic!("{raw:?}: {outcome:?}, but the wrong field is {field:?}"),
    }
}

fn from_message(sent: v1::Event) -> RawEvent {
    RawEvent {
        event_id: sent.event_id,
        user_id: sent.user_id,
        event_time: sent.event_time.map(|time| (time.seconds, time.nanos)),
        event_type: sent.event_type,
        amount: sent.amount,
        attributes: sent.attributes,
    }
}

fn from_choices(choices: &mut Choices<'_>) -> RawEvent {
    let id = |choices: &mut Choices<'_>| match choices.below(8) {
        0 => "x".repeat(choices.below(300)),
        1 => "é".repeat(choices.below(140)),
        2 => choices.text(12) + "\0",
        3 => String::new(),
        _ => choices.text(12),
    };
    let event_time = match choices.below(4) {
        0 => None,
        1 => Some((choices.number() as i64, choices.number() as i32)),
        _ => Some((choices.below(1 << 24) as i64 * 600 - 2_300_000_000, choices.below(1 << 24) as i32 * 60 - 1)),
    };
    let amount = if choices.one_in(3) { String::new() } else { decimal_text(choices) };
    let mut attributes = BTreeMap::new();
    for _ in 0..choices.below(5) {
        let known = ["due", "fine", "item", "price", "quantity", "share", "tiny", "weight", "", "other", "_extra"];
        let value = match choices.below(6) {
            0 => decimal_text(choices),
            1 => time_text(choices),
            2 => choices.pick(&["true", "false", "NaN", "inf", "1e400", "-0", "9223372036854775808", "", "+7", " 7"]).to_owned(),
            3 => "y".repeat(choices.below(70_000)),
            _ => choices.text(12),
        };
        attributes.insert(choices.pick(&known).to_owned(), value);
    }
    RawEvent { event_id: id(choices), user_id: id(choices), event_time, event_type: id(choices), amount, attributes }
}

/// The first field, in the order of the message, that the contract refuses.
fn wrong_field(raw: &RawEvent, schema: &EventSchema) -> Option<String> {
    let bad_id = |id: &str, most: usize| !(1..=most).contains(&id.len()) || id.bytes().any(|b| b == 0);
    let whole: usize = raw.attributes.iter().map(|(name, value)| format!("{name}{value}").len()).sum();
    let fields = [
        ("event_id", bad_id(&raw.event_id, 128)),
        ("user_id", bad_id(&raw.user_id, 256)),
        ("event_time", micros(raw).is_none()),
        ("event_type", raw.event_type.len() > 128),
        ("amount", !raw.amount.is_empty() && amount(raw, schema).is_none()),
        ("attributes", whole > 65_536),
    ];
    if let Some((field, _)) = fields.into_iter().find(|(_, wrong)| *wrong) {
        return Some(field.to_owned());
    }
    let fits = |name: &String, text: &str| match schema.attributes.get(name) {
        None | Some(AttributeType::String) => true,
        Some(AttributeType::Bool) => ["true", "false"].contains(&text),
        Some(AttributeType::Int64) => text.parse::<i64>().is_ok(),
        Some(AttributeType::Float64) => text.parse::<f64>().is_ok_and(f64::is_finite),
        Some(AttributeType::Decimal(kind)) => naive::decimal(text, kind.precision.into(), kind.scale.into()).is_some(),
        Some(kind @ AttributeType::Timestamp) => match naive::time(text) {
            Some(us) => (-2_208_988_800_000_000..7_258_118_400_000_000).contains(&us),
            // Written in another way that RFC 3339 allows, or wrong; `number` fuzzes it.
            None => event::Typed::parse(text, *kind).is_ok(),
        },
    };
    raw.attributes.iter().find(|(name, text)| !fits(name, text)).map(|(name, _)| format!("attributes.{name}"))
}

fn micros(raw: &RawEvent) -> Option<i64> {
    let (seconds, nanos) = raw.event_time?;
    let us = i128::from(seconds) * 1_000_000 + i128::from(nanos) / 1000;
    let fits = (0..=999_999_999).contains(&nanos) && (-2_208_988_800_000_000..7_258_118_400_000_000).contains(&us);
    fits.then_some(us as i64)
}

fn amount(raw: &RawEvent, schema: &EventSchema) -> Option<i128> {
    let kind = schema.amount_type();
    naive::decimal(&raw.amount, kind.precision.into(), kind.scale.into())
}

fn expected(raw: &RawEvent, schema: &EventSchema) -> Option<Event> {
    Some(Event {
        event_id: raw.event_id.clone(),
        user_id: raw.user_id.clone(),
        event_time_us: micros(raw)?,
        event_type: raw.event_type.clone(),
        amount: amount(raw, schema),
        attributes: raw.attributes.clone(),
    })
}

/// An accepted event comes back from its record, and is one event in every other form.
fn kept(event: &Event, schema: &EventSchema, definition: &Definition) {
    let bytes = record::encode(event, 7, schema);
    assert!(bytes.len() <= storage::log::MAX_RECORD_BYTES, "an accepted event does not fit into the log");
    let Ok(Record::Event(read, at)) = record::decode(&bytes, 1, 2, schema) else { panic!("it was just encoded") };
    assert_eq!((&read, at.partition, at.offset, at.append_time_us), (event, 1, 2, 7));
    assert_eq!(at.content_hash, record::content_hash(event, schema));

    let columns = to_batch([(event, at)], schema);
    let extra = columns.column_by_name("_extra").expect("it is a column of the log").as_string::<i32>();
    let undeclared = event.attributes.iter().filter(|(name, _)| !schema.attributes.contains_key(*name));
    let undeclared: BTreeMap<_, _> = undeclared.map(|(name, text)| (name.clone(), Value::from(text.clone()))).collect();
    let shown = extra.is_valid(0).then(|| serde_json::from_str::<BTreeMap<String, Value>>(extra.value(0)).expect("it is JSON"));
    assert_eq!(shown.unwrap_or_default(), undeclared, "_extra holds what is declared nowhere");

    let states = partial(definition, &columns).expect("the built-in view takes every accepted event");
    let answer = finish(definition, [&states], Granularity::Total).expect("its states are whole");
    let column = |name: &str| answer.column_by_name(name).expect("it is a measure").clone();
    assert_eq!(column("event_count").as_primitive::<Int64Type>().value(0), 1);
    let revenue = column("revenue");
    let revenue = revenue.as_primitive::<Decimal128Type>();
    assert_eq!(revenue.is_valid(0).then(|| revenue.value(0)), event.amount);
}

/// Any bytes are refused as a record, naming its place, or are an event or an erasure that its own record gives again.
fn any_record(bytes: &[u8], schema: &EventSchema) {
    match record::decode(bytes, 3, 4, schema) {
        Err(error) => assert!(error.to_string().starts_with("record 4 of partition 3"), "{error}"),
        Ok(read) => {
            let bytes = match &read {
                Record::Event(event, at) => record::encode(event, at.append_time_us, schema),
                Record::Erasure(erasure) => record::encode_erasure(&erasure.user_id, erasure.append_time_us),
            };
            assert_eq!(record::decode(&bytes, 3, 4, schema).expect("its own record"), read);
        }
    }
}
