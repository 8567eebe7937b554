//! How much a client may ask for in a second.
//!
//! Each client has two buckets, one of calls and one of the bytes of its events. A call is let in as long as neither is in debt; what it
//! takes is taken afterwards, for how large a request is shows only when it is there. So a bucket may go into debt by one message, which
//! its client waits for: the average is kept, and nothing is refused in the middle. That is the generic cell rate algorithm (ITU-T I.371)
//! with the size known late. Times are tokio's.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::identity::{Identity, Via};
use crate::server::Host;

/// Clients whose buckets are remembered. Those beyond share one pair, so that whoever has many addresses gains nothing by them.
const MAX_CLIENTS: usize = 10_000;
/// A bucket holds what comes in so long, so that a client may save up a burst.
const BURST: Duration = Duration::from_secs(1);

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Calls; a stream is one.
    Calls,
    /// Bytes of the messages of calls that bring events, as they are on the wire.
    IngestBytes,
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Calls => "calls of this second",
            Self::IngestBytes => "bytes of events of this second",
        })
    }
}

/// What a client may ask for in a second; what is not there is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Calls.
    pub calls_per_second: Option<u32>,
    /// Bytes of events.
    pub ingest_bytes_per_second: Option<u64>,
}

impl Limits {
    /// These, and where they say nothing those.
    #[must_use]
    pub fn or(self, others: Self) -> Self {
        Self {
            calls_per_second: self.calls_per_second.or(others.calls_per_second),
            ingest_bytes_per_second: self.ingest_bytes_per_second.or(others.ingest_bytes_per_second),
        }
    }

    fn are_none(self) -> bool {
        self == Self::default()
    }
}

/// Something that fills by itself. It is described by when it would be full, were nothing taken.
#[derive(Debug, Default)]
pub(super) struct Bucket(Option<Instant>);

impl Bucket {
    /// How long until it is out of debt; none if it is.
    pub(super) fn debt(&self, now: Instant) -> Option<Duration> {
        let debt = self.0?.checked_duration_since(now + BURST)?;
        (!debt.is_zero()).then_some(debt)
    }

    /// Takes so much of what comes in at `per_second`, whether or not it is there.
    pub(super) fn take(&mut self, amount: u64, per_second: u64, now: Instant) {
        let time = Duration::from_secs_f64(amount as f64 / per_second.max(1) as f64);
        self.0 = Some(self.0.map_or(now, |full| full.max(now)) + time);
    }

    fn is_full(&self, now: Instant) -> bool {
        self.0.is_none_or(|full| full <= now)
    }
}

/// The buckets of one client.
#[derive(Debug, Default)]
struct Buckets {
    calls: Bucket,
    bytes: Bucket,
}

impl Buckets {
    fn are_full(&self, now: Instant) -> bool {
        self.calls.is_full(now) && self.bytes.is_full(now)
    }
}

type Shared = Arc<Mutex<Buckets>>;

/// The buckets of all clients.
#[derive(Debug, Default)]
pub(super) struct Limiter {
    clients: Mutex<HashMap<(Via, Arc<str>), Shared>>,
    /// Of clients for whom there was no room.
    others: Shared,
}

/// What is left of the bytes of one client's events, for as long as its call takes.
#[derive(Clone, Debug)]
pub(crate) struct Allowance {
    buckets: Shared,
    bytes_per_second: u64,
}

impl Limiter {
    /// Takes one call; gives what the bytes of events are to be taken from, if they are limited.
    ///
    /// # Errors
    /// What is used up, and until when.
    pub(super) fn admit(&self, who: &Identity, brings_events: bool) -> Result<Option<Allowance>, (Measure, Duration)> {
        let limits = who.limits();
        if limits.are_none() {
            return Ok(None);
        }
        let now = Instant::now();
        let shared = self.of(who, now);
        let mut buckets = lock(&shared);
        if let Some(debt) = limits.calls_per_second.and_then(|_| buckets.calls.debt(now)) {
            return Err((Measure::Calls, debt));
        }
        let bytes_per_second = limits.ingest_bytes_per_second.filter(|_| brings_events);
        if let Some(debt) = bytes_per_second.and_then(|_| buckets.bytes.debt(now)) {
            return Err((Measure::IngestBytes, debt));
        }
        if let Some(calls) = limits.calls_per_second {
            buckets.calls.take(1, calls.into(), now);
        }
        drop(buckets);
        Ok(bytes_per_second.map(|bytes_per_second| Allowance { buckets: shared, bytes_per_second }))
    }

    fn of(&self, who: &Identity, now: Instant) -> Shared {
        let mut clients = lock(&self.clients);
        let name = match (who.via(), who.address()) {
            (Via::Address, Some(address)) => Arc::from(Host::of(address).to_string()),
            _ => Arc::from(who.name()),
        };
        let key = (who.via(), name);
        if let Some(known) = clients.get(&key) {
            return Arc::clone(known);
        }
        if clients.len() >= MAX_CLIENTS {
            // Whoever has all that it may have is as good as new.
            clients.retain(|_, buckets| !lock(buckets).are_full(now));
        }
        if clients.len() >= MAX_CLIENTS {
            return Arc::clone(&self.others);
        }
        Arc::clone(clients.entry(key).or_default())
    }
}

impl Allowance {
    /// Of so many bytes a second, untouched.
    #[cfg(test)]
    pub(crate) fn of(bytes_per_second: u64) -> Self {
        Self { buckets: Shared::default(), bytes_per_second }
    }

    /// So many bytes have come.
    pub(crate) fn take(&self, bytes: usize) {
        lock(&self.buckets).bytes.take(bytes as u64, self.bytes_per_second, Instant::now());
    }

    /// When the next ones may.
    pub(crate) fn debt(&self) -> Option<Duration> {
        lock(&self.buckets).bytes.debt(Instant::now())
    }
}

/// What is behind these locks is whole whoever panicked.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
