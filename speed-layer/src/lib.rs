//! Takes events in durably, keeps the partial states of those that no batch view covers yet, and hands them out by key.
//!
//! An event comes in through `service`, is checked row by row in `ingest`, and goes to the one thread of its `partition`. That
//! thread looks it up in the `dedup` window, folds it with the definition of every kept version, appends it to the log
//! together with whatever else waits, syncs once, and then shows its states in `slices` and acknowledges it, in this order.
//! A refused row is durable as a dead letter before the answer. Closed log segments go to the object store (`archive`);
//! a cut is a closed segment on every partition. `realtime` answers the other layers from a boundary on.
//!
//! What this layer never does: acknowledge before the sync, show what is not synced, guess at a boundary it does not keep,
//! delete anything from the log.

#![cfg_attr(test, allow(clippy::unwrap_used))]

/// Closed segments into the object store.
mod archive;
/// Identities among the newest records.
mod dedup;
/// What can go wrong.
mod error;
/// Events in, row by row.
mod ingest;
/// `speed-layer load`.
pub mod load;
/// One partition's thread.
mod partition;
/// Questions from the other layers.
mod realtime;
/// Which services, within which bounds.
mod server;
/// The gRPC surface.
mod service;
/// The realtime view of one partition.
mod slices;

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use storage::config::Config;
use storage::dead_letter::DeadLetters;
use storage::log::{LogFolder, PartitionLog};
use storage::manifest::Manifests;
use storage::paths::ViewName;
use storage::store::Store;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::{Connected, TcpIncoming};
use tracing::{error, info, warn};
use views::Definition;

pub use error::SpeedError;

use archive::{Archive, roll_by_age};
use ingest::{DeadLetterQueue, Ingest, QueueRoom};
use partition::{Partition, PartitionOptions, fold_log};
use realtime::{Kept, Realtime, load_kept};
use slices::Slices;

/// The view that is kept. Others are recomputed by the batch layer, but nobody serves them yet.
const VIEW: &str = "user_stats";

/// Serves until `shutdown`: replays the log, then takes events on `listener`.
///
/// # Errors
/// The log is damaged, locked by another server, or not the one that the store's versions were made from; the store cannot be
/// read. Nothing was acknowledged then. Later, a thread or task without which it cannot go on ended by itself.
pub async fn run(config: Config, store: Store, listener: TcpListener, shutdown: CancellationToken) -> Result<(), SpeedError> {
    run_on(config, store, TcpIncoming::from(listener).with_nodelay(Some(true)), shutdown).await
}

