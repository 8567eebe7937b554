//! Events that follow from their numbers, so that every answer is known without adding anything up.
//!
//! User `n` has one event on each of `days` days, that is the history; each fifth user has one more, that is live before the first
//! question. What is sent while questions are asked is counted per user: the answer must lie between what was acknowledged before
//! the question and what was sent before its answer.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use arrow::array::{RecordBatch, StringArray, TimestampMicrosecondArray};
use merganser_proto::v1::{Event, UserStats};
use parquet::arrow::ArrowWriter;
use prost_types::Timestamp;
use rand::Rng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, Zipf};

/// 2025-01-01T00:00:00Z, the first day of the history, in seconds.
const FIRST_DAY_S: i64 = 1_735_689_600;
const DAY_S: i64 = 86_400;
/// Each so manieth user has an event that is not in the batch view.
const LIVE_EVERY: u64 = 5;
/// Rows of a file of history that are made at once.
const ROWS: u64 = 65_536;
/// How unequal users are: the exponent of Zipf's law, which YCSB has near one.
const SKEW: f64 = 0.99;
/// Coprime to every number of users that is not a multiple of it: scatters those who are asked for often over the whole view.
const SCATTER: u64 = 2_654_435_761;

/// How much there is.
#[derive(Debug)]
pub struct History {
    /// Users.
    pub users: u64,
    /// Days of history, an event of each user on each.
    pub days: u64,
    popularity: Zipf<f64>,
    /// Of each user: events sent, and acknowledged, since the live ones.
    sent: Vec<AtomicU32>,
    acknowledged: Vec<AtomicU32>,
}

impl History {
    /// Nothing is made yet.
    ///
    /// # Errors
    /// There are no users.
    pub fn new(users: u64, days: u64) -> Result<Self> {
        ensure!(users > 0 && days > 0, "there must be a user and a day");
        let counters = || (0..users).map(|_| AtomicU32::new(0)).collect();
        Ok(Self { users, days, popularity: Zipf::new(users as f64, SKEW)?, sent: counters(), acknowledged: counters() })
    }

    /// A user: a few are asked for often, most seldom.
    pub fn popular(&self, random: &mut StdRng) -> u64 {
        let rank = self.popularity.sample(random) as u64;
        rank.wrapping_mul(SCATTER) % self.users
    }

    /// Any user.
    pub fn any(&self, random: &mut StdRng) -> u64 {
        random.random_range(0..self.users)
    }

    /// Writes the history as a Parquet file of events.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(&self, path: &Path) -> Result<()> {
        let file = File::create(path).with_context(|| path.display().to_string())?;
        let mut writer = ArrowWriter::try_new(file, self.batch(0..0)?.schema(), None)?;
        let rows = self.users * self.days;
        for start in (0..rows).step_by(ROWS as usize) {
            writer.write(&self.batch(start..rows.min(start + ROWS))?)?;
        }
        writer.close()?;
        Ok(())
    }

    fn batch(&self, rows: std::ops::Range<u64>) -> Result<RecordBatch> {
        let places = || rows.clone().map(|row| (row % self.users, row / self.users));
        let times = places().map(|(user, day)| time_s(user, day as i64) * 1_000_000);
        Ok(RecordBatch::try_from_iter([
            ("event_id", Arc::new(StringArray::from_iter_values(places().map(|(_, day)| format!("h{day}")))) as _),
            ("user_id", Arc::new(StringArray::from_iter_values(places().map(|(user, _)| name(user)))) as _),
            ("event_time", Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC")) as _),
            ("amount", Arc::new(StringArray::from_iter_values(places().map(|(user, day)| money(cents(user, day))))) as _),
        ])?)
    }

    /// The events that are live before the first question.
    pub fn live(&self) -> impl Iterator<Item = Event> {
        (0..self.users).step_by(LIVE_EVERY as usize).map(|user| self.event(user, "l", self.days))
    }

    /// One more event of a user. Say when it is acknowledged.
    pub fn next(&self, user: u64) -> Event {
        let number = self.sent[user as usize].fetch_add(1, Ordering::SeqCst);
        self.event(user, &format!("n{number}"), self.days + 1)
    }

    /// An event of a user has been acknowledged.
    pub fn acknowledge(&self, user: u64) {
        self.acknowledged[user as usize].fetch_add(1, Ordering::SeqCst);
    }

    fn event(&self, user: u64, event_id: &str, day: u64) -> Event {
        Event {
            event_id: event_id.to_owned(),
            user_id: name(user),
            event_time: Some(Timestamp { seconds: time_s(user, day as i64), nanos: 0 }),
            event_type: String::new(),
            amount: money(cents(user, day)),
            ..Event::default()
        }
    }

    /// What was acknowledged of a user, to be asked for before a question is sent.
    #[must_use]
    pub fn acknowledged(&self, user: u64) -> u32 {
        self.acknowledged[user as usize].load(Ordering::SeqCst)
    }

    /// Why an answer cannot be right, where `acknowledged` was so before the question.
    #[must_use]
    pub fn complaint(&self, user: u64, acknowledged: u32, stats: &UserStats) -> Option<String> {
        let live = u64::from(user.is_multiple_of(LIVE_EVERY));
        let known = self.days + live;
        let (least, most) = (known + u64::from(acknowledged), known + u64::from(self.sent[user as usize].load(Ordering::SeqCst)));
        let Some(count) = u64::try_from(stats.event_count).ok().filter(|count| (least..=most).contains(count)) else {
            return Some(format!("{} has {} events, and {least} to {most} are right", stats.user_id, stats.event_count));
        };
        let history: u64 = (0..self.days).map(|day| cents(user, day)).sum();
        let revenue = money(history + live * cents(user, self.days) + (count - known) * cents(user, self.days + 1));
        let right = stats.user_id == name(user) && same_amount(&stats.revenue, &revenue);
        (!right).then(|| format!("{} has a revenue of {}, and {revenue} is right", stats.user_id, stats.revenue))
    }
}

/// The id of a user.
#[must_use]
pub fn name(user: u64) -> String {
    format!("user-{user:08}")
}

fn time_s(user: u64, day: i64) -> i64 {
    FIRST_DAY_S + day * DAY_S + (user % 86_400).cast_signed()
}

fn cents(user: u64, day: u64) -> u64 {
    (user * 31 + day * 7) % 10_000
}

fn money(cents: u64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

/// Whether two decimals are equal but for zeros at the end.
fn same_amount(one: &str, other: &str) -> bool {
    let bare = |text: &str| if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text.to_owned() };
    bare(one) == bare(other)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Proves that an answer which lacks an acknowledged event, or has one that nobody sent, is told.
    #[test]
    fn complaints() {
        let history = History::new(10, 3).unwrap();
        assert!(same_amount("720", "720.00") && same_amount("7.2", "7.20") && !same_amount("72", "720"));
        let mut right = UserStats { user_id: name(5), event_count: 4, revenue: "6.6200".into(), ..UserStats::default() };
        assert_eq!(history.complaint(5, 0, &right), None);
        right.event_count = 5;
        assert!(history.complaint(5, 0, &right).is_some_and(|said| said.contains("4 to 4 are right")));
        history.next(5);
        history.acknowledge(5);
        right.revenue = "8.4500".into();
        assert_eq!(history.complaint(5, 1, &right), None);
        right.revenue = "8.4400".into();
        assert!(history.complaint(5, 1, &right).is_some_and(|said| said.contains("8.45 is right")));
        right.event_count = 4;
        assert!(history.complaint(5, history.acknowledged(5), &right).is_some());
    }
}
