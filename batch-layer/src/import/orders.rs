//! Is a mapping reproducible? It is run over the same rows in several orders, and must give the same events each time.
//!
//! A mapping of nothing but columns and conditions makes each event of one row, and is not looked at. For any other the rows are
//! written to a temporary file once and read from there: as they are, backwards, and shuffled. Backwards every pair of rows that an
//! `ORDER BY` does not tell apart changes places; shuffled, also those that read the same both ways. The events of each run are summed
//! up in a number that does not depend on their own order.

use std::fs::File;
use std::io::{self, Seek};
use std::sync::Arc;

use arrow::array::{Array, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::reader::FileReader;
use arrow::ipc::writer::FileWriter;
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::physical_plan::streaming::PartitionStream;
use futures::TryStreamExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use storage::input::{Position, Table, TableBatches};
use storage::machine::blocking;

use super::mapping::{Bounds, Mapping, MappingError};
use super::rows::texts;
use super::stream;

/// In which order rows are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// As in the file.
    File,
    Backwards,
    Shuffled,
}

/// The rows of a table in a temporary file without a name, which is gone when nobody has it open any more.
#[derive(Debug)]
pub(super) struct Spool {
    schema: SchemaRef,
    file: File,
    batches: usize,
}

impl Spool {
    /// Copies the rows of `table`. Blocks on the disk.
    pub(super) fn write(table: &Table, bounds: &Bounds) -> Result<Self, super::ImportError> {
        let failed = |e: io::Error| MappingError::Spool(e);
        let spool = |e: ArrowError| MappingError::Spool(io::Error::other(e));
        let file = match &bounds.spill_dir {
            Some(dir) => std::fs::create_dir_all(dir).and_then(|()| tempfile::tempfile_in(dir)),
            None => tempfile::tempfile(),
        };
        let file = file.map_err(failed)?;
        let mut writer = FileWriter::try_new_buffered(file.try_clone().map_err(failed)?, table.schema()).map_err(spool)?;
        let mut batches = 0;
        for batch in table.batches(&Position::default())? {
            writer.write(&batch?).map_err(spool)?;
            batches += 1;
        }
        writer.finish().map_err(spool)?;
        writer.flush().map_err(spool)?;
        Ok(Self { schema: Arc::clone(table.schema()), file, batches })
    }

    fn read(&self, order: Order) -> Result<TableBatches, ArrowError> {
        // A handle of its own, but one place in the file: one run reads at a time.
        let mut file = self.file.try_clone()?;
        file.rewind()?;
        let mut reader = FileReader::try_new_buffered(file, None)?;
        let mut random = StdRng::seed_from_u64(0);
        let numbers = order.of(self.batches, &mut random);
        let unreadable = |e: ArrowError| storage::input::InputError::Read { file: "the temporary file".into(), line: 0, source: e.into() };
        Ok(Box::new(numbers.into_iter().map(move |number| {
            reader.set_index(number as usize).map_err(unreadable)?;
            let batch = reader.next().expect("the number is that of a batch").map_err(unreadable)?;
            let rows = UInt32Array::from(order.of(batch.num_rows(), &mut random));
            take_record_batch(&batch, &rows).map_err(unreadable)
        })))
    }
}

impl Order {
    /// `0..count` in this order.
    fn of(self, count: usize, random: &mut StdRng) -> Vec<u32> {
        let mut numbers: Vec<u32> = (0..count as u32).collect();
        match self {
            Self::File => {}
            Self::Backwards => numbers.reverse(),
            Self::Shuffled => numbers.shuffle(random),
        }
        numbers
    }
}

/// A spool as `input`, in one order.
#[derive(Clone, Debug)]
pub(super) struct Ordered {
    pub(super) spool: Arc<Spool>,
    pub(super) order: Order,
}

impl PartitionStream for Ordered {
    fn schema(&self) -> &SchemaRef {
        &self.spool.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let this = self.clone();
        let read = move || this.spool.read(this.order).map_err(DataFusionError::from);
        stream::of(&self.spool.schema, read)
    }
}

/// Refuses a mapping that gives other events in another order.
pub(super) async fn check(mapping: &Mapping, spool: &Arc<Spool>, bounds: &Bounds) -> Result<(), MappingError> {
    let mut sums = Vec::new();
    for order in [Order::File, Order::Backwards, Order::Shuffled] {
        let planned = mapping.plan(Arc::new(Ordered { spool: Arc::clone(spool), order }), bounds).await?;
        let mut events = planned.execute().await?;
        let mut sum = Sum::default();
        while let Some(batch) = events.try_next().await.map_err(MappingError::Rows)? {
            sum = blocking(move || sum.add(&batch)).await.map_err(MappingError::Rows)?;
        }
        sums.push(sum);
        if sums[0] != sum {
            return Err(MappingError::NotReproducible);
        }
    }
    Ok(())
}

/// How many rows, and the sum of their hashes: the same for the same rows in any order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    rows: u64,
    hashes: u128,
}

impl Sum {
    fn add(mut self, batch: &RecordBatch) -> Result<Self, DataFusionError> {
        let columns = texts(batch)?;
        for row in 0..batch.num_rows() {
            let mut hasher = blake3::Hasher::new();
            for (_, column) in &columns {
                // A null is no text, and a text ends where its length says.
                let text = if column.is_valid(row) { column.value(row) } else { "" };
                hasher.update(&[u8::from(column.is_valid(row))]);
                hasher.update(&(text.len() as u64).to_le_bytes());
                hasher.update(text.as_bytes());
            }
            let hash = hasher.finalize();
            self.hashes = self.hashes.wrapping_add(u128::from_le_bytes(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes")));
            self.rows += 1;
        }
        Ok(self)
    }
}
