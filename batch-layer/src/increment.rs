//! A version built upon the one before: what lies between the two boundaries is folded, and the rows that it touches are written anew,
//! into a file that lies on those of the version before. Everything else is shared with it.
//!
//! So that a point read never has many files to look into, a new file takes in those below it that are not much larger than itself,
//! like a number that carries: a shard of n rows has at most about log₄ n files, and a row is written again about as often.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::TimestampMicrosecondType;
use futures::{StreamExt, TryStreamExt, stream};
use storage::batch_view::{OpenView, States, overlaid};
use storage::manifest::ViewFile;
use storage::paths::ViewFilePath;
use views::digest::Digest;
use views::{Definition, fold};

use crate::chunk::{Chunk, MergedStates};
use crate::definition::limit_moved;
use crate::error::RunError;
use crate::shard::{Work, Writing};

/// A file is taken into the one that comes to lie on it unless it has more than so many times its rows.
const CARRY: i64 = 4;

/// What lies between, of one shard → the shard of the new version.
pub(crate) struct UpsertWork {
    pub(crate) work: Work,
    /// The version before.
    pub(crate) base: Arc<OpenView>,
    /// States of what lies between.
    pub(crate) chunks: Vec<Chunk>,
    /// Of the new file, if there is to be one.
    pub(crate) path: ViewFilePath,
}

/// A shard of the new version.
#[derive(Debug, Default)]
pub(crate) struct Upserted {
    pub(crate) files: Vec<ViewFile>,
    pub(crate) change: Change,
}

/// What becomes of a version's rows.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Change {
    /// Digest of the rows that came, without that of those that went.
    pub(crate) digest: Digest,
    /// How many more there are.
    pub(crate) rows: i64,
    /// Events in rows that went because of a limit.
    pub(crate) past_limit: i64,
}

impl UpsertWork {
    /// Merges and writes. Blocks on CPU and disk.
    pub(crate) async fn upsert(self) -> Result<Upserted, RunError> {
        let Self { work, base, chunks, path } = self;
        let shard = path.part;
        let layers: Vec<ViewFile> = base.manifest().layers(shard).cloned().collect();
        let delta_rows: usize = chunks.iter().map(|chunk| chunk.rows).sum();
        // Where the limit lets go of buckets every row is looked at.
        let lets_go = limit_moved(&work.definition, base.manifest(), work.kept_from)?;
        if delta_rows == 0 && !lets_go {
            return Ok(Upserted { files: layers, change: Change::default() });
        }
        let stay = if lets_go { 0 } else { layers_that_stay(&layers, delta_rows as i64) };
        let change = Arc::new(Mutex::new(Change::default()));
        let upserts = upserts(&work, shard, Arc::clone(&base), chunks, Arc::clone(&change))?;
        let mut taken_in: Vec<States<RunError>> = Vec::new();
        if stay < layers.len() {
            taken_in.push(base.scan_above(shard, stay as u32)?.map_err(RunError::Store).boxed());
        }
        taken_in.push(upserts);

        let exact = work.definition.exact_states();
        let mut writing = Writing::create(&work, &path, shard).await?;
        let mut rows = overlaid(work.definition.state_schema(), taken_in);
        while let Some(states) = rows.try_next().await? {
            let kept = fold::from_bucket(&states, work.kept_from).map_err(|source| RunError::Fold { partition: shard, source })?;
            if kept.num_rows() < states.num_rows() {
                let mut change = change.lock().expect("nobody panics with the lock");
                change.digest.remove(&states, &exact);
                change.digest.add(&kept, &exact);
                change.rows -= (states.num_rows() - kept.num_rows()) as i64;
                change.past_limit += fold::event_count(&work.definition, &states) - fold::event_count(&work.definition, &kept);
            }
            writing.write(&kept)?;
        }
        let (file, _) = Box::pin(writing.finish()).await?;
        let mut files = layers;
        files.truncate(stay);
        files.push(ViewFile { layer: stay as u32, ..file });
        let change = *change.lock().expect("nobody panics with the lock");
        Ok(Upserted { files, change })
    }
}

/// How many of the lowest files stay as they are under one of `rows` rows.
fn layers_that_stay(layers: &[ViewFile], mut rows: i64) -> usize {
    let mut stay = layers.len();
    while stay > 0 && layers[stay - 1].rows <= CARRY * rows {
        stay -= 1;
        rows += layers[stay].rows;
    }
    stay
}

