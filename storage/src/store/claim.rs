//! Objects that one writer creates and all others find: manifests, leases, epochs.

use bytes::Bytes;
use object_store::path::Path as ObjectPath;

use super::{PutOutcome, Retry, Store, StoreError};

/// Who created an object that is created once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The object is there with our bytes, and durable.
    Ours,
    /// Somebody else was first; these are the bytes that are there.
    Theirs(Bytes),
}

impl Store {
    /// Creates an object unless there is one, and finds out whose it is. The bytes must be ours alone, say by a run's id.
    ///
    /// A put whose reply is lost, and one that a client repeats on its own and then finds its own object, are resolved by reading
    /// back; where that fails too, both are tried again, as the store's [`Retry`] says. Nothing is ever deleted.
    ///
    /// # Errors
    /// [`StoreError::UnknownOutcome`] if nobody can tell: the object may be there, or appear later.
    pub async fn claim(&self, path: &ObjectPath, bytes: Bytes) -> Result<Claim, StoreError> {
        let unknown = |source| StoreError::UnknownOutcome { path: path.to_string(), source: Box::new(source) };
        let single = self.with_retry(Retry::NONE);
        let mut tries = self.retry.begin(path.as_ref());
        loop {
            let failed = match single.put_if_absent(path, bytes.clone()).await {
                Ok(PutOutcome::Created) => return Ok(Claim::Ours),
                Ok(PutOutcome::Exists) => None,
                // A local disk that fails to sync may show us the object and lose it later.
                Err(e @ StoreError::Io { .. }) => return Err(unknown(e)),
                Err(e @ StoreError::Name { .. }) => return Err(e),
                Err(e) => Some(e),
            };
            let read_back = match single.get(path).await {
                Ok(there) if there == bytes => return Ok(Claim::Ours),
                Ok(there) => return Ok(Claim::Theirs(there)),
                Err(e) => e,
            };
            if !tries.again().await {
                return Err(unknown(failed.unwrap_or(read_back)));
            }
        }
    }
}
