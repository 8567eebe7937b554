//! The views that can be answered: the built-in one, and every other as soon as it has a version.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::future::join_all;
use storage::batch_view::BlockCache;
use storage::manifest::{Manifests, list_views};
use storage::paths::ViewName;
use storage::store::Store;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info};
use views::EventSchema;

use crate::ServingError;
use crate::answer::Answers;
use crate::earlier::{Earlier, Turns};
use crate::erasures::Known;
use crate::metrics::Metrics;
use crate::speed::SpeedClient;
use crate::versions::Versions;

/// What every view is opened with.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) store: Store,
    pub(crate) events: EventSchema,
    pub(crate) cache: BlockCache,
    pub(crate) speed: SpeedClient,
    pub(crate) speed_timeout: Duration,
    /// How often the store is asked for new views and versions.
    pub(crate) poll_interval: Duration,
    pub(crate) scrub_interval: Duration,
    /// Whose turn it is to open an earlier version.
    pub(crate) turns: Turns,
    /// Of all views.
    pub(crate) erased: Known,
    pub(crate) metrics: Arc<Metrics>,
}

/// The views that can be answered, by name. One that is there stays until it is withdrawn.
#[derive(Debug)]
pub(crate) struct Served {
    opening: Opening,
    views: RwLock<BTreeMap<ViewName, Arc<Watched>>>,
    /// What was in the way of opening a view when it was tried last, by view; that of none is the list of views.
    obstacles: RwLock<BTreeMap<Option<ViewName>, String>>,
    /// Whether every view that was there at the start has been tried.
    have_looked: AtomicBool,
}

/// A view, and the tasks that look for its new versions and at the files of the one that answers.
#[derive(Debug)]
struct Watched {
    answers: Answers,
    _watchers: [AbortOnDropHandle<()>; 2],
}

/// The newest versions of views that cannot be opened: trying again would end the same way.
type Refused = BTreeMap<ViewName, i64>;

impl Served {
    /// Opens the built-in view. The others are opened by [`Self::watch`], for one may take long while the speed layer is away.
    ///
    /// # Errors
    /// What keeps the built-in view from being answered.
    pub(crate) async fn open(opening: Opening) -> Result<Self, ServingError> {
        let served = Self { opening, views: RwLock::default(), obstacles: RwLock::default(), have_looked: AtomicBool::new(false) };
        served.add(ViewName::user_stats()).await?;
        Ok(served)
    }

    /// What answers questions about `view`, if that can be answered.
    pub(crate) fn view(&self, view: &str) -> Result<Answers, ServingError> {
        let have_looked = self.have_looked();
        let views = self.views.read().unwrap_or_else(PoisonError::into_inner);
        match views.iter().find(|(name, _)| name.as_str() == view) {
            Some((_, watched)) => Ok(watched.answers.clone()),
            None if !have_looked => Err(ServingError::Opening),
            None if let Some((view, reason)) = self.unopened().into_iter().find(|(name, _)| name.as_str() == view) => {
                Err(ServingError::Unopened { view, reason })
            }
            None => Err(ServingError::NoView { known: views.keys().cloned().collect() }),
        }
    }

    /// All of them, by name.
    pub(crate) fn all(&self) -> Vec<Answers> {
        self.views.read().unwrap_or_else(PoisonError::into_inner).values().map(|watched| watched.answers.clone()).collect()
    }

    /// Views that are published and could not be opened, with what was in the way.
    pub(crate) fn unopened(&self) -> BTreeMap<ViewName, String> {
        let obstacles = self.obstacles.read().unwrap_or_else(PoisonError::into_inner);
        obstacles.iter().filter_map(|(view, reason)| Some((view.clone()?, reason.clone()))).collect()
    }

    /// Whether every view that was there at the start has been tried.
    pub(crate) fn have_looked(&self) -> bool {
        self.have_looked.load(Ordering::Acquire)
    }

    /// What they are opened with.
    pub(crate) fn opening(&self) -> &Opening {
        &self.opening
    }

    /// The store that they are read from.
    pub(crate) fn store(&self) -> &Store {
        &self.opening.store
    }

    /// Looks for new views and erasures, for ever.
    pub(crate) async fn watch(&self) {
        // Opening a view may take long, and who was erased should not wait for it.
        tokio::join!(self.watch_views(), self.watch_erasures());
    }

