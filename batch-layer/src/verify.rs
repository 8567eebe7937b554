//! A published version, checked again: its bytes against the manifest, and, if asked, its values against the raw events.

use std::sync::Arc;

use storage::batch_view::{BlockCache, OpenView};
use storage::manifest::{Manifest, Manifests};
use storage::master;
use storage::store::{Store, StoreError};

use crate::audit::{Audit, Audited, Evidence};
use crate::cut::Cut;
use crate::definition::of_version;
use crate::error::RunError;
use crate::hidden::Hidden;
use crate::options::RunOptions;
use crate::piece::Master;
use crate::progress::Progress;
use crate::retention;
use crate::rollback::{check_erasures, expired};
use crate::run::on_blocking_thread;
use crate::source::{EventColumns, Source};

/// How far a version is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Every byte of its files.
    Files,
    /// Every finished value too, against a second fold of the raw events that it covers.
    Recompute {
        /// Only keys whose first column has this text.
        first: Option<String>,
    },
}

/// A sound version.
#[derive(Clone, Debug)]
pub struct Verified {
    /// Its manifest.
    pub manifest: Manifest,
    /// Keys that were folded again and found equal.
    pub keys_compared: i64,
}

/// Checks a version of the view of `options`, the newest where none is named; `None` if there is none yet. Changes nothing.
///
/// # Errors
/// The first file that is damaged or missing, by name; [`RunError::Unlike`] with the first keys that differ.
pub async fn verify(
    options: &RunOptions,
    store: &Store,
    version: Option<i64>,
    depth: Depth,
    progress: Arc<dyn Progress>,
) -> Result<Option<Verified>, RunError> {
    let manifests = Manifests::new(store.clone(), options.view.clone());
    let manifest = match version {
        Some(version) => match manifests.read(version).await {
            Err(StoreError::NotFound { path }) => return Err(expired(store, options, version, path).await?),
            read => Some(read?),
        },
        None => manifests.latest().await?,
    };
    let Some(manifest) = manifest else { return Ok(None) };
    if manifest.withdrawn {
        return Err(RunError::NotPublished { view: format!("version {} of {}", manifest.version, options.view) });
    }
    let keys_compared = match depth {
        Depth::Files => {
            OpenView::open(store, manifest.clone(), &BlockCache::new(0)).await?;
            0
        }
        Depth::Recompute { first } => {
            // What it counted may be gone from the events too.
            check_erasures(store, &manifest, manifests.newest().await?.unwrap_or(manifest.version)).await?;
            retention::check_version(store, &manifest).await?;
            let audited = recompute(store, &manifest, first, &progress).await;
            progress.end();
            let Audited { summary, differences, .. } = audited?;
            if differences.keys > 0 {
                return Err(RunError::Unlike { version: manifest.version, differences: Box::new(differences) });
            }
            summary.keys_compared
        }
    };
    Ok(Some(Verified { manifest, keys_compared }))
}

async fn recompute(store: &Store, manifest: &Manifest, first: Option<String>, progress: &Arc<dyn Progress>) -> Result<Audited, RunError> {
    let definition = Arc::new(of_version(store, manifest).await?);
    let cut = Cut { log_id: manifest.log_id.clone(), boundary: manifest.boundary.clone() };
    progress.begin(cut.events() as u64);
    let master = Master::around(master::list_segments(store).await?, store, &cut.boundary).await?;
    let (imports, chains) = (master.imports_of(&manifest.imports)?, cut.chains(&master.segments)?);
    let columns = Arc::new(EventColumns::new(&definition));
    let audit = Audit {
        store: store.clone(),
        evidence: Evidence {
            sources: Source::of_chains(store, &columns, &imports, chains, &Hidden::by(&master.erasures), progress),
            ..Evidence::default()
        },
        definition,
        candidate: manifest.clone(),
        parent: None,
        speed: None,
        progress: Arc::clone(progress),
    };
    Box::pin(on_blocking_thread(audit.again(first))).await
}
