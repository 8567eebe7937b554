//! A random schedule against real servers. Appends, questions and oracle are one task, so that what was acknowledged before a
//! question is exactly known.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration_tests::cluster::Cluster;
use integration_tests::view_oracle::{Cell, Fact, Over, View};
use merganser_proto::v1::{AppendEventsRequest, Consistency, Event, Provenance, Row};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use storage::config::{ByteSize, Config};
use tokio::time::Instant;
use tonic::{Code, Status};
use views::schema::AttributeType;

use crate::asked::{Asked, KEEP_US, about, cells, micros, now_us, random_fact, text, timed, timestamp};
use crate::exported::{Exported, export, whole};
use crate::{Declared, VIEWS, declared};

/// Operations of one schedule.
const OPERATIONS: usize = 60;
/// How long a version may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug)]
enum Operation {
    Append,
    Run(View),
    RestartSpeed,
    RestartServing,
}

/// Carries out the schedule of `seed`, and says what it did.
pub(crate) async fn play(seed: u64) -> Result<String> {
    let whole = format!("seed {seed} (replay with SEED={seed} VIEW_SCHEDULES=1)");
    let mut player = Player::start(seed).await.with_context(|| whole.clone())?;
    let mut operations = vec![Operation::RestartSpeed, Operation::RestartServing];
    operations.extend(VIEWS.iter().flat_map(|view| [Operation::Run(*view); 3]));
    operations.resize(OPERATIONS - 1, Operation::Append);
    operations.shuffle(&mut player.random);
    operations.insert(0, Operation::Append);
    for (number, operation) in operations.into_iter().enumerate() {
        player.carry_out(operation).await.with_context(|| format!("{whole}, operation {number}: {operation:?}"))?;
    }
    let report = format!("seed {seed}: {} events, {} versions, {} answers", player.facts.len(), player.versions.len(), player.answers);
    player.cluster.stop().await.context(whole)?;
    Ok(report)
}

/// What is known of a published version.
struct Version {
    /// It covers so many facts, at least and at most.
    covered: Range<usize>,
    /// The newest of them was appended between these readings of the clock.
    as_of_us: [i64; 2],
}

pub(crate) struct Player {
    pub(crate) cluster: Cluster,
    random: StdRng,
    /// What was acknowledged, in order.
    pub(crate) facts: Vec<Fact>,
    /// Token of the last append, and readings of the clock around it.
    position: String,
    appended_us: [i64; 2],
    versions: BTreeMap<(View, i64), Version>,
    running: Option<View>,
    /// The newest version that has answered.
    seen: BTreeMap<View, i64>,
    answers: usize,
}

impl Player {
    pub(crate) async fn start(seed: u64) -> Result<Self> {
        let adjust = |config: &mut Config| {
            config.events.attributes.insert("item".to_owned(), AttributeType::String);
            config.log.partitions = 3;
            config.log.segment_bytes = ByteSize(8 << 10);
        };
        let cluster = Cluster::start(seed.is_multiple_of(2), adjust).await?;
        std::fs::create_dir_all(cluster.folder().join("views"))?;
        for Declared { name, sql, .. } in VIEWS.map(declared) {
            std::fs::write(cluster.folder().join(format!("views/{name}.sql")), sql)?;
        }
        Ok(Self {
            cluster,
            random: StdRng::seed_from_u64(seed),
            facts: Vec::new(),
            position: String::new(),
            appended_us: [0; 2],
            versions: BTreeMap::new(),
            running: None,
            seen: BTreeMap::new(),
            answers: 0,
        })
    }

    async fn carry_out(&mut self, operation: Operation) -> Result<()> {
        match operation {
            Operation::Append => self.append().await?,
            Operation::Run(view) => self.run(view).await?,
            Operation::RestartSpeed => {
                self.cluster.stop_speed().await?;
                self.cluster.start_speed().await?;
            }
            Operation::RestartServing => self.cluster.restart_serving().await?,
        }
        for (view, version) in &self.seen {
            self.wait_for(declared(*view).name, *version).await?;
        }
        for _ in 0..self.random.random_range(0..=8) {
            self.ask_something().await?;
        }
        Ok(())
    }

