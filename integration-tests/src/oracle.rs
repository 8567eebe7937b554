//! What every answer must be: a list of acknowledged events, added up anew for every question. It shares no code with the product.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};

pub const DAY_US: i64 = 86_400_000_000;
/// Count, and revenue in ten-thousandths.
pub type Sum = (i64, Option<i128>);

/// One acknowledged event, and the first version that covers it: either of two when it arrived while a run was under way.
#[derive(Clone, Debug)]
pub struct Fact {
    pub user: String,
    pub id: String,
    pub time_us: i64,
    pub amount: Option<i128>,
    pub covered_by: RangeInclusive<i64>,
    /// How many records came before it.
    pub record: usize,
}

/// All together, first and last time, and sums by start of day.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub total: Sum,
    pub times_us: Option<(i64, i64)>,
    pub days: BTreeMap<i64, Sum>,
}

/// The acknowledged events in order, and whether each is a copy of an earlier one, which counts until a version covers it. What is erased
/// was never there. Then how many records there are.
#[derive(Debug, Default)]
pub struct Oracle(pub Vec<(Fact, bool)>, pub usize);

impl Oracle {
    pub fn acknowledge(&mut self, mut fact: Fact) {
        fact.record = self.1;
        self.1 += 1;
        let copy = self.0.iter().any(|(earlier, _)| (&earlier.user, &earlier.id) == (&fact.user, &fact.id));
        self.0.push((fact, copy));
    }

    pub fn erase(&mut self, user: &str) {
        self.0.retain(|(fact, _)| fact.user != user);
        self.1 += 1;
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
        let add = |to: &mut Sum, more: Option<i128>| *to = (to.0 + 1, to.1.into_iter().chain(more).reduce(|a, b| a + b));
        let counted = self.0.iter().filter(|(f, copy)| f.user == user && times.contains(&f.time_us) && counts(f, *copy));
        counted.fold(Figures::default(), |mut sum, (Fact { time_us: at, amount, .. }, _)| {
            sum.times_us = Some(sum.times_us.map_or((*at, *at), |(first, last)| (first.min(*at), last.max(*at))));
            add(&mut sum.total, *amount);
            add(sum.days.entry(at.div_euclid(DAY_US) * DAY_US).or_default(), *amount);
            sum
        })
    }
}
