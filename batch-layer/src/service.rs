//! The speed layer, as a run meets it: it is asked for a cut, and later for what it folded up to there.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use cli::{auth, tls};
use merganser_proto::Transport;
use merganser_proto::client::{self, ConnectError, is_not_trusted};
use merganser_proto::v1::realtime_view_service_client::RealtimeViewServiceClient;
use merganser_proto::v1::{CutRequest, EraseUserRequest, ExportStatesRequest, PrepareVersionRequest};
use storage::config::{ClientConfig, TlsConfig};
use storage::erasures::Erasure;
use storage::paths::ViewName;
use tonic::transport::Endpoint;
use tonic::{Code, Request};
use tonic_types::StatusExt;
use views::fold::Fold;
use views::{Definition, wire};

use crate::cut::Cut;
use crate::error::RunError;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for a cut: the speed layer archives its active segments before it answers.
const CUT_TIMEOUT: Duration = Duration::from_secs(600);
/// Longest wait for an erasure, which is put into the object store.
const ERASE_TIMEOUT: Duration = Duration::from_secs(60);
/// A silent connection is asked whether it lives after this time, and given up after twice the time.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Largest message of exported states.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// A connection to the speed layer.
#[derive(Clone, Debug)]
pub(crate) struct SpeedLayer {
    url: String,
    client: RealtimeViewServiceClient<Transport>,
}

/// States of one partition over a range of offsets.
pub(crate) enum Exported {
    /// What it has.
    States {
        /// Each key and bucket once, in order.
        states: arrow::array::RecordBatch,
        /// Of a view by user, who was erased from the start of the range on: of them there is nothing from below their erasures.
        erased: BTreeSet<String>,
    },
    /// The speed layer no longer has the range, or never had it with this definition.
    NotHeld(String),
}

impl SpeedLayer {
    /// A client over whatever carries its calls to the speed layer at `url`.
    pub(crate) fn new(url: &str, transport: Transport) -> Self {
        let client = RealtimeViewServiceClient::new(transport).max_decoding_message_size(MAX_MESSAGE_BYTES);
        Self { url: url.to_owned(), client }
    }

    /// Connects. `otherwise` goes on where the error has said to start the speed layer.
    pub(crate) async fn connect(url: &str, tls: &TlsConfig, carried: &ClientConfig, otherwise: &'static str) -> Result<Self, RunError> {
        let adjust = |endpoint: Endpoint| {
            endpoint.connect_timeout(CONNECT_TIMEOUT).http2_keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(KEEP_ALIVE)
        };
        let token = auth::token(carried, url)?;
        match client::connect(url, &tls::calls(tls)?, adjust).await {
            Ok(transport) => Ok(Self::new(url, transport.carrying(token))),
            Err(ConnectError::Tls(trouble)) => Err(RunError::SpeedNotTrusted { reason: trouble.to_string() }),
            Err(source @ ConnectError::Address { .. }) => Err(RunError::SpeedAddress { source }),
            Err(source) => Err(RunError::SpeedUnreachable { url: url.to_owned(), otherwise, source }),
        }
    }

    /// Seals what is active. When this returns, everything below the cut is archived.
    pub(crate) async fn cut(&mut self) -> Result<Cut, RunError> {
        let mut request = Request::new(CutRequest {});
        request.set_timeout(CUT_TIMEOUT);
        let answer = self.client.cut(request).await.map_err(|status| self.failed("make a cut", status))?.into_inner();
        let mut offsets = answer.boundary;
        offsets.sort_by_key(|entry| entry.partition);
        let complete = offsets.iter().map(|entry| entry.partition).eq(0..offsets.len() as i32);
        if !complete || offsets.is_empty() || offsets.iter().any(|entry| entry.offset < 0) {
            return Err(self.nonsense("a cut that is not one offset for each partition"));
        }
        Ok(Cut { log_id: answer.log_id, boundary: offsets.iter().map(|entry| entry.offset).collect() })
    }

