//! Letting go of what nobody needs: versions past their keep-for, the files that only they had, reports, and refused rows of imports.
//!
//! *Consistency.* The newest two versions stay whatever the settings say, for the speed layer answers from both and a rollback begins
//! there; so do the one that answers and the newest that was computed from all events. A version goes with its manifest, and a note says
//! so ([`storage::manifest::expired`]); its files go a grace period later, as far as no version that is kept lies on them.
//!
//! *What a crash leaves behind.* A version more or less, and files that go the next time.

mod versions;

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use storage::config::Config;
use storage::dead_letter::forget_erased;
use storage::erasures::Erasures;
use storage::machine::{Machine, RealMachine};
use storage::manifest::{Manifest, Manifests, expired};
use storage::paths::{
    DefinitionPath, ExpiredPath, ImportPath, ManifestPath, RunPath, ViewName, dead_letters_folder, manifests_folder, runs_folder,
    view_folder,
};
use storage::store::Store;
use tracing::info;

use crate::collect::collect;
use crate::error::RunError;
use crate::keeper::{Keeper, Turn};
use crate::options::RunOptions;
use crate::report::began;
pub use versions::Going;
use versions::{Keep, Published, going};

/// What is asked of [`expire`].
#[derive(Clone, Debug)]
pub struct ExpireOptions {
    /// The view, its lease, retries and grace.
    pub run: RunOptions,
    /// So many newest versions are kept, at least two,
    pub keep_versions: usize,
    /// and those that are younger than this.
    pub keep_versions_for: Duration,
    /// Reports, and notes of expired versions, are kept so long.
    pub keep_reports_for: Duration,
    /// Only say what would go.
    pub dry_run: bool,
}

impl ExpireOptions {
    /// As the settings say.
    #[must_use]
    pub fn from_config(config: &Config, view: ViewName, dry_run: bool) -> Self {
        let batch = &config.batch_layer;
        Self {
            run: RunOptions::from_config(config, view),
            keep_versions: batch.keep_versions as usize,
            keep_versions_for: batch.keep_versions_for.0,
            keep_reports_for: batch.keep_reports_for.0,
            dry_run,
        }
    }
}

/// What went, or would go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expiry {
    /// Versions, oldest first.
    pub versions: Vec<Going>,
    /// Files of versions that went earlier, and of dead runs.
    pub files: usize,
    /// Reports and notes.
    pub reports: usize,
    /// Definitions that no version that is kept was computed with.
    pub definitions: usize,
}

impl fmt::Display for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Going { version, reason } in &self.versions {
            writeln!(f, "version     v{version}: {reason}")?;
        }
        let Self { versions, files, reports, definitions } = self;
        write!(f, "expired     {} versions, {files} files, {reports} reports, {definitions} definitions", versions.len())
    }
}

/// Removes what is past its keep-for of the view of `options`.
///
/// # Errors
/// What is kept is whole after every error. [`RunError::Busy`] and [`RunError::Fenced`] if a run is at work.
pub async fn expire(options: &ExpireOptions, store: &Store) -> Result<Expiry, RunError> {
    expire_on(&RealMachine, options, store).await
}

/// [`expire`] on a machine that the caller brings.
///
/// # Errors
/// As [`expire`].
pub async fn expire_on(machine: &dyn Machine, options: &ExpireOptions, store: &Store) -> Result<Expiry, RunError> {
    if options.dry_run {
        let (versions, _) = plan(options, store, machine.now()).await?;
        return Ok(Expiry { versions, ..Expiry::default() });
    }
    let Turn { started, store, keeper, .. } = Turn::take(machine, &options.run, store).await?;
    let done = Box::pin(expire_alone(options, &store, started, &keeper)).await;
    keeper.release().await;
    done
}

async fn expire_alone(options: &ExpireOptions, store: &Store, now: SystemTime, keeper: &Keeper) -> Result<Expiry, RunError> {
    let view = &options.run.view;
    let (versions, kept) = plan(options, store, now).await?;
    keeper.check().await?;
    for Going { version, reason } in &versions {
        let manifest = Manifests::new(store.clone(), view.clone()).read(*version).await?;
        expired::expire(store, &manifest, reason).await?;
        info!(%view, version, reason, "expired version");
    }
    let files = collect(store, view, options.run.grace, now).await?.files;
    let definitions = remove_definitions(options, store, now, &kept).await?;
    let reports = remove_reports(options, store, now, &kept).await?;
    Ok(Expiry { versions, files, reports, definitions })
}

