//! Events that go in: one a call, one a message, a thousand a message. Each call's or message's answer says that they are durable.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use futures::StreamExt;
use merganser_proto::v1::ingest_service_client::IngestServiceClient;
use merganser_proto::v1::{AppendEventsRequest, Event, StreamEventsRequest};
use prost_types::Timestamp;
use rand::rngs::StdRng;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::calls::Connections;
use super::tally::{Checked, Tally};

/// Messages of a stream that may wait for their answers.
const WINDOW: usize = 64;
/// What an event carries beside its ids, so that it has 200 bytes on the wire, about.
const NOTE_BYTES: usize = 110;
/// Users of these events: none that questions are asked about.
const USERS: u64 = 100_000;

/// How events are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A call for each event, by so many callers.
    Unary(usize),
    /// So many streams, messages of so many events.
    Streams(usize, usize),
}

impl Way {
    /// For tables.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Unary(callers) => format!("one event a call, {callers} in flight"),
            Self::Streams(streams, 1) => format!("one event a message, {streams} streams"),
            Self::Streams(streams, events) => format!("{events} events a message, {streams} streams"),
        }
    }

    /// Events of one answer.
    #[must_use]
    pub fn events(self) -> u64 {
        match self {
            Self::Unary(_) => 1,
            Self::Streams(_, events) => events as u64,
        }
    }
}

/// New events, each of them once, whatever sends them.
#[derive(Clone, Debug)]
pub struct Source {
    next: Arc<AtomicU64>,
    note: String,
}

impl Default for Source {
    fn default() -> Self {
        Self { next: Arc::default(), note: "n".repeat(NOTE_BYTES) }
    }
}

impl Source {
    fn events(&self, count: usize) -> Vec<Event> {
        let first = self.next.fetch_add(count as u64, Ordering::Relaxed);
        (first..first + count as u64).map(|number| self.event(number)).collect()
    }

    fn event(&self, number: u64) -> Event {
        Event {
            event_id: format!("ingest-{number:012}"),
            user_id: format!("source-{:06}", number.wrapping_mul(2_654_435_761) % USERS),
            event_time: Some(Timestamp { seconds: 1_740_000_000 + (number / 1_000) as i64, nanos: 0 }),
            event_type: "sale".to_owned(),
            amount: "12.34".to_owned(),
            attributes: [("note".to_owned(), self.note.clone())].into(),
        }
    }
}

/// Sends events to an address for `time`, and gives how many seconds that took.
///
/// # Errors
/// It is no address.
pub async fn run(address: &str, way: Way, source: &Source, time: Duration) -> Result<(Tally, f64)> {
    match way {
        Way::Unary(callers) => {
            let (connections, source) = (Connections::to(address, callers)?, source.clone());
            let caller = AtomicU64::new(0);
            let caller = Arc::new(caller);
            let ask = move |_: &mut StdRng| {
                let mut client = IngestServiceClient::new(connections.of(caller.fetch_add(1, Ordering::Relaxed) as usize));
                let append = AppendEventsRequest { events: source.events(1) };
                async move { client.append_events(append).await.and_then(|answer| all(answer.into_inner().accepted_count, 1)) }
            };
            Ok(super::closed::run(ask, callers, time).await)
        }
        Way::Streams(streams, events) => {
            let (connections, started) = (Connections::to(address, streams * 16)?, Instant::now());
            let mut running = JoinSet::new();
            for number in 0..streams {
                let client = IngestServiceClient::new(connections.of(number)).max_encoding_message_size(16 << 20);
                running.spawn(stream(client, source.clone(), events, time));
            }
            let tally = running.join_all().await.into_iter().fold(Tally::default(), Tally::and);
            Ok((tally, started.elapsed().as_secs_f64()))
        }
    }
}

/// One stream, with a window of messages that wait for their answers.
async fn stream(mut client: IngestServiceClient<tonic::transport::Channel>, source: Source, events: usize, time: Duration) -> Tally {
    let mut tally = Tally::default();
    let started = Instant::now();
    let window = if events == 1 { WINDOW } else { 2 };
    let (messages, outgoing) = mpsc::channel(window);
    let (sent_at, mut sent) = mpsc::channel(window);
    let sender = tokio::spawn(async move {
        while started.elapsed() < time {
            // The times' channel is as long as the window: it holds the sender back.
            let message = StreamEventsRequest { events: source.events(events) };
            if sent_at.send(Instant::now()).await.is_err() || messages.send(message).await.is_err() {
                return;
            }
        }
    });
    match client.stream_events(ReceiverStream::new(outgoing)).await {
        Err(status) => tally.add(started.elapsed(), Err(status)),
        Ok(answers) => {
            let mut answers = answers.into_inner();
            while let Some(answer) = answers.next().await {
                let outcome = answer.and_then(|answer| all(answer.accepted_count, events));
                let failed = outcome.is_err();
                let took = sent.recv().await.map_or(Duration::ZERO, |sent: Instant| sent.elapsed());
                tally.add(took, outcome);
                if failed {
                    break;
                }
            }
        }
    }
    sender.abort();
    tally
}

fn all(accepted: i64, events: usize) -> Result<Checked, Status> {
    match accepted == events as i64 {
        true => Ok(Checked::Right),
        false => Err(Status::new(Code::DataLoss, format!("{accepted} of {events} new events were accepted"))),
    }
}