/// [`run`] on connections of any kind.
///
/// # Errors
/// As [`run`].
pub async fn run_on<IO, I>(config: Config, store: Store, incoming: I, shutdown: CancellationToken) -> Result<(), SpeedError>
where
    I: Stream<Item = io::Result<IO>>,
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let schema = Arc::new(config.events.clone());
    let view = ViewName::try_from(VIEW.to_owned())?;
    let (dir, partitions) = (config.log.dir.clone(), config.log.partitions);
    let opened = tokio::task::spawn_blocking(move || open_log(&dir, partitions)).await.map_err(|_| SpeedError::Stopping)??;
    let (folder, logs, letters) = opened;
    let log_id: Arc<str> = folder.log_id().to_string().into();

    let mut kept = newest_versions(&store, &view, &config, &log_id).await?;
    let archive = Arc::new(Archive::open(store.clone(), config.events.clone(), logs.len(), &log_id).await?);
    let Started { partitions, threads, failed } = start_partitions(logs, &kept, &config, &archive).await?;
    kept.retain(|version| !failed.contains(version.definition.fingerprint()));
    partitions.iter().for_each(|partition| partition.retire(&kept));
    for version in &kept {
        realtime::check_boundary(version, &partitions)?;
    }
    for partition in partitions.iter() {
        let (archived, head) = (archive.edge(partition.number).await, partition.log.head());
        if archived > head {
            return Err(SpeedError::LogBehindArchive { partition: partition.number as i32, archived, head });
        }
    }
    let (dead_letters, dead_letter_thread) = DeadLetterQueue::start(letters)?;
    let realtime = Arc::new(Realtime {
        log_id: Arc::clone(&log_id),
        view,
        store,
        schema: Arc::clone(&schema),
        partitions: Arc::clone(&partitions),
        archive: Arc::clone(&archive),
        kept: Mutex::new(kept),
    });
    let (log_failed, log_fails) = watch::channel(false);
    let ingest = Ingest {
        schema,
        log_id: Arc::clone(&log_id),
        partitions: Arc::clone(&partitions),
        dead_letters: dead_letters.clone(),
        room: QueueRoom::new(config.speed_layer.queue_bytes.0),
        log_failed: Arc::new(log_failed),
    };

    let background = CancellationToken::new();
    let stop_background = background.clone().drop_guard();
    let archiving = (Arc::clone(&archive), Arc::clone(&partitions), background.clone());
    let mut tasks = JoinSet::new();
    spawn(&mut tasks, "archive", async move { archiving.0.run(&archiving.1, archiving.2).await });
    spawn(&mut tasks, "roll", roll_by_age(Arc::clone(&partitions), config.log.segment_age.0, background.clone()));
    spawn(&mut tasks, "follow versions", follow_versions(Arc::clone(&realtime), config.speed_layer.poll_interval.0, background));

    info!(log_id = &*log_id, "ready");
    let served = tokio::select! {
        () = server::serve(ingest, realtime, log_fails, incoming, shutdown) => Ok(()),
        ended = first_end(&partitions, &dead_letters, &mut tasks) => Err(ended),
    };
    drop(stop_background);
    while tasks.join_next().await.is_some() {}
    // A client that holds on to its stream holds a handle too, so the threads are told.
    for partition in partitions.iter() {
        partition.stop().await;
    }
    dead_letters.stop().await;
    let joined = tokio::task::spawn_blocking(move || threads.into_iter().chain([dead_letter_thread]).for_each(|t| drop(t.join())));
    let _ended = joined.await;
    drop(folder);
    served
}

fn open_log(dir: &std::path::Path, partitions: u32) -> Result<(LogFolder, Vec<PartitionLog>, DeadLetters), SpeedError> {
    let folder = LogFolder::open(dir, partitions)?;
    let logs = (0..partitions).map(|p| folder.partition(p)).collect::<Result<_, _>>()?;
    let letters = DeadLetters::open(dir)?;
    Ok((folder, logs, letters))
}

/// The two newest versions in the store, oldest first. Before the first one there is version 0: the built-in view of nothing.
///
/// A version that this program cannot use is left out, for ingest must go on and a new version can mend it.
///
/// # Errors
/// The store cannot be read, or a version was made from another log.
async fn newest_versions(store: &Store, view: &ViewName, config: &Config, log_id: &str) -> Result<Vec<Kept>, SpeedError> {
    let manifests = Manifests::new(store.clone(), view.clone());
    let newest = manifests.latest().await?;
    let mut kept = Vec::new();
    if newest.as_ref().is_none_or(|newest| newest.version == 1) {
        let definition = Arc::new(Definition::user_stats(&config.events));
        kept.push(Kept { version: 0, definition, boundary: vec![0; config.log.partitions as usize] });
    }
    let Some(newest) = newest else { return Ok(kept) };
    let before = match newest.version {
        1 => None,
        number => Some(manifests.read(number - 1).await),
    };
    for manifest in before.into_iter().chain([Ok(newest)]) {
        let loaded = match manifest {
            Ok(manifest) => load_kept(store, view, &manifest, log_id, &config.events).await,
            Err(e) => Err(e.into()),
        };
        match loaded {
            Ok(version) => kept.push(version),
            Err(e @ (SpeedError::OtherLog { .. } | SpeedError::ColumnType { .. })) => return Err(e),
            Err(e) => error!(error = e.chain(), "a stored version cannot be used here; a new batch run can mend it"),
        }
    }
    Ok(kept)
}

struct Started {
    partitions: Arc<[Partition]>,
    threads: Vec<std::thread::JoinHandle<()>>,
    /// Fingerprints of definitions that fail on the log.
    failed: BTreeSet<String>,
}