    /// New events, and exact copies of old ones, which do not count.
    pub(crate) async fn append(&mut self) -> Result<()> {
        let (mut events, mut new) = (Vec::new(), Vec::new());
        for i in 0..self.random.random_range(1..=40) {
            match self.facts.choose(&mut self.random) {
                Some(copy) if i > 0 && self.random.random_ratio(1, 6) => events.push(event(copy)),
                _ => {
                    new.push(random_fact(format!("e{}-{i}", self.facts.len()), &mut self.random));
                    events.extend(new.last().map(event));
                }
            }
        }
        let expected = (new.len() as i64, (events.len() - new.len()) as i64);
        let before_us = now_us();
        let response = self.cluster.ingest.append_events(AppendEventsRequest { events }).await?.into_inner();
        let counts = (response.accepted_count, response.duplicate_count);
        ensure!(counts == expected, "expected {expected:?} events and copies: {response:?}");
        self.appended_us = [before_us, now_us()];
        self.position = response.position;
        self.facts.extend(new);
        Ok(())
    }

    /// A batch run, with questions and perhaps appends meanwhile, and questions until its version answers.
    pub(crate) async fn run(&mut self, view: View) -> Result<()> {
        let (before, acknowledged, as_of_us) = (self.published(view), self.facts.len(), self.appended_us[0]);
        // Of a run without appends it is known to the event what it covers.
        let appends = self.random.random();
        self.running = Some(view);
        let run = self.cluster.start_batch_run_of(declared(view).name);
        while !run.is_finished() {
            if appends && self.random.random_ratio(1, 8) {
                self.append().await?;
            }
            self.ask_something().await?;
        }
        let version = run.await.context("the run panicked")??;
        self.running = None;
        match version {
            Some(version) => {
                ensure!(version == before + 1, "version {version} follows {before}");
                let known = Version { covered: acknowledged..self.facts.len(), as_of_us: [as_of_us, self.appended_us[1]] };
                self.versions.insert((view, version), known);
            }
            None => {
                let all = self.covered(view, before).is_some_and(|covered| covered.end >= acknowledged);
                ensure!(all, "a run found nothing to do, with events to cover");
            }
        }
        let deadline = Instant::now() + PATIENCE;
        while self.seen.get(&view) < Some(&self.published(view)) {
            ensure!(Instant::now() < deadline, "version {version:?} never answered");
            self.ask(view).await?;
        }
        Ok(())
    }

    /// The newest version that is known to be published, or 0.
    pub(crate) fn published(&self, view: View) -> i64 {
        self.versions.range((view, 0)..=(view, i64::MAX)).next_back().map_or(0, |((_, version), _)| *version)
    }

    /// How many facts a version covers, at least and at most.
    pub(crate) fn covered(&self, view: View, version: i64) -> Option<Range<usize>> {
        self.versions.get(&(view, version)).map(|version| version.covered.clone())
    }

