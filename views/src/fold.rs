//! The three verbs: `partial` (events → states), `merge` (states → states) and `finish` (states → outputs).
//!
//! All three are one table of groups, fed from one side and emptied from the other. The table is DataFusion's
//! (`GroupValues`), and so are the accumulators, always the group kind: row and group accumulators do not share a
//! state format. Nothing is planned and nothing waits, so a fold of one event costs microseconds.
//!
//! Every batch of states that leaves is sorted by key, then bucket, each pair once.

/// States of one key alone.
mod one_key;
/// Two batches of states in order.
mod sorted;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, new_null_array};
use arrow::compute::{SortColumn, filter_record_batch, lexsort_to_indices, take_record_batch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimestampMicrosecondType};
use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::{GroupsAccumulatorAdapter, PhysicalExpr};
use datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion::physical_plan::aggregates::order::GroupOrdering;

use crate::columns::{Position, to_batch_for};
use crate::definition::{BUCKET, Definition, KEY};
use crate::event::{Event, Refusal};
use crate::schema::timestamp_type;

pub use one_key::finish_key;
pub use sorted::merge_sorted;

/// A fold that failed: on an event that the definition cannot take, or on states that are not its own.
#[derive(Debug, thiserror::Error)]
pub enum FoldError {
    /// An expression or aggregate refused a value.
    #[error("the view's SQL fails")]
    Sql(#[from] DataFusionError),
    /// Columns do not fit together.
    #[error("columns do not fit the view")]
    Columns(#[from] ArrowError),
    /// The bucket of an event is null, so that the event would have no place.
    #[error("the view's bucket is null")]
    NullBucket,
    /// The key of an event has more than [`crate::key::MAX_KEY_BYTES`].
    #[error("the view's key has {bytes} bytes; the longest has {}", crate::key::MAX_KEY_BYTES)]
    KeyTooLong {
        /// Its length.
        bytes: usize,
    },
}

impl FoldError {
    /// The innermost message, in one line.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            Self::Sql(e) => e.strip_backtrace().lines().next().unwrap_or_default().to_owned(),
            Self::Columns(e) => e.to_string(),
            Self::NullBucket | Self::KeyTooLong { .. } => self.to_string(),
        }
    }
}

impl From<FoldError> for Refusal {
    fn from(error: FoldError) -> Self {
        Self::new("event", format!("a declared view fails on it: {}", error.reason()))
    }
}

/// What one answer is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granularity {
    /// One row a key, over all its buckets.
    Total,
    /// One row a key and bucket.
    Bucket,
}

/// `partial`: events, as [`crate::columns::to_batch`] lays them out, to states.
///
/// # Errors
/// The SQL fails on an event; nothing is folded then.
pub fn partial(definition: &Definition, events: &RecordBatch) -> Result<RecordBatch, FoldError> {
    let mut fold = Fold::new(definition)?;
    fold.update(events)?;
    fold.into_states()
}

/// Why the view fails on one of the events, which are of one partition and have no offsets yet, if it does.
#[must_use]
pub fn failure<'a>(definition: &Definition, partition: i32, events: impl IntoIterator<Item = &'a Event>) -> Option<FoldError> {
    let position = Position { partition, offset: 0, append_time_us: 0, content_hash: 0 };
    partial(definition, &to_batch_for(events.into_iter().map(|event| (event, position)), definition)).err()
}

/// `merge`: states to states, each key and bucket once.
pub fn merge<'a>(definition: &Definition, states: impl IntoIterator<Item = &'a RecordBatch>) -> Result<RecordBatch, FoldError> {
    let mut fold = Fold::new(definition)?;
    for batch in states {
        fold.merge(batch)?;
    }
    fold.into_states()
}

/// `finish`: states to outputs, in the columns of [`Definition::output_schema`], sorted by key and bucket.
pub fn finish<'a>(
    definition: &Definition,
    states: impl IntoIterator<Item = &'a RecordBatch>,
    granularity: Granularity,
) -> Result<RecordBatch, FoldError> {
    let mut fold = Fold::new(definition)?;
    for batch in states {
        match granularity {
            Granularity::Bucket => fold.merge(batch)?,
            Granularity::Total => fold.merge(&without_buckets(batch)?)?,
        }
    }
    fold.into_outputs()
}

