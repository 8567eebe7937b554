//! An older version's content, published again under the next number.
//!
//! Nothing is computed. The files are those of the older version, so it costs what comparing them costs; the speed layer is asked first
//! whether it can still answer from the older boundary, for a version that nobody can complete would only stand in the way. What was
//! computed before an erasure that is carried out since is not brought back, nor what counts events that have expired.

use storage::batch_view::{BlockCache, OpenView};
use storage::erasures::Erasures;
use storage::machine::RealMachine;
use storage::manifest::{self, Definitions, Manifest, Manifests};
use storage::store::{Store, StoreError};
use tracing::info;

use crate::error::RunError;
use crate::keeper::Turn;
use crate::options::RunOptions;
use crate::retention;
use crate::run::{publish, rfc3339};
use crate::service::SpeedLayer;

/// What can be done without a speed layer.
const OTHERWISE: &str = ", or take --no-speed-layer, which does not ask whether the version can still be answered";

/// Publishes the content of `version` of the view of `options` as its next version, and gives what was published.
///
/// # Errors
/// There is no such version before the newest, its files are damaged, or the speed layer cannot answer from its boundary any more.
/// Nothing was published then, unless the error is [`RunError::Unknown`].
pub async fn rollback(options: &RunOptions, store: &Store, version: i64) -> Result<Manifest, RunError> {
    let Turn { run_id, started, store, keeper } = Turn::take(&RealMachine, options, store).await?;
    let rolled_back = async {
        let manifest = prepared(options, &store, version).await?;
        let (run_id, created_time) = (run_id.to_string(), rfc3339(started));
        let manifest = Manifest { run_id, created_time, lease: keeper.check().await?, ..manifest };
        publish(&store, &manifest).await?;
        info!(view = %manifest.view, version = manifest.version, boundary = ?manifest.boundary, "published the content of an older version");
        Ok(manifest)
    };
    let rolled_back = Box::pin(rolled_back).await;
    keeper.release().await;
    rolled_back
}

/// The next manifest, with the content of `version`, which is sound and can be answered.
async fn prepared(options: &RunOptions, store: &Store, version: i64) -> Result<Manifest, RunError> {
    let manifests = Manifests::new(store.clone(), options.view.clone());
    let view = || options.view.to_string();
    let Some(newest) = manifests.newest().await? else { return Err(RunError::NoVersion { view: view(), version, newest: 0 }) };
    if !(1..newest).contains(&version) {
        return Err(RunError::NoVersion { view: view(), version, newest });
    }
    let older = match manifests.read(version).await {
        Err(StoreError::NotFound { path }) => return Err(expired(store, options, version, path).await?),
        read => read?,
    };
    if older.withdrawn {
        return Err(RunError::NotPublished { view: format!("version {version} of {}", options.view) });
    }
    check_erasures(store, &older, newest).await?;
    retention::check_version(store, &older).await?;
    Definitions::new(store.clone(), options.view.clone()).get(&older.fingerprint).await?;
    OpenView::open(store, older.clone(), &BlockCache::new(0)).await?;
    if let Some(url) = &options.speed_layer {
        SpeedLayer::connect(url, &options.tls, &options.client, OTHERWISE).await?.can_answer(&options.view, version).await?;
    }
    Ok(Manifest { version: newest + 1, parent: Some(newest), ..older })
}

/// Why the manifest of a version is not there.
pub(crate) async fn expired(store: &Store, options: &RunOptions, version: i64, path: String) -> Result<RunError, StoreError> {
    let view = options.view.to_string();
    let noted = manifest::expired::read(store, &options.view, version).await?;
    Ok(noted.map_or(RunError::Store(StoreError::NotFound { path }), |noted| RunError::Expired { view, version, reason: noted.reason }))
}

/// Refuses a version that may hold what the newest one has left out.
pub(crate) async fn check_erasures(store: &Store, older: &Manifest, newest: i64) -> Result<(), RunError> {
    let later = Erasures::list(store).await?.from(&older.boundary);
    if later.is_empty() || older.version == newest {
        return Ok(());
    }
    let answers = Manifests::new(store.clone(), older.view.clone()).read(newest).await?;
    // Where nobody answers, nobody counts what may be gone from the files by now.
    let carried_out = if answers.withdrawn { later } else { later.below(&answers.boundary) };
    let erasures = carried_out.iter().count();
    let (view, version) = (older.view.to_string(), older.version);
    if erasures == 0 { Ok(()) } else { Err(RunError::ErasedSince { view, version, erasures, newest }) }
}
