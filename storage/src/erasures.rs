//! Erased users: whose events below which offset do not exist any more.
//!
//! An erasure is a record of the log. Everything of its user that lies below it is hidden: the events of the log, and every
//! import, now and later, for those lie below zero (decision 0012). What the user does afterwards counts.
//!
//! # Layout
//! `master/erasures/p<partition>-<offset>.json`, put if absent once the record is durable in the log. It never changes.

/// How far they are carried out.
mod receipt;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::paths::{ErasurePath, erasures_folder};
use crate::store::json::{self, Formats};
use crate::store::{PutOutcome, Store, StoreError};

pub use receipt::Receipt;

/// The format that this program writes, and the newest it reads.
const FORMAT_VERSION: u32 = 1;
const FORMATS: Formats = Formats { known: FORMAT_VERSION, checked_from: 1 };
/// Erasures that are read at a time.
const READS: usize = 16;

/// One user, gone.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Erasure {
    format_version: u32,
    /// The log partition of the user.
    pub partition: u32,
    /// Offset of the record: events of the user with a lower one are hidden.
    pub offset: i64,
    /// Who.
    pub user_id: String,
    /// When the record was appended, microseconds since 1970.
    pub append_time_us: i64,
}

impl Erasure {
    /// As its record in the log says.
    #[must_use]
    pub fn new(partition: u32, offset: i64, user_id: String, append_time_us: i64) -> Self {
        Self { format_version: FORMAT_VERSION, partition, offset, user_id, append_time_us }
    }

    fn path(&self) -> ErasurePath {
        ErasurePath { partition: self.partition, offset: self.offset }
    }
}

/// Writes an erasure, durably, unless it is there.
///
/// # Errors
/// What the store says; [`StoreError::Conflict`] if something else is there.
pub async fn put(store: &Store, erasure: &Erasure) -> Result<(), StoreError> {
    let (path, bytes) = (erasure.path().path(), Bytes::from(json::encode(erasure)));
    match store.put_if_absent(&path, bytes.clone()).await? {
        PutOutcome::Created => Ok(()),
        PutOutcome::Exists if store.get(&path).await? == bytes => Ok(()),
        PutOutcome::Exists => Err(StoreError::Conflict { path: path.to_string() }),
    }
}

/// A set of erasures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Erasures {
    /// In order of partition and offset.
    all: Vec<Erasure>,
    /// Of each user the offset of the newest.
    newest: BTreeMap<String, i64>,
}

impl Erasures {
    /// All that are in the store.
    ///
    /// # Errors
    /// What the store says, and a damaged erasure, by name.
    pub async fn list(store: &Store) -> Result<Self, StoreError> {
        Self::default().with_newer(store).await
    }

    /// These, and those that are in the store by now. One that is known is not read again, for it never changes.
    ///
    /// # Errors
    /// As [`Self::list`].
    pub async fn with_newer(&self, store: &Store) -> Result<Self, StoreError> {
        let listed = store.list(&erasures_folder()).await?;
        let known: BTreeSet<_> = self.all.iter().map(Erasure::path).collect();
        let paths = listed.iter().filter_map(|object| ErasurePath::parse(&object.location).ok());
        let paths: Vec<_> = paths.filter(|path| !known.contains(path)).collect();
        let read = |path: ErasurePath| async move {
            let place = path.path();
            let found: Erasure = json::decode(&place, &store.get(&place).await?, FORMATS)?;
            match found.path() == path {
                true => Ok(found),
                false => Err(StoreError::corrupt(&place, format!("it says it is {}", found.path().path()))),
            }
        };
        let newer: Vec<_> = stream::iter(paths).map(read).buffered(READS).try_collect().await?;
        Ok(self.all.iter().cloned().chain(newer).collect())
    }

    /// Those whose records lie in `range(partition)`.
    #[must_use]
    pub fn within(&self, range: impl Fn(u32) -> Range<i64>) -> Self {
        self.all.iter().filter(|erasure| range(erasure.partition).contains(&erasure.offset)).cloned().collect()
    }

    /// Those whose records lie below a boundary: the ones that a version with this boundary has carried out.
    #[must_use]
    pub fn below(&self, boundary: &[i64]) -> Self {
        self.within(|partition| 0..boundary.get(partition as usize).copied().unwrap_or(0))
    }