/// The rows of states or outputs whose bucket starts at `from_us` or later; all of them if there is no such limit.
///
/// # Errors
/// None for rows of a view with buckets.
pub fn from_bucket(rows: &RecordBatch, from_us: Option<i64>) -> Result<RecordBatch, FoldError> {
    let Some(from_us) = from_us else { return Ok(rows.clone()) };
    let buckets = rows.column(1).as_primitive::<TimestampMicrosecondType>();
    let kept: BooleanArray = buckets.iter().map(|start| Some(start.is_some_and(|start| start >= from_us))).collect();
    Ok(filter_record_batch(rows, &kept)?)
}

fn without_buckets(states: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let mut columns = states.columns().to_vec();
    columns[1] = new_null_array(&timestamp_type(), states.num_rows());
    RecordBatch::try_new(states.schema(), columns)
}

/// A table of groups (key, bucket), each with one accumulator an aggregate.
pub struct Fold<'a> {
    groups: Box<dyn GroupValues>,
    accumulators: Accumulators<'a>,
    group_of_row: Vec<usize>,
}

impl<'a> Fold<'a> {
    /// An empty table.
    pub fn new(definition: &'a Definition) -> Result<Self, FoldError> {
        let group_schema = Schema::new(vec![Field::new(KEY, DataType::Utf8, false), Field::new(BUCKET, timestamp_type(), true)]);
        Ok(Self {
            groups: new_group_values(Arc::new(group_schema), &GroupOrdering::None)?,
            accumulators: Accumulators::new(definition)?,
            group_of_row: Vec::new(),
        })
    }

    /// Bytes held.
    #[must_use]
    pub fn size(&self) -> usize {
        self.groups.size() + self.accumulators.size()
    }

    /// Folds events in. After an error the table must be dropped: it may hold half of the batch.
    pub fn update(&mut self, events: &RecordBatch) -> Result<(), FoldError> {
        let definition = self.accumulators.definition;
        let events = &counted(definition, events)?;
        if events.num_rows() == 0 {
            return Ok(());
        }
        let key = definition.key_array(events)?;
        let bucket = match &definition.bucket {
            Some(bucket) => value(bucket, events)?,
            None => new_null_array(&timestamp_type(), events.num_rows()),
        };
        if definition.bucket.is_some() && bucket.null_count() > 0 {
            return Err(FoldError::NullBucket);
        }
        self.groups.intern(&[key, bucket], &mut self.group_of_row)?;
        self.accumulators.update(events, &self.group_of_row, self.groups.len())
    }

    /// Merges states in; the same pair of key and bucket may come any number of times.
    pub fn merge(&mut self, states: &RecordBatch) -> Result<(), FoldError> {
        if states.num_rows() == 0 {
            return Ok(());
        }
        self.groups.intern(&states.columns()[..2], &mut self.group_of_row)?;
        self.accumulators.merge(states, &self.group_of_row, self.groups.len())
    }

    /// The states, in the columns of [`Definition::state_schema`].
    pub fn into_states(mut self) -> Result<RecordBatch, FoldError> {
        let schema = self.accumulators.definition.state_schema();
        if self.groups.is_empty() {
            return Ok(RecordBatch::new_empty(Arc::clone(schema)));
        }
        let mut columns = self.groups.emit(EmitTo::All)?;
        columns.extend(self.accumulators.states()?);
        sort_by_key(&RecordBatch::try_new(Arc::clone(schema), columns)?)
    }

    fn into_outputs(mut self) -> Result<RecordBatch, FoldError> {
        if self.groups.is_empty() {
            return Ok(RecordBatch::new_empty(Arc::clone(self.accumulators.definition.output_schema())));
        }
        let groups = self.groups.emit(EmitTo::All)?;
        sort_by_key(&self.accumulators.outputs(groups)?)
    }
}

/// An accumulator for each aggregate of a definition, over groups that somebody else keeps.
struct Accumulators<'a> {
    definition: &'a Definition,
    of_aggregates: Vec<Box<dyn GroupsAccumulator>>,
}

impl<'a> Accumulators<'a> {
    fn new(definition: &'a Definition) -> Result<Self, FoldError> {
        let of_aggregates = definition.aggregates.iter().map(|a| accumulator(&a.function)).collect::<Result<_, _>>()?;
        Ok(Self { definition, of_aggregates })
    }

    fn size(&self) -> usize {
        self.of_aggregates.iter().map(|a| a.size()).sum()
    }

    /// Events that the definition counts, each with its group of `groups`.
    fn update(&mut self, events: &RecordBatch, group_of_row: &[usize], groups: usize) -> Result<(), FoldError> {
        for (aggregate, accumulator) in self.definition.aggregates.iter().zip(&mut self.of_aggregates) {
            let arguments = aggregate.arguments.iter().map(|a| value(a, events)).collect::<Result<Vec<_>, _>>()?;
            let filter = aggregate.filter.as_ref().map(|f| truth(f, events)).transpose()?;
            accumulator.update_batch(&arguments, group_of_row, filter.as_ref(), groups)?;
        }
        Ok(())
    }

