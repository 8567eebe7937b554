//! A mapping: one `SELECT … FROM input` that makes events of a file of other columns.
//!
//! Names are those of the file, letter by letter, without quotation marks too. Literals with a point are decimals. What a mapping may
//! call is what a view may: functions that give the same value each time. Rows come out in one stream, in the order of the file unless
//! the SQL says otherwise.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::catalog::streaming::StreamingTable;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::DataFusionError;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility, WindowFunctionDefinition};
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast;
use storage::input;

/// The table that a mapping reads.
const INPUT: &str = "input";
/// What SQL means, whatever the defaults of a later DataFusion are. No time zone is set: a time without one is UTC to us, and DataFusion
/// 55.2's `to_timestamp` promises the zone that is set and returns none.
const PINNED: [(&str, &str); 4] = [
    ("datafusion.execution.target_partitions", "1"),
    ("datafusion.sql_parser.enable_ident_normalization", "false"),
    ("datafusion.sql_parser.map_string_types_to_utf8view", "false"),
    ("datafusion.sql_parser.parse_float_as_decimal", "true"),
];

/// Why a mapping is refused, or fails.
#[derive(Debug, thiserror::Error)]
pub enum MappingError {
    /// The text is no mapping, for no file.
    #[error("the mapping is refused: {0}")]
    Refused(String),
    /// It does not fit the columns of the file.
    #[error("the mapping does not fit the columns of the input")]
    Plan(#[source] DataFusionError),
    /// A column that it gives is none of an event.
    #[error("the mapping's column `{column}` {problem}")]
    Column {
        /// The column.
        column: String,
        /// What is wrong with it.
        problem: String,
    },
    /// It gave other events for the same rows in another order.
    #[error(
        "the mapping is not reproducible: with the rows of the input in another order it gives other events, so a second import would count them twice. The usual reason is row_number() without a complete ORDER BY: order by columns that tell any two different rows apart"
    )]
    NotReproducible,
    /// It fails on the rows of the file.
    #[error(
        "the mapping fails on the rows of the input; try_cast, nullif and CASE make null of what does not fit, and the row is refused alone"
    )]
    Rows(#[source] DataFusionError),
    /// The rows cannot be kept while they are read in another order.
    #[error("the rows cannot be written to a temporary file")]
    Spool(#[source] std::io::Error),
}

/// A mapping whose text is sound.
#[derive(Clone, Debug)]
pub struct Mapping {
    text: String,
    statement: Statement,
}

/// What one execution may use.
#[derive(Clone, Debug)]
pub(super) struct Bounds {
    /// Memory, bytes.
    pub(super) memory_bytes: usize,
    /// Folder for what does not fit.
    pub(super) spill_dir: Option<PathBuf>,
}

/// A mapping over the columns of one file.
pub(super) struct Planned {
    context: SessionContext,
    plan: LogicalPlan,
    /// Each event is made of one row alone.
    pub(super) row_by_row: bool,
}

impl Mapping {
    /// Checks the text of a mapping.
    ///
    /// # Errors
    /// [`MappingError::Refused`]: it is not SQL, or not one `SELECT`.
    pub fn parse(text: &str) -> Result<Self, MappingError> {
        let refused = |e: DataFusionError| MappingError::Refused(e.strip_backtrace());
        let mut statements = DFParserBuilder::new(text).build().and_then(|mut parser| parser.parse_statements()).map_err(refused)?;
        let one = if statements.len() == 1 { statements.pop_front() } else { None };
        match one {
            Some(Statement::Statement(statement)) if matches!(*statement, ast::Statement::Query(_)) => {
                Ok(Self { text: text.to_owned(), statement: Statement::Statement(statement) })
            }
            _ => Err(MappingError::Refused("write one SELECT … FROM input".to_owned())),
        }
    }

    /// BLAKE3 of the text, in hex.
    #[must_use]
    pub fn digest(&self) -> String {
        blake3::hash(self.text.as_bytes()).to_hex().to_string()
    }

    /// Plans the mapping over `input`.
    pub(super) async fn plan(&self, input: Arc<dyn PartitionStream>, bounds: &Bounds) -> Result<Planned, MappingError> {
        let context = context(bounds).map_err(MappingError::Plan)?;
        let table = StreamingTable::try_new(Arc::clone(input.schema()), vec![input]).map_err(MappingError::Plan)?;
        context.register_table(INPUT, Arc::new(table)).map_err(MappingError::Plan)?;
        let plan = context.state().statement_to_plan(self.statement.clone()).await.map_err(MappingError::Plan)?;
        let row_by_row = check(&plan)?;
        check_columns(&Arc::new(plan.schema().as_arrow().clone()))?;
        Ok(Planned { context, plan, row_by_row })
    }
}

impl Planned {
    /// Starts to make events.
    pub(super) async fn execute(self) -> Result<SendableRecordBatchStream, MappingError> {
        let frame = self.context.execute_logical_plan(self.plan).await.map_err(MappingError::Plan)?;
        frame.execute_stream().await.map_err(MappingError::Plan)
    }
}

fn context(bounds: &Bounds) -> Result<SessionContext, DataFusionError> {
    let mut config = SessionConfig::new();
    for (name, value) in PINNED {
        config.options_mut().set(name, value)?;
    }
    let defaults = config.options().execution.clone();
    let config = config
        .with_sort_spill_reservation_bytes(defaults.sort_spill_reservation_bytes.min(bounds.memory_bytes / 4))
        .with_sort_in_place_threshold_bytes(defaults.sort_in_place_threshold_bytes.min(bounds.memory_bytes / 8));
    let mode = bounds.spill_dir.clone().map_or(DiskManagerMode::OsTmpDirectory, |dir| DiskManagerMode::Directories(vec![dir]));
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(GreedyMemoryPool::new(bounds.memory_bytes)))
        .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(mode))
        .build_arc()?;
    let state = SessionStateBuilder::new().with_config(config).with_runtime_env(runtime).with_default_features().build();
    Ok(SessionContext::new_with_state(state))
}

