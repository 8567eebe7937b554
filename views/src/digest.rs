//! The content digest of a batch view: a function of keys and exact states, not of files, threads, memory, or of how often a version
//! was built upon.
//!
//! Each row is written in a canonical form of its own, not in Arrow's or Parquet's, which may change: key, bucket,
//! then each exact state. The elements of a list are sorted, for a list state is a set. States that depend on the
//! order of merging are left out (`exact` says which). The digest is the sum of the BLAKE3 of all rows, in four lanes of 64 bits
//! (a multiset hash, AdHash of Bellare and Micciancio, 1997), so that rows can come in any order, and a row that changes costs
//! taking the old one out and putting the new one in. It tells accidents apart, not what somebody made to collide.

use std::fmt;
use std::str::FromStr;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
    TimestampNanosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};

/// What distinguishes it from the digests of earlier releases, which were hashes over rows in order.
const PREFIX: &str = "sum-";
const LANES: usize = 4;

/// The digest of a set of rows, each with a key and bucket of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest([u64; LANES]);

impl Digest {
    /// Puts rows of states in; `exact` has an entry for each column.
    ///
    /// # Panics
    /// `exact` is not as long as the columns.
    pub fn add(&mut self, states: &RecordBatch, exact: &[bool]) {
        for_each_row(states, exact, |row| self.plus(row));
    }

    /// Takes rows out that were put in.
    ///
    /// # Panics
    /// `exact` is not as long as the columns.
    pub fn remove(&mut self, states: &RecordBatch, exact: &[bool]) {
        for_each_row(states, exact, |row| {
            for (lane, row) in self.0.iter_mut().zip(row.0) {
                *lane = lane.wrapping_sub(row);
            }
        });
    }

    /// The digest of one row that the caller has written in a canonical form.
    #[must_use]
    pub fn of_row(bytes: &[u8]) -> Self {
        of_hash(blake3::hash(bytes))
    }

    /// Puts all rows of `other` in.
    pub fn plus(&mut self, other: Self) {
        for (lane, other) in self.0.iter_mut().zip(other.0) {
            *lane = lane.wrapping_add(other);
        }
    }
}

/// `sum-` and the lanes in hex, each little endian.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        self.0.iter().flat_map(|lane| lane.to_le_bytes()).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A text that is no digest of this kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a sum over rows")]
pub struct NotASum;

impl FromStr for Digest {
    type Err = NotASum;

    fn from_str(text: &str) -> Result<Self, NotASum> {
        let hash = text.strip_prefix(PREFIX).and_then(|hex| blake3::Hash::from_hex(hex).ok()).ok_or(NotASum)?;
        Ok(of_hash(hash))
    }
}

fn of_hash(hash: blake3::Hash) -> Digest {
    let (lanes, _) = hash.as_bytes().as_chunks();
    Digest(std::array::from_fn(|lane| u64::from_le_bytes(lanes[lane])))
}

fn for_each_row(states: &RecordBatch, exact: &[bool], mut row_digest: impl FnMut(Digest)) {
    assert_eq!(states.num_columns(), exact.len(), "one entry a column");
    let mut bytes = Vec::new();
    for row in 0..states.num_rows() {
        bytes.clear();
        for (column, _) in states.columns().iter().zip(exact).filter(|(_, exact)| **exact) {
            write_value(column.as_ref(), row, &mut bytes);
        }
        row_digest(Digest::of_row(&bytes));
    }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringArray};
    use arrow::datatypes::{Field, Schema};

    use super::*;

    fn rows(rows: &[(&str, i64)]) -> RecordBatch {
        let schema = Schema::new(vec![Field::new("key", DataType::Utf8, false), Field::new("count", DataType::Int64, false)]);
        let keys = StringArray::from_iter_values(rows.iter().map(|(key, _)| key));
        let counts = Int64Array::from_iter_values(rows.iter().map(|(_, count)| *count));
        RecordBatch::try_new(Arc::new(schema), vec![Arc::new(keys), Arc::new(counts)]).unwrap()
    }

    fn of(content: &[(&str, i64)]) -> Digest {
        let mut digest = Digest::default();
        digest.add(&rows(content), &[true, true]);
        digest
    }

    /// Proves that the order of rows does not matter, that each of their values does, and that a row can be replaced.
    #[test]
    fn a_sum_over_rows() {
        let whole = of(&[("a", 1), ("b", 2), ("c", 3)]);
        assert_eq!(of(&[("c", 3), ("a", 1), ("b", 2)]), whole);
        for other in [[("a", 1), ("b", 3), ("c", 2)], [("a", 1), ("b", 2), ("d", 3)]] {
            assert_ne!(of(&other), whole);
        }
        let mut replaced = of(&[("a", 1), ("b", 7), ("c", 3)]);
        replaced.remove(&rows(&[("b", 7)]), &[true, true]);
        replaced.add(&rows(&[("b", 2)]), &[true, true]);
        assert_eq!(replaced, whole);
    }

    /// Proves that the text is frozen, is read back, and that what an earlier release wrote is no sum.
    #[test]
    fn text() {
        let digest = of(&[("a", 1)]);
        assert_eq!(digest.to_string(), "sum-c8222d253c9e8eaab447566011ede3e57c475455adb0a8a4a098511b22696766");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!(blake3::hash(b"").to_hex().parse::<Digest>(), Err(NotASum));
    }
}
