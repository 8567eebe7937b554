//! Imports: each a folder of its own, numbered from 1, and its refused rows beside the other dead letters.

use object_store::path::Path as ObjectPath;

use super::misnamed;
use crate::store::StoreError;

/// The folder of all imports.
#[must_use]
pub fn imports_folder() -> ObjectPath {
    ObjectPath::from("master/imports")
}

/// One object of an import.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImportPath {
    /// Number of the import, from 1.
    pub import: i64,
    /// Which of its objects.
    pub object: ImportObject,
}

/// What an import is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ImportObject {
    /// Says which content has the number.
    Claim,
    /// The events of a partition.
    File {
        /// The log partition.
        partition: u32,
    },
    /// The rows that were refused.
    DeadLetters,
    /// Makes the import exist.
    Commit,
}

impl ImportPath {
    /// The object's path.
    #[must_use]
    pub fn path(&self) -> ObjectPath {
        let import = self.import;
        ObjectPath::from(match self.object {
            ImportObject::Claim => format!("master/imports/{import:020}/claim.json"),
            ImportObject::File { partition } => format!("master/imports/{import:020}/p{partition:04}.parquet"),
            ImportObject::DeadLetters => format!("dead-letter/import-{import:020}.jsonl"),
            ImportObject::Commit => format!("master/imports/{import:020}/import.json"),
        })
    }

    /// Reads a path back.
    ///
    /// # Errors
    /// Any path that [`path`](Self::path) does not write.
    pub fn parse(path: &ObjectPath) -> Result<Self, StoreError> {
        let parsed = Self::read(path.as_ref()).filter(|p| p.import > 0 && p.path() == *path);
        parsed.ok_or_else(|| misnamed(path, "the path of an import"))
    }

    fn read(path: &str) -> Option<Self> {
        if let Some(name) = path.strip_prefix("dead-letter/import-") {
            return Some(Self { import: name.strip_suffix(".jsonl")?.parse().ok()?, object: ImportObject::DeadLetters });
        }
        let (import, name) = path.strip_prefix("master/imports/")?.split_once('/')?;
        let object = match name {
            "claim.json" => ImportObject::Claim,
            "import.json" => ImportObject::Commit,
            file => ImportObject::File { partition: file.strip_prefix('p')?.strip_suffix(".parquet")?.parse().ok()? },
        };
        Some(Self { import: import.parse().ok()?, object })
    }
}
