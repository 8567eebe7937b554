//! The named points: a call, the class of what it changes, and before, after or half way through it.

use std::fmt;

use super::world::Role;

/// A point of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    /// Such as `write`.
    pub call: &'static str,
    /// Such as `log-segment`.
    pub class: &'static str,
    /// `before`, `after` or `half`.
    pub when: &'static str,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.call, self.class, self.when)
    }
}

/// A call of a class, and how often it occurs at least in the life of a process that has something to do.
type Call = (&'static str, &'static str, u32);

/// Those of a speed layer whose folder is empty.
const BIRTH: &[Call] = &[
    ("mkdir", "folder", 4),
    ("fsync", "folder", 6),
    ("open", "log-identity", 2),
    ("write", "log-identity", 1),
    ("fdatasync", "log-identity", 1),
    ("rename", "log-identity", 1),
    ("open", "log-new", 4),
    ("write", "log-new", 4),
    ("fdatasync", "log-new", 4),
    ("rename", "log-segment", 4),
    ("write", "log-segment", 4),
    ("truncate", "log-segment", 4),
    ("fdatasync", "log-segment", 4),
    ("open", "dead-letter", 1),
    ("write", "dead-letter", 2),
    ("truncate", "dead-letter", 1),
    ("fdatasync", "dead-letter", 2),
    ("rename", "dead-letter", 1),
    ("open", "master-log", 1),
    ("write", "master-log", 1),
    ("fsync", "master-log", 1),
    ("link", "master-log", 1),
    ("unlink", "staged", 1),
];

/// Those of a speed layer that takes events, rolls and archives.
const SPEED: &[Call] = &[
    ("write", "log-segment", 60),
    ("fdatasync", "log-segment", 60),
    ("truncate", "log-segment", 5),
    ("open", "log-new", 4),
    ("write", "log-new", 4),
    ("fdatasync", "log-new", 4),
    ("rename", "log-segment", 4),
    ("fsync", "folder", 20),
    ("write", "dead-letter", 20),
    ("fdatasync", "dead-letter", 20),
    ("open", "master", 3),
    ("write", "master", 6),
    ("fsync", "master", 3),
    ("link", "master", 3),
    ("unlink", "staged", 3),
];

/// Those of a batch run that publishes.
const BATCH: &[Call] = &[
    ("mkdir", "folder", 1),
    ("fsync", "folder", 12),
    ("open", "view-file", 4),
    ("write", "view-file", 8),
    ("fsync", "view-file", 4),
    ("rename", "view-file", 4),
    ("open", "definition", 1),
    ("write", "definition", 1),
    ("fsync", "definition", 1),
    ("link", "definition", 1),
    ("open", "manifest", 1),
    ("write", "manifest", 1),
    ("fsync", "manifest", 1),
    ("link", "manifest", 1),
    ("unlink", "staged", 1),
    ("open", "run-report", 1),
    ("write", "run-report", 1),
    ("fsync", "run-report", 1),
    ("rename", "run-report", 1),
];

fn points(calls: &[Call]) -> Vec<(Point, u32)> {
    let whens = |call: &str| if call == "write" { &["before", "after", "half"][..] } else { &["before", "after"][..] };
    let of = |&(call, class, most): &Call| whens(call).iter().map(move |when| (Point { call, class, when }, most));
    calls.iter().flat_map(of).collect()
}

/// The points at which a speed layer can die while it makes its folder, and how often each is passed then.
#[must_use]
pub fn of_birth() -> Vec<(Point, u32)> {
    points(BIRTH)
}

/// The points of a process at work, and how often each is passed within a few seconds. A serving layer changes nothing.
#[must_use]
pub fn of_role(role: Role) -> Vec<(Point, u32)> {
    match role {
        Role::Speed => points(SPEED),
        Role::Batch => points(BATCH),
        Role::Serving => Vec::new(),
    }
}
