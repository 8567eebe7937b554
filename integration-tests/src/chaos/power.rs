//! A recorded run, and the power cut at many moments of it.
//!
//! Events come in, versions are published, the speed layer dies half way through a write and once before a sync, and comes
//! up again. Every acknowledgement notes how long the trace was. For a cut at any length the disk is made as it could be,
//! and must hold every event that was acknowledged by then, once, and none that was not sent. After some cuts the real
//! servers are started on it: they must come up, count the same, publish, and count the same from the batch view alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use merganser_proto::v1::Consistency;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use storage::dead_letter::DeadLetters;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::audit;
use super::disk::{Disk, Unsynced};
use super::loader::{self, Shared, event_id, user_id};
use super::model::{self, Sums};
use super::points::Point;
use super::shim::Shim;
use super::trace;
use super::world::{Programs, Role, World};

const CONNECTIONS: u64 = 4;
const USERS: usize = 60;
/// What is wrong is kept up to so many lines.
const SHOWN: usize = 12;

/// How many cuts.
#[derive(Clone, Copy, Debug)]
pub struct Cuts {
    /// After which the log is read back, in this process.
    pub logs: usize,
    /// After which the servers are started, of these.
    pub servers: usize,
    /// Whether any sector of an unsynced write may be missing, or only the last ones.
    pub any_sector: bool,
}

/// What was recorded and found.
#[derive(Debug, Default)]
pub struct Report {
    calls: BTreeMap<(&'static str, &'static str), usize>,
    records: usize,
    bytes: u64,
    acked: u64,
    published: usize,
    /// Cuts whose log was read back.
    pub logs: usize,
    /// Cuts after which servers ran.
    pub servers: usize,
    with_unsynced: usize,
    least_and_most: Option<(usize, usize)>,
    /// Cuts after which something was not as it must be.
    pub wrong_cuts: usize,
    wrong: Vec<String>,
    first_wrong: Option<(usize, Duration)>,
}

/// Records of a partition by which a repeated event is known: so few that the log is trimmed while it is recorded.
const WINDOW_ROWS: u32 = 2_000;

/// Records for `length`, then cuts.
///
/// # Errors
/// The run itself fails; what a cut shows is in the report.
pub async fn play(programs: &Programs, cuts: Cuts, length: Duration, seed: u64) -> Result<Report> {
    let folder = tempfile::Builder::new().prefix("merganser-power-").tempdir()?;
    let mut world = World::new(programs, folder.path())?;
    world.set("LOG__DEDUP_WINDOW_ROWS", WINDOW_ROWS);
    let shared = Shared::new(world, USERS, Some(folder.path().join("trace")));
    let published = record(&shared, length, seed).await.context("the recorded run")?;
    ensure!(shared.figures.wrongs() == 0, "the recorded run:\n{}", shared.figures);

    let trace_path = shared.trace.clone().context("the run is recorded")?;
    let records = trace::read(&trace_path, &shared.world.data)?;
    ensure!(audit::trimmed_records(&shared.world.data)? > 0, "the log was never trimmed");
    let mut report = Report {
        calls: trace::calls(&records),
        records: records.len(),
        bytes: shared.trace_bytes(),
        acked: shared.figures.requests_acked.get(),
        published: published.len(),
        ..Report::default()
    };
    let mut random = StdRng::seed_from_u64(seed);
    let mut at: Vec<usize> = (0..cuts.logs).map(|_| random.random_range(0..records.len())).collect();
    at.sort_unstable();
    let every = cuts.logs.div_ceil(cuts.servers.max(1)).max(1);
    let began = Instant::now();
    let (mut disk, mut applied) = (Disk::default(), 0);
    for (number, cut) in at.into_iter().enumerate() {
        records[applied..=cut].iter().for_each(|record| disk.apply(&record.change));
        applied = cut + 1;
        let unsynced = match number % 5 {
            0 => Unsynced::Lost,
            1 => Unsynced::Kept,
            2 => Unsynced::Cut,
            _ if cuts.any_sector => Unsynced::Torn,
            _ => Unsynced::Cut,
        };
        let power = Power { shared: &shared, length: records[cut].end, published: &published };
        let what = format!("cut {number}, after record {cut} of {}, unsynced {unsynced:?}", records.len());
        let target = folder.path().join(format!("cut-{number}"));
        let whole = number % every == every / 2;
        report.note_cut(disk.pending());
        let found = power.check(programs, &disk, &target, unsynced, &mut random, whole).await;
        report.logs += 1;
        report.servers += usize::from(whole);
        if let Err(error) = found {
            report.wrong_cuts += 1;
            report.first_wrong.get_or_insert((number + 1, began.elapsed()));
            if report.wrong.len() < SHOWN {
                report.wrong.push(format!("{what}: {error:#}"));
            }
        }
        std::fs::remove_dir_all(&target)?;
    }
    Ok(report)
}

