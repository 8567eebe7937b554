//! Manifests: the small files that make versions of a batch view exist.
//!
//! # Layout
//! `views/<view>/manifests/<version, 20 digits>.json`, versions from 1, without holes but for those that have expired ([`expired`]);
//! beside them the definitions by fingerprint ([`definitions`]). A manifest names its version's files, their checksums and the boundary.
//!
//! # Consistency
//! Creating the next-numbered manifest is the commit: put-if-absent has one winner. A manifest never changes, and ends with its
//! own checksum. Files that no manifest names do not exist.
//!
//! # What a crash leaves behind
//! Either the manifest or no manifest. A publisher that cannot tell reads back and compares run ids; if that fails too, the
//! outcome is *unknown* and nothing may be deleted.

pub mod definitions;
pub mod expired;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use bytes::Bytes;
use object_store::path::Path as ObjectPath;
use serde::{Deserialize, Serialize};

use crate::paths::{ManifestPath, ViewName, manifests_folder, views_folder};
use crate::store::json::{self, Formats};
use crate::store::{Claim, Store, StoreError};

pub use definitions::{DefinitionFile, Definitions, UnusableDefinition};

/// The format of manifests and definitions that this program writes where nothing needs a newer one.
pub const FORMAT_VERSION: u32 = 2;
/// The format of a manifest with [`Manifest::as_of`] or [`Manifest::withdrawn`], which older programs must not overlook.
const LIMITED_FORMAT_VERSION: u32 = 3;
/// The format of a manifest with [`Manifest::imports`] or [`Manifest::built_upon`], or with files that lie on others ([`ViewFile::layer`]).
const LAYERED_FORMAT_VERSION: u32 = 4;
/// The format of a manifest with [`Manifest::accepted_difference`].
const ACCEPTING_FORMAT_VERSION: u32 = 5;
/// Format 1 has no checksum, no boundary records and no lease; it is read and never written.
const FORMATS: Formats = Formats { known: ACCEPTING_FORMAT_VERSION, checked_from: 2 };

/// One version of a batch view: the partial states of the events `[0, boundary)`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The oldest that says all of it: [`Manifest::in_its_format`].
    pub format_version: u32,
    /// The view.
    pub view: ViewName,
    /// The version, from 1.
    pub version: i64,
    /// The version that was the newest when the run began.
    pub parent: Option<i64>,
    /// The version that it was built upon; without one it was computed from all events. Format 4 where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub built_upon: Option<i64>,
    /// The run that computed it.
    pub run_id: String,
    /// When, RFC 3339 in UTC. No decision rests on it.
    pub created_time: String,
    /// The log whose offsets the boundary counts.
    pub log_id: String,
    /// Per partition, by index, the first offset that is **not** covered.
    pub boundary: Vec<i64>,
    /// Numbers of the imports that it covers, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub imports: Vec<i64>,
    /// Per partition, the fingerprint of the record below the boundary ([`crate::master::record_fingerprint`]), empty where the
    /// boundary is 0: a log that was rewound and went on otherwise has another there. None at all in a manifest of format 1.
    #[serde(default)]
    pub boundary_records: Vec<String>,
    /// Number of the lease that the run held when it published; 0 if it held none.
    #[serde(default)]
    pub lease: i64,
    /// Fingerprint of the definition, which names the format of the states.
    pub fingerprint: String,
    /// What the definition's limit is counted back from, in microseconds since 1970: when the newest event below the boundary was
    /// appended. Only in manifests of format 3, whose definitions have a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<i64>,
    /// Nothing answers for the view any more, and nothing is kept for it, until a later version. Such a one has no files, and format 3.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub withdrawn: bool,
    /// Digest of keys and exact states in canonical form.
    pub digest: String,
    /// Events counted, after deduplication.
    pub event_count: i64,
    /// Rows of states; those that lie under others do not count.
    pub row_count: i64,
    /// Duplicates that the log had let pass and the run removed.
    pub late_duplicate_count: i64,
    /// Duplicates whose content was not that of the original.
    pub conflict_count: i64,
    /// The engine that computed it, with its version. Recorded only.
    pub engine: String,
    /// The files, in the order of the shards from 0 and of their layers from 0; a shard without rows has a file too.
    pub files: Vec<ViewFile>,
    /// What was compared before publishing.
    pub audit: Option<AuditSummary>,
    /// What the audit found, where a person has judged that it is right. Format 5 where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_difference: Option<AcceptedDifference>,
}

