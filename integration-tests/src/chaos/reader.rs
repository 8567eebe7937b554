//! Questions without a pause, each answer held against the model.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use merganser_proto::v1::user_stats_service_client::UserStatsServiceClient;
use merganser_proto::v1::{BatchGetUserStatsRequest, Consistency, GetUserStatsRequest, Granularity, Provenance, UserStats};
use prost_types::Timestamp;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::loader::{Shared, user_id};
use super::model::{Before, Judged, Sums, Wrong};
use super::world::Role;
use crate::boundaries::Boundaries;
use crate::plain_fold::text::money;

/// Users of a question about many.
const MANY: usize = 16;
/// Wait after a question that failed.
const PAUSE: Duration = Duration::from_millis(20);

/// Asks until `stop`.
pub async fn read(shared: Arc<Shared>, boundaries: Arc<Boundaries>, seed: u64, stop: CancellationToken) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut client = shared.world.stats();
    while !stop.is_cancelled() {
        let consistency = match random.random_range(0..20) {
            0 => Consistency::BestEffort,
            1 => Consistency::BatchOnly,
            _ => Consistency::Fresh,
        };
        let many = random.random_range(0..8) == 0;
        let most = shared.model.users();
        let users = rand::seq::index::sample(&mut random, most, if many { MANY.min(most) } else { 1 }).into_vec();
        let by_bucket = random.random_bool(0.3);
        if !ask(&shared, &boundaries, &mut client, &users, consistency, by_bucket).await {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Asks about these users and judges the answers; the answer is whether there were any.
async fn ask(
    shared: &Shared,
    boundaries: &Boundaries,
    client: &mut UserStatsServiceClient<Channel>,
    users: &[usize],
    consistency: Consistency,
    by_bucket: bool,
) -> bool {
    let before: Vec<Before> = users.iter().map(|user| shared.model.ask(*user)).collect();
    let asked = Instant::now();
    let granularity = if by_bucket { Granularity::Bucket } else { Granularity::Total };
    let answered = match users {
        [user] => {
            let request = GetUserStatsRequest {
                user_id: user_id(*user),
                consistency: consistency.into(),
                granularity: granularity.into(),
                ..GetUserStatsRequest::default()
            };
            let answer = client.get_user_stats(request).await.map(tonic::Response::into_inner);
            answer.map(|answer| (answer.stats.into_iter().collect(), answer.provenance))
        }
        many => {
            let request = BatchGetUserStatsRequest {
                user_ids: many.iter().map(|user| user_id(*user)).collect(),
                consistency: consistency.into(),
                granularity: granularity.into(),
                ..BatchGetUserStatsRequest::default()
            };
            let answer = client.batch_get_user_stats(request).await.map(tonic::Response::into_inner);
            answer.map(|answer| (answer.stats, answer.provenance))
        }
    };
    let (stats, provenance): (Vec<UserStats>, _) = match answered {
        Ok(answered) => answered,
        Err(status) => {
            shared.figures.questions_failed.one();
            shared.judge_error("a question", &status);
            return false;
        }
    };
    if consistency == Consistency::Fresh {
        shared.figures.answered(Role::Serving, asked);
    }
    match whole(boundaries, users, &stats, provenance, consistency) {
        Err(error) => shared.figures.wrong(Wrong::Unexplained, format!("{error:#}")),
        Ok((sums, fresh, provenance)) => {
            for ((user, before), answer) in users.iter().zip(&before).zip(&sums) {
                judge(shared, *user, before, answer, fresh, &provenance);
            }
        }
    }
    true
}

fn judge(shared: &Shared, user: usize, before: &Before, answer: &Sums, fresh: bool, provenance: &Provenance) {
    let figures = &shared.figures;
    if !fresh {
        figures.answers_incomplete.one();
        if let Err(wrong) = shared.model.judge_at_most(user, answer) {
            figures.wrong(wrong, format!("{} from the batch view alone: {answer:?}", user_id(user)));
        }
        return;
    }
    figures.answers.one();
    match shared.model.judge(user, before, answer) {
        Ok(Judged::Exact) => {}
        Ok(Judged::Bounds) => figures.answers_by_bounds.one(),
        Err(wrong) => {
            let what = format!("{}: answered {answer:?}, known before {before:?}, {provenance:?}", user_id(user));
            figures.wrong(wrong, what);
        }
    }
}

/// The answer in plain figures, whether it claims to be complete, and its provenance.
fn whole(
    boundaries: &Boundaries,
    users: &[usize],
    stats: &[UserStats],
    provenance: Option<Provenance>,
    consistency: Consistency,
) -> Result<(Vec<Sums>, bool, Provenance)> {
    let provenance = provenance.context("no provenance")?;
    boundaries.check(&provenance).map_err(anyhow::Error::msg)?;
    ensure!(stats.iter().map(|of| &of.user_id).eq(&users.iter().map(|user| user_id(*user)).collect::<Vec<_>>()), "other users");
    let sums: Vec<Sums> = stats.iter().map(sums).collect::<Result<_>>()?;
    let counted: i64 = sums.iter().map(|sums| sums.count).sum();
    let halves = provenance.batch_event_count + provenance.speed_event_count;
    ensure!(halves == counted, "the halves count {halves}, the answer {counted}: {provenance:?}");
    ensure!(provenance.complete || consistency == Consistency::BestEffort, "incomplete: {provenance:?}");
    ensure!(provenance.complete == provenance.incomplete_reason.is_empty(), "complete and its reason: {provenance:?}");
    let fresh = provenance.complete && consistency != Consistency::BatchOnly;
    Ok((sums, fresh, provenance))
}

/// An answer's figures; those of its buckets, where it has any, must add up to them.
///
/// # Errors
/// They do not, or are no figures.
pub fn sums(stats: &UserStats) -> Result<Sums> {
    let amount = |text: &str, count: i64| match text {
        "" => Ok((count == 0).then_some(0).context("events without a revenue")?),
        text => money(text).with_context(|| format!("the revenue {text:?}")),
    };
    let micros = |time: &Timestamp| time.seconds * 1_000_000 + i64::from(time.nanos / 1000);
    let times_us = stats.first_event_time.as_ref().map(micros).zip(stats.last_event_time.as_ref().map(micros));
    let sums = Sums { count: stats.event_count, amount: amount(&stats.revenue, stats.event_count)?, times_us };
    ensure!(stats.found == (sums.count > 0), "found = {} with {} events", stats.found, sums.count);
    if !stats.buckets.is_empty() {
        let (mut count, mut of_buckets) = (0, 0);
        for bucket in &stats.buckets {
            count += bucket.event_count;
            of_buckets += amount(&bucket.revenue, bucket.event_count)?;
        }
        ensure!((count, of_buckets) == (sums.count, sums.amount), "the buckets add up to {count} and {of_buckets}: {sums:?}");
    }
    Ok(sums)
}