/// What goes, and the manifests of what stays.
async fn plan(options: &ExpireOptions, store: &Store, now: SystemTime) -> Result<(Vec<Going>, Vec<Manifest>), RunError> {
    let view = &options.run.view;
    let manifests = Manifests::new(store.clone(), view.clone());
    let mut published = Vec::new();
    for object in store.list(&manifests_folder(view)).await? {
        let Ok(path) = ManifestPath::parse(&object.location) else { continue };
        published.push(Published { manifest: manifests.read(path.version).await?, since: object.last_modified });
    }
    // A list that lags behind must not make another version look like the newest.
    if manifests.newest().await? != published.last().map(|newest| newest.manifest.version) {
        return Ok((Vec::new(), published.into_iter().map(|published| published.manifest).collect()));
    }
    let keep = Keep { versions: options.keep_versions, since: ago(now, options.keep_versions_for) };
    let versions = going(&published, keep, &Erasures::list(store).await?);
    let goes: BTreeSet<i64> = versions.iter().map(|going| going.version).collect();
    let kept = published.into_iter().map(|published| published.manifest).filter(|manifest| !goes.contains(&manifest.version));
    Ok((versions, kept.collect()))
}

async fn remove_definitions(options: &ExpireOptions, store: &Store, now: SystemTime, kept: &[Manifest]) -> Result<usize, RunError> {
    let before = ago(now, options.run.grace);
    let mut removed = 0;
    for object in store.list(&view_folder(&options.run.view)).await? {
        let Ok(path) = DefinitionPath::parse(&object.location) else { continue };
        let is_needed = kept.iter().any(|manifest| manifest.fingerprint == path.fingerprint.as_str());
        if !is_needed && object.last_modified < before {
            store.delete(&object.location).await?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Reports of runs whose versions are not kept, and notes of versions whose files are gone.
async fn remove_reports(options: &ExpireOptions, store: &Store, now: SystemTime, kept: &[Manifest]) -> Result<usize, RunError> {
    let view = &options.run.view;
    let before = ago(now, options.keep_reports_for.max(options.run.grace));
    let mut surplus = Vec::new();
    for object in store.list(&runs_folder(view)).await? {
        let Ok(path) = RunPath::parse(&object.location) else { continue };
        let is_kept = kept.iter().any(|manifest| manifest.run_id == path.run_id.as_str());
        if !is_kept && began(path.run_id.as_str()).is_some_and(|began| began < before) {
            surplus.push(object.location);
        }
    }
    let objects = store.list(&view_folder(view)).await?;
    let notes = objects.iter().filter(|object| object.last_modified < before && ExpiredPath::parse(&object.location).is_ok());
    surplus.extend(notes.map(|object| object.location.clone()));
    for path in &surplus {
        store.delete(path).await?;
    }
    Ok(surplus.len())
}

/// Removes the rows that imports refused longer ago than `keep_for`, unless that is 0, and those of erased users; the answer is of how many
/// imports, and how many rows of those users.
///
/// # Errors
/// What the store says.
pub async fn expire_dead_letters(store: &Store, keep_for: Duration) -> Result<(usize, usize), RunError> {
    let removed = if keep_for.is_zero() { 0 } else { remove_dead_letters(store, keep_for).await? };
    Ok((removed, forget_erased(store, &Erasures::list(store).await?).await?))
}

async fn remove_dead_letters(store: &Store, keep_for: Duration) -> Result<usize, RunError> {
    let before = ago(RealMachine.now(), keep_for);
    let mut removed = 0;
    for object in store.list(&dead_letters_folder()).await? {
        if ImportPath::parse(&object.location).is_ok() && object.last_modified < before {
            store.delete(&object.location).await?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// So long before `now`, or the beginning of time.
fn ago(now: SystemTime, age: Duration) -> DateTime<Utc> {
    now.checked_sub(age).map_or(DateTime::UNIX_EPOCH, DateTime::<Utc>::from)
}
