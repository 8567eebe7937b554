//! The published versions, listed for people.

use std::path::Path;

use chrono::{DateTime, Utc};
use indicatif::{HumanBytes, HumanCount, HumanDuration};
use storage::manifest::{AcceptedDifference, Manifest, Manifests, expired, list_views};
use storage::paths::ViewName;
use storage::store::{Store, StoreError};

use crate::definition::declared;
use crate::error::RunError;
use crate::table::aligned;

/// Said of a view that is declared and was never published.
pub const NO_VERSION: &str = "no version yet; `batch-layer run` makes the first";

/// Every version of `view`, newest first.
///
/// # Errors
/// A manifest that cannot be read.
pub async fn list(store: &Store, view: &ViewName) -> Result<Vec<Manifest>, StoreError> {
    let manifests = Manifests::new(store.clone(), view.clone());
    let mut found = Vec::new();
    for version in manifests.list().await?.into_iter().rev() {
        match manifests.read(version).await {
            // It has expired since it was listed.
            Err(StoreError::NotFound { .. }) => {}
            read => found.push(read?),
        }
    }
    Ok(found)
}

/// Numbers of the versions that have expired, newest first, as far as that is still noted.
///
/// # Errors
/// What the store says.
pub async fn expired(store: &Store, view: &ViewName) -> Result<Vec<i64>, StoreError> {
    Ok(expired::noted(store, view).await?.into_keys().rev().collect())
}

/// Refuses a view that was never published and is not declared in `views_dir` either: most likely its name is misspelt.
///
/// # Errors
/// [`RunError::UnknownView`], and what the store and the folder say.
pub async fn check_known(store: &Store, views_dir: &Path, view: &ViewName) -> Result<(), RunError> {
    let mut known = list_views(store).await?;
    known.extend(declared(views_dir)?.0);
    if known.contains(view) {
        return Ok(());
    }
    let known = known.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    Err(RunError::UnknownView { view: view.to_string(), known })
}

/// The versions as a table, ages as seen from `now`.
#[must_use]
pub fn table(versions: &[Manifest], now: DateTime<Utc>) -> String {
    if versions.is_empty() {
        return NO_VERSION.to_owned();
    }
    let notes = if versions.iter().any(|version| version.accepted_difference.is_some()) { "accepted difference" } else { "" };
    aligned(["version", "boundary", "events", "rows", "size", "age", "definition", notes], versions.iter().map(|m| cells(m, now)))
}

fn cells(manifest: &Manifest, now: DateTime<Utc>) -> [String; 8] {
    let count = |n: i64| HumanCount(u64::try_from(n).unwrap_or(0)).to_string();
    let bytes: i64 = manifest.files.iter().map(|file| file.bytes).sum();
    let age = DateTime::parse_from_rfc3339(&manifest.created_time).ok().and_then(|time| (now - time.with_timezone(&Utc)).to_std().ok());
    [
        format!("v{}", manifest.version),
        manifest.boundary.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        count(manifest.event_count),
        count(manifest.row_count),
        HumanBytes(u64::try_from(bytes).unwrap_or(0)).to_string(),
        age.map_or_else(|| "?".to_owned(), |age| HumanDuration(age).to_string()),
        if manifest.withdrawn {
            "withdrawn".to_owned()
        } else {
            manifest.fingerprint.get(..12).unwrap_or(&manifest.fingerprint).to_owned()
        },
        match &manifest.accepted_difference {
            Some(AcceptedDifference { run_id, keys }) => format!("of {run_id}, {keys} {}", if *keys == 1 { "key" } else { "keys" }),
            None => String::new(),
        },
    ]
}
