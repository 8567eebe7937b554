//! Events in: check each row, hand the good ones to their partitions, keep the refused ones, answer.

use std::sync::Arc;

use storage::dead_letter::DeadLetter;
use storage::log::LogError;
use storage::machine::{Machine, now_us};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::Instant;
use views::{Event, EventSchema, RawEvent, Refusal, event, shard_of};

use crate::error::SpeedError;
use crate::metrics::{Metrics, Tally};
use crate::partition::{Appended, Partition, Verdict};
use crate::refused::{DeadLetterQueue, LetterRoom, RefusedCounts};

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
    pub(crate) refused: Arc<RefusedCounts>,
    pub(crate) room: QueueRoom,
    /// Says so once the log takes no more events.
    pub(crate) log_failed: Arc<watch::Sender<bool>>,
    pub(crate) metrics: Arc<Metrics>,
}

/// A request whose good rows are queued, in their order.
pub(crate) struct Queued {
    raw: Vec<RawEvent>,
    refused: Vec<(usize, Refusal)>,
    /// Per partition: which rows, and the answer to come.
    waiting: Vec<(usize, Vec<usize>, oneshot::Receiver<Appended>)>,
    /// Given back when all of it is written, or has failed; so is `letter_room`.
    room: OwnedSemaphorePermit,
    /// For the letters of `refused`.
    letter_room: LetterRoom,
    received_time_us: i64,
    received: Instant,
}

impl Ingest {
    /// Checks the rows and queues the good ones: all of them, or after an error none. There is an error too where the refused ones
    /// could not be kept.
    pub(crate) async fn queue(&self, raw: Vec<RawEvent>, when_full: WhenFull) -> Result<Queued, Arc<SpeedError>> {
        let rows = raw.len();
        let queued = self.try_queue(raw, when_full).await;
        queued.inspect_err(|e| self.metrics.append(rows, &Tally::default(), Err(e)))
    }

    async fn try_queue(&self, raw: Vec<RawEvent>, when_full: WhenFull) -> Result<Queued, Arc<SpeedError>> {
        let received = Instant::now();
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
        let received_time_us = now_us(&*self.machine);
        let letter_room = self.dead_letters.room_for(|| letters(&raw, &refused, received_time_us), "nothing of it was taken").await?;
        let mut places = Vec::new();
        for (partition, (rows, events)) in self.partitions.iter().zip(by_partition) {
            if !events.is_empty() {
                places.push((partition.number, rows, events, partition.place(when_full).await?));
            }
        }
        let waiting = places.into_iter().map(|(number, rows, events, place)| (number, rows, place.append(events)));
        Ok(Queued { waiting: waiting.collect(), raw, refused, room, letter_room, received_time_us, received })
    }

    /// Waits until the queued rows are durable and the refused ones kept.
    pub(crate) async fn finish(&self, queued: Queued) -> Result<Outcome, Arc<SpeedError>> {
        let (rows, received, mut tally) = (queued.raw.len(), queued.received, Tally::default());
        let outcome = self.try_finish(queued, &mut tally).await;
        self.metrics.append(rows, &tally, outcome.as_ref().map(|_| received.elapsed()));
        outcome
    }

    async fn try_finish(&self, queued: Queued, tally: &mut Tally) -> Result<Outcome, Arc<SpeedError>> {
        let Queued { raw, mut refused, waiting, room, letter_room, received_time_us, received: _ } = queued;
        let (mut heads, mut refused_by_log, mut failed) = (Vec::new(), Vec::new(), None);
        for (number, rows, reply) in waiting {
            let (verdicts, head) = match reply.await.unwrap_or_else(|_| Err(Arc::new(SpeedError::Stopping))) {
                Ok(appended) => appended,
                Err(e) => {
                    self.note(&e);
                    // What the other partitions have taken is taken, and counted.
                    failed.get_or_insert(e);
                    continue;
                }
            };
            heads.push(format!("{number}={head}"));
            for (row, verdict) in rows.into_iter().zip(verdicts) {
                match verdict {
                    Verdict::Accepted => tally.accepted += 1,
                    Verdict::Duplicate => tally.duplicates += 1,
                    Verdict::Refused(refusal) => refused_by_log.push((row, refusal)),
                }
            }
        }
        if let Some(e) = failed {
            return Err(e);
        }
        let taken = "its good rows are in the log, and duplicates when it is sent again";
        let more_room = self.dead_letters.room_for(|| letters(&raw, &refused_by_log, received_time_us), taken).await?;
        refused.append(&mut refused_by_log);
        refused.sort_by_key(|(row, _)| *row);
        let letters = letters(&raw, &refused, received_time_us).collect();
        self.dead_letters.keep(letters).await.inspect_err(|e| self.note(e))?;
        drop((room, letter_room, more_room));
        self.refused.add(refused.iter().map(|(_, refusal)| refusal));
        refused.iter().for_each(|(_, refusal)| tally.refuse(refusal));
        let refused = refused.into_iter().map(|(row, refusal)| (row, raw[row].event_id.clone(), refusal)).collect();
        let Tally { accepted, duplicates, .. } = *tally;
        Ok(Outcome { accepted, duplicates, refused, position: format!("{}:{}", self.log_id, heads.join(",")) })
    }

    fn note(&self, error: &SpeedError) {
        note_log_failed(&self.log_failed, error);
    }
}

/// A log that has failed once takes nothing until a restart, which whoever watches our health should know.
pub(crate) fn note_log_failed(log_failed: &watch::Sender<bool>, error: &SpeedError) {
    if matches!(error, SpeedError::Log(LogError::Poisoned { .. })) {
        log_failed.send_if_modified(|failed| !std::mem::replace(failed, true));
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

    /// How many bytes wait, and how many may.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        let waiting = (self.bytes as usize).saturating_sub(self.free.available_permits());
        (waiting as u64, self.bytes.into())
    }

    /// A request larger than all there is takes all there is.
    async fn take(&self, bytes: usize, when_full: WhenFull) -> Result<OwnedSemaphorePermit, SpeedError> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.bytes);
        let free = Arc::clone(&self.free);
        match when_full {
            WhenFull::Wait => free.acquire_many_owned(bytes).await.map_err(|_| SpeedError::Stopping),
            WhenFull::Refuse => {
                free.try_acquire_many_owned(bytes).map_err(|_| SpeedError::QueueBytesFull { waiting_bytes: self.bytes().0 as usize })
            }
        }
    }
}

fn letters(raw: &[RawEvent], refused: &[(usize, Refusal)], received_time_us: i64) -> impl Iterator<Item = DeadLetter> {
    refused.iter().map(move |(row, refusal)| dead_letter(&raw[*row], refusal, received_time_us))
}

/// The letter of a refused row. Whoever sends it again relies on its shape.
pub(crate) fn dead_letter(raw: &RawEvent, refusal: &Refusal, received_time_us: i64) -> DeadLetter {
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

#[cfg(test)]
mod tests;
