//! One partition: a thread that owns its log, its dedup window and the writing end of its realtime view.
//!
//! The thread takes what waits in its queue as one group: look every event up in the window, fold the new ones, append
//! them with one fdatasync, and only then show their states to readers and answer. A refused event is out before the
//! append; a duplicate is answered after the sync of the group that may hold its original; a reader never sees an event
//! that power loss could take back.

/// Appends that share one sync, and the judgement of each event.
mod group;
/// From the log back into memory.
mod replay;
/// The thread.
mod writer;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, RwLock};

use merganser_proto::{trace_span, traces};
use storage::erasures::Erasure;
use storage::log::{LogReader, PartitionLog};
use storage::machine::{Machine, Owner};
use tokio::sync::{mpsc, oneshot};
use tracing::Span;
use views::{Event, EventSchema};

use crate::dedup::Window;
use crate::error::SpeedError;
use crate::ingest::WhenFull;
use crate::metrics::Metrics;
use crate::slices::Slices;
pub(crate) use replay::{check_widths, erasures_in, fold_log, rebuild_window};
use writer::Writer;

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
        waiting: Waiting,
        reply: oneshot::Sender<Appended>,
    },
    /// Append an erasure.
    Erase {
        user_id: String,
        reply: oneshot::Sender<Result<Erasure, SpeedError>>,
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
    /// Let go of the closed segments below an offset, which are verified in the store.
    Trim {
        below: i64,
        reply: oneshot::Sender<Result<Vec<Range<i64>>, SpeedError>>,
    },
    /// Write a damaged closed segment afresh.
    Replace {
        range: Range<i64>,
        records: Vec<Vec<u8>>,
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

/// A partition from outside. Its thread ends when it is told to, or when nobody can reach it any more.
#[derive(Clone)]
pub(crate) struct Partition {
    pub(crate) number: usize,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) visible: Arc<RwLock<Visible>>,
    pub(crate) log: LogReader,
    /// Whether the newest append found no room on the disk.
    pub(crate) is_full: Arc<AtomicBool>,
}

/// An append in the queue, in its trace.
pub(crate) struct Waiting {
    /// The call that it is for.
    call: Span,
    /// Ends when it is taken.
    _queued: Span,
}

impl Waiting {
    fn begin() -> Self {
        Self { call: traces::current(), _queued: trace_span!("queue") }
    }

    /// It waits no longer.
    fn end(self) -> Span {
        self.call
    }
}

/// A place in a partition's queue, for one append.
pub(crate) struct Place<'a>(mpsc::Permit<'a, Command>);

impl Place<'_> {
    /// Queues events; the answer comes when they are durable.
    pub(crate) fn append(self, events: Vec<Event>) -> oneshot::Receiver<Appended> {
        let (reply, appended) = oneshot::channel();
        self.0.send(Command::Append { events, waiting: Waiting::begin(), reply });
        appended
    }
}

/// What a partition is started with.
pub(crate) struct PartitionOptions {
    pub(crate) machine: Arc<dyn Machine>,
    pub(crate) schema: EventSchema,
    pub(crate) dedup_window_rows: usize,
    pub(crate) segment_bytes: u64,
    pub(crate) queue_appends: usize,
    pub(crate) metrics: Arc<Metrics>,
}

impl Partition {
    /// Starts the thread over a log that was replayed into `window` and `views`.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(crate) fn start(
        log: PartitionLog,
        window: Window,
        views: Vec<Slices>,
        options: PartitionOptions,
        on_roll: impl Fn() + Send + 'static,
    ) -> Result<(Self, Owner), SpeedError> {
        let number = log.partition() as usize;
        let head = log.head();
        let closed_to = log.active_base();
        let visible = Visible { head, closed_to, views: views.into_iter().map(|v| (v.definition().fingerprint().to_owned(), v)).collect() };
        let visible = Arc::new(RwLock::new(visible));
        let (commands, queue) = mpsc::channel(options.queue_appends);
        let is_full = Arc::new(AtomicBool::new(false));
        let partition = Self { number, commands, visible: Arc::clone(&visible), log: log.reader(), is_full: Arc::clone(&is_full) };
        let writer = Writer::new(log, window, visible, options, is_full, Box::new(on_roll));
        let owner = Owner::start(format!("partition-{number}"), writer.run(queue));
        Ok((partition, owner.map_err(|source| SpeedError::Thread { source })?))
    }
}

impl Partition {
    /// A place in the queue.
    pub(crate) async fn place(&self, when_full: WhenFull) -> Result<Place<'_>, SpeedError> {
        match when_full {
            WhenFull::Wait => self.commands.reserve().await.map(Place).map_err(|_| SpeedError::Stopping),
            WhenFull::Refuse => self.commands.try_reserve().map(Place).map_err(|e| match e {
                mpsc::error::TrySendError::Full(()) => SpeedError::QueueFull { partition: self.number },
                mpsc::error::TrySendError::Closed(()) => SpeedError::Stopping,
            }),
        }
    }

    /// Comes when the thread has ended.
    pub(crate) async fn ended(&self) {
        self.commands.closed().await;
    }

    /// Erases a user, who is one of this partition.
    pub(crate) async fn erase(&self, user_id: String) -> Result<Erasure, SpeedError> {
        self.ask(|reply| Command::Erase { user_id, reply }).await
    }

    /// Closes the active segment if it has events and is at least so old. Answers where the active one starts.
    pub(crate) async fn roll(&self, at_least: std::time::Duration) -> Result<i64, SpeedError> {
        self.ask(|reply| Command::Roll { at_least, reply }).await
    }

    /// Shows a view whose slices were folded from the log up to an offset.
    pub(crate) async fn install(&self, slices: Slices, folded_to: i64) -> Result<(), SpeedError> {
        self.ask(|reply| Command::Install { slices, folded_to, reply }).await
    }

    /// Removes closed segments that lie wholly below an offset, and answers which. Whoever asks has verified them in the store.
    pub(crate) async fn trim(&self, below: i64) -> Result<Vec<Range<i64>>, SpeedError> {
        self.ask(|reply| Command::Trim { below, reply }).await
    }

    /// Writes a closed segment afresh from its records.
    pub(crate) async fn replace(&self, range: Range<i64>, records: Vec<Vec<u8>>) -> Result<(), SpeedError> {
        self.ask(|reply| Command::Replace { range, records, reply }).await
    }

    /// How many appends wait.
    pub(crate) fn queued(&self) -> usize {
        self.commands.max_capacity() - self.commands.capacity()
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

#[cfg(test)]
mod tests;
