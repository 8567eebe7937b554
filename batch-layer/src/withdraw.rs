//! A view that nobody answers any more: its next version says so.
//!
//! What was published stays in the store. The servers let go of the view when they see the version: no question is answered, no event
//! is refused because the view fails on it, and the log is not kept for it. A later run of the view, or a rollback, brings it back.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use storage::machine::{Machine, RealMachine};
use storage::manifest::{Manifest, Manifests, NEWEST_FORMAT_VERSION};
use storage::paths::ViewName;
use storage::store::{Retry, Store};
use tracing::info;

use crate::definition::file_of;
use crate::error::RunError;
use crate::keeper::Keeper;
use crate::options::RunOptions;
use crate::report::new_run_id;
use crate::run::{publish, rfc3339};

/// Withdraws the view of `options`; gives what was published.
///
/// # Errors
/// It is the built-in one, it still has a file, or it has no version that answers. Nothing was published then, unless the error is
/// [`RunError::Unknown`].
pub async fn withdraw(options: &RunOptions, store: &Store) -> Result<Manifest, RunError> {
    let machine: Arc<dyn Machine> = Arc::new(RealMachine);
    let view = || options.view.to_string();
    if options.view == ViewName::user_stats() {
        return Err(RunError::BuiltIn { view: view() });
    }
    let file = file_of(options);
    if file.exists() {
        return Err(RunError::StillDeclared { view: view(), file: file.display().to_string() });
    }
    let now = machine.now();
    let run_id = new_run_id(DateTime::<Utc>::from(now), machine.random() as u32);
    let store = store.with_retry(Retry { seed: options.retry.seed ^ machine.random() as u64, ..options.retry });
    let keeper = Keeper::take(&store, &options.view, run_id.as_str(), options.lease_ttl).await?;
    let withdrawn = async {
        let newest = Manifests::new(store.clone(), options.view.clone()).latest().await?;
        let Some(newest) = newest.filter(|newest| !newest.withdrawn) else { return Err(RunError::NotPublished { view: view() }) };
        let manifest = Manifest {
            format_version: NEWEST_FORMAT_VERSION,
            version: newest.version + 1,
            parent: Some(newest.version),
            run_id: run_id.to_string(),
            created_time: rfc3339(now),
            lease: keeper.check().await?,
            withdrawn: true,
            event_count: 0,
            row_count: 0,
            late_duplicate_count: 0,
            conflict_count: 0,
            files: Vec::new(),
            audit: None,
            ..newest
        };
        publish(&store, &manifest).await?;
        info!(view = %options.view, version = manifest.version, "withdrew the view");
        Ok(manifest)
    };
    let withdrawn = Box::pin(withdrawn).await;
    keeper.release().await;
    withdrawn
}
