//! What stands in the place of something else: files of the master dataset that were rewritten, and versions that have expired.

use chrono::NaiveDate;
use object_store::path::Path as ObjectPath;

use super::{Id, SegmentPath, ViewName, misnamed};
use crate::store::StoreError;

/// The folder of what is noted of a view's expired versions.
#[must_use]
pub fn expired_folder(view: &ViewName) -> ObjectPath {
    ObjectPath::from(format!("views/{view}/expired"))
}

/// What is noted of one expired version.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExpiredPath {
    /// The view.
    pub view: ViewName,
    /// The version, from 1.
    pub version: i64,
}

impl ExpiredPath {
    /// The object's path.
    #[must_use]
    pub fn path(&self) -> ObjectPath {
        ObjectPath::from(format!("views/{}/expired/{:020}.json", self.view, self.version))
    }

    /// Reads a path back.
    ///
    /// # Errors
    /// Any path that [`path`](Self::path) does not write.
    pub fn parse(path: &ObjectPath) -> Result<Self, StoreError> {
        let parsed = (|| {
            let (view, name) = path.as_ref().strip_prefix("views/")?.split_once("/expired/")?;
            Some(Self { view: view.parse().ok()?, version: name.strip_suffix(".json")?.parse().ok()? })
        })();
        parsed.filter(|p| p.version > 0 && p.path() == *path).ok_or_else(|| misnamed(path, "the path of an expired version"))
    }
}

/// A file in the place of adjacent segments.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RewrittenPath {
    /// Partition and offsets of all of them, and the day of the first.
    pub segment: SegmentPath,
    /// The layout that it was written for. Only that one and later ones can name it.
    pub layout: i64,
    /// Who wrote it.
    pub run_id: Id,
}

impl RewrittenPath {
    /// The object's path.
    #[must_use]
    pub fn path(&self) -> ObjectPath {
        let SegmentPath { partition, start, end, ingest_date } = self.segment;
        let (layout, run_id) = (self.layout, &self.run_id);
        ObjectPath::from(format!(
            "master/events/ingest_date={ingest_date}/p{partition:04}-{start:020}-{end:020}-{layout:020}-{run_id}.parquet"
        ))
    }

    /// Reads a path back.
    ///
    /// # Errors
    /// Any path that [`path`](Self::path) does not write, and an empty range.
    pub fn parse(path: &ObjectPath) -> Result<Self, StoreError> {
        let parsed = (|| {
            let (date, name) = path.as_ref().strip_prefix("master/events/ingest_date=")?.split_once('/')?;
            let ingest_date: NaiveDate = date.parse().ok()?;
            let mut parts = name.strip_prefix('p')?.strip_suffix(".parquet")?.splitn(5, '-');
            let mut number = || parts.next()?.parse::<i64>().ok();
            let (partition, start, end, layout) = (u32::try_from(number()?).ok()?, number()?, number()?, number()?);
            let segment = SegmentPath { partition, start, end, ingest_date };
            let read = Self { segment, layout, run_id: parts.next()?.parse().ok()? };
            (start < end && layout > 0 && read.path() == *path).then_some(read)
        })();
        parsed.ok_or_else(|| misnamed(path, "the path of a rewritten segment"))
    }
}

/// A file in the place of what an import has in a partition.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RewrittenImportPath {
    /// Number of the import, from 1.
    pub import: i64,
    /// The log partition.
    pub partition: u32,
    /// The layout that it was written for.
    pub layout: i64,
    /// Who wrote it.
    pub run_id: Id,
}

impl RewrittenImportPath {
    /// The object's path.
    #[must_use]
    pub fn path(&self) -> ObjectPath {
        let Self { import, partition, layout, run_id } = self;
        ObjectPath::from(format!("master/imports/{import:020}/p{partition:04}-{layout:020}-{run_id}.parquet"))
    }

    /// Reads a path back.
    ///
    /// # Errors
    /// Any path that [`path`](Self::path) does not write.
    pub fn parse(path: &ObjectPath) -> Result<Self, StoreError> {
        let parsed = (|| {
            let (import, name) = path.as_ref().strip_prefix("master/imports/")?.split_once('/')?;
            let mut parts = name.strip_prefix('p')?.strip_suffix(".parquet")?.splitn(3, '-');
            let (partition, layout) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            let read = Self { import: import.parse().ok()?, partition, layout, run_id: parts.next()?.parse().ok()? };
            (read.import > 0 && read.layout > 0 && read.path() == *path).then_some(read)
        })();
        parsed.ok_or_else(|| misnamed(path, "the path of a rewritten part of an import"))
    }
}