/// Refuses other tables and functions that give another value each time. The answer is whether each event is made of one row alone.
fn check(plan: &LogicalPlan) -> Result<bool, MappingError> {
    let (mut row_by_row, mut reads_input, mut refused) = (true, false, None);
    let walked = plan.apply_with_subqueries(|node| {
        match node {
            LogicalPlan::Projection(_) | LogicalPlan::Filter(_) | LogicalPlan::SubqueryAlias(_) => {}
            LogicalPlan::TableScan(scan) if scan.table_name.table() == INPUT => reads_input = true,
            LogicalPlan::TableScan(scan) => refused = Some(format!("it reads {}; a mapping reads only input", scan.table_name)),
            _ => row_by_row = false,
        }
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                refused = refused.take().or_else(|| changing_function(expr));
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    walked.map_err(MappingError::Plan)?;
    match refused {
        Some(reason) => Err(MappingError::Refused(reason)),
        None if !reads_input => Err(MappingError::Refused("it does not read the input; write SELECT … FROM input".to_owned())),
        None => Ok(row_by_row),
    }
}

fn changing_function(expr: &Expr) -> Option<String> {
    let (name, volatility) = match expr {
        Expr::ScalarFunction(call) => (call.func.name(), call.func.signature().volatility),
        Expr::AggregateFunction(call) => (call.func.name(), call.func.signature().volatility),
        Expr::WindowFunction(call) => match &call.fun {
            WindowFunctionDefinition::AggregateUDF(function) => (function.name(), function.signature().volatility),
            WindowFunctionDefinition::WindowUDF(function) => (function.name(), function.signature().volatility),
        },
        _ => return None,
    };
    (volatility != Volatility::Immutable)
        .then(|| format!("{name} does not give the same value each time, so a second import could not find the same events"))
}

/// The columns that come out must be those of events, and an amount must not have been a float.
fn check_columns(schema: &SchemaRef) -> Result<(), MappingError> {
    let refused = |(column, problem)| MappingError::Column { column, problem };
    input::check_columns(schema.fields()).map_err(refused)?;
    match schema.field_with_name("amount").map(|field| field.data_type()) {
        Ok(DataType::Float16 | DataType::Float32 | DataType::Float64) => {
            let problem = "is a float, which is not exact; write CAST(… AS DECIMAL(18, 4)), or cast its parts";
            Err(refused(("amount".to_owned(), problem.to_owned())))
        }
        _ => Ok(()),
    }
}
