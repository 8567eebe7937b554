//! The gRPC surface: requests become questions, answers become messages, errors become statuses. Together with the files
//! below it and the two clients (`speed.rs`, `get.rs`), the only place that names protobuf types.

/// How an answer came to be → message.
mod explanation;
/// Rows of every key → messages.
mod export;
/// Request → question.
mod question;
/// Finished rows → messages.
mod stats;
/// Error → status.
mod status;

/// Any view.
mod view;
/// The answer now and at each change.
mod watch;

use std::sync::Arc;

use futures::stream::BoxStream;
use merganser_proto::v1::user_stats_service_server::UserStatsService;
use merganser_proto::v1::{
    BatchGetUserStatsRequest, BatchGetUserStatsResponse, GetUserStatsRequest, GetUserStatsResponse, PartitionOffset, Provenance,
    WatchUserStatsRequest, WatchUserStatsResponse,
};
use prost::Message;
use storage::machine::Machine;
use tonic::{Request, Response, Status};

use crate::ServingError;
use crate::answer::{Answer, Answers};
use crate::position::Offsets;
use crate::question::Question;
use crate::served::Served;
use crate::version::Version;
pub(crate) use watch::Watches;

/// Largest request that is read: 1000 ids of 256 bytes take half of it.
pub(crate) const MAX_REQUEST_BYTES: usize = 512 << 10;
/// Largest answer that is given: what gRPC clients take unless told otherwise.
pub(crate) const MAX_ANSWER_BYTES: usize = 4 << 20;

/// Both services of the serving layer.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    /// Of the view that `UserStatsService` answers from.
    pub(crate) stats: Answers,
    /// Of all views.
    pub(crate) served: Arc<Served>,
    /// Tells the time of day, for questions that count back from now.
    pub(crate) machine: Arc<dyn Machine>,
    /// What all watches share.
    pub(crate) watches: Watches,
}

#[tonic::async_trait]
impl UserStatsService for Service {
    type WatchUserStatsStream = BoxStream<'static, Result<WatchUserStatsResponse, Status>>;

    async fn get_user_stats(&self, request: Request<GetUserStatsRequest>) -> Result<Response<GetUserStatsResponse>, Status> {
        let question = Question::try_from(request.into_inner()).map_err(|e| status::of(&e))?;
        let response = self.get(&question).await;
        response.map(Response::new).map_err(|e| status::of(&e))
    }

    async fn batch_get_user_stats(
        &self,
        request: Request<BatchGetUserStatsRequest>,
    ) -> Result<Response<BatchGetUserStatsResponse>, Status> {
        let response = self.batch_get(request.into_inner()).await;
        response.map(Response::new).map_err(|e| status::of(&e))
    }

    async fn watch_user_stats(&self, request: Request<WatchUserStatsRequest>) -> Result<Response<Self::WatchUserStatsStream>, Status> {
        let answers = watch::open(self.clone(), request.into_inner()).await;
        answers.map(Response::new).map_err(|e| status::of(&e))
    }
}

impl Service {
    async fn get(&self, question: &Question) -> Result<GetUserStatsResponse, ServingError> {
        let answer = self.stats.answer(question).await?;
        let user = answer.parts.first().expect("an answer has a part for each id of its question");
        let explanation = question.explain.then(|| explanation::of(&answer, user));
        let stats = stats::user_stats(&user.key, &user.merged);
        let response = GetUserStatsResponse { stats: Some(stats), provenance: Some(provenance(&self.stats, &answer)), explanation };
        if response.encoded_len() > MAX_ANSWER_BYTES {
            return Err(ServingError::TooLarge { instead: what_fits(&response) });
        }
        Ok(response)
    }

    async fn batch_get(&self, request: BatchGetUserStatsRequest) -> Result<BatchGetUserStatsResponse, ServingError> {
        let answer = self.stats.answer(&Question::try_from(request)?).await?;
        let mut response = BatchGetUserStatsResponse { stats: Vec::new(), provenance: Some(provenance(&self.stats, &answer)) };
        let mut bytes = response.encoded_len();
        for user in &answer.parts {
            let stats = stats::user_stats(&user.key, &user.merged);
            bytes += bytes_in_list(&stats);
            if bytes > MAX_ANSWER_BYTES {
                return Err(ServingError::TooManyUsers { users: answer.parts.len(), fitting: response.stats.len() });
            }
            response.stats.push(stats);
        }
        Ok(response)
    }
}

/// Where an answer came from.
fn provenance(view: &Answers, answer: &Answer) -> Provenance {
    let counts = [answer.batch_event_count, answer.speed_event_count];
    snapshot(view, &answer.version, &answer.head, answer.incomplete.as_deref(), counts)
}

/// A version and heads, and how many events came from which half.
fn snapshot(view: &Answers, version: &Version, head: &Offsets, incomplete: Option<&str>, [batch, speed]: [i64; 2]) -> Provenance {
    Provenance {
        view: view.versions.view().to_owned(),
        version: version.number,
        computed_time: version.computed_us().map(stats::timestamp),
        boundary: partition_offsets(&version.boundary),
        head: partition_offsets(head),
        complete: incomplete.is_none(),
        incomplete_reason: incomplete.unwrap_or_default().to_owned(),
        batch_event_count: batch,
        speed_event_count: speed,
        fingerprint: version.definition.fingerprint().to_owned(),
        kept_from_time: version.kept_from.map(stats::timestamp),
    }
}

/// The range of buckets that would have been an answer, from the first one on.
fn what_fits(response: &GetUserStatsResponse) -> String {
    let buckets = response.stats.as_ref().map(|stats| stats.buckets.as_slice()).unwrap_or_default();
    let all: usize = buckets.iter().map(bytes_in_list).sum();
    // With an explanation each bucket comes up to three times, and the totals are there whatever the range.
    let times = if response.explanation.is_some() { 3 } else { 1 };
    let mut room = MAX_ANSWER_BYTES.saturating_sub(response.encoded_len().saturating_sub(all * times));
    let fitting = buckets.iter().take_while(|bucket| {
        let bytes = bytes_in_list(*bucket) * times;
        let fits = bytes <= room;
        room = room.saturating_sub(bytes);
        fits
    });
    let fitting = fitting.count();
    match buckets.get(fitting).and_then(|first_too_many| first_too_many.start_time.as_ref()) {
        Some(end) if fitting > 0 => format!("its first {fitting} buckets fit: ask for them with end_time = {end}, then for the others"),
        _ => "ask without buckets and without an explanation, or for fewer measures".to_owned(),
    }
}

/// In a repeated field: one byte for the field's tag, the length, the message.
fn bytes_in_list(message: &impl Message) -> usize {
    1 + message.encoded_len() + prost::length_delimiter_len(message.encoded_len())
}

fn partition_offsets(offsets: &Offsets) -> Vec<PartitionOffset> {
    offsets.iter().map(|(&partition, &offset)| PartitionOffset { partition, offset }).collect()
}
