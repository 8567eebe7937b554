//! What a run computes: the files of the new version, from all events or from those that the version before does not cover.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use storage::batch_view::{BlockCache, OpenView};
use storage::manifest::{Manifest, ViewFile};
use storage::paths::{Id, ViewFilePath};
use storage::store::{Store, StoreError};
use tracing::warn;
use views::Definition;
use views::digest::Digest;

use crate::chunk::{Chunk, ChunkWork, MergeWork};
use crate::cut::Cut;
use crate::dedup::New;
use crate::earlier::{Earlier, Index};
use crate::error::RunError;
use crate::increment::UpsertWork;
use crate::options::RunOptions;
use crate::piece::Master;
use crate::run::on_blocking_thread;
use crate::shard::{Part, Removed, ShardWork, Work};
use crate::source::{EventColumns, Source};

/// Decoded blocks of the version before that are kept while a version is built upon it, bytes: keys come in order.
pub(crate) const BASE_CACHE_BYTES: u64 = 64 << 20;

/// The version that a run builds upon.
pub(crate) struct Base {
    pub(crate) view: Arc<OpenView>,
    digest: Digest,
}

impl Base {
    /// The version before, if a new one can be built upon it; else why not.
    ///
    /// # Errors
    /// The store cannot be reached.
    pub(crate) async fn open(
        store: &Store,
        parent: Option<&Manifest>,
        definition: &Definition,
        cut: &Cut,
        master: &Master,
    ) -> Result<Result<Self, String>, StoreError> {
        let Some(parent) = parent else { return Ok(Err("first version".to_owned())) };
        if parent.fingerprint != definition.fingerprint() {
            return Ok(Err("new definition".to_owned()));
        }
        if !master.imports.iter().map(|import| import.import).eq(parent.imports.iter().copied()) {
            return Ok(Err("imports came".to_owned()));
        }
        let erased = master.erasures.from(&parent.boundary).iter().count();
        if erased > 0 {
            return Ok(Err(if erased == 1 { "a user was erased".to_owned() } else { format!("{erased} users were erased") }));
        }
        if parent.log_id != cut.log_id {
            return Ok(Err("the version before was computed without naming this log".to_owned()));
        }
        let Ok(digest) = parent.digest.parse() else { return Ok(Err("the version before is of an earlier release".to_owned())) };
        match OpenView::open(store, parent.clone(), &BlockCache::new(BASE_CACHE_BYTES)).await {
            Ok(view) => Ok(Ok(Self { view: Arc::new(view), digest })),
            Err(e) if e.is_damage() => {
                warn!(version = parent.version, error = %e, "the version before is damaged; recomputing from all events");
                Ok(Err(format!("the version before is damaged: {e}")))
            }
            Err(e) => Err(e),
        }
    }

    /// Where its events end.
    pub(crate) fn boundary(&self) -> &[i64] {
        &self.view.manifest().boundary
    }
}

/// The content of a new version.
#[derive(Default)]
pub(crate) struct Computed {
    /// In the order of the manifest.
    pub(crate) files: Vec<ViewFile>,
    pub(crate) digest: Digest,
    /// State rows, those that lie under others left out.
    pub(crate) rows: i64,
    /// What was not counted, of the events that were read.
    pub(crate) removed: Vec<Removed>,
}

impl Computed {
    fn of_shards(shards: impl IntoIterator<Item = (ViewFile, Digest)>, removed: Vec<Removed>) -> Self {
        let mut computed = Self { removed, ..Self::default() };
        for (file, digest) in shards {
            computed.rows += file.rows;
            computed.digest.plus(digest);
            computed.files.push(file);
        }
        computed
    }
}

/// Where the files of a run go.
pub(crate) struct Target<'a> {
    pub(crate) options: &'a RunOptions,
    pub(crate) version: i64,
    pub(crate) run_id: &'a Id,
}

impl Target<'_> {
    fn file(&self, part: u32) -> ViewFilePath {
        ViewFilePath { view: self.options.view.clone(), version: self.version, run_id: self.run_id.clone(), part }
    }

    fn threads(&self) -> usize {
        self.options.threads.get()
    }
}

