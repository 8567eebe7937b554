//! T1, the simulator: the three layers on one thread, with a disk, an object store, a network and a clock that one seed decides.
//!
//! What runs is the product: `SpeedLayer`, `ServingLayer` and `batch_layer::run_on` with their services, without tonic's network.
//! Beneath them are a disk in memory that forgets at a power cut what was not synced (`storage::log::disk::MemoryDisk`), an object
//! store that fails before and after it obeys (`store`), links that lose calls and replies (`link`), and tokio's paused clock.
//! `world` starts, kills and unplugs the servers, `clients` use them, and the `oracle` judges every answer: each event has a
//! digit of its own in the sum, so an answer tells which events it counted, and how often.
//!
//! One seed is one run, byte for byte: [`Report::digest`] covers every call and its answer, the disk and all objects at the end.

pub(crate) mod chance;
pub(crate) mod clients;
pub(crate) mod faults;
mod link;
pub(crate) mod oracle;
pub(crate) mod process;
mod questions;
pub(crate) mod runs;
pub(crate) mod store;
mod upkeep;
pub(crate) mod world;

use std::fmt;
use std::ops::AddAssign;
use std::time::Duration;

use merganser_proto::v1::Consistency;
use tokio::time::{sleep, timeout};

use chance::Chance;
use clients::Clients;
use faults::Weather;
pub use faults::{FAULTS, Fault, Struck, Tally};
use oracle::Oracle;
use process::{Stopwatch, Trace};
use runs::Batch;
use world::World;

/// Users of a run.
const USERS: usize = 4;
/// Simulated time that a run may take.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// What a run did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Runs added up.
    pub runs: u64,
    /// Events acknowledged as new.
    pub acknowledged: u64,
    /// Events acknowledged as duplicates.
    pub duplicates: u64,
    /// Rows refused.
    pub refused: u64,
    /// Appends whose outcome the client does not know.
    pub unknown: u64,
    /// Answers about a user, each judged by the oracle.
    pub answers: u64,
    /// Answers that were merged from two filled halves.
    pub merged: u64,
    /// Questions without an answer.
    pub unanswered: u64,
    /// Of these, those asked while the serving layer could not reach the speed layer.
    pub refused_apart: u64,
    /// Answers that say they are incomplete, and why.
    pub incomplete: u64,
    /// Versions published.
    pub publishes: u64,
    /// Batch runs that failed.
    pub failed_runs: u64,
    /// Batch runs that were killed.
    pub killed_runs: u64,
    /// Users erased.
    pub erasures: u64,
    /// Expiries and compactions that came to an end.
    pub upkeeps: u64,
    /// Versions that they let go.
    pub expired_versions: u64,
    /// Files in whose place they wrote others.
    pub merged_files: u64,
    /// Rows of erased users that they took out.
    pub erased_rows: u64,
    /// What struck.
    pub tally: Tally,
    /// Of the run's trace; empty for a sum of runs.
    pub digest: String,
}

impl crate::seeds::Tally for Report {
    fn runs(&self) -> u64 {
        self.runs
    }

    fn digest(&self) -> &str {
        &self.digest
    }
}

impl AddAssign<&Report> for Report {
    fn add_assign(&mut self, other: &Report) {
        self.runs += other.runs;
        self.acknowledged += other.acknowledged;
        self.duplicates += other.duplicates;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.answers += other.answers;
        self.merged += other.merged;
        self.unanswered += other.unanswered;
        self.refused_apart += other.refused_apart;
        self.incomplete += other.incomplete;
        self.publishes += other.publishes;
        self.failed_runs += other.failed_runs;
        self.killed_runs += other.killed_runs;
        self.erasures += other.erasures;
        self.upkeeps += other.upkeeps;
        self.expired_versions += other.expired_versions;
        self.merged_files += other.merged_files;
        self.erased_rows += other.erased_rows;
        self.tally += &other.tally;
        self.digest.clear();
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            runs, acknowledged, duplicates, refused, unknown, answers, merged, unanswered, publishes, failed_runs, killed_runs, ..
        } = self;
        writeln!(
            f,
            "{runs} runs: {acknowledged} events acknowledged, {duplicates} duplicates, {refused} rows refused, {unknown} appends unknown"
        )?;
        writeln!(f, "{answers} answers judged, {merged} of two halves, {unanswered} questions unanswered")?;
        writeln!(f, "{publishes} versions published, {failed_runs} runs failed, {killed_runs} killed")?;
        let Self { erasures, upkeeps, expired_versions, merged_files, erased_rows, .. } = self;
        writeln!(
            f,
            "{erasures} users erased; {upkeeps} upkeeps: {expired_versions} versions expired, {merged_files} files rewritten, {erased_rows} rows erased"
        )?;
        write!(f, "{}", self.tally)
    }
}

