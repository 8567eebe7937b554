//! Versions that have expired: what is left of them when their manifests and files are gone.
//!
//! # Layout
//! `views/<view>/expired/<version, 20 digits>.json`, put if absent right before the manifest is removed.
//!
//! # Consistency
//! A version without a manifest is none: nobody opens it any more, and numbers do not come again. Its files go later, for who opened it
//! before may still be reading; when, is counted from the note.
//!
//! # What a crash leaves behind
//! The note beside the manifest, which says that the version is there; or no manifest, and files that go the next time.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::Manifest;
use crate::paths::{ExpiredPath, ViewName, expired_folder};
use crate::store::json::{self, Formats};
use crate::store::{Store, StoreError};

const FORMAT_VERSION: u32 = 1;
const FORMATS: Formats = Formats { known: FORMAT_VERSION, checked_from: 1 };

/// What is noted of one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Expired {
    format_version: u32,
    /// The view.
    pub view: ViewName,
    /// The version.
    pub version: i64,
    /// When it was computed, RFC 3339 in UTC.
    pub created_time: String,
    /// Per partition, the first offset that it did not cover.
    pub boundary: Vec<i64>,
    /// Why it is gone, for people.
    pub reason: String,
}

impl Expired {
    /// Of a version that is to go.
    #[must_use]
    pub fn of(manifest: &Manifest, reason: &str) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            view: manifest.view.clone(),
            version: manifest.version,
            created_time: manifest.created_time.clone(),
            boundary: manifest.boundary.clone(),
            reason: reason.to_owned(),
        }
    }
}

/// Notes that a version expires, durably, and removes its manifest.
///
/// # Errors
/// What the store says.
pub async fn expire(store: &Store, manifest: &Manifest, reason: &str) -> Result<(), StoreError> {
    let path = ExpiredPath { view: manifest.view.clone(), version: manifest.version }.path();
    // Its time is that of the last try: files go a grace period after the manifest went, not after somebody died on the way.
    store.put_durable(&path, json::encode(&Expired::of(manifest, reason)).into()).await?;
    store.delete(&manifest.path()).await
}

/// When each expired version of a view was noted, by its number.
///
/// # Errors
/// What the store says.
pub async fn noted(store: &Store, view: &ViewName) -> Result<BTreeMap<i64, DateTime<Utc>>, StoreError> {
    let listed = store.list(&expired_folder(view)).await?;
    Ok(listed.iter().filter_map(|object| Some((ExpiredPath::parse(&object.location).ok()?.version, object.last_modified))).collect())
}

/// What is noted of a version, if anything is.
///
/// # Errors
/// What the store says, and a damaged note, by name.
pub async fn read(store: &Store, view: &ViewName, version: i64) -> Result<Option<Expired>, StoreError> {
    let path = ExpiredPath { view: view.clone(), version }.path();
    match store.get(&path).await {
        Ok(bytes) => json::decode(&path, &bytes, FORMATS).map(Some),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}
