//! The content digest of a batch view: a function of keys and exact states, not of files, threads or memory.
//!
//! Each row is written in a canonical form of its own, not in Arrow's or Parquet's, which may change: key, bucket,
//! then each exact state. The elements of a list are sorted, for a list state is a set. States that depend on the
//! order of merging are left out (`exact` says which).

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
    TimestampNanosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};

/// A digest in the making. Feed it each shard's rows in order of key and bucket.
#[derive(Default)]
pub struct Digest {
    hasher: blake3::Hasher,
    row: Vec<u8>,
}

impl Digest {
    /// Adds rows of states; `exact` has an entry for each column.
    ///
    /// # Panics
    /// `exact` is not as long as the columns.
    pub fn update(&mut self, states: &RecordBatch, exact: &[bool]) {
        assert_eq!(states.num_columns(), exact.len(), "one entry a column");
        for row in 0..states.num_rows() {
            self.row.clear();
            for (column, _) in states.columns().iter().zip(exact).filter(|(_, exact)| **exact) {
                write_value(column.as_ref(), row, &mut self.row);
            }
            self.hasher.update(&(self.row.len() as u64).to_le_bytes());
            self.hasher.update(&self.row);
        }
    }

    /// Hex of 32 bytes.
    #[must_use]
    pub fn finish(&self) -> String {
        self.hasher.finalize().to_hex().to_string()
    }
}

/// The digest of a view from those of its shards, in their order.
#[must_use]
pub fn combine<'a>(shards: impl IntoIterator<Item = &'a str>) -> String {
    let mut hasher = blake3::Hasher::new();
    for shard in shards {
        hasher.update(shard.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// One byte for null or not, then the value; texts and bytes with their length in front.
fn write_value(column: &dyn Array, row: usize, out: &mut Vec<u8>) {
    if column.is_null(row) {
        out.push(0);
        return;
    }
    out.push(1);
    macro_rules! fixed {
        ($kind:ty) => {
            out.extend_from_slice(&column.as_primitive::<$kind>().value(row).to_le_bytes())
        };
    }
    match column.data_type() {
        DataType::Boolean => out.push(u8::from(column.as_boolean().value(row))),
        DataType::Int8 => fixed!(Int8Type),
        DataType::Int16 => fixed!(Int16Type),
        DataType::Int32 => fixed!(Int32Type),
        DataType::Int64 => fixed!(Int64Type),
        DataType::UInt8 => fixed!(UInt8Type),
        DataType::UInt16 => fixed!(UInt16Type),
        DataType::UInt32 => fixed!(UInt32Type),
        DataType::UInt64 => fixed!(UInt64Type),
        DataType::Date32 => fixed!(Date32Type),
        DataType::Decimal128(..) => fixed!(Decimal128Type),
        DataType::Timestamp(TimeUnit::Microsecond, _) => fixed!(TimestampMicrosecondType),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => fixed!(TimestampNanosecondType),
        DataType::Utf8 => write_bytes(column.as_string::<i32>().value(row).as_bytes(), out),
        DataType::Binary => write_bytes(column.as_binary::<i32>().value(row), out),
        DataType::List(_) => write_set(column.as_list::<i32>().value(row).as_ref(), out),
        _ => {
            let text = ArrayFormatter::try_new(column, &FormatOptions::default()).map(|f| f.value(row).to_string());
            write_bytes(text.unwrap_or_default().as_bytes(), out);
        }
    }
}

fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn write_set(elements: &dyn Array, out: &mut Vec<u8>) {
    let mut written: Vec<Vec<u8>> = (0..elements.len())
        .map(|i| {
            let mut element = Vec::new();
            write_value(elements, i, &mut element);
            element
        })
        .collect();
    written.sort_unstable();
    out.extend_from_slice(&(written.len() as u64).to_le_bytes());
    written.iter().for_each(|element| write_bytes(element, out));
}