/// Simulates the run of one seed. With `printed`, every step is printed.
///
/// # Errors
/// What was wrong: an event lost or counted twice, a server that refuses what it wrote, or one that does not recover.
///
/// # Panics
/// Where the product does.
pub fn simulate(seed: u64, printed: bool) -> Result<Report, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime of one thread");
    let outcome = runtime.block_on(async {
        let run = timeout(PATIENCE, Box::pin(run(seed, printed))).await;
        run.unwrap_or_else(|_| Err("the run does not come to an end".to_owned()))
    });
    // Whoever still waits for a dead process is not waited for.
    runtime.shutdown_background();
    outcome
}

async fn run(seed: u64, printed: bool) -> Result<Report, String> {
    let (chance, stopwatch) = (Chance::new(seed), Stopwatch::start());
    let trace = Trace::new(printed, &stopwatch);
    let weather = Weather::new(&chance);
    let dedup_window_rows = if chance.happens(250) { 6 } else { 1_000_000 };
    let world = World::new(&chance, &trace, weather.clone(), dedup_window_rows, &stopwatch);
    let clients = Clients::new(&world, Oracle::new(USERS, dedup_window_rows > 1_000), USERS);

    let servers = async {
        tokio::select! {
            biased;
            wrong = world.keep_speed() => wrong,
            wrong = world.keep_serving() => wrong,
        }
    };
    let story = async {
        Box::pin(stormy(&clients)).await?;
        weather.calm();
        world.disk.set_capacity(None);
        calm(&clients, || world.batch()).await?;
        clients.afterwards().await
    };
    tokio::select! {
        biased;
        wrong = servers => wrong.and(Err("the servers have ended".to_owned())),
        told = story => told,
    }?;
    world.absorb().await?;
    let mut report = clients.report.lock().expect("nobody panics with it").clone();
    report.runs = 1;
    report.tally = weather.tally();
    report.digest = trace.digest();
    Ok(report)
}

/// Everybody at once, while things go wrong.
async fn stormy(clients: &Clients) -> Result<(), String> {
    let chance = &clients.world.chance;
    let (appends, questions, runs) = (4 + chance.below(12), 4 + chance.below(14), chance.below(4));
    let (erasures, upkeeps) = (chance.below(3), chance.below(3));
    tokio::try_join!(
        clients.write(appends),
        clients.write(appends / 2),
        clients.ask(questions),
        clients.ask(questions / 2),
        clients.run_batches(runs),
        clients.erase(erasures),
        clients.keep_store(upkeeps),
    )?;
    Ok(())
}

/// Nothing goes wrong any more: everything becomes known, and everything is counted once.
pub(crate) async fn calm<F>(clients: &Clients, run_batch: impl Fn() -> F) -> Result<(), String>
where
    F: Future<Output = Result<Batch, String>>,
{
    let slow = clients.world.weather.has(Fault::StoreStalls);
    sleep(Duration::from_secs(if slow { 150 } else { 5 })).await;
    clients.settle().await?;
    // Everything is acknowledged, so nothing of it may need the page cache.
    clients.world.unplug();
    for user in 0..clients.user_count() {
        until_answered(clients, user, Consistency::Fresh, false).await?;
    }
    let mut attempts = 0;
    loop {
        let batch = run_batch().await?;
        clients.note_batch(&batch);
        if matches!(batch, Batch::Published | Batch::NothingToDo) {
            break;
        }
        attempts += 1;
        if attempts == 20 {
            return Err(format!("no run succeeds though nothing fails any more: {batch:?}"));
        }
        sleep(Duration::from_secs(10)).await;
    }
    // Every server polls meanwhile.
    sleep(Duration::from_secs(2)).await;
    clients.ask_once_more().await?;
    clients.check_letters()
}

impl Clients {
    /// Asks about everybody, when a version covers everything.
    async fn ask_once_more(&self) -> Result<(), String> {
        for user in 0..self.user_count() {
            for consistency in [Consistency::Fresh, Consistency::BatchOnly] {
                until_answered(self, user, consistency, true).await?;
            }
        }
        Ok(())
    }
}

async fn until_answered(clients: &Clients, user: usize, consistency: Consistency, covered: bool) -> Result<(), String> {
    for _ in 0..100 {
        if clients.question(user, consistency, covered).await? {
            return Ok(());
        }
        sleep(Duration::from_millis(300)).await;
    }
    Err(format!("no {consistency:?} answer about user {user} though nothing fails any more"))
}
