//! One partition: a thread that owns its log, its dedup window and the writing end of its realtime view.
//!
//! The thread takes what waits in its queue as one group: look every event up in the window, fold the new ones, append
//! them with one fdatasync, and only then show their states to readers and answer. A refused event is out before the
//! append; a duplicate is answered after the sync of the group that may hold its original; a reader never sees an event
//! that power loss could take back.

mod group;

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use arrow::array::RecordBatch;
use storage::log::{LogReader, PartitionLog};
use storage::record;
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info};
use views::columns::to_batch;
use views::{Definition, Event, EventSchema, fold};

use crate::dedup::{Window, identity};
use crate::error::SpeedError;
use crate::ingest::WhenFull;
use crate::slices::Slices;
use group::Group;

/// Events that share one append at most; what waits beyond goes into the next.
const GROUP_ROWS: usize = 8192;
/// Events that are read back and folded at once.
pub(crate) const REPLAY_ROWS: usize = 8192;

/// What became of one event of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// In the log.
    Accepted,
    /// Was in the log already.
    Duplicate,
    /// Not in the log: field and reason.
    Refused(views::Refusal),
}

/// What an append answers: a verdict an event, in order, and the head behind them.
pub(crate) type Appended = Result<(Vec<Verdict>, i64), Arc<SpeedError>>;

pub(crate) enum Command {
    Append {
        events: Vec<Event>,
        reply: oneshot::Sender<Appended>,
    },
    /// Close the active segment, if it has events and is at least this old, and answer where the active one starts.
    Roll {
        at_least: std::time::Duration,
        reply: oneshot::Sender<Result<i64, SpeedError>>,
    },
    /// Take over the slices of a definition that were folded up to an offset, after folding the rest.
    Install {
        slices: Slices,
        folded_to: i64,
        reply: oneshot::Sender<Result<(), SpeedError>>,
    },
    /// End the thread, whoever still has a handle. What is queued behind is refused.
    Stop,
}

/// What readers see of a partition, all of it from one moment.
#[derive(Debug, Default)]
pub(crate) struct Visible {
    /// First offset whose states are not in the slices.
    pub(crate) head: i64,
    /// Where the active segment starts; its edge is durable.
    pub(crate) closed_to: i64,
    /// By fingerprint.
    pub(crate) views: BTreeMap<String, Slices>,
}

/// The handle of a partition. The thread ends when all handles are dropped.
#[derive(Clone)]
pub(crate) struct Partition {
    pub(crate) number: usize,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) visible: Arc<RwLock<Visible>>,
    pub(crate) log: LogReader,
}

/// What a partition is started with.
pub(crate) struct PartitionOptions {
    pub(crate) schema: EventSchema,
    pub(crate) dedup_window_rows: usize,
    pub(crate) segment_bytes: u64,
    pub(crate) queue_appends: usize,
}

impl Partition {
    /// Replays what the window and `slices` need, then starts the thread.
    ///
    /// # Errors
    /// The log is damaged, or a definition fails on it.
    pub(crate) fn start(
        log: PartitionLog,
        views: Vec<Slices>,
        options: PartitionOptions,
        on_roll: impl Fn() + Send + 'static,
    ) -> Result<(Self, std::thread::JoinHandle<()>), SpeedError> {
        let number = log.partition() as usize;
        let head = log.head();
        let closed_to = log.active_base();
        let visible = Visible { head, closed_to, views: views.into_iter().map(|v| (v.definition().fingerprint().to_owned(), v)).collect() };
        let visible = Arc::new(RwLock::new(visible));
        let (commands, queue) = mpsc::channel(options.queue_appends);
        let handle = Self { number, commands, visible: Arc::clone(&visible), log: log.reader() };
        let window = rebuild_window(&handle.log, options.dedup_window_rows, &options.schema, number as i32)?;
        let writer =
            Writer { log, window, visible, options, segment_started: Instant::now(), on_roll: Box::new(on_roll), number: number as i32 };
        let thread = std::thread::Builder::new().name(format!("partition-{number}")).spawn(move || writer.run(queue));
        let thread = thread.map_err(|source| SpeedError::Thread { source })?;
        Ok((handle, thread))
    }
}

