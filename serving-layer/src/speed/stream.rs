//! The realtime half of every key, read as slowly as whoever it is for.

use std::time::Duration;

use futures::{StreamExt, stream};
use merganser_proto::v1::{StreamStatesRequest, StreamStatesResponse};
use storage::batch_view::States;
use tokio::time::{Instant, timeout};
use tonic::Streaming;
use views::wire;

use super::{About, SpeedClient, failure, too_long, within};
use crate::ServingError;
use crate::erasures::Erased;
use crate::position::Offsets;

/// The path of the call.
pub(super) const STREAM_STATES: &str = "/merganser.v1.RealtimeViewService/StreamStates";
/// The speed layer merges some thousand rows for a message, or is gone.
const MESSAGE_PATIENCE: Duration = Duration::from_secs(30);

/// The states of every key from a version's boundary on, all from the moment at which each partition was pinned.
pub(crate) struct SpeedStream {
    /// How far they reach, for each partition.
    pub(crate) head: Offsets,
    /// Users who were erased from the boundary on.
    pub(crate) erased: Erased,
    /// In order of key and bucket, each once. A stream that breaks off ends with an error.
    pub(crate) states: States<ServingError>,
}

impl SpeedClient {
    /// The states of every key from the boundary of a version on. The call is sent now, and so finds every event that was acknowledged
    /// before. The first message, which says what was pinned, is there by `deadline`.
    pub(crate) async fn stream(&self, about: About, deadline: Instant) -> Result<SpeedStream, ServingError> {
        let asked = about.request();
        let request =
            StreamStatesRequest { view: asked.view, fingerprint: asked.fingerprint, log_id: asked.log_id, boundary: asked.boundary };
        let mut client = self.realtime.clone();
        let opened = async {
            let mut messages = client.stream_states(request).await?.into_inner();
            let first = messages.message().await?;
            Ok(tonic::Response::new((first, messages)))
        };
        let (first, messages) = within(deadline, self.metrics.stream_states.begin(), opened).await?;
        let first = first.ok_or_else(|| unusable("it said nothing"))?;
        let version = &about.version;
        let head = super::head(&first.head, version)?;
        let erased = super::erased(first.erased, version);
        let read = stream::try_unfold((messages, 0), |(messages, rows)| next(messages, rows));
        let version = about.version;
        let checked = read.map(move |batch| {
            let batch = batch?;
            match crate::states::misfit(&batch.schema(), &version.definition) {
                Some(reason) => Err(unusable(reason)),
                None => Ok(batch),
            }
        });
        Ok(SpeedStream { head, erased, states: checked.boxed() })
    }
}

type Messages = Streaming<StreamStatesResponse>;
type Next = Option<(arrow::array::RecordBatch, (Messages, i64))>;

/// The next states, after so many rows; none after the message that says that it is the last and how many there were.
async fn next(mut messages: Messages, rows: i64) -> Result<Next, ServingError> {
    let message = timeout(MESSAGE_PATIENCE, messages.message()).await.map_err(|_| too_long())?;
    let message = message.map_err(|status| broken_off(failure(&status)))?.ok_or_else(|| unusable("it broke off"))?;
    if message.is_last {
        return match message.row_count == rows {
            true => Ok(None),
            false => Err(unusable(format!("it had {} rows, of which {rows} came", message.row_count))),
        };
    }
    let mut batches = wire::decode(&message.states).map_err(|e| unusable(e.to_string()))?;
    match (batches.pop(), batches.is_empty()) {
        (Some(batch), true) => Ok(Some((batch.clone(), (messages, rows + batch.num_rows() as i64)))),
        _ => Err(unusable("a message is not one batch of states")),
    }
}

/// Half an answer has been given: another version cannot go on with it.
fn broken_off(error: ServingError) -> ServingError {
    match error {
        ServingError::Stale { reason } | ServingError::SpeedRefused { reason } => ServingError::SpeedUnavailable { reason },
        other => other,
    }
}

fn unusable(reason: impl Into<String>) -> ServingError {
    ServingError::SpeedAnswer { reason: reason.into() }
}
