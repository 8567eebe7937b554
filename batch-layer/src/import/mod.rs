//! `import`: files of history into the master dataset, each one committed whole or not at all (decision 0010).
//!
//! For each file: is its content imported already? If not, its rows are looked at as far as a mapping needs it (`mapping`, `orders`);
//! then its number is claimed, its rows are read, checked one by one as a server would (`rows`) and written ([`storage::imports`]), the
//! content is compared once more, and the import is committed. Files are imported several at a time and numbered in the order in which
//! they were given. What fails leaves at most a claim, and the same command goes on there.
//!
//! Held in memory for each file at a time: the writer of every partition, some batches on their way, and what a mapping needs that is
//! not row by row, which is bounded and spills.

mod error;
mod fetch;
mod mapping;
mod orders;
mod progress;
mod rows;
mod stream;
mod summary;
#[cfg(test)]
mod tests;
mod trial;

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream as streams};
use storage::config::Config;
use storage::imports::{self, Claims, Identity, ImportClaim, ImportMeta, ImportWriter, Terms};
use storage::input::{EventFile, Format, Position, Table};
use storage::machine::{RealMachine, blocking, now_us};
use storage::manifest::{DefinitionFile, Manifest, newest_versions};
use storage::master;
use storage::store::{Retry, Store, StoreError};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use views::EventSchema;

pub use error::ImportError;
pub use mapping::{Mapping, MappingError};
pub use progress::Bar;
pub use summary::{ImportSummary, Imported, table};

use fetch::{Fetched, Found, shown};
use mapping::Bounds;
use orders::{Order, Ordered, Spool};
use rows::{Outcome, broken, judge, judge_batch};
use stream::{InFileOrder, read_ahead};
use summary::Reasons;
use trial::Trial;

/// Rows of a file of events that are judged at a time.
const CHUNK_ROWS: usize = 1024;

/// What to import, and how.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// Paths, or URLs: `file://`, `http://`, `https://`.
    pub inputs: Vec<String>,
    /// Of all inputs; without it each one's ending says so.
    pub format: Option<Format>,
    /// Makes events of other columns.
    pub mapping: Option<Mapping>,
    /// Files at a time.
    pub threads: NonZeroUsize,
    /// What an event is.
    pub events: EventSchema,
    /// Where views are declared.
    pub views_dir: PathBuf,
    /// Partitions of the log, where no version can tell.
    pub partitions: u32,
    /// Memory for mappings that sort, bytes, shared among the threads.
    pub memory_limit_bytes: u64,
    /// Folder for what does not fit; `None` is the system's temporary folder.
    pub spill_dir: Option<PathBuf>,
    /// How calls to the store are repeated.
    pub retry: Retry,
}

impl ImportOptions {
    /// What `config` says about an import.
    #[must_use]
    pub fn from_config(config: &Config, inputs: Vec<String>) -> Self {
        let batch = &config.batch_layer;
        Self {
            inputs,
            format: None,
            mapping: None,
            threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            events: config.events.clone(),
            views_dir: config.views.dir.clone(),
            partitions: config.log.partitions,
            memory_limit_bytes: batch.memory_limit.0,
            spill_dir: Some(batch.spill_dir.clone()).filter(|dir| !dir.as_os_str().is_empty()),
            retry: Retry::seeded(0),
        }
    }
}

/// Among how many partitions the users of the log are divided: a version says so, or what was archived or imported before bears it out.
async fn partitions(configured: u32, store: &Store, newest: &[Manifest]) -> Result<u32, StoreError> {
    if let Some(version) = newest.first() {
        return Ok(version.boundary.len() as u32);
    }
    let refuse = |path: String, found: String| Err(StoreError::Partitions { configured, path, found });
    if let Some((segment, _)) = master::segment_sizes(store).await?.into_iter().find(|(segment, _)| segment.partition >= configured) {
        return refuse(segment.path().to_string(), format!("is of partition {}", segment.partition));
    }
    match imports::list(store).await?.into_iter().find(|import| import.partitions != configured) {
        Some(other) => refuse(format!("import {}", other.import), format!("has {} of them", other.partitions)),
        None => Ok(configured),
    }
}

