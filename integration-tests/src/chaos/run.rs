//! The whole run: everything at once for a while, then quiet, then the audit.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use merganser_proto::v1::Consistency;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::audit;
use super::killer::{self, Pace};
use super::loader::{self, Shared};
use super::points;
use super::reader;
use super::shim::Shim;
use super::world::{Programs, Role, World};
use crate::boundaries::Boundaries;

/// How long what is open at the end may take.
const SETTLE_PATIENCE: Duration = Duration::from_secs(60);
/// Most times that the last batch run is tried: the first may find a lease or a peer in its way.
const LAST_RUNS: usize = 5;

/// How much happens.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Connections that append.
    pub connections: u64,
    /// Tasks that ask.
    pub readers: u64,
    /// Users that events are about.
    pub users: usize,
    /// How fast processes die.
    pub pace: Pace,
}

/// Everything at once for `length`, from one seed.
///
/// # Errors
/// A process cannot be started, or what is open at the end is never answered. What is wrong is in the figures.
pub async fn run(shared: &Arc<Shared>, size: Size, length: Duration, seed: u64) -> Result<()> {
    let mut seeds = StdRng::seed_from_u64(seed);
    let (kills_stop, load_stop) = (CancellationToken::new(), CancellationToken::new());
    let (mut load, mut killers) = (JoinSet::new(), JoinSet::new());
    let boundaries = Arc::new(Boundaries::default());
    for _ in 0..size.connections {
        load.spawn(loader::load(Arc::clone(shared), seeds.random(), load_stop.clone()));
    }
    for _ in 0..size.readers {
        load.spawn(reader::read(Arc::clone(shared), Arc::clone(&boundaries), seeds.random(), load_stop.clone()));
    }
    for role in [Role::Speed, Role::Serving] {
        killers.spawn(killer::server(Arc::clone(shared), role, size.pace, seeds.random(), kills_stop.clone()));
    }
    killers.spawn(killer::batch(Arc::clone(shared), size.pace, seeds.random(), kills_stop.clone()));

    tokio::time::sleep(length).await;
    kills_stop.cancel();
    while let Some(ended) = killers.join_next().await {
        ended.context("a killer panicked")??;
    }
    let shim = Shim { trace: shared.trace.clone(), ..Shim::default() };
    let mut speed = shared.world.start(Role::Speed, &shim)?;
    let mut serving = shared.world.start(Role::Serving, &shim)?;
    shared.world.wait_for_speed(&mut speed).await?;
    shared.world.wait_for_serving(&mut serving, 0).await?;
    load_stop.cancel();
    let settled = async { while load.join_next().await.is_some() {} };
    tokio::time::timeout(SETTLE_PATIENCE, settled).await.context("what is open was never answered")?;

    audit::equal_for_all(shared, Consistency::Fresh).await?;
    let version = last_run(shared).await?;
    shared.world.wait_for_serving(&mut serving, version).await?;
    audit::equal_for_all(shared, Consistency::Fresh).await?;
    audit::equal_for_all(shared, Consistency::BatchOnly).await?;
    serving.stop().await?;
    speed.stop().await?;
    audit::log_is_whole(shared)?;
    audit::dead_letters_are_whole(shared)?;
    audit::publishes_are_kept(shared)?;
    Ok(())
}

/// Runs the batch once more over everything; the answer is the version that then is the newest.
async fn last_run(shared: &Shared) -> Result<i64> {
    let shim = Shim { trace: shared.trace.clone(), ..Shim::default() };
    let mut code = None;
    for _ in 0..LAST_RUNS {
        code = shared.world.batch_run(&shim).await?;
        if matches!(code, Some(0 | 99)) {
            return newest_version(shared);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    anyhow::bail!("the last batch run ended with {code:?}")
}

/// The newest version in the store, by the names of its manifests.
fn newest_version(shared: &Shared) -> Result<i64> {
    let folder = shared.world.data.join("store/views/user_stats/manifests");
    let mut newest = 0;
    for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        newest = newest.max(name.strip_suffix(".json").and_then(|number| number.parse().ok()).unwrap_or(0));
    }
    Ok(newest)
}

/// Lets a speed layer die at each point of its birth, each time in a new folder, and come up again on what is left: it must
/// take events and count them. Gives how many of the points were met.
///
/// # Errors
/// It does not come up, or an answer is wrong.
pub async fn births(programs: &Programs, figures: &Shared, seed: u64, most: usize) -> Result<usize> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut points = points::of_birth();
    rand::seq::SliceRandom::shuffle(&mut points[..], &mut random);
    let mut met = 0;
    for (point, passed) in points.into_iter().take(most) {
        let folder = tempfile::Builder::new().prefix("merganser-birth-").tempdir()?;
        let shared = Shared::new(World::new(programs, folder.path())?, 4, None);
        let note = folder.path().join("killed");
        let shim = Shim { kill: Some((point, random.random_range(1..=passed), note.clone())), ..Shim::default() };
        let mut first = shared.world.start(Role::Speed, &shim)?;
        // One that does not pass the point comes up instead.
        let came_up = shared.world.wait_for_speed(&mut first).await.is_ok();
        if !came_up {
            ensure!(note.exists(), "a speed layer on an empty folder ended by itself; {}", first.last_words());
            figures.figures.killed(Role::Speed, Some(point));
            met += 1;
        }
        first.kill().await.ok();
        let mut second = shared.world.start(Role::Speed, &Shim::default())?;
        shared.world.wait_for_speed(&mut second).await.with_context(|| format!("after a death at {point}"))?;
        let stop = CancellationToken::new();
        let load = tokio::spawn(loader::load(Arc::clone(&shared), random.random(), stop.clone()));
        while shared.figures.requests_acked.get() < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stop.cancel();
        load.await?;
        second.stop().await?;
        audit::log_is_whole(&shared)?;
        audit::dead_letters_are_whole(&shared)?;
        ensure!(shared.figures.wrongs() == 0, "after a death at {point}:\n{}", shared.figures);
    }
    Ok(met)
}
