//! A schedule carried out against real servers, every answer compared with the oracle's.

mod answers;
mod coverage;

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use merganser_proto::v1::{AppendEventsRequest, AppendEventsResponse, Event};
use prost_types::Timestamp;
use storage::config::Config;
use storage::dead_letter;

pub use coverage::Coverage;

use crate::cluster::Cluster;
use crate::oracle::{Fact, Oracle};
use crate::schedule::{BadRow, Maker, NewEvent, Operation, Question, Schedule};
use answers::Expected;

/// 2300-01-01, behind the last year that is accepted.
const FAR_FUTURE_US: i64 = 10_413_792_000_000_000;

/// Carries out `schedule`.
///
/// # Errors
/// The first operation that failed or was answered wrongly, with its number and the seed.
pub async fn play(schedule: Schedule) -> Result<Coverage> {
    let whole = format!("seed {} (replay with SEED={} SCHEDULES=1)", schedule.seed, schedule.seed);
    let mut player = Player::start(&schedule).await.with_context(|| whole.clone())?;
    for (number, operation) in schedule.operations.iter().enumerate() {
        player.carry_out(operation).await.with_context(|| format!("{whole}, operation {number}: {operation:?}"))?;
    }
    player.finish().await.with_context(|| whole.clone())
}

struct Player {
    cluster: Cluster,
    oracle: Oracle,
    dedup_window_rows: usize,
    /// Versions that may answer: the published one, and while a run is under way the next.
    published: i64,
    run_under_way: bool,
    /// The newest version that has answered.
    seen: i64,
    /// Token of the last append.
    position: String,
    /// What must be kept of refused rows: every one is different.
    refused: BTreeSet<String>,
    coverage: Coverage,
}

impl Player {
    async fn start(schedule: &Schedule) -> Result<Self> {
        let adjust = |config: &mut Config| {
            config.log.partitions = schedule.partitions;
            config.log.dedup_window_rows = schedule.dedup_window_rows;
        };
        Ok(Self {
            cluster: Cluster::start(schedule.store_in_memory, adjust).await?,
            oracle: Oracle::default(),
            dedup_window_rows: schedule.dedup_window_rows as usize,
            published: 0,
            run_under_way: false,
            seen: 0,
            position: String::new(),
            refused: BTreeSet::new(),
            coverage: Coverage::of(schedule),
        })
    }

    async fn carry_out(&mut self, operation: &Operation) -> Result<()> {
        self.coverage.operations += 1;
        match operation {
            Operation::Append(events) => self.append(events).await,
            Operation::Duplicate(pick) => self.duplicate(*pick).await,
            Operation::Conflict(pick) => self.conflict(*pick).await,
            Operation::Refused(kind, good) => self.refused(*kind, good).await,
            Operation::Erase(user) => self.erase(user).await,
            Operation::EraseAndResend(pick) => self.erase_and_resend(*pick).await,
            Operation::Cut => self.cut().await,
            Operation::Run => self.run().await,
            Operation::RunUnderQueries(seed) => self.run_under_queries(*seed).await,
            Operation::RestartSpeed => self.restart_speed().await,
            Operation::RestartServing => self.restart_serving().await,
            Operation::Ask(question) => self.ask(question, Expected::Fresh).await,
        }
    }

    async fn finish(self) -> Result<Coverage> {
        let kept = dead_letter::read_all(&self.cluster.data_dir())?.collect::<Result<Vec<_>, _>>()?;
        ensure!(kept.len() == self.refused.len(), "{} dead letters are kept, {} rows were refused", kept.len(), self.refused.len());
        self.cluster.stop().await?;
        Ok(self.coverage)
    }

    async fn send(&mut self, events: Vec<Event>) -> Result<AppendEventsResponse> {
        let sent = events.len() as i64;
        let response = self.cluster.ingest.append_events(AppendEventsRequest { events }).await?.into_inner();
        let answered = response.accepted_count + response.duplicate_count + response.rejected.len() as i64;
        ensure!(answered == sent, "of {sent} rows {answered} are accounted for: {response:?}");
        self.position.clone_from(&response.position);
        Ok(response)
    }

    fn acknowledge(&mut self, event: &NewEvent) {
        let next = self.published + 1;
        let covered_by = next..=if self.run_under_way { next + 1 } else { next };
        let NewEvent { user, id, time_us, amount } = event.clone();
        self.oracle.acknowledge(Fact { user, id, time_us, amount, covered_by, record: 0 });
    }

