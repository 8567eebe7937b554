//! The files of the master dataset: segments of the log, and what imports have of each partition.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use futures::stream::BoxStream;
use storage::erasures::Erasures;
use storage::imports::{self, ImportMeta};
use storage::master::{self, SegmentMeta};
use storage::store::{Store, StoreError};

use crate::error::RunError;

/// What is in the master dataset.
#[derive(Clone, Default)]
pub(crate) struct Master {
    /// The archived segments, sorted.
    pub(crate) segments: Arc<[SegmentMeta]>,
    /// The committed imports, sorted.
    pub(crate) imports: Arc<[Arc<ImportMeta>]>,
    /// Those whose records lie below the boundary: what they hide does not count.
    pub(crate) erasures: Arc<Erasures>,
}

impl Master {
    /// `segments`, which were listed before, the imports that there are now, and the erasures below `boundary`.
    ///
    /// # Errors
    /// What the store says, and an import whose users are divided otherwise.
    pub(crate) async fn around(segments: Vec<SegmentMeta>, store: &Store, boundary: &[i64]) -> Result<Self, RunError> {
        let partitions = boundary.len() as u32;
        let imports: Arc<[_]> = imports::list(store).await?.into_iter().map(Arc::new).collect();
        // All of them: an erasure is in the store before the segment that it lies in.
        let erasures = Arc::new(Erasures::list(store).await?.below(boundary));
        match imports.iter().find(|import| import.partitions != partitions) {
            None => Ok(Self { segments: segments.into(), imports, erasures }),
            Some(other) => Err(RunError::ImportPartitions { import: other.import, expected: partitions, found: other.partitions }),
        }
    }

    /// Events that the log had in a segment: what it has of offsets, less erasures.
    pub(crate) fn records(&self, segment: &SegmentMeta) -> i64 {
        let range = segment.range();
        let within = |partition| if partition == segment.path.partition { range.clone() } else { 0..0 };
        range.end - range.start - self.erasures.within(within).iter().count() as i64
    }

    /// The same with the imports of these numbers alone.
    ///
    /// # Errors
    /// One of them is not there.
    pub(crate) fn only(self, numbers: &[i64]) -> Result<Self, RunError> {
        Ok(Self { imports: self.imports_of(numbers)?.into(), ..self })
    }

    /// The imports of these numbers.
    ///
    /// # Errors
    /// One of them is not there.
    pub(crate) fn imports_of(&self, numbers: &[i64]) -> Result<Vec<Arc<ImportMeta>>, RunError> {
        let find = |number: &i64| self.imports.iter().find(|import| import.import == *number).cloned();
        numbers.iter().map(|number| find(number).ok_or(RunError::ImportGone { import: *number })).collect()
    }
}

/// One file of events.
#[derive(Clone, Debug)]
pub(crate) enum Piece {
    /// What came through the log.
    Segment(SegmentMeta),
    /// What did not, in the partition of that number, which has rows.
    Import(Arc<ImportMeta>, u32),
}

impl Piece {
    /// The offsets of its events.
    pub(crate) fn range(&self) -> Range<i64> {
        match self {
            Self::Segment(segment) => segment.range(),
            Self::Import(import, partition) => import.offsets(*partition),
        }
    }

    /// How many there are: fewer than offsets where something was erased, for erasures are no events.
    pub(crate) fn rows(&self) -> i64 {
        match self {
            Self::Segment(segment) => segment.rows(),
            Self::Import(import, partition) => import.rows(*partition),
        }
    }

    /// Length of the file.
    pub(crate) fn bytes(&self) -> i64 {
        match self {
            Self::Segment(segment) => segment.seal.bytes,
            Self::Import(import, partition) => import.bytes(*partition),
        }
    }

    /// The file, for people.
    pub(crate) fn path(&self) -> String {
        match self {
            Self::Segment(segment) => segment.file().to_string(),
            Self::Import(import, partition) => import.file_path(*partition).to_string(),
        }
    }

    /// Compares every byte with what was written.
    pub(crate) async fn verify(&self, store: &Store) -> Result<(), StoreError> {
        match self {
            Self::Segment(segment) => master::verify_segment(store, segment).await,
            Self::Import(import, partition) => imports::verify_partition(store, import, *partition).await,
        }
    }

    /// Its rows in order, in the named columns.
    pub(crate) async fn read(
        &self,
        store: &Store,
        columns: &[String],
    ) -> Result<BoxStream<'static, Result<RecordBatch, StoreError>>, StoreError> {
        match self {
            Self::Segment(segment) => master::read_segment(store, segment, Some(columns)).await,
            Self::Import(import, partition) => imports::read_partition(store, import, *partition, Some(columns)).await,
        }
    }
}

/// The parts that imports have in a partition, in order of their offsets.
pub(crate) fn of_imports(imports: &[Arc<ImportMeta>], partition: u32) -> impl Iterator<Item = Piece> {
    let with_rows = imports.iter().filter(move |import| import.file(partition).is_some());
    with_rows.map(move |import| Piece::Import(Arc::clone(import), partition))
}