/// The run; the answer is which version was published by which length of the trace.
async fn record(shared: &Arc<Shared>, length: Duration, seed: u64) -> Result<Vec<(u64, i64)>> {
    let mut random = StdRng::seed_from_u64(seed);
    let recording = Shim { trace: shared.trace.clone(), ..Shim::default() };
    let stop = CancellationToken::new();
    let mut load = JoinSet::new();
    for _ in 0..CONNECTIONS {
        load.spawn(loader::load(Arc::clone(shared), random.random(), stop.clone()));
    }
    let mut published = Vec::new();
    // Two lives that end at a point, between whose calls and records nothing can be lost, and one that is asked to end.
    let deaths = [("write", "half"), ("fdatasync", "before")].map(|(call, when)| Point { call, class: "log-segment", when });
    for life in 0..=deaths.len() {
        let note = shared.world.data.with_extension("killed");
        let kill = deaths.get(life).map(|point| (*point, random.random_range(200..400), note.clone()));
        let mut speed = shared.world.start(Role::Speed, &Shim { kill, ..recording.clone() })?;
        let until = Instant::now() + length / 3;
        loop {
            let code = tokio::select! {
                ended = speed.ended() => {
                    ensure!(std::fs::remove_file(&note).is_ok(), "it ended by itself with {}; {}", ended?, speed.last_words());
                    break;
                }
                code = shared.world.batch_run(&recording) => code?,
            };
            match code {
                Some(0) => published.push((shared.trace_bytes(), published.len() as i64 + 1)),
                Some(4 | 99) => {}
                code => bail!("a batch run ended with {code:?}"),
            }
            if Instant::now() > until {
                if life == deaths.len() {
                    stop.cancel();
                    while load.join_next().await.is_some() {}
                }
                speed.stop().await?;
                let _unused = std::fs::remove_file(&note);
                break;
            }
        }
    }
    ensure!(!published.is_empty(), "nothing was published");
    Ok(published)
}

/// One cut.
struct Power<'a> {
    shared: &'a Shared,
    /// Of the trace.
    length: u64,
    published: &'a [(u64, i64)],
}