    /// Whether the speed layer could answer from a version, were it the newest.
    pub(crate) async fn can_answer(&mut self, view: &ViewName, version: i64) -> Result<(), RunError> {
        let request = PrepareVersionRequest { view: view.to_string(), version, check_only: true };
        match self.client.prepare_version(request).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::FailedPrecondition => {
                Err(RunError::NotAnswerable { version, reason: status.message().to_owned() })
            }
            Err(status) => Err(self.failed("look at a version", status)),
        }
    }

    /// Erases a user. When this returns, the erasure is durable in the log and in the store.
    pub(crate) async fn erase(&mut self, user_id: &str) -> Result<Erasure, RunError> {
        let mut request = Request::new(EraseUserRequest { user_id: user_id.to_owned() });
        request.set_timeout(ERASE_TIMEOUT);
        let answer = match self.client.erase_user(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) if status.code() == Code::InvalidArgument => {
                return Err(RunError::UserId { reason: status.message().to_owned() });
            }
            Err(status) => return Err(self.failed("erase the user", status)),
        };
        let Some(time) = answer.erase_time else { return Err(self.nonsense("an erasure of no time")) };
        let partition = u32::try_from(answer.partition).map_err(|_| self.nonsense("an erasure in a partition below zero"))?;
        let append_time_us = time.seconds * 1_000_000 + i64::from(time.nanos) / 1000;
        Ok(Erasure::new(partition, answer.offset, user_id.to_owned(), append_time_us))
    }

    /// What the speed layer folded from the events `range` of a partition.
    pub(crate) async fn export(
        &mut self,
        view: &ViewName,
        definition: &Definition,
        log_id: &str,
        partition: u32,
        range: Range<i64>,
    ) -> Result<Exported, RunError> {
        let request = ExportStatesRequest {
            view: view.to_string(),
            fingerprint: definition.fingerprint().to_owned(),
            log_id: log_id.to_owned(),
            partition: i32::try_from(partition).expect("there are at most 1024 partitions"),
            start_offset: range.start,
            end_offset: range.end,
        };
        let failed = |source| RunError::Fold { partition, source };
        let mut fold = Fold::new(definition).map_err(failed)?;
        let mut erased = BTreeSet::new();
        let mut stream = match self.client.export_states(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return self.not_held(status),
        };
        loop {
            let message = match stream.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(Exported::States { states: fold.into_states().map_err(failed)?, erased }),
                Err(status) => return self.not_held(status),
            };
            erased.extend(message.erased.into_iter().map(|user| user.user_id));
            for states in wire::decode(&message.states).map_err(|e| self.nonsense(format!("states that cannot be read: {e}")))? {
                let types = |schema: &arrow::datatypes::Schema| schema.fields().iter().map(|f| f.data_type().clone()).collect::<Vec<_>>();
                if types(&states.schema()) != types(definition.state_schema()) {
                    return Err(self.nonsense("states of another definition"));
                }
                fold.merge(&states).map_err(failed)?;
            }
        }
    }

    fn not_held(&self, status: tonic::Status) -> Result<Exported, RunError> {
        // Another log, or a definition that fails there, is no reason to look away.
        let reason = status.get_details_error_info().map(|info| info.reason);
        let not_there = matches!(reason.as_deref(), Some("UNKNOWN_DEFINITION" | "BOUNDARY_RETIRED"));
        match status.code() {
            Code::FailedPrecondition if not_there => Ok(Exported::NotHeld(status.message().to_owned())),
            Code::NotFound => Ok(Exported::NotHeld(status.message().to_owned())),
            _ => Err(self.failed("export its states", status)),
        }
    }

    fn failed(&self, call: &'static str, status: tonic::Status) -> RunError {
        if is_not_trusted(&status) {
            return RunError::SpeedNotTrusted { reason: status.message().to_owned() };
        }
        RunError::SpeedFailed { url: self.url.clone(), call, source: status.into() }
    }

    fn nonsense(&self, reason: impl Into<String>) -> RunError {
        RunError::SpeedNonsense { url: self.url.clone(), reason: reason.into() }
    }
}
