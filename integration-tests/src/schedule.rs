//! Random operations from one printed seed. The same seed gives the same schedule, whatever the servers do with it.

use std::ops::Range;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use crate::oracle::DAY_US;

/// Operations of one schedule, those that must be in it included.
const OPERATIONS: usize = 220;
/// Users that events are about.
const USERS: u32 = 20;
/// Events of one append at most.
const MAX_BATCH: usize = 20;
/// 2026-01-01, where the ordinary events begin.
const BEGIN_US: i64 = 20_454 * DAY_US;
/// Ordinary events lie within so many days.
const DAYS: i64 = 10;
/// A dedup window that duplicates do get past.
const SMALL_WINDOW_ROWS: u32 = 12;
const LARGE_WINDOW_ROWS: u32 = 1_000_000;

/// An event to append.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// Whose.
    pub user: String,
    /// Never the same twice in a schedule.
    pub id: String,
    /// Microseconds since 1970.
    pub time_us: i64,
    /// Ten-thousandths.
    pub amount: Option<i128>,
}

/// A row that the server must refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadRow {
    /// Of nobody.
    NoUser,
    /// Without a time.
    NoTime,
    /// With five digits behind the point.
    FineAmount,
    /// In the year 2300.
    FarFuture,
}

/// One thing that a client or an operator does.
#[derive(Clone, Debug)]
pub enum Operation {
    /// New events in one request, late ones and ones from the future among them.
    Append(Vec<NewEvent>),
    /// An acknowledged event again; the number picks among those that there are by then.
    Duplicate(u32),
    /// An acknowledged identity with another amount, picked likewise.
    Conflict(u32),
    /// A bad row and a good one in one request.
    Refused(BadRow, NewEvent),
    /// Forget a user.
    Erase(String),
    /// Forget its user, and send an event of theirs again that was acknowledged before; picked as a duplicate is.
    EraseAndResend(u32),
    /// Seal what there is.
    Cut,
    /// A batch run, while nothing else happens.
    Run,
    /// A batch run, with questions and appends, drawn from this seed, until its version answers.
    RunUnderQueries(u64),
    /// Stop the speed layer, ask without it, start it again.
    RestartSpeed,
    /// Stop and start the serving layer.
    RestartServing,
    /// Ask.
    Ask(Question),
}

/// One question.
#[derive(Clone, Debug)]
pub enum Question {
    /// Everything of one user, halves apart.
    Total(String),
    /// One user by day.
    Buckets(String),
    /// One user by day in a half-open range of whole days.
    Days(String, Range<i64>),
    /// Many users at once.
    Many(Vec<String>),
    /// One user, the batch view alone.
    BatchOnly(String),
}

/// The servers' settings and what happens to them.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Where it all comes from.
    pub seed: u64,
    /// Log partitions.
    pub partitions: u32,
    /// Newest records of a partition among which a duplicate is known.
    pub dedup_window_rows: u32,
    /// Whether objects are kept in memory rather than in a folder.
    pub store_in_memory: bool,
    /// In order.
    pub operations: Vec<Operation>,
}

impl Schedule {
    /// The schedule of `seed`: at least 200 operations, three partitions, a restart of each server, three runs, one of them
    /// under questions.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        let mut maker = Maker { random: StdRng::seed_from_u64(seed), events: 0 };
        let partitions = maker.random.random_range(3..=5);
        let small = maker.random.random_bool(0.4);
        let store_in_memory = maker.random.random_bool(0.5);
        let under_queries = maker.random.random();
        let mut operations = vec![
            Operation::Run,
            Operation::Run,
            Operation::RunUnderQueries(under_queries),
            Operation::RestartSpeed,
            Operation::RestartServing,
            Operation::Cut,
        ];
        while operations.len() < OPERATIONS {
            operations.push(maker.operation());
        }
        operations.shuffle(&mut maker.random);
        // A last word about everybody, from both halves.
        operations.push(Operation::Ask(Question::Many((0..USERS).map(user).collect())));
        let dedup_window_rows = if small { SMALL_WINDOW_ROWS } else { LARGE_WINDOW_ROWS };
        Self { seed, partitions, dedup_window_rows, store_in_memory, operations }
    }
}

/// Draws operations.
pub struct Maker {
    random: StdRng,
    events: u64,
}

impl Maker {
    /// For what happens while a run is under way; its events are none of the schedule's.
    #[must_use]
    pub fn aside(seed: u64) -> Self {
        Self { random: StdRng::seed_from_u64(seed), events: 1_000_000 + seed % 1_000_000_000 * 1_000_000 }
    }

    fn operation(&mut self) -> Operation {
        match self.random.random_range(0..100) {
            0..34 => Operation::Append((0..self.random.random_range(1..=MAX_BATCH)).map(|_| self.event()).collect()),
            34..46 => Operation::Duplicate(self.random.random()),
            46..50 => Operation::Conflict(self.random.random()),
            50..55 => {
                let kinds = [BadRow::NoUser, BadRow::NoTime, BadRow::FineAmount, BadRow::FarFuture];
                Operation::Refused(kinds[self.random.random_range(0..kinds.len())], self.event())
            }
            55..57 => Operation::Cut,
            57 => Operation::Run,
            58 => Operation::Erase(self.someone()),
            59 => Operation::EraseAndResend(self.random.random()),
            _ => Operation::Ask(self.question()),
        }
    }

    /// A question about users that there may be.
    pub fn question(&mut self) -> Question {
        let user = self.user();
        match self.random.random_range(0..10) {
            0..3 => Question::Total(user),
            3..5 => Question::Buckets(user),
            5..7 => {
                let start_us = BEGIN_US + self.random.random_range(-2..DAYS) * DAY_US;
                Question::Days(user, start_us..start_us + self.random.random_range(1..DAYS) * DAY_US)
            }
            7..9 => Question::Many((0..self.random.random_range(1..30)).map(|_| self.user()).collect()),
            _ => Question::BatchOnly(user),
        }
    }

    /// A new event: one in ten comes years late, one in twenty years early.
    pub fn event(&mut self) -> NewEvent {
        self.events += 1;
        let within = self.random.random_range(0..DAYS * DAY_US);
        let years = match self.random.random_range(0..20) {
            0..2 => -25,
            2 => 100,
            _ => 0,
        };
        let amount = self.random.random_bool(0.95).then(|| self.random.random_range(-1_000_000_000..=1_000_000_000_i128));
        NewEvent {
            user: user(self.random.random_range(0..USERS)),
            id: format!("e{}", self.events),
            time_us: BEGIN_US + within + years * 365 * DAY_US,
            amount,
        }
    }

    /// One of the users that events are about.
    pub fn someone(&mut self) -> String {
        user(self.random.random_range(0..USERS))
    }

    /// One of the users, seldom one without events.
    fn user(&mut self) -> String {
        user(self.random.random_range(0..=USERS))
    }

    /// Whether something happens that happens one time in `times`.
    pub fn one_in(&mut self, times: u32) -> bool {
        self.random.random_ratio(1, times)
    }
}

fn user(number: u32) -> String {
    format!("user-{number}")
}
