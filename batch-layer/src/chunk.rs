//! States of a partition on their way to the shards they belong to: written to disk in chunks, sorted and merged a shard at a time.

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use datafusion::error::DataFusionError;
use futures::{StreamExt, stream};
use storage::paths::ViewFilePath;
use views::{Definition, fold, shard_of_key};

use crate::error::RunError;
use crate::folding::{CHUNK_SHARE, Edge, Folding};
use crate::shard::{Events, Part, Removed, Shard, Work, Writing};
use crate::sort::Sorted;

/// One partition's events → chunks of states on disk.
pub(crate) struct ChunkWork {
    pub(crate) work: Work,
    pub(crate) part: Part,
}

/// Some states of one shard, in a file that is gone with its folder.
#[derive(Clone, Debug)]
pub(crate) struct Chunk {
    pub(crate) shard: u32,
    pub(crate) rows: usize,
    path: PathBuf,
}

impl ChunkWork {
    /// Sorts, deduplicates, folds, and writes chunks. Blocks on CPU and disk.
    pub(crate) async fn recompute(self) -> Result<(Vec<Chunk>, Removed), RunError> {
        let Self { mut work, part } = self;
        // The table of groups has the other half.
        work.bounds.memory_bytes /= CHUNK_SHARE;
        let partition = part.source.partition;
        let mut chunks = Vec::new();
        let mut folding = Folding::new(&work, partition, Edge::None)?;
        let mut events = Events::start(&work, &part)?;
        let mut write = |states: &RecordBatch| {
            for (shard, states) in (0..).zip(by_shard(states, work.partitions)) {
                if states.num_rows() > 0 {
                    let path = work.bounds.spill_dir.join(format!("states-p{partition:04}-{:06}.arrow", chunks.len()));
                    let written = write_chunk(&path, &states);
                    written.map_err(|source| RunError::Local { path: path.display().to_string(), source })?;
                    chunks.push(Chunk { shard, rows: states.num_rows(), path });
                }
            }
            Ok(())
        };
        while let Some(rows) = events.next().await? {
            folding.add(&rows, &mut write)?;
        }
        folding.flush(&mut write)?;
        let removed = Removed { past_limit: folding.past_limit, filtered: folding.filtered, duplicates: events.dedup.found };
        Ok((chunks, removed))
    }
}

fn write_chunk(path: &Path, states: &RecordBatch) -> std::io::Result<()> {
    let mut writer = StreamWriter::try_new(BufWriter::new(File::create(path)?), &states.schema()).map_err(std::io::Error::other)?;
    writer.write(states).and_then(|()| writer.finish()).map_err(|e| match e {
        arrow::error::ArrowError::IoError(_, source) => source,
        other => std::io::Error::other(other),
    })
}

/// The rows of states that lie in each of `shards` shards, in their order.
pub(crate) fn by_shard(states: &RecordBatch, shards: u32) -> Vec<RecordBatch> {
    let mut rows = vec![Vec::new(); shards as usize];
    for (row, key) in (0..).zip(states.column(0).as_string::<i32>()) {
        rows[shard_of_key(key.unwrap_or_default(), shards) as usize].push(row);
    }
    let of = |rows: Vec<u32>| take_record_batch(states, &UInt32Array::from(rows)).expect("the indices are those of rows");
    rows.into_iter().map(of).collect()
}

/// The chunks of one shard → its file.
pub(crate) struct MergeWork {
    pub(crate) work: Work,
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) path: ViewFilePath,
}

impl MergeWork {
    /// Sorts, merges and writes. Blocks on CPU and disk.
    pub(crate) async fn merge(self) -> Result<Shard, RunError> {
        let shard = self.path.part;
        let mut writing = Writing::create(&self.work, &self.path, shard).await?;
        let mut merged = MergedStates::of(&self.work, shard, self.chunks)?;
        while let Some(states) = merged.next().await? {
            writing.write(&states)?;
        }
        Box::pin(writing.finish()).await
    }
}

/// The states of some chunks in order of key and bucket, each of which is there once.
pub(crate) struct MergedStates {
    definition: Arc<Definition>,
    shard: u32,
    sorted: Sorted,
    /// States whose last key may have more.
    held: RecordBatch,
    ended: bool,
}

impl MergedStates {
    /// Of chunks of `shard`.
    pub(crate) fn of(work: &Work, shard: u32, chunks: Vec<Chunk>) -> Result<Self, RunError> {
        let batches = move || {
            let read = |path: PathBuf| {
                File::open(path).map_err(DataFusionError::from).and_then(|file| Ok(StreamReader::try_new(BufReader::new(file), None)?))
            };
            let batches = chunks.clone().into_iter().flat_map(move |chunk| match read(chunk.path) {
                Ok(batches) => Box::new(batches.map(|batch| Ok(batch?))) as Box<dyn Iterator<Item = _> + Send>,
                Err(e) => Box::new(std::iter::once(Err(e))),
            });
            stream::iter(batches).boxed()
        };
        let schema = work.definition.state_schema();
        let sorted = Sorted::states(shard, schema, batches, &work.bounds)?;
        Ok(Self { definition: Arc::clone(&work.definition), shard, sorted, held: RecordBatch::new_empty(Arc::clone(schema)), ended: false })
    }

    /// The next states, or `None` after the last. All of a key come together.
    pub(crate) async fn next(&mut self) -> Result<Option<RecordBatch>, RunError> {
        while !self.ended {
            let whole = match self.sorted.next().await? {
                Some(more) => {
                    self.held = concat_batches(&more.schema(), [&self.held, &more]).expect("one sort has one schema");
                    let rows = whole_keys(&self.held);
                    let whole = self.held.slice(0, rows);
                    self.held = self.held.slice(rows, self.held.num_rows() - rows);
                    whole
                }
                None => {
                    self.ended = true;
                    self.held.clone()
                }
            };
            if whole.num_rows() > 0 {
                let merged = fold::merge(&self.definition, [&whole]);
                return merged.map(Some).map_err(|source| RunError::Fold { partition: self.shard, source });
            }
        }
        Ok(None)
    }
}

/// How many rows are of keys other than the last one.
fn whole_keys(states: &RecordBatch) -> usize {
    let keys = states.column(0).as_string::<i32>();
    let Some(last) = states.num_rows().checked_sub(1) else { return 0 };
    (0..=last).rev().find(|row| keys.value(*row) != keys.value(last)).map_or(0, |row| row + 1)
}
