//! States in order of key and bucket, with the place of each key.
//!
//! A key is looked up in every run of a partition, and is in few of them. So a run that is not small says at once whether it has a key:
//! its index holds a row number, four bytes and one of control, for each key.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use hashbrown::HashTable;
use twox_hash::XxHash3_64;
use views::key::first_part;

/// Smaller runs are searched by halves.
const MIN_INDEXED_ROWS: usize = 1_024;

/// See the module.
#[derive(Debug)]
pub(crate) struct Run {
    states: RecordBatch,
    /// The first row of each key.
    index: Option<HashTable<u32>>,
}

impl Run {
    /// Of states that are sorted by key and bucket.
    pub(crate) fn new(states: RecordBatch) -> Self {
        let index = (states.num_rows() >= MIN_INDEXED_ROWS).then(|| index(keys(&states)));
        Self { states, index }
    }

    pub(crate) fn states(&self) -> &RecordBatch {
        &self.states
    }

    /// Its memory.
    pub(crate) fn bytes(&self) -> usize {
        self.states.get_array_memory_size() + self.index.as_ref().map_or(0, HashTable::allocation_size)
    }

    /// The rows of `key`; of all keys that begin with it, if `begin` is set.
    pub(crate) fn rows_of(&self, key: &str, begin: bool) -> RecordBatch {
        let range = if begin { range_of(keys(&self.states), key, |k| k.starts_with(key)) } else { self.range_of(key) };
        self.states.slice(range.start, range.len())
    }

    /// Whether it has rows of a user, in a view by user.
    pub(crate) fn has_user(&self, user_id: &str) -> bool {
        !range_of(keys(&self.states), user_id, |key| first_part(key) == user_id).is_empty()
    }

    /// A run without the rows of a user; `None` if nothing stays.
    pub(crate) fn without(run: &Arc<Self>, user_id: &str) -> Option<Arc<Self>> {
        let Range { start, end } = range_of(keys(&run.states), user_id, |key| first_part(key) == user_id);
        if start == end {
            return Some(Arc::clone(run));
        }
        // Copied, so that what goes does not stay in memory.
        let (before, after) = (run.states.slice(0, start), run.states.slice(end, run.states.num_rows() - end));
        let rest = concat_batches(run.states.schema_ref(), [&before, &after]).expect("both are parts of one run");
        (rest.num_rows() > 0).then(|| Arc::new(Self::new(rest)))
    }

    fn range_of(&self, key: &str) -> Range<usize> {
        let keys = keys(&self.states);
        let Some(index) = &self.index else { return range_of(keys, key, |_| false) };
        let Some(first) = index.find(hash(key), |row| keys.value(*row as usize) == key) else { return 0..0 };
        let first = *first as usize;
        // Steps that double, so that a key with one row costs one comparison and one with thousands a few.
        let mut step = 1;
        while first + step < keys.len() && keys.value(first + step) == key {
            step *= 2;
        }
        let known = first + step / 2;
        first..first_where(known..keys.len().min(first + step), |row| keys.value(row) != key)
    }
}

pub(super) fn keys(states: &RecordBatch) -> &StringArray {
    states.column(0).as_string::<i32>()
}

fn hash(key: &str) -> u64 {
    XxHash3_64::oneshot(key.as_bytes())
}

fn index(keys: &StringArray) -> HashTable<u32> {
    let is_first = |row: &usize| *row == 0 || keys.value(*row) != keys.value(row - 1);
    let mut table = HashTable::with_capacity((0..keys.len()).filter(is_first).count());
    for row in (0..keys.len()).filter(is_first) {
        let of_row = |row: &u32| hash(keys.value(*row as usize));
        table.insert_unique(hash(keys.value(row)), u32::try_from(row).expect("a run has fewer than 2^32 rows"), of_row);
    }
    table
}

/// Where `key` stands among sorted keys, with those behind it that belong to it.
fn range_of(keys: &StringArray, key: &str, belongs: impl Fn(&str) -> bool) -> Range<usize> {
    let start = first_where(0..keys.len(), |row| keys.value(row) >= key);
    start..first_where(start..keys.len(), |row| keys.value(row) > key && !belongs(keys.value(row)))
}

/// The first row of a range that is past something, where all behind it are too; the end if none is.
pub(super) fn first_where(rows: Range<usize>, past: impl Fn(usize) -> bool) -> usize {
    let Range { mut start, mut end } = rows;
    while start < end {
        let middle = start.midpoint(end);
        if past(middle) { end = middle } else { start = middle + 1 }
    }
    start
}

#[cfg(test)]
mod tests {
    use arrow::array::ArrayRef;

    use super::*;

    /// Proves that the index finds what a search finds, for keys that are there and for those between them, whatever number of rows they have.
    #[test]
    fn index_and_search() {
        for keys_in_all in [1, 3, 40, 200, 700] {
            let mut rows: Vec<String> = (0..keys_in_all).flat_map(|key| vec![format!("key-{key}"); 1 + key * key % 37]).collect();
            rows.sort();
            let column: ArrayRef = Arc::new(StringArray::from(rows.clone()));
            let run = Run::new(RecordBatch::try_from_iter([("key", column)]).unwrap());
            assert_eq!(run.index.is_some(), rows.len() >= MIN_INDEXED_ROWS);
            for key in (0..keys_in_all + 2).map(|key| format!("key-{key}")).chain(["".into(), "key-".into(), "z".into()]) {
                let expected = rows.iter().filter(|row| **row == key).count();
                let found = run.rows_of(&key, false);
                assert_eq!(found.num_rows(), expected, "{key} of {keys_in_all}");
                assert!(keys(&found).iter().all(|found| found == Some(key.as_str())));
            }
            assert_eq!(run.rows_of("key-1", true).num_rows(), rows.iter().filter(|row| row.starts_with("key-1")).count());
        }
    }
}