impl Partition {
    /// Queues events; the answer comes when they are durable.
    pub(crate) async fn append(&self, events: Vec<Event>, when_full: WhenFull) -> Result<oneshot::Receiver<Appended>, Arc<SpeedError>> {
        let (reply, appended) = oneshot::channel();
        let command = Command::Append { events, reply };
        match when_full {
            WhenFull::Wait => self.commands.send(command).await.map_err(|_| SpeedError::Stopping)?,
            WhenFull::Refuse => self.commands.try_send(command).map_err(|e| match e {
                mpsc::error::TrySendError::Full(_) => SpeedError::QueueFull { partition: self.number },
                mpsc::error::TrySendError::Closed(_) => SpeedError::Stopping,
            })?,
        }
        Ok(appended)
    }

    /// Closes the active segment if it has events and is at least so old. Answers where the active one starts.
    pub(crate) async fn roll(&self, at_least: std::time::Duration) -> Result<i64, SpeedError> {
        self.ask(|reply| Command::Roll { at_least, reply }).await
    }

    /// Shows a view whose slices were folded from the log up to an offset.
    pub(crate) async fn install(&self, slices: Slices, folded_to: i64) -> Result<(), SpeedError> {
        self.ask(|reply| Command::Install { slices, folded_to, reply }).await
    }

    /// Where the active segment starts.
    pub(crate) fn closed_to(&self) -> i64 {
        self.visible.read().expect("no writer panics while it holds the lock").closed_to
    }

    /// Ends the thread after what is queued.
    pub(crate) async fn stop(&self) {
        // An error means that it has ended.
        let _ended = self.commands.send(Command::Stop).await;
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<Result<T, SpeedError>>) -> Command) -> Result<T, SpeedError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| SpeedError::Stopping)?;
        answer.await.map_err(|_| SpeedError::Stopping)?
    }
}

fn rebuild_window(log: &LogReader, capacity: usize, schema: &EventSchema, partition: i32) -> Result<Window, SpeedError> {
    let head = log.head();
    let start = (head - capacity as i64).max(0);
    let mut window = Window::new(capacity, start);
    for entry in log.read(start..head)? {
        let entry = entry?;
        let (event, position) = record::decode(&entry.payload, partition, entry.offset, schema)?;
        window.push(identity(&event.user_id, &event.event_id), position.content_hash);
    }
    Ok(window)
}

/// Folds `range` of the log into new slices, with a cut at every segment.
///
/// # Errors
/// The log is damaged, or the definition fails on a record.
pub(crate) fn fold_log(
    log: &LogReader,
    definition: &Arc<Definition>,
    partition: i32,
    range: std::ops::Range<i64>,
) -> Result<Slices, SpeedError> {
    let mut slices = Slices::new(Arc::clone(definition));
    slices.cut(range.start);
    for segment in log.segments()? {
        let part = segment.start.max(range.start)..segment.end.min(range.end);
        if segment.start > range.start && segment.start <= range.end {
            slices.cut(segment.start);
        }
        if part.is_empty() {
            continue;
        }
        for_each_batch(log, definition.schema(), partition, part, |first, batch| {
            let fail = |e| SpeedError::fold(&e, definition.fingerprint(), partition, first);
            slices.push(fold::partial(definition, &batch).map_err(fail)?).map_err(fail)
        })?;
    }
    Ok(slices)
}

/// The records of `range` as event batches, each with its first offset.
pub(crate) fn for_each_batch(
    log: &LogReader,
    schema: &EventSchema,
    partition: i32,
    range: std::ops::Range<i64>,
    mut each: impl FnMut(i64, RecordBatch) -> Result<(), SpeedError>,
) -> Result<(), SpeedError> {
    let mut rows = Vec::with_capacity(REPLAY_ROWS);
    for entry in log.read(range)? {
        let entry = entry?;
        rows.push(record::decode(&entry.payload, partition, entry.offset, schema)?);
        if rows.len() == REPLAY_ROWS {
            each(rows[0].1.offset, to_batch(rows.iter().map(|(e, p)| (e, *p)), schema))?;
            rows.clear();
        }
    }
    match rows.first() {
        Some((_, first)) => each(first.offset, to_batch(rows.iter().map(|(e, p)| (e, *p)), schema)),
        None => Ok(()),
    }
}

pub(crate) fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

