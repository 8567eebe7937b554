//! What there was to hear of the speed layer, and of the questions that were asked here, over the last minutes.
//!
//! One task listens for all who look, every [`BEAT`], whoever looks or not: so the first look has a past to show, and many looks cost the speed
//! layer no more than none.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use merganser_proto::metrics::Spread;
use merganser_proto::server::{CallCounts, MethodCalls};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::ServingError;
use crate::speed::{SpeedClient, SpeedStatus};

/// Between two times that the speed layer is asked.
const BEAT: Duration = Duration::from_secs(2);
/// What it may take to answer.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Beats that are kept: ten minutes.
const KEPT: usize = 300;
/// Rates and latencies are those of so long.
const WINDOW: Duration = Duration::from_secs(60);
/// The rate of now is that of so long.
const NOW: Duration = Duration::from_secs(10);

/// See the module. Ends when it is dropped.
pub(super) struct Pulse {
    heard: Arc<Mutex<Heard>>,
    _listening: AbortOnDropHandle<()>,
}

/// What was heard.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard {
    /// Oldest first. A beat without an answer has none.
    beats: VecDeque<Beat>,
    /// Why the newest beat has no answer, if it has none.
    pub(super) failure: Option<String>,
}

#[derive(Clone, Debug)]
struct Beat {
    at: Instant,
    speed: Option<SpeedStatus>,
    calls: Vec<MethodCalls>,
}

/// An answer, and when it came.
type Told<'a> = (Instant, &'a SpeedStatus);

/// Questions of one method over a while.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct MethodPace {
    pub(super) method: &'static str,
    pub(super) per_second: f64,
    /// Of all, those that ended otherwise than with an answer.
    pub(super) failed: u64,
    /// Those that are counted.
    pub(super) took: Spread,
}

/// Rows that came in, per second, over a while.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rates {
    pub(super) received: f64,
    pub(super) accepted: f64,
    pub(super) duplicates: f64,
    pub(super) refused: f64,
    pub(super) failed: f64,
}

impl Pulse {
    /// Listens until `stop`.
    pub(super) fn start(speed: SpeedClient, calls: CallCounts, stop: CancellationToken) -> Self {
        let heard = Arc::new(Mutex::new(Heard::default()));
        let kept = Arc::clone(&heard);
        let listen = async move {
            let mut ticks = interval(BEAT);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while stop.run_until_cancelled(ticks.tick()).await.is_some() {
                let at = Instant::now();
                let answer = speed.status(false, at + PATIENCE).await;
                kept.lock().unwrap_or_else(PoisonError::into_inner).hear(at, answer, calls.by_method());
            }
        };
        Self { heard, _listening: AbortOnDropHandle::new(tokio::spawn(listen)) }
    }

