//! The client of the other half: the states from a version's boundary on, live from the speed layer.

/// One call for all who wait.
mod shared;
/// How it is.
mod status;
/// The states of all keys.
mod stream;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use merganser_proto::Transport;
use merganser_proto::client::connect_lazily;
use merganser_proto::tls::ClientTls;
use merganser_proto::v1::realtime_view_service_client::RealtimeViewServiceClient;
use merganser_proto::v1::realtime_view_service_server::RealtimeViewServiceServer;
use merganser_proto::v1::speed_status_service_client::SpeedStatusServiceClient;
use merganser_proto::v1::{ErasedUser, GetSpeedStatusRequest, GetStatesRequest, GetStatesResponse, PartitionOffset, PrepareVersionRequest};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::server::NamedService;
use tonic::transport::Endpoint;
use tonic::{Code, Response, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;
use tower::{ServiceExt, service_fn};
use tracing::warn;
use views::wire;

use crate::ServingError;
use crate::erasures::Erased;
use crate::explain::SliceStates;
use crate::metrics::{Asked, Metrics};
use crate::position::Offsets;
use crate::question::Resolved;
use crate::states::RowsByKey;
use crate::version::{Version, rows_in};
use shared::{MAX_SHARED_KEYS, SharedCalls};
pub(crate) use status::{PartitionStatus, Refusals, SpeedStatus};
pub(crate) use stream::SpeedStream;

/// Largest answer that is taken from the speed layer: 1000 users with years of buckets.
const MAX_ANSWER_BYTES: usize = 256 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A silent peer is asked for a sign of life this often, and given up after as long again.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How often the speed layer is asked whether it is there, and how long it may take to say so.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often it is asked whether it would answer.
const RIGHTS_INTERVAL: Duration = Duration::from_secs(10);
/// Reasons of FAILED_PRECONDITION that a newer version mends.
const MENDED_BY_RELOADING: [&str; 2] = ["BOUNDARY_RETIRED", "UNKNOWN_DEFINITION"];

/// The realtime half of one question.
#[derive(Debug)]
pub(crate) struct SpeedStates {
    /// The rows in the range that was asked for.
    pub(crate) rows: RowsByKey,
    /// How far the rows reach, for each partition that was read.
    pub(crate) head: Offsets,
    /// The same rows by slice; none where they were not asked for, or the speed layer does not tell them.
    pub(crate) slices: Vec<SliceStates>,
    /// Users of the keys who were erased from the boundary on.
    pub(crate) erased: Erased,
}

/// A connection that is made when it is first needed and again whenever it is lost. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct SpeedClient {
    realtime: RealtimeViewServiceClient<Transport>,
    calls: SharedCalls,
    health: HealthClient<Transport>,
    status: SpeedStatusServiceClient<Transport>,
    metrics: Arc<Metrics>,
}

impl SpeedClient {
    /// A client over whatever carries its calls.
    pub(crate) fn new(transport: Transport, metrics: Arc<Metrics>) -> Self {
        let realtime = RealtimeViewServiceClient::new(transport.clone()).max_decoding_message_size(MAX_ANSWER_BYTES);
        let (calls, status) = (SharedCalls::new(realtime.clone(), Arc::clone(&metrics)), SpeedStatusServiceClient::new(transport.clone()));
        Self { calls, realtime, health: HealthClient::new(transport), status, metrics }
    }

    /// Says from now on whether the speed layer can be reached, and lets this layer in, for as long as the handle is kept.
    pub(crate) fn watch_health(&self) -> (watch::Receiver<bool>, AbortOnDropHandle<()>) {
        let (reachable, watched) = watch::channel(true);
        let (mut health, mut status) = (self.health.clone(), self.status.clone());
        let probe = async move {
            let (mut refused, mut asked) = (false, None::<Instant>);
            loop {
                let question = HealthCheckRequest { service: RealtimeViewServiceServer::<()>::NAME.to_owned() };
                let answer = timeout(PROBE_TIMEOUT, health.check(question)).await;
                // Whatever it says, it is there; one that knows no health is too.
                let reached = match answer {
                    Ok(Ok(answer)) => answer.into_inner().status() == ServingStatus::Serving,
                    Ok(Err(status)) => matches!(status.code(), Code::Unimplemented | Code::NotFound | Code::ResourceExhausted),
                    Err(_) => false,
                };
                // Whoever is there may still answer us nothing: health is open to everybody, and our questions are not.
                if reached && asked.is_none_or(|asked| asked.elapsed() >= RIGHTS_INTERVAL) {
                    asked = Some(Instant::now());
                    let answer = timeout(PROBE_TIMEOUT, status.get_speed_status(GetSpeedStatusRequest::default())).await;
                    let refusal = answer.ok().and_then(Result::err).filter(is_refused);
                    match &refusal {
                        Some(status) if !refused => warn!(
                            reason = status.message(),
                            "the speed layer refuses this layer's questions: the token or certificate of [client] needs the scope internal"
                        ),
                        _ => {}
                    }
                    refused = refusal.is_some();
                }
                let reached = reached && !refused;
                reachable.send_if_modified(|known| std::mem::replace(known, reached) != reached);
                sleep(PROBE_INTERVAL).await;
            }
        };
        (watched, AbortOnDropHandle::new(tokio::spawn(probe)))
    }
}

