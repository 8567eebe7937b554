//! Every object path there is, each as a type that writes it and reads it back.
//!
//! ```text
//! master/events/ingest_date=2026-11-21/p0000-00000000000000000000-00000000000000100000.parquet   SegmentPath
//! master/events/ingest_date=2026-11-21/p0000-….seal.json                                         SegmentPath, its seal
//! master/events/ingest_date=2026-11-21/p0000-<start>-<end>-<layout>-<run id>.parquet             RewrittenPath
//! master/layout/00000000000000000003.json                                                        LayoutPath
//! master/epochs/00000000000000000007.json                                                        EpochPath
//! master/identities/p0000-00000000000000000000-00000000000000100000.parquet                      IdentitiesPath
//! master/identities/p0000-imports-<set>.parquet                                                  ImportIdentitiesPath
//! master/identities/p0000-….seal.json                                                            their seals
//! master/erasures/p0000-00000000000000000123.json                                                ErasurePath
//! master/imports/00000000000000000003/{claim.json, p0000.parquet, import.json}                   ImportPath
//! master/imports/00000000000000000003/p0000-<layout>-<run id>.parquet                            RewrittenImportPath
//! dead-letter/import-00000000000000000003.jsonl                                                  ImportPath
//! views/<view>/manifests/00000000000000000042.json                                               ManifestPath
//! views/<view>/v42-<run id>/part-00000.parquet                                                   ViewFilePath
//! views/<view>/definitions/<fingerprint>.json                                                    DefinitionPath
//! views/<view>/expired/00000000000000000041.json                                                 ExpiredPath
//! receipts/p0001-00000000000000000042.json                                                       ErasurePath::receipt
//! runs/<view>/<run id>.json                                                                      RunPath
//! runs/<view>/progress/<run id>.json                                                             ProgressPath
//! runs/<view>/lease/00000000000000000003.json                                                    LeasePath
//! ```
//!
//! Ranges are half-open: the first number is the first offset inside, the second the first one outside. A path is read back
//! only if writing what was read gives the same path, so each object has exactly one name. Keys of users never become paths.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use chrono::NaiveDate;
use object_store::path::Path as ObjectPath;
use serde::{Deserialize, Serialize};

use crate::store::StoreError;

mod erasures;
mod identities;
mod imports;
mod numbered;
mod rewritten;
#[cfg(test)]
mod tests;

pub use erasures::{ErasurePath, erasures_folder};
pub use identities::{IdentitiesPath, ImportIdentitiesPath, identities_folder};
pub use imports::{ImportObject, ImportPath, imports_folder};
pub use numbered::{EpochPath, LayoutPath, LeasePath, dead_letters_folder, epochs_folder, layouts_folder, lease_folder};
pub use rewritten::{ExpiredPath, RewrittenImportPath, RewrittenPath, expired_folder};

/// The folder of all segments.
#[must_use]
pub fn events_folder() -> ObjectPath {
    ObjectPath::from("master/events")
}

/// The object that says which log the master dataset is made from.
#[must_use]
pub fn master_log() -> ObjectPath {
    ObjectPath::from("master/LOG")
}

/// The folder of a view's manifests.
#[must_use]
pub fn manifests_folder(view: &ViewName) -> ObjectPath {
    ObjectPath::from(format!("views/{view}/manifests"))
}

/// The folder of the folders of all views.
#[must_use]
pub fn views_folder() -> ObjectPath {
    ObjectPath::from("views")
}

/// The folder of everything of a view.
#[must_use]
pub fn view_folder(view: &ViewName) -> ObjectPath {
    ObjectPath::from(format!("views/{view}"))
}

/// The folder of the reports of a view's runs, and of its lease.
#[must_use]
pub fn runs_folder(view: &ViewName) -> ObjectPath {
    ObjectPath::from(format!("runs/{view}"))
}

/// The folder of the folders of the runs of all views.
#[must_use]
pub fn all_runs_folder() -> ObjectPath {
    ObjectPath::from("runs")
}

/// The folder of objects that are put only to see whether they can be, and removed at once.
#[must_use]
pub fn probes_folder() -> ObjectPath {
    ObjectPath::from("probes")
}

/// Such an object.
#[must_use]
pub fn probe(random: u128) -> ObjectPath {
    ObjectPath::from(format!("probes/{random:032x}"))
}

/// The folder of what a view's runs say while they go.
#[must_use]
pub fn progress_folder(view: &ViewName) -> ObjectPath {
    ObjectPath::from(format!("runs/{view}/progress"))
}

/// The folder of one version's files.
#[must_use]
pub fn version_folder(view: &ViewName, version: i64, run_id: &Id) -> ObjectPath {
    ObjectPath::from(format!("views/{view}/v{version}-{run_id}"))
}

