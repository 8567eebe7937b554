//! Rows that repeat one which has expired: they go together with it.
//!
//! Of rows with one identity the lowest offset counts. If that one went alone, the next would begin to count, and a number would change that
//! nobody touched. So a group whose first row has expired goes as a whole. It stays as a whole as long as one of its rows is
//! not settled, for then a version to come still has to say that this one is a repeated one.

use arrow::array::{Int64Array, StringArray, TimestampMicrosecondArray};
use storage::master::Expired;
use views::schema::OFFSET;

use crate::error::RunError;
use crate::sort::{SortBounds, Sorted};
use crate::source::{EVENT_TIME, Source, column};

/// Notes in `expired` which rows of `source`, which has all events of a partition, go or stay with others. Blocks on CPU and disk; held in memory:
/// one identity's rows, and what is noted.
///
/// # Errors
/// A damaged file, by name; the disk's.
pub(super) async fn note(source: Source, mut expired: Expired, bounds: SortBounds) -> Result<Expired, RunError> {
    let mut sorted = Sorted::events(&source, &bounds)?;
    let mut group = Group::default();
    while let Some(rows) = sorted.next().await? {
        let (users, events) = (column::<StringArray>(&rows, "user_id"), column::<StringArray>(&rows, "event_id"));
        let (offsets, times) = (column::<Int64Array>(&rows, OFFSET), column::<TimestampMicrosecondArray>(&rows, EVENT_TIME));
        for row in 0..rows.num_rows() {
            let identity = (users.value(row), events.value(row));
            if (group.user_id.as_str(), group.event_id.as_str()) != identity {
                group.note(&mut expired);
                group = Group { user_id: identity.0.to_owned(), event_id: identity.1.to_owned(), rows: Vec::new() };
            }
            group.rows.push((offsets.value(row), times.value(row)));
        }
    }
    group.note(&mut expired);
    Ok(expired)
}

/// The rows of one identity, in order of their offsets.
#[derive(Debug, Default)]
struct Group {
    user_id: String,
    event_id: String,
    /// Offset and time of each.
    rows: Vec<(i64, i64)>,
}

impl Group {
    fn note(&self, expired: &mut Expired) {
        let before_us = expired.before_us;
        let is_old = |row: &&(i64, i64)| row.1 < before_us;
        let old = self.rows.iter().filter(is_old).count();
        // Those that are as old as each other need no looking at: none of them counts.
        if old == 0 || old == self.rows.len() {
            return;
        }
        let offsets = |wanted: bool| self.rows.iter().filter(move |row| is_old(row) == wanted).map(|row| row.0);
        let is_settled = self.rows.iter().all(|(offset, _)| expired.is_settled(*offset));
        match is_settled {
            false => expired.stay.extend(offsets(true)),
            // The first of them counted, and does not any more.
            true if self.rows.first().is_some_and(|first| is_old(&first)) => expired.go.extend(offsets(false)),
            true => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves which rows of an identity go and stay with others: all go if the first has expired, none if one is not settled, and where
    /// the first counts, the others go by themselves.
    #[test]
    fn groups() {
        let noted = |rows: &[(i64, i64)]| {
            let mut expired = Expired { before_us: 10, below: 100, ..Expired::default() };
            Group { rows: rows.to_vec(), ..Group::default() }.note(&mut expired);
            (expired.stay.into_iter().collect::<Vec<_>>(), expired.go.into_iter().collect::<Vec<_>>())
        };
        let (none, some) = (Vec::<i64>::new, |offsets: &[i64]| offsets.to_vec());
        assert_eq!(noted(&[]), (none(), none()));
        assert_eq!(noted(&[(1, 5), (2, 5), (200, 5)]), (none(), none()));
        assert_eq!(noted(&[(1, 15), (200, 15)]), (none(), none()));
        assert_eq!(noted(&[(1, 5), (2, 15), (3, 5), (4, 10)]), (none(), some(&[2, 4])));
        assert_eq!(noted(&[(1, 15), (2, 5)]), (none(), none()));
        assert_eq!(noted(&[(1, 5), (2, 15), (100, 15)]), (some(&[1]), none()));
        assert_eq!(noted(&[(1, 15), (2, 5), (100, 15)]), (some(&[2]), none()));
    }
}
