//! The collector of leftovers: files of runs that died or lost, and puts that never ended.
//!
//! It runs behind a publish, by whoever holds the lease. What a manifest names stays, and whatever is younger than the grace
//! period. So do folders of versions that are not published yet. A folder of a published version that its manifest does not name
//! can never become one: its run would have to put a manifest that is there already. Files of a version that has expired go when no other
//! version lies on them, a grace period after it did.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use storage::manifest::{Manifests, expired};
use storage::paths::{Id, ViewFilePath, ViewName, view_folder};
use storage::store::{ObjectMeta, Store, StoreError};

/// The files of one version by the run that wrote them.
type Folders = BTreeMap<Id, Vec<ObjectMeta>>;

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Collected {
    /// Files that no version names.
    pub(crate) files: usize,
    /// Unfinished files of a local store.
    pub(crate) staged: usize,
}

/// Removes what is left over in the store, as far as it is older than `grace` at `now`.
///
/// # Errors
/// What the store says. A manifest that cannot be read is an error too: its files must not be taken for nobody's.
pub(crate) async fn collect(store: &Store, view: &ViewName, grace: Duration, now: SystemTime) -> Result<Collected, StoreError> {
    let Some(before) = now.checked_sub(grace) else { return Ok(Collected::default()) };
    let staged = store.remove_staged(before).await?;

    let manifests = Manifests::new(store.clone(), view.clone());
    let newest = manifests.latest().await?.map_or(0, |newest| newest.version);
    let mut versions: BTreeMap<i64, Folders> = BTreeMap::new();
    for object in store.list(&view_folder(view)).await? {
        if let Ok(path) = ViewFilePath::parse(&object.location)
            && path.version <= newest
        {
            versions.entry(path.version).or_default().entry(path.run_id).or_default().push(object);
        }
    }
    let before = DateTime::<Utc>::from(before);
    let listed: BTreeSet<i64> = manifests.list().await?.into_iter().collect();
    // A version of one folder has it from its manifest.
    let suspect: BTreeMap<_, _> =
        versions.into_iter().filter(|(version, folders)| folders.len() > 1 || !listed.contains(version)).collect();
    if suspect.is_empty() {
        return Ok(Collected { files: 0, staged });
    }
    let mut named = BTreeSet::new();
    for version in &listed {
        named.extend(manifests.read(*version).await?.files.into_iter().map(|file| file.path));
    }
    let noted = expired::noted(store, view).await?;
    let leftover = |object: &ObjectMeta| object.last_modified < before && !named.contains(object.location.as_ref());
    let mut files = 0;
    for (version, folders) in suspect {
        // A list may lag behind: only what is not there by name has expired, and who opened it before then may still be reading.
        let has_expired = !listed.contains(&version) && is_gone(&manifests, version).await?;
        let is_over = has_expired && noted.get(&version).is_none_or(|since| *since < before);
        for objects in folders.into_values() {
            let goes = match listed.contains(&version) {
                true => objects.iter().all(leftover),
                false => is_over,
            };
            for object in objects.iter().filter(|object| goes && leftover(object)) {
                store.delete(&object.location).await?;
                files += 1;
            }
        }
    }
    Ok(Collected { files, staged })
}

async fn is_gone(manifests: &Manifests, version: i64) -> Result<bool, StoreError> {
    match manifests.read(version).await {
        Err(StoreError::NotFound { .. }) => Ok(true),
        read => read.map(|_| false),
    }
}