impl Manifest {
    /// What in it cannot be true, if anything cannot.
    pub(crate) fn contradiction(&self) -> Option<String> {
        if self.files.is_empty() != self.withdrawn {
            let contradiction = if self.withdrawn { "it is withdrawn, and names files" } else { "it names no files" };
            return Some(contradiction.to_owned());
        }
        let in_order = |(before, next): (&ViewFile, &ViewFile)| match next.layer {
            0 => next.shard == before.shard + 1,
            layer => next.shard == before.shard && layer == before.layer + 1,
        };
        if self.files.first().is_some_and(|f| (f.shard, f.layer) != (0, 0))
            || !self.files.iter().zip(self.files.iter().skip(1)).all(in_order)
        {
            return Some("its files are not the shards 0, 1, 2 … in order, each with its layers in order".to_owned());
        }
        if !self.imports.iter().zip(self.imports.iter().skip(1)).all(|(a, b)| a < b) || self.imports.first().is_some_and(|n| *n < 1) {
            return Some("its imports are not numbers in ascending order".to_owned());
        }
        let known = self.boundary_records.len();
        if known != 0 && known != self.boundary.len() {
            return Some(format!("its boundary is that of {} partitions, its boundary_records of {known}", self.boundary.len()));
        }
        let counts = [self.event_count, self.late_duplicate_count, self.conflict_count];
        if counts.iter().chain(&self.boundary).chain(self.files.iter().flat_map(|f| [&f.rows, &f.bytes])).any(|count| *count < 0) {
            return Some("it has a count below zero".to_owned());
        }
        let rows = self.files.iter().map(|f| i128::from(f.rows)).sum::<i128>();
        let fits = if self.is_layered() { rows >= i128::from(self.row_count) } else { rows == i128::from(self.row_count) };
        (!fits).then(|| format!("its files have {rows} rows, its row_count is {}", self.row_count))
    }

    /// The same in the oldest format that says all of it, so that older programs read what they can.
    #[must_use]
    pub fn in_its_format(self) -> Self {
        let format_version = match () {
            () if self.accepted_difference.is_some() => ACCEPTING_FORMAT_VERSION,
            () if self.is_layered() || self.built_upon.is_some() || !self.imports.is_empty() => LAYERED_FORMAT_VERSION,
            () if self.as_of.is_some() || self.withdrawn => LIMITED_FORMAT_VERSION,
            () => FORMAT_VERSION,
        };
        Self { format_version, ..self }
    }

    /// How many shards the view has.
    #[must_use]
    pub fn shards(&self) -> u32 {
        self.files.last().map_or(0, |last| last.shard + 1)
    }

    /// The files of one shard, the lowest first.
    pub fn layers(&self, shard: u32) -> impl Iterator<Item = &ViewFile> {
        self.files.iter().filter(move |file| file.shard == shard)
    }

    fn is_layered(&self) -> bool {
        self.files.iter().any(|file| file.layer > 0)
    }

    /// Its object's path.
    #[must_use]
    pub fn path(&self) -> ObjectPath {
        ManifestPath { view: self.view.clone(), version: self.version }.path()
    }
}

/// The views that somebody has begun to publish, and the built-in one, by name.
///
/// # Errors
/// What the store says.
pub async fn list_views(store: &Store) -> Result<BTreeSet<ViewName>, StoreError> {
    let folders = store.folders(&views_folder()).await?;
    // Folders of other names are not ours.
    let declared = folders.iter().filter_map(|folder| folder.filename()?.parse().ok());
    Ok(declared.chain([ViewName::user_stats()]).collect())
}

/// The newest version of each view that has one, in order of their names.
///
/// # Errors
/// What the store says, and a damaged manifest, by name.
pub async fn newest_versions(store: &Store) -> Result<Vec<Manifest>, StoreError> {
    let mut newest = Vec::new();
    for view in list_views(store).await? {
        newest.extend(Manifests::new(store.clone(), view).latest().await?);
    }
    Ok(newest)
}

/// One file of a version.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ViewFile {
    /// The object's path.
    pub path: String,
    /// The range of the key's hash that it holds.
    pub shard: u32,
    /// Which of the shard's files it lies on, from 0: its rows stand in the place of those of the same key and bucket below it.
    #[serde(default, skip_serializing_if = "is_lowest")]
    pub layer: u32,
    /// Rows of states.
    pub rows: i64,
    /// Length in bytes.
    pub bytes: i64,
    /// BLAKE3 of the bytes, in hex.
    pub blake3: String,
}

impl ViewFile {
    /// Whether both are the same bytes of the same file.
    pub(crate) fn is_same_file(&self, other: &Self) -> bool {
        (&self.path, self.bytes, self.rows, &self.blake3) == (&other.path, other.bytes, other.rows, &other.blake3)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_lowest(layer: &u32) -> bool {
    *layer == 0
}

/// How a version was checked against another computation of the same.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AuditSummary {
    /// What it was compared with.
    pub kind: String,
    /// Keys whose finished values were compared.
    pub keys_compared: i64,
    /// Keys that were folded again from raw events.
    pub keys_refolded: i64,
}

/// A difference between two computations that a person has judged.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptedDifference {
    /// The run that failed because of it; its report names the first keys.
    pub run_id: String,
    /// Keys that differed.
    pub keys: i64,
}

