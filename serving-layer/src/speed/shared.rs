//! One call for all who wait.
//!
//! A question goes off at once while fewer than [`CALLS_AT_ONCE`] calls are under way. Those that come meanwhile wait, and the next
//! call asks for the keys of all of them. Each call is sent after every question in it has come, and so finds every event that was
//! acknowledged before any of them: nobody joins a call that is on its way. What a call costs, most of it the same for one key and for
//! fifty, is thus shared exactly when there is much to do. (DataLoader does this for GraphQL, group commit for logs.)

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use merganser_proto::v1::GetStatesRequest;
use merganser_proto::v1::realtime_view_service_client::RealtimeViewServiceClient;
use merganser_proto::{Transport, trace_span, traces};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use tonic::Status;
use tracing::{Instrument, Span};

use super::{About, Read, SpeedStates, failure, too_long};
use crate::ServingError;
use crate::erasures::Erased;
use crate::metrics::Metrics;
use crate::position::Offsets;
use crate::question::{Resolved, TimeRange};
use crate::states::{RowsByKey, by_key};
use crate::version::rows_in;

/// Questions about more keys are sent by themselves, so that those about few do not wait for theirs.
pub(super) const MAX_SHARED_KEYS: usize = 16;
/// Keys of one call, or a few more.
const MAX_KEYS: usize = 256;
/// Calls under way about one version.
const CALLS_AT_ONCE: usize = 2;

/// Calls to one speed layer. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct SharedCalls {
    client: RealtimeViewServiceClient<Transport>,
    metrics: Arc<Metrics>,
    lines: Arc<Mutex<HashMap<LineId, Line>>>,
}

/// What questions of one call have in common: view, number of the version, log.
type LineId = (String, i64, String);

/// Those who ask about one version.
#[derive(Debug, Default)]
struct Line {
    under_way: usize,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    keys: Vec<String>,
    deadline: Instant,
    /// What waits, in its trace.
    span: Span,
    reply: oneshot::Sender<Result<Arc<ByKey>, Failed>>,
}

/// What came of a call, for each who waited for it.
#[derive(Clone, Debug)]
enum Failed {
    Refused(Status),
    TooLong,
    Unusable(String),
}

impl From<Failed> for ServingError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Refused(status) => failure(&status),
            Failed::TooLong => too_long(),
            Failed::Unusable(reason) => Self::SpeedAnswer { reason },
        }
    }
}

/// The states of all keys of a call.
#[derive(Debug)]
pub(super) struct ByKey {
    rows: RowsByKey,
    head: Offsets,
    erased: Erased,
}

impl ByKey {
    /// What one question wanted of them.
    pub(super) fn of_keys(&self, resolved: &Resolved) -> Result<SpeedStates, ServingError> {
        let mut rows = RowsByKey::with_capacity(resolved.keys.len());
        for key in &resolved.keys {
            if let Some(found) = self.rows.get(key) {
                rows.insert(key.clone(), found.iter().map(|rows| rows_in(rows, resolved.read)).collect::<Result<_, _>>()?);
            }
        }
        Ok(SpeedStates { rows, head: self.head.clone(), slices: Vec::new(), erased: self.erased.clone() })
    }
}

impl SharedCalls {
    pub(super) fn new(client: RealtimeViewServiceClient<Transport>, metrics: Arc<Metrics>) -> Self {
        Self { client, metrics, lines: Arc::default() }
    }

    /// The states of `keys` from a call that is sent from now on.
    ///
    /// # Errors
    /// What the call came to; and the deadline passed.
    pub(super) async fn ask(&self, about: About, keys: Vec<String>, deadline: Instant) -> Result<Arc<ByKey>, ServingError> {
        let (reply, answer) = oneshot::channel();
        let id = (about.view.clone(), about.version.number, about.log_id.clone());
        let goes_off = {
            let mut lines = self.lines();
            let line = lines.entry(id.clone()).or_default();
            line.waiting.push_back(Waiting { keys, deadline, span: traces::current(), reply });
            let goes_off = line.under_way < CALLS_AT_ONCE;
            line.under_way += usize::from(goes_off);
            goes_off
        };
        if goes_off {
            // In a task of its own: others will wait for it too, whatever becomes of this question.
            let turn = Turn { calls: self.clone(), id, is_over: false };
            tokio::spawn(turn.serve(about));
        }
        match timeout_at(deadline, answer).await {
            Ok(Ok(answer)) => Ok(answer?),
            // The task ended in a panic, which it has said.
            Ok(Err(_)) => Err(ServingError::SpeedUnavailable { reason: "the call to it was dropped".to_owned() }),
            Err(_) => Err(too_long()),
        }
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<LineId, Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to have a call under way.
struct Turn {
    calls: SharedCalls,
    id: LineId,
    is_over: bool,
}

impl Turn {
    /// Calls for those who wait, until nobody does.
    async fn serve(mut self, about: About) {
        while let Some(waiting) = self.next() {
            let keys = waiting.iter().flat_map(|one| one.keys.iter().cloned()).collect();
            let latest = waiting.iter().map(|one| one.deadline).max().expect("somebody waits");
            let request = GetStatesRequest { keys, ..about.request() };
            let mut client = self.calls.client.clone();
            let asked = self.calls.metrics.get_states.begin();
            let calling =
                traces::shared(waiting.iter().map(|one| &one.span), || trace_span!("call speed layer", questions = waiting.len() as i64));
            let answer = match timeout_at(latest, client.get_states(request)).instrument(calling).await {
                Ok(Ok(response)) => read(&response.into_inner(), &about),
                Ok(Err(status)) => Err(Failed::Refused(status)),
                Err(_) => Err(Failed::TooLong),
            };
            asked.answered(answer.as_ref().err().map(|failed| failed.clone().into()).as_ref());
            for one in waiting {
                // Some may have given up.
                let _gone = one.reply.send(answer.clone());
            }
        }
    }

    /// Who waits now. Where nobody does the turn is over in the same moment, so that whoever comes next takes one.
    fn next(&mut self) -> Option<Vec<Waiting>> {
        let mut lines = self.calls.lines();
        let line = lines.get_mut(&self.id)?;
        let (mut taken, mut keys) = (Vec::new(), 0);
        while keys < MAX_KEYS
            && let Some(one) = line.waiting.pop_front()
        {
            if !one.reply.is_closed() {
                keys += one.keys.len();
                taken.push(one);
            }
        }
        if taken.is_empty() {
            self.is_over = true;
            leave(&mut lines, &self.id);
        }
        (!taken.is_empty()).then_some(taken)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.is_over {
            // Decoding panicked. Whoever waits and has nobody left to call for them is told so by the drop of their reply.
            leave(&mut self.calls.lines(), &self.id);
        }
    }
}

fn leave(lines: &mut HashMap<LineId, Line>, id: &LineId) {
    if let Some(line) = lines.get_mut(id) {
        line.under_way -= 1;
        if line.under_way == 0 {
            lines.remove(id);
        }
    }
}

fn read(response: &merganser_proto::v1::GetStatesResponse, about: &About) -> Result<Arc<ByKey>, Failed> {
    let unusable = |e: ServingError| {
        Failed::Unusable(match e {
            ServingError::SpeedAnswer { reason } => reason,
            other => other.to_string(),
        })
    };
    let Read { batches, head, erased } = Read::of(response, &about.version).map_err(unusable)?;
    let rows = by_key(&batches, TimeRange::default()).map_err(|e| Failed::Unusable(e.to_string()))?;
    Ok(Arc::new(ByKey { rows, head, erased }))
}
