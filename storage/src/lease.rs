//! Leases: of many batch runs over one view, one at a time.
//!
//! # Layout
//! `runs/<view>/lease/<number, 20 digits>.json`. Taking a lease, renewing it and releasing it each make the next-numbered object,
//! put if absent, for a local disk knows no other condition. The newest object says who holds the lease.
//!
//! # Consistency
//! Whoever loses a put has lost. Others follow only on a release, or when the newest object was not followed for the time to live
//! that it names, measured on the contender's own monotonic clock: nobody's wall clock decides anything. A holder that slept
//! through that time finds another's object after its own. It may find so too late, between looking and acting; therefore a lease
//! saves double work, and what must happen once rests on a put-if-absent of its own ([`crate::manifest::Manifests::publish`]).
//!
//! # What a crash leaves behind
//! A lease that nobody renews: the next run waits one time to live. Old objects are removed by whoever holds the lease, but for
//! the last few, which a contender that slept must still run into.

#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::paths::{LeasePath, ViewName, lease_folder};
use crate::store::json::{self, Formats};
use crate::store::{Claim, Store, StoreError};

/// The format that this program writes, and the newest it reads.
const FORMAT_VERSION: u32 = 1;
const FORMATS: Formats = Formats { known: FORMAT_VERSION, checked_from: 1 };
/// Objects before the newest that are kept.
const KEPT: i64 = 8;
/// A contender looks so many times while it waits for a time to live.
const LOOKS: u32 = 20;
/// Lists of a folder that others change meanwhile, before giving up.
const LISTS: usize = 8;

/// One object of a lease.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Beat {
    format_version: u32,
    number: i64,
    run_id: String,
    /// Renewals since it was taken.
    beat: i64,
    /// After so long without a successor the holder is taken for dead.
    ttl_ms: u64,
    released: bool,
}

/// What became of asking for a lease.
#[derive(Debug)]
pub enum Acquired {
    /// It is ours until it is released, or not renewed for its time to live.
    Held(Lease),
    /// Somebody else has it, and was seen to be alive.
    Busy {
        /// The run that has it.
        holder: String,
    },
}

/// The lease of a view, held by this run unless another has followed it.
#[derive(Debug)]
pub struct Lease {
    store: Store,
    view: ViewName,
    newest: Beat,
}

impl Lease {
    /// Asks for the lease of `view`. Where another run has it, this waits until that one renews it, releases it, or is silent for
    /// its whole time to live.
    ///
    /// # Errors
    /// What the store says, and a damaged object, by name. After [`StoreError::UnknownOutcome`] the lease may be ours, which
    /// nobody renews.
    pub async fn acquire(store: &Store, view: &ViewName, run_id: &str, ttl: Duration) -> Result<Acquired, StoreError> {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        loop {
            let before = match newest(store, view).await? {
                Some(found) if !found.released && found.run_id != run_id => match outlive(store, view, found).await? {
                    Ok(free) => free,
                    Err(holder) => return Ok(Acquired::Busy { holder }),
                },
                Some(found) => found.number,
                None => 0,
            };
            let number = before + 1;
            let beat = Beat { format_version: FORMAT_VERSION, number, run_id: run_id.to_owned(), beat: 0, ttl_ms, released: false };
            let there = put(store, view, &beat).await?;
            if there != beat {
                match there.released {
                    true => continue,
                    false => return Ok(Acquired::Busy { holder: there.run_id }),
                }
            }
            // Whoever slept between looking and putting may have made an object that was there long ago, and was removed.
            return match newest(store, view).await? {
                Some(newest) if newest != beat => Ok(Acquired::Busy { holder: newest.run_id }),
                _ => Ok(Acquired::Held(Self { store: store.clone(), view: view.clone(), newest: beat })),
            };
        }
    }

    /// The number of its newest object. Every later holder has a higher one.
    #[must_use]
    pub fn number(&self) -> i64 {
        self.newest.number
    }

    /// Renews the lease; false if another run has followed, and then it is lost for good.
    ///
    /// # Errors
    /// What the store says. It is not known then whether the lease was renewed; to renew it again finds out.
    pub async fn renew(&mut self) -> Result<bool, StoreError> {
        let next = Beat { number: self.newest.number + 1, beat: self.newest.beat + 1, ..self.newest.clone() };
        if put(&self.store, &self.view, &next).await? != next {
            return Ok(false);
        }
        self.newest = next;
        self.collect().await;
        Ok(true)
    }

    /// Whether the newest object is ours.
    ///
    /// # Errors
    /// What the store says.
    pub async fn still_held(&self) -> Result<bool, StoreError> {
        let newest = newest(&self.store, &self.view).await?;
        Ok(newest.is_some_and(|newest| newest.run_id == self.newest.run_id && !newest.released))
    }

