//! The audit before every publish: the new files are read back, counted, and every finished value in them is compared with
//! another computation of the same.
//!
//! Where the version before has the same definition and a speed layer is at hand, the other computation is *previous view ⊕ what
//! the speed layer folded from the old boundary to the new one ⊕ imports added*: so both layers are checked against each other every night. Keys
//! with a late duplicate in that range cannot be compared so, for the speed layer counted it and the batch did not: they are
//! folded again from raw events, counted and listed. So are those of users who were erased since: the version before counts what is
//! hidden now, and the speed layer has nothing any more of who was erased after the cut. Otherwise (first version, new definition, no speed layer) it is a second fold of the raw events ([`second`]).
//!
//! A version that was built upon another shares most of its files, which are what they were. There only the keys of new files, and
//! those that the other computation names, are compared ([`increment`]).

mod compare;
mod difference;
mod increment;
mod live;
mod second;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use storage::batch_view::{BlockCache, OpenView};
use storage::manifest::{AuditSummary, Manifest};
use storage::store::Store;
use tracing::warn;
use views::{Definition, fold};

use crate::chunk::by_shard;
use crate::compute::BASE_CACHE_BYTES;
use crate::dedup::Recalled;
use crate::definition::kept_from;
use crate::error::RunError;
use crate::piece::{Master, Piece};
use crate::progress::Progress;
use crate::service::{Exported, SpeedLayer};
use crate::source::Source;

pub(crate) use compare::Touched;
use compare::{Comparison, Keys};
pub use difference::{Difference, Differences};
pub(crate) use live::{Halves, Live};

/// Kinds of audit, as reports and manifests name them.
const SPEED_LAYER: &str = "speed layer";
const SECOND_FOLD: &str = "second fold";

/// States that lie between two versions, and users who have no more in them than what they did since they were erased.
type Delta = (RecordBatch, BTreeSet<String>);

/// What an audit needs.
pub(crate) struct Audit {
    pub(crate) store: Store,
    pub(crate) definition: Arc<Definition>,
    /// The version that is to be published; its files are durable.
    pub(crate) candidate: Manifest,
    /// The version before.
    pub(crate) parent: Option<Manifest>,
    pub(crate) speed: Option<SpeedLayer>,
    pub(crate) evidence: Evidence,
    pub(crate) progress: Arc<dyn Progress>,
}

/// What a version was computed from.
#[derive(Default)]
pub(crate) struct Evidence {
    /// The raw events that were read, a source for each partition.
    pub(crate) sources: Vec<Source>,
    pub(crate) master: Master,
    /// Numbers of the imports that the version before does not cover.
    pub(crate) new_imports: Arc<BTreeSet<i64>>,
    /// Keys that the speed layer counted a late duplicate for, or that are hidden since.
    pub(crate) touched: Touched,
    /// For each partition, rows that were removed for others that were not read.
    pub(crate) recalled: Vec<Vec<Recalled>>,
    /// The version that it was built upon; without one, `sources` have all events.
    pub(crate) base: Option<Arc<OpenView>>,
}

/// A finished audit. It is for its caller to judge what was found.
pub(crate) struct Audited {
    pub(crate) summary: AuditSummary,
    /// Why the speed layer was not what was compared with, if it was not.
    pub(crate) fallback_reason: Option<String>,
    /// Events that the files count.
    pub(crate) event_count: i64,
    pub(crate) differences: Differences,
}

impl Audit {
    /// Reads the files back and compares. Blocks on CPU.
    ///
    /// # Errors
    /// A damaged file, by name, and whatever else keeps it from being compared.
    pub(crate) async fn run(self) -> Result<Audited, RunError> {
        if let Some(base) = self.evidence.base.as_deref() {
            // Its keys are read one by one, and neighbours lie in one block.
            let cache = BlockCache::new(BASE_CACHE_BYTES);
            let new = OpenView::open_after(&self.store, self.candidate.clone(), &cache, Some(base)).await?;
            return self.increment(&new, base).await;
        }
        let new = OpenView::open(&self.store, self.candidate.clone(), &no_cache()).await?;
        let fallback_reason = match self.against_speed_layer(&new).await? {
            Ok(audited) => return Ok(audited),
            Err(reason) => reason,
        };
        let comparison = self.against_second_fold(&new, Keys::all()).await?;
        Ok(finish(comparison, SECOND_FOLD, 0, Some(fallback_reason)))
    }

