//! Events in: check each row, hand the good ones to their partitions, keep the refused ones, answer.

use std::sync::Arc;

use storage::dead_letter::{DeadLetter, DeadLetters};
use storage::log::LogError;
use storage::machine::{Machine, Owner, now_us};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use views::{Event, EventSchema, RawEvent, Refusal, event, shard_of};

use crate::error::SpeedError;
use crate::partition::{Appended, Partition, Verdict};

/// Refused rows that wait for the disk at most, in requests.
const DEAD_LETTER_QUEUE: usize = 1024;
/// A row without its texts, as it came and as it was checked.
const ROW_BYTES: usize = 256;
/// An attribute without its texts: two strings in a map.
const ATTRIBUTE_BYTES: usize = 96;

/// What became of a request, row by row. Accepted + duplicate + refused = received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) accepted: usize,
    pub(crate) duplicates: usize,
    /// Index in the request, event id, and why.
    pub(crate) refused: Vec<(usize, String, Refusal)>,
    /// The log, and the head of every partition that the request touched.
    pub(crate) position: String,
}

/// How to wait for room in a partition's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhenFull {
    /// One call: say so at once.
    Refuse,
    /// A stream: let the producer wait, as flow control does.
    Wait,
}

/// The way in. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Ingest {
    pub(crate) machine: Arc<dyn Machine>,
    pub(crate) schema: Arc<EventSchema>,
    pub(crate) log_id: Arc<str>,
    pub(crate) partitions: Arc<[Partition]>,
    pub(crate) dead_letters: DeadLetterQueue,
    pub(crate) room: QueueRoom,
    /// Says so once the log takes no more events.
    pub(crate) log_failed: Arc<watch::Sender<bool>>,
}

/// A request whose good rows are queued, in their order.
pub(crate) struct Queued {
    raw: Vec<RawEvent>,
    refused: Vec<(usize, Refusal)>,
    /// Per partition: which rows, and the answer to come.
    waiting: Vec<(usize, Vec<usize>, oneshot::Receiver<Appended>)>,
    /// Given back when all of it is written, or has failed.
    room: OwnedSemaphorePermit,
}

impl Ingest {
    /// Checks the rows and queues the good ones: all of them, or after an error none.
    pub(crate) async fn queue(&self, raw: Vec<RawEvent>, when_full: WhenFull) -> Result<Queued, Arc<SpeedError>> {
        let room = self.room.take(raw.iter().map(bytes_of).sum(), when_full).await?;
        let mut refused = Vec::new();
        let mut by_partition: Vec<(Vec<usize>, Vec<Event>)> = vec![Default::default(); self.partitions.len()];
        for (i, row) in raw.iter().enumerate() {
            match event::check(row, &self.schema) {
                Err(refusal) => refused.push((i, refusal)),
                Ok(event) => {
                    let (rows, events) = &mut by_partition[shard_of(&event.user_id, self.partitions.len() as u32) as usize];
                    rows.push(i);
                    events.push(event);
                }
            }
        }
        let mut places = Vec::new();
        for (partition, (rows, events)) in self.partitions.iter().zip(by_partition) {
            if !events.is_empty() {
                places.push((partition.number, rows, events, partition.place(when_full).await?));
            }
        }
        let waiting = places.into_iter().map(|(number, rows, events, place)| (number, rows, place.append(events)));
        Ok(Queued { waiting: waiting.collect(), raw, refused, room })
    }

    /// Waits until the queued rows are durable and the refused ones kept.
    pub(crate) async fn finish(&self, queued: Queued) -> Result<Outcome, Arc<SpeedError>> {
        let Queued { raw, mut refused, waiting, room } = queued;
        let (mut accepted, mut duplicates, mut heads) = (0, 0, Vec::new());
        for (number, rows, reply) in waiting {
            let appended = reply.await.map_err(|_| Arc::new(SpeedError::Stopping))?;
            let (verdicts, head) = appended.inspect_err(|e| self.note(e))?;
            heads.push(format!("{number}={head}"));
            for (row, verdict) in rows.into_iter().zip(verdicts) {
                match verdict {
                    Verdict::Accepted => accepted += 1,
                    Verdict::Duplicate => duplicates += 1,
                    Verdict::Refused(refusal) => refused.push((row, refusal)),
                }
            }
        }
        refused.sort_by_key(|(row, _)| *row);
        let received_time_us = now_us(&*self.machine);
        let letters = refused.iter().map(|(row, refusal)| dead_letter(&raw[*row], refusal, received_time_us)).collect();
        self.dead_letters.keep(letters).await.inspect_err(|e| self.note(e))?;
        drop(room);
        let refused = refused.into_iter().map(|(row, refusal)| (row, raw[row].event_id.clone(), refusal)).collect();
        Ok(Outcome { accepted, duplicates, refused, position: format!("{}:{}", self.log_id, heads.join(",")) })
    }

