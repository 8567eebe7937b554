//! The gRPC surface: protobuf in, domain calls, protobuf out. With the file below it the only one of this crate's server that
//! names its types.

/// How the layer is.
mod status;

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use merganser_proto::audit::{Act, Audit};
use merganser_proto::auth::Identity;
use merganser_proto::v1 as pb;
use merganser_proto::v1::ingest_service_server::IngestService;
use merganser_proto::v1::realtime_view_service_server::RealtimeViewService;
use merganser_proto::{trace_span, traces};
use prost::Message as _;
use storage::machine::blocking;
use storage::paths::ViewName;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt};
use tracing::Instrument;
use views::event::{MAX_EVENT_ID_BYTES, MAX_USER_ID_BYTES};
use views::{FoldError, RawEvent, wire};

use crate::error::SpeedError;
use crate::ingest::{Ingest, Outcome, WhenFull};
use crate::realtime::{ErasedUser, Export, Pinned, Realtime, SliceRows, States};
use crate::slices::Ordered;
pub(crate) use status::StatusAdapter;

/// Requests of one stream that are queued and not yet answered.
const STREAM_IN_FLIGHT: usize = 16;
/// A stream whose producer sends nothing for so long is ended.
const STREAM_IDLE: Duration = Duration::from_secs(5 * 60);
/// How long `PrepareVersion` waits for a fold of the log before it says "not yet".
const PREPARE_PATIENCE: Duration = Duration::from_secs(2);

/// Of the 4 MiB of an answer, what the errors of refused rows may take with all that they say. The indices of 65,536 rows fit beside
/// them.
const ROW_ERROR_BYTES: usize = 3 << 20;
/// Tag and length of one.
const ROW_ERROR_FRAME_BYTES: usize = 3;

/// What a client that was refused for load should wait.
const RETRY_DELAY: Duration = Duration::from_millis(200);

/// The reason of a request that is refused until somebody makes room for its dead letters.
pub(crate) const DEAD_LETTERS_FULL: &str = "DEAD_LETTERS_FULL";

pub(crate) struct IngestAdapter(pub(crate) Ingest);
/// What it is asked to change is written down.
pub(crate) struct RealtimeAdapter(pub(crate) Arc<Realtime>, pub(crate) Audit);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl IngestService for IngestAdapter {
    type StreamEventsStream = Answers<pb::StreamEventsResponse>;

    /// The work runs in a task of its own: a client that hangs up cannot stop it half way.
    async fn append_events(&self, request: Request<pb::AppendEventsRequest>) -> Result<Response<pb::AppendEventsResponse>, Status> {
        let ingest = self.0.clone();
        let events = request.into_inner().events.into_iter().map(raw_event).collect();
        let work = async move { ingest.finish(ingest.queue(events, WhenFull::Refuse).await?).await };
        let outcome =
            tokio::spawn(work.instrument(traces::current())).await.map_err(|_| status(&SpeedError::Stopping))?.map_err(|e| status(&e))?;
        let Outcome { accepted, duplicates, refused, position } = outcome;
        Ok(Response::new(pb::AppendEventsResponse {
            accepted_count: accepted as i64,
            duplicate_count: duplicates as i64,
            rejected: row_errors(refused),
            position,
        }))
    }

    async fn stream_events(
        &self,
        request: Request<Streaming<pb::StreamEventsRequest>>,
    ) -> Result<Response<Self::StreamEventsStream>, Status> {
        let ingest = self.0.clone();
        let mut requests = request.into_inner();
        let (answers, outcomes) = mpsc::channel(STREAM_IN_FLIGHT);
        // Requests are queued in their order, while earlier ones are still being synced.
        tokio::spawn(async move {
            // Only the wait for the producer has a limit: what is queued takes the time it takes.
            while let Some(request) = timeout(STREAM_IDLE, requests.next()).await.unwrap_or_else(|_| Some(Err(idle()))) {
                let is_last = request.is_err();
                let outcome = match request {
                    Err(unreadable) => tokio::spawn(async move { Err(unreadable) }),
                    Ok(request) => {
                        let events = request.events.into_iter().map(raw_event).collect();
                        let queued = ingest.queue(events, WhenFull::Wait).await;
                        let ingest = ingest.clone();
                        let finish = async move { ingest.finish(queued?).await };
                        tokio::spawn(async move { finish.await.map_err(|e: Arc<SpeedError>| status(&e)) })
                    }
                };
                if answers.send(outcome).await.is_err() || is_last {
                    return;
                }
            }
        });
        let answer = ReceiverStream::new(outcomes).then(|outcome| async {
            let outcome = outcome.await.map_err(|_| status(&SpeedError::Stopping))??;
            let Outcome { accepted, duplicates, refused, position } = outcome;
            Ok(pb::StreamEventsResponse {
                accepted_count: accepted as i64,
                duplicate_count: duplicates as i64,
                rejected: row_errors(refused),
                position,
            })
        });
        Ok(Response::new(Box::pin(answer)))
    }
}

