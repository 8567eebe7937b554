//! The layer without its network: open what is on the disk, offer the services, work in the background, close.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::{select_all, try_join_all};
use merganser_proto::auth::Authority;
use merganser_proto::server::CallCounts;
use merganser_proto::tls::ServerTls;
use merganser_proto::v1::ingest_service_server::IngestServiceServer;
use merganser_proto::v1::realtime_view_service_server::RealtimeViewServiceServer;
use merganser_proto::v1::speed_status_service_server::SpeedStatusServiceServer;
use storage::config::Config;
use storage::dead_letter::DeadLetters;
use storage::log::{LogFolder, LogId, PartitionLog};
use storage::machine::{Machine, Owner, blocking, now_us};
use storage::manifest::{Manifests, list_views};
use storage::paths::ViewName;
use storage::store::{Retry, Store, StoreError};
use tokio::sync::{Mutex, Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tracing::{error, info, warn};
use views::Definition;

use crate::archive::{Archive, roll_by_age};
use crate::check::check_against_store;
use crate::dead_letter::{Overviews, Place};
use crate::error::SpeedError;
use crate::ingest::{Ingest, QueueRoom};
use crate::metrics::Metrics;
use crate::partition::{Partition, PartitionOptions};
use crate::realtime::{Kept, Realtime, load_kept};
use crate::recover::recover;
use crate::refused::{DeadLetterQueue, RefusedCount, RefusedCounts};
use crate::restore::open_partition;
use crate::scrub::Scrub;
use crate::server;
use crate::service::{IngestAdapter, RealtimeAdapter, StatusAdapter};
use crate::told::Told;
use crate::trim::trim_as_versions_come;

/// Largest request.
const MAX_REQUEST_BYTES: usize = 4 << 20;
/// Largest question about the state.
const MAX_STATUS_REQUEST_BYTES: usize = 1 << 10;
/// Largest answer to a producer: what gRPC clients take unless told otherwise.
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// The name of a task that must not end, and why it did.
type Task = (&'static str, Result<(), SpeedError>);

/// An open log with its realtime views, taking events and questions through its services.
pub struct SpeedLayer {
    ingest: Ingest,
    realtime: Arc<Realtime>,
    /// The threads of the partitions and of the dead letters.
    owners: Vec<Owner>,
    log_failed: watch::Receiver<bool>,
    background: CancellationToken,
    tasks: JoinSet<Task>,
    folder: Arc<LogFolder>,
    calls: CallCounts,
    authority: Arc<Authority>,
    data_dir: PathBuf,
    /// When it was opened, in microseconds since 1970.
    began_us: i64,
}

impl SpeedLayer {
    /// Opens the log, replays it, and starts what goes on in the background. When this returns, the layer has caught up.
    ///
    /// # Errors
    /// As [`crate::run`].
    pub async fn open(machine: Arc<dyn Machine>, config: Config, store: Store) -> Result<Self, SpeedError> {
        let (schema, began_us) = (Arc::new(config.events.clone()), now_us(&*machine));
        let authority = cli::auth::authority("speed-layer", &config.auth, Arc::clone(&machine))?;
        let (folder, letters) = {
            let (machine, dir, partitions) = (Arc::clone(&machine), config.log.dir.clone(), config.log.partitions);
            blocking(move || open_folder(&*machine, &dir, partitions)).await?
        };
        let folder = Arc::new(folder);
        let log_id: Arc<str> = folder.log_id().to_string().into();

        // A restart does not fail for a bad moment of the store.
        let store = store.with_retry(Retry::seeded(machine.random() as u64));
        let mut kept = Vec::new();
        for view in list_views(&store).await? {
            kept.extend(newest_versions(&store, &view, &config, &log_id).await?);
        }
        let partitions = config.log.partitions;
        let (metrics, data_dir) = (Arc::new(Metrics::default()), config.log.dir.clone());
        let (events, counted) = (config.events.clone(), Arc::clone(&metrics));
        let archive = Arc::new(Archive::open(&*machine, store.clone(), events, partitions as usize, &log_id, counted).await?);
        let mut logs = Vec::new();
        for number in 0..partitions {
            logs.push(open_partition(&folder, number, &archive).await?);
        }
        check_against_store(&mut kept, &logs, &archive).await?;
        let Started { partitions, mut owners, failed } = start_partitions(&machine, logs, &kept, &config, &archive, &metrics).await?;
        kept.retain(|version| !failed.contains(version.definition.fingerprint()));
        partitions.iter().for_each(|partition| partition.retire(&kept));
        archive.take_epoch(&*machine).await?;
        let (dead_letters, owner) = DeadLetterQueue::start(letters, config.log.dead_letter_bytes.0)?;
        owners.push(owner);
        let (failed, log_failed) = watch::channel(false);
        let failed = Arc::new(failed);
        let realtime = Arc::new(Realtime {
            log_id: Arc::clone(&log_id),
            store,
            schema: Arc::clone(&schema),
            partitions: Arc::clone(&partitions),
            archive: Arc::clone(&archive),
            kept: Mutex::new(kept),
            prepared: Notify::new(),
            log_failed: Arc::clone(&failed),
        });

        let background = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let scrub = Scrub::new(Arc::clone(&archive), Arc::clone(&partitions), Arc::clone(&metrics));
        let scrubbing = scrub.run(config.speed_layer.scrub_interval.0, background.clone());
        let archiving = (archive, Arc::clone(&partitions), background.clone());
        tasks.spawn(async move { ("archive", archiving.0.run(&archiving.1, archiving.2).await) });
        let rolling = roll_by_age(Arc::clone(&partitions), config.log.segment_age.0, background.clone());
        tasks.spawn(async move {
            rolling.await;
            ("roll", Ok(()))
        });
        let following = follow_versions(Arc::clone(&realtime), config.speed_layer.poll_interval.0, background.clone());
        tasks.spawn(async move {
            following.await;
            ("follow versions", Ok(()))
        });
        let trimming = trim_as_versions_come(Arc::clone(&realtime), config.log.dedup_window_rows.into(), background.clone());
        tasks.spawn(async move {
            trimming.await;
            ("trim", Ok(()))
        });
        tasks.spawn(async move {
            scrubbing.await;
            ("scrub", Ok(()))
        });
        info!(log_id = &*log_id, "ready");
        let room = QueueRoom::new(config.speed_layer.queue_bytes.0);
        let refused = Arc::new(RefusedCounts::default());
        let ingest = Ingest { machine, schema, log_id, partitions, dead_letters, refused, room, log_failed: failed, metrics };
        let calls = server::calls();
        Ok(Self { ingest, realtime, owners, log_failed, background, tasks, folder, calls, authority, data_dir, began_us })
    }

    /// `IngestService`, `RealtimeViewService` and `SpeedStatusService`.
    pub fn routes(&self) -> Routes {
        let ingest = IngestServiceServer::new(IngestAdapter(self.ingest.clone()))
            .max_decoding_message_size(MAX_REQUEST_BYTES)
            .max_encoding_message_size(MAX_ANSWER_BYTES);
        let realtime = RealtimeViewServiceServer::new(RealtimeAdapter(Arc::clone(&self.realtime), self.authority.audit().clone()));
        let place = Place { data_dir: self.data_dir.clone(), store: self.realtime.store.clone() };
        let status = StatusAdapter { told: self.told(None), began_us: self.began_us, letters: Arc::new(Overviews::of(place)) };
        let status = SpeedStatusServiceServer::new(status).max_decoding_message_size(MAX_STATUS_REQUEST_BYTES);
        Routes::new(ingest).add_service(realtime.max_decoding_message_size(MAX_REQUEST_BYTES)).add_service(status)
    }

    /// Becomes true once the log takes no more events.
    pub fn log_failed(&self) -> watch::Receiver<bool> {
        self.log_failed.clone()
    }

    /// Where the calls of its server are counted.
    pub(crate) fn calls(&self) -> &CallCounts {
        &self.calls
    }

    /// Who decides what its clients may do.
    pub(crate) fn authority(&self) -> Arc<Authority> {
        Arc::clone(&self.authority)
    }

    /// What it tells over HTTP. Let go of it before the layer is closed.
    pub(crate) fn told(&self, tls: Option<ServerTls>) -> Arc<Told> {
        let (ingest, archive) = (self.ingest.clone(), Arc::clone(&self.realtime.archive));
        Arc::new(Told {
            ingest,
            archive,
            calls: self.calls.clone(),
            authority: self.authority(),
            log_failed: self.log_failed(),
            data_dir: self.data_dir.clone(),
            tls,
        })
    }

    /// How many rows were refused since the start, by field and reason; at most a few hundred reasons are told apart.
    pub fn refused_rows(&self) -> Vec<RefusedCount> {
        self.ingest.refused.all()
    }

    /// Comes when something ends that must not: a panic in a thread that writes or in a task that seals, or another server that
    /// has taken over. The process should end then; what is on the disk is read again by the next one.
    pub async fn first_end(&mut self) -> SpeedError {
        first_end(&self.ingest.partitions, &self.ingest.dead_letters, &mut self.tasks).await
    }

    /// Ends what goes on, after what is queued, and lets go of the log.
    pub async fn close(mut self) {
        self.background.cancel();
        while self.tasks.join_next().await.is_some() {}
        // A client that holds on to its stream holds a handle too, so the threads are told.
        for partition in self.ingest.partitions.iter() {
            partition.stop().await;
        }
        self.ingest.dead_letters.stop().await;
        for owner in self.owners {
            owner.ended().await;
        }
        drop(self.folder);
    }
}

pub(crate) async fn first_end(partitions: &[Partition], dead_letters: &DeadLetterQueue, tasks: &mut JoinSet<Task>) -> SpeedError {
    let partition = select_all(partitions.iter().map(|partition| Box::pin(partition.ended())));
    let what = tokio::select! {
        biased;
        ((), number, _) = partition => format!("the thread of partition {number}"),
        () = dead_letters.ended() => "the thread of the dead letters".to_owned(),
        ended = tasks.join_next() => match ended {
            Some(Ok((_, Err(reason)))) => return reason,
            Some(Ok((name, Ok(())))) => format!("the task \"{name}\""),
            _ => "the task that archives, rolls or follows".to_owned(),
        },
    };
    SpeedError::Ended { what }
}

fn open_folder(machine: &dyn Machine, dir: &Path, partitions: u32) -> Result<(LogFolder, DeadLetters), SpeedError> {
    let fresh_id = LogId::from_bytes(machine.random().to_be_bytes());
    let folder = LogFolder::open_on(machine.disk(), dir, partitions, fresh_id)?;
    let letters = DeadLetters::open_on(machine.disk(), dir)?;
    Ok((folder, letters))
}

/// The two newest versions of a view in the store, oldest first. Before the first one of the built-in view there is version 0: that
/// of nothing.
///
/// A version that this program cannot use is left out, for ingest must go on and a new version can mend it.
///
/// # Errors
/// The store cannot be read, or a version was made from another log.
async fn newest_versions(store: &Store, view: &ViewName, config: &Config, log_id: &str) -> Result<Vec<Kept>, SpeedError> {
    let manifests = Manifests::new(store.clone(), view.clone());
    let newest = manifests.newest().await?.unwrap_or(0);
    let mut kept = Vec::new();
    if newest <= 1 && *view == ViewName::user_stats() {
        let definition = Arc::new(Definition::user_stats(&config.events));
        let boundary = vec![0; config.log.partitions as usize];
        kept.push(Kept { view: view.clone(), version: 0, definition, boundary, boundary_records: Vec::new() });
    }
    for version in (newest - 1..=newest).filter(|version| *version > 0) {
        let loaded = match manifests.read(version).await {
            // What came before is let go of too.
            Ok(manifest) if manifest.withdrawn => {
                kept.clear();
                continue;
            }
            Ok(manifest) => load_kept(store, view, &manifest, log_id, &config.events).await,
            Err(e) if e.is_transient() => return Err(e.into()),
            // It has expired: nobody goes back to it.
            Err(StoreError::NotFound { .. }) if version < newest => continue,
            Err(e) => Err(e.into()),
        };
        match loaded {
            Ok(version) => kept.push(version),
            Err(e @ (SpeedError::OtherLog { .. } | SpeedError::ColumnType { .. })) => return Err(e),
            Err(e) => error!(%view, error = e.chain(), "a stored version cannot be used here; a new batch run can mend it"),
        }
    }
    Ok(kept)
}

struct Started {
    partitions: Arc<[Partition]>,
    owners: Vec<Owner>,
    /// Fingerprints of definitions that fail on the log.
    failed: BTreeSet<String>,
}

/// Replays all partitions side by side.
async fn start_partitions(
    machine: &Arc<dyn Machine>,
    logs: Vec<PartitionLog>,
    kept: &[Kept],
    config: &Config,
    archive: &Arc<Archive>,
    metrics: &Arc<Metrics>,
) -> Result<Started, SpeedError> {
    let mut replays = Vec::new();
    for log in logs {
        let options = PartitionOptions {
            machine: Arc::clone(machine),
            schema: config.events.clone(),
            dedup_window_rows: config.log.dedup_window_rows as usize,
            segment_bytes: config.log.segment_bytes.0,
            queue_appends: config.speed_layer.queue_appends,
            metrics: Arc::clone(metrics),
        };
        replays.push(async move {
            let (log, recovered) = recover(log, kept, archive, &options).await?;
            archive.owe(recovered.erasures);
            let archive = Arc::clone(archive);
            let (partition, owner) = Partition::start(log, recovered.window, recovered.views, options, move || archive.wake())?;
            Ok::<_, SpeedError>((partition, owner, recovered.failed))
        });
    }
    let (mut partitions, mut owners, mut failed) = (Vec::new(), Vec::new(), BTreeSet::new());
    for (partition, owner, failed_here) in try_join_all(replays).await? {
        partitions.push(partition);
        owners.push(owner);
        failed.extend(failed_here);
    }
    Ok(Started { partitions: partitions.into(), owners, failed })
}

/// Keeps up with what the batch layer publishes, so that slices are let go though nobody asks.
async fn follow_versions(realtime: Arc<Realtime>, interval: Duration, shutdown: CancellationToken) {
    let mut tick = tokio::time::interval(interval);
    let mut complaints = BTreeMap::new();
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            _ = tick.tick() => {}
        }
        let views = match list_views(&realtime.store).await {
            Ok(views) => views,
            Err(e) => {
                complain(&mut complaints, None, Some(SpeedError::from(e).chain()));
                continue;
            }
        };
        complain(&mut complaints, None, None);
        for view in views {
            let reason = prepare_newest(&realtime, &view).await.err().map(|e| e.chain());
            complain(&mut complaints, Some(view), reason);
        }
    }
}

async fn prepare_newest(realtime: &Realtime, view: &ViewName) -> Result<(), SpeedError> {
    match Manifests::new(realtime.store.clone(), view.clone()).latest().await? {
        Some(newest) => realtime.prepare(view, newest.version).await,
        None => Ok(()),
    }
}

/// Once for each failure of a view, or of the list of views, not once for each poll.
fn complain(known: &mut BTreeMap<Option<ViewName>, String>, view: Option<ViewName>, reason: Option<String>) {
    let Some(reason) = reason else {
        known.remove(&view);
        return;
    };
    if known.get(&view) != Some(&reason) {
        let view_name = view.as_ref().map_or("", ViewName::as_str);
        warn!(view = view_name, reason, "the newest version cannot be prepared; the older one stays");
        known.insert(view, reason);
    }
}

#[cfg(test)]
mod tests;
