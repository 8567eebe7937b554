//! What was acknowledged, and what an answer may therefore say. It shares no code with the product.
//!
//! Each event of a user has an amount that is a power of four of its own, so that a sum tells how often each event was counted:
//! digit k of the sum, written to the base of four, is the number of times that event k is in it.

use std::collections::BTreeMap;
use std::fmt;

/// Events of one user at most: the sum of all must fit the amounts of an event.
pub(crate) const EVENTS_PER_USER: usize = 22;

/// One event that was sent.
#[derive(Clone, Debug)]
struct Fact {
    /// How often it was sent.
    sends: u32,
    /// When it was first sent, and when it was first known to be in the log, in steps of the oracle.
    sent: u64,
    sure: Option<u64>,
    /// How often it may be in the log, if it was sent again beyond the window.
    copies: u32,
    /// Its user is being erased.
    going: bool,
    /// When what was sent of it before was known to be erased.
    erased: Option<u64>,
}

impl Fact {
    /// Whether it was erased, or is being, and an answer to a question of then may have it or not.
    fn may_be_either(&self, asked: u64) -> bool {
        self.going || self.erased.is_some_and(|erased| erased >= asked)
    }
}

/// Every user's events in the order of their digits.
#[derive(Clone, Debug)]
pub(crate) struct Oracle {
    users: Vec<Vec<Fact>>,
    /// What the batch view alone has answered, by user and version.
    versions: BTreeMap<(usize, i64), i64>,
    step: u64,
    /// Resends at any distance are recognised.
    whole_window: bool,
}

/// An event: user and digit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Id {
    pub(crate) user: usize,
    pub(crate) digit: usize,
}

/// What was known when a question went out.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) at: u64,
    /// Events whose position the question named: an answer counts them, of whatever consistency it is.
    pub(crate) promised: Vec<Id>,
}

impl Id {
    /// In units of the currency.
    pub(crate) fn amount(self) -> i64 {
        4_i64.pow(self.digit as u32)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}-{}", self.user, self.digit)
    }
}

impl Oracle {
    pub(crate) fn new(users: usize, whole_window: bool) -> Self {
        Self { users: vec![Vec::new(); users], versions: BTreeMap::new(), step: 0, whole_window }
    }

    /// The time by which questions are compared with acknowledgements.
    pub(crate) fn now(&mut self) -> u64 {
        self.step += 1;
        self.step
    }

    /// A new event of `user`, if it may have more.
    pub(crate) fn invent(&mut self, user: usize) -> Option<Id> {
        let facts = &mut self.users[user];
        if facts.len() == EVENTS_PER_USER {
            return None;
        }
        facts.push(Fact { sends: 0, sent: u64::MAX, sure: None, copies: 0, going: false, erased: None });
        Some(Id { user, digit: facts.len() - 1 })
    }

    pub(crate) fn send(&mut self, id: Id) {
        let now = self.now();
        let fact = &mut self.users[id.user][id.digit];
        fact.sends += 1;
        fact.copies += 1;
        fact.sent = fact.sent.min(now);
    }

    /// It was refused for want of room: this time it is not in the log.
    pub(crate) fn refused(&mut self, id: Id) {
        let fact = &mut self.users[id.user][id.digit];
        fact.sends -= 1;
        fact.copies -= 1;
    }

    /// It is in the log: it was acknowledged, or was seen in an answer.
    pub(crate) fn sure(&mut self, id: Id) {
        let now = self.now();
        self.users[id.user][id.digit].sure.get_or_insert(now);
    }

    /// A resend was recognised as one: it has added no copy.
    pub(crate) fn recognised(&mut self, id: Id) {
        self.users[id.user][id.digit].copies -= 1;
    }

    /// The user is being erased: nothing is sent of them meanwhile, and what was may be counted or not.
    pub(crate) fn begin_erasure(&mut self, user: usize) {
        for fact in self.users[user].iter_mut().filter(|fact| fact.sends > 0) {
            (fact.going, fact.sure) = (true, None);
        }
    }

    /// The user is erased: what was sent before is gone, and whatever of it is sent from now on is new.
    pub(crate) fn end_erasure(&mut self, user: usize) {
        let now = self.now();
        for fact in self.users[user].iter_mut().filter(|fact| fact.going) {
            *fact = Fact { sends: 0, sent: u64::MAX, sure: None, copies: 0, going: false, erased: Some(now) };
        }
    }

