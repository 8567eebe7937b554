//! Events as Arrow columns, in the order of [`EventSchema::arrow`].

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, Decimal128Builder, Float64Builder, Int32Builder, Int64Builder, RecordBatch, StringBuilder,
    TimestampMicrosecondBuilder,
};

use crate::definition::Definition;
use crate::event::{Event, Typed};
use crate::schema::{AttributeType, EXTRA, EventSchema};

/// Where and when an event was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Log partition.
    pub partition: i32,
    /// Offset in it.
    pub offset: i64,
    /// Microseconds since 1970, by the server's clock; it decides nothing.
    pub append_time_us: i64,
    /// XXH3-64 of the content.
    pub content_hash: i64,
}

/// The columns of `events`, one row each, in order.
///
/// An attribute whose text is not of the declared type, which an older schema may have let in, becomes null and
/// stays readable in `_extra`.
#[must_use]
pub fn to_batch<'a>(events: impl IntoIterator<Item = (&'a Event, Position)>, schema: &EventSchema) -> RecordBatch {
    build(events, schema, |_| true)
}

/// [`to_batch`] for one definition: text and attributes that it does not read are left empty, which spares most of the work.
#[must_use]
pub fn to_batch_for<'a>(events: impl IntoIterator<Item = (&'a Event, Position)>, definition: &Definition) -> RecordBatch {
    build(events, definition.schema(), |column| definition.event_columns().iter().any(|read| read == column))
}

fn build<'a>(events: impl IntoIterator<Item = (&'a Event, Position)>, schema: &EventSchema, reads: impl Fn(&str) -> bool) -> RecordBatch {
    let mut columns = Columns::new(schema, reads);
    for (event, position) in events {
        columns.push(event, position, schema);
    }
    columns.finish(schema)
}

struct Columns {
    event_id: StringBuilder,
    user_id: StringBuilder,
    event_time: TimestampMicrosecondBuilder,
    event_type: StringBuilder,
    amount: Decimal128Builder,
    attributes: Vec<AttributeBuilder>,
    extra: StringBuilder,
    /// Which of the texts above and of the attributes are filled.
    reads: Reads,
    partition: Int32Builder,
    offset: Int64Builder,
    append_time: TimestampMicrosecondBuilder,
    content_hash: Int64Builder,
}

struct Reads {
    event_id: bool,
    event_type: bool,
    attributes: Vec<bool>,
    extra: bool,
}

impl Columns {
    fn new(schema: &EventSchema, reads: impl Fn(&str) -> bool) -> Self {
        let time = || TimestampMicrosecondBuilder::new().with_timezone("+00:00");
        Self {
            event_id: StringBuilder::new(),
            user_id: StringBuilder::new(),
            event_time: time(),
            event_type: StringBuilder::new(),
            amount: Decimal128Builder::new().with_data_type(schema.amount.arrow()),
            attributes: schema.attributes.values().map(|kind| AttributeBuilder::new(*kind)).collect(),
            extra: StringBuilder::new(),
            reads: Reads {
                event_id: reads("event_id"),
                event_type: reads("event_type"),
                attributes: schema.attributes.keys().map(|name| reads(name)).collect(),
                extra: reads(EXTRA),
            },
            partition: Int32Builder::new(),
            offset: Int64Builder::new(),
            append_time: time(),
            content_hash: Int64Builder::new(),
        }
    }

    fn push(&mut self, event: &Event, at: Position, schema: &EventSchema) {
        self.event_id.append_value(if self.reads.event_id { &event.event_id } else { "" });
        self.user_id.append_value(&event.user_id);
        self.event_time.append_value(event.event_time_us);
        self.event_type.append_option(Some(&event.event_type).filter(|text| self.reads.event_type && !text.is_empty()));
        self.amount.append_option(event.amount);
        for ((builder, (name, kind)), read) in self.attributes.iter_mut().zip(&schema.attributes).zip(&self.reads.attributes) {
            let text = event.attributes.get(name).filter(|_| *read);
            builder.push(text.and_then(|text| Typed::parse(text, *kind).ok()));
        }
        self.extra.append_option(if self.reads.extra { extra(event, schema) } else { None });
        self.partition.append_value(at.partition);
        self.offset.append_value(at.offset);
        self.append_time.append_value(at.append_time_us);
        self.content_hash.append_value(at.content_hash);
    }

