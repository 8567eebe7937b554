//! Batches over the wire: pipelined, acknowledged in order, sent again when the connection breaks.
//!
//! The window holds what is sent and not yet acknowledged. When a call breaks, a new one begins with the whole window: what
//! had arrived the first time is then a duplicate, within the server's dedup window, and is not counted twice.

use std::collections::VecDeque;
use std::error::Error;
use std::time::Duration;

use merganser_proto::client::{connect_lazily, is_not_trusted};
use merganser_proto::tls::ClientTls;
use merganser_proto::v1::ingest_service_client::IngestServiceClient;
use merganser_proto::v1::{AppendEventsRequest, AppendEventsResponse, Event, StreamEventsRequest};
use merganser_proto::{Bearer, Transport};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::LoadError;
use super::bar::Bar;
use super::batch::{Batch, Batches};
use super::progress::Progress;
use crate::service::DEAD_LETTERS_FULL;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a silent connection is probed, and how long the answer may take.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));
/// Attempts since the last acknowledgement before the load gives up.
const MAX_ATTEMPTS: u32 = 8;
const FIRST_DELAY: Duration = Duration::from_millis(100);
const MAX_DELAY: Duration = Duration::from_secs(5);

/// A client of one server.
pub(crate) struct Sender {
    client: IngestServiceClient<Transport>,
    address: String,
    in_flight: usize,
    /// Failures since the last acknowledgement.
    attempts: u32,
}

/// Why a call ended before its work was done.
enum Broken {
    /// The server or the connection: another call may do better.
    Call(Status),
    /// The load cannot go on.
    Load(LoadError),
}

impl Sender {
    /// A client that connects when it is first used.
    pub(crate) fn new(address: &str, tls: &ClientTls, token: Option<Bearer>, in_flight: usize) -> Result<Self, LoadError> {
        let transport = connect_lazily(address, tls, |endpoint| {
            endpoint.connect_timeout(CONNECT_TIMEOUT).http2_keep_alive_interval(KEEP_ALIVE.0).keep_alive_timeout(KEEP_ALIVE.1)
        })?;
        let client = IngestServiceClient::new(transport.carrying(token));
        Ok(Self { client, address: address.to_owned(), in_flight, attempts: 0 })
    }

    /// The id of the server's log, fit for a file name.
    pub(crate) async fn log_id(&mut self) -> Result<String, LoadError> {
        let position = self.append(&[]).await?.position;
        let id = position.split_once(':').map_or("", |(id, _)| id);
        let plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if id.is_empty() || id.len() > 64 || !plain {
            return Err(LoadError::Contract { what: format!("the position {position:?} names no log") });
        }
        Ok(id.to_owned())
    }

    /// Sends one request until it is answered. One that was answered and lost on the way is answered by duplicates.
    pub(crate) async fn append(&mut self, events: &[Event]) -> Result<AppendEventsResponse, LoadError> {
        loop {
            match self.client.append_events(AppendEventsRequest { events: events.to_vec() }).await {
                Ok(response) => {
                    self.attempts = 0;
                    return Ok(response.into_inner());
                }
                Err(status) => self.pause(status).await?,
            }
        }
    }

    /// Sends all batches. When this returns, every one is acknowledged and counted in `progress`.
    pub(super) async fn send(&mut self, mut batches: Batches, progress: &mut Progress, bar: &Bar) -> Result<(), LoadError> {
        let mut window = VecDeque::new();
        loop {
            match self.call(&mut batches, &mut window, progress, bar).await {
                Ok(()) => return Ok(()),
                Err(Broken::Load(error)) => return Err(error),
                Err(Broken::Call(status)) => self.pause(status).await?,
            }
        }
    }

    /// One `StreamEvents` call: the window first, then the batches to come.
    async fn call(
        &mut self,
        batches: &mut Batches,
        window: &mut VecDeque<Batch>,
        progress: &mut Progress,
        bar: &Bar,
    ) -> Result<(), Broken> {
        // A server may wait for the first request before it answers the call at all.
        if window.is_empty() {
            match batches.next().await {
                Some(batch) => window.push_back(batch.map_err(Broken::Load)?),
                None => return Ok(()),
            }
        }
        let (requests, receiver) = mpsc::channel(self.in_flight);
        window.iter().for_each(|batch| offer(&requests, batch));
        let call = self.client.stream_events(ReceiverStream::new(receiver)).await;
        let mut responses = call.map_err(Broken::Call)?.into_inner();

        let mut more = true;
        while more || !window.is_empty() {
            tokio::select! {
                response = responses.message(), if !window.is_empty() => {
                    let ended = || Status::unavailable("the server ended the call");
                    let response = response.map_err(Broken::Call)?.ok_or_else(|| Broken::Call(ended()))?;
                    let batch = window.pop_front().expect("the branch is taken only while the window holds a batch");
                    progress.acknowledge(&batch, response).map_err(Broken::Load)?;
                    bar.acknowledge(batch.position_bytes, &progress.tally);
                    self.attempts = 0;
                }
                batch = batches.next(), if more && window.len() < self.in_flight => match batch {
                    Some(batch) => {
                        let batch = batch.map_err(Broken::Load)?;
                        offer(&requests, &batch);
                        window.push_back(batch);
                    }
                    None => more = false,
                },
            }
        }
        Ok(())
    }

    /// Waits before the next attempt, with jitter, or gives up.
    async fn pause(&mut self, status: Status) -> Result<(), LoadError> {
        if is_not_trusted(&status) {
            return Err(LoadError::NotTrusted { reason: status.message().to_owned() });
        }
        if !is_worth_another_attempt(&status) {
            return Err(LoadError::Refused { source: status.into() });
        }
        self.attempts += 1;
        if self.attempts >= MAX_ATTEMPTS {
            let (address, attempts) = (self.address.clone(), self.attempts);
            return Err(LoadError::Unreachable { address, attempts, source: status.into() });
        }
        let own = (FIRST_DELAY * 2_u32.pow(self.attempts - 1)).mul_f64(rand::random_range(0.5..1.0));
        let asked = status.get_details_retry_info().and_then(|retry| retry.retry_delay);
        let delay = asked.map_or(own, |asked| asked + own).min(MAX_DELAY);
        tracing::debug!(attempt = self.attempts, ?delay, %status, "trying again");
        tokio::time::sleep(delay).await;
        Ok(())
    }
}

/// Queues a batch to be sent. The queue has room for the whole window; once the call is broken the responses will say so.
fn offer(requests: &mpsc::Sender<StreamEventsRequest>, batch: &Batch) {
    let _ = requests.try_send(StreamEventsRequest { events: batch.events.clone() });
}

/// Whether the server is away or busy, or the connection broke: a status with a source was made on this side of it. Dead letters
/// that are full stay so until a person sees to them.
fn is_worth_another_attempt(status: &Status) -> bool {
    let full = status.get_details_error_info().is_some_and(|info| info.reason == DEAD_LETTERS_FULL);
    !full && (matches!(status.code(), Code::Unavailable | Code::ResourceExhausted) || status.source().is_some())
}
