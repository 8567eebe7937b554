//! The lease of a run, renewed in the background, and looked at once more before the publish.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use storage::lease::{Acquired, Lease};
use storage::machine::Machine;
use storage::paths::{Id, ViewName};
use storage::store::{Retry, Store};
use tokio::sync::Mutex;
use tokio::task::AbortHandle;
use tracing::{error, warn};

use crate::error::RunError;
use crate::options::RunOptions;
use crate::report::new_run_id;

/// Renewals within a time to live: two may fail before anybody follows.
const RENEWALS: u32 = 3;

/// The turn of one run, or of whoever else publishes: nobody else has one for the view meanwhile.
pub(crate) struct Turn {
    pub(crate) run_id: Id,
    /// By the machine's clock.
    pub(crate) started: SystemTime,
    /// Its own: turns that failed together do not come back together.
    pub(crate) store: Store,
    pub(crate) keeper: Keeper,
}

impl Turn {
    /// Takes the lease of the view, waiting at most for the time to live of whoever has it.
    ///
    /// # Errors
    /// [`RunError::Busy`] if that one is alive.
    pub(crate) async fn take(machine: &dyn Machine, options: &RunOptions, store: &Store) -> Result<Self, RunError> {
        let started = machine.now();
        let run_id = new_run_id(DateTime::<Utc>::from(started), machine.random() as u32);
        let store = store.with_retry(Retry { seed: options.retry.seed ^ machine.random() as u64, ..options.retry });
        let keeper = Keeper::take(&store, &options.view, run_id.as_str(), options.lease_ttl).await?;
        Ok(Self { run_id, started, store, keeper })
    }
}

/// A held lease. Dropped without [`release`](Self::release) it is no longer renewed, and the next run waits for its time to live.
pub(crate) struct Keeper {
    lease: Arc<Mutex<Lease>>,
    renewing: AbortHandle,
}

impl Keeper {
    async fn take(store: &Store, view: &ViewName, run_id: &str, ttl: Duration) -> Result<Self, RunError> {
        match Lease::acquire(store, view, run_id, ttl).await? {
            Acquired::Busy { holder } => Err(RunError::Busy { view: view.to_string(), holder }),
            Acquired::Held(lease) => {
                let lease = Arc::new(Mutex::new(lease));
                let renewing = tokio::spawn(renew(Arc::clone(&lease), ttl)).abort_handle();
                Ok(Self { lease, renewing })
            }
        }
    }

    /// The number under which the lease is held, if it still is.
    ///
    /// # Errors
    /// [`RunError::Fenced`] if another run has followed.
    pub(crate) async fn check(&self) -> Result<i64, RunError> {
        let lease = self.lease.lock().await;
        match lease.still_held().await? {
            true => Ok(lease.number()),
            false => Err(RunError::Fenced { holder: lease.holder().await? }),
        }
    }

    /// Lets the next run in. Best effort: it would wait otherwise.
    pub(crate) async fn release(self) {
        self.renewing.abort();
        let mut lease = self.lease.lock().await;
        if let Err(error) = lease.release().await {
            warn!(%error, "the lease could not be released; the next run waits for its time to live");
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

async fn renew(lease: Arc<Mutex<Lease>>, ttl: Duration) {
    loop {
        tokio::time::sleep(ttl / RENEWALS).await;
        match lease.lock().await.renew().await {
            Ok(true) => {}
            Ok(false) => return error!("another run has taken over the lease; this one will not publish"),
            Err(error) => warn!(%error, "the lease could not be renewed; trying again"),
        }
    }
}
