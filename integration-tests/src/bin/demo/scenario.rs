//! The scenario: what is started, sent, computed and asked, in this order.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use integration_tests::plain_fold::text::grouped;
use integration_tests::plain_fold::{Part, PlainFold};
use integration_tests::processes::{Binaries, Server};
use serde::Deserialize;
use storage::dead_letter;

use crate::ask::{Answers, Questions};
use crate::checks::Checks;
use crate::report::{Report, Shown};
use crate::split::{Split, split};
use crate::step::{blocking, step};
use crate::{orders, report};

/// The version that the one batch run publishes.
const VERSION: i64 = 1;
/// The smallest dedup window, the default. It is widened to the whole input, so that a repeated load is known at once.
const DEDUP_WINDOW_ROWS: u64 = 1_000_000;
/// Users by revenue in the closing table.
const TOP_USERS: usize = 3;
/// For steps that do not grow with the input.
const SHORT: Duration = Duration::from_secs(60);

/// Plays it. Says whether every check held; an error is a step that could not be done.
pub(crate) async fn play(events: Option<PathBuf>, scale: f64) -> Result<bool> {
    let folder = tempfile::Builder::new().prefix("merganser-demo-").tempdir()?;
    let (split, fold) = prepare(events, scale, folder.path()).await?;
    let patience = Duration::from_secs(120 + split.plan.rows / 500);

    let mut binaries = Binaries::beside_this(&folder.path().join("logs"))?;
    let servers = step("start speed-layer and serving-layer", SHORT * 5, Servers::start(&mut binaries, folder.path(), &split)).await?;
    let mut demo = Demo { binaries, folder: folder.path(), split, fold, servers, patience, checks: Checks::default() };
    let report = match demo.run().await {
        Ok(report) => report,
        Err(error) => return Err(error.context(demo.servers.last_words())),
    };
    println!("\n{report}\n{}", demo.checks);
    Ok(demo.checks.all_held())
}

/// The input in its parts, and its plain fold in the order in which it is sent.
async fn prepare(events: Option<PathBuf>, scale: f64, folder: &Path) -> Result<(Split, PlainFold)> {
    let hour = Duration::from_secs(3600);
    let input = match events {
        Some(path) => path,
        None => {
            let path = folder.join("orders.jsonl");
            let target = path.clone();
            step(&format!("make TPC-H orders of scale {scale}"), hour, blocking(move || Ok(orders::write(&target, scale)?))).await?;
            path
        }
    };
    let name = input.display().to_string();
    let (source, target) = (input.clone(), folder.to_owned());
    let cut = step("cut them in two, some rows held back, to come late", hour, blocking(move || split(&source, &target))).await?;
    let plan = cut.plan;
    let fold = blocking(move || {
        let mut fold = PlainFold::default();
        for part in [Part::Batch, Part::Live] {
            fold.add_file(&input, part, |row| plan.part(row)).with_context(|| input.display().to_string())?;
        }
        Ok(fold)
    });
    let fold = step(&format!("plain fold of {}", report::shortened(&name, 40)), hour, fold).await?;
    Ok((cut, fold))
}

/// The two servers.
struct Servers {
    speed: Server,
    serving: Server,
    data: PathBuf,
}

impl Servers {
    async fn start(binaries: &mut Binaries, folder: &Path, split: &Split) -> Result<Self> {
        let data = folder.join("data");
        binaries.set("STORE__URL", folder.join("store").display());
        binaries.set("LOG__DIR", data.display());
        binaries.set("LOG__DEDUP_WINDOW_ROWS", split.plan.rows.max(DEDUP_WINDOW_ROWS));
        binaries.set("SPEED_LAYER__GRPC_ADDRESS", "127.0.0.1:0");
        binaries.set("SERVING_LAYER__GRPC_ADDRESS", "127.0.0.1:0");
        binaries.set("SPEED_LAYER__HTTP_ADDRESS", "127.0.0.1:0");
        binaries.set("SERVING_LAYER__HTTP_ADDRESS", "127.0.0.1:0");
        let speed = binaries.serve("speed-layer").await?;
        binaries.set("BATCH_LAYER__SPEED_LAYER", &speed.address);
        binaries.set("SERVING_LAYER__SPEED_LAYER", &speed.address);
        let serving = binaries.serve("serving-layer").await?;
        Ok(Self { speed, serving, data })
    }

    fn last_words(&self) -> String {
        format!("{}\n{}", self.speed.last_words(), self.serving.last_words())
    }

    fn dead_letters(&self) -> Result<u64> {
        let mut count = 0;
        for letter in dead_letter::read_all(&self.data)? {
            letter?;
            count += 1;
        }
        Ok(count)
    }
}

/// What a load ends with.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Loaded {
    received: u64,
    accepted: u64,
    duplicate: u64,
    rejected: u64,
    /// Of those, what is no event at all and was not sent.
    unreadable: u64,
}

/// The document of a load.
#[derive(Deserialize)]
struct Summary {
    total: Loaded,
}

struct Demo<'a> {
    binaries: Binaries,
    folder: &'a Path,
    split: Split,
    fold: PlainFold,
    servers: Servers,
    patience: Duration,
    checks: Checks,
}

