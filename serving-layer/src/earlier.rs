//! Earlier versions of a view, opened when somebody asks for one, and kept for the next who does.
//!
//! *Consistency.* A version is immutable, so one that is open answers for as long as it is; it is verified before it answers, and again
//! when it has been open for the time in which the version of now is looked through once.
//!
//! Opening reads every file of a version, which may take longer than a question. It is a task of its own, one at a time for all views:
//! whoever asks waits for it as long as a question may, and finds it done when he asks again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use storage::batch_view::BlockCache;
use storage::manifest::{Manifest, Manifests};
use storage::paths::ViewName;
use storage::store::{Store, StoreError};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tracing::info;

use crate::ServingError;
use crate::version::Version;

/// Earlier versions of a view that are open at once; the one that was asked for longest ago makes room.
const KEPT_OPEN: usize = 4;

/// The earlier versions of one view. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Earlier {
    store: Store,
    manifests: Manifests,
    cache: BlockCache,
    /// Verified again after so long; never if it is 0.
    good_for: Duration,
    turns: Turns,
    /// The one that was asked for last comes last.
    open: Arc<Mutex<Vec<Opened>>>,
}

/// Whose turn it is to open a version, of all views.
#[derive(Clone, Debug)]
pub(crate) struct Turns(Arc<Semaphore>);

impl Default for Turns {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

#[derive(Debug)]
struct Opened {
    version: Arc<Version>,
    since: Instant,
}

impl Earlier {
    pub(crate) fn new(store: &Store, view: ViewName, cache: &BlockCache, good_for: Duration, turns: &Turns) -> Self {
        let manifests = Manifests::new(store.clone(), view);
        Self { store: store.clone(), manifests, cache: cache.clone(), good_for, turns: turns.clone(), open: Arc::default() }
    }

    /// A version by its number, verified.
    ///
    /// # Errors
    /// There is none of that number, or none that answers any more; it cannot be read; it is not open by `deadline`.
    pub(crate) async fn version(&self, number: i64, deadline: Instant) -> Result<Arc<Version>, ServingError> {
        if let Some(open) = self.kept(number) {
            return Ok(open);
        }
        let manifest = self.manifest(number).await?;
        let too_late = || ServingError::VersionOpening { version: number };
        let turn = timeout_at(deadline, Arc::clone(&self.turns.0).acquire_owned()).await.map_err(|_| too_late())?;
        let turn = turn.expect("nobody closes it");
        // Whoever had the turn before may have opened it.
        if let Some(open) = self.kept(number) {
            return Ok(open);
        }
        let earlier = self.clone();
        let opening = tokio::spawn(async move {
            let _turn = turn;
            earlier.open(manifest).await
        });
        match timeout_at(deadline, opening).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(_)) | Err(_) => Err(too_late()),
        }
    }

    fn kept(&self, number: i64) -> Option<Arc<Version>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|opened| self.good_for.is_zero() || opened.since.elapsed() < self.good_for);
        let found = open.iter().position(|opened| opened.version.number == number)?;
        open[found..].rotate_left(1);
        open.last().map(|opened| Arc::clone(&opened.version))
    }

    async fn manifest(&self, number: i64) -> Result<Manifest, ServingError> {
        match self.manifests.read(number).await {
            Ok(manifest) if manifest.withdrawn => Err(ServingError::VersionWithdrawn { version: number }),
            Ok(manifest) => Ok(manifest),
            Err(StoreError::NotFound { .. }) => {
                let newest = self.manifests.newest().await?.unwrap_or(0);
                Err(if number < newest { gone(number) } else { ServingError::NoVersion { version: number, newest } })
            }
            Err(e) => Err(e.into()),
        }
    }

    async fn open(&self, manifest: Manifest) -> Result<Arc<Version>, ServingError> {
        let (number, started) = (manifest.version, Instant::now());
        let version = Version::open(&self.store, manifest, &self.cache, None).await.map_err(|e| match e {
            ServingError::Store(StoreError::NotFound { .. }) => gone(number),
            other => other,
        })?;
        let (version, since) = (Arc::new(version), Instant::now());
        info!(
            version = number,
            rows = version.rows_in_batch(),
            elapsed_ms = started.elapsed().as_millis() as u64,
            "opened earlier version"
        );
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() == KEPT_OPEN {
            open.remove(0);
        }
        open.push(Opened { version: Arc::clone(&version), since });
        Ok(version)
    }
}

fn gone(version: i64) -> ServingError {
    ServingError::VersionGone { version }
}