/// For want of a token, or of its scope.
fn is_refused(status: &Status) -> bool {
    matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied)
}

/// A connection to `address`, which need not be up. Streams have connections of their own: one that is read slowly would fill the window of
/// everybody's.
pub(crate) fn connection(address: &str, tls: &ClientTls) -> Result<Transport, ServingError> {
    let (address, tls) = (address.to_owned(), tls.clone());
    let connect = move || {
        let adjust = |endpoint: Endpoint| {
            let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).http2_keep_alive_interval(KEEP_ALIVE);
            endpoint.keep_alive_timeout(KEEP_ALIVE).keep_alive_while_idle(true)
        };
        connect_lazily(&address, &tls, adjust)
    };
    let shared = connect()?;
    let call = move |request: http::Request<Body>| {
        let own = (request.uri().path() == stream::STREAM_STATES).then(|| connect().expect("the address was one before"));
        own.unwrap_or_else(|| shared.clone()).oneshot(request)
    };
    Ok(Transport::new(service_fn(call)))
}

impl SpeedClient {
    /// Asks whether the speed layer can answer from `version`.
    pub(crate) async fn prepare(&self, view: &str, version: i64, deadline: Instant) -> Result<(), ServingError> {
        let request = PrepareVersionRequest { view: view.to_owned(), version, check_only: false };
        let mut client = self.realtime.clone();
        within(deadline, self.metrics.prepare_version.begin(), client.prepare_version(request)).await.map(|_| ())
    }

    /// The states of the question's keys from the boundary of `version` on, in one call that is sent after the question arrived, and so
    /// finds every event that was acknowledged before. `log_id` may be empty, which any log is.
    pub(crate) async fn states(
        &self,
        view: &str,
        version: &Arc<Version>,
        log_id: &str,
        resolved: &Resolved,
        by_slice: bool,
        deadline: Instant,
    ) -> Result<SpeedStates, ServingError> {
        let about = About { view: view.to_owned(), version: Arc::clone(version), log_id: log_id.to_owned() };
        if !resolved.begin && !by_slice && resolved.keys.len() <= MAX_SHARED_KEYS {
            let read = self.calls.ask(about, resolved.keys.clone(), deadline).await?;
            return read.of_keys(resolved);
        }
        let request = GetStatesRequest { keys: resolved.keys.clone(), keys_begin: resolved.begin, by_slice, ..about.request() };
        let mut client = self.realtime.clone();
        let response = within(deadline, self.metrics.get_states.begin(), client.get_states(request)).await?;
        let Read { batches, head, erased } = Read::of(&response, version)?;
        let slices = by_slices(&response, &batches, version, &head).map_err(|reason| ServingError::SpeedAnswer { reason })?;
        let slices = slices.into_iter().map(|slice| slice.within(resolved.read)).collect::<Result<_, _>>()?;
        let rows = match resolved.keys.as_slice() {
            [prefix] if resolved.begin => {
                let in_range = batches.iter().map(|batch| rows_in(batch, resolved.read)).collect::<Result<_, _>>()?;
                RowsByKey::from([(prefix.clone(), in_range)])
            }
            _ => crate::states::by_key(&batches, resolved.read)?,
        };
        Ok(SpeedStates { rows, head, slices, erased })
    }
}

/// What a call is about: states under the definition of a version, from its boundary on.
#[derive(Clone, Debug)]
pub(crate) struct About {
    pub(crate) view: String,
    pub(crate) version: Arc<Version>,
    /// May be empty, which any log is.
    pub(crate) log_id: String,
}

impl About {
    /// The request, which asks for no key yet.
    fn request(&self) -> GetStatesRequest {
        let boundary = self.version.boundary.iter().map(|(&partition, &offset)| PartitionOffset { partition, offset });
        GetStatesRequest {
            view: self.view.clone(),
            fingerprint: self.version.definition.fingerprint().to_owned(),
            log_id: self.log_id.clone(),
            boundary: boundary.collect(),
            ..GetStatesRequest::default()
        }
    }
}

