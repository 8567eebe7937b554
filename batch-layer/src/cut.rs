//! Where the batch view ends: the boundary, in log offsets, and whether a run has anything to do.

use std::sync::Arc;

use storage::imports::ImportMeta;
use storage::manifest::Manifest;
use storage::master::{self, SegmentMeta};
use views::Definition;

use crate::error::RunError;
use crate::options::RunOptions;

/// The end of the range `[0, boundary)` that a run recomputes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// The log whose offsets are meant; empty if no speed layer ever named it.
    pub(crate) log_id: String,
    /// Exclusive, for each partition by index.
    pub(crate) boundary: Vec<i64>,
}

impl Cut {
    /// Without a speed layer: in each partition the end of the unbroken chain of segments from offset 0.
    pub(crate) fn archived(
        options: &RunOptions,
        segments: &[SegmentMeta],
        parent: Option<&Manifest>,
        owner: Option<String>,
    ) -> Result<Self, RunError> {
        let partitions = parent.map_or(options.partitions, |p| p.boundary.len() as u32);
        if let Some(beyond) = segments.iter().map(|s| s.path.partition).find(|found| *found >= partitions) {
            return Err(RunError::Partitions { expected: partitions, found: beyond });
        }
        let log_id = owner.or_else(|| parent.map(|p| p.log_id.clone())).unwrap_or_default();
        Ok(Self { log_id, boundary: (0..partitions).map(|p| master::archived_edge(segments, p)).collect() })
    }

    /// Refuses a cut that cannot follow the version before.
    pub(crate) fn check_follows(&self, parent: &Manifest) -> Result<(), RunError> {
        let version = parent.version;
        let both_named = !self.log_id.is_empty() && !parent.log_id.is_empty();
        if both_named && self.log_id != parent.log_id {
            return Err(RunError::OtherLog { version, expected: parent.log_id.clone(), found: self.log_id.clone() });
        }
        let same_partitions = self.boundary.len() == parent.boundary.len();
        let behind = self.boundary.iter().zip(&parent.boundary).any(|(new, old)| new < old);
        if behind || !same_partitions {
            return Err(RunError::BoundaryBack { version, expected: parent.boundary.clone(), found: self.boundary.clone() });
        }
        Ok(())
    }

    /// Why there is nothing to do, if there is nothing.
    pub(crate) fn nothing_to_do(&self, parent: Option<&Manifest>, definition: &Definition, imports: &[Arc<ImportMeta>]) -> Option<String> {
        let has_imports = |p: &Manifest| imports.iter().map(|import| import.import).eq(p.imports.iter().copied());
        match parent {
            Some(p)
                if has_imports(p)
                    && p.boundary == self.boundary
                    && p.log_id == self.log_id
                    && p.fingerprint == definition.fingerprint() =>
            {
                Some(format!("version {} covers everything, with the same definition", p.version))
            }
            None if self.events() == 0 && imports.is_empty() => Some("there are no archived events".to_owned()),
            _ => None,
        }
    }

    /// Rows of the range, duplicates included.
    pub(crate) fn events(&self) -> i64 {
        self.boundary.iter().sum()
    }

    /// The segments of each partition, by index.
    pub(crate) fn chains(&self, segments: &[SegmentMeta]) -> Result<Vec<Vec<SegmentMeta>>, RunError> {
        self.chains_from(&vec![0; self.boundary.len()], segments)
    }

    /// The segments of each partition from an offset on that is a boundary too.
    pub(crate) fn chains_from(&self, start: &[i64], segments: &[SegmentMeta]) -> Result<Vec<Vec<SegmentMeta>>, RunError> {
        let chain = |(partition, (start, end)): (u32, (&i64, &i64))| Ok(master::chain(segments, partition, *start..*end)?);
        let chains = (0..).zip(start.iter().zip(&self.boundary)).map(chain).collect::<Result<Vec<_>, RunError>>()?;
        let foreign = |segment: &&SegmentMeta| !self.log_id.is_empty() && segment.seal.log_id != self.log_id;
        match chains.iter().flatten().find(foreign) {
            None => Ok(chains),
            Some(segment) => Err(RunError::ForeignSegment {
                path: segment.file().to_string(),
                expected: self.log_id.clone(),
                found: segment.seal.log_id.clone(),
            }),
        }
    }
}
