//! From the planned SQL to physical expressions: the shape of the plan is checked node by node, and each piece of its
//! one aggregate is lowered on its own. There is no physical plan; [`crate::fold::Fold`] drives the pieces.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{Column, DFSchema, DataFusionError};
use datafusion::datasource::empty::EmptyTable;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::expr::Sort;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Aggregate as AggregatePlan, Expr, ExprSchemable, LogicalPlan, Projection, lit};
use datafusion::physical_expr::aggregate::{AggregateFunctionExpr, LoweredAggregateBuilder};
use datafusion::physical_expr::expressions::CastExpr;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion::prelude::SessionContext;
use futures::executor::block_on;

use super::error::DefinitionError;
use super::local;
use super::syntax::Checked;
use super::{Aggregate, KeyColumn, Output, is_user_id};
use crate::schema::{EventSchema, OFFSET, PARTITION, timestamp_type};

/// Everything of a definition but its text.
pub(super) struct Lowered {
    /// The SQL as the parser writes it: no comments, no line breaks.
    pub(super) normal_sql: String,
    /// Whether it asks the database of time zones.
    pub(super) is_local: bool,
    pub(super) filter: Option<Arc<dyn PhysicalExpr>>,
    pub(super) key: Vec<KeyColumn>,
    pub(super) bucket: Option<Arc<dyn PhysicalExpr>>,
    pub(super) bucket_name: Option<String>,
    pub(super) aggregates: Vec<Aggregate>,
    pub(super) count: usize,
    pub(super) outputs: Vec<Output>,
    pub(super) output_fields: Vec<Field>,
    pub(super) finished_schema: SchemaRef,
}

pub(super) fn lower(checked: Checked, schema: &EventSchema, state: &SessionState) -> Result<Lowered, DefinitionError> {
    let mut statement = checked.statement;
    let normal_sql = statement.to_string();
    let is_local = local::rename(&mut statement);
    let plan = plan(statement, schema, state).map_err(|e| DefinitionError::new(first_line(&e)))?;
    let (projection, aggregate, predicate, scan) = shape(&plan)?;
    let lowering = Lowering { props: ExecutionProps::new(), context: PhysicalPlanningContext::default() };
    let (key, bucket) = groups(aggregate, scan)?;
    let by_user = key.iter().any(|group| matches!(&aggregate.group_expr[*group], Expr::Column(column) if column.name == "user_id"));
    if !by_user {
        check_orders(aggregate)?;
    }
    let mut lowered = lowering.aggregates(aggregate, scan)?;
    let count = lowering.count_of_all(&mut lowered, scan)?;
    let bucket_expr = match bucket {
        None => None,
        Some(i) => Some(lowering.bucket(&aggregate.group_expr[i], scan)?),
    };
    let (outputs, output_fields) = lowering.outputs(projection, aggregate, &checked.output_names, &lowered)?;
    let name = |group: usize| group_name(&aggregate.group_expr[group], projection, &checked.output_names);
    let key = key.into_iter().map(|group| lowering.key_column(name(group), &aggregate.group_expr[group], scan));
    let key = key.collect::<Result<Vec<_>, _>>()?;
    if key.iter().skip(1).any(|column| is_user_id(&column.expression)) {
        return Err(DefinitionError::new("name user_id first in GROUP BY, so that the rows of a user lie together"));
    }
    // The columns of the groups are left null where outputs are computed.
    let finished_fields = aggregate.schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
    Ok(Lowered {
        normal_sql,
        is_local,
        filter: predicate.map(|p| lowering.expr(p, scan)).transpose()?,
        key,
        bucket: bucket_expr,
        bucket_name: bucket.map(name),
        aggregates: lowered,
        count,
        outputs,
        output_fields,
        finished_schema: Arc::new(Schema::new(finished_fields.collect::<Vec<_>>())),
    })
}

fn plan(
    statement: datafusion::sql::sqlparser::ast::Statement,
    schema: &EventSchema,
    state: &SessionState,
) -> Result<LogicalPlan, DataFusionError> {
    let context = SessionContext::new_with_state(state.clone());
    context.register_table("events", Arc::new(EmptyTable::new(schema.arrow())))?;
    let state = context.state();
    let statement = datafusion::sql::parser::Statement::Statement(Box::new(statement));
    let plan = block_on(state.statement_to_plan(statement))?;
    state.optimize(&plan)
}

