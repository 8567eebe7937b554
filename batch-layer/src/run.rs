//! The handover, step by step: lease, cut, recompute, read back and audit, look at the lease again, publish.

mod notes;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use chrono::{DateTime, SecondsFormat, Utc};
use merganser_proto::{Transport, trace_span, traces};
use storage::identities;
use storage::machine::{Machine, RealMachine, blocking, driven};
use storage::manifest::{AcceptedDifference, Definitions, FORMAT_VERSION, Manifest, Manifests, PublishOutcome};
use storage::master;
use storage::paths::Id;
use storage::store::{Store, StoreError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::field::Empty;
use tracing::{Instrument, info, warn};
use views::{Definition, key};

use crate::audit::{Audit, Audited, Evidence, Touched};
use crate::beacon::Beacon;
use crate::collect::{Collected, collect};
use crate::compute::{self, Base, Computed, Target};
use crate::cut::Cut;
use crate::dedup::EXAMPLES;
use crate::definition;
use crate::erase;
use crate::error::RunError;
use crate::hidden::Hidden;
use crate::judged::Judged;
use crate::keeper::{Keeper, Turn};
use crate::options::RunOptions;
use crate::piece::{Master, Piece};
use crate::progress::Progress;
use crate::report::RunReport;
use crate::retention;
use crate::service::SpeedLayer;
use crate::shard::Work;
use crate::sort::SortBounds;
use crate::source::{EventColumns, Source};
use crate::spill::SpillFolder;

/// What can be done without a speed layer.
const OTHERWISE: &str = ", or run with --no-speed-layer to recompute what is archived already";

/// What became of a run that did not fail.
#[derive(Debug)]
pub enum RunOutcome {
    /// A new version is published, and durable.
    Published(Box<RunReport>),
    /// The newest version is all there can be; the sentence says why.
    NothingToDo(String),
}

/// Recomputes the view of `options` from the master dataset in `store` and publishes it as the next version.
///
/// # Errors
/// Nothing was published then, unless the error is [`RunError::Unknown`]. Nothing is deleted after an error.
pub async fn run(options: &RunOptions, store: &Store, progress: Arc<dyn Progress>) -> Result<RunOutcome, RunError> {
    run_on(Arc::new(RealMachine), None, options, store, progress).await
}

/// [`run`] on a machine and a network that the caller brings: `speed` carries calls to the speed layer of `options`; without it
/// the run connects by itself.
///
/// # Errors
/// As [`run`].
pub async fn run_on(
    machine: Arc<dyn Machine>,
    speed: Option<Transport>,
    options: &RunOptions,
    store: &Store,
    progress: Arc<dyn Progress>,
) -> Result<RunOutcome, RunError> {
    let span = trace_span!("batch run", view = %options.view, incremental = options.incremental, run_id = Empty, version = Empty);
    let run = async {
        let began = Instant::now();
        let Turn { run_id, started, store, keeper } = Turn::take(&*machine, options, store).await?;
        traces::current().record("run_id", run_id.to_string());
        let (progress, beacon) = Beacon::light(&machine, &store, &options.view, &run_id, started, progress);
        let alone = run_alone(Arc::clone(&machine), speed, options, &store, progress, (started, began), run_id, &keeper);
        let outcome = Box::pin(alone).await;
        beacon.put_out().await;
        keeper.release().await;
        outcome
    };
    Box::pin(run.instrument(span)).await
}

/// The run of whoever holds the lease.
#[expect(clippy::too_many_arguments, reason = "it is the second half of run_on")]
async fn run_alone(
    machine: Arc<dyn Machine>,
    speed: Option<Transport>,
    options: &RunOptions,
    store: &Store,
    progress: Arc<dyn Progress>,
    started: (SystemTime, Instant),
    run_id: Id,
    keeper: &Keeper,
) -> Result<RunOutcome, RunError> {
    let newest = Manifests::new(store.clone(), options.view.clone()).latest().await?;
    let number = newest.as_ref().map_or(0, |newest| newest.version);
    let parent = newest.filter(|newest| !newest.withdrawn);
    let judged = match &options.accept_difference {
        Some(run_id) => Some(Judged::read(store, &options.view, run_id).await?),
        None => None,
    };
    let definition = Arc::new(definition::load(options, parent.as_ref())?);
    retention::check_limit(&definition, options)?;
    if let Some(parent) = &parent {
        definition::check_types(&definition, options, store, parent).await?;
    }
    if let Some(judged) = &judged {
        judged.check(parent.as_ref(), &definition)?;
    }
    let cutting = trace_span!("cut");
    let (speed, cut, master) = cut(options, speed, store, parent.as_ref(), judged.as_ref()).instrument(cutting).await?;
    let covered = parent.as_ref().map_or(&[][..], |parent| parent.imports.as_slice());
    master.imports_of(covered)?;
    let new_imports: BTreeSet<i64> = master.imports.iter().map(|import| import.import).filter(|import| !covered.contains(import)).collect();
    // What was built upon another version is still to be judged by a run over all events.
    let judges = !options.incremental && parent.as_ref().is_some_and(|parent| parent.built_upon.is_some());
    if !options.force
        && !judges
        && judged.is_none()
        && let Some(reason) = cut.nothing_to_do(parent.as_ref(), &definition, &master.imports)
    {
        return Ok(RunOutcome::NothingToDo(reason));
    }

    traces::current().record("version", number + 1);
    info!(view = %options.view, %run_id, boundary = ?cut.boundary, log_id = cut.log_id, "recomputing");
    let report = RunReport {
        view: options.view.to_string(),
        run_id: run_id.to_string(),
        version: number + 1,
        parent: parent.as_ref().map(|p| p.version),
        started_time: rfc3339(started.0),
        log_id: cut.log_id.clone(),
        boundary: cut.boundary.clone(),
        imports: master.imports.iter().map(|import| import.import).collect(),
        fingerprint: definition.fingerprint().to_owned(),
        ..RunReport::default()
    };
    let mut run = Run {
        machine,
        options,
        store,
        progress,
        definition,
        parent,
        speed,
        cut,
        master,
        new_imports: Arc::new(new_imports),
        judged,
        run_id,
        report,
        keeper,
    };
    let published = Box::pin(run.publish()).await;
    run.progress.end();
    run.write_report(&published, started.1).await;
    published?;
    collect_leftovers(options, store, run.machine.now()).await;
    Ok(RunOutcome::Published(Box::new(run.report)))
}

/// Best effort: the version is published, and what stays is removed next time.
async fn collect_leftovers(options: &RunOptions, store: &Store, now: SystemTime) {
    match collect(store, &options.view, options.grace, now).await {
        Ok(Collected { files: 0, staged: 0 }) => {}
        Ok(Collected { files, staged }) => info!(files, staged, "removed what dead runs had left"),
        Err(error) => warn!(%error, "what dead runs left could not be removed"),
    }
    let removed = match now.checked_sub(options.grace) {
        Some(before) => identities::remove_covered(store, before).await,
        None => Ok(0),
    };
    if let Err(error) = removed {
        warn!(%error, "files of identities that longer ones cover could not be removed");
    }
}

/// The cut, and the master dataset as it was after it was made; both as the run whose difference was `judged` had them, if there is one.
async fn cut(
    options: &RunOptions,
    transport: Option<Transport>,
    store: &Store,
    parent: Option<&Manifest>,
    judged: Option<&Judged>,
) -> Result<(Option<SpeedLayer>, Cut, Master), RunError> {
    let (speed, asked) = match &options.speed_layer {
        None => (None, None),
        Some(url) => {
            let mut speed = match transport {
                Some(transport) => SpeedLayer::new(url, transport),
                None => SpeedLayer::connect(url, &options.tls, &options.client, OTHERWISE).await?,
            };
            let cut = if judged.is_none() { Some(speed.cut().await?) } else { None };
            (Some(speed), cut)
        }
    };
    let segments = master::list_segments(store).await?;
    let cut = match judged.map(Judged::cut).or(asked) {
        Some(cut) => cut,
        None => Cut::archived(options, &segments, parent, master::owner(store).await?)?,
    };
    let mut master = Master::around(segments, store, &cut.boundary).await?;
    if let Some(judged) = judged {
        master = master.only(judged.imports())?;
    }
    if let Some(parent) = parent {
        cut.check_follows(parent)?;
    }
    Ok((speed, cut, master))
}

/// A run that has something to do.
struct Run<'a> {
    machine: Arc<dyn Machine>,
    options: &'a RunOptions,
    store: &'a Store,
    progress: Arc<dyn Progress>,
    definition: Arc<Definition>,
    parent: Option<Manifest>,
    speed: Option<SpeedLayer>,
    cut: Cut,
    master: Master,
    /// Those that the version before does not cover.
    new_imports: Arc<BTreeSet<i64>>,
    judged: Option<Judged>,
    run_id: Id,
    /// Filled in as the run goes on.
    report: RunReport,
    keeper: &'a Keeper,
}

