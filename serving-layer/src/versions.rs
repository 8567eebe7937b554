//! Which version answers now: open the newest one, verify it, swap it in, watch for the next.
//!
//! *Consistency.* Readers take one `Arc` and keep it for the whole answer; a swap replaces the pointer and touches nothing that
//! is being read. A version is swapped in only when its files are verified and the speed layer has said that it can answer
//! from there; until then the one before answers. Versions never go back: a rollback has a new number.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use merganser_proto::metrics::Counter;
use storage::batch_view::BlockCache;
use storage::manifest::{Manifest, Manifests};
use storage::paths::ViewName;
use storage::store::{Store, StoreError};
use tokio::sync::Mutex;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::{error, info, warn};
use views::EventSchema;

use crate::ServingError;
use crate::erasures::Known;
use crate::speed::SpeedClient;
use crate::version::Version;

/// The speed layer keeps what the newest two versions need.
const KEPT_VERSIONS: usize = 2;
/// The shortest pause between two files that are read again.
const SCRUB_PAUSE_MIN: Duration = Duration::from_millis(5);

/// The versions of one view.
#[derive(Debug)]
pub(crate) struct Versions {
    view: ViewName,
    store: Store,
    manifests: Manifests,
    cache: BlockCache,
    speed: SpeedClient,
    speed_timeout: Duration,
    erased: Known,
    current: RwLock<Arc<Version>>,
    /// Whether the view is withdrawn: whoever serves it lets go of it.
    withdrawn: AtomicBool,
    /// Held by whoever looks for the next version, so that it is opened once.
    reload: Mutex<Reload>,
    /// Versions that were swapped in.
    pub(crate) swaps: Counter,
    /// Times that a newer version was not swapped in.
    pub(crate) failures: Counter,
}

/// What is known about versions that do not answer yet.
#[derive(Debug, Default)]
struct Reload {
    /// Verified, and waiting for the speed layer.
    candidate: Option<Arc<Version>>,
    /// Never to be served: trying again would end the same way.
    refused: Option<i64>,
    /// The version before the one that answers, while the speed layer has not yet said that it can answer from the latter.
    unproven: Option<Arc<Version>>,
    /// The last failure that was logged, so that a poll does not repeat it.
    complaint: Option<String>,
}

impl Versions {
    /// Decides on the first version: the newest in the store that is whole and that the speed layer can answer from, or the
    /// built-in view over `events` if there is none.
    ///
    /// A speed layer that is down is no obstacle: the batch half can be served without it. Nor is a newest version that is
    /// damaged or not ready, as long as the one before is: it is what answered before the restart.
    ///
    /// # Errors
    /// No version can be read, or the newest two are damaged or have definitions that this program does not understand.
    pub(crate) async fn open(
        view: ViewName,
        store: Store,
        cache: BlockCache,
        speed: SpeedClient,
        speed_timeout: Duration,
        events: &EventSchema,
        erased: Known,
    ) -> Result<Self, ServingError> {
        let manifests = Manifests::new(store.clone(), view.clone());
        let (first, unproven) = match manifests.newest().await? {
            None => (Version::unpublished(events), None),
            Some(newest) => {
                let (newer, older) = readable(&store, &manifests, newest, &cache).await?;
                first_prepared(newer, older, &speed, view.as_str(), speed_timeout).await
            }
        };
        info!(version = first.number, boundary = ?first.boundary, rows = first.rows_in_batch(), "first version");
        let current = RwLock::new(Arc::new(first));
        Ok(Self {
            view,
            store,
            manifests,
            cache,
            speed,
            speed_timeout,
            erased,
            current,
            withdrawn: AtomicBool::new(false),
            reload: Mutex::new(Reload { unproven, ..Reload::default() }),
            swaps: Counter::default(),
            failures: Counter::default(),
        })
    }

    /// The view.
    pub(crate) fn view(&self) -> &str {
        self.view.as_str()
    }

    /// Whether a version was found that says that nobody answers for the view any more.
    pub(crate) fn are_withdrawn(&self) -> bool {
        self.withdrawn.load(Ordering::Acquire)
    }

