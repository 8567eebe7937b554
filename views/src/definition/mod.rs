//! A view definition: SQL in, everything the three verbs need out.
//!
//! `Definition::parse` takes the text through three gates: the syntax (`syntax`), DataFusion's own planner and type
//! coercion, and the shape of the logical plan (`lower`). What comes out are physical expressions and DataFusion's
//! aggregate functions, which [`crate::fold::Fold`] drives; no query is ever planned after that.

mod bucket;
mod error;
mod fingerprint;
mod keep;
mod local;
mod lower;
mod session;
mod syntax;

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::expressions::Column;

pub use bucket::Edges;
pub use error::{DefinitionError, Place};

use crate::event::FIRST_TIME_US;
use crate::fold::FoldError;
use crate::key;
use crate::schema::{AttributeType, EventSchema, timestamp_type};
use lower::Lowered;

/// Column 0 of every batch of states: the key, Utf8, as [`crate::key`] writes it.
pub const KEY: &str = "key";
/// Column 1 of every batch of states: the bucket, a UTC timestamp in microseconds, null where the view has none.
pub const BUCKET: &str = "bucket";
/// The view that applies where nothing is stored yet.
pub const USER_STATS_SQL: &str = include_str!("../../user_stats.sql");

/// A checked view definition.
#[derive(Debug)]
pub struct Definition {
    sql: String,
    schema: EventSchema,
    fingerprint: String,
    pub(crate) filter: Option<Arc<dyn PhysicalExpr>>,
    pub(crate) key: Vec<KeyColumn>,
    pub(crate) bucket: Option<Arc<dyn PhysicalExpr>>,
    bucket_name: Option<String>,
    keep_us: Option<i64>,
    pub(crate) aggregates: Vec<Aggregate>,
    /// Which of `aggregates` is the plain `count(*)`.
    pub(crate) count: usize,
    pub(crate) outputs: Vec<Output>,
    /// What the output expressions read: the groups of the SQL, then its aggregates.
    pub(crate) finished_schema: SchemaRef,
    state_schema: SchemaRef,
    output_schema: SchemaRef,
    event_columns: Vec<String>,
}

/// One column of the key.
#[derive(Debug)]
pub struct KeyColumn {
    /// Its name in the SELECT list, or the text of its expression.
    pub name: String,
    /// Its type.
    pub kind: DataType,
    pub(crate) expression: Arc<dyn PhysicalExpr>,
}

/// One aggregate of the SQL, each distinct one once.
#[derive(Debug)]
pub(crate) struct Aggregate {
    pub(crate) function: Arc<AggregateFunctionExpr>,
    /// Arguments, then what it is ordered by, over events.
    pub(crate) arguments: Vec<Arc<dyn PhysicalExpr>>,
    pub(crate) filter: Option<Arc<dyn PhysicalExpr>>,
    /// Its columns in a batch of states.
    pub(crate) states: Range<usize>,
    /// Whether its states are the same in whatever order they are merged.
    pub(crate) exact: bool,
}

/// One measure: an expression over aggregates.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) expression: Arc<dyn PhysicalExpr>,
    /// Whether every aggregate in it is exact.
    pub(crate) exact: bool,
    /// Whether an aggregate in it is an inexact estimate.
    pub(crate) estimated: bool,
}

impl Definition {
    /// Checks `sql` against the schema of events.
    ///
    /// # Errors
    /// The first thing that a view cannot have, with its place in the text and what to write instead.
    pub fn parse(sql: &str, schema: &EventSchema) -> Result<Self, DefinitionError> {
        let state = session::pinned();
        let checked = syntax::check(sql, schema, &state)?;
        let keep_us = keep::parse(sql)?;
        let lowered = lower::lower(checked, schema, &state)?;
        let state_schema = state_schema(&lowered.aggregates)?;
        bucket::check(lowered.bucket.as_deref(), schema)?;
        if keep_us.is_some() && lowered.bucket.is_none() {
            return Err(DefinitionError::new("keep lets buckets go, and the view has none; group by a date_trunc of event_time too"));
        }
        let fingerprint = fingerprint::of(&lowered, keep_us, &state_schema, schema);
        Ok(Self {
            sql: sql.to_owned(),
            schema: schema.clone(),
            fingerprint,
            event_columns: columns_read(&lowered, schema),
            output_schema: output_schema(&lowered.output_fields),
            filter: lowered.filter,
            key: lowered.key,
            bucket: lowered.bucket,
            bucket_name: lowered.bucket_name,
            keep_us,
            aggregates: lowered.aggregates,
            count: lowered.count,
            outputs: lowered.outputs,
            finished_schema: lowered.finished_schema,
            state_schema,
        })
    }

    /// The built-in `user_stats` over `schema`.
    #[must_use]
    pub fn user_stats(schema: &EventSchema) -> Self {
        Self::parse(USER_STATS_SQL, schema).expect("the shipped view is a view; a test parses it")
    }