    /// Events that are gone.
    pub(crate) fn erased(&self) -> Vec<Id> {
        self.ids(|fact| fact.erased.is_some() && fact.sends == 0)
    }

    /// Events of whom nobody knows whether they are in the log.
    pub(crate) fn unsure(&self) -> Vec<Id> {
        self.ids(|fact| fact.sure.is_none() && fact.sends > 0)
    }

    /// Events that surely are in the log.
    pub(crate) fn known(&self) -> Vec<Id> {
        self.ids(|fact| fact.sure.is_some())
    }

    fn ids(&self, wanted: impl Fn(&Fact) -> bool) -> Vec<Id> {
        let of_user = |(user, facts): (usize, &Vec<Fact>)| {
            facts.iter().enumerate().filter(|(_, fact)| wanted(fact)).map(|(digit, _)| Id { user, digit }).collect::<Vec<_>>()
        };
        self.users.iter().enumerate().flat_map(of_user).collect()
    }

    /// Judges what the batch view alone answers: a version says the same whenever it is asked, counts no event twice, and has all
    /// that an earlier one had.
    pub(crate) fn judge_version(&mut self, user: usize, version: i64, sum: i64) -> Result<(), String> {
        if (0..EVENTS_PER_USER).any(|digit| digit_of(sum, digit) > 1) {
            return Err(format!("version {version} counts an event of user {user} more than once: {sum}"));
        }
        // Of who was erased an earlier version has more, and the same version may come to have less.
        if self.users[user].iter().any(|fact| fact.going || fact.erased.is_some()) {
            return Ok(());
        }
        let first = *self.versions.entry((user, version)).or_insert(sum);
        if first != sum {
            return Err(format!("version {version} answers {first} about user {user}, and then {sum}"));
        }
        let has_all_of = |newer: i64, older: i64| (0..EVENTS_PER_USER).all(|digit| digit_of(newer, digit) >= digit_of(older, digit));
        let earlier = self.versions.range((user, i64::MIN)..(user, version)).next_back();
        let later = self.versions.range((user, version + 1)..=(user, i64::MAX)).next();
        if earlier.is_some_and(|(_, older)| !has_all_of(sum, *older)) || later.is_some_and(|(_, newer)| !has_all_of(*newer, sum)) {
            return Err(format!("about user {user} version {version} answers {sum}, beside {earlier:?} and {later:?}"));
        }
        Ok(())
    }

    /// Compares an answer with what was known when the question was asked. What it shows is sure from now on.
    ///
    /// With `may_lack`, events may be missing, as in an answer that says so. With `covered`, a batch view has removed all copies.
    pub(crate) fn judge(&mut self, user: usize, asked: &Asked, count: i64, sum: i64, may_lack: bool, covered: bool) -> Result<(), String> {
        let mut rest = sum;
        let mut counted = 0;
        let mut shown = Vec::new();
        for (digit, fact) in self.users[user].iter().enumerate() {
            let times = rest % 4;
            rest /= 4;
            counted += times;
            let copies = if self.whole_window || covered { 1 } else { i64::from(fact.copies.min(3)) };
            let either = fact.may_be_either(asked.at);
            // What is gone may still be in an answer that lacks something: it was read before, or from a store that does not know yet.
            let may_be_old = either || (may_lack && fact.erased.is_some());
            let most = if fact.sends == 0 && !may_be_old { 0 } else { copies.max(i64::from(may_be_old)) };
            let promised = !either && fact.sends > 0 && asked.promised.contains(&Id { user, digit });
            let least = i64::from(promised || (!may_lack && fact.sure.is_some_and(|sure| sure < asked.at)));
            if times < least || times > most {
                return Err(format!("event {digit} of user {user} is counted {times} times, not {least} to {most}: {fact:?}"));
            }
            if times > 0 && !may_be_old {
                shown.push(Id { user, digit });
            }
        }
        if rest != 0 || counted != count {
            return Err(format!("user {user}: {count} events are counted with a sum of {sum}, which is that of {counted} and {rest} over"));
        }
        shown.into_iter().for_each(|id| self.sure(id));
        Ok(())
    }
}

/// How often a sum counts the event of this digit.
fn digit_of(sum: i64, digit: usize) -> i64 {
    sum / 4_i64.pow(digit as u32) % 4
}