#[tonic::async_trait]
impl RealtimeViewService for RealtimeAdapter {
    type ExportStatesStream = Answers<pb::ExportStatesResponse>;
    type StreamStatesStream = Answers<pb::StreamStatesResponse>;

    async fn cut(&self, request: Request<pb::CutRequest>) -> Result<Response<pb::CutResponse>, Status> {
        let (realtime, audit, act) = (Arc::clone(&self.0), self.1.clone(), act("cut", &request));
        let cut = async move {
            let cut = realtime.cut().await;
            let act = match &cut {
                Ok(boundary) => act.with("boundary", boundary.clone()),
                Err(e) => act.failed(&e.chain()),
            };
            audit.record(act).await;
            cut
        };
        let cut = tokio::spawn(cut.instrument(traces::current()));
        let boundary = cut.await.map_err(|_| status(&SpeedError::Stopping))?.map_err(|e| status(&e))?;
        Ok(Response::new(pb::CutResponse { log_id: self.0.log_id.to_string(), boundary: offsets(&boundary) }))
    }

    async fn prepare_version(&self, request: Request<pb::PrepareVersionRequest>) -> Result<Response<pb::PrepareVersionResponse>, Status> {
        let request = request.into_inner();
        // The name that was asked for may be anything, and as long as a request.
        let view: ViewName = request.view.parse().map_err(|_| Status::invalid_argument("view: is not the name of a view"))?;
        let realtime = Arc::clone(&self.0);
        let prepare = tokio::spawn(async move {
            match request.check_only {
                true => realtime.check_version(&view, request.version).await,
                false => realtime.prepare(&view, request.version).await,
            }
        });
        match tokio::time::timeout(PREPARE_PATIENCE, prepare).await {
            Err(_) => Err(Status::unavailable(format!("version {} is being folded from the log; ask again", request.version))),
            Ok(Err(_)) => Err(status(&SpeedError::Stopping)),
            Ok(Ok(prepared)) => prepared.map(|()| Response::new(pb::PrepareVersionResponse {})).map_err(|e| status(&e)),
        }
    }

    async fn get_states(&self, request: Request<pb::GetStatesRequest>) -> Result<Response<pb::GetStatesResponse>, Status> {
        let request = request.into_inner();
        let boundary = by_partition(&request.boundary)?;
        let (realtime, begin, by_slice) = (Arc::clone(&self.0), request.keys_begin, request.by_slice);
        let reading = trace_span!("read states", keys = request.keys.len() as i64);
        let states = move || {
            let _reading = reading.entered();
            realtime.states(&request.fingerprint, &request.log_id, &boundary, &request.keys, begin)
        };
        // All keys of a view may begin so.
        let States { states, heads, slices, erased } = if begin { blocking(states).await } else { states() }.map_err(|e| status(&e))?;
        let slices = if by_slice { slices.iter().map(slice_rows).collect() } else { Vec::new() };
        let erased = erased.into_iter().map(erased_user).collect();
        Ok(Response::new(pb::GetStatesResponse { states: states.into(), head: offsets(&heads), slices, erased }))
    }

