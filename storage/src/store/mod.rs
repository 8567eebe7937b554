//! Where objects are kept: one [`Store`] over a local folder or over memory, and more by URL later.
//!
//! # Layout
//! An object is a path and its bytes; [`crate::paths`] knows every path there is. In a local folder an object is a file.
//!
//! # Consistency
//! An object appears whole or not at all. [`Store::put_if_absent`] has one winner among any number of writers, and that is
//! what publishing rests on. Nothing here changes an object in place.
//!
//! # What a crash leaves behind
//! Every object whose put returned, and perhaps files of puts that did not return, under names that no reader sees.
//! `object_store` does not sync local files, so writes to a local folder are ours (`local`); reads are `object_store`'s.

mod claim;
mod error;
pub mod faulty;
pub(crate) mod json;
mod local;
mod reader;
mod retry;
mod writer;

#[cfg(test)]
mod tests;

use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use url::Url;

pub use claim::Claim;
pub use error::StoreError;
pub use object_store::ObjectMeta;
pub(crate) use reader::ObjectReader;
pub use retry::Retry;
pub use writer::{ObjectInfo, ObjectWriter};

use crate::machine::blocking;
use local::{Existing, Staged};

/// How much is read at once where a whole object is only hashed.
const HASH_WINDOW_BYTES: u64 = 4 << 20;

/// Who wrote the object that is there after a put-if-absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// This put did.
    Created,
    /// Somebody else did, earlier; it is unchanged.
    Exists,
}

/// A place for objects. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    /// The root, where objects are local files.
    folder: Option<Arc<Path>>,
    retry: Retry,
    /// Another store, for what is seldom read.
    cold: Option<Arc<Store>>,
}

impl Store {
    /// Opens the store at `url`: `file:///folder` or the path of a folder, which is created if need be, or `memory://`, a new
    /// and empty store that lives as long as its clones.
    ///
    /// # Errors
    /// Any other scheme, and a folder that cannot be made.
    pub fn open(url: &str) -> Result<Self, StoreError> {
        let refuse = |reason: String| StoreError::Url { url: url.to_owned(), reason };
        let Some((scheme, rest)) = url.split_once("://") else {
            if url.is_empty() {
                return Err(refuse("it is empty; name a folder".to_owned()));
            }
            return Self::open_folder(Path::new(url));
        };
        match scheme {
            "memory" if rest.is_empty() => Ok(Self::from_object_store(Arc::new(InMemory::new()))),
            "memory" => Err(refuse("a store in memory has no path, write memory://".to_owned())),
            "file" => {
                let folder = Url::parse(url).ok().and_then(|parsed| parsed.to_file_path().ok());
                let folder = folder.ok_or_else(|| refuse("write file:/// and an absolute path".to_owned()))?;
                Self::open_folder(&folder)
            }
            _ => Err(refuse(format!("{scheme}:// comes with a later version; use a folder, file:/// or memory://"))),
        }
    }

    /// A store over any other `object_store`, which must know put-if-absent and be durable by itself. Tests use it to inject
    /// faults.
    #[must_use]
    pub fn from_object_store(objects: Arc<dyn ObjectStore>) -> Self {
        Self { objects, folder: None, retry: Retry::NONE, cold: None }
    }

    fn open_folder(folder: &Path) -> Result<Self, StoreError> {
        let root = local::open_root(folder).map_err(|e| StoreError::io(folder.display(), e))?;
        let objects = LocalFileSystem::new_with_prefix(&root).map_err(|e| StoreError::backend(&ObjectPath::ROOT, e))?;
        Ok(Self { objects: Arc::new(objects), folder: Some(root.into()), retry: Retry::NONE, cold: None })
    }

    /// The same store, whose calls are repeated as `retry` says. A store that was just opened repeats nothing: whoever answers
    /// people wants to hear of a failure at once.
    #[must_use]
    pub fn with_retry(&self, retry: Retry) -> Self {
        let cold = self.cold.as_ref().map(|cold| Arc::new(cold.with_retry(retry)));
        Self { retry, cold, ..self.clone() }
    }