    /// States, each row with its group of `groups`. A group that is new in this batch has a row in it: accumulators rely on that to tell a
    /// null from a group without one.
    fn merge(&mut self, states: &RecordBatch, group_of_row: &[usize], groups: usize) -> Result<(), FoldError> {
        for (aggregate, accumulator) in self.definition.aggregates.iter().zip(&mut self.of_aggregates) {
            accumulator.merge_batch(&states.columns()[aggregate.states.clone()], group_of_row, groups)?;
        }
        Ok(())
    }

    /// The columns of the states, a row a group.
    fn states(&mut self) -> Result<Vec<ArrayRef>, FoldError> {
        let mut columns = Vec::new();
        for accumulator in &mut self.of_aggregates {
            columns.extend(accumulator.state(EmitTo::All)?);
        }
        Ok(columns)
    }

    /// The outputs, a row a group; `groups` are the columns of the groups, key and bucket.
    fn outputs(mut self, groups: Vec<ArrayRef>) -> Result<RecordBatch, FoldError> {
        let definition = self.definition;
        let rows = groups[0].len();
        let finished = self.of_aggregates.iter_mut().map(|a| a.evaluate(EmitTo::All)).collect::<Result<Vec<_>, _>>()?;
        let mut columns = groups;
        columns.push(Arc::clone(&finished[definition.count]));
        let finished = finished_batch(definition, finished, rows)?;
        for output in &definition.outputs {
            columns.push(value(&output.expression, &finished)?);
        }
        Ok(RecordBatch::try_new(Arc::clone(definition.output_schema()), columns)?)
    }
}

pub(crate) fn counted(definition: &Definition, events: &RecordBatch) -> Result<RecordBatch, FoldError> {
    let Some(filter) = &definition.filter else { return Ok(events.clone()) };
    Ok(filter_record_batch(events, &truth(filter, events)?)?)
}

/// How many events are in states, whatever the SQL counts.
#[must_use]
pub fn event_count(definition: &Definition, states: &RecordBatch) -> i64 {
    let column = definition.aggregates[definition.count].states.start;
    arrow::compute::sum(states.column(column).as_primitive::<Int64Type>()).unwrap_or(0)
}

/// What the output expressions read. They name aggregates only, so the columns of the groups are left null, and the
/// count that a definition did not ask for is left out.
fn finished_batch(definition: &Definition, mut finished: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch, ArrowError> {
    let schema = &definition.finished_schema;
    let group_columns = definition.key.len() + usize::from(definition.bucket.is_some());
    finished.truncate(schema.fields().len() - group_columns);
    let groups = schema.fields()[..group_columns].iter().map(|field| new_null_array(field.data_type(), rows));
    let columns = groups.chain(finished).collect::<Vec<_>>();
    RecordBatch::try_new(Arc::clone(schema), columns)
}

/// DataFusion's group accumulator of a function, or its row accumulator in an adapter, always the same for a function.
pub(crate) fn accumulator(function: &Arc<AggregateFunctionExpr>) -> Result<Box<dyn GroupsAccumulator>, DataFusionError> {
    if function.groups_accumulator_supported() {
        return function.create_groups_accumulator();
    }
    let function = Arc::clone(function);
    Ok(Box::new(GroupsAccumulatorAdapter::new(move || function.create_accumulator())))
}

fn value(expression: &Arc<dyn PhysicalExpr>, rows: &RecordBatch) -> Result<ArrayRef, DataFusionError> {
    expression.evaluate(rows)?.into_array(rows.num_rows())
}

/// The rows where a condition holds; null is no.
fn truth(condition: &Arc<dyn PhysicalExpr>, rows: &RecordBatch) -> Result<BooleanArray, DataFusionError> {
    let array = value(condition, rows)?;
    let booleans = array.as_boolean();
    Ok(match booleans.nulls() {
        None => booleans.clone(),
        Some(_) => arrow::compute::prep_null_mask_filter(booleans),
    })
}

fn sort_by_key(rows: &RecordBatch) -> Result<RecordBatch, FoldError> {
    let columns = rows.columns()[..2].iter().map(|c| SortColumn { values: Arc::clone(c), options: None }).collect::<Vec<_>>();
    let order = lexsort_to_indices(&columns, None)?;
    Ok(take_record_batch(rows, &order)?)
}
