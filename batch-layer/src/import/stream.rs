//! What a blocking reader reads, as a stream: a thread reads a little ahead, and ends when nobody listens any more.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use storage::input::{Position, Table, TableBatches};
use tokio::sync::mpsc;

/// Items that wait to be taken.
const READ_AHEAD: usize = 2;

/// What the iterator that `open` makes gives, or its error.
pub(super) fn read_ahead<T, E, I>(open: impl FnOnce() -> Result<I, E> + Send + 'static) -> BoxStream<'static, Result<T, E>>
where
    T: Send + 'static,
    E: Send + 'static,
    I: Iterator<Item = Result<T, E>>,
{
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    let reader = tokio::task::spawn_blocking(move || match open() {
        Err(error) => drop(sender.blocking_send(Err(error))),
        Ok(items) => {
            for item in items {
                if sender.blocking_send(item).is_err() {
                    break;
                }
            }
        }
    });
    let next = |state: Option<(mpsc::Receiver<_>, tokio::task::JoinHandle<()>)>| async move {
        let (mut receiver, reader) = state?;
        match receiver.recv().await {
            Some(item) => Some((item, Some((receiver, reader)))),
            None => {
                // A reader that panicked closes the channel too: that is not the end of the file.
                reader.await.expect("the reader ran to its end");
                None
            }
        }
    };
    stream::unfold(Some((receiver, reader)), next).boxed()
}

/// Batches of a table as DataFusion takes them.
pub(super) fn of(
    schema: &SchemaRef,
    open: impl FnOnce() -> Result<TableBatches, DataFusionError> + Send + 'static,
) -> SendableRecordBatchStream {
    let external = |e| DataFusionError::External(Box::new(e));
    let batches = read_ahead(move || Ok(open()?.map(move |batch| batch.map_err(external))));
    Box::pin(RecordBatchStreamAdapter::new(Arc::clone(schema), batches.into_stream()))
}

/// A file as `input`, in its own order.
#[derive(Clone, Debug)]
pub(super) struct InFileOrder {
    pub(super) table: Arc<Table>,
    pub(super) position: Position,
}

impl PartitionStream for InFileOrder {
    fn schema(&self) -> &SchemaRef {
        self.table.schema()
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let this = self.clone();
        of(self.table.schema(), move || this.table.batches(&this.position).map_err(|e| DataFusionError::External(Box::new(e))))
    }
}