async fn within<T>(
    deadline: Instant,
    asked: Asked<'_>,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, ServingError> {
    let answer = match timeout_at(deadline, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(failure(&status)),
        Err(_) => Err(too_long()),
    };
    asked.answered(answer.as_ref().err());
    answer
}

fn too_long() -> ServingError {
    ServingError::SpeedUnavailable { reason: "it took too long".to_owned() }
}

fn failure(status: &Status) -> ServingError {
    let reason = status.message().to_owned();
    if status.code() != Code::FailedPrecondition {
        let code = status.code();
        return ServingError::SpeedUnavailable { reason: format!("{code:?}: {reason}") };
    }
    let mended = status.get_details_error_info().is_some_and(|info| MENDED_BY_RELOADING.contains(&info.reason.as_str()));
    if mended { ServingError::Stale { reason } } else { ServingError::SpeedRefused { reason } }
}

/// An answer of the speed layer that fits the version it is for.
struct Read {
    batches: Vec<RecordBatch>,
    head: Offsets,
    erased: Erased,
}

impl Read {
    fn of(response: &GetStatesResponse, version: &Version) -> Result<Self, ServingError> {
        let unusable = |reason: String| ServingError::SpeedAnswer { reason };
        let batches = wire::decode(&response.states).map_err(|e| unusable(e.to_string()))?;
        if let Some(reason) = batches.iter().find_map(|batch| crate::states::misfit(&batch.schema(), &version.definition)) {
            return Err(unusable(reason));
        }
        let erased = erased(response.erased.iter().cloned(), version);
        Ok(Self { batches, head: head(&response.head, version)?, erased })
    }
}

/// How far an answer reaches, which is not below the boundary.
fn head(told: &[PartitionOffset], version: &Version) -> Result<Offsets, ServingError> {
    let head: Offsets = told.iter().map(|at| (at.partition, at.offset)).collect();
    match head.iter().find(|(partition, offset)| **offset < boundary(version, **partition)) {
        None => Ok(head),
        Some((partition, offset)) => {
            let boundary = boundary(version, *partition);
            let reason = format!("it ends at {offset} of partition {partition}, below the boundary {boundary}");
            Err(ServingError::SpeedAnswer { reason })
        }
    }
}

/// Who was erased from the boundary on.
fn erased(told: impl IntoIterator<Item = ErasedUser>, version: &Version) -> Erased {
    let since = told.into_iter().filter(|user| user.offset >= boundary(version, user.partition));
    Erased(since.map(|user| (user.user_id, (user.partition, user.offset))).collect())
}

fn boundary(version: &Version, partition: i32) -> i64 {
    version.boundary.get(&partition).copied().unwrap_or(0)
}

/// The rows of each slice, where the slices were told.
fn by_slices(response: &GetStatesResponse, batches: &[RecordBatch], version: &Version, head: &Offsets) -> Result<Vec<SliceStates>, String> {
    let mut rest: VecDeque<RecordBatch> = batches.iter().cloned().collect();
    let mut slices: Vec<SliceStates> = Vec::with_capacity(response.slices.len());
    for told in &response.slices {
        let (partition, offsets) = (told.partition, told.start_offset..told.end_offset);
        let before = slices.last().filter(|last| last.partition == partition).map(|last| last.offsets.end);
        let start = before.unwrap_or_else(|| version.boundary.get(&partition).copied().unwrap_or(0));
        if offsets.start != start || offsets.end < start || head.get(&partition).is_none_or(|head| offsets.end > *head) {
            return Err(format!("the slice {offsets:?} of partition {partition} does not follow {start}"));
        }
        let mut wanted = usize::try_from(told.row_count).map_err(|_| "a slice has a count of rows below zero".to_owned())?;
        let mut rows = Vec::new();
        while wanted > 0 {
            let batch = rest.pop_front().ok_or("its slices have more rows than it sent")?;
            let taken = wanted.min(batch.num_rows());
            if taken < batch.num_rows() {
                rest.push_front(batch.slice(taken, batch.num_rows() - taken));
            }
            rows.push(batch.slice(0, taken));
            wanted -= taken;
        }
        slices.push(SliceStates { partition, offsets, rows });
    }
    let told = slices.is_empty() || rest.iter().all(|batch| batch.num_rows() == 0);
    if told { Ok(slices) } else { Err("its slices have fewer rows than it sent".to_owned()) }
}

#[cfg(test)]
mod tests;