    /// The same store, with another one for segments of the master dataset that were moved there.
    #[must_use]
    pub fn with_cold(&self, cold: Self) -> Self {
        Self { cold: Some(Arc::new(cold)), ..self.clone() }
    }

    /// The cold store, if there is one.
    #[must_use]
    pub fn cold(&self) -> Option<&Self> {
        self.cold.as_deref()
    }

    /// The cold store, in which `path` is.
    ///
    /// # Errors
    /// [`StoreError::NoCold`] if there is none.
    pub(crate) fn cold_for(&self, path: &ObjectPath) -> Result<&Self, StoreError> {
        self.cold().ok_or_else(|| StoreError::NoCold { path: path.to_string() })
    }

    /// Writes an object, in place of the one that may be there. When this returns, it survives power loss.
    ///
    /// # Errors
    /// After an error the object may be the old one or the new one, never a mixture.
    pub async fn put_durable(&self, path: &ObjectPath, bytes: Bytes) -> Result<(), StoreError> {
        self.put(path, bytes, Existing::Replace).await.map(|_| ())
    }

    /// Writes an object unless there is one already. When this returns, the object survives power loss, whoever wrote it: a put
    /// that was repeated may find its own object.
    ///
    /// # Errors
    /// After an error it is unknown whether the object was written.
    pub async fn put_if_absent(&self, path: &ObjectPath, bytes: Bytes) -> Result<PutOutcome, StoreError> {
        self.put(path, bytes, Existing::Keep).await
    }

    async fn put(&self, path: &ObjectPath, bytes: Bytes, existing: Existing) -> Result<PutOutcome, StoreError> {
        if let Some(root) = self.root_for(path)? {
            let target = path.clone();
            let written = blocking(move || {
                let mut staged = Staged::create(&root, &target)?;
                staged.write_all(&bytes)?;
                staged.commit(existing)
            });
            return written.await.map_err(|e| StoreError::io(path, e));
        }
        let mode = match existing {
            Existing::Replace => PutMode::Overwrite,
            Existing::Keep => PutMode::Create,
        };
        let put = || async {
            match self.objects.put_opts(path, bytes.clone().into(), PutOptions::from(mode.clone())).await {
                Ok(_) => Ok(PutOutcome::Created),
                Err(object_store::Error::AlreadyExists { .. }) => Ok(PutOutcome::Exists),
                Err(e) => Err(StoreError::backend(path, e)),
            }
        };
        self.retry.run(path.as_ref(), put).await
    }

    /// Starts an object that is written piece by piece and exists once the writer is finished.
    ///
    /// # Errors
    /// The local disk's.
    pub async fn create(&self, path: &ObjectPath) -> Result<ObjectWriter, StoreError> {
        let Some(root) = self.root_for(path)? else {
            return Ok(ObjectWriter::buffered(self.clone(), path.clone()));
        };
        let target = path.clone();
        let staged = blocking(move || Staged::create(&root, &target)).await;
        Ok(ObjectWriter::staged(staged.map_err(|e| StoreError::io(path, e))?, path.clone()))
    }

    /// All bytes of an object.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], and what the store says.
    pub async fn get(&self, path: &ObjectPath) -> Result<Bytes, StoreError> {
        let get = || async { self.objects.get(path).await?.bytes().await };
        self.retry.run(path.as_ref(), || async { get().await.map_err(|e| StoreError::backend(path, e)) }).await
    }

    /// The bytes `range` of an object, half-open.
    ///
    /// # Errors
    /// As [`Store::get`], and a range that starts behind the end.
    pub async fn get_range(&self, path: &ObjectPath, range: Range<u64>) -> Result<Bytes, StoreError> {
        let get = || async { self.objects.get_range(path, range.clone()).await.map_err(|e| StoreError::backend(path, e)) };
        self.retry.run(path.as_ref(), get).await
    }

