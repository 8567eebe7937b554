//! Sorting within a memory limit: DataFusion's external sort, over the events of one partition by user, event and offset, or over
//! states by key and bucket.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::SchemaRef;
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::physical_expr::expressions::col;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::physical_plan::{ExecutionPlan, SendableRecordBatchStream};
use datafusion::prelude::SessionConfig;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use storage::store::StoreError;
use views::definition::{BUCKET, KEY};
use views::schema::OFFSET;

use crate::error::RunError;
use crate::progress::Stage;
use crate::source::Source;

/// What events are ordered by: an identity's rows are neighbours, the original first, and a user's rows are together.
const EVENT_ORDER: [&str; 3] = ["user_id", "event_id", OFFSET];
/// What states are ordered by.
const STATE_ORDER: [&str; 2] = [KEY, BUCKET];
/// Rows of a batch where memory is plenty.
const MAX_BATCH_ROWS: usize = 8192;
/// Rows of a batch where memory is scarce; fewer cost more than they save.
const MIN_BATCH_ROWS: usize = 128;
/// A batch gets this much of the limit for each row: many batches must fit at once, so that spilled runs can be merged.
const LIMIT_BYTES_PER_ROW: usize = 16 << 10;

/// What one sort may use.
#[derive(Clone, Debug)]
pub(crate) struct SortBounds {
    /// Memory, bytes.
    pub(crate) memory_bytes: usize,
    /// Folder for what does not fit.
    pub(crate) spill_dir: PathBuf,
}

impl SortBounds {
    fn batch_rows(&self) -> usize {
        (self.memory_bytes / LIMIT_BYTES_PER_ROW).clamp(MIN_BATCH_ROWS, MAX_BATCH_ROWS)
    }

    fn context(&self) -> Result<Arc<TaskContext>, DataFusionError> {
        let defaults = SessionConfig::new();
        let reserve = defaults.options().execution.sort_spill_reservation_bytes.min(self.memory_bytes / 4);
        let in_place = defaults.options().execution.sort_in_place_threshold_bytes.min(self.memory_bytes / 8);
        let config = defaults
            .with_batch_size(self.batch_rows())
            .with_sort_spill_reservation_bytes(reserve)
            .with_sort_in_place_threshold_bytes(in_place);
        let disk = DiskManagerBuilder::default().with_mode(DiskManagerMode::Directories(vec![self.spill_dir.clone()]));
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(GreedyMemoryPool::new(self.memory_bytes)))
            .with_disk_manager_builder(disk)
            .build_arc()?;
        Ok(Arc::new(TaskContext::default().with_session_config(config).with_runtime(runtime)))
    }
}

/// Rows in order. Drained batch by batch.
pub(crate) struct Sorted {
    /// For errors: the partition of events, the shard of states.
    partition: u32,
    rows: SendableRecordBatchStream,
    failure: Failure,
}

/// The store's own error, kept beside the sort: DataFusion would wrap it past recognition.
type Failure = Arc<Mutex<Option<StoreError>>>;

type Batches = BoxStream<'static, Result<RecordBatch, DataFusionError>>;

impl Sorted {
    /// Starts sorting the events that `source` has.
    pub(crate) fn events(source: &Source, bounds: &SortBounds) -> Result<Self, RunError> {
        let failure = Failure::default();
        let (read, kept) = (source.clone(), Arc::clone(&failure));
        let batches = move || {
            let kept = Arc::clone(&kept);
            let batches = read.batches(Stage::Read).map_err(move |error| {
                let told = DataFusionError::Execution(error.to_string());
                *kept.lock().expect("nobody panics with the lock") = Some(error);
                told
            });
            batches.boxed()
        };
        Self::start(source.partition, source.columns.read(), &EVENT_ORDER, Box::new(batches), bounds, failure)
    }

    /// Starts sorting states of one shard.
    pub(crate) fn states(
        shard: u32,
        schema: &SchemaRef,
        batches: impl Fn() -> Batches + Send + Sync + 'static,
        bounds: &SortBounds,
    ) -> Result<Self, RunError> {
        Self::start(shard, schema, &STATE_ORDER, Box::new(batches), bounds, Failure::default())
    }

    fn start(
        partition: u32,
        schema: &SchemaRef,
        order: &[&str],
        batches: Box<dyn Fn() -> Batches + Send + Sync>,
        bounds: &SortBounds,
        failure: Failure,
    ) -> Result<Self, RunError> {
        let input = Input { schema: Arc::clone(schema), batches, batch_rows: bounds.batch_rows() };
        let rows = execute(input, order, bounds).map_err(|source| RunError::Sort { partition, source })?;
        Ok(Self { partition, rows, failure })
    }

    /// The next rows; `None` after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<RecordBatch>, RunError> {
        self.rows.next().await.transpose().map_err(|source| {
            let ours = self.failure.lock().expect("nobody panics with the lock").take();
            ours.map_or_else(|| RunError::Sort { partition: self.partition, source }, RunError::Store)
        })
    }
}

fn execute(input: Input, order: &[&str], bounds: &SortBounds) -> Result<SendableRecordBatchStream, DataFusionError> {
    let schema = Arc::clone(&input.schema);
    let by = |name: &&str| Ok::<_, DataFusionError>(PhysicalSortExpr::new_default(col(name, &schema)?));
    let order = LexOrdering::new(order.iter().map(by).collect::<Result<Vec<_>, _>>()?).expect("there are columns to order by");
    let scan = StreamingTableExec::try_new(Arc::clone(&schema), vec![Arc::new(input)], None, [], false, None)?;
    SortExec::new(order, Arc::new(scan)).execute(0, bounds.context()?)
}

/// What is sorted, as DataFusion wants it.
struct Input {
    schema: SchemaRef,
    batches: Box<dyn Fn() -> Batches + Send + Sync>,
    batch_rows: usize,
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Input").field("batch_rows", &self.batch_rows).finish_non_exhaustive()
    }
}

impl PartitionStream for Input {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let batch_rows = self.batch_rows;
        let pieces = (self.batches)().map_ok(move |batch| stream::iter(pieces(&batch, batch_rows).into_iter().map(Ok))).try_flatten();
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), pieces))
    }
}

/// Copies of at most `rows` rows each: a slice would count, and hold, the memory of the whole batch.
fn pieces(batch: &RecordBatch, rows: usize) -> Vec<RecordBatch> {
    if batch.num_rows() <= rows {
        return vec![batch.clone()];
    }
    let copy = |start: usize| {
        let end = batch.num_rows().min(start + rows);
        let indices = UInt32Array::from_iter_values(start as u32..end as u32);
        take_record_batch(batch, &indices).expect("the indices are those of rows")
    };
    (0..batch.num_rows()).step_by(rows).map(copy).collect()
}
