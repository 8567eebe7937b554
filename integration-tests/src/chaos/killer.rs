//! Kills, stops and restarts of one process after another.
//!
//! A server's life ends at a named point, at random, or after it was stopped for a while; the next one begins at once. What
//! a process must never do is to end by itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use tokio_util::sync::CancellationToken;

use super::loader::Shared;
use super::model::Wrong;
use super::points::{self, Point};
use super::process::Process;
use super::shim::Shim;
use super::world::Role;

/// A server must work again within this.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// A batch run of so few events takes no longer; a random kill falls somewhere in it.
const RUN_MS: u64 = 700;

/// How fast everything goes.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// A server's life, in milliseconds.
    pub life_ms: (u64, u64),
    /// Wait between two batch runs.
    pub between_runs_ms: (u64, u64),
    /// How long a process is stopped.
    pub stop_ms: (u64, u64),
}

enum Plan {
    Kill,
    Point(Point, u32),
    Stop,
}

/// The points of one role in shuffled rounds, so that none is left out.
struct Plans {
    random: StdRng,
    points: Vec<(Point, u32)>,
    next: usize,
}

impl Plans {
    fn new(role: Role, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut points = points::of_role(role);
        points.shuffle(&mut random);
        Self { random, points, next: 0 }
    }

    fn next(&mut self) -> Plan {
        match self.random.random_range(0..10) {
            0..6 if !self.points.is_empty() => {
                let (point, most) = self.points[self.next % self.points.len()];
                self.next += 1;
                Plan::Point(point, self.random.random_range(1..=most))
            }
            9 => Plan::Stop,
            _ => Plan::Kill,
        }
    }

    fn millis(&mut self, range: (u64, u64)) -> Duration {
        Duration::from_millis(self.random.random_range(range.0..=range.1))
    }
}

/// Lets a server live and die until `stop`; then it is killed once more.
///
/// # Errors
/// It cannot be started.
pub async fn server(shared: Arc<Shared>, role: Role, pace: Pace, seed: u64, stop: CancellationToken) -> Result<()> {
    let mut plans = Plans::new(role, seed);
    let mut died = None;
    while !stop.is_cancelled() {
        let (plan, life) = (plans.next(), plans.millis(pace.life_ms));
        let (shim, note) = armed(&shared, &plan, role);
        let mut process = shared.world.start(role, &shim)?;
        tokio::select! {
            back = recovery(&shared, role, died) => if let Err(error) = back {
                shared.figures.wrong(Wrong::Unexplained, format!("{error:#}\n{}", process.last_words()));
            },
            ended = process.ended() => {
                died = Some(Instant::now());
                judge_end(&shared, role, &plan, &process, &note, ended?.to_string());
                continue;
            }
            // The server that this one needs may be gone for good.
            () = stop.cancelled() => {}
        }
        let fate = async {
            tokio::select! {
                () = tokio::time::sleep(life) => {}
                () = stop.cancelled() => {}
            }
        };
        tokio::select! {
            () = fate => {}
            ended = process.ended() => {
                died = Some(Instant::now());
                judge_end(&shared, role, &plan, &process, &note, ended?.to_string());
                continue;
            }
        }
        if matches!(plan, Plan::Stop) && !stop.is_cancelled() {
            pause(&shared, &process, plans.millis(pace.stop_ms)).await?;
            tokio::time::sleep(life / 2).await;
        }
        shared.figures.killed(role, None);
        process.kill().await?;
        died = Some(Instant::now());
        let _unused = std::fs::remove_file(&note);
    }
    Ok(())
}

/// Batch runs until `stop`: some are killed, some stopped for a while, some have another beside them.
///
/// # Errors
/// It cannot be started.
pub async fn batch(shared: Arc<Shared>, pace: Pace, seed: u64, stop: CancellationToken) -> Result<()> {
    let mut plans = Plans::new(Role::Batch, seed);
    while !stop.is_cancelled() {
        tokio::time::sleep(plans.millis(pace.between_runs_ms)).await;
        let plan = if plans.random.random_bool(0.25) { None } else { Some(plans.next()) };
        if plans.random.random_bool(0.2) {
            let (one, other) = tokio::join!(run_to_end(&shared), run_to_end(&shared));
            one.and(other)?;
            continue;
        }
        let Some(plan) = plan else {
            run_to_end(&shared).await?;
            continue;
        };
        let (shim, note) = armed(&shared, &plan, Role::Batch);
        let mut process = shared.world.start(Role::Batch, &shim)?;
        shared.figures.running.fetch_add(1, Ordering::Relaxed);
        let outcome = one_run(&shared, &mut plans, &plan, &mut process, &note, pace).await;
        shared.figures.running.fetch_sub(1, Ordering::Relaxed);
        outcome?;
    }
    Ok(())
}

