//! Proof that a file has the events that it should: those of its range, in order, each once.

use std::ops::Range;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use views::schema::{OFFSET, PARTITION};

/// The offsets of a file that is being read, batch by batch.
///
/// A file may have fewer rows than its range has offsets, for what was erased is gone; then exactly so many are missing as it is said
/// to have fewer.
#[derive(Clone, Debug)]
pub struct Places {
    partition: u32,
    /// What is still to come.
    due: Range<i64>,
    /// How many of them are not there.
    gone: i64,
}

impl Places {
    /// Of a file of `rows` rows in `range` of a partition.
    #[must_use]
    pub fn new(partition: u32, range: Range<i64>, rows: i64) -> Self {
        Self { partition, gone: range.end - range.start - rows, due: range }
    }

    /// Takes the next rows.
    ///
    /// # Errors
    /// The first offset whose event is not where it belongs.
    pub fn take(&mut self, batch: &RecordBatch) -> Result<(), i64> {
        let offsets = batch.column_by_name(OFFSET).and_then(|column| column.as_primitive_opt::<Int64Type>());
        let partitions = batch.column_by_name(PARTITION).and_then(|column| column.as_primitive_opt::<Int32Type>());
        let (Some(offsets), Some(partitions)) = (offsets, partitions) else { return Err(self.due.start) };
        for row in 0..batch.num_rows() {
            let (offset, in_partition) = (offsets.value(row), partitions.value(row) == self.partition as i32);
            let left_out = offset.checked_sub(self.due.start).unwrap_or(-1);
            if !in_partition || offsets.is_null(row) || left_out < 0 || left_out > self.gone || offset >= self.due.end {
                return Err(self.due.start);
            }
            self.gone -= left_out;
            self.due.start = offset + 1;
        }
        Ok(())
    }

    /// After the last row.
    ///
    /// # Errors
    /// The first offset whose event is missing.
    pub fn end(&self) -> Result<(), i64> {
        if self.due.end - self.due.start == self.gone { Ok(()) } else { Err(self.due.start) }
    }
}
