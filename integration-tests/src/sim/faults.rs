//! What can go wrong, how often it does in a run, and a count of what did.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::AddAssign;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::chance::Chance;

/// One way in which the world fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The speed layer dies in the middle of a call to its disk; the page cache stays.
    KilledAtDisk,
    /// It dies there, and what was not synced is drawn lots for.
    PowerCutAtDisk,
    /// The speed layer dies at any time.
    SpeedKilled,
    /// The power goes at any time.
    PowerCut,
    /// A sync fails and the pages are gone.
    SyncFails,
    /// A write fails half way.
    WriteFails,
    /// The disk is full for a while.
    DiskFull,
    /// A put or read fails and did nothing.
    StoreFails,
    /// A put is carried out and its reply is lost.
    StoreReplyLost,
    /// The store's own client sends a put twice and reports the second answer.
    StorePutTwice,
    /// The store takes seconds.
    StoreSlow,
    /// The store takes longer than a lease lasts.
    StoreStalls,
    /// A list lacks what was put a moment ago.
    ListLate,
    /// A process dies as it calls the store, before or after the call is carried out.
    KilledAtStore,
    /// A call between processes never arrives.
    CallLost,
    /// A call is carried out and its reply is lost.
    ReplyLost,
    /// A call takes long.
    CallSlow,
    /// Nothing gets from one process to another for a while.
    LinkCut,
    /// The serving layer dies.
    ServingKilled,
    /// A batch run dies.
    BatchKilled,
    /// An expiry or a compaction dies.
    UpkeepKilled,
    /// Two batch runs at once.
    TwoBatches,
    /// The clock of a machine jumps by hours or years.
    ClockJumps,
    /// What two hosts send to each other is lost for a while.
    Partition,
    /// What one host sends to another is lost for a while, and the way back is open.
    OneWay,
    /// What two hosts send to each other waits for a while and then arrives.
    Held,
    /// Messages take long, each another time.
    Jitter,
    /// A connection breaks.
    ConnectionLost,
}

impl Fault {
    /// Per mille of its occasions: a call is one of very many in a run, a batch run one of a few.
    fn rates(self) -> &'static [u32] {
        if matches!(self, Self::BatchKilled | Self::TwoBatches | Self::UpkeepKilled) { &[100, 300, 600] } else { &[5, 20, 60, 150] }
    }
}

/// Every kind that one machine and calls without a network can have.
pub const FAULTS: [Fault; 23] = [
    Fault::KilledAtDisk,
    Fault::PowerCutAtDisk,
    Fault::SpeedKilled,
    Fault::PowerCut,
    Fault::SyncFails,
    Fault::WriteFails,
    Fault::DiskFull,
    Fault::StoreFails,
    Fault::StoreReplyLost,
    Fault::StorePutTwice,
    Fault::StoreSlow,
    Fault::StoreStalls,
    Fault::ListLate,
    Fault::KilledAtStore,
    Fault::CallLost,
    Fault::ReplyLost,
    Fault::CallSlow,
    Fault::LinkCut,
    Fault::ServingKilled,
    Fault::BatchKilled,
    Fault::UpkeepKilled,
    Fault::TwoBatches,
    Fault::ClockJumps,
];

/// How often one kind of fault struck.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Struck {
    /// All in all.
    pub times: u64,
    /// While an append, a question or a batch run was under way.
    pub in_flight: u64,
    /// Followed by an append, an answer or a publish that succeeded.
    pub recovered: u64,
}

/// Per kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally(BTreeMap<Fault, Struck>);

impl Tally {
    /// How often `fault` struck.
    #[must_use]
    pub fn of(&self, fault: Fault) -> Struck {
        self.0.get(&fault).copied().unwrap_or_default()
    }
}

impl AddAssign<&Tally> for Tally {
    fn add_assign(&mut self, other: &Tally) {
        for (fault, struck) in &other.0 {
            let sum = self.0.entry(*fault).or_default();
            sum.times += struck.times;
            sum.in_flight += struck.in_flight;
            sum.recovered += struck.recovered;
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, &FAULTS)
    }
}