async fn one_run(shared: &Shared, plans: &mut Plans, plan: &Plan, process: &mut Process, note: &PathBuf, pace: Pace) -> Result<()> {
    let after = match plan {
        Plan::Point(..) => RECOVERY_PATIENCE,
        Plan::Kill | Plan::Stop => plans.millis((0, RUN_MS)),
    };
    let ended = tokio::select! {
        ended = process.ended() => Some(ended?),
        () = tokio::time::sleep(after) => None,
    };
    if let Some(status) = ended {
        match status.code() {
            Some(code) => judge_code(shared, code, process),
            None => judge_end(shared, Role::Batch, plan, process, note, status.to_string()),
        }
        return Ok(());
    }
    if matches!(plan, Plan::Stop) {
        let status = match pause(shared, process, plans.millis(pace.stop_ms)).await {
            // It had ended in between.
            Err(_) => process.ended().await?,
            Ok(()) => process.ended().await?,
        };
        judge_code(shared, status.code().unwrap_or(1), process);
        return Ok(());
    }
    shared.figures.killed(Role::Batch, None);
    process.kill().await
}

async fn run_to_end(shared: &Shared) -> Result<()> {
    let mut process = shared.world.start(Role::Batch, &Shim { trace: shared.trace.clone(), ..Shim::default() })?;
    shared.figures.running.fetch_add(1, Ordering::Relaxed);
    let status = process.ended().await;
    shared.figures.running.fetch_sub(1, Ordering::Relaxed);
    judge_code(shared, status?.code().unwrap_or(1), &process);
    Ok(())
}

/// Published, nothing to do, lost to another, a peer that is down: all else is wrong.
fn judge_code(shared: &Shared, code: i32, process: &Process) {
    match code {
        0 => shared.figures.publishes.one(),
        3 => shared.figures.runs_lost.one(),
        4 | 99 => {}
        _ => shared.figures.wrong(Wrong::Unexplained, format!("batch-layer run ended with {code}; {}", process.last_words())),
    }
}

fn armed(shared: &Shared, plan: &Plan, role: Role) -> (Shim, PathBuf) {
    let note = shared.world.data.with_extension(format!("killed-{}", role.program()));
    let kill = match plan {
        Plan::Point(point, nth) => Some((*point, *nth, note.clone())),
        Plan::Kill | Plan::Stop => None,
    };
    (Shim { trace: shared.trace.clone(), kill, fail: None }, note)
}

/// A process that ended by itself must have died where it was told to.
fn judge_end(shared: &Shared, role: Role, plan: &Plan, process: &Process, note: &PathBuf, status: String) {
    match plan {
        Plan::Point(point, _) if std::fs::remove_file(note).is_ok() => shared.figures.killed(role, Some(*point)),
        _ => {
            let what = format!("{} ended by itself with {status}; {}", role.program(), process.last_words());
            shared.figures.wrong(Wrong::Unexplained, what);
        }
    }
}

async fn pause(shared: &Shared, process: &Process, length: Duration) -> Result<()> {
    process.signal("STOP").await?;
    shared.figures.stops.one();
    tokio::time::sleep(length).await;
    process.signal("CONT").await
}

/// Waits until the server answers what was asked after the death of the one before it.
async fn recovery(shared: &Shared, role: Role, died: Option<Instant>) -> Result<()> {
    let since = died.unwrap_or_else(Instant::now);
    while !shared.figures.answered_since(role, since) {
        ensure!(since.elapsed() < RECOVERY_PATIENCE, "{} answered nothing for {RECOVERY_PATIENCE:?} after a death", role.program());
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    if died.is_some() {
        shared.figures.recovered(role, since.elapsed());
    }
    Ok(())
}