/// The allow-list of plan nodes: Projection, one Aggregate, at most one Filter, the scan of `events`.
fn shape(plan: &LogicalPlan) -> Result<(&Projection, &AggregatePlan, Option<&Expr>, &DFSchema), DefinitionError> {
    let unexpected = |node: &LogicalPlan| {
        let display = node.display().to_string();
        DefinitionError::new(format!(
            "a view is one SELECT of aggregates over events; it was planned with \"{display}\", which is not supported"
        ))
    };
    let LogicalPlan::Projection(projection) = plan else { return Err(unexpected(plan)) };
    let LogicalPlan::Aggregate(aggregate) = projection.input.as_ref() else { return Err(unexpected(&projection.input)) };
    let (predicate, scan) = match aggregate.input.as_ref() {
        LogicalPlan::Filter(filter) => (Some(&filter.predicate), filter.input.as_ref()),
        other => (None, other),
    };
    match scan {
        LogicalPlan::TableScan(table) if table.filters.is_empty() && table.fetch.is_none() => {
            Ok((projection, aggregate, predicate, &table.projected_schema))
        }
        other => Err(unexpected(other)),
    }
}

/// Which group expressions are the key, and which is the bucket: a time that is made of event_time alone.
fn groups(aggregate: &AggregatePlan, scan: &DFSchema) -> Result<(Vec<usize>, Option<usize>), DefinitionError> {
    let is_bucket = |expr: &Expr| {
        let columns: HashSet<&Column> = expr.column_refs();
        let is_time = expr.get_type(scan).is_ok_and(|kind| matches!(kind, DataType::Timestamp(..) | DataType::Date32));
        is_time && !columns.is_empty() && columns.iter().all(|column| column.name == "event_time")
    };
    let (buckets, key): (Vec<usize>, Vec<usize>) = (0..aggregate.group_expr.len()).partition(|i| is_bucket(&aggregate.group_expr[*i]));
    if key.is_empty() {
        return Err(DefinitionError::new(
            "a view needs a key beside its time bucket, such as GROUP BY user_id, date_trunc('day', event_time)",
        ));
    }
    match buckets.as_slice() {
        [] => Ok((key, None)),
        [bucket] => Ok((key, Some(*bucket))),
        _ => Err(DefinitionError::new("GROUP BY has two time buckets; keep the finer one, a question can ask for coarser ones")),
    }
}

/// What the SELECT list calls a group expression, or its own text.
fn group_name(group: &Expr, projection: &Projection, names: &[String]) -> String {
    let own = group.schema_name().to_string();
    let is_group = |expr: &Expr| match expr.clone().unalias() {
        Expr::Column(column) => [&column.name, &column.flat_name()].contains(&&own),
        expr => expr.schema_name().to_string() == own,
    };
    let named = projection.expr.iter().zip(names).find(|(expr, _)| is_group(expr)).map(|(_, name)| name.clone());
    named.unwrap_or_else(|| match group {
        Expr::Column(column) => column.name.clone(),
        _ => own,
    })
}

struct Lowering {
    props: ExecutionProps,
    context: PhysicalPlanningContext,
}

impl Lowering {
    fn expr(&self, expr: &Expr, schema: &DFSchema) -> Result<Arc<dyn PhysicalExpr>, DefinitionError> {
        create_physical_expr(expr, schema, &self.props, &self.context).map_err(|e| DefinitionError::new(first_line(&e)))
    }

    /// A part of the key, whose text must be the only one of its value.
    fn key_column(&self, name: String, expr: &Expr, scan: &DFSchema) -> Result<KeyColumn, DefinitionError> {
        let expression = self.expr(expr, scan)?;
        let kind = expression.data_type(scan.as_arrow()).map_err(|e| DefinitionError::new(first_line(&e)))?;
        match kind {
            DataType::Utf8 | DataType::Boolean | DataType::Decimal128(..) | DataType::Date32 => {}
            _ if kind.is_integer() || kind == timestamp_type() => {}
            DataType::Utf8View | DataType::LargeUtf8 => {
                let expression = Arc::new(CastExpr::new(expression, DataType::Utf8, None));
                return Ok(KeyColumn { name, kind: DataType::Utf8, expression });
            }
            _ => {
                return Err(DefinitionError::new(format!(
                    "{name} is of type {kind}, which is no part of a key; use a text, an integer, a decimal, a truth value or a time"
                )));
            }
        }
        Ok(KeyColumn { name, kind, expression })
    }

