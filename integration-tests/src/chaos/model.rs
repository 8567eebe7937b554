//! What was sent and what was acknowledged, user by user, added up plainly. It shares no code with the product.
//!
//! An event is *open* from the moment it is sent until it is acknowledged, or an answer that allows no other explanation has
//! counted it. An answer must count every event that was not open when it was asked for, and of the open ones and those sent
//! meanwhile some set, each once: count, sum, first and last time must be those of such a set.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rand::Rng;
use rand::rngs::StdRng;

/// 2026-01-01.
const BEGIN_US: i64 = 20_454 * 86_400_000_000;
const SPREAD_US: i64 = 20 * 86_400_000_000;
/// Open events of one answer beyond which only bounds are checked.
const MOST_OPEN: usize = 22;

/// An event, numbered from 0 for each user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Ten-thousandths.
    pub amount: i64,
    /// Microseconds since 1970.
    pub time_us: i64,
    /// Length of the trace when it was first sent.
    pub sent_at: u64,
    /// Length of the trace when its acknowledgement was there.
    pub acked_at: Option<u64>,
}

/// What an answer says, or should say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Events.
    pub count: i64,
    /// Ten-thousandths.
    pub amount: i128,
    /// First and last time.
    pub times_us: Option<(i64, i64)>,
}

impl Sums {
    /// With one event more.
    #[must_use]
    pub fn with(mut self, event: &Event) -> Self {
        self.count += 1;
        self.amount += i128::from(event.amount);
        let at = event.time_us;
        self.times_us = Some(self.times_us.map_or((at, at), |(first, last)| (first.min(at), last.max(at))));
        self
    }
}

/// One user's events.
#[derive(Debug, Default)]
struct User {
    events: Vec<Event>,
    open: BTreeSet<usize>,
    must: Sums,
}

/// What was known when a question was asked.
#[derive(Clone, Debug)]
pub struct Before {
    must: Sums,
    open: Vec<usize>,
    sent: usize,
}

/// What is wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Fewer events than were acknowledged.
    Lost,
    /// More than were sent.
    Twice,
    /// The count can be, sum or times cannot.
    Unexplained,
}

/// How an answer was judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    /// Count, sum and times are those of a possible set.
    Exact,
    /// Too much was open: the count lies within its bounds.
    Bounds,
}

/// All users.
#[derive(Debug)]
pub struct Model {
    users: Vec<Mutex<User>>,
}

impl Model {
    /// So many users, without events.
    #[must_use]
    pub fn new(users: usize) -> Self {
        Self { users: (0..users).map(|_| Mutex::default()).collect() }
    }

    /// How many users there are.
    #[must_use]
    pub fn users(&self) -> usize {
        self.users.len()
    }

    fn user(&self, user: usize) -> MutexGuard<'_, User> {
        self.users[user].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new event, which is open from now on.
    pub fn send(&self, user: usize, random: &mut StdRng, sent_at: u64) -> usize {
        let mut user = self.user(user);
        let amount = random.random_range(-1_000_000_000_000_i64..9_000_000_000_000);
        user.events.push(Event { amount, time_us: BEGIN_US + random.random_range(0..SPREAD_US), sent_at, acked_at: None });
        let number = user.events.len() - 1;
        user.open.insert(number);
        number
    }

    /// It was acknowledged. To say so twice changes nothing.
    pub fn acknowledge(&self, user: usize, number: usize, acked_at: u64) {
        let mut user = self.user(user);
        user.events[number].acked_at.get_or_insert(acked_at);
        user.close(number);
    }

    /// One event.
    #[must_use]
    pub fn event(&self, user: usize, number: usize) -> Event {
        self.user(user).events[number]
    }

    /// All events of a user.
    #[must_use]
    pub fn events(&self, user: usize) -> Vec<Event> {
        self.user(user).events.clone()
    }

    /// A user's newest event that is acknowledged, if any is.
    #[must_use]
    pub fn newest_acknowledged(&self, user: usize) -> Option<usize> {
        let user = self.user(user);
        (0..user.events.len()).rev().find(|number| user.events[*number].acked_at.is_some())
    }

    /// Sums of what must be counted, and how many events are open.
    #[must_use]
    pub fn settled(&self, user: usize) -> (Sums, usize) {
        let user = self.user(user);
        (user.must, user.open.len())
    }

