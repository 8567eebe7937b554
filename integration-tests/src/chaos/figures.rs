//! What happened, in numbers: counted while it happens, printed at the end.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::model::Wrong;
use super::points::Point;
use super::world::Role;

/// What is wrong is shown up to so many lines.
const SHOWN: usize = 12;
const JUST_NOW: Duration = Duration::from_millis(200);

/// A count that many tasks add to.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// One more.
    pub fn one(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// How many.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The figures of one run.
#[derive(Debug, Default)]
#[allow(missing_docs, reason = "the names say it, and Display says it again")]
pub struct Figures {
    pub requests_acked: Count,
    pub events_accepted: Count,
    pub duplicates: Count,
    pub refused: Count,
    pub unknown: Count,
    pub answers: Count,
    pub answers_by_bounds: Count,
    pub answers_incomplete: Count,
    pub questions_failed: Count,
    pub publishes: Count,
    pub runs_lost: Count,
    pub stops: Count,
    pub kills_with_appends: Count,
    pub kills_in_publish: Count,
    pub lost: Count,
    pub twice: Count,
    pub unexplained: Count,
    /// Requests that are sent and not answered.
    pub in_flight: AtomicI64,
    /// Batch runs under way.
    pub running: AtomicI64,
    random_kills: Mutex<BTreeMap<Role, u64>>,
    point_kills: Mutex<BTreeMap<(Role, Point), u64>>,
    recoveries: Mutex<BTreeMap<Role, Vec<Duration>>>,
    newest: Mutex<BTreeMap<Role, Instant>>,
    unknown_at: Mutex<Option<Instant>>,
    wrong: Mutex<Vec<String>>,
    began: Began,
    first_wrong: Mutex<Option<Duration>>,
}

#[derive(Debug)]
struct Began(Instant);

impl Default for Began {
    fn default() -> Self {
        Self(Instant::now())
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Figures {
    /// A process was killed, or died at a point.
    pub fn killed(&self, role: Role, point: Option<Point>) {
        let publishing = self.running.load(Ordering::Relaxed) > 0;
        // Where a process died by itself, its callers may have heard of it already.
        let just_now = locked(&self.unknown_at).is_some_and(|at| at.elapsed() < JUST_NOW);
        let appends = self.in_flight.load(Ordering::Relaxed) > 0 || just_now;
        match point {
            Some(point) => *locked(&self.point_kills).entry((role, point)).or_default() += 1,
            None => *locked(&self.random_kills).entry(role).or_default() += 1,
        }
        self.kills_with_appends.add(u64::from(role == Role::Speed && appends));
        self.kills_in_publish.add(u64::from(publishing));
    }

    /// An append was sent, and its outcome is unknown.
    pub fn not_known(&self) {
        self.unknown.one();
        *locked(&self.unknown_at) = Some(Instant::now());
    }

    /// A server has answered what was asked at this moment.
    pub fn answered(&self, role: Role, asked: Instant) {
        let mut newest = locked(&self.newest);
        let entry = newest.entry(role).or_insert(asked);
        *entry = asked.max(*entry);
    }

    /// Whether the server has answered anything that was asked after this moment.
    #[must_use]
    pub fn answered_since(&self, role: Role, moment: Instant) -> bool {
        locked(&self.newest).get(&role).is_some_and(|asked| *asked > moment)
    }

    /// It took so long from a death to the next answer.
    pub fn recovered(&self, role: Role, after: Duration) {
        locked(&self.recoveries).entry(role).or_default().push(after);
    }

    /// An answer or a state that must not be.
    pub fn wrong(&self, kind: Wrong, what: String) {
        match kind {
            Wrong::Lost => self.lost.one(),
            Wrong::Twice => self.twice.one(),
            Wrong::Unexplained => self.unexplained.one(),
        }
        let after = self.began.0.elapsed();
        locked(&self.first_wrong).get_or_insert(after);
        let mut wrong = locked(&self.wrong);
        if wrong.len() < SHOWN {
            wrong.push(format!("{:.1} s {kind:?}: {what}", after.as_secs_f64()));
        }
    }

    /// How many things were wrong.
    #[must_use]
    pub fn wrongs(&self) -> u64 {
        self.lost.get() + self.twice.get() + self.unexplained.get()
    }

    /// Kills of all processes, by point and at random.
    #[must_use]
    pub fn kills(&self) -> u64 {
        locked(&self.random_kills).values().sum::<u64>() + locked(&self.point_kills).values().sum::<u64>()
    }

    /// The points that killed, and how often.
    #[must_use]
    pub fn points(&self) -> Vec<(Role, Point, u64)> {
        locked(&self.point_kills).iter().map(|((role, point), count)| (*role, *point, *count)).collect()
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let points = self.points();
        let of_points: u64 = points.iter().map(|(_, _, count)| count).sum();
        writeln!(f, "{:>9}  kills: {of_points} at {} named points, the rest at random", self.kills(), points.len())?;
        for role in [Role::Speed, Role::Serving, Role::Batch] {
            let random = locked(&self.random_kills).get(&role).copied().unwrap_or(0);
            let named: u64 = points.iter().filter(|(of, _, _)| *of == role).map(|(_, _, count)| count).sum();
            writeln!(f, "{:>9}  … of {}, {named} at points", random + named, role.program())?;
        }
        for (name, count) in [
            ("… of the speed layer with appends in flight", &self.kills_with_appends),
            ("… while a batch run was under way", &self.kills_in_publish),
            ("stops (SIGSTOP) for a while", &self.stops),
            ("versions published", &self.publishes),
            ("runs that lost to another", &self.runs_lost),
            ("requests acknowledged", &self.requests_acked),
            ("events accepted in them", &self.events_accepted),
            ("duplicates acknowledged", &self.duplicates),
            ("rows refused", &self.refused),
            ("outcomes unknown, asked again until known", &self.unknown),
            ("answers held against the model", &self.answers),
            ("… of which by bounds alone", &self.answers_by_bounds),
            ("answers that said they were incomplete", &self.answers_incomplete),
            ("questions answered by an error", &self.questions_failed),
        ] {
            writeln!(f, "{:>9}  {name}", count.get())?;
        }
        for (role, times) in locked(&self.recoveries).iter() {
            let mut times = times.clone();
            times.sort_unstable();
            let (half, most) = (times[times.len() / 2].as_secs_f64(), times[times.len() - 1].as_secs_f64());
            writeln!(f, "{:>9}  recoveries of {}: p50 {half:.2} s, max {most:.2} s", times.len(), role.program())?;
        }
        for (role, point, count) in points {
            writeln!(f, "{count:>9}  {} died at {point}", role.program())?;
        }
        let (lost, twice, unexplained) = (self.lost.get(), self.twice.get(), self.unexplained.get());
        writeln!(f, "{lost:>9}  lost\n{twice:>9}  twice\n{unexplained:>9}  unexplained")?;
        if let Some(after) = *locked(&self.first_wrong) {
            writeln!(f, "first found after {:.1} s", after.as_secs_f64())?;
        }
        locked(&self.wrong).iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}
