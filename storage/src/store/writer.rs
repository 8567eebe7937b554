//! Objects too large to hold in one piece: written through `std::io::Write`, hashed on the way.

use std::io::{self, Write};

use object_store::path::Path as ObjectPath;

use super::local::{Existing, Staged};
use super::{PutOutcome, Store, StoreError};
use crate::machine::blocking;

/// What an object's bytes are: enough to tell later whether they still are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Length in bytes.
    pub bytes: i64,
    /// BLAKE3 of the bytes, 64 lower-case hex digits.
    pub blake3: String,
}

impl ObjectInfo {
    pub(super) fn new(bytes: u64, hasher: &blake3::Hasher) -> Self {
        let bytes = i64::try_from(bytes).expect("no object has 8 EiB");
        Self { bytes, blake3: hasher.finalize().to_hex().to_string() }
    }
}

/// An object in the making. It exists once [`finish`](Self::finish) returns; dropped before, it leaves nothing.
///
/// `write` blocks on the disk, so large objects are written from a blocking thread. In a store that is not a local folder the
/// bytes wait in memory.
#[derive(Debug)]
pub struct ObjectWriter {
    path: ObjectPath,
    target: Target,
    hasher: blake3::Hasher,
    bytes: u64,
}

#[derive(Debug)]
enum Target {
    Staged(Staged),
    Buffer(Store, Vec<u8>),
}

impl ObjectWriter {
    pub(super) fn staged(staged: Staged, path: ObjectPath) -> Self {
        Self { path, target: Target::Staged(staged), hasher: blake3::Hasher::new(), bytes: 0 }
    }

    pub(super) fn buffered(store: Store, path: ObjectPath) -> Self {
        Self { path, target: Target::Buffer(store, Vec::new()), hasher: blake3::Hasher::new(), bytes: 0 }
    }

    /// Bytes written so far.
    #[must_use]
    pub fn bytes_written(&self) -> u64 {
        self.bytes
    }

    /// Makes the object, in place of one that may be there. When this returns, it survives power loss.
    ///
    /// # Errors
    /// As [`Store::put_durable`].
    pub async fn finish(self) -> Result<ObjectInfo, StoreError> {
        let info = ObjectInfo::new(self.bytes, &self.hasher);
        match self.target {
            Target::Staged(staged) => {
                let committed: io::Result<PutOutcome> = blocking(move || staged.commit(Existing::Replace)).await;
                committed.map_err(|e| StoreError::io(&self.path, e))?;
            }
            Target::Buffer(store, bytes) => store.put_durable(&self.path, bytes.into()).await?,
        }
        Ok(info)
    }
}

impl Write for ObjectWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match &mut self.target {
            Target::Staged(staged) => staged.write(bytes)?,
            Target::Buffer(_, buffer) => buffer.write(bytes)?,
        };
        self.hasher.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.target {
            Target::Staged(staged) => staged.flush(),
            Target::Buffer(..) => Ok(()),
        }
    }
}