    /// A part is computed when it is asked for, so that a slow reader costs no more memory than a fast one.
    async fn stream_states(&self, request: Request<pb::StreamStatesRequest>) -> Result<Response<Self::StreamStatesStream>, Status> {
        let request = request.into_inner();
        let boundary = by_partition(&request.boundary)?;
        let pinned = self.0.pin(&request.fingerprint, &request.log_id, &boundary).map_err(|e| status(&e))?;
        let Pinned { states, heads, erased } = pinned;
        let erased = erased.into_iter().map(erased_user).collect();
        let first = pb::StreamStatesResponse { head: offsets(&heads), erased, ..Default::default() };
        let parts = stream::try_unfold(Some((states, 0)), move |before| {
            let fingerprint = request.fingerprint.clone();
            async move {
                let Some((states, rows)) = before else { return Ok(None) };
                let part = blocking(move || next_part(states)).await;
                match part.map_err(|e| status(&SpeedError::fold(&e, &fingerprint, 0, 0)))? {
                    None => Ok(Some((pb::StreamStatesResponse { is_last: true, row_count: rows, ..Default::default() }, None))),
                    Some((part, part_rows, states)) => {
                        Ok(Some((pb::StreamStatesResponse { states: part.into(), ..Default::default() }, Some((states, rows + part_rows)))))
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(stream::once(async { Ok(first) }).chain(parts))))
    }

    async fn export_states(&self, request: Request<pb::ExportStatesRequest>) -> Result<Response<Self::ExportStatesStream>, Status> {
        let request = request.into_inner();
        let partition = usize::try_from(request.partition).map_err(|_| Status::invalid_argument("the partition is negative"))?;
        let realtime = Arc::clone(&self.0);
        let export = move || realtime.export(&request.fingerprint, &request.log_id, partition, request.start_offset..request.end_offset);
        let Export { parts, erased } = blocking(export).await.map_err(|e| status(&e))?;
        let erased = erased.into_iter().map(erased_user).collect::<Vec<_>>();
        // Also where there are no states.
        let first = (!erased.is_empty()).then(|| Ok(pb::ExportStatesResponse { erased, ..Default::default() }));
        let messages = parts.into_iter().map(|states| Ok(pb::ExportStatesResponse { states: states.into(), erased: Vec::new() }));
        Ok(Response::new(Box::pin(stream::iter(first.into_iter().chain(messages)))))
    }

    /// In a task of its own: a client that hangs up cannot stop it half way.
    async fn erase_user(&self, request: Request<pb::EraseUserRequest>) -> Result<Response<pb::EraseUserResponse>, Status> {
        let (realtime, audit, act) = (Arc::clone(&self.0), self.1.clone(), act("erase", &request));
        let user_id = request.into_inner().user_id;
        realtime.check_erasable(&user_id).await.map_err(|e| status(&e))?;
        // One that is too long to be an id would be a payload.
        let act = if user_id.len() <= MAX_USER_ID_BYTES { act.with("user_id", user_id.as_str()) } else { act };
        let erase = tokio::spawn(async move {
            audit.record(act.clone().begun()).await;
            let erased = realtime.erase(user_id).await;
            let act = match &erased {
                Ok(erased) => act.with("partition", erased.partition).with("offset", erased.offset),
                Err(e) => act.failed(&e.chain()),
            };
            audit.record(act).await;
            erased
        });
        let erased = erase.await.map_err(|_| status(&SpeedError::Stopping))?.map_err(|e| status(&e))?;
        let erase_time = timestamp(erased.append_time_us);
        Ok(Response::new(pb::EraseUserResponse {
            log_id: self.0.log_id.to_string(),
            partition: erased.partition.cast_signed(),
            offset: erased.offset,
            erase_time: Some(erase_time),
        }))
    }
}

/// Microseconds since 1970.
fn timestamp(time_us: i64) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: time_us.div_euclid(1_000_000), nanos: (time_us.rem_euclid(1_000_000) * 1000) as i32 }
}

/// What whoever calls asks for; in a simulation it is nobody.
fn act<T>(name: &'static str, request: &Request<T>) -> Act {
    let act = Act::new(name);
    request.extensions().get::<Identity>().map_or_else(|| act.clone(), |who| act.clone().by(who))
}

fn idle() -> Status {
    let details = ErrorDetails::with_error_info("IDLE", "merganser", HashMap::new());
    let message = format!("no message came for {} s; open the stream again when there are events", STREAM_IDLE.as_secs());
    Status::with_error_details(Code::DeadlineExceeded, message, details)
}

pub(crate) fn raw_event(event: pb::Event) -> RawEvent {
    RawEvent {
        event_id: event.event_id,
        user_id: event.user_id,
        event_time: event.event_time.map(|time| (time.seconds, time.nanos)),
        event_type: event.event_type,
        amount: event.amount,
        attributes: event.attributes,
    }
}

/// What is wrong with each row. Of more than an answer can hold the later ones have their index only: the dead letters have all.
fn row_errors(refused: Vec<(usize, String, views::Refusal)>) -> Vec<pb::RowError> {
    let mut room = ROW_ERROR_BYTES;
    let mut bounded = |error: pb::RowError| {
        room = room.saturating_sub(error.encoded_len() + ROW_ERROR_FRAME_BYTES);
        if room > 0 { error } else { pb::RowError { index: error.index, ..pb::RowError::default() } }
    };
    refused.into_iter().map(|row| bounded(row_error(row))).collect()
}

fn row_error((index, event_id, refusal): (usize, String, views::Refusal)) -> pb::RowError {
    // One that is too long to be an id would come back as long as it came.
    let event_id = if event_id.len() > MAX_EVENT_ID_BYTES { String::new() } else { event_id };
    pb::RowError { index: index as i32, event_id, field: refusal.field, reason: refusal.reason }
}

/// Wire bytes of the next states, how many rows they are, and the others; `None` after the last.
fn next_part(mut states: Ordered) -> Result<Option<(Vec<u8>, i64, Ordered)>, FoldError> {
    let Some(part) = states.next()? else { return Ok(None) };
    let rows = part.num_rows() as i64;
    Ok(Some((wire::encode(&[part])?, rows, states)))
}

fn by_partition(boundary: &[pb::PartitionOffset]) -> Result<BTreeMap<usize, i64>, Status> {
    let place = |edge: &pb::PartitionOffset| Some((usize::try_from(edge.partition).ok()?, edge.offset));
    boundary.iter().map(place).collect::<Option<_>>().ok_or_else(|| Status::invalid_argument("a partition is negative"))
}

fn offsets(of_partitions: &[i64]) -> Vec<pb::PartitionOffset> {
    let numbered = of_partitions.iter().enumerate();
    numbered.map(|(partition, offset)| pb::PartitionOffset { partition: partition as i32, offset: *offset }).collect()
}

fn erased_user(erased: ErasedUser) -> pb::ErasedUser {
    pb::ErasedUser { user_id: erased.user_id, partition: erased.partition as i32, offset: erased.offset }
}

fn slice_rows(slice: &SliceRows) -> pb::SliceRows {
    let (start_offset, end_offset) = (slice.offsets.start, slice.offsets.end);
    pb::SliceRows { partition: slice.partition as i32, start_offset, end_offset, row_count: slice.rows as i64 }
}

/// The one place where an error gets its gRPC code and its machine-readable reason.
fn status(error: &SpeedError) -> Status {
    use storage::log::LogError;
    let (code, reason) = match error {
        SpeedError::QueueFull { .. } | SpeedError::QueueBytesFull { .. } => (Code::ResourceExhausted, "QUEUE_FULL"),
        SpeedError::Log(LogError::DiskFull { .. }) => (Code::ResourceExhausted, "DISK_FULL"),
        SpeedError::DeadLettersFull { .. } => (Code::ResourceExhausted, DEAD_LETTERS_FULL),
        SpeedError::Stopping | SpeedError::Ended { .. } => (Code::Unavailable, "STOPPING"),
        SpeedError::Log(_) | SpeedError::Record(_) => (Code::Internal, "LOG_FAILED"),
        SpeedError::Store(_) => (Code::Unavailable, "STORE_FAILED"),
        SpeedError::ErasureNotStored { .. } => (Code::Unavailable, "ERASURE_NOT_STORED"),
        SpeedError::UnknownDefinition(_) => (Code::FailedPrecondition, "UNKNOWN_DEFINITION"),
        SpeedError::BoundaryRetired { .. } => (Code::FailedPrecondition, "BOUNDARY_RETIRED"),
        SpeedError::WrongLog { .. }
        | SpeedError::OtherLog { .. }
        | SpeedError::LogBehind { .. }
        | SpeedError::OtherMaster { .. }
        | SpeedError::OtherRecord { .. } => (Code::FailedPrecondition, "OTHER_LOG"),
        SpeedError::Definition { .. } | SpeedError::ColumnType { .. } | SpeedError::Fold { .. } => {
            (Code::FailedPrecondition, "DEFINITION_FAILED")
        }
        SpeedError::LogTrimmed { .. } | SpeedError::Trimmed { .. } => (Code::FailedPrecondition, "LOG_TRIMMED"),
        SpeedError::Fenced { .. } => (Code::FailedPrecondition, "FENCED"),
        SpeedError::BadRequest(_) => (Code::InvalidArgument, "BAD_REQUEST"),
        SpeedError::Auth(_)
        | SpeedError::Thread { .. }
        | SpeedError::NotRestorable { .. }
        | SpeedError::NotArchived { .. }
        | SpeedError::ArchiveBehindLog { .. }
        | SpeedError::LogBehindArchive { .. }
        | SpeedError::ArchiveMismatch { .. } => (Code::Internal, "INTERNAL"),
    };
    let mut details = ErrorDetails::with_error_info(reason, "merganser", HashMap::new());
    // Dead letters do not go by themselves.
    if matches!(code, Code::ResourceExhausted | Code::Unavailable) && reason != DEAD_LETTERS_FULL {
        details.set_retry_info(Some(RETRY_DELAY));
    }
    Status::with_error_details(code, error.chain(), details)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that an answer holds the errors of as many rows as a request can have, and that no index is lost.
    #[test]
    fn many_refused_rows() {
        let refusal = || views::Refusal { field: "attributes.quantity".into(), reason: "is not an integer".repeat(3) };
        let row = |index| (index, "e".repeat(40), refusal());
        let rejected = row_errors((0..65_536).map(row).collect());
        assert!(rejected.iter().zip(0..).all(|(error, index)| error.index == index));
        assert_eq!(rejected[0], row_error(row(0)));
        let answer = pb::AppendEventsResponse { rejected, position: "p".repeat(200), ..pb::AppendEventsResponse::default() };
        assert!((3 << 20..4 << 20).contains(&answer.encoded_len()), "{}", answer.encoded_len());
    }
}
