//! Same identity, counted once: of rows with one user and event id the lowest offset stays, over all history.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{BooleanArray, Int64Array, RecordBatch, StringArray, UInt32Array};
use arrow::compute::{filter_record_batch, take_record_batch};
use storage::identities::First;
use storage::imports::import_of;
use views::schema::{CONTENT_HASH, OFFSET};
use views::{Definition, shard_of};

use crate::error::RunError;
use crate::report::Removed;
use crate::source::{EventColumns, Source, column};

/// Removed rows that a report lists; all are counted.
pub(crate) const EXAMPLES: usize = 100;

/// What was removed from one partition.
#[derive(Debug, Default)]
pub(crate) struct Duplicates {
    /// Rows whose content was that of the original.
    pub(crate) late_count: i64,
    /// Rows whose content was another.
    pub(crate) conflict_count: i64,
    /// The first of the former.
    pub(crate) late: Vec<Removed>,
    /// The first of the latter.
    pub(crate) conflicts: Vec<Removed>,
    /// Rows of both kinds that the version before and the speed layer counted, together once too often.
    pub(crate) correction_count: i64,
    /// The first of them.
    pub(crate) corrections: Vec<Removed>,
    /// Removed rows whose originals lie below the boundary of the version before, as the index of identities says, for a run that does
    /// not read those.
    pub(crate) recalled: Vec<Recalled>,
    /// Keys of removed rows that are new, or gave way to one that is: somebody counted them otherwise. Held in memory.
    pub(crate) touched_keys: BTreeSet<String>,
}

/// A row that was removed for one that the run did not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Recalled {
    pub(crate) removed_offset: i64,
    pub(crate) kept_offset: i64,
}

/// Drops repeated identities from rows in order of user, event and offset.
pub(crate) struct Dedup {
    definition: Arc<Definition>,
    columns: Arc<EventColumns>,
    partition: u32,
    partitions: u32,
    new: New,
    kept: Option<Kept>,
    pub(crate) found: Duplicates,
}

/// Which events the version before does not cover.
#[derive(Clone, Debug)]
pub(crate) struct New {
    /// Those of the log from this offset on.
    pub(crate) from: i64,
    /// Those of these imports.
    pub(crate) imports: Arc<BTreeSet<i64>>,
}

impl New {
    fn has(&self, offset: i64) -> bool {
        import_of(offset).map_or(offset >= self.from, |import| self.imports.contains(&import))
    }
}

/// The last row that stayed.
struct Kept {
    user_id: String,
    event_id: String,
    offset: i64,
    content_hash: i64,
    /// It is known from the index of identities only.
    recalled: bool,
}

impl Dedup {
    /// For the events of `source`, of which some are `new`.
    pub(crate) fn new(definition: &Arc<Definition>, source: &Source, partitions: u32, new: New) -> Self {
        let (definition, columns) = (Arc::clone(definition), Arc::clone(&source.columns));
        Self { definition, columns, partition: source.partition, partitions, new, kept: None, found: Duplicates::default() }
    }

    /// The rows that count. `earlier` has, for rows that are the first of their identity here, an original that is not.
    ///
    /// # Errors
    /// A user is in a partition that is not its own: its duplicates could be in another, and its key would not be found.
    pub(crate) fn keep(&mut self, rows: &RecordBatch, earlier: &HashMap<usize, First>) -> Result<RecordBatch, RunError> {
        let users = column::<StringArray>(rows, "user_id");
        let events = column::<StringArray>(rows, "event_id");
        let offsets = column::<Int64Array>(rows, OFFSET);
        let hashes = column::<Int64Array>(rows, CONTENT_HASH);
        let mut stays = Vec::with_capacity(rows.num_rows());
        let mut touching: Vec<u32> = Vec::new();
        for row in 0..rows.num_rows() {
            let (user_id, event_id, offset) = (users.value(row), events.value(row), offsets.value(row));
            let same_user = self.kept.as_ref().is_some_and(|kept| kept.user_id == user_id);
            if !same_user {
                self.check_place(user_id, event_id, offset)?;
            }
            let mut repeated = same_user && self.kept.as_ref().is_some_and(|kept| kept.event_id == event_id);
            if !repeated {
                let first = First { offset, content_hash: hashes.value(row) };
                let recalled = earlier.get(&row);
                let First { offset, content_hash } = *recalled.unwrap_or(&first);
                repeated = recalled.is_some();
                self.kept =
                    Some(Kept { user_id: user_id.to_owned(), event_id: event_id.to_owned(), offset, content_hash, recalled: repeated });
            }
            stays.push(!repeated);
            if repeated {
                let gave_way_to_new = self.kept.as_ref().is_some_and(|kept| self.new.has(kept.offset));
                let is_correction = self.new.has(offset) || gave_way_to_new;
                self.remove(offset, hashes.value(row), is_correction);
                touching.extend(is_correction.then_some(row as u32));
            }
        }
        self.touch(rows, touching)?;
        if stays.iter().all(|stays| *stays) {
            return Ok(rows.clone());
        }
        Ok(filter_record_batch(rows, &BooleanArray::from(stays)).expect("the mask has an entry for each row"))
    }

    fn remove(&mut self, offset: i64, content_hash: i64, is_correction: bool) {
        let kept = self.kept.as_ref().expect("a repeated row follows its original");
        let found = &mut self.found;
        let is_conflict = kept.content_hash != content_hash;
        let removed = || Removed {
            user_id: kept.user_id.clone(),
            event_id: kept.event_id.clone(),
            partition: self.partition,
            kept_offset: kept.offset,
            removed_offset: offset,
            is_conflict,
        };
        let (count, examples) = match is_conflict {
            false => (&mut found.late_count, &mut found.late),
            true => (&mut found.conflict_count, &mut found.conflicts),
        };
        *count += 1;
        if examples.len() < EXAMPLES {
            examples.push(removed());
        }
        if is_correction {
            found.correction_count += 1;
            if found.corrections.len() < EXAMPLES {
                found.corrections.push(removed());
            }
        }
        if kept.recalled {
            found.recalled.push(Recalled { removed_offset: offset, kept_offset: kept.offset });
        }
    }

    /// Notes the keys of removed rows. They are the rows' own: a row with the identity of another may have another key.
    fn touch(&mut self, rows: &RecordBatch, touching: Vec<u32>) -> Result<(), RunError> {
        if touching.is_empty() {
            return Ok(());
        }
        let removed = take_record_batch(rows, &UInt32Array::from(touching)).expect("the indices are those of rows");
        let counted = self.definition.counted(&self.columns.widen(&removed));
        let keys = counted.and_then(|counted| self.definition.keys(&counted));
        let keys = keys.map_err(|source| RunError::Fold { partition: self.partition, source })?;
        self.found.touched_keys.extend(keys.iter().flatten().map(str::to_owned));
        Ok(())
    }

    fn check_place(&self, user_id: &str, event_id: &str, offset: i64) -> Result<(), RunError> {
        let (partition, partitions) = (self.partition, self.partitions);
        let belongs = shard_of(user_id, partitions);
        match belongs == partition {
            true => Ok(()),
            false => Err(RunError::Misplaced { event_id: event_id.to_owned(), offset, partition, belongs, partitions }),
        }
    }
}
