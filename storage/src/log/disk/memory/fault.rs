//! What goes wrong, and when.

use std::{collections::BTreeMap, io, path::Path};

/// A kind of call on a disk; see [`Disk`](super::Disk), where each is a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each is the method of its name")]
pub enum Call {
    Create,
    Open,
    Len,
    /// `read` and `read_at`.
    Read,
    Write,
    SetLen,
    Reserve,
    Sync,
    Rename,
    Remove,
    SyncDir,
    CreateDir,
    List,
    Exists,
    Lock,
}

impl Call {
    /// Whether the call changes the disk.
    pub fn changes(self) -> bool {
        use Call::*;
        matches!(self, Create | Write | SetLen | Reserve | Sync | Rename | Remove | SyncDir | CreateDir)
    }
}

/// Something that is to go wrong.
///
/// [`Fault::error`] and [`Fault::crash`] say what, the methods say when; without them it is the
/// next call, once. The calls that match are counted from the moment of planning on.
#[derive(Debug)]
pub struct Fault {
    calls: Calls,
    path_part: String,
    first: u64,
    times: u64,
    planned: Planned,
    met: u64,
}

#[derive(Clone, Copy, Debug)]
enum Calls {
    Any,
    Changing,
    Of(Call),
}

/// What a call that goes wrong does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Planned {
    /// How much of it comes about.
    pub(super) done: Done,
    /// What the caller is told; `None` kills the process.
    pub(super) error: Option<io::ErrorKind>,
}

/// How much of a call comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Done {
    Nothing,
    /// The first half of what is written; nothing of any other call.
    Half,
    All,
}

impl Fault {
    /// The call answers with this error and does nothing. A sync that fails so drops the file's
    /// dirty pages, as Linux does: they stay readable and are never written back.
    pub fn error(kind: io::ErrorKind) -> Fault {
        Fault::new(Planned { done: Done::Nothing, error: Some(kind) })
    }

    /// The process dies before the call does anything: this call and every later one of the process
    /// fail and change nothing.
    pub fn crash() -> Fault {
        Fault::new(Planned { done: Done::Nothing, error: None })
    }

    fn new(planned: Planned) -> Fault {
        Fault { calls: Calls::Any, path_part: String::new(), first: 0, times: 1, planned, met: 0 }
    }

    /// The first half of the bytes is written before.
    #[must_use]
    pub fn half_way(mut self) -> Fault {
        self.planned.done = Done::Half;
        self
    }

    /// The call comes about whole, but its caller never hears so.
    #[must_use]
    pub fn afterwards(mut self) -> Fault {
        self.planned.done = Done::All;
        self
    }

    /// Counts calls of this kind only.
    #[must_use]
    pub fn on(mut self, call: Call) -> Fault {
        self.calls = Calls::Of(call);
        self
    }

    /// Counts calls that change the disk only.
    #[must_use]
    pub fn changing(mut self) -> Fault {
        self.calls = Calls::Changing;
        self
    }

    /// Counts calls only whose path has this text in it.
    #[must_use]
    pub fn of_path(mut self, part: &str) -> Fault {
        part.clone_into(&mut self.path_part);
        self
    }

    /// Lets so many calls pass.
    #[must_use]
    pub fn after(mut self, calls: u64) -> Fault {
        self.first = calls;
        self
    }

    /// Goes wrong so many times in a row.
    #[must_use]
    pub fn times(mut self, times: u64) -> Fault {
        self.times = times;
        self
    }

    /// Goes wrong from then on.
    #[must_use]
    pub fn for_ever(self) -> Fault {
        self.times(u64::MAX)
    }

    fn meets(&mut self, call: Call, path: &Path) -> bool {
        let counts = match self.calls {
            Calls::Any => true,
            Calls::Changing => call.changes(),
            Calls::Of(kind) => kind == call,
        };
        if !counts || !path.to_string_lossy().contains(&self.path_part) {
            return false;
        }
        let number = self.met;
        self.met += 1;
        number >= self.first && number - self.first < self.times
    }
}

/// The faults that are planned, and what was called.
#[derive(Debug, Default)]
pub(super) struct Plan {
    faults: Vec<Fault>,
    counts: BTreeMap<Call, u64>,
    struck: u64,
}

impl Plan {
    pub(super) fn add(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    pub(super) fn clear(&mut self) {
        self.faults.clear();
    }

    /// Counts a call and says whether it goes wrong. Every fault counts it, the first one planned
    /// decides.
    pub(super) fn judge(&mut self, call: Call, path: &Path) -> Option<Planned> {
        *self.counts.entry(call).or_default() += 1;
        let mut planned = None;
        for fault in &mut self.faults {
            if fault.meets(call, path) {
                planned = planned.or(Some(fault.planned));
            }
        }
        self.struck += u64::from(planned.is_some());
        planned
    }

    /// How many calls have gone wrong.
    pub(super) fn struck(&self) -> u64 {
        self.struck
    }

    pub(super) fn counts(&self) -> &BTreeMap<Call, u64> {
        &self.counts
    }
}
