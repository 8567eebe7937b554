//! Refused rows: kept as dead letters by one thread, within a cap, and counted by reason.
//!
//! The cap is `log.dead_letter_bytes`. A request sets room aside for the letters it needs before any of its rows is queued, so
//! that one which cannot be kept whole is refused whole. What the log itself refuses (a conflict, an event on which a view
//! fails) is known only after the good rows are in; then the request fails, and its sender finds those as duplicates. Letters
//! that are kept already need no room: repeating a request does not fill anything.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use storage::dead_letter::{DeadLetter, DeadLetters, LetterId};
use storage::log::LogError;
use storage::machine::Owner;
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};
use views::Refusal;

use crate::error::SpeedError;

/// Refused rows that wait for the disk at most, in requests.
const QUEUE_REQUESTS: usize = 1024;
/// Of the cap: from here on there is a warning.
const ALARM_PERCENT: u64 = 80;
/// Reasons that are counted apart; rows beyond count as [`OTHER_REASONS`].
const MAX_REASONS: usize = 256;
const OTHER_REASONS: &str = "other reasons";

type Kept = Result<(), Arc<SpeedError>>;

enum Command {
    Keep(Vec<DeadLetter>, oneshot::Sender<Kept>),
    /// How many bytes those letters need that are not kept yet.
    Judge(Vec<(LetterId, u64)>, oneshot::Sender<u64>),
    Stop,
}

/// The thread that owns the dead letters, from outside.
#[derive(Clone)]
pub(crate) struct DeadLetterQueue {
    commands: mpsc::Sender<Command>,
    fill: Arc<Fill>,
}

impl DeadLetterQueue {
    /// Starts the thread.
    pub(crate) fn start(mut letters: DeadLetters, cap_bytes: u64) -> Result<(Self, Owner), SpeedError> {
        let (commands, mut queue) = mpsc::channel(QUEUE_REQUESTS);
        let fill = Arc::new(Fill { cap_bytes, level: Mutex::default() });
        fill.grown(&letters);
        let grown = Arc::clone(&fill);
        let work = async move {
            while let Some(command) = queue.recv().await {
                match command {
                    Command::Stop => return,
                    Command::Judge(wanted, reply) => drop(reply.send(new_bytes(&letters, &wanted))),
                    Command::Keep(batch, reply) => {
                        if !keep_all(&mut letters, batch, reply, &mut queue, &grown) {
                            return;
                        }
                    }
                }
            }
        };
        let owner = Owner::start("dead-letters".into(), work);
        Ok((Self { commands, fill }, owner.map_err(|source| SpeedError::Thread { source })?))
    }

    /// How many letters are kept, their bytes, and how many bytes they may have.
    pub(crate) fn kept(&self) -> (usize, u64, u64) {
        let level = self.fill.level();
        (level.letters, level.file_bytes, self.fill.cap_bytes)
    }

    /// Ends the thread after what is queued.
    pub(crate) async fn stop(&self) {
        // An error means that it has ended.
        let _ended = self.commands.send(Command::Stop).await;
    }

    /// Comes when the thread has ended.
    pub(crate) async fn ended(&self) {
        self.commands.closed().await;
    }

    /// Sets room aside for letters that are going to be kept. `taken` says what became of the rest of their request.
    pub(crate) async fn room_for<I>(&self, letters: impl Fn() -> I, taken: &'static str) -> Result<LetterRoom, Arc<SpeedError>>
    where
        I: Iterator<Item = DeadLetter>,
    {
        let most = letters().map(|letter| letter.file_bytes()).sum();
        if let Some(room) = self.fill.take(most) {
            return Ok(room);
        }
        // Near the cap it is worth asking which of them are kept already.
        let wanted = letters().map(|letter| (letter.id(), letter.file_bytes())).collect();
        let (reply, needed) = oneshot::channel();
        self.commands.send(Command::Judge(wanted, reply)).await.map_err(|_| Arc::new(SpeedError::Stopping))?;
        let needed = needed.await.map_err(|_| Arc::new(SpeedError::Stopping))?;
        self.fill.take(needed).ok_or_else(|| Arc::new(self.fill.full(taken)))
    }

    /// When this returns, the letters are durable.
    pub(crate) async fn keep(&self, letters: Vec<DeadLetter>) -> Kept {
        if letters.is_empty() {
            return Ok(());
        }
        let (reply, kept) = oneshot::channel();
        self.commands.send(Command::Keep(letters, reply)).await.map_err(|_| Arc::new(SpeedError::Stopping))?;
        kept.await.map_err(|_| Arc::new(SpeedError::Stopping))?
    }
}

/// Keeps a batch together with whatever else waits; false when the thread is to end.
fn keep_all(
    letters: &mut DeadLetters,
    mut batch: Vec<DeadLetter>,
    reply: oneshot::Sender<Kept>,
    queue: &mut mpsc::Receiver<Command>,
    fill: &Arc<Fill>,
) -> bool {
    let (mut replies, mut judge, mut go_on) = (vec![reply], Vec::new(), true);
    while go_on && let Ok(command) = queue.try_recv() {
        match command {
            Command::Keep(more, reply) => {
                batch.extend(more);
                replies.push(reply);
            }
            Command::Judge(wanted, reply) => judge.push((wanted, reply)),
            Command::Stop => go_on = false,
        }
    }
    let outcome = letters.record(&batch).map(|_| ()).map_err(|e: LogError| Arc::new(SpeedError::Log(e)));
    fill.grown(letters);
    for reply in replies {
        let _gone = reply.send(outcome.clone());
    }
    for (wanted, reply) in judge {
        let _gone = reply.send(new_bytes(letters, &wanted));
    }
    go_on
}

fn new_bytes(letters: &DeadLetters, wanted: &[(LetterId, u64)]) -> u64 {
    let mut counted = HashSet::new();
    let new = wanted.iter().filter(|(id, _)| !letters.contains(*id) && counted.insert(*id));
    new.map(|(_, bytes)| bytes).sum()
}

/// How full the file is, and is going to be.
struct Fill {
    cap_bytes: u64,
    level: Mutex<Level>,
}

#[derive(Default)]
struct Level {
    letters: usize,
    file_bytes: u64,
    reserved_bytes: u64,
    /// What was said already.
    warned: bool,
    full: bool,
}

impl Fill {
    fn level(&self) -> MutexGuard<'_, Level> {
        self.level.lock().expect("nobody panics while they hold the lock")
    }