/// A text that is checked once and then safe as one segment of a path.
macro_rules! checked_name {
    ($(#[$doc:meta])* $name:ident, $expected:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = StoreError;

            fn try_from(text: String) -> Result<Self, StoreError> {
                let valid: fn(&str) -> bool = $valid;
                if valid(&text) { Ok(Self(text)) } else { Err(StoreError::Name { text, expected: $expected }) }
            }
        }

        impl FromStr for $name {
            type Err = StoreError;

            fn from_str(text: &str) -> Result<Self, StoreError> {
                text.to_owned().try_into()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

checked_name!(
    /// The name of a view: `^[a-z0-9][a-z0-9_-]{0,62}$`.
    ViewName,
    "a view's name: 1 to 63 of a-z, 0-9, _ and -, beginning with a letter or a digit",
    |text| {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = text.as_bytes();
        (1..=63).contains(&bytes.len()) && plain(bytes[0]) && bytes.iter().all(|&b| plain(b) || b == b'_' || b == b'-')
    }
);

impl ViewName {
    /// The view that is there before anybody declares one.
    #[must_use]
    pub fn user_stats() -> Self {
        Self("user_stats".to_owned())
    }

    /// Under which the lease of whoever rewrites the master dataset is. No view can have the name.
    #[must_use]
    pub fn master_dataset() -> Self {
        Self("_master".to_owned())
    }
}

checked_name!(
    /// A run id or a definition's fingerprint: `^[0-9A-Za-z_-]{1,128}$`.
    Id,
    "an id: 1 to 128 of 0-9, A-Z, a-z, _ and -",
    |text| (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
);

/// One sealed segment: the events `[start, end)` of one partition. Ordered by partition, then by offset.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentPath {
    /// The log partition.
    pub partition: u32,
    /// First offset inside.
    pub start: i64,
    /// First offset outside.
    pub end: i64,
    /// The UTC day that the seal was fixed on. It only groups files.
    pub ingest_date: NaiveDate,
}

impl SegmentPath {
    /// The object's path.
    #[must_use]
    pub fn path(&self) -> ObjectPath {
        self.named("parquet")
    }

    /// The path of the seal that stands beside it.
    #[must_use]
    pub fn seal_path(&self) -> ObjectPath {
        self.named("seal.json")
    }

    fn named(&self, kind: &str) -> ObjectPath {
        let Self { partition, start, end, ingest_date } = self;
        ObjectPath::from(format!("master/events/ingest_date={ingest_date}/p{partition:04}-{start:020}-{end:020}.{kind}"))
    }

    /// The offsets inside.
    #[must_use]
    pub fn range(&self) -> Range<i64> {
        self.start..self.end
    }

    /// Reads a path back.
    ///
    /// # Errors
    /// Any path that [`path`](Self::path) does not write, and an empty range.
    pub fn parse(path: &ObjectPath) -> Result<Self, StoreError> {
        let parsed = Self::read(path, ".parquet").filter(|p| p.path() == *path);
        parsed.ok_or_else(|| misnamed(path, "the path of a segment"))
    }

    /// Reads the path of a seal back.
    ///
    /// # Errors
    /// Any path that [`seal_path`](Self::seal_path) does not write, and an empty range.
    pub fn parse_seal(path: &ObjectPath) -> Result<Self, StoreError> {
        let parsed = Self::read(path, ".seal.json").filter(|p| p.seal_path() == *path);
        parsed.ok_or_else(|| misnamed(path, "the path of a segment's seal"))
    }

    fn read(path: &ObjectPath, kind: &str) -> Option<Self> {
        let (date, name) = path.as_ref().strip_prefix("master/events/ingest_date=")?.split_once('/')?;
        let mut numbers = name.strip_prefix('p')?.strip_suffix(kind)?.split('-');
        let read = Self {
            ingest_date: date.parse().ok()?,
            partition: numbers.next()?.parse().ok()?,
            start: numbers.next()?.parse().ok()?,
            end: numbers.next()?.parse().ok()?,
        };
        (read.start < read.end).then_some(read)
    }
}

/// The manifest of one version.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ManifestPath {
    /// The view.
    pub view: ViewName,
    /// The version, from 1.
    pub version: i64,
}

impl ManifestPath {
    /// The object's path.
    #[must_use]
    pub fn path(&self) -> ObjectPath {
        ObjectPath::from(format!("views/{}/manifests/{:020}.json", self.view, self.version))
    }

    /// Reads a path back.
    ///
    /// # Errors
    /// Any path that [`path`](Self::path) does not write.
    pub fn parse(path: &ObjectPath) -> Result<Self, StoreError> {
        let parsed = (|| {
            let (view, name) = path.as_ref().strip_prefix("views/")?.split_once("/manifests/")?;
            Some(Self { view: view.parse().ok()?, version: name.strip_suffix(".json")?.parse().ok()? })
        })();
        parsed.filter(|p| p.version > 0 && p.path() == *path).ok_or_else(|| misnamed(path, "the path of a manifest"))
    }
}

/// One file of a batch view.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ViewFilePath {
    /// The view.
    pub view: ViewName,
    /// The version that the run meant to publish.
    pub version: i64,
    /// The run that wrote the file.
    pub run_id: Id,
    /// Number of the file, the shard.
    pub part: u32,
}

impl ViewFilePath {
    /// The object's path.
    #[must_use]
    pub fn path(&self) -> ObjectPath {
        let folder = version_folder(&self.view, self.version, &self.run_id);
        ObjectPath::from(format!("{folder}/part-{:05}.parquet", self.part))
    }

    /// Reads a path back.
    ///
    /// # Errors
    /// Any path that [`path`](Self::path) does not write.
    pub fn parse(path: &ObjectPath) -> Result<Self, StoreError> {
        let parsed = (|| {
            let (view, rest) = path.as_ref().strip_prefix("views/")?.split_once("/v")?;
            let (folder, name) = rest.split_once('/')?;
            let (version, run_id) = folder.split_once('-')?;
            Some(Self {
                view: view.parse().ok()?,
                version: version.parse().ok()?,
                run_id: run_id.parse().ok()?,
                part: name.strip_prefix("part-")?.strip_suffix(".parquet")?.parse().ok()?,
            })
        })();
        parsed.filter(|p| p.version > 0 && p.path() == *path).ok_or_else(|| misnamed(path, "the path of a batch view's file"))
    }
}

/// One definition of a view, named by its fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DefinitionPath {
    /// The view.
    pub view: ViewName,
    /// The definition's fingerprint.
    pub fingerprint: Id,
}

impl DefinitionPath {
    /// The object's path.
    #[must_use]
    pub fn path(&self) -> ObjectPath {
        ObjectPath::from(format!("views/{}/definitions/{}.json", self.view, self.fingerprint))
    }

    /// Reads a path back.
    ///
    /// # Errors
    /// Any path that [`path`](Self::path) does not write.
    pub fn parse(path: &ObjectPath) -> Result<Self, StoreError> {
        let parsed = (|| {
            let (view, name) = path.as_ref().strip_prefix("views/")?.split_once("/definitions/")?;
            Some(Self { view: view.parse().ok()?, fingerprint: name.strip_suffix(".json")?.parse().ok()? })
        })();
        parsed.ok_or_else(|| misnamed(path, "the path of a definition"))
    }
}

/// The report of one batch run.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunPath {
    /// The view.
    pub view: ViewName,
    /// The run.
    pub run_id: Id,
}

