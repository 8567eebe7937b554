//! Objects in a row: each is made once, under the number after the newest.

use object_store::path::Path as ObjectPath;

use super::{ViewName, misnamed};
use crate::store::StoreError;

/// The folder of the epochs of speed layers.
#[must_use]
pub fn epochs_folder() -> ObjectPath {
    ObjectPath::from("master/epochs")
}

/// The folder of the layouts.
#[must_use]
pub fn layouts_folder() -> ObjectPath {
    ObjectPath::from("master/layout")
}

/// The folder of a view's lease.
#[must_use]
pub fn lease_folder(view: &ViewName) -> ObjectPath {
    ObjectPath::from(format!("runs/{view}/lease"))
}

/// The folder of the rows that imports refused.
#[must_use]
pub fn dead_letters_folder() -> ObjectPath {
    ObjectPath::from("dead-letter")
}

/// One start of a speed layer over the master dataset.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EpochPath {
    /// Its number, from 1.
    pub epoch: i64,
}

impl EpochPath {
    /// The object's path.
    #[must_use]
    pub fn path(&self) -> ObjectPath {
        ObjectPath::from(format!("master/epochs/{:020}.json", self.epoch))
    }

    /// Reads a path back.
    ///
    /// # Errors
    /// Any path that [`path`](Self::path) does not write.
    pub fn parse(path: &ObjectPath) -> Result<Self, StoreError> {
        let parsed = path.as_ref().strip_prefix("master/epochs/").and_then(number).map(|epoch| Self { epoch });
        parsed.filter(|p| p.epoch > 0 && p.path() == *path).ok_or_else(|| misnamed(path, "the path of an epoch"))
    }
}

/// One layout of the master dataset.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LayoutPath {
    /// Its number, from 1.
    pub number: i64,
}

impl LayoutPath {
    /// The object's path.
    #[must_use]
    pub fn path(&self) -> ObjectPath {
        ObjectPath::from(format!("master/layout/{:020}.json", self.number))
    }

    /// Reads a path back.
    ///
    /// # Errors
    /// Any path that [`path`](Self::path) does not write.
    pub fn parse(path: &ObjectPath) -> Result<Self, StoreError> {
        let parsed = path.as_ref().strip_prefix("master/layout/").and_then(number).map(|number| Self { number });
        parsed.filter(|p| p.number > 0 && p.path() == *path).ok_or_else(|| misnamed(path, "the path of a layout"))
    }
}

/// One object of a view's lease: taking, renewing and releasing it each make the next.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeasePath {
    /// The view.
    pub view: ViewName,
    /// Its number, from 1.
    pub number: i64,
}

impl LeasePath {
    /// The object's path.
    #[must_use]
    pub fn path(&self) -> ObjectPath {
        ObjectPath::from(format!("runs/{}/lease/{:020}.json", self.view, self.number))
    }

    /// Reads a path back.
    ///
    /// # Errors
    /// Any path that [`path`](Self::path) does not write.
    pub fn parse(path: &ObjectPath) -> Result<Self, StoreError> {
        let parsed = (|| {
            let (view, name) = path.as_ref().strip_prefix("runs/")?.split_once("/lease/")?;
            let master = ViewName::master_dataset();
            let view = if view == master.as_str() { master } else { view.parse().ok()? };
            Some(Self { view, number: number(name)? })
        })();
        parsed.filter(|p| p.number > 0 && p.path() == *path).ok_or_else(|| misnamed(path, "the path of a lease"))
    }
}

fn number(name: &str) -> Option<i64> {
    name.strip_suffix(".json")?.parse().ok()
}
