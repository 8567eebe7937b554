//! A second fold of the raw events, as unlike the first as it can be: no sort, no spilling, events in the order of the log, states
//! of small batches merged in a tree.
//!
//! It needs memory for every identity of one partition (16 bytes and a table's overhead each) and for the states of every key;
//! the memory limit of a run does not hold here.

use std::collections::HashSet;

use arrow::array::{BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::filter_record_batch;
use futures::TryStreamExt;
use views::Definition;
use views::fold;
use views::schema::OFFSET;

use super::compare::Keys;
use crate::error::RunError;
use crate::folding::failed_on;
use crate::progress::Stage;
use crate::source::{Source, column};

/// The states of one partition, each key and bucket once, in order; of some keys. Events at the offsets `left_out` are not folded.
pub(super) async fn fold(source: &Source, definition: &Definition, keys: &Keys, left_out: &HashSet<i64>) -> Result<RecordBatch, RunError> {
    let partition = source.partition;
    let mut seen = HashSet::new();
    let mut tree = Tree::new(definition);
    let mut batches = source.batches(Stage::Audit);
    while let Some(batch) = batches.try_next().await? {
        // A repeated identity may come with another key, so nothing is left out before.
        let offsets = column::<Int64Array>(&batch, OFFSET).values();
        let counts = first_seen(&batch, &mut seen).into_iter().zip(offsets).map(|(first, offset)| first && !left_out.contains(offset));
        let mut firsts = source.columns.widen(&chosen(&batch, counts));
        if keys.are_only_some() {
            firsts = of_keys(definition, &firsts, keys).map_err(|source| RunError::Fold { partition, source })?;
        }
        let states = fold::partial(definition, &firsts).map_err(|error| failed_on(definition, partition, &firsts, error))?;
        tree.add(states).map_err(|source| RunError::Fold { partition, source })?;
    }
    tree.finish().map_err(|source| RunError::Fold { partition, source })
}

/// The events that the view counts under these keys.
pub(super) fn of_keys(definition: &Definition, events: &RecordBatch, keys: &Keys) -> Result<RecordBatch, views::FoldError> {
    let events = &definition.counted(events)?;
    let wanted: BooleanArray = definition.keys(events)?.iter().map(|key| key.map(|key| keys.hold(key))).collect();
    Ok(filter_record_batch(events, &wanted)?)
}

/// Whether the identity of each row was not seen before. Offsets ascend, so the first one seen is the lowest.
pub(super) fn first_seen(batch: &RecordBatch, seen: &mut HashSet<[u8; 16]>) -> Vec<bool> {
    let users = column::<StringArray>(batch, "user_id");
    let events = column::<StringArray>(batch, "event_id");
    (0..batch.num_rows()).map(|row| seen.insert(identity(users.value(row), events.value(row)))).collect()
}

/// The rows that are marked.
pub(super) fn chosen(batch: &RecordBatch, marks: impl IntoIterator<Item = bool>) -> RecordBatch {
    let marks: BooleanArray = marks.into_iter().map(Some).collect();
    filter_record_batch(batch, &marks).expect("the mask has an entry for each row")
}

/// 128 bits of BLAKE3 of user and event. Ids hold no NUL, so it separates them.
fn identity(user_id: &str, event_id: &str) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(user_id.as_bytes()).update(&[0]).update(event_id.as_bytes());
    let mut short = [0; 16];
    short.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    short
}

/// States of 1, 2, 4, 8 … batches: like counting in binary, so that each state is merged a logarithmic number of times.
pub(super) struct Tree<'a> {
    definition: &'a Definition,
    levels: Vec<Option<RecordBatch>>,
}

impl<'a> Tree<'a> {
    pub(super) fn new(definition: &'a Definition) -> Self {
        Self { definition, levels: Vec::new() }
    }

    pub(super) fn add(&mut self, mut states: RecordBatch) -> Result<(), views::FoldError> {
        for level in &mut self.levels {
            match level.take() {
                Some(other) => states = fold::merge(self.definition, [&other, &states])?,
                None => {
                    *level = Some(states);
                    return Ok(());
                }
            }
        }
        self.levels.push(Some(states));
        Ok(())
    }

    pub(super) fn finish(self) -> Result<RecordBatch, views::FoldError> {
        fold::merge(self.definition, self.levels.iter().flatten())
    }
}
