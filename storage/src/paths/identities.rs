//! Paths of the index of identities.

use std::ops::Range;

use object_store::path::Path as ObjectPath;

use super::{Id, misnamed};
use crate::store::StoreError;

/// The folder of the index of identities.
#[must_use]
pub fn identities_folder() -> ObjectPath {
    ObjectPath::from("master/identities")
}

/// The identities of the events `[start, end)` of one partition. Ordered by partition, then by offset.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IdentitiesPath {
    /// The log partition.
    pub partition: u32,
    /// First offset inside.
    pub start: i64,
    /// First offset outside.
    pub end: i64,
}

impl IdentitiesPath {
    /// The path of the file.
    #[must_use]
    pub fn path(&self) -> ObjectPath {
        self.named("parquet")
    }

    /// The path of the object that says what the file is.
    #[must_use]
    pub fn seal_path(&self) -> ObjectPath {
        self.named("seal.json")
    }

    fn named(&self, kind: &str) -> ObjectPath {
        let Self { partition, start, end } = self;
        ObjectPath::from(format!("master/identities/p{partition:04}-{start:020}-{end:020}.{kind}"))
    }

    /// The offsets inside.
    #[must_use]
    pub fn range(&self) -> Range<i64> {
        self.start..self.end
    }

    /// Reads the path of a seal back.
    ///
    /// # Errors
    /// Any path that [`seal_path`](Self::seal_path) does not write, and an empty range.
    pub fn parse_seal(path: &ObjectPath) -> Result<Self, StoreError> {
        let parsed = (|| {
            let mut numbers = path.as_ref().strip_prefix("master/identities/p")?.strip_suffix(".seal.json")?.split('-');
            let read =
                Self { partition: numbers.next()?.parse().ok()?, start: numbers.next()?.parse().ok()?, end: numbers.next()?.parse().ok()? };
            (read.start < read.end && read.seal_path() == *path).then_some(read)
        })();
        parsed.ok_or_else(|| misnamed(path, "the path of a seal of identities"))
    }
}

/// The identities of some imports in one partition.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImportIdentitiesPath {
    /// The log partition.
    pub partition: u32,
    /// Names the set of imports.
    pub imports: Id,
}

impl ImportIdentitiesPath {
    /// The path for the imports of these numbers.
    #[must_use]
    pub fn of(partition: u32, imports: &[i64]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for import in imports {
            hasher.update(&import.to_le_bytes());
        }
        let imports = hasher.finalize().to_hex()[..32].parse().expect("digits are an id");
        Self { partition, imports }
    }

    /// The path of the file.
    #[must_use]
    pub fn path(&self) -> ObjectPath {
        self.named("parquet")
    }

    /// The path of the object that says what the file is.
    #[must_use]
    pub fn seal_path(&self) -> ObjectPath {
        self.named("seal.json")
    }

    fn named(&self, kind: &str) -> ObjectPath {
        ObjectPath::from(format!("master/identities/p{:04}-imports-{}.{kind}", self.partition, self.imports))
    }

    /// Reads the path of a seal back.
    ///
    /// # Errors
    /// Any path that [`seal_path`](Self::seal_path) does not write.
    pub fn parse_seal(path: &ObjectPath) -> Result<Self, StoreError> {
        let parsed = (|| {
            let name = path.as_ref().strip_prefix("master/identities/p")?.strip_suffix(".seal.json")?;
            let (partition, imports) = name.split_once("-imports-")?;
            let read = Self { partition: partition.parse().ok()?, imports: imports.parse().ok()? };
            (read.seal_path() == *path).then_some(read)
        })();
        parsed.ok_or_else(|| misnamed(path, "the path of a seal of imported identities"))
    }
}
