//! Epochs: which speed layer may add to the master dataset, the one that started last.
//!
//! A speed layer that starts takes the next number, put if absent. One that finds a number after its own has been followed, say
//! by a copy of itself on another machine, and archives nothing more.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::paths::{EpochPath, epochs_folder};
use crate::store::json::{self, Formats};
use crate::store::{Claim, Store, StoreError};

/// The format that this program writes, and the newest it reads.
const FORMAT_VERSION: u32 = 1;
const FORMATS: Formats = Formats { known: FORMAT_VERSION, checked_from: 1 };

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Epoch {
    format_version: u32,
    epoch: i64,
    log_id: String,
    instance: String,
}

/// Takes the next epoch for `instance`, which names one start of one speed layer. When this returns, every earlier instance is
/// fenced: it finds our number after its own.
///
/// # Errors
/// What the store says; [`StoreError::UnknownOutcome`] if nobody can tell whether a number was taken. It is harmless then to
/// take another.
pub async fn claim_epoch(store: &Store, log_id: &str, instance: &str) -> Result<i64, StoreError> {
    let mut epoch = newest_epoch(store).await?.map_or(1, |(newest, _)| newest + 1);
    loop {
        let claim = Epoch { format_version: FORMAT_VERSION, epoch, log_id: log_id.to_owned(), instance: instance.to_owned() };
        match store.claim(&EpochPath { epoch }.path(), Bytes::from(json::encode(&claim))).await? {
            Claim::Ours => return Ok(epoch),
            Claim::Theirs(_) => epoch += 1,
        }
    }
}

/// The newest epoch and its instance, if any was ever taken. A list that lags behind is no harm: numbers after the last one
/// listed are asked for by name.
///
/// # Errors
/// What the store says, and a damaged epoch, by name.
pub async fn newest_epoch(store: &Store) -> Result<Option<(i64, String)>, StoreError> {
    let listed = store.list(&epochs_folder()).await?;
    let mut newest = match listed.iter().filter_map(|m| EpochPath::parse(&m.location).ok()).map(|p| p.epoch).max() {
        Some(epoch) => read(store, epoch).await?,
        None => None,
    };
    while let Some(next) = read(store, newest.as_ref().map_or(1, |(epoch, _)| epoch + 1)).await? {
        newest = Some(next);
    }
    Ok(newest)
}

/// The epoch after `epoch` and its instance, if it was taken: then whoever has `epoch` is fenced.
///
/// # Errors
/// As [`newest_epoch`].
pub async fn epoch_after(store: &Store, epoch: i64) -> Result<Option<(i64, String)>, StoreError> {
    read(store, epoch + 1).await
}

async fn read(store: &Store, epoch: i64) -> Result<Option<(i64, String)>, StoreError> {
    let path = EpochPath { epoch }.path();
    let bytes = match store.get(&path).await {
        Ok(bytes) => bytes,
        Err(StoreError::NotFound { .. }) => return Ok(None),
        Err(e) => return Err(e),
    };
    let found: Epoch = json::decode(&path, &bytes, FORMATS)?;
    match found.epoch == epoch {
        true => Ok(Some((epoch, found.instance))),
        false => Err(StoreError::corrupt(&path, format!("it says it is epoch {}", found.epoch))),
    }
}
