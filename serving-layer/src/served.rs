//! The views that can be answered: the built-in one, and every other as soon as it has a version.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use storage::batch_view::BlockCache;
use storage::manifest::{Manifests, list_views};
use storage::paths::ViewName;
use storage::store::Store;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};
use views::EventSchema;

use crate::ServingError;
use crate::answer::Answers;
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
}

/// The views that can be answered, by name. One that is there stays.
#[derive(Debug)]
pub(crate) struct Served {
    opening: Opening,
    views: RwLock<BTreeMap<ViewName, Arc<Watched>>>,
}

/// A view, and the tasks that look for its new versions and at the files of the one that answers.
#[derive(Debug)]
struct Watched {
    answers: Answers,
    _watchers: [AbortOnDropHandle<()>; 2],
}

impl Served {
    /// Opens the built-in view, and every other that can be opened.
    ///
    /// # Errors
    /// What keeps the built-in view from being answered.
    pub(crate) async fn open(opening: Opening) -> Result<Self, ServingError> {
        let served = Self { opening, views: RwLock::default() };
        served.add(ViewName::user_stats()).await?;
        served.look(&mut BTreeMap::new()).await;
        Ok(served)
    }

    /// What answers questions about `view`, if that can be answered.
    pub(crate) fn view(&self, view: &str) -> Result<Answers, ServingError> {
        let views = self.views.read().unwrap_or_else(PoisonError::into_inner);
        let found = views.iter().find(|(name, _)| name.as_str() == view);
        found.map(|(_, watched)| watched.answers.clone()).ok_or_else(|| ServingError::NoView { known: views.keys().cloned().collect() })
    }

    /// All of them, by name.
    pub(crate) fn all(&self) -> Vec<Answers> {
        self.views.read().unwrap_or_else(PoisonError::into_inner).values().map(|watched| watched.answers.clone()).collect()
    }

    /// The store that they are read from.
    pub(crate) fn store(&self) -> &Store {
        &self.opening.store
    }

    /// Looks for new views, for ever.
    pub(crate) async fn watch(&self) {
        let mut ticks = interval(self.opening.poll_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut complaints = BTreeMap::new();
        loop {
            ticks.tick().await;
            self.look(&mut complaints).await;
        }
    }

    /// Opens what is new. What cannot be opened is logged, once for each reason, and tried again.
    async fn look(&self, complaints: &mut BTreeMap<Option<ViewName>, String>) {
        let mut complain = |view: Option<ViewName>, outcome: Result<(), ServingError>| match outcome {
            Ok(()) => drop(complaints.remove(&view)),
            Err(e) => {
                let reason = e.in_one_line();
                if complaints.get(&view) != Some(&reason) {
                    match &view {
                        Some(view) => error!(%view, reason, "the view cannot be answered"),
                        None => warn!(reason, "the store does not say which views there are"),
                    }
                    complaints.insert(view, reason);
                }
            }
        };
        match list_views(&self.opening.store).await {
            Err(e) => complain(None, Err(e.into())),
            Ok(views) => {
                complain(None, Ok(()));
                for view in views {
                    let is_new = !self.views.read().unwrap_or_else(PoisonError::into_inner).contains_key(&view);
                    if is_new {
                        complain(Some(view.clone()), self.add(view).await);
                    }
                }
            }
        }
    }

    /// Opens a view. One that is not built in and has no version is not there yet.
    async fn add(&self, view: ViewName) -> Result<(), ServingError> {
        let Opening { store, events, cache, speed, speed_timeout, poll_interval, scrub_interval } = &self.opening;
        if view != ViewName::user_stats() && Manifests::new(store.clone(), view.clone()).newest().await?.is_none() {
            return Ok(());
        }
        let versions = Versions::open(view.clone(), store.clone(), cache.clone(), speed.clone(), *speed_timeout, events).await?;
        let versions = Arc::new(versions);
        let (watched, scrubbed) = (Arc::clone(&versions), Arc::clone(&versions));
        let (poll_interval, scrub_interval) = (*poll_interval, *scrub_interval);
        let watchers = [
            AbortOnDropHandle::new(tokio::spawn(async move { watched.watch(poll_interval).await })),
            AbortOnDropHandle::new(tokio::spawn(async move { scrubbed.scrub(scrub_interval).await })),
        ];
        let answers = Answers { versions, speed: speed.clone(), speed_timeout: *speed_timeout };
        let watched = Arc::new(Watched { answers, _watchers: watchers });
        info!(%view, "answering");
        self.views.write().unwrap_or_else(PoisonError::into_inner).insert(view, watched);
        Ok(())
    }
}
