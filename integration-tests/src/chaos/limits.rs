//! A full disk, and servers with too few file handles: what they answer, what they use, and that they come back.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use merganser_proto::v1::{AppendEventsRequest, Consistency};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tonic::Code;

use super::audit;
use super::loader::{self, Shared};
use super::shim::{Failing, Shim};
use super::world::{Role, World};

const USERS: usize = 20;
/// What makes an event large.
const NOTE_BYTES: usize = 2000;
/// Rows of one request.
const ROWS: usize = 100;
/// Most requests until a disk of a few MiB must be full.
const MOST_REQUESTS: u64 = 8000;
/// Room that is given back.
const BALLAST_BYTES: usize = 24 << 20;
const ENOSPC: i32 = 28;
const POLL_INTERVAL: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(30);

/// A small file system in memory, gone when it is dropped.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one of so many MiB; none where that is not permitted.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn mount(folder: &Path, mebibytes: u32) -> Result<Option<Self>> {
        std::fs::create_dir_all(folder)?;
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"]).arg(folder).stderr(std::process::Stdio::null());
        Ok(mount.status().is_ok_and(|status| status.success()).then(|| Self(folder.to_owned())))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a server that is being killed may still have it open.
        let _gone = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Fills the disk under `world.data`, where it is a [`SmallDisk`], and else lets the shim say that it is full: appends are
/// refused with RESOURCE_EXHAUSTED, questions are answered, and once there is room appends go on in the same process.
///
/// # Errors
/// It is otherwise.
pub async fn full_disk(world: World, is_small: bool) -> Result<()> {
    let flag = world.data.with_extension("full");
    let ballast = world.data.join("ballast");
    let fail = (!is_small).then(|| Failing {
        call: "write",
        class: "log-segment",
        from: 1,
        errno: ENOSPC,
        sticky: true,
        only_while: Some(flag.clone()),
    });
    let mut speed = world.start(Role::Speed, &Shim { fail, ..Shim::default() })?;
    world.wait_for_speed(&mut speed).await?;
    let mut serving = world.start(Role::Serving, &Shim::default())?;
    world.wait_for_serving(&mut serving, 0).await?;
    let shared = Shared::new(world, USERS, None);
    deliver(&shared, &new_batch(&shared, 0)).await.map_err(|status| anyhow::anyhow!("before it is full: {status}"))?;
    // What is taken away to make room again.
    let room = if is_small { ballast } else { flag };
    std::fs::write(&room, vec![1; if is_small { BALLAST_BYTES } else { 0 }])?;

    let mut refused = None;
    for seed in 1..MOST_REQUESTS {
        let batch = new_batch(&shared, seed);
        if let Err(status) = deliver(&shared, &batch).await {
            refused = Some((batch, status));
            break;
        }
    }
    let (batch, status) = refused.context("the disk was never full")?;
    ensure!(status.code() == Code::ResourceExhausted, "a full disk was answered by {:?}: {}", status.code(), status.message());
    let before: Vec<_> = (0..USERS).map(|user| shared.model.ask(user)).collect();
    let (answers, _) = audit::all_users(&shared, Consistency::Fresh).await.context("questions while the disk is full")?;
    for (user, answer) in answers.iter().enumerate() {
        let judged = shared.model.judge(user, &before[user], answer);
        ensure!(judged.is_ok(), "while the disk is full: {judged:?} {answer:?}, known {:?}", before[user]);
    }

    std::fs::remove_file(&room)?;
    let deadline = Instant::now() + PATIENCE;
    while let Err(status) = deliver(&shared, &batch).await {
        ensure!(Instant::now() < deadline, "there is room, and still: {:?} {}", status.code(), status.message());
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    audit::equal_for_all(&shared, Consistency::Fresh).await?;
    serving.kill().await?;
    speed.stop().await?;
    audit::log_is_whole(&shared)?;
    ensure!(shared.figures.wrongs() == 0, "{}", shared.figures);
    Ok(())
}

type Batch = Vec<(usize, usize)>;

fn new_batch(shared: &Shared, seed: u64) -> Batch {
    let mut random = StdRng::seed_from_u64(seed);
    let mut number = || {
        let user = random.random_range(0..USERS);
        (user, shared.model.send(user, &mut random, 0))
    };
    (0..ROWS).map(|_| number()).collect()
}

async fn deliver(shared: &Shared, batch: &Batch) -> Result<(), tonic::Status> {
    let event = |&(user, number): &(usize, usize)| {
        let mut event = loader::event(user, number, &shared.model.event(user, number));
        event.attributes.insert("note".to_owned(), "x".repeat(NOTE_BYTES));
        event
    };
    let request = AppendEventsRequest { events: batch.iter().map(event).collect() };
    shared.world.ingest().append_events(request).await?;
    batch.iter().for_each(|(user, number)| shared.model.acknowledge(*user, *number, 0));
    Ok(())
}

/// What a server did while it was short of file handles.
#[derive(Clone, Copy, Debug)]
pub struct Short {
    /// How long that was.
    pub wall: Duration,
    /// CPU time it used meanwhile.
    pub cpu: Duration,
    /// Connections that were open at once.
    pub connections: usize,
}

/// Opens so many idle connections to a speed layer with `file_handles`, holds them for `length`, and lets go: it must take
/// events again, and must not have spun meanwhile.
///
/// # Errors
/// It ends, or does not come back.
pub async fn too_few_file_handles(world: &World, file_handles: u32, connections: usize, length: Duration) -> Result<Short> {
    let mut speed = world.start_with(Role::Speed, &Shim::default(), Some(file_handles))?;
    world.wait_for_speed(&mut speed).await?;
    let address = world.speed_url().trim_start_matches("http://").to_owned();
    let mut open = Vec::new();
    for _ in 0..connections {
        // The system takes connections that the server has no handle for yet, up to its backlog.
        if let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(200), tokio::net::TcpStream::connect(&address)).await {
            open.push(stream);
        }
    }
    let (began, cpu) = (Instant::now(), speed.cpu()?);
    tokio::time::sleep(length).await;
    let short = Short { wall: began.elapsed(), cpu: speed.cpu()?.saturating_sub(cpu), connections: open.len() };
    drop(open);
    world.wait_for_speed(&mut speed).await.context("after the connections were closed")?;
    speed.stop().await?;
    Ok(short)
}