    /// The version that answers now. Take it once for each answer.
    pub(crate) fn current(&self) -> Arc<Version> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks for the next version every `period`, for ever.
    pub(crate) async fn watch(&self, period: Duration) {
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.refresh(self.current().number).await;
        }
    }

    /// Looks for a version after `seen` now, unless somebody has found one already. Afterwards [`Self::current`] is the newest
    /// that can answer; what stood in the way of a newer one is logged here.
    pub(crate) async fn refresh(&self, seen: i64) {
        let mut reload = self.reload.lock().await;
        if self.current().number != seen {
            return;
        }
        match self.advance(&mut reload).await {
            Ok(()) => reload.complaint = None,
            Err(e) => {
                self.failures.inc();
                complain(&mut reload, &e);
            }
        }
    }

    /// Reads the files of the version that answers again, one after the other over `period`, for ever; never if it is 0. A version
    /// that is found damaged answers nothing until its files are whole again or a newer one takes its place.
    pub(crate) async fn scrub(&self, period: Duration) {
        if period.is_zero() {
            return std::future::pending().await;
        }
        loop {
            let version = self.current();
            let pause = (period / (version.files().len() as u32 + 1)).max(SCRUB_PAUSE_MIN);
            let mut damage = None;
            let mut unread = false;
            for file in version.files() {
                sleep(pause).await;
                match storage::batch_view::verify_file(&self.store, file).await {
                    Ok(()) => {}
                    Err(e) => match (matches!(e, StoreError::NotFound { .. }), ServingError::from(e)) {
                        (missing, e) if missing || e.is_permanent() => {
                            let reason = damage.get_or_insert(e.in_one_line());
                            // One that came meanwhile may have the file too.
                            let current = self.current();
                            let sharing =
                                Some(&current).filter(|current| current.number != version.number && current.files().contains(file));
                            for damaged in [&version].into_iter().chain(sharing) {
                                if damaged.set_damage(Some(reason.clone())) {
                                    error!(
                                        version = damaged.number,
                                        reason, "the version that answers is damaged; it answers nothing more"
                                    );
                                }
                            }
                        }
                        // It may be readable in the next round.
                        _ => unread = true,
                    },
                }
            }
            if damage.is_none() && !unread && version.set_damage(None) {
                info!(version = version.number, "the files of the version that answers are whole again");
            }
            sleep(pause).await;
        }
    }

    async fn advance(&self, reload: &mut Reload) -> Result<(), ServingError> {
        self.prove(reload).await;
        let Some(manifest) = self.manifests.latest().await? else { return Ok(()) };
        let number = manifest.version;
        if number <= self.current().number || reload.refused == Some(number) {
            return Ok(());
        }
        if manifest.withdrawn {
            reload.refused = Some(number);
            self.withdrawn.store(true, Ordering::Release);
            return Ok(());
        }
        let started = Instant::now();
        let next = match reload.candidate.take() {
            Some(candidate) if candidate.number == number && candidate.run_id() == manifest.run_id => candidate,
            _ => Arc::new(self.verified(manifest, reload).await?),
        };
        reload.candidate = Some(Arc::clone(&next));
        self.prepare(&next).await?;
        // Versions that hold what this one has not must be known as such from now on.
        self.erased.refresh(&self.store).await?;
        reload.candidate = None;
        let (boundary, rows) = (&next.boundary, next.rows_in_batch());
        info!(version = number, ?boundary, rows, elapsed_ms = started.elapsed().as_millis() as u64, "swapped version");
        self.swaps.inc();
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }

    /// A first version that was taken while the speed layer was away may be one that it can never answer from: then the one
    /// before takes its place.
    async fn prove(&self, reload: &mut Reload) {
        let Some(older) = &reload.unproven else { return };
        let current = self.current();
        match self.prepare(&current).await {
            Ok(()) => {}
            // It has to be asked again: what it does not say is no refusal.
            Err(ServingError::SpeedUnavailable { .. }) => return,
            Err(_) => {
                if self.prepare(older).await.is_err() {
                    return;
                }
                warn!(version = older.number, instead_of = current.number, "the speed layer can answer from the version before only");
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(older);
            }
        }
        reload.unproven = None;
    }

    async fn verified(&self, manifest: Manifest, reload: &mut Reload) -> Result<Version, ServingError> {
        let number = manifest.version;
        let opened = Version::open(&self.store, manifest, &self.cache, Some(&self.current())).await;
        if opened.as_ref().is_err_and(ServingError::is_permanent) {
            reload.refused = Some(number);
        }
        opened
    }

    async fn prepare(&self, version: &Version) -> Result<(), ServingError> {
        self.speed.prepare(self.view(), version.number, Instant::now() + self.speed_timeout).await
    }
}

/// The newest version that can be read, and the one before it if that is kept and can be read.
async fn readable(
    store: &Store,
    manifests: &Manifests,
    newest: i64,
    cache: &BlockCache,
) -> Result<(Version, Option<Version>), ServingError> {
    let mut found = Vec::new();
    let mut damage = None;
    for number in (1..=newest).rev().take(KEPT_VERSIONS) {
        let opened = match manifests.read(number).await {
            // What was before it answers nothing any more.
            Ok(manifest) if manifest.withdrawn => break,
            Ok(manifest) => Version::open(store, manifest, cache, None).await,
            // It has expired, say because it counted somebody who is erased.
            Err(StoreError::NotFound { .. }) if number < newest => break,
            Err(e) => Err(e.into()),
        };
        match opened {
            Ok(version) => found.push(version),
            Err(e) if e.is_permanent() => {
                error!(version = number, reason = e.in_one_line(), "version cannot be served");
                damage.get_or_insert(e);
            }
            Err(e) => return Err(e),
        }
    }
    let mut found = found.into_iter();
    match found.next() {
        Some(first) => Ok((first, found.next())),
        // It was withdrawn a moment ago.
        None => Err(damage.unwrap_or(ServingError::Opening)),
    }
}

/// The newer of two versions that the speed layer can answer from; the newer one if it can from neither, and then the older one
/// too, for later.
async fn first_prepared(
    newer: Version,
    older: Option<Version>,
    speed: &SpeedClient,
    view: &str,
    patience: Duration,
) -> (Version, Option<Arc<Version>>) {
    let Err(reason) = speed.prepare(view, newer.number, Instant::now() + patience).await else { return (newer, None) };
    warn!(version = newer.number, reason = reason.in_one_line(), "the speed layer is not ready for this version");
    let Some(older) = older else { return (newer, None) };
    match speed.prepare(view, older.number, Instant::now() + patience).await {
        Ok(()) => (older, None),
        Err(_) => (newer, Some(Arc::new(older))),
    }
}

/// Logs a failure once, however often it comes back: as an error if a person must look, else as a warning.
fn complain(reload: &mut Reload, failure: &ServingError) {
    let reason = failure.in_one_line();
    if reload.complaint.as_ref() == Some(&reason) {
        return;
    }
    if failure.is_permanent() {
        error!(reason, "the newest version cannot be served; the one before answers");
    } else {
        warn!(reason, "the newest version is not ready; the one before answers");
    }
    reload.complaint = Some(reason);
}
