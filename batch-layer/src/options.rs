//! What a run is asked to do.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use storage::config::{ClientConfig, Config, TlsConfig};
use storage::paths::{Id, ViewName};
use storage::store::Retry;
use views::EventSchema;

/// Partitions recomputed at a time unless told otherwise: each has its share of the memory, so more of them spill earlier.
const DEFAULT_THREADS: usize = 2;

/// One run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The view to recompute.
    pub view: ViewName,
    /// Folder of `<view>.sql` files.
    pub views_dir: PathBuf,
    /// What an event is.
    pub events: EventSchema,
    /// Address of the speed layer to ask for a cut; `None` takes what is archived.
    pub speed_layer: Option<String>,
    /// What calls to it show and trust.
    pub tls: TlsConfig,
    /// The token that they carry.
    pub client: ClientConfig,
    /// Partitions of the log, where neither a speed layer nor a version before can tell.
    pub partitions: u32,
    /// Memory for sorting, bytes, shared among the threads; what does not fit is spilled.
    pub memory_limit_bytes: u64,
    /// Partitions that are recomputed at a time.
    pub threads: NonZeroUsize,
    /// Build upon the version before where that can be.
    pub incremental: bool,
    /// Publish a new version though nothing has changed, say because the files of the last one are damaged.
    pub force: bool,
    /// Publish in spite of the difference that this run found, which a person has judged to be right.
    pub accept_difference: Option<Id>,
    /// Folder in which a folder for spilled rows is made and removed; `None` is the system's temporary folder.
    pub spill_dir: Option<PathBuf>,
    /// A run that does not renew its lease for so long is taken for dead.
    pub lease_ttl: Duration,
    /// What no version names is removed when it is older than this.
    pub grace: Duration,
    /// Events older than this may go, so that every view must let them go itself; `None` keeps all.
    pub retention: Option<Duration>,
    /// How calls to the store are repeated.
    pub retry: Retry,
}

impl RunOptions {
    /// What `config` says about a run over `view`.
    #[must_use]
    pub fn from_config(config: &Config, view: ViewName) -> Self {
        let batch = &config.batch_layer;
        let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Self {
            view,
            views_dir: config.views.dir.clone(),
            events: config.events.clone(),
            speed_layer: Some(batch.speed_layer.clone()).filter(|url| !url.is_empty()),
            tls: config.tls.clone(),
            client: config.client.clone(),
            partitions: config.log.partitions,
            memory_limit_bytes: batch.memory_limit.0,
            threads: cores.min(NonZeroUsize::new(DEFAULT_THREADS).expect("two is not zero")),
            incremental: false,
            force: false,
            accept_difference: None,
            spill_dir: Some(batch.spill_dir.clone()).filter(|dir| !dir.as_os_str().is_empty()),
            lease_ttl: batch.lease_ttl.0,
            grace: batch.grace.0,
            retention: Some(config.retention.events.0).filter(|retention| !retention.is_zero()),
            retry: Retry::seeded(0),
        }
    }

    /// Memory for sorting that each of the threads has, bytes.
    pub(crate) fn memory_bytes_a_thread(&self) -> usize {
        usize::try_from(self.memory_limit_bytes).unwrap_or(usize::MAX) / self.threads.get()
    }
}
