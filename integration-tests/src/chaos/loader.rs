//! Appends over several connections at once: new events, events again, rows that must be refused.
//!
//! A request whose outcome is unknown is sent again, the same rows, until it is answered: only then does the connection go
//! on. So little is open at any time, and at the end nothing is.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use merganser_proto::v1::ingest_service_client::IngestServiceClient;
use merganser_proto::v1::{AppendEventsRequest, AppendEventsResponse, Event};
use prost_types::Timestamp;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::figures::Figures;
use super::model::{self, Model, Wrong};
use super::world::{Role, World};

/// Rows of a request at most.
const MOST_ROWS: usize = 24;
/// Wait before a request is sent again.
const AGAIN_AFTER: Duration = Duration::from_millis(20);
/// 2300-01-01, behind the last year that is accepted.
const FAR_FUTURE_SECONDS: i64 = 10_413_792_000;

/// What all tasks of a run share.
#[derive(Debug)]
pub struct Shared {
    /// Where the servers are.
    pub world: World,
    /// What was sent and acknowledged.
    pub model: Model,
    /// What happened.
    pub figures: Figures,
    /// Where the servers' changes are written down, if they are.
    pub trace: Option<PathBuf>,
    /// Refused rows that were answered, user, event and amount, with the length of the trace then. Each is kept once.
    pub refused: Mutex<BTreeMap<(String, String, String), u64>>,
}

impl Shared {
    /// For a run with so many users.
    #[must_use]
    pub fn new(world: World, users: usize, trace: Option<PathBuf>) -> Arc<Self> {
        let (model, figures) = (Model::new(users), Figures::default());
        Arc::new(Self { world, model, figures, trace, refused: Mutex::default() })
    }

    /// How long the trace is now; 0 where there is none.
    #[must_use]
    pub fn trace_bytes(&self) -> u64 {
        self.trace.as_ref().and_then(|trace| std::fs::metadata(trace).ok()).map_or(0, |meta| meta.len())
    }

    /// Whether a server made this error itself, and a person would have to look.
    pub(super) fn judge_error(&self, what: &str, status: &Status) {
        let made_by_server = !status.details().is_empty();
        if made_by_server && matches!(status.code(), Code::Internal | Code::DataLoss | Code::InvalidArgument | Code::Unimplemented) {
            self.figures.wrong(Wrong::Unexplained, format!("{what} was answered by {:?}: {}", status.code(), status.message()));
        }
    }
}

/// The name of a user.
#[must_use]
pub fn user_id(user: usize) -> String {
    format!("user-{user:04}")
}

/// The name of an event.
#[must_use]
pub fn event_id(number: usize) -> String {
    format!("e{number}")
}

/// One row of a request.
#[derive(Clone, Debug)]
struct Row {
    event: Event,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    New(usize, usize),
    /// An acknowledged one again, or a new one for the second time in this request.
    Again,
    Bad,
}

/// Sends until `stop`.
pub async fn load(shared: Arc<Shared>, seed: u64, stop: CancellationToken) {
    let mut maker = Maker { shared: Arc::clone(&shared), random: StdRng::seed_from_u64(seed), seed, bad_rows: 0 };
    let mut client = shared.world.ingest();
    while !stop.is_cancelled() {
        let rows = maker.rows();
        deliver(&shared, &mut client, &rows).await;
    }
}