impl RunPath {
    /// The object's path.
    #[must_use]
    pub fn path(&self) -> ObjectPath {
        ObjectPath::from(format!("runs/{}/{}.json", self.view, self.run_id))
    }

    /// Reads a path back.
    ///
    /// # Errors
    /// Any path that [`path`](Self::path) does not write.
    pub fn parse(path: &ObjectPath) -> Result<Self, StoreError> {
        let parsed = (|| {
            let (view, name) = path.as_ref().strip_prefix("runs/")?.split_once('/')?;
            Some(Self { view: view.parse().ok()?, run_id: name.strip_suffix(".json")?.parse().ok()? })
        })();
        parsed.ok_or_else(|| misnamed(path, "the path of a run's report"))
    }
}

/// How far a batch run is, while it goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProgressPath {
    /// The view.
    pub view: ViewName,
    /// The run.
    pub run_id: Id,
}

impl ProgressPath {
    /// The object's path.
    #[must_use]
    pub fn path(&self) -> ObjectPath {
        ObjectPath::from(format!("runs/{}/progress/{}.json", self.view, self.run_id))
    }

    /// Reads a path back.
    ///
    /// # Errors
    /// Any path that [`path`](Self::path) does not write.
    pub fn parse(path: &ObjectPath) -> Result<Self, StoreError> {
        let parsed = (|| {
            let (view, name) = path.as_ref().strip_prefix("runs/")?.split_once("/progress/")?;
            Some(Self { view: view.parse().ok()?, run_id: name.strip_suffix(".json")?.parse().ok()? })
        })();
        parsed.ok_or_else(|| misnamed(path, "the path of a run's progress"))
    }
}

fn misnamed(path: &ObjectPath, expected: &'static str) -> StoreError {
    StoreError::Name { text: path.to_string(), expected }
}