/// Imports the files, several at a time. One that fails keeps no other from being imported.
///
/// # Errors
/// Only what keeps every file from being imported: nobody knows how users are divided, they are divided otherwise than configured, or a view
/// cannot be used.
pub async fn import(options: &ImportOptions, store: &Store, bar: Arc<Bar>) -> Result<ImportSummary, ImportError> {
    let store = store.with_retry(options.retry);
    let newest = newest_versions(&store).await?;
    let partitions = partitions(options.partitions, &store, &newest).await?;
    let views = trial::definitions(options, &store, &newest).await?;
    let claims = Claims::new(store.clone());
    let job = Arc::new(Job { claims, store, partitions, views, begun: Mutex::default(), options: options.clone(), bar });
    let found: Vec<_> = options.inputs.iter().map(|input| Found::parse(input, options.format)).collect();
    let size = |found: &Result<Found, ImportError>| found.as_ref().map_or(0, Found::size_bytes);
    job.bar.begin(found.iter().map(size).sum(), found.len());

    // Each file claims its number when the one before it has.
    let (first, mut turn) = oneshot::channel();
    drop(first);
    let mut tasks = Vec::new();
    for found in found {
        let (done, next) = oneshot::channel();
        let (job, mine) = (Arc::clone(&job), Turn { before: std::mem::replace(&mut turn, next), done });
        tasks.push(async move {
            // A set of one task, which ends with this future.
            let mut task = JoinSet::new();
            task.spawn(async move {
                let fetched = job.fetched(found?).await?;
                let imported = Box::pin(job.file(fetched.file.clone(), mine)).await;
                job.bar.file_done();
                imported
            });
            task.join_next().await.expect("there is one task").expect("it does not panic, and is aborted with this future")
        });
    }
    let outcomes = streams::iter(tasks).buffered(options.threads.get()).collect::<Vec<_>>().await;
    job.bar.end();
    Ok(ImportSummary::new(options.inputs.iter().map(|input| shown(input)).zip(outcomes).collect(), job.bar.elapsed()))
}

/// When a file may claim its number.
struct Turn {
    /// Is closed when it may.
    before: oneshot::Receiver<()>,
    /// Is dropped when the next one may.
    done: oneshot::Sender<()>,
}

/// What all files of one command share.
struct Job {
    store: Store,
    claims: Claims,
    /// Numbers that this command is at work on, or was.
    begun: Mutex<BTreeSet<i64>>,
    partitions: u32,
    /// What new imports are tried on.
    views: Vec<DefinitionFile>,
    options: ImportOptions,
    bar: Arc<Bar>,
}

/// The rows of one file, judged.
type Judged = BoxStream<'static, Result<Vec<Outcome>, ImportError>>;

impl Job {
    async fn fetched(&self, found: Found) -> Result<Fetched, ImportError> {
        let url = match found {
            Found::Here(file) => return Ok(Fetched::local(file)),
            Found::At(url) => url,
        };
        let options = self.options.clone();
        let fetched = blocking(move || Fetched::get(&url, &options)).await?;
        self.bar.more(fetched.file.size_bytes);
        Ok(fetched)
    }

    async fn file(self: &Arc<Self>, file: EventFile, turn: Turn) -> Result<Imported, ImportError> {
        let content = file.digest().await?;
        let identity = Identity {
            content: content.to_hex().to_string(),
            mapping: self.options.mapping.as_ref().map(Mapping::digest),
            format: file.format.name().to_owned(),
        };
        let (events, views) = (self.options.events.clone(), self.views.clone());
        let terms = Terms { partitions: self.partitions, events, views, name: file.name(), now_us: now_us(&RealMachine) };
        if let Some(claim) = self.claims.find(&identity).await?
            && let Some(there) = imports::committed(&self.store, &claim).await?
        {
            self.bar.skip(file.size_bytes);
            return Ok(Imported::Already(there));
        }
        let prepared = self.prepare(&file).await?;
        // Closed or sent: either way it is our turn.
        let _ = turn.before.await;
        let claim = self.claims.claim(&identity, &terms).await?;
        let is_first = self.begun.lock().expect("nobody panics with the lock").insert(claim.import);
        drop(turn.done);
        if !is_first {
            self.bar.skip(file.size_bytes);
            return Ok(Imported::Twice);
        }
        if let Some(there) = imports::committed(&self.store, &claim).await? {
            return Ok(Imported::Already(there));
        }
        self.write(&file, &content, prepared, &claim).await
    }