/// Stops the speed layer for `length` while events are under way, and lets it go on: every event counts once.
///
/// # Errors
/// It does not, or answers meanwhile are wrong.
pub async fn stopped_for(world: World, length: Duration) -> Result<()> {
    let mut speed = world.start(Role::Speed, &Shim::default())?;
    world.wait_for_speed(&mut speed).await?;
    let mut serving = world.start(Role::Serving, &Shim::default())?;
    world.wait_for_serving(&mut serving, 0).await?;
    let shared = Shared::new(world, 30, None);
    let stop = tokio_util::sync::CancellationToken::new();
    let mut tasks = JoinSet::new();
    let boundaries = Arc::default();
    for seed in 0..3 {
        tasks.spawn(loader::load(Arc::clone(&shared), seed, stop.clone()));
        tasks.spawn(super::reader::read(Arc::clone(&shared), Arc::clone(&boundaries), seed, stop.clone()));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    speed.signal("STOP").await?;
    tokio::time::sleep(length).await;
    speed.signal("CONT").await?;
    let since = Instant::now();
    while !(shared.figures.answered_since(Role::Speed, since) && shared.figures.answered_since(Role::Serving, since)) {
        ensure!(since.elapsed() < PATIENCE, "nothing is answered {PATIENCE:?} after it went on; {}", speed.last_words());
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    stop.cancel();
    while tasks.join_next().await.is_some() {}
    audit::equal_for_all(&shared, Consistency::Fresh).await?;
    serving.stop().await?;
    speed.stop().await?;
    audit::log_is_whole(&shared)?;
    ensure!(shared.figures.wrongs() == 0, "{}", shared.figures);
    Ok(())
}
