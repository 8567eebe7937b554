//! A process of the simulation: it lives until it is killed, and then nothing that it still does has an effect.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::chance::Chance;

/// The time since a run began. Clones are the same one.
#[derive(Clone, Debug)]
pub(crate) enum Stopwatch {
    /// That of the one runtime.
    Runtime(Instant),
    /// That of several runtimes, each with a clock of its own, in microseconds: whoever drives them turns it on.
    Driven(Arc<AtomicU64>),
}

impl Stopwatch {
    /// Starts now, inside a runtime.
    pub(crate) fn start() -> Self {
        Self::Runtime(Instant::now())
    }

    /// Stands still until it is turned.
    pub(crate) fn driven() -> Self {
        Self::Driven(Arc::default())
    }

    pub(crate) fn turn_to(&self, elapsed: Duration) {
        if let Self::Driven(micros) = self {
            micros.store(elapsed.as_micros() as u64, Ordering::Relaxed);
        }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        match self {
            Self::Runtime(started) => started.elapsed(),
            Self::Driven(micros) => Duration::from_micros(micros.load(Ordering::Relaxed)),
        }
    }
}

/// One incarnation of a server or a batch run. Clones are the same one.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    name: Arc<str>,
    dead: CancellationToken,
    chance: Chance,
    trace: Trace,
}

impl Process {
    pub(crate) fn new(name: String, chance: &Chance, trace: &Trace) -> Self {
        trace.note(|| format!("{name} starts"));
        Self { name: name.into(), dead: CancellationToken::new(), chance: chance.clone(), trace: trace.clone() }
    }

    pub(crate) fn chance(&self) -> &Chance {
        &self.chance
    }

    pub(crate) fn kill(&self) {
        if !self.is_dead() {
            self.trace(|| "dies".to_owned());
            self.dead.cancel();
        }
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.is_cancelled()
    }

    /// Waits for its death.
    pub(crate) async fn death(&self) {
        self.dead.cancelled().await;
    }

    /// Goes on only if the process lives.
    pub(crate) async fn or_never(&self) {
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
    }

    pub(crate) fn trace(&self, line: impl FnOnce() -> String) {
        self.trace.note(|| format!("{}: {}", self.name, line()));
    }
}

/// What happened, in order: a digest of all lines, and the lines if somebody wants to read them.
#[derive(Clone, Debug)]
pub(crate) struct Trace(Arc<Mutex<Lines>>);

#[derive(Debug)]
struct Lines {
    digest: blake3::Hasher,
    printed: bool,
    stopwatch: Stopwatch,
}

impl Trace {
    pub(crate) fn new(printed: bool, stopwatch: &Stopwatch) -> Self {
        Self(Arc::new(Mutex::new(Lines { digest: blake3::Hasher::new(), printed, stopwatch: stopwatch.clone() })))
    }

    #[allow(clippy::print_stdout, reason = "a trace is printed for a person who asked for it")]
    pub(crate) fn note(&self, line: impl FnOnce() -> String) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let line = format!("{:>12} {}\n", lines.stopwatch.elapsed().as_micros(), line());
        lines.digest.update(line.as_bytes());
        if lines.printed {
            print!("{line}");
        }
    }

    /// Adds bytes that must be the same for the same seed.
    pub(crate) fn absorb(&self, bytes: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).digest.update(bytes);
    }

    pub(crate) fn digest(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).digest.finalize().to_hex().to_string()
    }
}

/// The time of day in the simulation.
#[derive(Clone, Debug)]
pub(crate) struct SimClock {
    stopwatch: Stopwatch,
    /// What the machine's clock says more than it should, in milliseconds.
    skew_ms: Arc<Mutex<i64>>,
}

impl SimClock {
    pub(crate) fn new(stopwatch: &Stopwatch) -> Self {
        Self { stopwatch: stopwatch.clone(), skew_ms: Arc::default() }
    }

    /// One that says so much more than it should, whatever this one says.
    pub(crate) fn beside(&self, skew_ms: i64) -> Self {
        Self { stopwatch: self.stopwatch.clone(), skew_ms: Arc::new(Mutex::new(skew_ms)) }
    }

    pub(crate) fn jump_to(&self, skew_ms: i64) {
        *self.skew_ms.lock().unwrap_or_else(PoisonError::into_inner) = skew_ms;
    }

    pub(crate) fn now(&self) -> SystemTime {
        // 2026-11-21.
        let true_ms = 1_795_000_000_000 + self.stopwatch.elapsed().as_millis() as i64;
        let shown_ms = true_ms + *self.skew_ms.lock().unwrap_or_else(PoisonError::into_inner);
        SystemTime::UNIX_EPOCH + Duration::from_millis(shown_ms.max(0) as u64)
    }
}