    /// What was heard until now.
    pub(super) fn heard(&self) -> Heard {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Heard {
    fn hear(&mut self, at: Instant, answer: Result<SpeedStatus, ServingError>, calls: Vec<MethodCalls>) {
        self.failure = answer.as_ref().err().map(ServingError::in_one_line);
        if self.beats.len() == KEPT {
            self.beats.pop_front();
        }
        self.beats.push_back(Beat { at, speed: answer.ok(), calls });
    }

    /// What the speed layer said last, unless it does not answer any more.
    pub(super) fn speed(&self) -> Option<&SpeedStatus> {
        self.beats.back()?.speed.as_ref()
    }

    /// Rows per second over the last ten seconds.
    pub(super) fn rates(&self) -> Option<Rates> {
        let (before, after) = self.pair(NOW)?;
        Some(rates(before, after))
    }

    /// Rows that were taken in per second between each two beats, oldest first, with how many seconds ago the second one was.
    pub(super) fn history(&self) -> Vec<(f64, f64)> {
        let Some(newest) = self.beats.back() else { return Vec::new() };
        let told: Vec<(Instant, &SpeedStatus)> = self.beats.iter().filter_map(|beat| Some((beat.at, beat.speed.as_ref()?))).collect();
        let pairs = told.iter().zip(told.iter().skip(1)).filter(|((_, a), (_, b))| a.began_us == b.began_us);
        pairs.map(|(a, b)| ((newest.at - b.0).as_secs_f64(), rates(*a, *b).accepted)).collect()
    }

    /// What appends and syncs took over the last minute.
    pub(super) fn writes(&self) -> Option<(Spread, Spread)> {
        let ((_, before), (_, after)) = self.pair(WINDOW)?;
        Some((after.append.since(&before.append), after.sync.since(&before.sync)))
    }

    /// Questions by method over the last minute.
    pub(super) fn questions(&self) -> Vec<MethodPace> {
        let Some(newest) = self.beats.back() else { return Vec::new() };
        let oldest = self.beats.iter().find(|beat| newest.at - beat.at <= WINDOW).unwrap_or(newest);
        let seconds = (newest.at - oldest.at).as_secs_f64();
        let pace = |(now, then): (&MethodCalls, &MethodCalls)| {
            let (answered, failed) = (now.answered.saturating_sub(then.answered), now.failed.saturating_sub(then.failed));
            let per_second = if seconds > 0.0 { (answered + failed) as f64 / seconds } else { 0.0 };
            MethodPace { method: now.method, per_second, failed, took: now.took.since(&then.took) }
        };
        newest.calls.iter().zip(&oldest.calls).map(pace).collect()
    }

    /// The newest beat, and the first one that is at most so much older, of the same process.
    fn pair(&self, window: Duration) -> Option<(Told<'_>, Told<'_>)> {
        let newest = self.beats.back()?;
        let after = (newest.at, newest.speed.as_ref()?);
        let told = self.beats.iter().filter_map(|beat| Some((beat.at, beat.speed.as_ref()?)));
        let mut earlier = told.filter(|(at, speed)| *at < after.0 && after.0 - *at <= window && speed.began_us == after.1.began_us);
        Some((earlier.next()?, after))
    }
}

fn rates((before_at, before): Told<'_>, (after_at, after): Told<'_>) -> Rates {
    let seconds = (after_at - before_at).as_secs_f64().max(1e-3);
    let rate = |of: fn(&SpeedStatus) -> i64| of(after).saturating_sub(of(before)).max(0) as f64 / seconds;
    Rates {
        received: rate(|speed| speed.received),
        accepted: rate(|speed| speed.accepted),
        duplicates: rate(|speed| speed.duplicates),
        refused: rate(|speed| speed.refused),
        failed: rate(|speed| speed.failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(began_us: i64, accepted: i64) -> SpeedStatus {
        SpeedStatus { began_us, accepted, received: accepted, ..SpeedStatus::default() }
    }

    fn get(answered: u64) -> MethodCalls {
        MethodCalls { method: "Get", answered, failed: 0, took: Spread::default() }
    }

    /// Proves that a rate is that of one process over the last seconds, that a restart starts anew, and that a silent speed layer has none.
    #[tokio::test(start_paused = true)]
    async fn rates_of_one_process() {
        let (began, mut heard) = (Instant::now(), Heard::default());
        assert_eq!((heard.speed(), heard.rates(), heard.history()), (None, None, Vec::new()));
        for beat in 0..20 {
            heard.hear(began + BEAT * beat, Ok(status(7, i64::from(beat) * 100)), vec![get(u64::from(beat))]);
        }
        assert_eq!(heard.rates().unwrap().accepted, 50.0);
        assert_eq!(heard.questions()[0].per_second, 0.5);
        assert_eq!(heard.history().len(), 19);
        assert_eq!(heard.history().last(), Some(&(0.0, 50.0)));

        heard.hear(began + BEAT * 20, Ok(status(8, 10)), Vec::new());
        assert_eq!(heard.rates(), None);
        assert_eq!(heard.history().len(), 19);
        heard.hear(began + BEAT * 21, Err(ServingError::SpeedUnavailable { reason: "gone".to_owned() }), Vec::new());
        assert_eq!(heard.speed(), None);
        assert!(heard.failure.clone().unwrap().contains("gone"));
        for beat in 22..1000 {
            heard.hear(began + BEAT * beat, Ok(status(8, 10)), Vec::new());
        }
        assert_eq!(heard.beats.len(), KEPT);
    }
}