/// What became of a publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishOutcome {
    /// The version is ours, and durable.
    Published,
    /// Another run published this version first. Our files stay for the collector.
    Lost {
        /// Whose version it is.
        winner_run_id: String,
    },
}

/// The manifests of one view.
#[derive(Clone, Debug)]
pub struct Manifests {
    store: Store,
    view: ViewName,
}

impl Manifests {
    /// The manifests of `view` in `store`.
    #[must_use]
    pub fn new(store: Store, view: ViewName) -> Self {
        Self { store, view }
    }

    /// The newest version, or `None` if nothing was ever published. A list that lags behind is no harm: versions after the
    /// last one listed are asked for by name.
    ///
    /// # Errors
    /// A manifest or list that cannot be read is an error, never an older version.
    pub async fn latest(&self) -> Result<Option<Manifest>, StoreError> {
        let listed = self.list().await?.last().copied();
        let mut newest = match listed {
            Some(version) => Some(self.read(version).await?),
            None => None,
        };
        loop {
            match self.read(newest.as_ref().map_or(1, |m| m.version + 1)).await {
                Ok(manifest) => newest = Some(manifest),
                Err(StoreError::NotFound { .. }) => return Ok(newest),
                Err(e) => return Err(e),
            }
        }
    }

    /// The number of the newest version, whether its manifest can be read or not.
    ///
    /// # Errors
    /// What the store says.
    pub async fn newest(&self) -> Result<Option<i64>, StoreError> {
        let mut newest = self.list().await?.last().copied().unwrap_or(0);
        loop {
            match self.store.get(&self.path(newest + 1)).await {
                Ok(_) => newest += 1,
                Err(StoreError::NotFound { .. }) => return Ok(Some(newest).filter(|version| *version > 0)),
                Err(e) => return Err(e),
            }
        }
    }

    /// The manifest of one version.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::NewerFormat`]; [`StoreError::Corrupt`] if it contradicts itself or its name.
    pub async fn read(&self, version: i64) -> Result<Manifest, StoreError> {
        let path = self.path(version);
        self.parse(version, &self.store.get(&path).await?)
    }

    fn parse(&self, version: i64, bytes: &[u8]) -> Result<Manifest, StoreError> {
        let path = self.path(version);
        let manifest: Manifest = json::decode(&path, bytes, FORMATS)?;
        let contradiction = if manifest.view != self.view || manifest.version != version {
            Some(format!("it says it is version {} of {}", manifest.version, manifest.view))
        } else {
            manifest.contradiction()
        };
        contradiction.map_or(Ok(manifest), |reason| Err(StoreError::corrupt(&path, reason)))
    }

    /// The versions that the store lists, oldest first. Other files in the folder are not looked at.
    ///
    /// # Errors
    /// What the store says.
    pub async fn list(&self) -> Result<Vec<i64>, StoreError> {
        let listed = self.store.list(&manifests_folder(&self.view)).await?;
        Ok(listed.iter().filter_map(|m| ManifestPath::parse(&m.location).ok()).map(|p| p.version).collect())
    }

    /// Publishes `manifest` under its version. Every file it names must be durable already.
    ///
    /// # Errors
    /// [`StoreError::UnknownOutcome`] if nobody can tell whether it is published: then delete nothing. [`StoreError::NotFound`]
    /// if the version before is not there; then nothing was written.
    ///
    /// # Panics
    /// If the manifest is of another view, has no version, or contradicts itself.
    pub async fn publish(&self, manifest: &Manifest) -> Result<PublishOutcome, StoreError> {
        assert!(manifest.view == self.view && manifest.version > 0, "a manifest is published under its own view and version");
        assert_eq!(manifest.contradiction(), None, "a manifest that contradicts itself is never published");
        if manifest.version > 1 {
            self.read(manifest.version - 1).await?;
        }
        match self.store.claim(&manifest.path(), Bytes::from(json::encode(manifest))).await? {
            Claim::Ours => Ok(PublishOutcome::Published),
            Claim::Theirs(there) => {
                let there = self.parse(manifest.version, &there)?;
                match there.run_id == manifest.run_id {
                    true => Ok(PublishOutcome::Published),
                    false => Ok(PublishOutcome::Lost { winner_run_id: there.run_id }),
                }
            }
        }
    }

    fn path(&self, version: i64) -> ObjectPath {
        ManifestPath { view: self.view.clone(), version }.path()
    }
}
