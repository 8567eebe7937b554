//! A view definition: SQL in, everything the three verbs need out.
//!
//! `Definition::parse` takes the text through three gates: the syntax (`syntax`), DataFusion's own planner and type
//! coercion, and the shape of the logical plan (`lower`). What comes out are physical expressions and DataFusion's
//! aggregate functions, which [`crate::fold::Fold`] drives; no query is ever planned after that.

mod bucket;
mod error;
mod fingerprint;
mod lower;
mod session;
mod syntax;

use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;

pub use bucket::Edges;
pub use error::{DefinitionError, Place};

use crate::schema::{EventSchema, timestamp_type};

/// Column 0 of every batch of states: the key, Utf8.
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
    pub(crate) key: Arc<dyn PhysicalExpr>,
    pub(crate) bucket: Option<Arc<dyn PhysicalExpr>>,
    pub(crate) aggregates: Vec<Aggregate>,
    /// Which of `aggregates` is the plain `count(*)`.
    pub(crate) count: usize,
    pub(crate) outputs: Vec<Output>,
    /// What the output expressions read: the groups of the SQL, then its aggregates.
    pub(crate) finished_schema: SchemaRef,
    state_schema: SchemaRef,
    output_schema: SchemaRef,
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
        let lowered = lower::lower(checked, schema, &state)?;
        let state_schema = state_schema(&lowered.aggregates)?;
        bucket::check(lowered.bucket.as_deref(), schema)?;
        let fingerprint = fingerprint::of(&lowered, &state_schema, schema);
        Ok(Self {
            sql: sql.to_owned(),
            schema: schema.clone(),
            fingerprint,
            output_schema: output_schema(&lowered.output_fields),
            filter: lowered.filter,
            key: lowered.key,
            bucket: lowered.bucket,
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

    /// Whether answers can be had by bucket and by time range.
    #[must_use]
    pub fn has_buckets(&self) -> bool {
        self.bucket.is_some()
    }

    /// The edges of buckets around `time_us`, microseconds since 1970.
    ///
    /// # Errors
    /// The bucket expression fails at that time.
    pub fn edges_near(&self, time_us: i64) -> Result<Edges, crate::fold::FoldError> {
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

    /// Names of the event columns that the view reads, with those that place an event.
    #[must_use]
    pub fn event_columns(&self) -> Vec<String> {
        let schema = self.schema.arrow();
        let mut used = vec![false; schema.fields().len()];
        let aggregates = self.aggregates.iter().flat_map(|a| a.arguments.iter().chain(&a.filter));
        for expression in aggregates.chain([&self.key]).chain(&self.bucket).chain(&self.filter) {
            for column in datafusion::physical_expr::utils::collect_columns(expression) {
                used[column.index()] = true;
            }
        }
        schema.fields().iter().zip(used).filter(|(_, used)| *used).map(|(field, _)| field.name().clone()).collect()
    }
}

/// Column 2 of every batch of outputs: how many events went in, Int64, whatever the SQL counts.
pub const EVENT_COUNT_COLUMN: &str = "_event_count";

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