    /// Compares a version that is published already with a second fold of the raw events: for all keys, or for those whose first
    /// column has the text `first`. Blocks on CPU.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub(crate) async fn again(self, first: Option<String>) -> Result<Audited, RunError> {
        let new = OpenView::open(&self.store, self.candidate.clone(), &no_cache()).await?;
        let keys = first.map_or(Keys::all(), Keys::Beginning);
        Ok(finish(self.against_second_fold(&new, keys).await?, SECOND_FOLD, 0, None))
    }

    /// Compares with a fold of the raw events that shares little with the first.
    async fn against_second_fold(&self, new: &OpenView, keys: Keys) -> Result<Comparison<'_>, RunError> {
        let mut comparison = self.comparison(keys)?;
        let mut expected = Spread::new(&self.definition, new.shards());
        for (shard, source) in (0..).zip(&self.evidence.sources) {
            let states = second::fold(source, &self.definition, &comparison.keys, &HashSet::new()).await?;
            if let Some(expected) = expected.take(states)? {
                comparison.shard(shard, new.scan(shard)?, None, expected, None).await?;
            }
        }
        for (shard, expected) in expected.merged()? {
            comparison.shard(shard, new.scan(shard)?, None, expected, None).await?;
        }
        Ok(comparison)
    }

    /// The audit against the speed layer, or why there cannot be one.
    async fn against_speed_layer(&self, new: &OpenView) -> Result<Result<Audited, String>, RunError> {
        let (Some(parent), Some(speed)) = (&self.parent, &self.speed) else {
            let first = self.parent.is_none();
            return Ok(Err(if first { "first version" } else { "no speed layer at hand" }.to_owned()));
        };
        if parent.fingerprint != self.candidate.fingerprint {
            return Ok(Err("new definition".to_owned()));
        }
        if parent.log_id != self.candidate.log_id || parent.shards() != self.candidate.shards() {
            return Ok(Err("the version before was computed without naming this log".to_owned()));
        }
        let old = match OpenView::open(&self.store, parent.clone(), &no_cache()).await {
            Ok(old) => old,
            Err(e) if e.is_damage() => {
                warn!(version = parent.version, error = %e, "the version before is damaged; auditing against a second fold");
                return Ok(Err(format!("the version before is damaged: {e}")));
            }
            Err(e) => return Err(e.into()),
        };
        let mut touched = self.evidence.touched.clone();
        let mut comparison = self.comparison(Keys::AllBut(touched.clone()))?;
        let mut deltas = Spread::new(&self.definition, new.shards());
        for shard in 0..new.shards() {
            let delta = match self.export(speed.clone(), parent, shard).await? {
                Ok((delta, erased)) => {
                    // They are users of this partition, and a view that has them by user has them in this shard.
                    touched.users.extend(erased);
                    comparison.keys = Keys::AllBut(touched.clone());
                    self.with_new_imports(shard, delta).await?
                }
                Err(reason) => return Ok(Err(reason)),
            };
            if let Some(delta) = deltas.take(delta)? {
                comparison.shard(shard, new.scan(shard)?, Some(old.scan(shard)?), delta, Some(self.progress.as_ref())).await?;
            }
        }
        for (shard, delta) in deltas.merged()? {
            comparison.shard(shard, new.scan(shard)?, Some(old.scan(shard)?), delta, Some(self.progress.as_ref())).await?;
        }
        let keys_refolded = touched.count();
        if !touched.is_empty() {
            let refolded = self.against_second_fold(new, Keys::Only(touched)).await?;
            comparison.differences.extend(refolded.differences);
        }
        Ok(Ok(finish(comparison, SPEED_LAYER, keys_refolded, None)))
    }

    /// What came through the log and what was imported since, of one partition. Identities that are in both touch keys that are left
    /// out of the comparison.
    async fn with_new_imports(&self, partition: u32, delta: RecordBatch) -> Result<RecordBatch, RunError> {
        if self.evidence.new_imports.is_empty() {
            return Ok(delta);
        }
        let mut imported = self.evidence.sources[partition as usize].clone();
        imported.pieces.retain(|piece| matches!(piece, Piece::Import(import, _) if self.evidence.new_imports.contains(&import.import)));
        let imported = second::fold(&imported, &self.definition, &Keys::all(), &HashSet::new()).await?;
        fold::merge(&self.definition, [&delta, &imported]).map_err(|source| RunError::Fold { partition, source })
    }

    fn comparison(&self, keys: Keys) -> Result<Comparison<'_>, RunError> {
        Ok(Comparison::new(&self.definition, keys, kept_from(&self.definition, self.candidate.as_of)?))
    }

    /// What the speed layer folded of a partition since `parent`, and the users of whom it has nothing from below their erasures; or why
    /// it cannot say.
    async fn export(&self, mut speed: SpeedLayer, parent: &Manifest, partition: u32) -> Result<Result<Delta, String>, RunError> {
        let range = parent.boundary[partition as usize]..self.candidate.boundary[partition as usize];
        if range.is_empty() {
            return Ok(Ok((RecordBatch::new_empty(Arc::clone(self.definition.state_schema())), BTreeSet::new())));
        }
        match speed.export(&self.candidate.view, &self.definition, &self.candidate.log_id, partition, range).await? {
            Exported::States { states, erased } => Ok(Ok((states, erased))),
            Exported::NotHeld(reason) => {
                warn!(partition, reason, "the speed layer cannot export its states; auditing against a second fold");
                Ok(Err(format!("the speed layer does not hold the range: {reason}")))
            }
        }
    }
}