impl Run<'_> {
    async fn publish(&mut self) -> Result<(), RunError> {
        let base = self.base().await?;
        let hidden = self.hidden();
        let sources = self.sources(base.as_ref(), &hidden)?;
        self.report.rows_read = sources.iter().flat_map(|source| &source.pieces).map(Piece::rows).sum();
        self.progress.begin(self.report.rows_read as u64);
        let boundary_records = sources.iter().map(Source::last_record).collect();
        let as_of = if self.definition.has_limit() { Some(self.as_of(&sources).await?) } else { None };
        retention::check_floor(self.store, self.options, &self.definition, as_of).await?;
        let kept_from = definition::kept_from(&self.definition, as_of)?;
        let computing = trace_span!("compute", rows = self.report.rows_read, built_upon = self.report.built_upon);
        let mut computed = self.compute(&sources, base.as_ref(), kept_from).instrument(computing).await?;
        let removed = std::mem::take(&mut computed.removed);
        let mut touched = Touched::keys(self.note_duplicates(&removed));
        self.note_hidden(&hidden, &mut touched)?;
        let mut manifest = self.manifest(computed, boundary_records, as_of);
        let before = base.as_ref().map(|base| base.view.manifest().clone());
        if let Some(before) = &before {
            manifest.late_duplicate_count += before.late_duplicate_count;
            manifest.conflict_count += before.conflict_count;
        }
        let recalled = removed.iter().map(|removed| removed.duplicates.recalled.clone()).collect();
        let evidence = Evidence {
            sources,
            master: self.master.clone(),
            new_imports: Arc::clone(&self.new_imports),
            touched,
            recalled,
            base: base.map(|base| base.view),
        };
        let audited = Box::pin(self.audit(&manifest, evidence).instrument(trace_span!("audit"))).await?;
        manifest.event_count = audited.event_count;
        self.note_rows(&manifest, before.as_ref(), &removed)?;
        manifest.accepted_difference = self.judge(&audited)?;
        self.check_rows()?;
        self.report.accepted_difference.clone_from(&manifest.accepted_difference);
        manifest.audit = Some(audited.summary);
        let mut manifest = manifest.in_its_format();

        Box::pin(self.put(&mut manifest).instrument(trace_span!("publish"))).await?;
        info!(version = manifest.version, boundary = ?manifest.boundary, rows = manifest.row_count, "published batch view");
        let before = self.parent.as_ref().map_or(&[][..], |parent| &parent.boundary);
        erase::note(self.store, &self.master.erasures, &manifest, before).await;
        Ok(())
    }

    /// Publishes a version that was audited.
    async fn put(&self, manifest: &mut Manifest) -> Result<(), RunError> {
        let stored = definition::stored(&self.definition);
        Definitions::new(self.store.clone(), self.options.view.clone()).put(&stored).await?;
        // The last look: from here on only the put-if-absent decides.
        manifest.lease = self.keeper.check().await?;
        publish(self.store, manifest).await
    }

    /// The version to build upon, if one is asked for and can be.
    async fn base(&mut self) -> Result<Option<Base>, RunError> {
        if !self.options.incremental || self.judged.is_some() {
            return Ok(None);
        }
        match Base::open(self.store, self.parent.as_ref(), &self.definition, &self.cut, &self.master).await? {
            Ok(base) => {
                self.report.built_upon = self.report.parent;
                Ok(Some(base))
            }
            Err(reason) => {
                info!(reason, "recomputing from all events");
                self.report.recompute_reason = Some(reason);
                Ok(None)
            }
        }
    }

    /// What does not count.
    fn hidden(&self) -> Arc<Hidden> {
        match &self.parent {
            Some(parent) => Hidden::since(&self.master.erasures, &parent.boundary, &self.definition),
            // Nobody else has counted anything.
            None => Hidden::by(&self.master.erasures),
        }
    }

    /// The events to read: all, or those that the version before does not cover.
    fn sources(&self, base: Option<&Base>, hidden: &Arc<Hidden>) -> Result<Vec<Source>, RunError> {
        let Master { segments, imports, .. } = &self.master;
        let (imports, chains) = match base {
            Some(base) => (&[][..], self.cut.chains_from(base.boundary(), segments)?),
            None => (&imports[..], self.cut.chains(segments)?),
        };
        let columns = Arc::new(EventColumns::new(&self.definition));
        let mut sources = Source::of_chains(self.store, &columns, imports, chains, hidden, &self.progress);
        for (source, end) in sources.iter_mut().zip(&self.cut.boundary) {
            source.last = master::segment_ending(segments, source.partition, *end);
        }
        Ok(sources)
    }

    /// When the newest event was appended or imported. A clock that was ahead then does not let everything go now, and one that is behind brings
    /// nothing back.
    async fn as_of(&self, sources: &[Source]) -> Result<i64, RunError> {
        let now = DateTime::<Utc>::from(self.machine.now()).timestamp_micros();
        let mut newest = self.master.imports.iter().map(|import| import.claimed_time_us).max();
        for source in sources {
            newest = newest.max(source.newest_append_time_us().await?);
        }
        let newest = newest.map_or(now, |newest| newest.min(now));
        // What was let go stays gone, whatever became of the clocks.
        Ok(newest.max(self.parent.as_ref().and_then(|parent| parent.as_of).unwrap_or(newest)))
    }

    async fn compute(&self, sources: &[Source], base: Option<&Base>, kept_from: Option<i64>) -> Result<Computed, RunError> {
        let spill = spill_folder(self.options).await?;
        let memory_bytes = self.options.memory_bytes_a_thread();
        let work = Work {
            store: self.store.clone(),
            definition: Arc::clone(&self.definition),
            partitions: sources.len() as u32,
            bounds: SortBounds { memory_bytes, spill_dir: spill.path().to_owned() },
            kept_from,
            progress: Arc::clone(&self.progress),
        };
        let target = Target { options: self.options, version: self.report.version, run_id: &self.run_id };
        match base {
            Some(base) => compute::from_base(&work, sources, base, &self.cut.boundary, &self.master, &target).await,
            None => compute::from_all(&work, sources, self.parent.as_ref(), &self.new_imports, &target).await,
        }
    }

    /// The manifest as it will be published, but for what the audit has to say.
    fn manifest(&mut self, computed: Computed, boundary_records: Vec<String>, as_of: Option<i64>) -> Manifest {
        let report = &mut self.report;
        report.digest = computed.digest.to_string();
        report.state_rows = computed.rows;
        report.view_bytes = computed.files.iter().map(|file| file.bytes).sum();
        let manifest = Manifest {
            format_version: FORMAT_VERSION,
            view: self.options.view.clone(),
            version: report.version,
            parent: report.parent,
            built_upon: report.built_upon,
            run_id: report.run_id.clone(),
            created_time: rfc3339(self.machine.now()),
            log_id: self.cut.log_id.clone(),
            boundary: self.cut.boundary.clone(),
            imports: report.imports.clone(),
            boundary_records,
            lease: 0,
            fingerprint: self.definition.fingerprint().to_owned(),
            as_of,
            withdrawn: false,
            digest: report.digest.clone(),
            event_count: 0,
            row_count: computed.rows,
            late_duplicate_count: report.late_duplicate_count,
            conflict_count: report.conflict_count,
            engine: format!("datafusion {}", datafusion::DATAFUSION_VERSION),
            files: computed.files,
            audit: None,
            accepted_difference: None,
        };
        manifest.in_its_format()
    }

    async fn audit(&mut self, candidate: &Manifest, evidence: Evidence) -> Result<Audited, RunError> {
        let refolded: Vec<String> = evidence.touched.iter().take(EXAMPLES).map(key::for_people).collect();
        let audit = Audit {
            store: self.store.clone(),
            definition: Arc::clone(&self.definition),
            candidate: candidate.clone(),
            parent: self.parent.clone(),
            speed: self.speed.clone(),
            evidence,
            progress: Arc::clone(&self.progress),
        };
        let audited = Box::pin(on_blocking_thread(audit.run())).await?;
        let report = &mut self.report;
        report.event_count = audited.event_count;
        report.audit_kind.clone_from(&audited.summary.kind);
        report.audit_fallback.clone_from(&audited.fallback_reason);
        report.keys_compared = audited.summary.keys_compared;
        report.keys_refolded = audited.summary.keys_refolded;
        report.refolded_keys = if report.keys_refolded > 0 { refolded } else { Vec::new() };
        let found = &audited.differences;
        report.differing_keys = found.keys;
        report.difference_digest = if found.keys > 0 { found.digest.to_string() } else { String::new() };
        report.differences.clone_from(&found.named);
        Ok(audited)
    }

    /// Whether what the audit found keeps the version from being published; what the manifest says if it does not, for a person has
    /// judged it.
    fn judge(&self, audited: &Audited) -> Result<Option<AcceptedDifference>, RunError> {
        match &self.judged {
            Some(judged) => judged.accept(audited).map(Some),
            None if audited.differences.keys == 0 => Ok(None),
            None => Err(RunError::Audit {
                run_id: self.run_id.to_string(),
                against: audited.summary.kind.clone(),
                differences: Box::new(audited.differences.clone()),
            }),
        }
    }
}

