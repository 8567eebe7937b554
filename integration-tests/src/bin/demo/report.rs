//! What is printed at the end: a few users, and where their answers came from.

use std::fmt;

use integration_tests::plain_fold::text::{date, grouped, show_money};
use integration_tests::plain_fold::{Stats, UserStats};
use merganser_proto::v1::Provenance;

use crate::ask::Explained;

const MICROS_PER_DAY: i64 = 86_400_000_000;
/// Longest user id in the table.
const ID_WIDTH: usize = 16;

/// A user in the table.
pub(crate) struct Shown {
    pub(crate) user: String,
    pub(crate) explained: Explained,
    pub(crate) plain: UserStats,
}

impl Shown {
    /// Whether both halves and their sum are what the plain fold says.
    pub(crate) fn agrees(&self) -> bool {
        let Explained { batch, speed, answer } = &self.explained;
        *batch == self.plain.batch && *speed == self.plain.live && *answer == self.plain.total() && *answer == batch.plus(speed)
    }
}

/// The closing table.
pub(crate) struct Report {
    pub(crate) shown: Vec<Shown>,
    pub(crate) provenance: Provenance,
    pub(crate) total: UserStats,
    pub(crate) users: u64,
    pub(crate) rejected: u64,
    pub(crate) letters: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:ID_WIDTH$}  {:7}  {:>15}   {:>15}   {:>15}   {:>15}",
            "user", "", "batch part", "+ speed part", "= answer", "plain fold"
        )?;
        for shown in &self.shown {
            let Explained { batch, speed, answer } = &shown.explained;
            let plain = shown.plain.total();
            let verdict = if shown.agrees() { "ok" } else { "DIFFERENT" };
            let user = shortened(&shown.user, ID_WIDTH);
            let line = |f: &mut fmt::Formatter<'_>, name: &str, what: &str, show: fn(&Stats) -> String| {
                let [batch, speed, answer, plain] = [batch, speed, answer, &plain].map(show);
                write!(f, "{name:ID_WIDTH$}  {what:7}  {batch:>15}   {speed:>15}   {answer:>15}   {plain:>15}")
            };
            line(f, &user, "events", |stats| grouped(stats.count))?;
            writeln!(f, "   {verdict}")?;
            line(f, "", "revenue", |stats| stats.revenue.map_or_else(|| "-".to_owned(), show_money))?;
            writeln!(f)?;
        }
        let Provenance { version, boundary, view, .. } = &self.provenance;
        let boundary: Vec<_> = boundary.iter().map(|at| format!("partition {} from {}", at.partition, at.offset)).collect();
        writeln!(f, "\nview {view}, version {version}; the realtime view begins at the boundary: {}", boundary.join(", "))?;
        let total = self.total.total();
        writeln!(
            f,
            "{} events = {} in the batch view + {} in the realtime view, of {} users; {} rows rejected, {} dead letters",
            grouped(total.count),
            grouped(self.total.batch.count),
            grouped(self.total.live.count),
            grouped(self.users),
            grouped(self.rejected),
            grouped(self.letters),
        )?;
        let day = |time: Option<i64>| {
            time.map_or_else(String::new, |us| {
                let (year, month, day) = date(us.div_euclid(MICROS_PER_DAY));
                format!("{year:04}-{month:02}-{day:02}")
            })
        };
        writeln!(f, "revenue {}, from {} to {}", show_money(total.revenue.unwrap_or(0)), day(total.first_us), day(total.last_us))
    }
}

/// The end of a text that is too long, which tells more of a path than its beginning.
pub(crate) fn shortened(text: &str, most: usize) -> String {
    let length = text.chars().count();
    if length <= most {
        return text.to_owned();
    }
    format!("…{}", text.chars().skip(length - most + 1).collect::<String>())
}