/// Folds all events: a file for each shard, a few at a time.
pub(crate) async fn from_all(
    work: &Work,
    sources: &[Source],
    parent: Option<&Manifest>,
    new_imports: &Arc<BTreeSet<i64>>,
    target: &Target<'_>,
) -> Result<Computed, RunError> {
    let part = |source: &Source| {
        let from = parent.map_or(0, |p| p.boundary[source.partition as usize]);
        Part { source: source.clone(), new: New { from, imports: Arc::clone(new_imports) }, earlier: None }
    };
    if work.definition.is_by_user() {
        let shard = |source: &Source| ShardWork { work: work.clone(), part: part(source), path: target.file(source.partition) };
        let running = stream::iter(sources).map(|source| on_blocking_thread(shard(source).recompute()));
        let (shards, removed): (Vec<_>, _) = running.buffered(target.threads()).try_collect::<Vec<_>>().await?.into_iter().unzip();
        return Ok(Computed::of_shards(shards, removed));
    }
    let (chunks, removed) = chunks(work, sources.iter().map(part), target).await?;
    let merge = |shard: u32| MergeWork { work: work.clone(), chunks: of_shard(&chunks, shard), path: target.file(shard) };
    let running = stream::iter(0..work.partitions).map(|shard| on_blocking_thread(merge(shard).merge()));
    Ok(Computed::of_shards(running.buffered(target.threads()).try_collect::<Vec<_>>().await?, removed))
}

/// Folds the events of `sources`, which are those that `base` does not cover, and builds upon it.
pub(crate) async fn from_base(
    work: &Work,
    sources: &[Source],
    base: &Base,
    boundary: &[i64],
    master: &Master,
    target: &Target<'_>,
) -> Result<Computed, RunError> {
    let columns = Arc::new(EventColumns::identity(work.definition.schema()));
    let index = Index { store: work.store.clone(), columns, master: master.clone(), bounds: work.bounds.clone() };
    let earlier = index.open(boundary, target.threads()).await?;
    let part = |source: &Source, earlier: Arc<Earlier>| {
        let new = New { from: base.boundary()[source.partition as usize], imports: Arc::default() };
        Part { source: source.clone(), new, earlier: Some(earlier) }
    };
    let parts = sources.iter().zip(earlier).map(|(source, earlier)| part(source, earlier));
    let (chunks, mut removed) = chunks(work, parts, target).await?;
    let upsert =
        |shard| UpsertWork { work: work.clone(), base: Arc::clone(&base.view), chunks: of_shard(&chunks, shard), path: target.file(shard) };
    let running = stream::iter(0..work.partitions).map(|shard| on_blocking_thread(upsert(shard).upsert()));
    let mut computed = Computed { digest: base.digest, rows: base.view.manifest().row_count, ..Computed::default() };
    for upserted in running.buffered(target.threads()).try_collect::<Vec<_>>().await? {
        computed.files.extend(upserted.files);
        computed.digest.plus(upserted.change.digest);
        computed.rows += upserted.change.rows;
        removed.push(Removed { past_limit: upserted.change.past_limit, ..Removed::default() });
    }
    Ok(Computed { removed, ..computed })
}

async fn chunks(work: &Work, parts: impl Iterator<Item = Part>, target: &Target<'_>) -> Result<(Vec<Chunk>, Vec<Removed>), RunError> {
    let chunked = |part| on_blocking_thread(ChunkWork { work: work.clone(), part }.recompute());
    let running = stream::iter(parts.collect::<Vec<_>>()).map(chunked);
    let (chunks, removed): (Vec<_>, Vec<_>) = running.buffered(target.threads()).try_collect::<Vec<_>>().await?.into_iter().unzip();
    Ok((chunks.into_iter().flatten().collect(), removed))
}

fn of_shard(chunks: &[Chunk], shard: u32) -> Vec<Chunk> {
    chunks.iter().filter(|chunk| chunk.shard == shard).cloned().collect()
}