    async fn write(
        &self,
        file: &EventFile,
        content: &blake3::Hash,
        prepared: Prepared,
        claim: &ImportClaim,
    ) -> Result<Imported, ImportError> {
        let position = Position::default();
        let trial = Arc::new(Trial::new(claim.import, &claim.views)?);
        let later: Vec<_> = self.views.iter().filter(|view| !claim.views.contains(view)).cloned().collect();
        let later = Arc::new(Trial::new(claim.import, &later)?);
        let mut judged = self.judged(file, prepared, claim, &position).await?;
        let mut writer = Box::new(ImportWriter::create(&self.store, claim).await?);
        let (mut reasons, mut told) = (Reasons::default(), 0);
        while let Some(outcomes) = judged.try_next().await? {
            let rows = outcomes.len() as u64;
            let (trial, later, schema, import) = (Arc::clone(&trial), Arc::clone(&later), claim.events.clone(), claim.import);
            let written = blocking(move || {
                let outcomes = trial.judge(outcomes, &schema);
                if let Some((event_id, reason)) = later.first_failure(&outcomes) {
                    return Err(ImportError::LaterView { import, event_id, reason });
                }
                for outcome in outcomes {
                    match outcome {
                        Outcome::Event(event) => writer.push(event)?,
                        Outcome::Refused(refusal, row) => {
                            reasons.blame(&refusal);
                            writer.refuse(refusal, row)?;
                        }
                    }
                }
                Ok((writer, reasons))
            });
            (writer, reasons) = written.await?;
            let here = position.get();
            self.bar.advance(rows, here.saturating_sub(told));
            told = told.max(here);
        }
        self.bar.advance(0, file.size_bytes.saturating_sub(told));
        if file.digest().await? != *content {
            return Err(ImportError::Changed { file: file.path.clone() });
        }
        let meta: ImportMeta = Box::pin(writer.commit()).await?;
        Ok(Imported::Now(meta, reasons))
    }

    /// Looks at the file as far as it must be known before its number is claimed.
    async fn prepare(&self, file: &EventFile) -> Result<Prepared, ImportError> {
        let Some(mapping) = &self.options.mapping else {
            let file = file.clone();
            // Columns that are not those of events are told here.
            blocking(move || file.rows(&Position::default()).map(drop)).await?;
            return Ok(Prepared::Events);
        };
        let (bounds, looked_at) = (self.bounds(), file.clone());
        let table = Arc::new(blocking(move || Table::infer(&looked_at)).await?);
        let input = InFileOrder { table: Arc::clone(&table), position: Position::default() };
        if mapping.plan(Arc::new(input), &bounds).await?.row_by_row {
            return Ok(Prepared::RowByRow(table));
        }
        let (copied, into) = (Arc::clone(&table), bounds.clone());
        let spool = Arc::new(blocking(move || Spool::write(&copied, &into)).await?);
        orders::check(mapping, &spool, &bounds).await?;
        Ok(Prepared::Whole(table, spool))
    }

    /// The rows of the file, checked against the events of the claim.
    async fn judged(&self, file: &EventFile, prepared: Prepared, claim: &ImportClaim, position: &Position) -> Result<Judged, ImportError> {
        let schema = claim.events.clone();
        let (table, planned) = match (prepared, &self.options.mapping) {
            (Prepared::RowByRow(table), Some(mapping)) => {
                let input = InFileOrder { table: Arc::clone(&table), position: position.clone() };
                (table, mapping.plan(Arc::new(input), &self.bounds()).await?)
            }
            (Prepared::Whole(table, spool), Some(mapping)) => {
                let input = Ordered { spool, order: Order::File };
                (table, mapping.plan(Arc::new(input), &self.bounds()).await?)
            }
            _ => {
                let (file, position) = (file.clone(), position.clone());
                let open = move || {
                    let mut rows = file.rows(&position)?;
                    Ok::<_, ImportError>(std::iter::from_fn(move || {
                        let chunk =
                            rows.by_ref().take(CHUNK_ROWS).map(|row| Ok(judge(row?, &schema))).collect::<Result<Vec<_>, ImportError>>();
                        Some(chunk).filter(|chunk| !chunk.as_ref().is_ok_and(Vec::is_empty))
                    }))
                };
                return Ok(read_ahead(open));
            }
        };
        let lines: Vec<Outcome> = table.broken.iter().map(|(line, reason)| broken(*line, reason.clone())).collect();
        let mapped = planned.execute().await?.map_err(|e| ImportError::Mapping(MappingError::Rows(e)));
        let mapped = mapped.and_then(move |batch| {
            let schema = schema.clone();
            async move {
                let judged = blocking(move || judge_batch(&batch, &schema)).await;
                judged.map_err(|e| ImportError::Mapping(MappingError::Rows(e.into())))
            }
        });
        Ok(streams::once(async { Ok(lines) }).chain(mapped).boxed())
    }

    fn bounds(&self) -> Bounds {
        let memory = self.options.memory_limit_bytes / self.options.threads.get() as u64;
        Bounds { memory_bytes: usize::try_from(memory).unwrap_or(usize::MAX), spill_dir: self.options.spill_dir.clone() }
    }
}

/// How the rows of a file are going to be read.
enum Prepared {
    /// As events.
    Events,
    /// By a mapping that makes each event of one row.
    RowByRow(Arc<Table>),
    /// By a mapping that looks at all rows, and was seen to be reproducible.
    Whole(Arc<Table>, Arc<Spool>),
}