    /// The bytes of several ranges of an object.
    pub(crate) async fn get_ranges(&self, path: &ObjectPath, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, StoreError> {
        let get = || async { self.objects.get_ranges(path, ranges).await.map_err(|e| StoreError::backend(path, e)) };
        self.retry.run(path.as_ref(), get).await
    }

    /// Every object below the folder `prefix`, sorted by path; none if there is no such folder.
    ///
    /// # Errors
    /// What the store says; never a part of the list.
    pub async fn list(&self, prefix: &ObjectPath) -> Result<Vec<ObjectMeta>, StoreError> {
        let list = || async { self.objects.list(Some(prefix)).try_collect::<Vec<_>>().await.map_err(|e| StoreError::backend(prefix, e)) };
        let mut found = self.retry.run(prefix.as_ref(), list).await?;
        found.sort_by(|a, b| a.location.cmp(&b.location));
        Ok(found)
    }

    /// The folders right below the folder `prefix`.
    ///
    /// # Errors
    /// What the store says; never a part of the list.
    pub async fn folders(&self, prefix: &ObjectPath) -> Result<Vec<ObjectPath>, StoreError> {
        let list = || async { self.objects.list_with_delimiter(Some(prefix)).await.map_err(|e| StoreError::backend(prefix, e)) };
        Ok(self.retry.run(prefix.as_ref(), list).await?.common_prefixes)
    }

    /// Deletes an object; that it was not there is no error.
    ///
    /// # Errors
    /// What the store says.
    pub async fn delete(&self, path: &ObjectPath) -> Result<(), StoreError> {
        if let Some(root) = self.root_for(path)? {
            let target = path.clone();
            return blocking(move || local::remove(&root, &target)).await.map_err(|e| StoreError::io(path, e));
        }
        let delete = || async {
            match self.objects.delete(path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(e) => Err(StoreError::backend(path, e)),
            }
        };
        self.retry.run(path.as_ref(), delete).await
    }

    /// Removes what puts that never ended left in a local folder and last wrote to before `before`; other stores leave nothing.
    /// The answer is how many files.
    ///
    /// # Errors
    /// The disk's.
    pub async fn remove_staged(&self, before: SystemTime) -> Result<usize, StoreError> {
        let Some(root) = self.folder.clone() else { return Ok(0) };
        let failed = |e| StoreError::io(root.display(), e);
        let folder = Arc::clone(&root);
        blocking(move || local::remove_staged(&folder, before)).await.map_err(failed)
    }

    /// Size and BLAKE3 of an object as it is now, by reading all of it in pieces.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub async fn checksum(&self, path: &ObjectPath) -> Result<ObjectInfo, StoreError> {
        let head = || async { self.objects.head(path).await.map_err(|e| StoreError::backend(path, e)) };
        let size = self.retry.run(path.as_ref(), head).await?.size;
        let mut hasher = blake3::Hasher::new();
        let mut start = 0;
        while start < size {
            let end = size.min(start + HASH_WINDOW_BYTES);
            let window = self.get_range(path, start..end).await?;
            if window.len() as u64 != end - start {
                return Err(StoreError::corrupt(path, format!("bytes {start} to {end} are missing")));
            }
            hasher = blocking(move || {
                hasher.update(&window);
                hasher
            })
            .await;
            start = end;
        }
        Ok(ObjectInfo::new(size, &hasher))
    }

    /// The store underneath, for readers such as DataFusion. Do not write through it: what it puts is not synced.
    #[must_use]
    pub fn object_store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.objects)
    }

    /// The root folder where `path` is a local file, after checking that its name can be read back.
    fn root_for(&self, path: &ObjectPath) -> Result<Option<PathBuf>, StoreError> {
        let name = path.filename().unwrap_or_default();
        if name.is_empty() || name.contains('#') {
            return Err(StoreError::Name { text: path.to_string(), expected: "the path of an object (a file name without #)" });
        }
        Ok(self.folder.as_deref().map(Path::to_path_buf))
    }
}
