//! What is left out of files that are written again: rows of erased users, and rows past a declared retention.

use std::collections::BTreeSet;
use std::ops::AddAssign;

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use views::schema::OFFSET;

use crate::erasures::Erasures;
use crate::imports::import_of;

/// The event's own time.
const EVENT_TIME: &str = "event_time";
/// What decides whether a row is left out.
pub(super) const COLUMNS: [&str; 3] = ["user_id", EVENT_TIME, OFFSET];

/// What a file of one partition is written without.
#[derive(Clone, Debug, Default)]
pub struct Without {
    /// Rows that these hide,
    pub erasures: Erasures,
    /// and of the others those that have expired.
    pub expired: Option<Expired>,
}

/// Which rows of one partition have expired: those that are settled and older than the floor, but for a few.
///
/// A row is *settled* if every version that is kept covers it: no answer and no audit counts it as something new any more.
#[derive(Clone, Debug, Default)]
pub struct Expired {
    /// Events of before this have expired, microseconds since 1970,
    pub before_us: i64,
    /// if their offsets lie below this
    pub below: i64,
    /// or they are of one of these imports,
    pub imports: BTreeSet<i64>,
    /// and not at these offsets, where a row that is not settled repeats them.
    pub stay: BTreeSet<i64>,
    /// These go too, for they repeat one that does.
    pub go: BTreeSet<i64>,
}

impl Expired {
    /// Whether the event at `offset` is one that every kept version covers.
    #[must_use]
    pub fn is_settled(&self, offset: i64) -> bool {
        import_of(offset).map_or(offset < self.below, |import| self.imports.contains(&import))
    }

    fn has(&self, time_us: i64, offset: i64) -> bool {
        (time_us < self.before_us && self.is_settled(offset) && !self.stay.contains(&offset)) || self.go.contains(&offset)
    }
}

/// Rows that were left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LeftOut {
    pub(super) erased: i64,
    pub(super) expired: i64,
}

impl LeftOut {
    pub(super) fn rows(self) -> i64 {
        self.erased + self.expired
    }
}

impl AddAssign for LeftOut {
    fn add_assign(&mut self, other: Self) {
        self.erased += other.erased;
        self.expired += other.expired;
    }
}

impl Without {
    /// Nothing but what these hide.
    #[must_use]
    pub fn erased(erasures: &Erasures) -> Self {
        Self { erasures: erasures.clone(), expired: None }
    }

    /// The rows that stay, and how many do not. A row of an erased user is erased, however old it is.
    pub(super) fn leave_out(&self, batch: &RecordBatch) -> (RecordBatch, LeftOut) {
        let mut left_out = LeftOut::default();
        if self.erasures.is_empty() && self.expired.is_none() {
            return (batch.clone(), left_out);
        }
        let offsets = batch.column_by_name(OFFSET).and_then(|column| column.as_primitive_opt::<Int64Type>());
        let users = batch.column_by_name("user_id").and_then(|column| column.as_string_opt::<i32>());
        let times = batch.column_by_name(EVENT_TIME).and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
        let (Some(offsets), Some(users)) = (offsets, users) else { return (batch.clone(), left_out) };
        let mut stays = |row: usize| {
            let offset = offsets.value(row);
            let is_erased = self.erasures.hides(users.value(row), offset);
            let has_expired = match (&self.expired, times) {
                (Some(expired), Some(times)) if !is_erased => expired.has(times.value(row), offset),
                _ => false,
            };
            left_out += LeftOut { erased: i64::from(is_erased), expired: i64::from(has_expired) };
            !is_erased && !has_expired
        };
        let stays: BooleanArray = (0..batch.num_rows()).map(|row| Some(stays(row))).collect();
        let kept = filter_record_batch(batch, &stays).expect("the mask has an entry for each row");
        (kept, left_out)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringArray, TimestampMicrosecondArray};

    use super::*;
    use crate::erasures::Erasure;
    use crate::imports::first_offset;

    /// Proves that a row leaves if it is old, settled and not one of those that stay, or if it is named, that one of an erased user counts as
    /// erased alone, and that nothing else leaves.
    #[test]
    fn which_rows() {
        let imported = [first_offset(1), first_offset(2)];
        let rows = [
            ("a", 5, 1, false),
            ("a", 10, 2, true),
            ("a", 5, 3, true),
            ("a", 15, 4, false),
            ("b", 5, 5, false),
            ("a", 5, 8, true),
            ("a", 5, imported[0], false),
            ("a", 5, imported[1], true),
        ];
        let (users, times, offsets): (Vec<_>, Vec<_>, Vec<_>) = rows.iter().map(|row| (Some(row.0), row.1, row.2)).collect();
        let batch = RecordBatch::try_from_iter([
            ("user_id", Arc::new(StringArray::from(users)) as arrow::array::ArrayRef),
            (EVENT_TIME, Arc::new(TimestampMicrosecondArray::from(times))),
            (OFFSET, Arc::new(Int64Array::from(offsets))),
        ])
        .unwrap();
        let expired = Expired { before_us: 10, below: 8, imports: [1].into(), stay: [3].into(), go: [4].into() };
        let erasures: Erasures = [Erasure::new(0, 6, "b".to_owned(), 0)].into_iter().collect();
        let (kept, left_out) = Without { erasures, expired: Some(expired) }.leave_out(&batch);
        let expected: Vec<i64> = rows.iter().filter(|row| row.3).map(|row| row.2).collect();
        assert_eq!(kept.column(2).as_primitive::<Int64Type>().values().to_vec(), expected);
        assert_eq!((left_out, left_out.rows()), (LeftOut { erased: 1, expired: 3 }, 4));
        assert_eq!(Without::default().leave_out(&batch), (batch, LeftOut::default()));
    }
}
