//! Segments and imports of the master dataset as batches of events, in the columns that a definition needs.
//!
//! A segment may be older than today's schema. A declared attribute that the segment does not have is taken from `_extra`, where
//! undeclared attributes are kept as text, and is null where there is none; one that it has in a narrower type is cast, which is exact,
//! and what was not of that type is taken from `_extra` too. So a segment reads as if it had been written with today's schema.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanBuilder, Decimal128Builder, Int64Array, RecordBatch, StringArray};
use arrow::array::{Float64Array, TimestampMicrosecondArray, new_null_array};
use arrow::compute::kernels::zip::zip;
use arrow::compute::{CastOptions, cast_with_options, is_not_null, max};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use datafusion::common::ScalarValue;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use storage::imports::ImportMeta;
use storage::master::{self, Places, SegmentMeta};
use storage::store::{Store, StoreError};
use views::event::Typed;
use views::schema::{APPEND_TIME, AttributeType, CONTENT_HASH, EXTRA, OFFSET, PARTITION};
use views::{Definition, EventSchema};

use crate::hidden::Hidden;
use crate::piece::{Piece, of_imports};
use crate::progress::{Progress, Stage};

/// The event's own time.
pub(crate) const EVENT_TIME: &str = "event_time";
/// Columns that place and identify an event; always read.
const IDENTITY: [&str; 5] = ["event_id", "user_id", PARTITION, OFFSET, CONTENT_HASH];

/// The columns that a run reads: those of the definition and those of the identity.
#[derive(Debug)]
pub(crate) struct EventColumns {
    /// Every column of an event, as a fold wants them.
    full: SchemaRef,
    /// Those that are read, in the same order.
    read: SchemaRef,
    /// The declared attributes among them.
    attributes: Vec<(String, AttributeType)>,
}

impl EventColumns {
    pub(crate) fn new(definition: &Definition) -> Self {
        Self::with(definition.schema(), definition.event_columns())
    }

    /// Those of the identity and the event's own time.
    pub(crate) fn identity_and_time(schema: &EventSchema) -> Self {
        Self::with(schema, &[EVENT_TIME.to_owned()])
    }

    /// Those of the identity alone.
    pub(crate) fn identity(schema: &EventSchema) -> Self {
        Self::with(schema, &[])
    }

    fn with(schema: &EventSchema, used: &[String]) -> Self {
        let full = schema.arrow();
        let wanted = |field: &&Arc<Field>| used.contains(field.name()) || IDENTITY.contains(&field.name().as_str());
        let read = Schema::new(full.fields().iter().filter(wanted).cloned().collect::<Vec<_>>());
        let attributes = schema.attributes.iter().filter(|(name, _)| used.contains(name));
        Self { full, read: Arc::new(read), attributes: attributes.map(|(name, kind)| (name.clone(), *kind)).collect() }
    }

    /// Columns of the batches that [`Source::batches`] yields.
    pub(crate) fn read(&self) -> &SchemaRef {
        &self.read
    }

    /// The batch with every column of an event; those that the definition does not look at are empty.
    pub(crate) fn widen(&self, batch: &RecordBatch) -> RecordBatch {
        let column = |field: &Arc<Field>| batch.column_by_name(field.name()).map_or_else(|| empty(field, batch.num_rows()), Arc::clone);
        let columns = self.full.fields().iter().map(column).collect();
        RecordBatch::try_new(Arc::clone(&self.full), columns).expect("columns were read in the types of the schema")
    }

    /// Whether an attribute is missing in a segment, or has another type there.
    fn needs_extra(&self, segment: &Schema) -> bool {
        let as_here = |(name, kind): &(String, AttributeType)| segment.field_with_name(name).is_ok_and(|f| *f.data_type() == kind.arrow());
        !self.attributes.iter().all(as_here)
    }

    /// The batch of a segment in the columns and types of [`Self::read`].
    fn conform(&self, piece: &Piece, batch: &RecordBatch) -> Result<RecordBatch, StoreError> {
        let corrupt = |reason: String| StoreError::Corrupt { path: piece.path(), reason };
        let mut columns = Vec::with_capacity(self.read.fields().len());
        for field in self.read.fields() {
            let attribute = self.attributes.iter().find(|(name, _)| name == field.name());
            columns.push(match (batch.column_by_name(field.name()), attribute) {
                (Some(column), _) if column.data_type() == field.data_type() => Arc::clone(column),
                (Some(column), Some((name, kind))) => match AttributeType::of_arrow(column.data_type()) {
                    Some(narrow) if narrow.widens_to(*kind) => {
                        widened(column, &typed(&from_extra(batch, name), *kind)).map_err(|e| corrupt(e.to_string()))?
                    }
                    narrow => {
                        let here = String::from(*kind);
                        let there = narrow.map_or_else(|| column.data_type().to_string(), String::from);
                        return Err(corrupt(format!(
                            "its attribute {name} is of type {there}, and events.attributes.{name} is \"{here}\" here, which does not hold all of its values as they are; declare another name for the new type (docs/schema.md)"
                        )));
                    }
                },
                (Some(column), None) => {
                    exactly(column, field.data_type()).map_err(|e| corrupt(format!("its column {} does not fit the schema: {e}", field.name())))?
                }
                (None, Some((name, kind))) => typed(&from_extra(batch, name), *kind),
                (None, None) if field.is_nullable() => new_null_array(field.data_type(), batch.num_rows()),
                (None, None) => return Err(corrupt(format!("it has no column {}", field.name()))),
            });
        }
        RecordBatch::try_new(Arc::clone(&self.read), columns).map_err(|e| corrupt(e.to_string()))
    }
}