    /// The bucket as every layer stores it, a UTC timestamp in microseconds.
    fn bucket(&self, expr: &Expr, scan: &DFSchema) -> Result<Arc<dyn PhysicalExpr>, DefinitionError> {
        let bucket = self.expr(expr, scan)?;
        if is_zoned(&bucket, scan) {
            return Err(DefinitionError::new(format!(
                "the bucket {expr} reckons in a time zone, where a day may be cut in two; write date_trunc('day', event_time, 'America/Havana')"
            )));
        }
        let kind = bucket.data_type(scan.as_arrow()).map_err(|e| DefinitionError::new(first_line(&e)))?;
        match kind {
            kind if kind == timestamp_type() => Ok(bucket),
            DataType::Timestamp(..) | DataType::Date32 => Ok(Arc::new(CastExpr::new(bucket, timestamp_type(), None))),
            other => Err(DefinitionError::new(format!(
                "the bucket {expr} is of type {other}; it must be a time, such as date_trunc('day', event_time)"
            ))),
        }
    }

    fn aggregates(&self, aggregate: &AggregatePlan, scan: &DFSchema) -> Result<Vec<Aggregate>, DefinitionError> {
        let mut lowered = Vec::new();
        for expr in &aggregate.aggr_expr {
            let next_state = lowered.last().map_or(2, |a: &Aggregate| a.states.end);
            lowered.push(self.aggregate(with_total_order(expr.clone()), scan, next_state)?);
        }
        Ok(lowered)
    }

    fn aggregate(&self, expr: Expr, scan: &DFSchema, first_state: usize) -> Result<Aggregate, DefinitionError> {
        let refuse = |e: &DataFusionError| DefinitionError::new(format!("{expr} cannot be split: {}", first_line(e)));
        let built =
            LoweredAggregateBuilder::new(&expr, scan, scan.as_arrow(), &self.props, &self.context).build().map_err(|e| refuse(&e))?;
        let function = built.aggregate;
        check_splittable(&expr, &function, scan)?;
        if function.order_sensitivity().hard_requires() {
            return Err(DefinitionError::new(format!(
                "{expr} needs its events sorted before it sees them, so it cannot be split; use first_value or last_value with ORDER BY"
            )));
        }
        let states = function.state_fields().map_err(|e| refuse(&e))?;
        // The accumulators themselves may refuse a type that the planner let pass; better here than at the first event.
        crate::fold::accumulator(&function).map_err(|e| refuse(&e))?;
        let mut arguments = function.expressions();
        arguments.extend(function.order_bys().iter().map(|sort| Arc::clone(&sort.expr)));
        Ok(Aggregate {
            arguments,
            filter: built.filter,
            states: first_state..first_state + states.len(),
            exact: !states.iter().any(|field| has_float(field.data_type())),
            function,
        })
    }

    /// The plain `count(*)`, added where the SQL has none: every answer says how many events it stands on.
    fn count_of_all(&self, aggregates: &mut Vec<Aggregate>, scan: &DFSchema) -> Result<usize, DefinitionError> {
        let is_count = |a: &Aggregate| a.filter.is_none() && counts_everything(&a.function);
        if let Some(found) = aggregates.iter().position(is_count) {
            return Ok(found);
        }
        let count = datafusion::functions_aggregate::count::count(lit(1_i64));
        let next_state = aggregates.last().map_or(2, |a| a.states.end);
        aggregates.push(self.aggregate(count, scan, next_state)?);
        Ok(aggregates.len() - 1)
    }

    /// The SELECT list without key and bucket.
    fn outputs(
        &self,
        projection: &Projection,
        aggregate: &AggregatePlan,
        names: &[String],
        aggregates: &[Aggregate],
    ) -> Result<(Vec<Output>, Vec<Field>), DefinitionError> {
        let groups: HashSet<String> = aggregate.group_expr.iter().map(|e| e.schema_name().to_string()).collect();
        let is_group = |expr: &Expr| {
            groups.contains(&expr.clone().unalias().schema_name().to_string())
                || matches!(expr.clone().unalias(), Expr::Column(c) if groups.contains(&c.name) || groups.contains(&c.flat_name()))
        };
        let mut outputs = Vec::new();
        let mut fields: Vec<Field> = Vec::new();
        for (expr, name) in projection.expr.iter().zip(names) {
            if is_group(expr) {
                continue;
            }
            let expression = self.expr(expr, &aggregate.schema)?;
            let columns = datafusion::physical_expr::utils::collect_columns(&expression);
            let first_aggregate = aggregate.group_expr.len();
            if columns.is_empty() || columns.iter().any(|c| c.index() < first_aggregate) {
                return Err(DefinitionError::new(format!("{name} is neither the key, the bucket, nor made of aggregates alone")));
            }
            if fields.iter().any(|f| f.name() == name) {
                return Err(DefinitionError::new(format!("two outputs are called {name}; give one of them another name with AS")));
            }
            let kind = expression.data_type(aggregate.schema.as_arrow()).map_err(|e| DefinitionError::new(first_line(&e)))?;
            check_reserved(name, &kind)?;
            fields.push(Field::new(name, kind, true));
            let of: Vec<&Aggregate> = columns.iter().map(|c| &aggregates[c.index() - first_aggregate]).collect();
            let estimated = of.iter().any(|a| !a.exact && a.function.fun().name().starts_with("approx_"));
            outputs.push(Output { expression, exact: of.iter().all(|a| a.exact), estimated });
        }
        Ok((outputs, fields))
    }
}