/// Replays all partitions side by side.
async fn start_partitions(logs: Vec<PartitionLog>, kept: &[Kept], config: &Config, archive: &Arc<Archive>) -> Result<Started, SpeedError> {
    let mut replays = Vec::new();
    for log in logs {
        let options = PartitionOptions {
            schema: config.events.clone(),
            dedup_window_rows: config.log.dedup_window_rows as usize,
            segment_bytes: config.log.segment_bytes.0,
            queue_appends: config.speed_layer.queue_appends,
        };
        let (kept, archive) = (kept.to_vec(), Arc::clone(archive));
        replays.push(tokio::task::spawn_blocking(move || {
            let (views, failed) = replay(&log, &kept)?;
            let (partition, thread) = Partition::start(log, views, options, move || archive.wake())?;
            Ok::<_, SpeedError>((partition, thread, failed))
        }));
    }
    let (mut partitions, mut threads, mut failed) = (Vec::new(), Vec::new(), BTreeSet::new());
    for replay in replays {
        let (partition, thread, failed_here) = replay.await.map_err(|_| SpeedError::Stopping)??;
        partitions.push(partition);
        threads.push(thread);
        failed.extend(failed_here);
    }
    Ok(Started { partitions: partitions.into(), threads, failed })
}

/// The slices of every kept definition, from its lowest boundary on; and the fingerprints of those that fail on a record.
fn replay(log: &PartitionLog, kept: &[Kept]) -> Result<(Vec<Slices>, Vec<String>), SpeedError> {
    let number = log.partition() as usize;
    let mut lowest: Vec<(Arc<Definition>, i64)> = Vec::new();
    for version in kept {
        let boundary = version.boundary.get(number).copied().unwrap_or(0);
        match lowest.iter_mut().find(|(d, _)| d.fingerprint() == version.definition.fingerprint()) {
            Some((_, start)) => *start = boundary.min(*start),
            None => lowest.push((Arc::clone(&version.definition), boundary)),
        }
    }
    let head = log.head();
    let (mut views, mut failed) = (Vec::new(), Vec::new());
    for (definition, start) in lowest {
        match fold_log(&log.reader(), &definition, number as i32, start.min(head)..head) {
            Ok(slices) => views.push(slices),
            Err(e @ SpeedError::Fold { .. }) => {
                error!(
                    error = e.chain(),
                    "a published view fails on accepted events; it cannot be answered until it is mended and recomputed"
                );
                failed.push(definition.fingerprint().to_owned());
            }
            Err(e) => return Err(e),
        }
    }
    Ok((views, failed))
}

/// Keeps up with what the batch layer publishes, so that slices are let go though nobody asks.
async fn follow_versions(realtime: Arc<Realtime>, interval: Duration, shutdown: CancellationToken) {
    let manifests = Manifests::new(realtime.store.clone(), realtime.view.clone());
    let mut tick = tokio::time::interval(interval);
    let mut complaint = None;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = tick.tick() => {}
        }
        let prepared = match manifests.latest().await {
            Ok(None) => Ok(()),
            Ok(Some(newest)) => realtime.prepare(newest.version).await,
            Err(e) => Err(e.into()),
        };
        // Once for each failure, not once for each poll.
        let reason = prepared.err().map(|e| e.chain());
        if let Some(reason) = &reason
            && complaint.as_ref() != Some(reason)
        {
            warn!(reason, "the newest version cannot be prepared; the older one stays");
        }
        complaint = reason;
    }
}

/// A task that tells its name when it ends.
fn spawn(tasks: &mut JoinSet<&'static str>, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
    tasks.spawn(async move {
        task.await;
        name
    });
}

/// Comes when something ends that must not: a panic in a thread that writes, or in a task that seals, ends the process, and what
/// is on the disk is read again by the next one.
async fn first_end(partitions: &[Partition], dead_letters: &DeadLetterQueue, tasks: &mut JoinSet<&'static str>) -> SpeedError {
    let partition = futures::future::select_all(partitions.iter().map(|partition| Box::pin(partition.ended())));
    let what = tokio::select! {
        ((), number, _) = partition => format!("the thread of partition {number}"),
        () = dead_letters.ended() => "the thread of the dead letters".to_owned(),
        ended = tasks.join_next() => format!("the task \"{}\"", ended.and_then(Result::ok).unwrap_or("archive, roll or follow")),
    };
    SpeedError::Ended { what }
}
