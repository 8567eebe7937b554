//! What became of letters that were sent again.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use storage::dead_letter::LetterId;

use crate::load::grouped;

/// Rows that share a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Rows {
    /// How many.
    pub count: u64,
    /// The first of them.
    pub example: LetterId,
}

/// Counts of letters. `sent = accepted + duplicate + still refused`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReplaySummary {
    /// Letters that the server has answered.
    pub sent: u64,
    /// Of these, events that it appended now.
    pub accepted: u64,
    /// Of these, events that it had already.
    pub duplicate: u64,
    /// Of these, rows that it refused again, by what is wrong with them now.
    pub refused: BTreeMap<String, Rows>,
    /// Of those that were refused again, rows for which another letter speaks now.
    pub superseded: u64,
    /// Letters that hold no event that can be sent, by reason.
    pub unsendable: BTreeMap<String, Rows>,
    /// Selected letters that were settled before.
    pub settled_before: u64,
}

impl ReplaySummary {
    /// Rows that were refused again.
    #[must_use]
    pub fn still_refused(&self) -> u64 {
        self.refused.values().map(|rows| rows.count).sum()
    }

    pub(super) fn count(rows: &mut BTreeMap<String, Rows>, reason: String, id: LetterId) {
        rows.entry(reason).or_insert(Rows { count: 0, example: id }).count += 1;
    }
}

impl fmt::Display for ReplaySummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [sent, accepted, duplicate, refused] = [self.sent, self.accepted, self.duplicate, self.still_refused()].map(grouped);
        writeln!(f, "{:>13} = {:>13} + {:>13} + {:>13}", "sent again", "accepted", "duplicate", "still refused")?;
        write!(f, "{sent:>13} = {accepted:>13} + {duplicate:>13} + {refused:>13}")?;
        write_reasons(f, "still refused because", &self.refused)?;
        if self.superseded > 0 {
            write!(f, "\n{} of them for another reason than before: a new letter stands for each", grouped(self.superseded))?;
        }
        write_reasons(f, "cannot be sent because", &self.unsendable)?;
        if self.settled_before > 0 {
            write!(f, "\n\n{} letters were settled before and were not sent", grouped(self.settled_before))?;
        }
        Ok(())
    }
}

fn write_reasons(f: &mut fmt::Formatter<'_>, title: &str, reasons: &BTreeMap<String, Rows>) -> fmt::Result {
    if reasons.is_empty() {
        return Ok(());
    }
    write!(f, "\n\n{title}")?;
    let mut reasons: Vec<_> = reasons.iter().collect();
    reasons.sort_by_key(|(_, rows)| std::cmp::Reverse(rows.count));
    reasons.into_iter().try_for_each(|(reason, rows)| write!(f, "\n{:>13}  {reason}  ({})", grouped(rows.count), rows.example))
}
