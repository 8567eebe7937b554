//! Questions to the serving layer, each answer compared with the oracle's.

use std::ops::Range;

use anyhow::{Context, Result, ensure};
use merganser_proto::v1::{
    BatchGetUserStatsRequest, Consistency, Explanation, GetUserStatsRequest, GetUserStatsResponse, Granularity, Provenance, UserStats,
};
use prost_types::Timestamp;
use tonic::Code;

use super::{Player, timestamp};
use crate::oracle::Figures;
use crate::plain_fold::text::money;
use crate::schedule::Question;

const ALWAYS: Range<i64> = i64::MIN..i64::MAX;

/// What the state of the servers makes of a question that asks for both halves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// An answer with everything acknowledged.
    Fresh,
    /// The speed layer is stopped: UNAVAILABLE.
    Unavailable,
    /// The speed layer is stopped and best effort will do: the batch view, and `complete = false`.
    Incomplete,
}

impl Player {
    pub(super) async fn ask(&mut self, question: &Question, expected: Expected) -> Result<()> {
        match question {
            Question::Total(user) => self.ask_one(one(user), ALWAYS, expected).await,
            Question::Buckets(user) => self.ask_one(by_day(one(user)), ALWAYS, expected).await,
            Question::Days(user, days) => {
                let request = GetUserStatsRequest {
                    start_time: Some(timestamp(days.start)),
                    end_time: Some(timestamp(days.end)),
                    ..by_day(one(user))
                };
                self.ask_one(request, days.clone(), expected).await
            }
            Question::BatchOnly(user) => {
                let request = GetUserStatsRequest { consistency: Consistency::BatchOnly.into(), ..by_day(one(user)) };
                self.ask_batch_only(request).await
            }
            Question::Many(users) => self.ask_many(users).await,
        }
    }

    async fn ask_one(&mut self, mut request: GetUserStatsRequest, times: Range<i64>, expected: Expected) -> Result<()> {
        request.explain = true;
        match expected {
            Expected::Fresh => request.min_position.clone_from(&self.position),
            Expected::Unavailable => {}
            Expected::Incomplete => request.consistency = Consistency::BestEffort.into(),
        }
        let user = request.user_id.clone();
        let by_day = request.granularity == i32::from(Granularity::Bucket);
        let response = self.cluster.stats.get_user_stats(request).await;
        if expected == Expected::Unavailable {
            self.coverage.unavailable += 1;
            let code = response.err().map(|status| status.code());
            ensure!(code == Some(Code::Unavailable), "without a speed layer, expected UNAVAILABLE, found {code:?}");
            return Ok(());
        }
        let GetUserStatsResponse { stats, provenance, explanation } = response?.into_inner();
        let (stats, provenance) = (stats.context("no stats")?, provenance.context("no provenance")?);
        let version = self.check_version(&provenance)?;
        let batch = self.oracle.batch_half(&user, version, times.clone());
        if expected == Expected::Incomplete {
            ensure!(!provenance.complete && !provenance.incomplete_reason.is_empty(), "an answer from one half that claims both");
            return batch.map_or(Ok(()), |batch| compare(&stats, &batch, by_day, "the batch view alone"));
        }
        ensure!(provenance.complete, "incomplete: {}", provenance.incomplete_reason);
        let answer = self.oracle.answer(&user, version, times);
        compare(&stats, &answer, by_day, &format!("{user} at version {version}"))?;
        ensure!(provenance.batch_event_count + provenance.speed_event_count == answer.total.0, "the halves' counts: {provenance:?}");
        if let Some(batch) = batch {
            let Explanation { batch: of_batch, speed: of_speed, .. } = explanation.context("no explanation")?;
            let (of_batch, of_speed) = (of_batch.unwrap_or_default(), of_speed.unwrap_or_default());
            compare(&of_batch, &batch, by_day, "the batch half")?;
            ensure!(of_speed.event_count == answer.total.0 - batch.total.0, "the speed half has {} events", of_speed.event_count);
            self.coverage.from_both_halves += usize::from(of_batch.found && of_speed.found);
        }
        Ok(())
    }