    /// Whose the newest object is.
    ///
    /// # Errors
    /// What the store says.
    pub async fn holder(&self) -> Result<String, StoreError> {
        Ok(newest(&self.store, &self.view).await?.map_or_else(String::new, |newest| newest.run_id))
    }

    /// Lets the next run in at once. A lease that was lost is left alone.
    ///
    /// # Errors
    /// What the store says; then the next run waits for the time to live.
    pub async fn release(&mut self) -> Result<(), StoreError> {
        // A renewal whose outcome nobody learnt may have taken the number after ours.
        for _ in 0..2 {
            let last = Beat { number: self.newest.number + 1, released: true, ..self.newest.clone() };
            let there = put(&self.store, &self.view, &last).await?;
            match there.run_id == self.newest.run_id && !there.released {
                true => self.newest = there,
                false => break,
            }
        }
        Ok(())
    }

    /// Removes old objects. Best effort: what stays is removed next time.
    async fn collect(&self) {
        let listed = match self.store.list(&lease_folder(&self.view)).await {
            Ok(listed) => listed,
            Err(error) => return warn!(%error, "old lease objects could not be listed"),
        };
        let numbers = listed.iter().filter_map(|m| LeasePath::parse(&m.location).ok()).map(|p| p.number);
        for number in numbers.filter(|number| *number < self.newest.number - KEPT) {
            let path = LeasePath { view: self.view.clone(), number }.path();
            if let Err(error) = self.store.delete(&path).await {
                warn!(%path, %error, "an old lease object could not be removed");
            }
        }
    }
}

/// The newest object of a view's lease, if it was ever taken.
async fn newest(store: &Store, view: &ViewName) -> Result<Option<Beat>, StoreError> {
    let mut missing = None;
    for _ in 0..LISTS {
        let listed = store.list(&lease_folder(view)).await?;
        let Some(last) = listed.iter().filter_map(|m| LeasePath::parse(&m.location).ok()).map(|p| p.number).max() else {
            return Ok(None);
        };
        // A list may lag behind: what comes after is asked for by name.
        let mut found: Option<Beat> = None;
        loop {
            match read(store, view, found.as_ref().map_or(last, |beat| beat.number + 1)).await {
                Ok(beat) => found = Some(beat),
                Err(e @ StoreError::NotFound { .. }) if found.is_none() => break missing = Some(e),
                Err(StoreError::NotFound { .. }) => return Ok(found),
                Err(e) => return Err(e),
            }
        }
        // It was removed after it was listed, so there are newer ones.
    }
    missing.map_or(Ok(None), Err)
}

async fn read(store: &Store, view: &ViewName, number: i64) -> Result<Beat, StoreError> {
    let path = LeasePath { view: view.clone(), number };
    parse(&path, &store.get(&path.path()).await?)
}

fn parse(path: &LeasePath, bytes: &[u8]) -> Result<Beat, StoreError> {
    let beat: Beat = json::decode(&path.path(), bytes, FORMATS)?;
    match beat.number == path.number {
        true => Ok(beat),
        false => Err(StoreError::corrupt(&path.path(), format!("it says it is number {}", beat.number))),
    }
}

/// Makes the object of `beat` unless there is one; the answer is what is there.
async fn put(store: &Store, view: &ViewName, beat: &Beat) -> Result<Beat, StoreError> {
    let path = LeasePath { view: view.clone(), number: beat.number };
    match store.claim(&path.path(), Bytes::from(json::encode(beat))).await? {
        Claim::Ours => Ok(beat.clone()),
        Claim::Theirs(there) => parse(&path, &there),
    }
}

/// Waits until `found` is released or was silent for its time to live, and answers the number after which the lease is free; or
/// the holder, when it renews.
async fn outlive(store: &Store, view: &ViewName, found: Beat) -> Result<Result<i64, String>, StoreError> {
    let began = Instant::now();
    let ttl = Duration::from_millis(found.ttl_ms);
    info!(%view, holder = found.run_id, ?ttl, "another run has the lease; waiting to see whether it is alive");
    loop {
        sleep((ttl / LOOKS).max(Duration::from_millis(1))).await;
        let waited = began.elapsed();
        match newest(store, view).await? {
            Some(newest) if newest.number > found.number && newest.released => return Ok(Ok(newest.number)),
            Some(newest) if newest.number > found.number => return Ok(Err(newest.run_id)),
            _ if waited >= ttl => return Ok(Ok(found.number)),
            _ => {}
        }
    }
}