    fn finish(mut self, schema: &EventSchema) -> RecordBatch {
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(self.event_id.finish()),
            Arc::new(self.user_id.finish()),
            Arc::new(self.event_time.finish()),
            Arc::new(self.event_type.finish()),
            Arc::new(self.amount.finish()),
        ];
        columns.extend(self.attributes.into_iter().map(AttributeBuilder::finish));
        columns.extend([
            Arc::new(self.extra.finish()) as ArrayRef,
            Arc::new(self.partition.finish()),
            Arc::new(self.offset.finish()),
            Arc::new(self.append_time.finish()),
            Arc::new(self.content_hash.finish()),
        ]);
        RecordBatch::try_new(schema.arrow(), columns).expect("the builders follow the schema, column by column")
    }
}

/// Attributes that have no column, or a text that is not of its type, as a JSON object.
fn extra(event: &Event, schema: &EventSchema) -> Option<String> {
    let has_column = |name: &str, text: &str| schema.attributes.get(name).is_some_and(|kind| Typed::parse(text, *kind).is_ok());
    let without = event.attributes.iter().filter(|(name, text)| !has_column(name, text));
    let object: serde_json::Map<_, _> = without.map(|(name, text)| (name.clone(), text.clone().into())).collect();
    (!object.is_empty()).then(|| serde_json::Value::Object(object).to_string())
}

enum AttributeBuilder {
    String(StringBuilder),
    Int64(Int64Builder),
    Float64(Float64Builder),
    Bool(BooleanBuilder),
    Timestamp(TimestampMicrosecondBuilder),
    Decimal(Decimal128Builder),
}

impl AttributeBuilder {
    fn new(kind: AttributeType) -> Self {
        match kind {
            AttributeType::String => Self::String(StringBuilder::new()),
            AttributeType::Int64 => Self::Int64(Int64Builder::new()),
            AttributeType::Float64 => Self::Float64(Float64Builder::new()),
            AttributeType::Bool => Self::Bool(BooleanBuilder::new()),
            AttributeType::Timestamp => Self::Timestamp(TimestampMicrosecondBuilder::new().with_timezone("+00:00")),
            AttributeType::Decimal(_) => Self::Decimal(Decimal128Builder::new().with_data_type(kind.arrow())),
        }
    }

    fn push(&mut self, value: Option<Typed>) {
        match (self, value) {
            (Self::String(b), Some(Typed::String(v))) => b.append_value(v),
            (Self::Int64(b), Some(Typed::Int64(v))) => b.append_value(v),
            (Self::Float64(b), Some(Typed::Float64(v))) => b.append_value(v),
            (Self::Bool(b), Some(Typed::Bool(v))) => b.append_value(v),
            (Self::Timestamp(b), Some(Typed::Timestamp(v))) => b.append_value(v),
            (Self::Decimal(b), Some(Typed::Decimal(v))) => b.append_value(v),
            (Self::String(b), _) => b.append_null(),
            (Self::Int64(b), _) => b.append_null(),
            (Self::Float64(b), _) => b.append_null(),
            (Self::Bool(b), _) => b.append_null(),
            (Self::Timestamp(b), _) => b.append_null(),
            (Self::Decimal(b), _) => b.append_null(),
        }
    }

    fn finish(self) -> ArrayRef {
        match self {
            Self::String(mut b) => Arc::new(b.finish()),
            Self::Int64(mut b) => Arc::new(b.finish()),
            Self::Float64(mut b) => Arc::new(b.finish()),
            Self::Bool(mut b) => Arc::new(b.finish()),
            Self::Timestamp(mut b) => Arc::new(b.finish()),
            Self::Decimal(mut b) => Arc::new(b.finish()),
        }
    }
}
