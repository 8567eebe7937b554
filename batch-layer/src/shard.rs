//! Events → files of states.
//!
//! A view by user has a file for each partition of the log, which holds the same users: [`ShardWork`] sorts one partition's events,
//! drops what was sent twice, and folds whole users straight into the file. Any partition may have events of any other key: there the
//! states of each partition go to disk first, a chunk at a time ([`ChunkWork`]), and those of each shard are then sorted and merged
//! into its file ([`MergeWork`]).

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use datafusion::error::DataFusionError;
use futures::{StreamExt, stream};
use storage::batch_view::ViewWriter;
use storage::manifest::ViewFile;
use storage::paths::ViewFilePath;
use storage::store::Store;
use views::digest::Digest;
use views::{Definition, shard_of_key};

use crate::dedup::{Dedup, Duplicates};
use crate::error::RunError;
use crate::folding::{CHUNK_SHARE, Edge, Folding};
use crate::progress::{Progress, Stage};
use crate::sort::{SortBounds, Sorted};
use crate::source::Source;

/// What every piece of work needs.
#[derive(Clone)]
pub(crate) struct Work {
    pub(crate) store: Store,
    pub(crate) definition: Arc<Definition>,
    /// Partitions of the log, which is also how many shards the view has.
    pub(crate) partitions: u32,
    pub(crate) bounds: SortBounds,
    /// Where the first bucket starts that is kept.
    pub(crate) kept_from: Option<i64>,
    pub(crate) progress: Arc<dyn Progress>,
}

/// A file of states, and the digest of its keys and exact states.
pub(crate) type Shard = (ViewFile, String);

/// Events of one partition that no row of the view counts, but for those that its WHERE leaves out.
pub(crate) struct Removed {
    pub(crate) duplicates: Duplicates,
    /// Those whose buckets the limit let go.
    pub(crate) past_limit: i64,
}

/// One partition of the log, and where the events begin that the version before does not cover.
pub(crate) struct Part {
    pub(crate) source: Source,
    pub(crate) new_from: i64,
}

/// One partition's events → one file.
pub(crate) struct ShardWork {
    pub(crate) work: Work,
    pub(crate) part: Part,
    pub(crate) path: ViewFilePath,
}

impl ShardWork {
    /// Sorts, deduplicates, folds and writes. Blocks on CPU and disk.
    pub(crate) async fn recompute(self) -> Result<(Shard, Removed), RunError> {
        let mut writing = Writing::create(&self.work, &self.path, self.part.source.partition).await?;
        let mut folding = Folding::new(&self.work, self.part.source.partition, Edge::User)?;
        let mut events = Events::start(&self.work, &self.part)?;
        while let Some(rows) = events.next().await? {
            folding.add(&rows, |states| writing.write(states))?;
        }
        folding.flush(|states| writing.write(states))?;
        let removed = Removed { past_limit: folding.past_limit, duplicates: events.dedup.found };
        Ok((Box::pin(writing.finish()).await?, removed))
    }
}

/// One partition's events → chunks of states on disk.
pub(crate) struct ChunkWork {
    pub(crate) work: Work,
    pub(crate) part: Part,
}

/// Some states of one shard, in a file that is gone with its folder.
pub(crate) struct Chunk {
    shard: u32,
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
                    chunks.push(Chunk { shard, path });
                }
            }
            Ok(())
        };
        while let Some(rows) = events.next().await? {
            folding.add(&rows, &mut write)?;
        }
        folding.flush(&mut write)?;
        let removed = Removed { past_limit: folding.past_limit, duplicates: events.dedup.found };
        Ok((chunks, removed))
    }
}

fn write_chunk(path: &PathBuf, states: &RecordBatch) -> std::io::Result<()> {
    let mut writer = StreamWriter::try_new(BufWriter::new(File::create(path)?), &states.schema()).map_err(std::io::Error::other)?;
    writer.write(states).and_then(|()| writer.finish()).map_err(|e| match e {
        arrow::error::ArrowError::IoError(_, source) => source,
        other => std::io::Error::other(other),
    })
}

/// The chunks of one shard → its file.
pub(crate) struct MergeWork {
    work: Work,
    shard: u32,
    chunks: Vec<PathBuf>,
    path: ViewFilePath,
}

impl MergeWork {
    pub(crate) fn new(work: Work, chunks: &[Chunk], path: ViewFilePath) -> Self {
        let shard = path.part;
        let chunks = chunks.iter().filter(|chunk| chunk.shard == shard).map(|chunk| chunk.path.clone()).collect();
        Self { work, shard, chunks, path }
    }

    /// Sorts, merges and writes. Blocks on CPU and disk.
    pub(crate) async fn merge(self) -> Result<Shard, RunError> {
        let mut writing = Writing::create(&self.work, &self.path, self.shard).await?;
        let mut folding = Folding::new(&self.work, self.shard, Edge::Key)?;
        let chunks = self.chunks;
        let batches = move || {
            let read = |path: PathBuf| {
                File::open(path).map_err(DataFusionError::from).and_then(|file| Ok(StreamReader::try_new(BufReader::new(file), None)?))
            };
            let batches = chunks.clone().into_iter().flat_map(move |path| match read(path) {
                Ok(batches) => Box::new(batches.map(|batch| Ok(batch?))) as Box<dyn Iterator<Item = _> + Send>,
                Err(e) => Box::new(std::iter::once(Err(e))),
            });
            stream::iter(batches).boxed()
        };
        let mut sorted = Sorted::states(self.shard, self.work.definition.state_schema(), batches, &self.work.bounds)?;
        while let Some(states) = sorted.next().await? {
            folding.add(&states, |states| writing.write(states))?;
        }
        folding.flush(|states| writing.write(states))?;
        Box::pin(writing.finish()).await
    }
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

/// One partition's events in order of user, each identity once.
struct Events<'a> {
    source: &'a Source,
    progress: &'a Arc<dyn Progress>,
    sorted: Sorted,
    dedup: Dedup,
}

impl<'a> Events<'a> {
    fn start(work: &'a Work, part: &'a Part) -> Result<Self, RunError> {
        let dedup = Dedup::new(&work.definition, &part.source, work.partitions, part.new_from);
        Ok(Self { source: &part.source, progress: &work.progress, sorted: Sorted::events(&part.source, &work.bounds)?, dedup })
    }

    async fn next(&mut self) -> Result<Option<RecordBatch>, RunError> {
        let Some(rows) = self.sorted.next().await? else { return Ok(None) };
        let kept = self.dedup.keep(&rows)?;
        self.progress.advance(Stage::Fold, rows.num_rows() as u64, 0);
        Ok(Some(self.source.columns.widen(&kept)))
    }
}

/// One shard's file in the making.
struct Writing {
    exact: Vec<bool>,
    digest: Digest,
    writer: ViewWriter,
}

impl Writing {
    async fn create(work: &Work, path: &ViewFilePath, shard: u32) -> Result<Self, RunError> {
        let writer = ViewWriter::create(&work.store, path, Arc::clone(work.definition.state_schema()), shard).await?;
        Ok(Self { exact: work.definition.exact_states(), digest: Digest::default(), writer })
    }

    fn write(&mut self, states: &RecordBatch) -> Result<(), RunError> {
        self.digest.update(states, &self.exact);
        Ok(self.writer.write(states)?)
    }

    async fn finish(self) -> Result<Shard, RunError> {
        Ok((self.writer.finish().await?, self.digest.finish()))
    }
}