    async fn watch_erasures(&self) {
        let mut ticks = interval(self.opening.poll_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut complaint = None;
        loop {
            ticks.tick().await;
            let failure = self.opening.erased.refresh(&self.opening.store).await.err().map(|e| e.to_string());
            if failure != complaint {
                if let Some(reason) = &failure {
                    error!(reason, "the erasures cannot be read; answers without the speed layer may show who is erased");
                }
                complaint = failure;
            }
        }
    }

    async fn watch_views(&self) {
        let mut ticks = interval(self.opening.poll_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut refused = Refused::default();
        loop {
            ticks.tick().await;
            let looked = self.look(&mut refused).await;
            if looked {
                self.have_looked.store(true, Ordering::Release);
            }
        }
    }

    /// Opens what is new, side by side. The answer is whether the store said which views there are.
    async fn look(&self, refused: &mut Refused) -> bool {
        let views = list_views(&self.opening.store).await;
        self.note(None, views.as_ref().err().map(|e| format!("the store does not say which views there are: {e}")));
        let Ok(mut views) = views else { return false };
        {
            let mut known = self.views.write().unwrap_or_else(PoisonError::into_inner);
            known.retain(|view, watched| {
                let stays = !watched.answers.versions.are_withdrawn();
                if !stays {
                    info!(%view, "the view is withdrawn");
                }
                stays
            });
            views.retain(|view| !known.contains_key(view));
        }
        // What is gone is in nobody's way.
        let stays = |view: &Option<ViewName>, _: &mut String| view.as_ref().is_none_or(|view| views.contains(view));
        self.obstacles.write().unwrap_or_else(PoisonError::into_inner).retain(stays);
        let known = &*refused;
        let opened = join_all(views.into_iter().map(|view| async move {
            let manifests = Manifests::new(self.opening.store.clone(), view.clone());
            let newest = manifests.newest().await;
            if let Ok(Some(newest)) = newest
                && manifests.read(newest).await.is_ok_and(|newest| newest.withdrawn)
            {
                return Some((view, None, Ok(())));
            }
            let opened = match &newest {
                Ok(Some(newest)) if known.get(&view) != Some(newest) => self.add(view.clone()).await,
                Ok(Some(_)) => return None,
                // Nothing is published, so nothing is in the way.
                Ok(None) | Err(_) => Ok(()),
            };
            Some(match newest {
                Ok(newest) => (view, newest, opened),
                Err(e) => (view, None, Err(e.into())),
            })
        }));
        for (view, newest, opened) in opened.await.into_iter().flatten() {
            if opened.is_err() {
                self.opening.metrics.unopened_views.inc();
            }
            if let (Err(e), Some(newest)) = (&opened, newest)
                && e.is_permanent()
            {
                refused.insert(view.clone(), newest);
            }
            self.note(Some(view), opened.err().map(|e| e.in_one_line()));
        }
        true
    }

    /// Keeps what is in the way of a view, and logs it once for each reason; nothing is any more if there is no reason.
    fn note(&self, view: Option<ViewName>, reason: Option<String>) {
        let mut obstacles = self.obstacles.write().unwrap_or_else(PoisonError::into_inner);
        let Some(reason) = reason else {
            obstacles.remove(&view);
            return;
        };
        if obstacles.get(&view) != Some(&reason) {
            let name = view.as_ref().map_or("", ViewName::as_str);
            error!(view = name, reason, "a view cannot be answered");
            obstacles.insert(view, reason);
        }
    }

    /// Opens a view that has a version, or is built in.
    async fn add(&self, view: ViewName) -> Result<(), ServingError> {
        let Opening { store, events, cache, speed, speed_timeout, poll_interval, scrub_interval, turns, erased, metrics } = &self.opening;
        erased.refresh(store).await?;
        let (cache, speed) = (cache.clone(), speed.clone());
        let opened = Versions::open(view.clone(), store.clone(), cache.clone(), speed.clone(), *speed_timeout, events, erased.clone());
        let versions = opened.await?;
        let versions = Arc::new(versions);
        let (watched, scrubbed) = (Arc::clone(&versions), Arc::clone(&versions));
        let (poll_interval, scrub_interval) = (*poll_interval, *scrub_interval);
        let watchers = [
            AbortOnDropHandle::new(tokio::spawn(async move { watched.watch(poll_interval).await })),
            AbortOnDropHandle::new(tokio::spawn(async move { scrubbed.scrub(scrub_interval).await })),
        ];
        let earlier = Earlier::new(store, view.clone(), &cache, scrub_interval, turns);
        let answers =
            Answers { versions, earlier, speed, speed_timeout: *speed_timeout, erased: erased.clone(), metrics: Arc::clone(metrics) };
        let watched = Arc::new(Watched { answers, _watchers: watchers });
        info!(%view, "answering");
        self.views.write().unwrap_or_else(PoisonError::into_inner).insert(view, watched);
        Ok(())
    }
}