/// States of partitions as states of shards: those of a view by user are the shard's at once, those of another view are held until
/// all partitions have given theirs.
struct Spread<'a> {
    definition: &'a Definition,
    shards: Vec<Vec<RecordBatch>>,
}

impl<'a> Spread<'a> {
    fn new(definition: &'a Definition, shards: u32) -> Self {
        Self { definition, shards: vec![Vec::new(); if definition.is_by_user() { 0 } else { shards as usize }] }
    }

    /// Takes what a partition has; gives it back if it is all there is of the shard of that number.
    fn take(&mut self, states: RecordBatch) -> Result<Option<RecordBatch>, RunError> {
        if self.shards.is_empty() {
            return Ok(Some(states));
        }
        let states = by_shard(&states, self.shards.len() as u32);
        self.shards.iter_mut().zip(states).for_each(|(shard, states)| shard.push(states));
        Ok(None)
    }

    /// What was held, each key and bucket once.
    fn merged(self) -> Result<Vec<(u32, RecordBatch)>, RunError> {
        let merge = |(shard, states): (u32, Vec<RecordBatch>)| {
            let merged = fold::merge(self.definition, &states).map_err(|source| RunError::Fold { partition: shard, source })?;
            Ok((shard, merged))
        };
        (0..).zip(self.shards).map(merge).collect()
    }
}

fn no_cache() -> BlockCache {
    BlockCache::new(0)
}

fn finish(comparison: Comparison<'_>, kind: &str, keys_refolded: i64, fallback_reason: Option<String>) -> Audited {
    let Comparison { keys_compared, event_count, differences, .. } = comparison;
    let summary = AuditSummary { kind: kind.to_owned(), keys_compared, keys_refolded };
    Audited { summary, fallback_reason, event_count, differences }
}
