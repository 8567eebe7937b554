//! What became of an erasure, for whoever has to show it.
//!
//! # Layout
//! `receipts/p<partition>-<offset>.json`, beside nothing: a run that carries an erasure out writes it again. No decision rests on it, and
//! one that is lost is made again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Erasure, FORMATS};
use crate::paths::ErasurePath;
use crate::store::json;
use crate::store::{Store, StoreError};

/// The receipt of one erasure.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    format_version: u32,
    /// Who.
    pub user_id: String,
    /// The log partition of the user.
    pub partition: u32,
    /// Offset of the record.
    pub offset: i64,
    /// When it was appended, RFC 3339 in UTC.
    pub erase_time: String,
    /// Of each view the first version that has nothing any more of what the erasure hides.
    pub carried_out: BTreeMap<String, i64>,
}

impl Receipt {
    /// Of an erasure that no version has carried out; `erase_time` in RFC 3339.
    #[must_use]
    pub fn new(erasure: &Erasure, erase_time: String) -> Self {
        let Erasure { partition, offset, user_id, .. } = erasure.clone();
        Self { format_version: super::FORMAT_VERSION, user_id, partition, offset, erase_time, carried_out: BTreeMap::new() }
    }

    /// Reads the receipt of an erasure; `None` if there is none.
    ///
    /// # Errors
    /// What the store says, and a damaged receipt, by name.
    pub async fn read(store: &Store, erasure: &Erasure) -> Result<Option<Self>, StoreError> {
        let path = erasure.path().receipt();
        match store.get(&path).await {
            Ok(bytes) => json::decode(&path, &bytes, FORMATS).map(Some),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Writes it, durably, in the place of what is there.
    ///
    /// # Errors
    /// What the store says.
    pub async fn write(&self, store: &Store) -> Result<(), StoreError> {
        store.put_durable(&self.path().receipt(), json::encode(self).into()).await
    }

    /// Where the erasure is kept.
    #[must_use]
    pub fn path(&self) -> ErasurePath {
        ErasurePath { partition: self.partition, offset: self.offset }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that the format never changes, and that a receipt comes back with what was added to it.
    #[tokio::test]
    async fn frozen_and_kept() {
        let store = Store::open("memory://").unwrap();
        let erasure = Erasure::new(2, 7, "u1".to_owned(), 5);
        assert_eq!(Receipt::read(&store, &erasure).await.unwrap(), None);
        let mut receipt = Receipt::new(&erasure, "2026-11-22T08:00:00Z".to_owned());
        receipt.write(&store).await.unwrap();
        receipt.carried_out.insert("user_stats".to_owned(), 3);
        receipt.write(&store).await.unwrap();
        assert_eq!(Receipt::read(&store, &erasure).await.unwrap(), Some(receipt.clone()));
        let expected = r#"{
  "format_version": 1,
  "user_id": "u1",
  "partition": 2,
  "offset": 7,
  "erase_time": "2026-11-22T08:00:00Z",
  "carried_out": {
    "user_stats": 3
  },
  "checksum": ""#;
        assert!(String::from_utf8(json::encode(&receipt)).unwrap().starts_with(expected));
        assert_eq!(receipt.path().receipt().as_ref(), "receipts/p0002-00000000000000000007.json");
    }
}