    /// A log that has failed once takes nothing until a restart, which whoever watches our health should know.
    fn note(&self, error: &SpeedError) {
        if matches!(error, SpeedError::Log(LogError::Poisoned { .. })) {
            self.log_failed.send_if_modified(|failed| !std::mem::replace(failed, true));
        }
    }
}

/// What a row takes at least while it waits.
fn bytes_of(row: &RawEvent) -> usize {
    let attributes: usize = row.attributes.iter().map(|(name, value)| ATTRIBUTE_BYTES + name.len() + value.len()).sum();
    ROW_BYTES + row.event_id.len() + row.user_id.len() + row.event_type.len() + row.amount.len() + attributes
}

/// Memory for the events that wait, in bytes. Cheap to clone.
#[derive(Clone)]
pub(crate) struct QueueRoom {
    bytes: u32,
    free: Arc<Semaphore>,
}

impl QueueRoom {
    /// Of so many bytes.
    pub(crate) fn new(bytes: u64) -> Self {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        Self { bytes, free: Arc::new(Semaphore::new(bytes as usize)) }
    }

    /// A request larger than all there is takes all there is.
    async fn take(&self, bytes: usize, when_full: WhenFull) -> Result<OwnedSemaphorePermit, SpeedError> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.bytes);
        let free = Arc::clone(&self.free);
        match when_full {
            WhenFull::Wait => free.acquire_many_owned(bytes).await.map_err(|_| SpeedError::Stopping),
            WhenFull::Refuse => free.try_acquire_many_owned(bytes).map_err(|_| SpeedError::QueueBytesFull {
                waiting_bytes: (self.bytes as usize).saturating_sub(self.free.available_permits()),
            }),
        }
    }
}

fn dead_letter(raw: &RawEvent, refusal: &Refusal, received_time_us: i64) -> DeadLetter {
    let event = serde_json::json!({
        "event_id": raw.event_id,
        "user_id": raw.user_id,
        "event_time": raw.event_time.map(|(seconds, nanos)| serde_json::json!({ "seconds": seconds, "nanos": nanos })),
        "event_type": raw.event_type,
        "amount": raw.amount,
        "attributes": raw.attributes,
    });
    DeadLetter { received_time_us, field: refusal.field.clone(), reason: refusal.reason.clone(), event }
}

type Kept = Result<(), Arc<SpeedError>>;

enum Command {
    Keep(Vec<DeadLetter>, oneshot::Sender<Kept>),
    Stop,
}

/// The thread that owns the dead letters, from outside.
#[derive(Clone)]
pub(crate) struct DeadLetterQueue(mpsc::Sender<Command>);

impl DeadLetterQueue {
    /// Starts the thread.
    pub(crate) fn start(mut letters: DeadLetters) -> Result<(Self, Owner), SpeedError> {
        let (sender, mut queue) = mpsc::channel(DEAD_LETTER_QUEUE);
        let work = async move {
            let mut stopping = false;
            while !stopping && let Some(Command::Keep(mut batch, reply)) = queue.recv().await {
                let mut replies = vec![reply];
                while let Ok(command) = queue.try_recv() {
                    let Command::Keep(more, reply) = command else {
                        stopping = true;
                        break;
                    };
                    batch.extend(more);
                    replies.push(reply);
                }
                let outcome = letters.record(&batch).map(|_| ()).map_err(|e: LogError| Arc::new(SpeedError::Log(e)));
                for reply in replies {
                    let _gone = reply.send(outcome.clone());
                }
            }
        };
        let owner = Owner::start("dead-letters".into(), work);
        Ok((Self(sender), owner.map_err(|source| SpeedError::Thread { source })?))
    }

    /// Ends the thread after what is queued.
    pub(crate) async fn stop(&self) {
        // An error means that it has ended.
        let _ended = self.0.send(Command::Stop).await;
    }

    /// Comes when the thread has ended.
    pub(crate) async fn ended(&self) {
        self.0.closed().await;
    }

    /// When this returns, the letters are durable.
    async fn keep(&self, letters: Vec<DeadLetter>) -> Result<(), Arc<SpeedError>> {
        if letters.is_empty() {
            return Ok(());
        }
        let (reply, kept) = oneshot::channel();
        self.0.send(Command::Keep(letters, reply)).await.map_err(|_| Arc::new(SpeedError::Stopping))?;
        kept.await.map_err(|_| Arc::new(SpeedError::Stopping))?
    }
}

#[cfg(test)]
mod tests;