/// Whether an expression, or a part of it, is a time of another zone than UTC, or one of no zone, which such a cast may leave.
fn is_zoned(expr: &Arc<dyn PhysicalExpr>, scan: &DFSchema) -> bool {
    let zoned = match expr.data_type(scan.as_arrow()) {
        Ok(DataType::Timestamp(_, Some(zone))) => &*zone != "+00:00",
        _ => false,
    };
    zoned || expr.children().into_iter().any(|child| is_zoned(child, scan))
}

/// What DataFusion would split, but with an answer that depends on the order of merging or wraps around.
fn check_splittable(expr: &Expr, function: &AggregateFunctionExpr, scan: &DFSchema) -> Result<(), DefinitionError> {
    let name = function.fun().name();
    if function.is_distinct() && ORDERED.contains(&name) {
        return Err(DefinitionError::new(format!(
            "{expr}: {name}(DISTINCT …) has no order of its own; write {name}(… ORDER BY event_time)"
        )));
    }
    let wide = |e: &Arc<dyn PhysicalExpr>| matches!(e.data_type(scan.as_arrow()), Ok(DataType::Decimal128(precision, _)) if precision > 28);
    if name == "avg" && function.expressions().iter().any(wide) {
        return Err(DefinitionError::new(format!(
            "{expr} could wrap around without a word; average a narrower decimal: avg(CAST(… AS decimal(28,8)))"
        )));
    }
    Ok(())
}

/// Names that answers have fields for; a measure of that name must be of that type.
fn check_reserved(name: &str, kind: &DataType) -> Result<(), DefinitionError> {
    let fits = match name {
        super::EVENT_COUNT_COLUMN => false,
        "event_count" => *kind == DataType::Int64,
        "revenue" => matches!(kind, DataType::Decimal128(..)),
        "first_event_time" | "last_event_time" => *kind == timestamp_type(),
        _ => true,
    };
    match fits {
        true => Ok(()),
        false => Err(DefinitionError::new(format!(
            "{name} is the name of a field that every answer has, and {kind} is not its type; give the measure another name"
        ))),
    }
}

fn counts_everything(function: &AggregateFunctionExpr) -> bool {
    let literal = |e: &Arc<dyn PhysicalExpr>| {
        e.downcast_ref::<datafusion::physical_expr::expressions::Literal>().is_some_and(|l| !l.value().is_null())
    };
    function.fun().name() == "count" && !function.is_distinct() && function.expressions().iter().all(literal)
}

/// Aggregates that take the order of events, and whose ORDER BY is completed.
const ORDERED: [&str; 3] = ["first_value", "last_value", "array_agg"];

/// Refuses what takes the order of the log where there is none: the events of such a key are in several partitions.
fn check_orders(aggregate: &AggregatePlan) -> Result<(), DefinitionError> {
    for expr in &aggregate.aggr_expr {
        if let Expr::AggregateFunction(call) = expr.clone().unalias()
            && ORDERED.contains(&call.func.name())
            && call.params.order_by.is_empty()
        {
            return Err(DefinitionError::new(format!(
                "{expr}: the events of a key that is not the user's have no order of their own; add ORDER BY event_time"
            )));
        }
    }
    Ok(())
}

/// Events may share a time; partition and offset decide then, so that the first and the last are the same in every
/// layer, whatever the order of merging.
fn with_total_order(expr: Expr) -> Expr {
    let Expr::AggregateFunction(mut call) = expr.unalias() else {
        unreachable!("an aggregate plan holds aggregate functions");
    };
    if ORDERED.contains(&call.func.name()) && !call.params.distinct {
        let log_order = [PARTITION, OFFSET].map(|name| Sort::new(Expr::Column(Column::new(Some("events"), name)), true, false));
        call.params.order_by.extend(log_order);
    }
    Expr::AggregateFunction(call)
}

fn has_float(kind: &DataType) -> bool {
    match kind {
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => has_float(field.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| has_float(field.data_type())),
        other => other.is_floating(),
    }
}

/// DataFusion's innermost message without its back trace and hints of other dialects.
fn first_line(error: &DataFusionError) -> String {
    error.find_root().strip_backtrace().lines().next().unwrap_or_default().to_owned()
}
