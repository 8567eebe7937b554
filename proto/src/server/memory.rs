//! Memory for the messages of one kind of call, on all connections together: places bound how many there are, this their bytes.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Bytes;

use super::calls::{drain, refusal, too_large, too_late};

/// What each place adds to it,
const KIB_PER_PLACE: usize = 512;
/// and what there is at least.
const LEAST_KIB: usize = 32 << 10;
/// What a message may have without asking, so that large ones keep no small one out.
const FREE_BYTES: usize = 16 << 10;
/// A question may be larger only where its service says so; then it takes more as it comes in.
const MAX_CLAIM_BYTES: usize = 4 << 20;
/// Before each message on the wire: whether it is compressed, and its length in four bytes.
const PREFIX_BYTES: usize = 5;
/// A question is there by then: the time that its answer may take is not for reading it.
const BODY_PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub(super) struct Memory {
    kind: &'static str,
    kib: Arc<Semaphore>,
    all_kib: usize,
}

impl Memory {
    /// For the messages of so many calls of a kind at once.
    pub(super) fn new(kind: &'static str, places: usize) -> Self {
        let all_kib = (places * KIB_PER_PLACE).max(LEAST_KIB);
        Self { kind, kib: Arc::new(Semaphore::new(all_kib)), all_kib }
    }

    /// Takes what a message of so many bytes needs, unless there is less. One that is larger than all there is takes all of it.
    pub(super) fn take(&self, bytes: usize) -> Option<Taken> {
        let mut taken = self.nothing();
        taken.reach(bytes).then_some(taken)
    }

    /// What a message has before its first byte is there.
    pub(super) fn nothing(&self) -> Taken {
        Taken { memory: self.clone(), permit: None, kib: 0 }
    }

    /// What a message is told for which there is not enough.
    pub(super) fn refusal(&self) -> Status {
        refusal("OVERLOADED", format!("large {} in flight have taken all memory there is for them; try again", self.kind))
    }
}

/// Memory that one message has. It is given back when this is dropped.
#[derive(Debug)]
pub(super) struct Taken {
    memory: Memory,
    permit: Option<OwnedSemaphorePermit>,
    kib: usize,
}

impl Taken {
    /// Takes as much more as a message of so many bytes needs, unless there is less.
    fn reach(&mut self, bytes: usize) -> bool {
        let kib = bytes.saturating_sub(FREE_BYTES).div_ceil(1 << 10).min(self.memory.all_kib);
        if kib <= self.kib {
            return true;
        }
        let more = u32::try_from(kib - self.kib).ok().and_then(|more| Arc::clone(&self.memory.kib).try_acquire_many_owned(more).ok());
        let Some(more) = more else { return false };
        self.kib = kib;
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            None => self.permit = Some(more),
        }
        true
    }
}

/// The body of a call that is one question, weighed as soon as its first bytes tell how long it is. What is read of it stays in
/// memory, as bytes or decoded, until the call is over, so the weight is shared with the call.
pub(super) struct Weighed {
    body: Body,
    /// Absent where there is no memory to share, and a question has to be small.
    taken: Option<Arc<Mutex<Taken>>>,
    bytes: usize,
    late: Pin<Box<Sleep>>,
}

impl Weighed {
    pub(super) fn new(body: Body, taken: Option<Arc<Mutex<Taken>>>) -> Self {
        Self { body, taken, bytes: 0, late: Box::pin(sleep(BODY_PATIENCE)) }
    }

    /// Takes what has come in with `data`, and what its first bytes announce.
    fn weigh(&mut self, data: &[u8]) -> Result<(), Status> {
        let announced = match data.split_first_chunk::<PREFIX_BYTES>() {
            Some(([_, length @ ..], _)) if self.bytes == 0 => (u32::from_be_bytes(*length) as usize).min(MAX_CLAIM_BYTES) + PREFIX_BYTES,
            _ => 0,
        };
        self.bytes += data.len();
        let bytes = self.bytes.max(announced);
        let Some(taken) = &self.taken else { return if bytes <= FREE_BYTES { Ok(()) } else { Err(too_large()) } };
        let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.reach(bytes) { Ok(()) } else { Err(taken.memory.refusal()) }
    }
}

impl http_body::Body for Weighed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) else {
            ready!(this.late.as_mut().poll(cx));
            return Poll::Ready(Some(Err(too_late(BODY_PATIENCE))));
        };
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && let Err(refused) = this.weigh(data)
        {
            tokio::spawn(drain(std::mem::take(&mut this.body)));
            return Poll::Ready(Some(Err(refused)));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Proves that messages share the memory, that small ones need none of it, and that it comes back.
    #[test]
    fn shared() {
        let memory = Memory::new("messages", 1);
        let mut large: Vec<_> = (0..8).map(|_| memory.take(4 << 20).unwrap()).collect();
        // Eight times 16 KiB are free.
        assert!(large[0].reach((4 << 20) + 7 * FREE_BYTES));
        assert!(large[1].reach((4 << 20) + FREE_BYTES));
        assert!(memory.take(FREE_BYTES + 1).is_none());
        assert!(!large[0].reach((4 << 20) + 8 * FREE_BYTES));
        let mut small = memory.take(FREE_BYTES).unwrap();
        assert!(!small.reach(FREE_BYTES + 1));
        drop(large);
        assert!(small.reach(FREE_BYTES + 1));
        assert!(memory.take(LEAST_KIB * 1024).is_some());
        assert!(memory.take(LEAST_KIB * 1024 + FREE_BYTES).is_none(), "a part is taken by the small one");
    }

    /// Proves that a message larger than all there is can still have all of it.
    #[test]
    fn larger_than_all() {
        let memory = Memory::new("messages", 1);
        let all = memory.take(1 << 30).unwrap();
        assert!(memory.take(FREE_BYTES + 1).is_none());
        drop(all);
        assert!(memory.take(FREE_BYTES + 1).is_some());
    }

    /// Proves that the first bytes of a question take room for all of it, at most for the largest there may be.
    #[tokio::test]
    async fn announced() {
        let memory = Memory::new("messages", 1);
        let question = |length: u32| {
            let taken = Arc::new(Mutex::new(memory.nothing()));
            let mut weighed = Weighed::new(Body::empty(), Some(Arc::clone(&taken)));
            let weighed = weighed.weigh(&[&[0][..], &length.to_be_bytes(), b"beginning"].concat());
            (weighed.is_ok(), taken)
        };
        let all: Vec<_> = (0..8).map(|_| question(u32::MAX)).collect();
        assert!(all.iter().all(|(has_room, _)| *has_room));
        assert!(!question(1 << 20).0);
        assert!(question(1 << 10).0);
    }
}
