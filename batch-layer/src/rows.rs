//! Row counts reconcile between the layers: every row of the log below the boundary is in a segment, and every row of a segment or an
//! import is counted in the view, or was left out for a reason that is counted too. Erasures are records of the log and no rows, and what they
//! hide is gone from files in time; so is what a declared retention lets go.

use std::fmt;

use indicatif::HumanCount;
use serde::{Deserialize, Serialize};
use storage::imports::ImportMeta;

/// Where every row below the boundary went. All are totals, of an incremental run too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Rows {
    /// Records of the log below the boundary.
    pub log: i64,
    /// Rows of the segments of the master dataset.
    pub segments: i64,
    /// Records that are erasures.
    pub erasures: i64,
    /// Events that were erased and are in no segment any more.
    pub gone: i64,
    /// Events past a declared retention that are in no segment any more.
    pub expired: i64,
    /// Rows of the imports that are covered.
    pub imports: i64,
    /// Events that the view counts.
    pub counted: i64,
    /// Rows that repeat an earlier one.
    pub late_duplicates: i64,
    /// Rows that have the identity of an earlier one and another content.
    pub conflicts: i64,
    /// Rows of erased users that are still in a file, as far as this run read them.
    pub erased: i64,
    /// Rows that the view's WHERE leaves out, as far as this run read them.
    pub filtered: i64,
    /// Rows that the view's limit let go in this run.
    pub past_limit: i64,
    /// Rows that the WHERE, the limit and erasures had left out of the version that this one was built upon.
    pub left_out_before: i64,
    /// Of those, and of the repeated ones, rows of segments and imports that have expired and are gone; 0 in a run over all events, which
    /// never saw them.
    pub left_out_and_gone: i64,
}

impl Rows {
    /// What is in the master dataset.
    pub(crate) fn archived(&self) -> i64 {
        self.segments + self.imports
    }

    /// What became of it.
    pub(crate) fn accounted_for(&self) -> i64 {
        let left_out = self.erased + self.filtered + self.past_limit + self.left_out_before - self.left_out_and_gone;
        self.counted + self.late_duplicates + self.conflicts + left_out
    }

    /// Whether every row is accounted for, once. A view that leaves nothing out never did, and where nobody is erased nothing is gone.
    pub(crate) fn reconcile(&self, leaves_out: bool) -> bool {
        let fits = |rows: i64, may_be: bool| if may_be { rows >= 0 } else { rows == 0 };
        self.log == self.segments + self.erasures + self.gone + self.expired
            && fits(self.gone, self.erasures > 0)
            && self.expired >= 0
            && self.archived() == self.accounted_for()
            && fits(self.left_out_before, leaves_out || self.erasures > 0)
    }
}

/// Rows of imports.
pub(crate) fn of_imports<'a>(imports: impl IntoIterator<Item = &'a ImportMeta>) -> i64 {
    imports.into_iter().flat_map(|import| (0..import.partitions).map(|partition| import.rows(partition))).sum()
}

/// Rows of imports that have expired and are gone.
pub(crate) fn expired_of_imports<'a>(imports: impl IntoIterator<Item = &'a ImportMeta>) -> i64 {
    imports.into_iter().flat_map(|import| (0..import.partitions).map(|partition| import.expired(partition))).sum()
}

/// The equation, without terms that are zero.
impl fmt::Display for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |n: i64| match u64::try_from(n) {
            Ok(n) => HumanCount(n).to_string(),
            Err(_) => n.to_string(),
        };
        write!(f, "{} in the log", count(self.log))?;
        let gone = [(self.erasures, "erasures"), (self.gone, "erased and gone"), (self.expired, "expired and gone")];
        for (rows, what) in gone.into_iter().filter(|(rows, _)| *rows != 0) {
            write!(f, " - {} {what}", count(rows))?;
        }
        write!(f, ", {} in segments", count(self.segments))?;
        if self.imports != 0 {
            write!(f, " + {} imported", count(self.imports))?;
        }
        write!(f, " = {} counted", count(self.counted))?;
        let terms = [
            (self.late_duplicates, "late duplicates"),
            (self.conflicts, "conflicts"),
            (self.erased, "erased"),
            (self.filtered, "left out by WHERE"),
            (self.past_limit, "past the limit"),
            (self.left_out_before, "left out before"),
        ];
        terms.iter().filter(|(rows, _)| *rows != 0).try_for_each(|(rows, what)| write!(f, " + {} {what}", count(*rows)))?;
        match self.left_out_and_gone {
            0 => Ok(()),
            gone => write!(f, " - {} of these expired and gone", count(gone)),
        }
    }
}