    async fn ask_batch_only(&mut self, request: GetUserStatsRequest) -> Result<()> {
        let user = request.user_id.clone();
        let response = self.cluster.stats.get_user_stats(request).await?.into_inner();
        let provenance = response.provenance.context("no provenance")?;
        let version = self.check_version(&provenance)?;
        ensure!(provenance.speed_event_count == 0, "the batch view alone, with {} live events", provenance.speed_event_count);
        // An event that arrived during a run may lie on either side of its cut.
        let Some(expected) = self.oracle.batch_half(&user, version, ALWAYS) else { return Ok(()) };
        compare(&response.stats.context("no stats")?, &expected, true, &format!("{user} in the batch view of version {version}"))
    }

    async fn ask_many(&mut self, users: &[String]) -> Result<()> {
        let request = BatchGetUserStatsRequest {
            user_ids: users.to_vec(),
            granularity: Granularity::Bucket.into(),
            min_position: self.position.clone(),
            ..BatchGetUserStatsRequest::default()
        };
        let response = self.cluster.stats.batch_get_user_stats(request).await?.into_inner();
        let version = self.check_version(&response.provenance.context("no provenance")?)?;
        let answered: Vec<_> = response.stats.iter().map(|stats| &stats.user_id).collect();
        ensure!(answered.iter().copied().eq(users), "asked for {users:?}, answered {answered:?}");
        for stats in &response.stats {
            let expected = self.oracle.answer(&stats.user_id, version, ALWAYS);
            compare(stats, &expected, true, &format!("{} of many at version {version}", stats.user_id))?;
        }
        self.coverage.answers += response.stats.len() - 1;
        Ok(())
    }

    /// The version that answered: a published one, and none that is older than what answered before.
    fn check_version(&mut self, provenance: &Provenance) -> Result<i64> {
        let newest = self.published + i64::from(self.run_under_way);
        let version = provenance.version;
        ensure!((self.seen..=newest).contains(&version), "version {version} answered, after {} and with {newest} the newest", self.seen);
        self.seen = version;
        self.coverage.answers += 1;
        Ok(version)
    }
}

fn one(user: &str) -> GetUserStatsRequest {
    GetUserStatsRequest { user_id: user.to_owned(), ..GetUserStatsRequest::default() }
}

fn by_day(request: GetUserStatsRequest) -> GetUserStatsRequest {
    GetUserStatsRequest { granularity: Granularity::Bucket.into(), ..request }
}

fn compare(stats: &UserStats, expected: &Figures, by_day: bool, what: &str) -> Result<()> {
    let found = figures(stats)?;
    let expected = if by_day { expected.clone() } else { Figures { days: Default::default(), ..expected.clone() } };
    ensure!(stats.found == (expected.total.0 > 0), "{what}: found = {}", stats.found);
    ensure!(found == expected, "{what}\n  answer: {found:?}\n  oracle: {expected:?}");
    Ok(())
}

fn figures(stats: &UserStats) -> Result<Figures> {
    let amount = |text: &str| match text {
        "" => Ok(None),
        text => money(text).map(Some).with_context(|| format!("the revenue {text:?}")),
    };
    let micros = |time: &Timestamp| time.seconds * 1_000_000 + i64::from(time.nanos / 1000);
    let days = stats.buckets.iter().map(|bucket| {
        let start = bucket.start_time.as_ref().context("a bucket without a start")?;
        Ok((micros(start), (bucket.event_count, amount(&bucket.revenue)?)))
    });
    let days: Vec<_> = days.collect::<Result<_>>()?;
    ensure!(days.is_sorted_by(|a, b| a.0 < b.0), "buckets are not oldest first, each once");
    Ok(Figures {
        total: (stats.event_count, amount(&stats.revenue)?),
        times_us: stats.first_event_time.as_ref().map(micros).zip(stats.last_event_time.as_ref().map(micros)),
        days: days.into_iter().collect(),
    })
}
