//! Manifests: the small files that make versions of a batch view exist.
//!
//! # Layout
//! `views/<view>/manifests/<version, 20 digits>.json`, versions from 1 without holes; beside them the definitions by
//! fingerprint ([`definitions`]). A manifest names its version's files, their checksums and the boundary.
//!
//! # Consistency
//! Creating the next-numbered manifest is the commit: put-if-absent has one winner. A manifest never changes. Files that no
//! manifest names do not exist.
//!
//! # What a crash leaves behind
//! Either the manifest or no manifest. A publisher that cannot tell reads back and compares run ids; if that fails too, the
//! outcome is *unknown* and nothing may be deleted.

pub mod definitions;
#[cfg(test)]
mod tests;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use object_store::path::Path as ObjectPath;

use crate::paths::{ManifestPath, ViewName, manifests_folder};
use crate::store::{PutOutcome, Store, StoreError};

pub use definitions::{DefinitionFile, Definitions};

/// The manifest format that this program writes, and the newest it reads.
pub const FORMAT_VERSION: u32 = 1;

/// One version of a batch view: the partial states of the events `[0, boundary)`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT_VERSION`] of whoever wrote it.
    pub format_version: u32,
    /// The view.
    pub view: ViewName,
    /// The version, from 1.
    pub version: i64,
    /// The version that was the newest when the run began.
    pub parent: Option<i64>,
    /// The run that computed it.
    pub run_id: String,
    /// When, RFC 3339 in UTC. No decision rests on it.
    pub created_time: String,
    /// The log whose offsets the boundary counts.
    pub log_id: String,
    /// Per partition, by index, the first offset that is **not** covered.
    pub boundary: Vec<i64>,
    /// Fingerprint of the definition, which names the format of the states.
    pub fingerprint: String,
    /// Digest of keys and exact states in canonical form.
    pub digest: String,
    /// Events counted, after deduplication.
    pub event_count: i64,
    /// Rows of states in all files.
    pub row_count: i64,
    /// Duplicates that the log had let pass and the run removed.
    pub late_duplicate_count: i64,
    /// Duplicates whose content was not that of the original.
    pub conflict_count: i64,
    /// The engine that computed it, with its version. Recorded only.
    pub engine: String,
    /// The files, one for each shard, in the order of the shards from 0; a shard without rows has a file too.
    pub files: Vec<ViewFile>,
    /// What was compared before publishing.
    pub audit: Option<AuditSummary>,
}

impl Manifest {
    /// What in it cannot be true, if anything cannot.
    pub(crate) fn contradiction(&self) -> Option<String> {
        if self.files.is_empty() {
            return Some("it names no files".to_owned());
        }
        if self.files.iter().map(|f| f.shard).ne(0..self.files.len() as u32) {
            return Some("its files are not the shards 0, 1, 2 … in order".to_owned());
        }
        let counts = [self.event_count, self.late_duplicate_count, self.conflict_count];
        if counts.iter().chain(&self.boundary).chain(self.files.iter().flat_map(|f| [&f.rows, &f.bytes])).any(|count| *count < 0) {
            return Some("it has a count below zero".to_owned());
        }
        let rows = self.files.iter().map(|f| i128::from(f.rows)).sum::<i128>();
        (rows != i128::from(self.row_count)).then(|| format!("its files have {rows} rows, its row_count is {}", self.row_count))
    }

    /// Its object's path.
    #[must_use]
    pub fn path(&self) -> ObjectPath {
        ManifestPath { view: self.view.clone(), version: self.version }.path()
    }
}

/// One file of a version.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ViewFile {
    /// The object's path.
    pub path: String,
    /// The range of the key's hash that it holds.
    pub shard: u32,
    /// Rows of states.
    pub rows: i64,
    /// Length in bytes.
    pub bytes: i64,
    /// BLAKE3 of the bytes, in hex.
    pub blake3: String,
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

    /// The manifest of one version.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::NewerFormat`]; [`StoreError::Corrupt`] if it contradicts itself or its name.
    pub async fn read(&self, version: i64) -> Result<Manifest, StoreError> {
        let path = self.path(version);
        let manifest: Manifest = decode(&path, &self.store.get(&path).await?)?;
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
        let path = manifest.path();
        let unknown = |source| StoreError::UnknownOutcome { path: path.to_string(), source: Box::new(source) };

        let put = self.store.put_if_absent(&path, encode(manifest).into()).await;
        let failed = match put {
            Ok(PutOutcome::Created) => return Ok(PublishOutcome::Published),
            Ok(PutOutcome::Exists) => None,
            // A local disk that fails to sync may show us the manifest and lose it later.
            Err(e @ StoreError::Io { .. }) => return Err(unknown(e)),
            Err(e) => Some(e),
        };
        match self.read(manifest.version).await {
            Ok(there) if there.run_id == manifest.run_id => Ok(PublishOutcome::Published),
            Ok(there) => Ok(PublishOutcome::Lost { winner_run_id: there.run_id }),
            Err(e) => Err(unknown(failed.unwrap_or(e))),
        }
    }

    fn path(&self, version: i64) -> ObjectPath {
        ManifestPath { view: self.view.clone(), version }.path()
    }
}

/// Canonical JSON: two spaces, fields in the order of the struct, a newline at the end.
fn encode(file: &impl Serialize) -> Vec<u8> {
    let mut json = serde_json::to_vec_pretty(file).expect("string keys and numbers always serialise");
    json.push(b'\n');
    json
}

/// Looks at the format first: what a newer program wrote is refused as newer, not as damaged.
fn decode<T: DeserializeOwned>(path: &ObjectPath, bytes: &[u8]) -> Result<T, StoreError> {
    #[derive(Deserialize)]
    struct Format {
        format_version: u32,
    }
    let damaged = |e: serde_json::Error| StoreError::corrupt(path, e.to_string());
    let found = serde_json::from_slice::<Format>(bytes).map_err(damaged)?.format_version;
    if found > FORMAT_VERSION {
        return Err(StoreError::NewerFormat { path: path.to_string(), found, known: FORMAT_VERSION });
    }
    serde_json::from_slice(bytes).map_err(damaged)
}