    /// To be called before a question goes out.
    #[must_use]
    pub fn ask(&self, user: usize) -> Before {
        let user = self.user(user);
        Before { must: user.must, open: user.open.iter().copied().collect(), sent: user.events.len() }
    }

    /// Judges an answer to a question that went out after `before`. Where only one set explains it, its events are settled.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn judge(&self, user: usize, before: &Before, answer: &Sums) -> Result<Judged, Wrong> {
        let mut user = self.user(user);
        let may: Vec<usize> = before.open.iter().copied().chain(before.sent..user.events.len()).collect();
        let events: Vec<Event> = may.iter().map(|number| user.events[*number]).collect();
        let (judged, set) = explain(&before.must, &events, answer)?;
        set.into_iter().flatten().for_each(|at| user.close(may[at]));
        Ok(judged)
    }

    /// Judges an answer that need not be complete: no more than was sent.
    ///
    /// # Errors
    /// It counts more.
    pub fn judge_at_most(&self, user: usize, answer: &Sums) -> Result<(), Wrong> {
        let sent = self.user(user).events.len();
        if answer.count > sent as i64 { Err(Wrong::Twice) } else { Ok(()) }
    }
}

impl User {
    fn close(&mut self, number: usize) {
        if self.open.remove(&number) {
            self.must = self.must.with(&self.events[number]);
        }
    }
}

/// Which of the events in `may` an answer counts beyond `must`; the set is given where there is exactly one.
///
/// # Errors
/// No set explains it.
pub fn explain(must: &Sums, may: &[Event], answer: &Sums) -> Result<(Judged, Option<Vec<usize>>), Wrong> {
    let missing = answer.count - must.count;
    if missing < 0 {
        return Err(Wrong::Lost);
    }
    if missing > may.len() as i64 {
        return Err(Wrong::Twice);
    }
    if may.len() > MOST_OPEN {
        return Ok((Judged::Bounds, None));
    }
    let mut found = Vec::new();
    search(must, may, 0, missing, answer, &mut Vec::new(), &mut found);
    match found.len() {
        0 => Err(Wrong::Unexplained),
        1 => Ok((Judged::Exact, found.pop())),
        _ => Ok((Judged::Exact, None)),
    }
}

/// Collects up to two sets of `missing` events from `from` on that make `sums` the answer.
fn search(sums: &Sums, may: &[Event], from: usize, missing: i64, answer: &Sums, chosen: &mut Vec<usize>, found: &mut Vec<Vec<usize>>) {
    if missing == 0 {
        if sums == answer {
            found.push(chosen.clone());
        }
        return;
    }
    for next in from..may.len() {
        if ((may.len() - next) as i64) < missing || found.len() > 1 {
            return;
        }
        chosen.push(next);
        search(&sums.with(&may[next]), may, next + 1, missing - 1, answer, chosen, found);
        chosen.pop();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    /// Proves that the auditor tells lost, twice and unexplained apart, and believes an answer that counted an open event.
    #[test]
    fn answers_are_judged() {
        let model = Model::new(1);
        let mut random = StdRng::seed_from_u64(1);
        let numbers: Vec<usize> = (0..3).map(|_| model.send(0, &mut random, 0)).collect();
        model.acknowledge(0, numbers[0], 0);
        let events = model.events(0);
        let sums = |of: &[usize]| of.iter().fold(Sums::default(), |sums, number| sums.with(&events[*number]));

        let before = model.ask(0);
        assert_eq!(model.judge(0, &before, &sums(&[])), Err(Wrong::Lost));
        assert_eq!(model.judge(0, &before, &sums(&[0, 0, 0, 0])), Err(Wrong::Twice));
        assert_eq!(model.judge(0, &before, &sums(&[0, 0])), Err(Wrong::Unexplained));
        assert_eq!(model.judge(0, &before, &sums(&[0])), Ok(Judged::Exact));
        assert_eq!(model.judge(0, &before, &sums(&[0, 2])), Ok(Judged::Exact));
        // What one answer has shown the next must not forget.
        assert_eq!(model.judge(0, &model.ask(0), &sums(&[0])), Err(Wrong::Lost));
        assert_eq!(model.judge(0, &before, &sums(&[0])), Ok(Judged::Exact));
    }
}
