//! Erasures: each under the place of its record in the log.

use object_store::path::Path as ObjectPath;

use super::misnamed;
use crate::store::StoreError;

/// The folder of all erasures.
#[must_use]
pub fn erasures_folder() -> ObjectPath {
    ObjectPath::from("master/erasures")
}

/// The erasure whose record has this place in the log. Ordered by partition, then by offset.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ErasurePath {
    /// The log partition.
    pub partition: u32,
    /// Offset of the record.
    pub offset: i64,
}

impl ErasurePath {
    /// The object's path.
    #[must_use]
    pub fn path(&self) -> ObjectPath {
        let Self { partition, offset } = self;
        ObjectPath::from(format!("master/erasures/p{partition:04}-{offset:020}.json"))
    }

    /// The path of its receipt.
    #[must_use]
    pub fn receipt(&self) -> ObjectPath {
        let Self { partition, offset } = self;
        ObjectPath::from(format!("receipts/p{partition:04}-{offset:020}.json"))
    }

    /// Reads a path back.
    ///
    /// # Errors
    /// Any path that [`path`](Self::path) does not write.
    pub fn parse(path: &ObjectPath) -> Result<Self, StoreError> {
        let parsed = (|| {
            let (partition, offset) = path.as_ref().strip_prefix("master/erasures/p")?.strip_suffix(".json")?.split_once('-')?;
            let read = Self { partition: partition.parse().ok()?, offset: offset.parse().ok()? };
            (read.path() == *path).then_some(read)
        })();
        parsed.ok_or_else(|| misnamed(path, "the path of an erasure"))
    }
}