    /// The SQL as it was written.
    #[must_use]
    pub fn sql(&self) -> &str {
        &self.sql
    }

    /// The event schema that the SQL was checked against.
    #[must_use]
    pub fn schema(&self) -> &EventSchema {
        &self.schema
    }

    /// Hex name of the states' meaning and format: equal fingerprints, states that merge.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Columns of a batch of states: [`KEY`], [`BUCKET`], then the states of each aggregate.
    #[must_use]
    pub fn state_schema(&self) -> &SchemaRef {
        &self.state_schema
    }

    /// Columns of a batch of outputs: [`KEY`], [`BUCKET`], [`EVENT_COUNT_COLUMN`], then the measures by name.
    #[must_use]
    pub fn output_schema(&self) -> &SchemaRef {
        &self.output_schema
    }

    /// The columns of the key, in the order of GROUP BY.
    #[must_use]
    pub fn key_columns(&self) -> &[KeyColumn] {
        &self.key
    }

    /// The name of the bucket in the SELECT list, or the text of its expression; `None` where the view has none.
    #[must_use]
    pub fn bucket_name(&self) -> Option<&str> {
        self.bucket_name.as_deref()
    }

    /// Whether a key belongs to one user, whose events are all in one partition of the log. Otherwise any partition may have events
    /// of any key.
    #[must_use]
    pub fn is_by_user(&self) -> bool {
        self.key.first().is_some_and(|first| is_user_id(&first.expression))
    }

    /// The edges of the view's buckets among `times_us`, in microseconds since 1970.
    ///
    /// # Errors
    /// The bucket expression fails at one of them.
    pub fn are_edges(&self, times_us: &[i64]) -> Result<Vec<bool>, FoldError> {
        bucket::are_edges(self, times_us)
    }

    /// The events that the view counts, which its WHERE lets in.
    ///
    /// # Errors
    /// The SQL fails on an event.
    pub fn counted(&self, events: &RecordBatch) -> Result<RecordBatch, FoldError> {
        crate::fold::counted(self, events)
    }

    /// The key of each event, Utf8, of events that the view counts: on others its expressions may fail.
    ///
    /// # Errors
    /// The SQL fails on an event, or a key is too long.
    pub fn keys(&self, events: &RecordBatch) -> Result<StringArray, FoldError> {
        Ok(self.key_array(events)?.as_string::<i32>().clone())
    }

    pub(crate) fn key_array(&self, events: &RecordBatch) -> Result<ArrayRef, FoldError> {
        let part = |column: &KeyColumn| column.expression.evaluate(events)?.into_array(events.num_rows());
        let parts = self.key.iter().map(part).collect::<Result<Vec<_>, _>>()?;
        key::of_columns(&parts, events.num_rows())
    }

    /// First parts of a key, each as some text of its value, as the text that keys have: `007` of an integer is `7`.
    ///
    /// # Errors
    /// There are more of them than columns, or a text is not one of its column's type; the sentence says which.
    pub fn canonical_parts(&self, parts: &[Option<&str>]) -> Result<Vec<Option<String>>, String> {
        if parts.len() > self.key.len() {
            let names: Vec<_> = self.key.iter().map(|column| column.name.as_str()).collect();
            return Err(format!("has {} parts; the key of the view is {}", parts.len(), names.join(", ")));
        }
        let canonical = |(part, column): (&Option<&str>, &KeyColumn)| {
            let value = key::from_person(*part, &column.kind).and_then(|value| Ok(cast(&value, &DataType::Utf8)?));
            let text = value.map_err(|_| format!("has a text for {} that is no value of type {}", column.name, column.kind))?;
            Ok(text.is_valid(0).then(|| text.as_string::<i32>().value(0).to_owned()))
        };
        parts.iter().zip(&self.key).map(canonical).collect()
    }

    /// The key column of states or outputs as the columns of [`Self::key_columns`].
    ///
    /// # Errors
    /// They are not keys of this definition.
    pub fn key_values(&self, keys: &StringArray) -> Result<Vec<ArrayRef>, FoldError> {
        let rows: Vec<Vec<Option<String>>> = keys.iter().map(|key| key::decode(key.unwrap_or_default())).collect();
        let column = |(i, column): (usize, &KeyColumn)| {
            key::to_column(rows.iter().map(|parts| parts.get(i).and_then(Option::as_deref)), &column.kind)
        };
        self.key.iter().enumerate().map(column).collect()
    }

    /// Where the first bucket starts that a version computed as of `as_of_us` keeps; `None` if it keeps all. Microseconds since 1970.
    ///
    /// # Errors
    /// The bucket expression fails at that time.
    pub fn kept_from(&self, as_of_us: i64) -> Result<Option<i64>, FoldError> {
        let Some(keep_us) = self.keep_us else { return Ok(None) };
        Ok(Some(self.edges_near(as_of_us.saturating_sub(keep_us).max(FIRST_TIME_US))?.start_us))
    }

