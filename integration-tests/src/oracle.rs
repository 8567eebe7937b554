//! What every answer must be: a list of acknowledged events, added up anew for every question. It shares no code with the product.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};

/// Microseconds of a day.
pub const DAY_US: i64 = 86_400_000_000;

/// One acknowledged event: amount in ten-thousandths, time in microseconds since 1970, and the first version that covers it,
/// which may be either of two when it arrived while a run was under way.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "said above")]
pub struct Fact {
    pub user: String,
    pub id: String,
    pub time_us: i64,
    pub amount: Option<i128>,
    pub covered_by: RangeInclusive<i64>,
}

/// Count and revenue, first and last time, and count and revenue by start of day.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "said above")]
pub struct Figures {
    pub total: (i64, Option<i128>),
    pub times_us: Option<(i64, i64)>,
    pub days: BTreeMap<i64, (i64, Option<i128>)>,
}

/// The acknowledged events in their order, and whether an event of the same identity had come before: the first one counts,
/// and a copy that slipped past the dedup window counts until a version covers it.
#[derive(Debug, Default)]
pub struct Oracle(pub Vec<(Fact, bool)>);

impl Oracle {
    /// Adds an event.
    pub fn acknowledge(&mut self, fact: Fact) {
        let copy = self.0.iter().any(|(earlier, _)| (&earlier.user, &earlier.id) == (&fact.user, &fact.id));
        self.0.push((fact, copy));
    }

    /// What the batch half of `user`'s answer at `version` must be; nothing when it may be either of two.
    pub fn batch_half(&self, user: &str, version: i64, times: Range<i64>) -> Option<Figures> {
        let open = |fact: &Fact| fact.user == user && *fact.covered_by.start() <= version && version < *fact.covered_by.end();
        let counts = |fact: &Fact, copy: bool| !copy && *fact.covered_by.end() <= version;
        (!self.0.iter().any(|(fact, _)| open(fact))).then(|| self.sum(user, times, counts))
    }

    /// What `user`'s whole answer at `version` must be.
    pub fn answer(&self, user: &str, version: i64, times: Range<i64>) -> Figures {
        self.sum(user, times, |fact, copy| !copy || *fact.covered_by.end() > version)
    }

    fn sum(&self, user: &str, times: Range<i64>, counts: impl Fn(&Fact, bool) -> bool) -> Figures {
        let mut sum = Figures::default();
        let add =
            |to: &mut (i64, Option<i128>), amount: Option<i128>| *to = (to.0 + 1, amount.map_or(to.1, |a| Some(to.1.unwrap_or(0) + a)));
        for (fact, _) in self.0.iter().filter(|(f, copy)| f.user == user && times.contains(&f.time_us) && counts(f, *copy)) {
            let (first, last) = sum.times_us.unwrap_or((fact.time_us, fact.time_us));
            sum.times_us = Some((first.min(fact.time_us), last.max(fact.time_us)));
            add(&mut sum.total, fact.amount);
            add(sum.days.entry(fact.time_us.div_euclid(DAY_US) * DAY_US).or_default(), fact.amount);
        }
        sum
    }
}