    async fn append(&mut self, events: &[NewEvent]) -> Result<()> {
        let response = self.send(events.iter().map(wire).collect()).await?;
        ensure!(response.accepted_count == events.len() as i64, "new events are accepted: {response:?}");
        events.iter().for_each(|event| self.acknowledge(event));
        self.coverage.events += events.len();
        Ok(())
    }

    /// Erases a user: all that came before is gone at once, also where the speed layer is not asked, as soon as that is known there.
    async fn erase(&mut self, user: &str) -> Result<()> {
        self.cluster.erase(user).await?;
        self.oracle.erase(user);
        self.coverage.erasures += 1;
        self.ask(&Question::Buckets(user.to_owned()), Expected::Fresh).await?;
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
        while let Err(still_there) = self.ask(&Question::BatchOnly(user.to_owned()), Expected::Fresh).await {
            ensure!(tokio::time::Instant::now() < deadline, "{still_there:#}");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// An acknowledged event, and how many records came after its newest copy.
    fn pick(&self, pick: u32) -> Option<(NewEvent, usize)> {
        let facts = &self.oracle.0;
        let (fact, _) = facts.get((pick as usize).checked_rem(facts.len())?)?;
        let newest = facts.iter().rfind(|(other, _)| (&other.user, &other.id) == (&fact.user, &fact.id))?;
        let since = self.oracle.1 - newest.0.record - 1;
        Some((NewEvent { user: fact.user.clone(), id: fact.id.clone(), time_us: fact.time_us, amount: fact.amount }, since))
    }

    /// What was erased was never there: the same event sent again is a new one, and the one after it a duplicate.
    async fn erase_and_resend(&mut self, pick: u32) -> Result<()> {
        let Some((event, _)) = self.pick(pick) else { return Ok(()) };
        self.erase(&event.user).await?;
        self.append(std::slice::from_ref(&event)).await?;
        let response = self.send(vec![wire(&event)]).await?;
        ensure!(response.duplicate_count == 1, "an event sent again after an erasure, and then once more: {response:?}");
        self.coverage.resent += 1;
        self.ask(&Question::Buckets(event.user), Expected::Fresh).await
    }

    /// Notes a copy that was accepted, which is right only beyond the window.
    fn slipped(&mut self, copy: &NewEvent, since: usize) -> Result<()> {
        ensure!(since >= self.dedup_window_rows, "a copy was accepted, {since} events after the original");
        self.acknowledge(copy);
        self.coverage.slipped += 1;
        Ok(())
    }

    async fn duplicate(&mut self, pick: u32) -> Result<()> {
        let Some((event, since)) = self.pick(pick) else { return Ok(()) };
        let response = self.send(vec![wire(&event)]).await?;
        self.coverage.duplicates += 1;
        if let Some(rejected) = response.rejected.first() {
            let same = |fact: &Fact| (&fact.user, &fact.id) == (&event.user, &event.id) && fact.amount != event.amount;
            ensure!(self.oracle.0.iter().any(|(fact, _)| same(fact)), "a duplicate was refused: {rejected:?}");
            self.refused.insert(format!("{event:?}"));
        }
        if response.accepted_count == 1 { self.slipped(&event, since) } else { Ok(()) }
    }

    async fn conflict(&mut self, pick: u32) -> Result<()> {
        let Some((mut event, since)) = self.pick(pick) else { return Ok(()) };
        event.amount = Some(event.amount.unwrap_or(0) + 1);
        let response = self.send(vec![wire(&event)]).await?;
        self.coverage.conflicts += 1;
        if response.accepted_count == 1 {
            return self.slipped(&event, since);
        }
        // An earlier conflict may have slipped in with this very amount.
        let known = self.oracle.0.iter().any(|(fact, _)| (&fact.user, &fact.id, fact.amount) == (&event.user, &event.id, event.amount));
        ensure!(known || response.rejected.len() == 1, "a conflict is refused: {response:?}");
        if !response.rejected.is_empty() {
            self.refused.insert(format!("{event:?}"));
        }
        Ok(())
    }

    async fn refused(&mut self, kind: BadRow, good: &NewEvent) -> Result<()> {
        let mut bad = wire(&NewEvent { id: format!("bad-{}", good.id), ..good.clone() });
        let field = match kind {
            BadRow::NoUser => {
                bad.user_id.clear();
                "user_id"
            }
            BadRow::NoTime => {
                bad.event_time = None;
                "event_time"
            }
            BadRow::FineAmount => {
                bad.amount = "0.00001".to_owned();
                "amount"
            }
            BadRow::FarFuture => {
                bad.event_time = Some(timestamp(FAR_FUTURE_US));
                "event_time"
            }
        };
        self.refused.insert(format!("{bad:?}"));
        let response = self.send(vec![bad, wire(good)]).await?;
        let blamed: Vec<_> = response.rejected.iter().map(|row| (row.index, row.field.as_str())).collect();
        ensure!(blamed == [(0, field)] && response.accepted_count == 1, "expected {field} of row 0 to be refused alone: {response:?}");
        self.acknowledge(good);
        self.coverage.refused += 1;
        Ok(())
    }

    async fn cut(&mut self) -> Result<()> {
        self.coverage.cuts += 1;
        self.cluster.cut().await
    }

    async fn run(&mut self) -> Result<()> {
        let version = self.cluster.batch_run().await?;
        self.note_run(version)
    }

    fn note_run(&mut self, version: Option<i64>) -> Result<()> {
        match version {
            Some(version) => {
                ensure!(version == self.published + 1, "version {version} follows {}", self.published);
                self.published = version;
                self.coverage.publishes += 1;
            }
            None => {
                // A fact appended while a run was under way may be covered already; one appended after it is not.
                let uncovered = self.oracle.0.iter().any(|(fact, _)| *fact.covered_by.start() > self.published);
                ensure!(!uncovered, "a run found nothing to do, with events to cover");
            }
        }
        Ok(())
    }

    /// Asks and appends until the version that a run publishes meanwhile answers.
    async fn run_under_queries(&mut self, seed: u64) -> Result<()> {
        let mut maker = Maker::aside(seed);
        // Something to do for the run.
        self.append(&[maker.event()]).await?;
        self.run_under_way = true;
        let before = self.coverage.answers;
        let run = self.cluster.start_batch_run();
        while !run.is_finished() {
            if maker.one_in(4) {
                self.append(&[maker.event()]).await?;
            }
            if maker.one_in(10) {
                self.erase(&maker.someone()).await?;
            }
            self.ask(&maker.question(), Expected::Fresh).await?;
        }
        let version = run.await.context("the run panicked")??;
        ensure!(version.is_some(), "a run with events to cover published nothing");
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
        while self.seen <= self.published {
            ensure!(tokio::time::Instant::now() < deadline, "version {version:?} never answered");
            self.ask(&maker.question(), Expected::Fresh).await?;
        }
        self.coverage.answers_during_publishes += self.coverage.answers - before;
        self.run_under_way = false;
        self.note_run(version)
    }

    async fn restart_speed(&mut self) -> Result<()> {
        self.cluster.stop_speed().await?;
        for user in ["user-1", "user-2", "nobody"] {
            self.ask(&Question::Total(user.to_owned()), Expected::Unavailable).await?;
            self.ask(&Question::Total(user.to_owned()), Expected::Incomplete).await?;
            self.ask(&Question::BatchOnly(user.to_owned()), Expected::Fresh).await?;
        }
        self.coverage.speed_restarts += 1;
        self.cluster.start_speed().await
    }

    async fn restart_serving(&mut self) -> Result<()> {
        self.coverage.serving_restarts += 1;
        self.cluster.restart_serving().await
    }
}

/// The event as it is sent; the same one always in the same words.
fn wire(event: &NewEvent) -> Event {
    let decimal = |unscaled: i128| {
        let sign = if unscaled < 0 { "-" } else { "" };
        format!("{sign}{}.{:04}", unscaled.unsigned_abs() / 10_000, unscaled.unsigned_abs() % 10_000)
    };
    Event {
        event_id: event.id.clone(),
        user_id: event.user.clone(),
        event_time: Some(timestamp(event.time_us)),
        event_type: "sale".to_owned(),
        amount: event.amount.map(decimal).unwrap_or_default(),
        attributes: [("country".to_owned(), "France".to_owned())].into(),
    }
}

fn timestamp(time_us: i64) -> Timestamp {
    let nanos = i32::try_from(time_us.rem_euclid(1_000_000) * 1000).expect("less than a second");
    Timestamp { seconds: time_us.div_euclid(1_000_000), nanos }
}
