//! What was erased, in the files that still have it.

use std::collections::BTreeMap;

use storage::erasures::{Erasure, Erasures};
use storage::imports::ImportMeta;
use storage::manifest::newest_versions;
use storage::master::layout::{Erased, Layout};
use storage::master::{self, SegmentMeta};
use storage::store::{Store, StoreError};

/// The erasures that lie below the newest boundary of every view that is answered: no version that can still be asked for counts what
/// they hide.
pub(super) async fn carried_out(store: &Store) -> Result<Erasures, StoreError> {
    let erasures = Erasures::list(store).await?;
    if erasures.is_empty() {
        return Ok(erasures);
    }
    let mut covered: Option<Vec<i64>> = None;
    for newest in newest_versions(store).await?.into_iter().filter(|newest| !newest.withdrawn) {
        covered = Some(match covered {
            None => newest.boundary,
            Some(covered) => covered.iter().zip(&newest.boundary).map(|(a, b)| *a.min(b)).collect(),
        });
    }
    Ok(erasures.below(&covered.unwrap_or_default()))
}

/// As a layout notes it.
pub(super) fn noted(erasure: &Erasure) -> Erased {
    Erased { partition: erasure.partition, offset: erasure.offset }
}

/// Where hidden rows may still be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Due {
    pub(super) in_segments: bool,
    pub(super) in_imports: bool,
}

impl Due {
    /// An erasure is new, or an import came that nobody has looked through.
    pub(super) fn of(layout: &Layout, erasures: &Erasures, imports: &[ImportMeta]) -> Self {
        let in_segments = erasures.iter().any(|erasure| !layout.erased.contains(&noted(erasure)));
        let is_new = |import: &ImportMeta| !layout.erased_from_imports.contains(&import.import);
        Self { in_segments, in_imports: !erasures.is_empty() && imports.iter().any(is_new) }
    }
}

/// The files that have hidden rows and are in none of `jobs`, each as a job of its own. Only partitions with erasures that `layout` does
/// not note are looked at.
pub(super) async fn with_hidden(
    store: &Store,
    segments: &[SegmentMeta],
    erasures: &Erasures,
    layout: &Layout,
    jobs: &[Vec<SegmentMeta>],
) -> Result<Vec<Vec<SegmentMeta>>, StoreError> {
    let mut ends: BTreeMap<u32, i64> = BTreeMap::new();
    for erasure in erasures.iter().filter(|erasure| !layout.erased.contains(&noted(erasure))) {
        let end = ends.entry(erasure.partition).or_default();
        *end = erasure.offset.max(*end);
    }
    let mut found = Vec::new();
    for segment in segments {
        let is_below = ends.get(&segment.path.partition).is_some_and(|end| segment.path.start < *end);
        let is_in_a_job = jobs.iter().flatten().any(|other| other.path == segment.path);
        if is_below && !is_in_a_job && master::hidden_rows(store, segment, erasures).await? > 0 {
            found.push(vec![segment.clone()]);
        }
    }
    Ok(found)
}