    /// How long buckets are kept, microseconds; `None` if for ever.
    #[must_use]
    pub fn limit_us(&self) -> Option<i64> {
        self.keep_us
    }

    /// Whether buckets are let go after some time, so that a version covers fewer events than it was made from.
    #[must_use]
    pub fn has_limit(&self) -> bool {
        self.keep_us.is_some()
    }

    /// Whether answers can be had by bucket and by time range.
    #[must_use]
    pub fn has_buckets(&self) -> bool {
        self.bucket.is_some()
    }

    /// The edges of buckets around `time_us`, microseconds since 1970.
    ///
    /// # Errors
    /// The bucket expression fails at that time.
    pub fn edges_near(&self, time_us: i64) -> Result<Edges, FoldError> {
        bucket::edges_near(self, time_us)
    }

    /// For each column of [`Self::state_schema`], whether it is the same in whatever order states are merged.
    #[must_use]
    pub fn exact_states(&self) -> Vec<bool> {
        let mut exact = vec![true; 2];
        for aggregate in &self.aggregates {
            exact.extend(aggregate.states.clone().map(|_| aggregate.exact));
        }
        exact
    }

    /// For each column of [`Self::output_schema`], whether it must be equal between layers to the last digit.
    #[must_use]
    pub fn exact_outputs(&self) -> Vec<bool> {
        [true, true, true].into_iter().chain(self.outputs.iter().map(|output| output.exact)).collect()
    }

    /// For each column of [`Self::output_schema`], whether it is an estimate whose error has no bound in last digits, such as
    /// a quantile from a sketch.
    #[must_use]
    pub fn estimated_outputs(&self) -> Vec<bool> {
        [false; 3].into_iter().chain(self.outputs.iter().map(|output| output.estimated)).collect()
    }

    /// Whether the SQL has a WHERE, so that some events are in no group.
    #[must_use]
    pub fn has_filter(&self) -> bool {
        self.filter.is_some()
    }

    /// Attributes that the view reads in another type than `here` has, with the view's and that of `here`.
    #[must_use]
    pub fn otherwise_typed(&self, here: &EventSchema) -> Vec<(String, AttributeType, AttributeType)> {
        if self.schema.attributes == here.attributes {
            return Vec::new();
        }
        let used = self.event_columns();
        let both = |(name, kind): (&String, &AttributeType)| Some((name.clone(), *kind, *here.attributes.get(name)?));
        let read = self.schema.attributes.iter().filter(|(name, _)| used.contains(name)).filter_map(both);
        read.filter(|(_, kind, here)| kind != here).collect()
    }

    /// Names of the event columns that the view reads, with those that place an event.
    #[must_use]
    pub fn event_columns(&self) -> &[String] {
        &self.event_columns
    }
}

/// The columns that are in any expression of a definition.
fn columns_read(lowered: &Lowered, schema: &EventSchema) -> Vec<String> {
    let schema = schema.arrow();
    let mut used = vec![false; schema.fields().len()];
    let aggregates = lowered.aggregates.iter().flat_map(|a| a.arguments.iter().chain(&a.filter));
    for expression in aggregates.chain(lowered.key.iter().map(|column| &column.expression)).chain(&lowered.bucket).chain(&lowered.filter) {
        for column in datafusion::physical_expr::utils::collect_columns(expression) {
            used[column.index()] = true;
        }
    }
    schema.fields().iter().zip(used).filter(|(_, used)| *used).map(|(field, _)| field.name().clone()).collect()
}

/// Column 2 of every batch of outputs: how many events went in, Int64, whatever the SQL counts.
pub const EVENT_COUNT_COLUMN: &str = "_event_count";

/// Whether an expression is the bare column `user_id`.
pub(crate) fn is_user_id(expression: &Arc<dyn PhysicalExpr>) -> bool {
    expression.downcast_ref::<Column>().is_some_and(|column| column.name() == "user_id")
}

fn state_schema(aggregates: &[Aggregate]) -> Result<SchemaRef, DefinitionError> {
    let mut fields = vec![Arc::new(Field::new(KEY, DataType::Utf8, false)), Arc::new(Field::new(BUCKET, timestamp_type(), true))];
    for (i, aggregate) in aggregates.iter().enumerate() {
        let states = aggregate.function.state_fields().map_err(|e| DefinitionError::new(e.to_string()))?;
        for (j, field) in states.iter().enumerate() {
            let name = format!("a{i}_{j}");
            fields.push(Arc::new(Field::new(name, field.data_type().clone(), true)));
        }
    }
    Ok(Arc::new(Schema::new(fields)))
}

fn output_schema(measures: &[Field]) -> SchemaRef {
    let mut fields = vec![
        Field::new(KEY, DataType::Utf8, false),
        Field::new(BUCKET, timestamp_type(), true),
        Field::new(EVENT_COUNT_COLUMN, DataType::Int64, false),
    ];
    fields.extend(measures.iter().cloned());
    Arc::new(Schema::new(fields))
}

#[cfg(test)]
mod tests;
