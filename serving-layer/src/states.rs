//! State rows of many keys, sorted apart.

use std::collections::HashMap;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Schema;
use views::{Definition, FoldError};

use crate::question::TimeRange;
use crate::version::rows_in;

/// The state rows of each key.
pub(crate) type RowsByKey = HashMap<String, Vec<RecordBatch>>;

/// What keeps rows of `schema` from being states of `definition`, if anything does. Names of columns do not matter.
pub(crate) fn misfit(schema: &Schema, definition: &Definition) -> Option<String> {
    let expected = definition.state_schema();
    let (found, wanted) = (schema.fields().len(), expected.fields().len());
    if found != wanted {
        return Some(format!("states have {wanted} columns by the definition, and here {found}"));
    }
    let mut pairs = expected.fields().iter().zip(schema.fields());
    let (wanted, found) = pairs.find(|(wanted, found)| !wanted.data_type().equals_datatype(found.data_type()))?;
    Some(format!("column {} is {} by the definition, and here {}", wanted.name(), wanted.data_type(), found.data_type()))
}

/// Sorts the rows that are in `range` by key. Rows of one key may lie anywhere.
pub(crate) fn by_key(batches: &[RecordBatch], range: TimeRange) -> Result<RowsByKey, FoldError> {
    let mut sorted = RowsByKey::new();
    for batch in batches {
        let keys = batch.column(0).as_string::<i32>();
        let mut start = 0;
        while start < batch.num_rows() {
            let key = keys.value(start);
            let length = (start..batch.num_rows()).take_while(|row| keys.value(*row) == key).count();
            let rows = rows_in(&batch.slice(start, length), range)?;
            sorted.entry(key.to_owned()).or_default().push(rows);
            start += length;
        }
    }
    Ok(sorted)
}
