//! Questions to the serving layer, and its answers as the four plain figures.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration_tests::plain_fold::{Stats, text};
use merganser_proto::v1::user_stats_service_client::UserStatsServiceClient;
use merganser_proto::v1::{BatchGetUserStatsRequest, Consistency, GetUserStatsRequest, Provenance, UserStats};
use prost_types::Timestamp;
use tonic::transport::Channel;

/// Most ids of one request.
const MAX_IDS: usize = 1000;
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Longest wait for one answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);

/// A client of the serving layer.
pub(crate) struct Questions {
    client: UserStatsServiceClient<Channel>,
}

/// One user's answer and the halves it was merged from.
#[derive(Clone, Debug)]
pub(crate) struct Explained {
    pub(crate) batch: Stats,
    pub(crate) speed: Stats,
    pub(crate) answer: Stats,
}

/// The answers about many users.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answers {
    /// In the order of the question.
    pub(crate) stats: Vec<Stats>,
    /// Events that came from the batch view, by the answers' own account.
    pub(crate) batch_events: u64,
    /// Events that came from the realtime view, likewise.
    pub(crate) speed_events: u64,
}

impl Questions {
    pub(crate) async fn connect(address: &str) -> Result<Self> {
        let endpoint = Channel::from_shared(address.to_owned())?.timeout(ANSWER_PATIENCE);
        let channel = endpoint.connect().await.with_context(|| format!("connecting to {address}"))?;
        Ok(Self { client: UserStatsServiceClient::new(channel) })
    }

    /// Waits until answers are given from `version`.
    pub(crate) async fn wait_for_version(&mut self, version: i64) -> Result<Provenance> {
        loop {
            let request = GetUserStatsRequest { user_id: "nobody".to_owned(), ..GetUserStatsRequest::default() };
            let response = self.client.get_user_stats(request).await?.into_inner();
            let provenance = response.provenance.context("an answer without provenance")?;
            if provenance.version == version {
                return Ok(provenance);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// One user, both halves apart.
    pub(crate) async fn explain(&mut self, user: &str) -> Result<Explained> {
        let request = GetUserStatsRequest { user_id: user.to_owned(), explain: true, ..GetUserStatsRequest::default() };
        let response = self.client.get_user_stats(request).await?.into_inner();
        let halves = response.explanation.context("an answer without explanation")?;
        Ok(Explained {
            batch: plain(&halves.batch.unwrap_or_default())?,
            speed: plain(&halves.speed.unwrap_or_default())?,
            answer: plain(&response.stats.context("an answer without statistics")?)?,
        })
    }

    /// All of `users`, FRESH, from `version`.
    pub(crate) async fn all(&mut self, users: &[String], version: i64) -> Result<Answers> {
        let mut answers = Answers::default();
        for user_ids in users.chunks(MAX_IDS) {
            let request = BatchGetUserStatsRequest {
                user_ids: user_ids.to_vec(),
                consistency: Consistency::Fresh.into(),
                ..BatchGetUserStatsRequest::default()
            };
            let response = self.client.batch_get_user_stats(request).await?.into_inner();
            let provenance = response.provenance.context("an answer without provenance")?;
            ensure!(provenance.version == version, "an answer from version {}, expected {version}", provenance.version);
            ensure!(provenance.complete, "an incomplete answer: {}", provenance.incomplete_reason);
            let same_users = response.stats.iter().map(|stats| &stats.user_id).eq(user_ids);
            ensure!(same_users, "the answers are not about the users that were asked for");
            for stats in &response.stats {
                answers.stats.push(plain(stats)?);
            }
            answers.batch_events += provenance.batch_event_count.unsigned_abs();
            answers.speed_events += provenance.speed_event_count.unsigned_abs();
        }
        Ok(answers)
    }
}

fn plain(stats: &UserStats) -> Result<Stats> {
    let revenue = match stats.revenue.as_str() {
        "" => None,
        revenue => Some(text::money(revenue).with_context(|| format!("the revenue {revenue:?} is no decimal of scale 4"))?),
    };
    let micros = |time: &Timestamp| time.seconds * 1_000_000 + i64::from(time.nanos / 1000);
    Ok(Stats {
        count: u64::try_from(stats.event_count).context("a negative count")?,
        revenue,
        first_us: stats.first_event_time.as_ref().map(micros),
        last_us: stats.last_event_time.as_ref().map(micros),
    })
}