/// Waits for others that look through the same parent, and may have much to remove.
pub(crate) async fn spill_folder(options: &RunOptions) -> Result<SpillFolder, RunError> {
    let parent = options.spill_dir.clone().unwrap_or_else(std::env::temp_dir);
    let place = parent.clone();
    blocking(move || SpillFolder::open(&place)).await.map_err(|source| RunError::Local { path: parent.display().to_string(), source })
}

/// Puts the manifest of the next version.
///
/// # Errors
/// Another run was first, or nobody knows.
pub(crate) async fn publish(store: &Store, manifest: &Manifest) -> Result<(), RunError> {
    let version = manifest.version;
    match Manifests::new(store.clone(), manifest.view.clone()).publish(manifest).await {
        Ok(PublishOutcome::Published) => Ok(()),
        Ok(PublishOutcome::Lost { winner_run_id }) => Err(RunError::Lost { version, winner_run_id }),
        Err(source @ StoreError::UnknownOutcome { .. }) => Err(RunError::Unknown { version, source }),
        Err(source) => Err(RunError::Store(source)),
    }
}

pub(crate) fn rfc3339(time: SystemTime) -> String {
    DateTime::<Utc>::from(time).to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Runs `work`, which blocks on CPU and disk between its awaits, where it disturbs nobody. It ends early when the caller goes away.
pub(crate) async fn on_blocking_thread<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    let token = CancellationToken::new();
    let _caller = token.clone().drop_guard();
    let work = work.instrument(traces::current());
    let done = driven(async move { token.run_until_cancelled(work).await }).await;
    done.expect("the token is cancelled only when the caller is dropped")
}