impl Demo<'_> {
    async fn run(&mut self) -> Result<Report> {
        let Split { first, live, again, .. } = self.split.clone();
        let early = step("load nine tenths", self.patience, self.load(&[&first], false)).await?;
        let batch = self.binaries.run("batch-layer", &["run"], self.patience);
        step("batch-layer run: recompute, audit, publish version 1", self.patience, batch).await?;
        let late = step("load the rest live, late rows among it", self.patience, self.load(&[&live], false)).await?;
        let twice = step("send rows of the first part once more", self.patience, self.load(&[&again], true)).await?;
        self.check_loads(early, late, twice)?;

        let mut questions = Questions::connect(&self.servers.serving.address).await?;
        let provenance = step("wait until version 1 answers", SHORT, questions.wait_for_version(VERSION)).await?;
        let users: Vec<String> = self.fold.users.keys().cloned().collect();
        let asking = format!("ask for all {} users", grouped(users.len() as u64));
        let answers = step(&asking, self.patience, questions.all(&users, VERSION)).await?;
        self.check_answers(&users, &answers);
        let shown = step("ask for some users with both halves apart", SHORT, self.show(&mut questions)).await?;

        let letters = self.servers.dead_letters()?;
        let repeat = step("send everything once more", self.patience, self.load(&[&first, &live], true)).await?;
        let repeated = step(&format!("{asking} again"), self.patience, questions.all(&users, VERSION)).await?;
        self.checks.equal("everything sent once more: nothing is accepted", repeat.accepted, 0);
        self.checks.equal("…and no refused row is kept twice", self.servers.dead_letters()?, letters);
        let changed = answers.stats.iter().zip(&repeated.stats).filter(|(before, after)| before != after).count();
        self.checks.equal("…and no answer changes", changed as u64, 0);
        Ok(Report {
            shown,
            provenance,
            total: self.fold.total(),
            users: users.len() as u64,
            rejected: early.rejected + late.rejected,
            letters,
        })
    }

    async fn load(&self, files: &[&Path], again: bool) -> Result<Loaded> {
        let state = self.folder.join("load").display().to_string();
        let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
        let mut arguments = vec!["load", "--output", "json", "--address", &self.servers.speed.address, "--state-dir", &state];
        arguments.extend(again.then_some("--again"));
        arguments.extend(names.iter().map(String::as_str));
        let printed = self.binaries.run("speed-layer", &arguments, self.patience).await?;
        let summary: Summary = serde_json::from_str(&printed).with_context(|| format!("no counts in what the load printed:\n{printed}"))?;
        Ok(summary.total)
    }

    fn check_loads(&mut self, early: Loaded, late: Loaded, twice: Loaded) -> Result<()> {
        let both = Loaded {
            received: early.received + late.received,
            accepted: early.accepted + late.accepted,
            duplicate: early.duplicate + late.duplicate,
            rejected: early.rejected + late.rejected,
            unreadable: early.unreadable + late.unreadable,
        };
        let checks = &mut self.checks;
        checks.equal(format!("all {} rows were received", grouped(self.split.plan.rows)), both.received, self.split.plan.rows);
        checks.equal("received = accepted + duplicate + rejected", both.accepted + both.duplicate + both.rejected, both.received);
        checks.equal("accepted = events of the plain fold", both.accepted, self.fold.total().total().count);
        // A repeated identity is a duplicate, or with other content a conflict, which is rejected.
        let most = self.fold.skipped + self.fold.repeated;
        let explained = (self.fold.skipped..=most).contains(&both.rejected);
        let failure =
            (!explained).then(|| format!("{} rejected, {} skipped, {} repeated", both.rejected, self.fold.skipped, self.fold.repeated));
        checks.note(format!("rejected = rows that the plain fold skips ({})", grouped(self.fold.skipped)), failure);
        let letters = self.servers.dead_letters()?;
        let kept = (both.rejected == both.unreadable) == (letters == 0) && letters <= both.rejected + twice.rejected;
        self.checks.note("rejected rows are kept as dead letters", (!kept).then(|| format!("{letters} are kept")));
        self.checks.equal(format!("of {} rows sent twice none is counted", grouped(twice.received)), twice.accepted, 0);
        Ok(())
    }

    fn check_answers(&mut self, users: &[String], answers: &Answers) {
        let expected: Vec<_> = self.fold.users.values().map(|user| user.total()).collect();
        let wrong: Vec<_> = (0..users.len()).filter(|i| answers.stats.get(*i) != Some(&expected[*i])).collect();
        let failure = wrong.first().map(|i| {
            let found = answers.stats.get(*i);
            format!("{} differ, first user {}: answer {found:?}, plain fold {:?}", wrong.len(), users[*i], expected[*i])
        });
        self.checks.note("every user: count, revenue, first and last time equal the plain fold", failure);
        let total = self.fold.total();
        self.checks.equal("the batch view has every event sent before the run", answers.batch_events, total.batch.count);
        self.checks.equal("the realtime view has every event sent after it", answers.speed_events, total.live.count);
    }

    /// The users of the closing table: the top ones, one with both halves, one whose events are all live.
    async fn show(&mut self, questions: &mut Questions) -> Result<Vec<Shown>> {
        let mut by_revenue: Vec<_> = self.fold.users.iter().collect();
        by_revenue.sort_by_key(|(_, user)| std::cmp::Reverse(user.total().revenue));
        let mut names: Vec<&String> = by_revenue.iter().take(TOP_USERS).map(|(name, _)| *name).collect();
        let top: BTreeSet<_> = names.iter().copied().collect();
        let others = || by_revenue.iter().filter(|(name, _)| !top.contains(name));
        names.extend(others().find(|(_, user)| user.batch.count > 0 && user.live.count > 0).map(|(name, _)| *name));
        names.extend(others().find(|(_, user)| user.batch.count == 0).map(|(name, _)| *name));

        let mut shown = Vec::new();
        for name in names {
            let explained = questions.explain(name).await?;
            shown.push(Shown { user: name.clone(), explained, plain: self.fold.users[name].clone() });
        }
        let wrong = shown.iter().filter(|user| !user.agrees()).count();
        self.checks.equal("the users above: each half, and their sum, equal the plain fold of that part", wrong as u64, 0);
        Ok(shown)
    }
}