struct Writer {
    number: i32,
    log: PartitionLog,
    window: Window,
    visible: Arc<RwLock<Visible>>,
    options: PartitionOptions,
    segment_started: Instant,
    on_roll: Box<dyn Fn() + Send>,
}

impl Writer {
    fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        let mut next = queue.blocking_recv();
        while let Some(command) = next.take() {
            match command {
                Command::Append { events, reply } => {
                    let mut group = Group::default();
                    group.add(events, reply);
                    while group.rows() < GROUP_ROWS {
                        match queue.try_recv() {
                            Ok(Command::Append { events, reply }) => group.add(events, reply),
                            Ok(other) => {
                                next = Some(other);
                                break;
                            }
                            Err(_) => break,
                        }
                    }
                    self.append(group);
                }
                Command::Roll { at_least, reply } => {
                    let rolled = self.roll_if_older(at_least);
                    let _gone = reply.send(rolled);
                }
                Command::Stop => return,
                Command::Install { slices, folded_to, reply } => {
                    let installed = self.install(slices, folded_to);
                    let _gone = reply.send(installed);
                }
            }
            if next.is_none() {
                next = queue.blocking_recv();
            }
        }
    }

    fn append(&mut self, group: Group) {
        let outcome = self.commit(&group).map_err(Arc::new);
        if let Err(e) = &outcome {
            error!(partition = self.number, error = e.chain(), "append failed; nothing of it was acknowledged");
        }
        group.answer(outcome);
        if self.log.active_bytes() >= self.options.segment_bytes
            && let Err(e) = self.roll()
        {
            error!(partition = self.number, error = e.chain(), "segment could not be closed");
        }
    }

    /// Judges, folds, appends and shows a group. When this returns, what was accepted is durable and visible.
    fn commit(&mut self, group: &Group) -> Result<(Vec<Verdict>, i64), SpeedError> {
        let (judged, states) = self.judge_and_fold(group)?;
        let payloads: Vec<Vec<u8>> =
            judged.new_events(group).map(|event| record::encode(event, judged.append_time_us, &self.options.schema)).collect();
        if !payloads.is_empty() {
            self.log.append(payloads.iter().map(Vec::as_slice))?;
        }
        for (identity, content_hash) in &judged.new {
            self.window.push(*identity, *content_hash);
        }
        let head = self.log.head();
        let mut visible = self.visible.write().expect("no reader panics while it holds the lock");
        for (fingerprint, grown) in states {
            // A view may have been retired since it was folded.
            if let Some(slices) = visible.views.get_mut(&fingerprint) {
                slices.grow(grown);
            }
        }
        visible.head = head;
        Ok((judged.verdicts, head))
    }

    fn roll_if_older(&mut self, at_least: std::time::Duration) -> Result<i64, SpeedError> {
        if self.segment_started.elapsed() >= at_least {
            self.roll()?;
        }
        Ok(self.log.active_base())
    }

    fn roll(&mut self) -> Result<(), SpeedError> {
        let Some(closed) = self.log.roll()? else { return Ok(()) };
        self.segment_started = Instant::now();
        let mut visible = self.visible.write().expect("no reader panics while it holds the lock");
        visible.closed_to = closed.end;
        visible.views.values_mut().for_each(|slices| slices.cut(closed.end));
        drop(visible);
        info!(partition = self.number, start = closed.start, end = closed.end, "closed segment");
        (self.on_roll)();
        Ok(())
    }

    fn install(&mut self, mut slices: Slices, folded_to: i64) -> Result<(), SpeedError> {
        let definition = Arc::clone(slices.definition());
        let head = self.log.head();
        let fail = |e: views::FoldError, first| SpeedError::fold(&e, definition.fingerprint(), self.number, first);
        for segment in self.log.reader().segments()? {
            if segment.start >= folded_to {
                slices.cut(segment.start);
            }
            let part = segment.start.max(folded_to)..segment.end.min(head);
            if part.is_empty() {
                continue;
            }
            for_each_batch(&self.log.reader(), definition.schema(), self.number, part, |first, batch| {
                let states = fold::partial(&definition, &batch).map_err(|e| fail(e, first))?;
                slices.push(states).map_err(|e| fail(e, first))
            })?;
        }
        let mut visible = self.visible.write().expect("no reader panics while it holds the lock");
        visible.views.insert(definition.fingerprint().to_owned(), slices);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