impl Power<'_> {
    async fn check(
        &self,
        programs: &Programs,
        disk: &Disk,
        target: &Path,
        unsynced: Unsynced,
        random: &mut StdRng,
        servers: bool,
    ) -> Result<()> {
        let data = target.join("data");
        // The same disk for both, since reading the log back cuts its tail.
        let seed = random.random();
        let log_only = |path: &str| path == "store" || ["log", "dead-letter", "store/master"].iter().any(|kept| path.starts_with(kept));
        disk.write_to(&data, unsynced, &mut StdRng::seed_from_u64(seed), log_only)?;
        self.log(&data).context("the log")?;
        if servers {
            std::fs::remove_dir_all(&data)?;
            disk.write_to(&data, unsynced, &mut StdRng::seed_from_u64(seed), |_| true)?;
            Box::pin(self.servers(&World::new(programs, target)?)).await.context("the servers")?;
        }
        Ok(())
    }

    fn log(&self, data: &Path) -> Result<()> {
        let mut found = BTreeMap::new();
        for kept in audit::read_log_and_archive(data)?.into_iter().flatten() {
            ensure!(found.insert(kept.identity, (kept.amount, kept.time_us)).is_none(), "twice: {kept:?}");
        }
        for user in 0..self.shared.model.users() {
            for (number, event) in self.shared.model.events(user).iter().enumerate() {
                let content = found.remove(&(user as u32, number as u32));
                let name = || format!("{} of {}", event_id(number), user_id(user));
                match content {
                    None => ensure!(!self.acked(event), "lost: {}, acknowledged at {:?} of {}", name(), event.acked_at, self.length),
                    Some(content) => {
                        ensure!(content == (event.amount, event.time_us), "other content: {}", name());
                        ensure!(event.sent_at <= self.length, "sent only later: {}", name());
                    }
                }
            }
        }
        ensure!(found.is_empty(), "never sent: {:?}", found.keys().next());
        drop(DeadLetters::open(data)?);
        let kept = audit::read_letters(data)?;
        let refused = self.shared.refused.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let lost = refused.iter().find(|(letter, answered_at)| **answered_at <= self.length && !kept.contains(*letter));
        ensure!(lost.is_none(), "lost: the refused row {lost:?}");
        let sent: BTreeSet<_> = refused.keys().cloned().collect();
        ensure!(kept.is_subset(&sent), "kept, but never refused: {:?}", kept.difference(&sent).next());
        Ok(())
    }

    async fn servers(&self, world: &World) -> Result<()> {
        let shim = Shim::default();
        let mut speed = world.start(Role::Speed, &shim)?;
        world.wait_for_speed(&mut speed).await?;
        let mut serving = world.start(Role::Serving, &shim)?;
        world.wait_for_serving(&mut serving, 0).await?;
        let here = Shared::new(world.clone(), self.shared.model.users(), None);

        let (answers, provenances) = audit::all_users(&here, Consistency::Fresh).await?;
        for (user, answer) in answers.iter().enumerate() {
            let events = self.shared.model.events(user);
            let must = events.iter().filter(|event| self.acked(event)).fold(Sums::default(), Sums::with);
            let may: Vec<_> = events.iter().filter(|event| !self.acked(event) && event.sent_at <= self.length).copied().collect();
            model::explain(&must, &may, answer)
                .map_err(|wrong| anyhow::anyhow!("{wrong:?}: {}: {answer:?}, of what was acknowledged {must:?}", user_id(user)))?;
        }
        let published = self.published.iter().rev().find(|(at, _)| *at <= self.length).map_or(0, |(_, version)| *version);
        let answered = provenances.iter().map(|provenance| provenance.version).min().unwrap_or(0);
        ensure!(answered >= published, "version {published} was published, {answered} answers");

        match world.batch_run(&shim).await? {
            Some(0) => world.wait_for_serving(&mut serving, answered + 1).await?,
            Some(99) => {}
            code => bail!("a batch run ended with {code:?}"),
        }
        for consistency in [Consistency::Fresh, Consistency::BatchOnly] {
            let (again, _) = audit::all_users(&here, consistency).await?;
            ensure!(again == answers, "after a batch run other answers, {consistency:?}");
        }
        serving.kill().await?;
        speed.kill().await
    }

    fn acked(&self, event: &model::Event) -> bool {
        event.acked_at.is_some_and(|at| at <= self.length)
    }
}

impl Report {
    fn note_cut(&mut self, pending: usize) {
        self.with_unsynced += usize::from(pending > 0);
        let (least, most) = self.least_and_most.get_or_insert((pending, pending));
        (*least, *most) = (pending.min(*least), pending.max(*most));
    }

    /// Calls of classes that occurred, most frequent ones included.
    #[must_use]
    pub fn kinds_of_calls(&self) -> usize {
        self.calls.len()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let megabytes = self.bytes / 1_000_000;
        writeln!(f, "{:>9}  changes of files recorded, {megabytes} MB, in {} kinds of calls", self.records, self.calls.len())?;
        writeln!(f, "{:>9}  requests acknowledged, {} versions published meanwhile", self.acked, self.published)?;
        writeln!(f, "{:>9}  power cuts, {} with something unsynced", self.logs, self.with_unsynced)?;
        if let Some((least, most)) = self.least_and_most {
            writeln!(f, "{:>9}  changes unsynced at most, {least} at least", most)?;
        }
        writeln!(f, "{:>9}  … after which the real servers were started", self.servers)?;
        writeln!(f, "{:>9}  cuts with something lost, twice or unexplained", self.wrong_cuts)?;
        if let Some((cuts, after)) = self.first_wrong {
            writeln!(f, "first found at cut {cuts}, after {:.1} s", after.as_secs_f64())?;
        }
        self.wrong.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        for ((call, class), count) in &self.calls {
            writeln!(f, "{count:>9}  {call} of {class}")?;
        }
        Ok(())
    }
}
