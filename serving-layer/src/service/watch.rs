//! A standing question: asked whole again and again, answered when the answer has changed.
//!
//! Nothing tells a watch that its user has changed. It asks, as any client would, each time in a call of its own, and compares the
//! answer with the last one: so an answer of a watch promises what any other does, and costs as much.
//!
//! Nothing works ahead of the reader either. The stream asks when its connection wants more, so that one who reads slowly is asked
//! for rarely, gets the answer of then, and keeps one unread answer at most; `merganser_proto::server` lets go of one who does not read.
//!
//! A sign of life is a message, and not HTTP/2's ping, which a proxy answers for a server that is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt};
use merganser_proto::v1::{GetUserStatsResponse, Provenance, WatchUserStatsRequest, WatchUserStatsResponse};
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use super::{Service, question, status};
use crate::ServingError;
use crate::question::Question;

/// A stream without an answer says so often that it is alive.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);
/// Looks that fail are repeated for so long, which is more than a restart of the speed layer takes.
const PATIENCE: Duration = Duration::from_secs(10);
/// A failed look is repeated after so long, or after the interval if that is shorter.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Looks at the same time for each core, of all watches: half of what is there for questions. More of them come later than asked for.
const LOOKS_PER_CORE: usize = 2;
/// Memory for answers that their readers have not taken yet, of all watches.
const UNREAD_KIB: usize = 64 << 10;
/// What is handed on together with what comes next: such small answers need none of it.
const FREE_BYTES: usize = 32 << 10;

/// What all watches share.
#[derive(Clone, Debug)]
pub(crate) struct Watches {
    looks: Arc<Semaphore>,
    unread: Arc<Semaphore>,
    open: Arc<AtomicU64>,
}

/// A watch, as long as it is open.
struct Open(Arc<AtomicU64>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for Watches {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { looks: Arc::new(Semaphore::new(LOOKS_PER_CORE * cores)), unread: Arc::new(Semaphore::new(UNREAD_KIB)), open: Arc::default() }
    }
}

impl Watches {
    /// How many are open.
    pub(crate) fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    fn one_more(&self) -> Open {
        self.open.fetch_add(1, Ordering::Relaxed);
        Open(Arc::clone(&self.open))
    }

    /// In the order of asking.
    async fn turn(&self) -> SemaphorePermit<'_> {
        self.looks.acquire().await.expect("nobody closes it")
    }

    fn room_for(&self, answer_bytes: usize) -> Result<Option<OwnedSemaphorePermit>, ServingError> {
        if answer_bytes <= FREE_BYTES {
            return Ok(None);
        }
        let kib = u32::try_from(answer_bytes.div_ceil(1 << 10)).map_err(|_| ServingError::TooMuchUnread)?;
        Arc::clone(&self.unread).try_acquire_many_owned(kib).map(Some).map_err(|_| ServingError::TooMuchUnread)
    }
}

/// The answers, beginning with that of now. What keeps that from being given is the error.
pub(super) async fn open(
    service: Service,
    request: WatchUserStatsRequest,
) -> Result<BoxStream<'static, Result<WatchUserStatsResponse, Status>>, ServingError> {
    let (question, interval) = question::of_watch(request)?;
    let Look { answer, seen, memory } = look(service.clone(), question.clone()).await?;
    let now = Instant::now();
    let open = service.watches.one_more();
    let next_look = now + interval;
    let watch = Watch { service, question, interval, seen, next_look, said: now, failing: None, unread: memory, _open: open };
    let later = stream::try_unfold(watch, |mut watch| async move {
        let response = watch.next().await.map_err(|e| status::of(&e))?;
        Ok(Some((response, watch)))
    });
    Ok(stream::once(std::future::ready(Ok(said(answer)))).chain(later).boxed())
}

struct Watch {
    service: Service,
    question: Question,
    interval: Duration,
    seen: Seen,
    next_look: Instant,
    /// When something was said last.
    said: Instant,
    /// Since when looks have failed.
    failing: Option<Instant>,
    /// Memory of the answer that was given last.
    unread: Option<OwnedSemaphorePermit>,
    _open: Open,
}

/// What was found at one time.
struct Look {
    answer: GetUserStatsResponse,
    seen: Seen,
    memory: Option<OwnedSemaphorePermit>,
}

/// What is kept of an answer, which may be large.
struct Seen {
    /// For comparison.
    digest: blake3::Hash,
    /// For signs of life.
    provenance: Option<Provenance>,
}

impl Seen {
    fn of(answer: &GetUserStatsResponse) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&answer.stats.as_ref().map(Message::encode_to_vec).unwrap_or_default());
        // The head moves with every event of the partition, and reasons are worded by whoever has them.
        let that_matters = answer.provenance.clone().map(|all| Provenance { head: Vec::new(), incomplete_reason: String::new(), ..all });
        hasher.update(&that_matters.map(|all| all.encode_to_vec()).unwrap_or_default());
        Self { digest: hasher.finalize(), provenance: answer.provenance.clone() }
    }
}

impl Watch {
    /// The next answer that differs from the last, or a sign of life. Whoever asks for it has taken what was given before.
    async fn next(&mut self) -> Result<WatchUserStatsResponse, ServingError> {
        self.unread = None;
        loop {
            // While looks fail nobody knows whether something has changed.
            let sign = self.failing.is_none().then_some(self.said + SIGN_OF_LIFE);
            sleep_until(sign.map_or(self.next_look, |sign| sign.min(self.next_look))).await;
            if self.next_look <= Instant::now()
                && let Some(answer) = self.changed().await?
            {
                self.said = Instant::now();
                return Ok(said(answer));
            }
            if self.failing.is_none() && self.said + SIGN_OF_LIFE <= Instant::now() {
                self.said = Instant::now();
                let provenance = self.seen.provenance.clone();
                return Ok(WatchUserStatsResponse { provenance, unchanged: true, ..WatchUserStatsResponse::default() });
            }
        }
    }

    /// Looks once. The answer, if it is another one.
    async fn changed(&mut self) -> Result<Option<GetUserStatsResponse>, ServingError> {
        // In a task of its own, which ends though its reader has no room and nobody asks for this future any more: its turn is for others.
        let looking = AbortOnDropHandle::new(tokio::spawn(look(self.service.clone(), self.question.clone())));
        let outcome = looking.await.unwrap_or_else(|_| Err(ServingError::SpeedUnavailable { reason: "it was not asked".to_owned() }));
        // Counted from here, so that a look that took long is not followed by one at once.
        let now = Instant::now();
        match outcome {
            Ok(Look { answer, seen, memory }) => {
                self.next_look = now + self.interval;
                self.failing = None;
                let before = std::mem::replace(&mut self.seen, seen);
                let differs = self.seen.digest != before.digest;
                self.unread = memory.filter(|_| differs);
                Ok(differs.then_some(answer))
            }
            Err(e) if status::may_pass(&e) && now < *self.failing.get_or_insert(now) + PATIENCE => {
                self.next_look = now + self.interval.min(RETRY_INTERVAL);
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }
}

/// Asks when it is its turn.
async fn look(service: Service, question: Question) -> Result<Look, ServingError> {
    let _turn = service.watches.turn().await;
    let answer = service.get(&question).await?;
    let memory = service.watches.room_for(answer.encoded_len())?;
    Ok(Look { seen: Seen::of(&answer), answer, memory })
}

fn said(answer: GetUserStatsResponse) -> WatchUserStatsResponse {
    let GetUserStatsResponse { stats, provenance, explanation } = answer;
    WatchUserStatsResponse { stats, provenance, explanation, unchanged: false }
}