    /// Waits until a version answers with both halves.
    pub(crate) async fn wait_for(&self, view: &str, version: i64) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.cluster.views.clone().get_view_rows(timed(about(view, "1"))).await;
            let provenance = answer.as_ref().ok().and_then(|answer| answer.get_ref().provenance.as_ref());
            if provenance.is_some_and(|provenance| provenance.version >= version) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "version {version} of {view} does not answer: {answer:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn ask_something(&mut self) -> Result<()> {
        let view = *VIEWS.choose(&mut self.random).expect("there are some");
        self.ask(view).await
    }

    async fn ask(&mut self, view: View) -> Result<()> {
        let asked = Asked::random(view, &mut self.random);
        let before_us = now_us();
        let (names, rows, provenance) = match self.send(&asked).await {
            // Its first version is not published, or was a moment ago.
            Err(status) if status.code() == Code::NotFound && !self.seen.contains_key(&view) => return Ok(()),
            answer => answer.with_context(|| format!("{asked:?}"))?,
        };
        let clock_us = [before_us, now_us()];
        let provenance = provenance.context("no provenance")?;
        let checked = self.check(&asked, &names, &rows, &provenance, clock_us);
        checked.with_context(|| format!("{asked:?}\n  answer: {rows:?}\n  from: {provenance:?}"))?;
        self.seen.insert(view, provenance.version);
        self.answers += 1;
        Ok(())
    }

    async fn send(&mut self, asked: &Asked) -> Result<Exported, Status> {
        // The batch view alone may well end before it.
        let min_position = if asked.consistency == Consistency::BatchOnly { String::new() } else { self.position.clone() };
        if let Some(mut request) = asked.top_request() {
            request.min_position = min_position;
            let answer = self.cluster.views.get_top_rows(timed(request)).await?.into_inner();
            return Ok((answer.column_names, rows(answer.rows)?, answer.provenance));
        }
        if let Some(mut request) = asked.export_request() {
            request.min_position = min_position;
            let pieces = export(&mut self.cluster.views, request).await?;
            return whole(pieces).await.map_err(|error| Status::internal(format!("{error:#}")));
        }
        let mut request = asked.rows_request();
        request.min_position = min_position;
        let answer = self.cluster.views.get_view_rows(timed(request)).await?.into_inner();
        Ok((answer.column_names, rows(answer.rows)?, answer.provenance))
    }

    /// Compares an answer that was given between two readings of the clock.
    fn check(&self, asked: &Asked, names: &[String], rows: &[Vec<Cell>], provenance: &Provenance, clock_us: [i64; 2]) -> Result<()> {
        let Declared { key, bucket, measures, .. } = declared(asked.question.view);
        let place = [key, if asked.question.over == Over::Total { &[] } else { std::slice::from_ref(&bucket) }].concat();
        ensure!(names == [place.as_slice(), measures].concat(), "columns {names:?}");
        let kept_from_us = self.check_provenance(asked.question.view, provenance)?;

        let fresh = asked.consistency != Consistency::BatchOnly && provenance.complete;
        ensure!(fresh || asked.consistency != Consistency::Fresh, "one half was given for both");
        let counts = place.len();
        let facts = match self.covered(asked.question.view, provenance.version) {
            _ if fresh => Some(&self.facts[..]),
            Some(covered) if covered.start == covered.end => Some(&self.facts[..covered.end]),
            _ => None,
        };
        if let Some(facts) = facts {
            let expected = |now_us| asked.rows(facts, kept_from_us, now_us);
            ensure!(clock_us.iter().any(|now_us| rows == expected(*now_us)), "the rows are to be {:?}", expected(clock_us[0]));
        } else {
            let all = asked.at(clock_us[0]).rows(&self.facts, kept_from_us);
            let fits = |row: &Vec<Cell>| all.iter().any(|whole| whole[..counts] == row[..counts] && whole[counts] >= row[counts]);
            ensure!(rows.iter().all(fits), "the batch view has more than there is: {all:?}");
        }
        if asked.top.is_none() && !matches!(asked.question.over, Over::Window(_)) {
            let count = |row: &Vec<Cell>| if let Cell::Count(count) = row[counts] { count } else { 0 };
            let halves = provenance.batch_event_count + provenance.speed_event_count;
            ensure!(halves == rows.iter().map(count).sum::<i64>(), "the halves have {halves} events");
        }
        Ok(())
    }

    /// Where the first bucket starts that is kept.
    fn check_provenance(&self, view: View, provenance: &Provenance) -> Result<i64> {
        let version = provenance.version;
        let seen = self.seen.get(&view).copied().unwrap_or(0);
        let newest = self.published(view) + i64::from(self.running == Some(view));
        ensure!((seen..=newest).contains(&version), "version {version} answered, after {seen} and with {newest} the newest");
        let kept_from_us = provenance.kept_from_time.as_ref().map(micros);
        ensure!(kept_from_us.is_some() == (view == View::UserActivity), "kept from {kept_from_us:?}");
        let Some(kept_from_us) = kept_from_us else { return Ok(i64::MIN) };
        let as_of_us = self.versions.get(&(view, version)).map_or([0, now_us()], |version| version.as_of_us);
        let [first, last] = as_of_us.map(|as_of_us| view.bucket(as_of_us - KEEP_US));
        let fits = (first..=last).contains(&kept_from_us) && view.bucket(kept_from_us) == kept_from_us;
        ensure!(fits, "kept from {kept_from_us}, which is to be a minute in {first}..={last}");
        Ok(kept_from_us)
    }
}

fn rows(rows: Vec<Row>) -> Result<Vec<Vec<Cell>>, Status> {
    rows.into_iter().map(cells).collect::<Result<_>>().map_err(|error| Status::internal(format!("{error:#}")))
}

/// The event as it is sent; the same one always in the same words.
fn event(fact: &Fact) -> Event {
    let decimal = |unscaled: i128| {
        let sign = if unscaled < 0 { "-" } else { "" };
        format!("{sign}{}.{:04}", unscaled.unsigned_abs() / 10_000, unscaled.unsigned_abs() % 10_000)
    };
    Event {
        event_id: fact.id.clone(),
        user_id: fact.user.clone(),
        event_time: Some(timestamp(fact.time_us)),
        event_type: text(&fact.event_type).unwrap_or_default(),
        amount: fact.amount.map(decimal).unwrap_or_default(),
        attributes: text(&fact.item).map(|item| ("item".to_owned(), item)).into_iter().collect(),
    }
}
