//! How far a declared retention lets events go: below everything that any version keeps which can still be asked for, rolled back to or
//! built upon, and no farther than declared.

use std::collections::{BTreeMap, BTreeSet};

use storage::manifest::{Manifest, Manifests, list_views};
use storage::master::{Expired, Layout};
use storage::paths::ViewName;
use storage::store::{Store, StoreError};
use views::Definition;

use crate::definition::{declared, kept_from, load, of_version};
use crate::error::RunError;
use crate::options::RunOptions;
use crate::retention::{check_limit, rfc3339};

/// The floor moves by whole days, so that a compaction an hour does not sort and rewrite every hour.
const STEP_US: i64 = 86_400_000_000;

/// What has expired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Floor {
    /// Events of before this, microseconds since 1970,
    pub(super) before_us: i64,
    /// with offsets below these, for each partition,
    pub(super) below: Vec<i64>,
    /// or of these imports.
    pub(super) imports: BTreeSet<i64>,
}

/// A floor, or what is in the way of one, for people.
pub(super) type Found = Result<Floor, String>;

impl Floor {
    /// What all views together let go, as their manifests say; no clock is asked. Later calls find the same or more, whatever runs
    /// publish meanwhile.
    ///
    /// # Errors
    /// The store or the folder of views cannot be read.
    pub(super) async fn find(options: &RunOptions, store: &Store, layout: &Layout) -> Result<Found, RunError> {
        let Some(retention) = options.retention else { return Ok(Err("none is declared".to_owned())) };
        let (files, misnamed) = declared(&options.views_dir)?;
        if let Some(misnamed) = misnamed.first() {
            return Ok(Err(misnamed.to_string()));
        }
        let mut kept = Kept::default();
        for view in list_views(store).await?.union(&files) {
            let options = RunOptions { view: view.clone(), ..options.clone() };
            if let Err(reason) = kept.add(&options, store, files.contains(view)).await? {
                return Ok(Err(format!("{view}: {reason}")));
            }
        }
        let (Some(from_us), Some(as_of_us)) = (kept.from_us, kept.as_of_us) else { return Ok(Err("no view has a version yet".to_owned())) };
        let declared_us = as_of_us.saturating_sub(i64::try_from(retention.as_micros()).unwrap_or(i64::MAX));
        let before_us = from_us.min(declared_us).div_euclid(STEP_US) * STEP_US;
        Ok(match layout.expired_before_us {
            Some(gone_us) if from_us < gone_us => Err(format!("a version counts events before {}, which are gone", rfc3339(gone_us))),
            gone_us => Ok(Self {
                before_us: gone_us.map_or(before_us, |gone_us| gone_us.max(before_us)),
                below: kept.below,
                imports: kept.imports,
            }),
        })
    }

    /// Of one partition, before anybody has looked for rows that repeat others.
    pub(super) fn of(&self, partition: u32) -> Expired {
        let below = self.below.get(partition as usize).copied().unwrap_or(0);
        Expired { before_us: self.before_us, below, imports: self.imports.clone(), ..Expired::default() }
    }
}

/// What the kept versions of the views that are answered have in common.
#[derive(Debug, Default)]
struct Kept {
    /// The smallest first bucket.
    from_us: Option<i64>,
    /// The smallest moment that the newest of a view is of.
    as_of_us: Option<i64>,
    /// The smallest boundary.
    below: Vec<i64>,
    /// Covered by all.
    imports: BTreeSet<i64>,
}

impl Kept {
    /// Adds the versions of one view, or says why nothing may go because of it.
    async fn add(&mut self, options: &RunOptions, store: &Store, is_declared: bool) -> Result<Result<(), String>, RunError> {
        let manifests = Manifests::new(store.clone(), options.view.clone());
        let newest = manifests.latest().await?.filter(|newest| !newest.withdrawn);
        if is_declared {
            let declared = load(options, newest.as_ref()).and_then(|definition| check_limit(&definition, options).map(|()| definition));
            let declared = match declared {
                Ok(declared) => declared,
                Err(error) => return Ok(Err(full_text(&error))),
            };
            match &newest {
                None => return Ok(Err("it has no version yet".to_owned())),
                Some(newest) if newest.fingerprint != declared.fingerprint() => {
                    return Ok(Err("its file has changed, and no run has computed it yet".to_owned()));
                }
                Some(_) => {}
            }
        }
        // Nobody answers for it, and a version that counts what is gone is not rolled back to.
        let Some(newest) = newest else { return Ok(Ok(())) };
        let mut definitions: BTreeMap<String, Definition> = BTreeMap::new();
        for version in manifests.list().await? {
            let manifest = match manifests.read(version).await {
                Ok(manifest) if manifest.withdrawn => continue,
                Ok(manifest) => manifest,
                // It expired since it was listed.
                Err(StoreError::NotFound { .. }) if version < newest.version => continue,
                Err(e) => return Err(e.into()),
            };
            if !definitions.contains_key(&manifest.fingerprint) {
                match of_version(store, &manifest).await {
                    Ok(definition) => drop(definitions.insert(manifest.fingerprint.clone(), definition)),
                    Err(error @ RunError::StoredDefinition { .. }) => return Ok(Err(full_text(&error))),
                    Err(error) => return Err(error),
                }
            }
            match kept_from(&definitions[&manifest.fingerprint], manifest.as_of)? {
                Some(from_us) => self.add_version(&manifest, from_us),
                None => return Ok(Err(format!("version {version} is kept and has no limit; batch-layer expire lets it go in time"))),
            }
        }
        self.as_of_us = least(self.as_of_us, newest.as_of);
        Ok(Ok(()))
    }

    fn add_version(&mut self, manifest: &Manifest, from_us: i64) {
        let imports = manifest.imports.iter().copied().collect();
        match self.from_us {
            None => (self.below, self.imports) = (manifest.boundary.clone(), imports),
            Some(_) => {
                self.below = self.below.iter().zip(&manifest.boundary).map(|(a, b)| *a.min(b)).collect();
                self.imports.retain(|import| imports.contains(import));
            }
        }
        self.from_us = least(self.from_us, Some(from_us));
    }
}

fn least(a: Option<i64>, b: Option<i64>) -> Option<i64> {
    a.into_iter().chain(b).min()
}

/// An error with its causes, in one line.
fn full_text(error: &RunError) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// The views whose runs must not be at work while events go.
pub(super) async fn views(options: &RunOptions, store: &Store) -> Result<BTreeSet<ViewName>, RunError> {
    let (files, _) = declared(&options.views_dir)?;
    Ok(list_views(store).await?.union(&files).cloned().collect())
}