impl Tally {
    /// A line for each kind.
    pub(crate) fn write(&self, f: &mut fmt::Formatter<'_>, kinds: &[Fault]) -> fmt::Result {
        writeln!(f, "{:<16} {:>10} {:>10} {:>10}", "fault", "struck", "in flight", "recovered")?;
        for fault in kinds {
            let Struck { times, in_flight, recovered } = self.of(*fault);
            writeln!(f, "{:<16} {times:>10} {in_flight:>10} {recovered:>10}", format!("{fault:?}"))?;
        }
        Ok(())
    }
}

/// The weather of a run: how often each thing goes wrong, per mille of the calls it can befall. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Weather(Arc<State>);

#[derive(Debug)]
struct State {
    chance: Chance,
    rates: BTreeMap<Fault, u32>,
    tally: Mutex<(Tally, Vec<Fault>)>,
    in_flight: AtomicU32,
    operations: AtomicU64,
    calm: std::sync::atomic::AtomicBool,
}

impl Weather {
    /// A few kinds of faults at rates of their own, the others never: a run in which everything fails gets nowhere.
    pub(crate) fn new(chance: &Chance) -> Self {
        Self::among(chance, &FAULTS)
    }

    /// The same of some kinds.
    pub(crate) fn among(chance: &Chance, kinds: &[Fault]) -> Self {
        let mut rates = BTreeMap::new();
        for fault in kinds {
            if chance.happens(300) {
                rates.insert(*fault, chance.pick(fault.rates()));
            }
        }
        let state = State {
            chance: chance.clone(),
            rates,
            tally: Mutex::default(),
            in_flight: AtomicU32::new(0),
            operations: AtomicU64::new(0),
            calm: std::sync::atomic::AtomicBool::new(false),
        };
        Self(Arc::new(state))
    }

    /// Whether this fault is part of the run at all.
    pub(crate) fn has(&self, fault: Fault) -> bool {
        self.0.rates.contains_key(&fault)
    }

    /// Whether it strikes here and now.
    pub(crate) fn strikes(&self, fault: Fault) -> bool {
        if self.0.calm.load(Ordering::Relaxed) {
            return false;
        }
        let strikes = self.0.rates.get(&fault).is_some_and(|rate| self.0.chance.happens(*rate));
        if strikes {
            self.note(fault);
        }
        strikes
    }

    /// Counts a fault that struck.
    pub(crate) fn note(&self, fault: Fault) {
        let mut tally = self.0.tally.lock().unwrap_or_else(PoisonError::into_inner);
        let struck = tally.0.0.entry(fault).or_default();
        struck.times += 1;
        if self.0.in_flight.load(Ordering::Relaxed) > 0 {
            struck.in_flight += 1;
        }
        tally.1.push(fault);
    }

    /// Something succeeded: whatever struck before has been recovered from.
    pub(crate) fn recovered(&self) {
        let mut tally = self.0.tally.lock().unwrap_or_else(PoisonError::into_inner);
        for fault in std::mem::take(&mut tally.1) {
            tally.0.0.entry(fault).or_default().recovered += 1;
        }
    }

    /// An operation is under way until the guard is dropped.
    pub(crate) fn under_way(&self) -> UnderWay {
        self.0.in_flight.fetch_add(1, Ordering::Relaxed);
        self.0.operations.fetch_add(1, Ordering::Relaxed);
        UnderWay(self.clone())
    }

    /// Operations that have begun.
    pub(crate) fn operations(&self) -> u64 {
        self.0.operations.load(Ordering::Relaxed)
    }

    /// Whether an operation is under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.0.in_flight.load(Ordering::Relaxed) > 0
    }

    /// Nothing goes wrong from now on.
    pub(crate) fn calm(&self) {
        self.0.calm.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_calm(&self) -> bool {
        self.0.calm.load(Ordering::Relaxed)
    }

    pub(crate) fn tally(&self) -> Tally {
        self.0.tally.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }
}

/// See [`Weather::under_way`].
#[derive(Debug)]
pub(crate) struct UnderWay(Weather);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
