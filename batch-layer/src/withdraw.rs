//! A view that nobody answers any more: its next version says so.
//!
//! What was published stays in the store. The servers let go of the view when they see the version: no question is answered, no event
//! is refused because the view fails on it, and the log is not kept for it. A later run of the view, or a rollback, brings it back.

use storage::machine::RealMachine;
use storage::manifest::{Manifest, Manifests};
use storage::paths::ViewName;
use storage::store::Store;
use tracing::info;

use crate::definition::file_of;
use crate::error::RunError;
use crate::keeper::Turn;
use crate::options::RunOptions;
use crate::run::{publish, rfc3339};

/// Withdraws the view of `options`; gives what was published.
///
/// # Errors
/// It is the built-in one, it still has a file, or it has no version that answers. Nothing was published then, unless the error is
/// [`RunError::Unknown`].
pub async fn withdraw(options: &RunOptions, store: &Store) -> Result<Manifest, RunError> {
    let view = || options.view.to_string();
    if options.view == ViewName::user_stats() {
        return Err(RunError::BuiltIn { view: view() });
    }
    let file = file_of(options);
    if file.exists() {
        return Err(RunError::StillDeclared { view: view(), file: file.display().to_string() });
    }
    let Turn { run_id, started, store, keeper } = Turn::take(&RealMachine, options, store).await?;
    let withdrawn = async {
        let newest = Manifests::new(store.clone(), options.view.clone()).latest().await?;
        let Some(newest) = newest.filter(|newest| !newest.withdrawn) else { return Err(RunError::NotPublished { view: view() }) };
        let manifest = Manifest {
            version: newest.version + 1,
            parent: Some(newest.version),
            built_upon: None,
            run_id: run_id.to_string(),
            created_time: rfc3339(started),
            lease: keeper.check().await?,
            withdrawn: true,
            event_count: 0,
            row_count: 0,
            late_duplicate_count: 0,
            conflict_count: 0,
            files: Vec::new(),
            audit: None,
            accepted_difference: None,
            ..newest
        }
        .in_its_format();
        publish(&store, &manifest).await?;
        info!(view = %options.view, version = manifest.version, "withdrew the view");
        Ok(manifest)
    };
    let withdrawn = Box::pin(withdrawn).await;
    keeper.release().await;
    withdrawn
}