/// The rows that what lies between touches, whole, in order.
fn upserts(
    work: &Work,
    shard: u32,
    base: Arc<OpenView>,
    chunks: Vec<Chunk>,
    change: Arc<Mutex<Change>>,
) -> Result<States<RunError>, RunError> {
    let deltas = MergedStates::of(work, shard, chunks)?;
    let definition = Arc::clone(&work.definition);
    let exact: Arc<[bool]> = definition.exact_states().into();
    let next = move |mut deltas: MergedStates| {
        let (base, definition, exact, change) = (Arc::clone(&base), Arc::clone(&definition), Arc::clone(&exact), Arc::clone(&change));
        async move {
            let Some(delta) = deltas.next().await? else { return Ok(None) };
            let old = rows_under(&base, shard, &delta).await?;
            let merged = merge(&definition, shard, &old, &delta)?;
            let mut change = change.lock().expect("nobody panics with the lock");
            change.digest.remove(&old, &exact);
            change.digest.add(&merged, &exact);
            change.rows += (merged.num_rows() - old.num_rows()) as i64;
            Ok(Some((merged, deltas)))
        }
    };
    Ok(stream::try_unfold(deltas, next).boxed())
}

fn merge(definition: &Definition, shard: u32, old: &RecordBatch, delta: &RecordBatch) -> Result<RecordBatch, RunError> {
    fold::merge(definition, [old, delta]).map_err(|source| RunError::Fold { partition: shard, source })
}

/// The rows of a version that have the keys and buckets of `delta`.
async fn rows_under(base: &OpenView, shard: u32, delta: &RecordBatch) -> Result<RecordBatch, RunError> {
    let places: HashSet<_> = places(delta).collect();
    let of_keys = rows_of_keys(base, shard, &distinct_keys(delta)).await?;
    let is_under: BooleanArray = self::places(&of_keys).map(|place| Some(places.contains(&place))).collect();
    Ok(filter_record_batch(&of_keys, &is_under).expect("the mask has an entry for each row"))
}

/// All rows of some keys of a version, which are in order.
pub(crate) async fn rows_of_keys(view: &OpenView, shard: u32, keys: &[String]) -> Result<RecordBatch, RunError> {
    let mut rows = Vec::new();
    for key in keys {
        rows.extend(view.rows(shard, key).await?);
    }
    Ok(concat_batches(view.schema(), &rows).expect("the files of a view have one schema"))
}

/// The keys of sorted states, each once.
pub(crate) fn distinct_keys(states: &RecordBatch) -> Vec<String> {
    let mut keys: Vec<&str> = states.column(0).as_string::<i32>().iter().flatten().collect();
    keys.dedup();
    keys.into_iter().map(str::to_owned).collect()
}

fn places(states: &RecordBatch) -> impl Iterator<Item = (&str, Option<i64>)> {
    let buckets = states.column(1).as_primitive::<TimestampMicrosecondType>();
    states
        .column(0)
        .as_string::<i32>()
        .iter()
        .flatten()
        .zip((0..buckets.len()).map(|row| buckets.is_valid(row).then(|| buckets.value(row))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stay(layers: &[i64], rows: i64) -> usize {
        let file = |rows: &i64| ViewFile { path: String::new(), shard: 0, layer: 0, rows: *rows, bytes: 0, blake3: String::new() };
        layers_that_stay(&layers.iter().map(file).collect::<Vec<_>>(), rows)
    }

    /// Proves that files stay as long as each is more than four times what comes to lie on it, so that there are never many.
    #[test]
    fn carrying() {
        assert_eq!((stay(&[], 5), stay(&[1000], 5), stay(&[20], 5), stay(&[21], 5)), (0, 1, 0, 1));
        // 5 take in 20, the 25 take in 100, the 125 do not take in 501.
        assert_eq!(stay(&[501, 100, 20], 5), 1);
        let (mut layers, mut most, mut written) = (vec![1_000_000], 0, 0);
        for _ in 0..10_000 {
            let left = stay(&layers, 100);
            let rows = 100 + layers.drain(left..).sum::<i64>();
            layers.push(rows);
            (most, written) = (most.max(layers.len()), written + rows);
        }
        assert!(most <= 8, "{most} files");
        assert!(written < 20 * 1_000_000, "{written} rows written for a million");
    }
}
