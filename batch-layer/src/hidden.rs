//! What erasures hide of the events that a run reads: nobody sees it, whatever reads them.
//!
//! An event that lies below its user's erasure does not exist, for its identity neither (decision 0012), so it is left out where events
//! are read, before anything looks for duplicates. The version before may have counted it, and the speed layer too, for views by other
//! keys: the keys of such events are noted for the audit. In a view by user those are all keys of the user.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::filter_record_batch;
use storage::erasures::Erasures;
use views::schema::OFFSET;
use views::{Definition, FoldError};

use crate::progress::Stage;
use crate::source::{EventColumns, column};

/// What does not count, and what was found of it.
#[derive(Debug, Default)]
pub(crate) struct Hidden {
    erasures: Erasures,
    /// Those that the version before does not know.
    new: Erasures,
    /// Whose keys are noted.
    definition: Option<Arc<Definition>>,
    found: Mutex<Found>,
}

/// What was hidden of the rows that were read.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) rows: i64,
    /// Keys of rows that the version before, or the speed layer, may count. Held in memory.
    pub(crate) touched_keys: BTreeSet<String>,
    failure: Option<FoldError>,
}

impl Hidden {
    /// By these erasures, and no key is noted.
    pub(crate) fn by(erasures: &Erasures) -> Arc<Self> {
        Arc::new(Self { erasures: erasures.clone(), ..Self::default() })
    }

    /// By these erasures, of which a version with the boundary `before` knows those below it.
    pub(crate) fn since(erasures: &Erasures, before: &[i64], definition: &Arc<Definition>) -> Arc<Self> {
        let new = erasures.from(before);
        let noted = (!definition.is_by_user()).then(|| Arc::clone(definition));
        Arc::new(Self { erasures: erasures.clone(), new, definition: noted, found: Mutex::default() })
    }

    /// The rows of a batch that count. What is left out is counted when it is read first.
    pub(crate) fn leave_out(&self, columns: &EventColumns, batch: RecordBatch, stage: Stage) -> RecordBatch {
        if self.erasures.is_empty() {
            return batch;
        }
        let stays = places(&batch).map(|(user_id, offset)| !self.erasures.hides(user_id, offset)).collect::<Vec<_>>();
        let hidden = stays.iter().filter(|stays| !**stays).count();
        if hidden == 0 {
            return batch;
        }
        if stage == Stage::Read {
            let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
            found.rows += hidden as i64;
            match self.keys(columns, &batch) {
                Ok(keys) => found.touched_keys.extend(keys),
                Err(e) => found.failure = Some(e),
            }
        }
        filtered(&batch, stays)
    }

    /// The keys of rows that are newly hidden.
    fn keys(&self, columns: &EventColumns, batch: &RecordBatch) -> Result<Vec<String>, FoldError> {
        let Some(definition) = self.definition.as_ref().filter(|_| !self.new.is_empty()) else { return Ok(Vec::new()) };
        let newly_hidden = places(batch).map(|(user_id, offset)| self.new.hides(user_id, offset)).collect();
        let counted = definition.counted(&columns.widen(&filtered(batch, newly_hidden)))?;
        Ok(definition.keys(&counted)?.iter().flatten().map(str::to_owned).collect())
    }

    /// What was found since the last time.
    ///
    /// # Errors
    /// The view fails on a row that is hidden.
    pub(crate) fn take(&self) -> Result<Found, FoldError> {
        let mut found = std::mem::take(&mut *self.found.lock().unwrap_or_else(PoisonError::into_inner));
        found.failure.take().map_or(Ok(found), Err)
    }
}

fn places(batch: &RecordBatch) -> impl Iterator<Item = (&str, i64)> {
    let (users, offsets) = (column::<StringArray>(batch, "user_id"), column::<Int64Array>(batch, OFFSET));
    (0..batch.num_rows()).map(|row| (users.value(row), offsets.value(row)))
}

fn filtered(batch: &RecordBatch, stays: Vec<bool>) -> RecordBatch {
    filter_record_batch(batch, &BooleanArray::from(stays)).expect("the mask has an entry for each row")
}