    fn take(self: &Arc<Self>, bytes: u64) -> Option<LetterRoom> {
        let mut level = self.level();
        let fits = bytes == 0 || level.file_bytes + level.reserved_bytes + bytes <= self.cap_bytes;
        fits.then(|| {
            level.reserved_bytes += bytes;
            LetterRoom { fill: Arc::clone(self), bytes }
        })
    }

    /// Takes note of what the file has become, and warns once when the cap comes near.
    fn grown(&self, letters: &DeadLetters) {
        let mut level = self.level();
        (level.letters, level.file_bytes) = (letters.count(), letters.bytes());
        let near = u128::from(level.file_bytes) * 100 >= u128::from(self.cap_bytes) * u128::from(ALARM_PERCENT);
        if near && !std::mem::replace(&mut level.warned, true) {
            let (letters, bytes, cap_bytes) = (level.letters, level.file_bytes, self.cap_bytes);
            warn!(letters, bytes, cap_bytes, "the dead letters near log.dead_letter_bytes; replay and prune them, or raise it");
        }
    }

    fn full(&self, taken: &'static str) -> SpeedError {
        let mut level = self.level();
        let (letters, bytes, cap_bytes) = (level.letters, level.file_bytes, self.cap_bytes);
        if !std::mem::replace(&mut level.full, true) {
            error!(letters, bytes, cap_bytes, "the dead letters are at log.dead_letter_bytes: requests with more of them are refused");
        }
        SpeedError::DeadLettersFull { letters, bytes, cap_bytes, taken }
    }
}

/// Room in the file, given back when this is dropped: by then the letters are in it, or never will be.
pub(crate) struct LetterRoom {
    fill: Arc<Fill>,
    bytes: u64,
}

impl Drop for LetterRoom {
    fn drop(&mut self) {
        self.fill.level().reserved_bytes -= self.bytes;
    }
}

/// Rows that were refused for one reason since the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedCount {
    /// The field at fault.
    pub field: String,
    /// What was wrong with it, without what differs from row to row.
    pub reason: String,
    /// How many.
    pub rows: u64,
}

/// Counts of refused rows by field and reason, repeated ones too, since the start.
#[derive(Default)]
pub(crate) struct RefusedCounts(Mutex<BTreeMap<(String, String), u64>>);

impl RefusedCounts {
    /// Counts rows, and logs a reason when it is new and at every tenfold of its rows.
    pub(crate) fn add<'a>(&self, refusals: impl Iterator<Item = &'a Refusal>) {
        let mut of_request: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        refusals.for_each(|refusal| *of_request.entry((&refusal.field, kind(&refusal.reason))).or_default() += 1);
        if of_request.is_empty() {
            return;
        }
        let mut counts = self.counts();
        for ((field, reason), more) in of_request {
            let mut key = (field.to_owned(), reason.to_owned());
            if counts.len() >= MAX_REASONS && !counts.contains_key(&key) {
                key = (String::new(), OTHER_REASONS.to_owned());
            }
            let rows = counts.entry(key.clone()).or_default();
            let before = std::mem::replace(rows, *rows + more);
            if before.checked_ilog10() != rows.checked_ilog10() {
                let ((field, reason), rows) = (key, *rows);
                info!(field, reason, rows, "rows refused");
            }
        }
    }

    pub(crate) fn all(&self) -> Vec<RefusedCount> {
        let counts = self.counts();
        counts.iter().map(|((field, reason), rows)| RefusedCount { field: field.clone(), reason: reason.clone(), rows: *rows }).collect()
    }

    fn counts(&self) -> MutexGuard<'_, BTreeMap<(String, String), u64>> {
        self.0.lock().expect("nobody panics while they hold the lock")
    }
}

/// A reason without its particulars, which may be many, or somebody's.
pub(crate) fn kind(reason: &str) -> &str {
    reason.split_once(": ").map_or(reason, |(kind, _)| kind)
}

#[cfg(test)]
mod tests;
