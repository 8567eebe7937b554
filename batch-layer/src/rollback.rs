//! An older version's content, published again under the next number.
//!
//! Nothing is computed. The files are those of the older version, so it costs what comparing them costs; the speed layer is asked first
//! whether it can still answer from the older boundary, for a version that nobody can complete would only stand in the way.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use storage::batch_view::{BlockCache, OpenView};
use storage::machine::{Machine, RealMachine};
use storage::manifest::{Definitions, Manifest, Manifests};
use storage::store::{Retry, Store};
use tracing::info;

use crate::error::RunError;
use crate::keeper::Keeper;
use crate::options::RunOptions;
use crate::report::new_run_id;
use crate::run::{publish, rfc3339};
use crate::service::SpeedLayer;

/// Publishes the content of `version` of the view of `options` as its next version, and gives what was published.
///
/// # Errors
/// There is no such version before the newest, its files are damaged, or the speed layer cannot answer from its boundary any more.
/// Nothing was published then, unless the error is [`RunError::Unknown`].
pub async fn rollback(options: &RunOptions, store: &Store, version: i64) -> Result<Manifest, RunError> {
    rollback_on(Arc::new(RealMachine), options, store, version).await
}

async fn rollback_on(machine: Arc<dyn Machine>, options: &RunOptions, store: &Store, version: i64) -> Result<Manifest, RunError> {
    let now = machine.now();
    let run_id = new_run_id(DateTime::<Utc>::from(now), machine.random() as u32);
    let store = store.with_retry(Retry { seed: options.retry.seed ^ machine.random() as u64, ..options.retry });
    let keeper = Keeper::take(&store, &options.view, run_id.as_str(), options.lease_ttl).await?;
    let manifest = Box::pin(prepared(options, &store, version)).await;
    let published = match manifest {
        Ok(manifest) => {
            Box::pin(publish_alone(&store, &keeper, Manifest { run_id: run_id.to_string(), created_time: rfc3339(now), ..manifest })).await
        }
        Err(e) => Err(e),
    };
    keeper.release().await;
    published
}

/// The next manifest, with the content of `version`, which is sound and can be answered.
async fn prepared(options: &RunOptions, store: &Store, version: i64) -> Result<Manifest, RunError> {
    let manifests = Manifests::new(store.clone(), options.view.clone());
    let view = || options.view.to_string();
    let Some(newest) = manifests.newest().await? else { return Err(RunError::NoVersion { view: view(), version, newest: 0 }) };
    if !(1..newest).contains(&version) {
        return Err(RunError::NoVersion { view: view(), version, newest });
    }
    let older = manifests.read(version).await?;
    if older.withdrawn {
        return Err(RunError::NotPublished { view: format!("version {version} of {}", options.view) });
    }
    Definitions::new(store.clone(), options.view.clone()).get(&older.fingerprint).await?;
    OpenView::open(store, older.clone(), &BlockCache::new(0)).await?;
    if let Some(url) = &options.speed_layer {
        SpeedLayer::connect(url).await?.can_answer(&options.view, version).await?;
    }
    Ok(Manifest { version: newest + 1, parent: Some(newest), ..older })
}

async fn publish_alone(store: &Store, keeper: &Keeper, mut manifest: Manifest) -> Result<Manifest, RunError> {
    manifest.lease = keeper.check().await?;
    publish(store, &manifest).await?;
    info!(view = %manifest.view, version = manifest.version, boundary = ?manifest.boundary, "published the content of an older version");
    Ok(manifest)
}