    /// Those that a version with this boundary knows nothing of: it may hold what they hide.
    #[must_use]
    pub fn from(&self, boundary: &[i64]) -> Self {
        self.within(|partition| boundary.get(partition as usize).copied().unwrap_or(0)..i64::MAX)
    }

    /// Whether the user's event at `offset` is gone. Imported events have offsets below zero.
    #[must_use]
    pub fn hides(&self, user_id: &str, offset: i64) -> bool {
        self.newest.get(user_id).is_some_and(|erased| offset < *erased)
    }

    /// The offset of the user's newest erasure.
    #[must_use]
    pub fn of_user(&self, user_id: &str) -> Option<i64> {
        self.newest.get(user_id).copied()
    }

    /// In order of partition and offset.
    pub fn iter(&self) -> impl Iterator<Item = &Erasure> {
        self.all.iter()
    }

    /// Whether a row of the user that was refused at that time, microseconds since 1970, is gone: it has no offset to go by.
    #[must_use]
    pub fn hides_refused(&self, user_id: &str, received_time_us: i64) -> bool {
        // A few erasures, and fewer of a user.
        self.newest.contains_key(user_id)
            && self.all.iter().any(|erasure| erasure.user_id == user_id && received_time_us <= erasure.append_time_us)
    }

    /// Nobody is erased.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

impl FromIterator<Erasure> for Erasures {
    fn from_iter<I: IntoIterator<Item = Erasure>>(erasures: I) -> Self {
        let mut all: Vec<Erasure> = erasures.into_iter().collect();
        all.sort_by_key(Erasure::path);
        // A user's records are in one partition, so the last one is the newest.
        let newest = all.iter().map(|erasure| (erasure.user_id.clone(), erasure.offset)).collect();
        Self { all, newest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn erasure(partition: u32, offset: i64, user: &str) -> Erasure {
        Erasure::new(partition, offset, user.to_owned(), 1_700_000_000_000_000)
    }

    /// Proves that the format never changes.
    #[test]
    fn frozen_bytes() {
        let expected = r#"{
  "format_version": 1,
  "partition": 2,
  "offset": 7,
  "user_id": "u1",
  "append_time_us": 1700000000000000,
  "checksum": ""#;
        assert!(String::from_utf8(json::encode(&erasure(2, 7, "u1"))).unwrap().starts_with(expected));
    }

    /// Proves that a user's earlier events and imports are hidden, later ones and other users' are not.
    #[tokio::test]
    async fn hides() {
        let store = Store::open("memory://").unwrap();
        for erasure in [erasure(0, 9, "a"), erasure(0, 4, "a"), erasure(1, 2, "b"), erasure(0, 9, "a")] {
            put(&store, &erasure).await.unwrap();
        }
        let erasures = Erasures::list(&store).await.unwrap();
        assert_eq!(erasures.iter().map(|erasure| erasure.offset).collect::<Vec<_>>(), [4, 9, 2]);
        for (user, offset, hidden) in
            [("a", 8, true), ("a", 9, false), ("a", i64::MIN / 2, true), ("b", 1, true), ("b", 2, false), ("c", -1, false)]
        {
            assert_eq!(erasures.hides(user, offset), hidden, "{user} {offset}");
        }
        let below = erasures.below(&[9, 3]);
        assert_eq!((below.of_user("a"), below.of_user("b")), (Some(4), Some(2)));
        put(&store, &erasure(1, 7, "c")).await.unwrap();
        let newer = erasures.with_newer(&store).await.unwrap();
        assert_eq!((newer.of_user("c"), newer.of_user("a"), newer.iter().count()), (Some(7), Some(9), 4));
        let from = erasures.from(&[9, 3]);
        assert_eq!((from.of_user("a"), from.of_user("b")), (Some(9), None));
    }

    /// Proves that one place has one erasure, and that a damaged one is named.
    #[tokio::test]
    async fn one_a_place() {
        let store = Store::open("memory://").unwrap();
        put(&store, &erasure(0, 9, "a")).await.unwrap();
        assert!(matches!(put(&store, &erasure(0, 9, "b")).await, Err(StoreError::Conflict { .. })));
        let path = erasure(1, 9, "a").path().path();
        store.put_durable(&path, json::encode(&erasure(0, 9, "a")).into()).await.unwrap();
        let said = Erasures::list(&store).await.unwrap_err().to_string();
        assert!(said.contains("p0001-") && said.contains("it says it is"), "{said}");
    }
}