/// Sends the rows until they are answered.
async fn deliver(shared: &Shared, client: &mut IngestServiceClient<Channel>, rows: &[Row]) {
    let mut first = true;
    loop {
        let request = AppendEventsRequest { events: rows.iter().map(|row| row.event.clone()).collect() };
        let sent = Instant::now();
        shared.figures.in_flight.fetch_add(1, Ordering::Relaxed);
        let outcome = client.append_events(request).await;
        shared.figures.in_flight.fetch_sub(1, Ordering::Relaxed);
        match outcome {
            Ok(response) => {
                shared.figures.answered(Role::Speed, sent);
                return settle(shared, rows, first, &response.into_inner());
            }
            Err(status) => {
                shared.figures.not_known();
                shared.judge_error("an append", &status);
                first = false;
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    }
}

/// Received = accepted + duplicate + refused, each row where it belongs; then all of them are acknowledged.
fn settle(shared: &Shared, rows: &[Row], first: bool, response: &AppendEventsResponse) {
    let acked_at = shared.trace_bytes();
    let (figures, count) = (&shared.figures, |kind: fn(&Kind) -> bool| rows.iter().filter(|row| kind(&row.kind)).count() as i64);
    let (new, again) = (count(|kind| matches!(kind, Kind::New(..))), count(|kind| *kind == Kind::Again));
    let (accepted, duplicates) = (response.accepted_count, response.duplicate_count);
    let bad: Vec<i32> = (0..).zip(rows).filter(|(_, row)| row.kind == Kind::Bad).map(|(index, _)| index).collect();
    let rejected: Vec<i32> = response.rejected.iter().map(|row| row.index).collect();
    if accepted + duplicates != new + again || accepted > new || (first && accepted != new) || rejected != bad {
        let kind = if accepted > new { Wrong::Twice } else { Wrong::Unexplained };
        let what = format!(
            "{new} new rows, {again} again, bad ones {bad:?}, sent for the first time: {first}; answered {accepted} accepted, \
             {duplicates} duplicate, rejected {:?}",
            response.rejected
        );
        figures.wrong(kind, what);
    }
    for row in rows {
        match row.kind {
            Kind::New(user, number) => shared.model.acknowledge(user, number, acked_at),
            Kind::Again => {}
            Kind::Bad => {
                let Event { user_id, event_id, amount, .. } = row.event.clone();
                let mut refused = shared.refused.lock().unwrap_or_else(PoisonError::into_inner);
                refused.entry((user_id, event_id, amount)).or_insert(acked_at);
            }
        }
    }
    figures.requests_acked.one();
    figures.events_accepted.add(accepted.unsigned_abs());
    figures.duplicates.add(duplicates.unsigned_abs());
    figures.refused.add(rejected.len() as u64);
}

struct Maker {
    shared: Arc<Shared>,
    random: StdRng,
    seed: u64,
    bad_rows: u64,
}

impl Maker {
    fn rows(&mut self) -> Vec<Row> {
        let sent_at = self.shared.trace_bytes();
        let mut rows = Vec::new();
        for _ in 0..self.random.random_range(1..=MOST_ROWS) {
            let user = self.random.random_range(0..self.shared.model.users());
            match self.random.random_range(0..100) {
                0..4 => rows.push(self.bad()),
                4..8 => rows.extend(self.shared.model.newest_acknowledged(user).map(|number| self.again(user, number))),
                8..10 => rows.extend(self.shared.model.newest_acknowledged(user).map(|number| self.conflict(user, number))),
                roll => {
                    let number = self.shared.model.send(user, &mut self.random, sent_at);
                    rows.push(Row { kind: Kind::New(user, number), ..self.again(user, number) });
                    if roll == 10 {
                        rows.push(self.again(user, number));
                    }
                }
            }
        }
        rows
    }

    fn again(&self, user: usize, number: usize) -> Row {
        Row { event: event(user, number, &self.shared.model.event(user, number)), kind: Kind::Again }
    }

    fn conflict(&mut self, user: usize, number: usize) -> Row {
        let good = event(user, number, &self.shared.model.event(user, number));
        Row { event: Event { amount: format!("{}.5", self.random.random::<u32>()), ..good }, kind: Kind::Bad }
    }

    fn bad(&mut self) -> Row {
        self.bad_rows += 1;
        let id = format!("bad-{:x}-{}", self.seed, self.bad_rows);
        let time = Some(Timestamp { seconds: 1_767_225_600, nanos: 0 });
        let good = Event { event_id: id, user_id: user_id(0), event_time: time, amount: "1".to_owned(), ..Event::default() };
        let event = match self.random.random_range(0..4) {
            0 => Event { user_id: String::new(), ..good },
            1 => Event { event_time: None, ..good },
            2 => Event { amount: "0.00001".to_owned(), ..good },
            _ => Event { event_time: Some(Timestamp { seconds: FAR_FUTURE_SECONDS, nanos: 0 }), ..good },
        };
        Row { event, kind: Kind::Bad }
    }
}

/// An event as it is sent.
#[must_use]
pub fn event(user: usize, number: usize, event: &model::Event) -> Event {
    let sign = if event.amount < 0 { "-" } else { "" };
    let magnitude = event.amount.unsigned_abs();
    Event {
        event_id: event_id(number),
        user_id: user_id(user),
        event_time: Some(Timestamp {
            seconds: event.time_us.div_euclid(1_000_000),
            nanos: (event.time_us.rem_euclid(1_000_000) * 1000) as i32,
        }),
        event_type: "sale".to_owned(),
        amount: format!("{sign}{}.{:04}", magnitude / 10_000, magnitude % 10_000),
        ..Event::default()
    }
}
