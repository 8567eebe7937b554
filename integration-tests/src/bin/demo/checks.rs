//! What must hold, and whether it did.

use std::fmt;

use integration_tests::plain_fold::text::grouped;

/// The checks so far, in the order in which they were made.
#[derive(Default)]
pub(crate) struct Checks(Vec<Check>);

struct Check {
    what: String,
    failure: Option<String>,
}

impl Checks {
    /// Notes that `what` held, or what was found instead.
    pub(crate) fn note(&mut self, what: impl Into<String>, failure: Option<String>) {
        self.0.push(Check { what: what.into(), failure });
    }

    /// Notes whether two counts are equal.
    pub(crate) fn equal(&mut self, what: impl Into<String>, found: u64, expected: u64) {
        let failure = (found != expected).then(|| format!("found {}, expected {}", grouped(found), grouped(expected)));
        self.note(what, failure);
    }

    /// Whether every check held.
    pub(crate) fn all_held(&self) -> bool {
        self.0.iter().all(|check| check.failure.is_none())
    }
}

impl fmt::Display for Checks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for check in &self.0 {
            match &check.failure {
                None => writeln!(f, "  ok      {}", check.what)?,
                Some(failure) => writeln!(f, "  FAILED  {}: {failure}", check.what)?,
            }
        }
        Ok(())
    }
}
