//! Users whose batch half does not count, because they were erased behind the boundary (decision 0012).
//!
//! *Consistency.* Whoever reads the speed layer goes by what that says in the same answer. Where it is not read, the erasures in the
//! store say it: they are read as often as the store is asked for versions, and before a new version answers.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use storage::erasures::Erasures;
use storage::store::{Store, StoreError};
use views::Definition;
use views::key::first_part;

use crate::position::Offsets;
use crate::states::RowsByKey;

/// The erasures in the store, as they were last read. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known(Arc<RwLock<Arc<Erasures>>>);

impl Known {
    pub(crate) fn now(&self) -> Arc<Erasures> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads those that came since.
    pub(crate) async fn refresh(&self, store: &Store) -> Result<(), StoreError> {
        let known = self.now();
        let found = known.with_newer(store).await?;
        if found != *known {
            *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(found);
        }
        Ok(())
    }

    /// Who was erased from a boundary on.
    pub(crate) fn from(&self, boundary: &Offsets) -> Erased {
        let later = self.now().from(&in_order(boundary));
        Erased(later.iter().map(|erasure| (erasure.user_id.clone(), (erasure.partition.cast_signed(), erasure.offset))).collect())
    }

    /// How many erasures a version with the boundary `newer` has carried out, and one with the boundary `older` has not.
    pub(crate) fn between(&self, older: &Offsets, newer: &Offsets) -> usize {
        self.now().from(&in_order(older)).below(&in_order(newer)).iter().count()
    }
}

fn in_order(offsets: &Offsets) -> Vec<i64> {
    let partitions = offsets.keys().next_back().map_or(0, |last| last + 1);
    (0..partitions).map(|partition| offsets.get(&partition).copied().unwrap_or(0)).collect()
}

/// Users, each with the partition and the offset of the newest erasure.
#[derive(Clone, Debug, Default)]
pub(crate) struct Erased(pub(crate) BTreeMap<String, (i32, i64)>);

impl Erased {
    /// The erasure of the user whom a key begins with.
    pub(crate) fn of_key(&self, key: &str) -> Option<(i32, i64)> {
        self.0.get(first_part(key)).copied()
    }

    /// Takes their rows out of the batch half of a view, if it is one by user.
    pub(crate) fn leave_out(&self, definition: &Definition, rows: RowsByKey) -> RowsByKey {
        if self.0.is_empty() || !definition.is_by_user() {
            return rows;
        }
        rows.into_iter().map(|(key, rows)| (key, rows.iter().map(|rows| self.without(rows)).collect())).collect()
    }

    /// Rows of a view by user, without theirs.
    pub(crate) fn without(&self, rows: &RecordBatch) -> RecordBatch {
        let keys = rows.column(0).as_string::<i32>();
        let counts: BooleanArray = keys.iter().map(|key| key.map(|key| self.of_key(key).is_none())).collect();
        filter_record_batch(rows, &counts).expect("the mask has an entry for each row")
    }
}