/// A column of nulls, or of zeros and empty texts where there may be no null.
fn empty(field: &Field, rows: usize) -> ArrayRef {
    if field.is_nullable() {
        return new_null_array(field.data_type(), rows);
    }
    let zero = ScalarValue::new_default(field.data_type()).and_then(|zero| zero.to_array_of_size(rows));
    zero.expect("the columns that are never null are texts, times and integers")
}

/// The text of an undeclared attribute in each row.
fn from_extra(batch: &RecordBatch, name: &str) -> ArrayRef {
    let text = |json: Option<&str>| match serde_json::from_str::<serde_json::Value>(json?).ok()?.get_mut(name)?.take() {
        serde_json::Value::String(text) => Some(text),
        serde_json::Value::Null => None,
        other => Some(other.to_string()),
    };
    match batch.column_by_name(EXTRA).and_then(|column| column.as_string_opt::<i32>()) {
        Some(extra) => Arc::new(extra.iter().map(text).collect::<StringArray>()),
        None => new_null_array(&DataType::Utf8, batch.num_rows()),
    }
}

/// A cast that fails where a value does not fit.
fn exactly(column: &ArrayRef, kind: &DataType) -> Result<ArrayRef, ArrowError> {
    cast_with_options(column, kind, &CastOptions { safe: false, ..CastOptions::default() })
}

/// A column in a wider type. Where it is null, the text may have been no value of the narrower type: then the value is in `otherwise`.
fn widened(column: &ArrayRef, otherwise: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    zip(&is_not_null(column)?, &exactly(column, otherwise.data_type())?, otherwise)
}

/// Texts as a declared attribute; null where a text is not of the type.
fn typed(texts: &ArrayRef, kind: AttributeType) -> ArrayRef {
    let values = texts.as_string::<i32>().iter().map(|text| Typed::parse(text?, kind).ok());
    macro_rules! column {
        ($array:ty, $variant:ident) => {
            values.map(|value| if let Some(Typed::$variant(v)) = value { Some(v) } else { None }).collect::<$array>()
        };
    }
    match kind {
        AttributeType::String => Arc::new(column!(StringArray, String)),
        AttributeType::Int64 => Arc::new(column!(Int64Array, Int64)),
        AttributeType::Float64 => Arc::new(column!(Float64Array, Float64)),
        AttributeType::Timestamp => Arc::new(column!(TimestampMicrosecondArray, Timestamp).with_timezone("+00:00")),
        AttributeType::Bool => {
            let mut builder = BooleanBuilder::new();
            values.for_each(|value| builder.append_option(if let Some(Typed::Bool(v)) = value { Some(v) } else { None }));
            Arc::new(builder.finish())
        }
        AttributeType::Decimal(_) => {
            let mut builder = Decimal128Builder::new().with_data_type(kind.arrow());
            values.for_each(|value| builder.append_option(if let Some(Typed::Decimal(v)) = value { Some(v) } else { None }));
            Arc::new(builder.finish())
        }
    }
}

/// The events of one partition, in order of their offsets. Can be read any number of times.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) store: Store,
    pub(crate) columns: Arc<EventColumns>,
    pub(crate) partition: u32,
    /// In order of their offsets.
    pub(crate) pieces: Vec<Piece>,
    /// The segment that ends at the boundary, though there may be nothing to read in it.
    pub(crate) last: Option<SegmentMeta>,
    /// Which of them do not count, and are not seen.
    pub(crate) hidden: Arc<Hidden>,
    pub(crate) progress: Arc<dyn Progress>,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("partition", &self.partition).field("pieces", &self.pieces.len()).finish_non_exhaustive()
    }
}

