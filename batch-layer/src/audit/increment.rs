//! The audit of a version that was built upon another: for every key of its new files, of those that these took in, and every key that
//! the other computation has, *the version before ⊕ what lies between = the new version*. What lies between is what the speed layer folded, or a second fold of
//! the raw events. All other keys are in files that the two versions share.
//!
//! A row that was removed because the index of identities knows an earlier one is looked up: the two must have one identity in the
//! master dataset. A row that the index should have known, and did not, is counted by both sides here; the next run over all
//! events finds it, for what it computes is not what this one published.

use std::collections::{BTreeSet, HashSet};

use arrow::array::RecordBatch;
use futures::{StreamExt, stream};
use storage::batch_view::{OpenView, States, Windows};
use storage::store::StoreError;
use views::fold;

use super::compare::{Comparison, Keys};
use super::{Audit, Audited, SECOND_FOLD, SPEED_LAYER, Spread, Touched, finish, second};
use crate::definition::{kept_from, limit_moved};
use crate::earlier::identities_at;
use crate::error::RunError;
use crate::increment::{distinct_keys, rows_of_keys};

/// What lies between, by shard.
type Deltas = Vec<(u32, RecordBatch)>;

impl Audit {
    /// Compares `new` with `base` and what lies between. Blocks on CPU.
    pub(super) async fn increment(&self, new: &OpenView, base: &OpenView) -> Result<Audited, RunError> {
        self.check_recalled().await?;
        let mut touched = Touched::default();
        let (kind, fallback_reason, deltas) = match self.deltas_of_speed_layer(base).await? {
            Ok((deltas, erased)) => {
                touched = self.evidence.touched.clone();
                touched.users.extend(erased);
                (SPEED_LAYER, None, deltas)
            }
            Err(reason) => (SECOND_FOLD, Some(reason), self.deltas_folded_again(&Keys::all()).await?),
        };
        let mut comparison = self.comparison(Keys::AllBut(touched.clone()))?;
        let gained = self.compare(&mut comparison, new, base, deltas).await?;
        let keys_refolded = touched.count();
        if !touched.is_empty() {
            let keys = Keys::Only(touched);
            let deltas = self.deltas_folded_again(&keys).await?;
            let mut refolded = self.comparison(keys)?;
            self.compare(&mut refolded, new, base, deltas).await?;
            comparison.differences.extend(refolded.differences);
        }
        if !self.limit_moved(base)? {
            comparison.event_count = base.manifest().event_count + gained;
        }
        Ok(finish(comparison, kind, keys_refolded, fallback_reason))
    }

    /// Compares the keys that may be others than in `base`; the answer is how many more events they count.
    async fn compare(&self, comparison: &mut Comparison<'_>, new: &OpenView, base: &OpenView, deltas: Deltas) -> Result<i64, RunError> {
        let mut gained = 0;
        let limit_moved = self.limit_moved(base)?;
        for (shard, delta) in deltas {
            if limit_moved {
                comparison.shard(shard, new.scan(shard)?, Some(base.scan(shard)?), delta, Some(self.progress.as_ref())).await?;
                continue;
            }
            let shared = new.manifest().layers(shard).zip(base.manifest().layers(shard)).take_while(|(new, base)| new == base).count();
            // What was in files that are not shared must be somewhere in the new ones.
            let mut streams: Vec<States<StoreError>> = vec![stream::once(async move { Ok(delta) }).boxed()];
            for view in [new, base] {
                if shared < view.manifest().layers(shard).count() {
                    streams.push(view.scan_above(shard, shared as u32)?);
                }
            }
            let mut windows = Windows::new(self.definition.state_schema(), streams);
            while let Some(window) = windows.next().await? {
                let keys: BTreeSet<String> = window.iter().flat_map(distinct_keys).collect();
                let keys: Vec<String> = keys.into_iter().collect();
                let after = rows_of_keys(new, shard, &keys).await?;
                let before = rows_of_keys(base, shard, &keys).await?;
                gained += fold::event_count(&self.definition, &after) - fold::event_count(&self.definition, &before);
                let delta = window.into_iter().next().expect("the first stream is what lies between");
                comparison.window(&after, &[before, delta]).map_err(|source| RunError::Fold { partition: shard, source })?;
            }
        }
        Ok(gained)
    }

    /// Whether buckets are let go that `base` keeps, so that every key may be another than in `base`.
    fn limit_moved(&self, base: &OpenView) -> Result<bool, RunError> {
        limit_moved(&self.definition, base.manifest(), kept_from(&self.definition, self.candidate.as_of)?)
    }

    /// What the speed layer folded between the two boundaries, by shard, and of whom it has nothing from below their erasures; or why it
    /// cannot say.
    async fn deltas_of_speed_layer(&self, base: &OpenView) -> Result<Result<(Deltas, BTreeSet<String>), String>, RunError> {
        let Some(speed) = &self.speed else { return Ok(Err("no speed layer at hand".to_owned())) };
        let mut spread = Spread::new(&self.definition, base.shards());
        let (mut deltas, mut users) = (Vec::new(), BTreeSet::new());
        for partition in 0..base.shards() {
            match self.export(speed.clone(), base.manifest(), partition).await? {
                Ok((delta, erased)) => {
                    users.extend(erased);
                    deltas.extend(spread.take(delta)?.map(|delta| (partition, delta)));
                }
                Err(reason) => return Ok(Err(reason)),
            }
        }
        deltas.extend(spread.merged()?);
        Ok(Ok((deltas, users)))
    }

    /// What lies between, folded again from the raw events, by shard.
    async fn deltas_folded_again(&self, keys: &Keys) -> Result<Deltas, RunError> {
        let mut spread = Spread::new(&self.definition, self.evidence.sources.len() as u32);
        let mut deltas = Vec::new();
        for (partition, source) in (0..).zip(&self.evidence.sources) {
            let left_out: HashSet<i64> = self.evidence.recalled[partition as usize].iter().map(|row| row.removed_offset).collect();
            let delta = second::fold(source, &self.definition, keys, &left_out).await?;
            deltas.extend(spread.take(delta)?.map(|delta| (partition, delta)));
        }
        deltas.extend(spread.merged()?);
        Ok(deltas)
    }

    /// Every row that was removed for one that was not read has the identity of that one.
    async fn check_recalled(&self) -> Result<(), RunError> {
        for (source, recalled) in self.evidence.sources.iter().zip(&self.evidence.recalled) {
            let offsets = recalled.iter().flat_map(|row| [row.removed_offset, row.kept_offset]).collect();
            let found = identities_at(source, &self.evidence.master, &offsets).await?;
            for row in recalled {
                let (removed, kept) = (found.get(&row.removed_offset), found.get(&row.kept_offset));
                if removed.is_none() || removed != kept {
                    let (partition, removed, kept) = (source.partition, row.removed_offset, row.kept_offset);
                    return Err(RunError::Identities { partition, removed, kept });
                }
            }
        }
        Ok(())
    }
}
