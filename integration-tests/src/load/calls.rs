//! Questions, and the connections that they go over.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use merganser_proto::v1::user_stats_service_client::UserStatsServiceClient;
use merganser_proto::v1::{BatchGetUserStatsRequest, Consistency, GetUserStatsRequest, GetUserStatsResponse, Granularity, UserStats};
use rand::rngs::StdRng;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::history::{History, name};
use super::tally::Checked;

/// One answer of so many is compared.
const CHECK_EVERY: usize = 32;
/// Users of one question for many.
pub const USERS_AT_ONCE: usize = 100;
/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Kinds of questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// One user's total, fresh.
    Total,
    /// One user's buckets, fresh.
    Buckets,
    /// One user's total of the batch view.
    BatchOnly,
    /// The totals of [`USERS_AT_ONCE`] users, fresh.
    Many,
}

impl Question {
    /// For tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Total => "get, total",
            Self::Buckets => "get, per bucket",
            Self::BatchOnly => "get, batch only",
            Self::Many => "batch get of 100",
        }
    }

    /// Users of one.
    #[must_use]
    pub fn users(self) -> u64 {
        if self == Self::Many { USERS_AT_ONCE as u64 } else { 1 }
    }

    fn granularity(self) -> Granularity {
        if self == Self::Buckets { Granularity::Bucket } else { Granularity::Total }
    }

    fn consistency(self) -> Consistency {
        if self == Self::BatchOnly { Consistency::BatchOnly } else { Consistency::Fresh }
    }
}

/// Several connections to one address.
#[derive(Clone, Debug)]
pub struct Connections(Arc<[Channel]>);

impl Connections {
    /// As many as help: one for few callers, four for many. They are made when they are first used.
    ///
    /// # Errors
    /// It is no address.
    pub fn to(address: &str, callers: usize) -> Result<Self> {
        let endpoint = Endpoint::from_shared(address.to_owned())?.timeout(PATIENCE).tcp_nodelay(true);
        Ok(Self((0..callers.div_ceil(16).clamp(1, 4)).map(|_| endpoint.connect_lazy()).collect()))
    }

    /// The connection of one caller.
    #[must_use]
    pub fn of(&self, caller: usize) -> Channel {
        self.0[caller % self.0.len()].clone()
    }
}

/// Asks one kind of question of one server.
#[derive(Clone, Debug)]
pub struct Asker {
    connections: Connections,
    question: Question,
    history: Arc<History>,
    asked: Arc<AtomicUsize>,
    checks: bool,
}

impl Asker {
    /// Some of the answers are compared with the history.
    #[must_use]
    pub fn new(connections: Connections, question: Question, history: &Arc<History>) -> Self {
        Self { connections, question, history: Arc::clone(history), asked: Arc::default(), checks: true }
    }

    /// No answer is: an echo says the same to everyone.
    #[must_use]
    pub fn unchecked(self) -> Self {
        Self { checks: false, ..self }
    }

    /// Asks a question of popular users.
    ///
    /// # Errors
    /// As the server says.
    pub fn ask(&self, random: &mut StdRng) -> impl Future<Output = Result<Checked, Status>> + Send + use<> {
        let users: Vec<u64> = (0..self.question.users()).map(|_| self.history.popular(random)).collect();
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        let check = self.checks && number.is_multiple_of(CHECK_EVERY) && self.question != Question::BatchOnly;
        let known = users[0];
        let acknowledged = self.history.acknowledged(known);
        let mut client = UserStatsServiceClient::new(self.connections.of(number));
        let (question, history) = (self.question, Arc::clone(&self.history));
        async move {
            let stats = match question {
                Question::Many => many(&mut client, &users).await?,
                one => ask_one(&mut client, one, known).await?.stats,
            };
            Ok(match stats.filter(|_| check) {
                None => Checked::No,
                Some(stats) => history.complaint(known, acknowledged, &stats).map_or(Checked::Right, Checked::Wrong),
            })
        }
    }
}

/// The answer to one question about one user.
///
/// # Errors
/// As the server says.
pub async fn ask_one(client: &mut UserStatsServiceClient<Channel>, question: Question, user: u64) -> Result<GetUserStatsResponse, Status> {
    let request = GetUserStatsRequest {
        user_id: name(user),
        granularity: question.granularity().into(),
        consistency: question.consistency().into(),
        ..GetUserStatsRequest::default()
    };
    Ok(client.get_user_stats(request).await?.into_inner())
}

async fn many(client: &mut UserStatsServiceClient<Channel>, users: &[u64]) -> Result<Option<UserStats>, Status> {
    let request = BatchGetUserStatsRequest { user_ids: users.iter().copied().map(name).collect(), ..BatchGetUserStatsRequest::default() };
    let response = client.batch_get_user_stats(request).await?.into_inner();
    if response.stats.len() != users.len() {
        return Err(Status::data_loss(format!("{} answers to {} users", response.stats.len(), users.len())));
    }
    Ok(response.stats.into_iter().next())
}