impl Source {
    /// A source for each partition, of its part of the imports and the chain of its segments.
    pub(crate) fn of_chains(
        store: &Store,
        columns: &Arc<EventColumns>,
        imports: &[Arc<ImportMeta>],
        chains: Vec<Vec<SegmentMeta>>,
        hidden: &Arc<Hidden>,
        progress: &Arc<dyn Progress>,
    ) -> Vec<Self> {
        let source = |(partition, segments): (u32, Vec<SegmentMeta>)| Self {
            store: store.clone(),
            columns: Arc::clone(columns),
            partition,
            last: segments.last().and_then(|last| master::segment_ending(std::slice::from_ref(last), partition, last.range().end)),
            pieces: of_imports(imports, partition).chain(segments.into_iter().map(Piece::Segment)).collect(),
            hidden: Arc::clone(hidden),
            progress: Arc::clone(progress),
        };
        (0..).zip(chains).map(source).collect()
    }

    /// The events that count, in the columns of [`EventColumns::read`]. A segment that is not, byte by byte, what was sealed is an error
    /// before any of its events is seen; one whose rows are not those that it should have is an error too.
    pub(crate) fn batches(&self, stage: Stage) -> BoxStream<'static, Result<RecordBatch, StoreError>> {
        let source = self.clone();
        let open = move |piece: Piece| {
            let source = source.clone();
            async move { source.open(piece, stage).await }
        };
        stream::iter(self.pieces.clone()).map(Ok).and_then(open).try_flatten().boxed()
    }

    /// Fingerprint of the last record, as its segment was sealed; empty where there is none.
    pub(crate) fn last_record(&self) -> String {
        self.last.as_ref().map_or_else(String::new, |segment| segment.last_record().to_owned())
    }

    /// When the newest event of the last segment with any was appended, in microseconds since 1970; `None` where there is none.
    pub(crate) async fn newest_append_time_us(&self) -> Result<Option<i64>, StoreError> {
        let segments = self.pieces.iter().rev().filter_map(|piece| match piece {
            Piece::Segment(segment) => Some(segment),
            Piece::Import(..) => None,
        });
        // Segment by segment as they were archived, whatever file they are in now; the last may have no rows.
        let parts: Vec<SegmentMeta> = self.last.iter().chain(segments).flat_map(|segment| segment.parts().into_iter().rev()).collect();
        for part in parts {
            let mut newest = part.newest_append_us();
            if newest.is_none() {
                let mut batches = master::read_segment(&self.store, &part, Some(&[APPEND_TIME.to_owned()])).await?;
                while let Some(batch) = batches.try_next().await? {
                    newest = newest.max(max(column::<TimestampMicrosecondArray>(&batch, APPEND_TIME)));
                }
            }
            if newest.is_some() {
                return Ok(newest);
            }
        }
        Ok(None)
    }

    async fn open(self, piece: Piece, stage: Stage) -> Result<BoxStream<'static, Result<RecordBatch, StoreError>>, StoreError> {
        // Once a run is enough: what the later stages read is compared with what this one read.
        if stage == Stage::Read {
            piece.verify(&self.store).await?;
        }
        let mut names: Vec<String> = self.columns.read.fields().iter().map(|f| f.name().clone()).collect();
        let mut raw = piece.read(&self.store, &names).await?.peekable();
        let lacks = match std::pin::Pin::new(&mut raw).peek().await {
            Some(Ok(first)) => self.columns.needs_extra(&first.schema()),
            _ => false,
        };
        if lacks {
            names.push(EXTRA.to_owned());
            raw = piece.read(&self.store, &names).await?.peekable();
        }
        let places = Places::new(self.partition, piece.range(), piece.rows());
        let state = Arc::new((self, piece));
        Ok(stream::try_unfold((raw, places), move |(mut raw, mut places)| {
            let state = Arc::clone(&state);
            async move {
                let (source, piece) = state.as_ref();
                let Some(batch) = raw.try_next().await? else {
                    source.progress.advance(stage, 0, piece.bytes() as u64);
                    return places.end().map(|()| None).map_err(|offset| hole(piece, offset));
                };
                let batch = source.columns.conform(piece, &batch)?;
                places.take(&batch).map_err(|offset| hole(piece, offset))?;
                source.progress.advance(stage, batch.num_rows() as u64, 0);
                Ok(Some((source.hidden.leave_out(&source.columns, batch, stage), (raw, places))))
            }
        })
        .boxed())
    }
}

fn hole(piece: &Piece, offset: i64) -> StoreError {
    let reason = format!("the event of offset {offset} is not where it belongs");
    StoreError::Corrupt { path: piece.path(), reason }
}

/// A column that every batch of events has.
pub(crate) fn column<'a, T: 'static>(batch: &'a RecordBatch, name: &str) -> &'a T {
    let column = batch.column_by_name(name).expect("the identity is always read");
    column.as_any().downcast_ref().expect("batches are in the types of the schema")
}
