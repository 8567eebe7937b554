//! Memory for the messages of one kind of call, on all connections together: places bound how many there are, this their bytes.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use http_body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Bytes;

use super::calls::drain;

/// All of it. A message of the largest size is an eighth.
const MEMORY_KIB: usize = 32 << 10;
/// What a message may have without asking, so that large ones keep no small one out.
const FREE_BYTES: usize = 16 << 10;

#[derive(Clone, Debug)]
pub(super) struct Memory(Arc<Semaphore>);

impl Default for Memory {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MEMORY_KIB)))
    }
}

impl Memory {
    /// Takes what a message of so many bytes needs, unless there is less.
    pub(super) fn take(&self, bytes: usize) -> Option<Taken> {
        let mut taken = self.nothing();
        taken.grow(bytes).then_some(taken)
    }

    /// What a message has before its first byte is there.
    pub(super) fn nothing(&self) -> Taken {
        Taken { memory: self.clone(), permit: None, bytes: 0 }
    }
}

/// Memory that one message has. It is given back when this is dropped.
#[derive(Debug)]
pub(super) struct Taken {
    memory: Memory,
    permit: Option<OwnedSemaphorePermit>,
    bytes: usize,
}

impl Taken {
    /// Takes so many bytes more, unless there are less.
    fn grow(&mut self, bytes: usize) -> bool {
        let kib = |bytes: usize| bytes.saturating_sub(FREE_BYTES).div_ceil(1 << 10);
        let more = kib(self.bytes + bytes) - kib(self.bytes);
        let Some(more) = u32::try_from(more).ok().and_then(|kib| Arc::clone(&self.memory.0).try_acquire_many_owned(kib).ok()) else {
            return false;
        };
        self.bytes += bytes;
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            None => self.permit = Some(more),
        }
        true
    }
}

/// The body of a question, weighed as it comes in. What is read of it stays in memory, as bytes or decoded, until the call is
/// over, so the weight is shared with the call.
pub(super) struct Weighed {
    body: Body,
    taken: Arc<Mutex<Taken>>,
    refusal: Option<Status>,
}

impl Weighed {
    /// Fails with `refusal` where there is no memory for more of `body`.
    pub(super) fn new(body: Body, taken: Arc<Mutex<Taken>>, refusal: Status) -> Self {
        Self { body, taken, refusal: Some(refusal) }
    }
}

impl http_body::Body for Weighed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(bytes)) = frame.as_ref().map(|frame| frame.as_ref().map(|frame| frame.data_ref().map_or(0, Bytes::len)))
            && !self.taken.lock().unwrap_or_else(PoisonError::into_inner).grow(bytes)
        {
            tokio::spawn(drain(std::mem::take(&mut self.body)));
            return Poll::Ready(self.refusal.take().map(Err));
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
        let memory = Memory::default();
        let mut large: Vec<_> = (0..8).map(|_| memory.take(4 << 20).unwrap()).collect();
        // Eight times 16 KiB are free.
        assert!(large[0].grow(8 * FREE_BYTES));
        assert!(memory.take(FREE_BYTES + 1).is_none());
        assert!(!large[0].grow(1 << 10));
        let mut small = memory.take(FREE_BYTES).unwrap();
        assert!(!small.grow(1));
        drop(large);
        assert!(small.grow(1));
        assert!(memory.take((MEMORY_KIB - 1) * 1024 + FREE_BYTES).is_some());
        assert!(memory.take(MEMORY_KIB * 1024 + FREE_BYTES).is_none(), "one more is taken by the small one");
    }
}
