//! How it is, in one sentence: how fresh answers are, and what a person must look at.

use std::time::Duration;

use super::{Console, words};
use crate::version::Version;

/// A batch view that is older than this is late where there is a run each night.
const LATE_AFTER: Duration = Duration::from_secs(36 * 3600);
/// Of the cap on dead letters: from here on somebody should look.
const LETTERS_PERCENT: i64 = 80;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Well,
    Look,
    Bad,
}

/// The sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Health {
    pub(super) level: Level,
    /// One or two words.
    pub(super) verdict: &'static str,
    pub(super) sentence: String,
}

/// What the sentence is made of.
#[derive(Clone, Debug, Default)]
struct Facts {
    opening: bool,
    /// Why the version that answers is damaged, if it is.
    damage: Option<String>,
    /// 0 while nothing is published.
    version: i64,
    computed_us: Option<i64>,
    now_us: i64,
    /// Events that came since the boundary, if the speed layer tells.
    since: Option<i64>,
    reachable: bool,
    log_failed: bool,
    damaged_segments: i64,
    disk_full: bool,
    letters_percent: i64,
}

/// How `console` is now.
pub(super) fn of(console: &Console) -> Health {
    let (version, heard) = (console.service.stats.versions.current(), console.pulse.heard());
    let speed = heard.speed();
    let facts = Facts {
        opening: !console.service.served.have_looked(),
        damage: version.damage(),
        version: version.number,
        computed_us: version.computed_us(),
        now_us: console.now_us(),
        since: speed.map(|speed| speed.partitions.iter().map(|p| behind(&version, p.number, p.head)).sum()),
        reachable: *console.speed_reachable.borrow(),
        log_failed: speed.is_some_and(|speed| speed.log_failed),
        damaged_segments: speed.map_or(0, |speed| speed.damaged_segments),
        disk_full: speed.is_some_and(|speed| speed.partitions.iter().any(|partition| partition.disk_full)),
        letters_percent: speed.map_or(0, |speed| speed.letter_bytes.saturating_mul(100) / speed.letter_limit_bytes.max(1)),
    };
    facts.judged()
}

/// Records of a partition that the version does not cover.
pub(super) fn behind(version: &Version, partition: i32, head: i64) -> i64 {
    (head - version.boundary.get(&partition).copied().unwrap_or(0)).max(0)
}

impl Facts {
    fn judged(&self) -> Health {
        let (version, age) = (self.version, self.computed_us.map(|at| words::ago(at, self.now_us)).unwrap_or_default());
        let bad = |verdict, sentence| Health { level: Level::Bad, verdict, sentence };
        if let Some(reason) = &self.damage {
            return bad(
                "Damaged",
                format!(
                    "Version {version} of user_stats answers nothing: {reason}. Publish it anew with batch-layer run --force, or roll back."
                ),
            );
        }
        if !self.reachable {
            let rest = match version {
                0 => "nothing is published either, so no question can be answered".to_owned(),
                _ => format!("only what version {version} covers is answered, computed {age}, and marked incomplete"),
            };
            return bad("Not fresh", format!("The speed layer cannot be reached: {rest}."));
        }
        if self.log_failed {
            return bad(
                "No new events",
                "The log takes no more events until the speed layer is restarted; what was acknowledged is answered.".to_owned(),
            );
        }
        if self.disk_full {
            return bad(
                "No new events",
                "The disk of the log is full: appends are refused until there is room; what was acknowledged is answered.".to_owned(),
            );
        }
        if self.opening {
            return Health { level: Level::Look, verdict: "Starting", sentence: "The views are being opened.".to_owned() };
        }
        let fresh = match (version, self.since) {
            (0, Some(0)) => "There are no events yet, and nothing is published".to_owned(),
            (0, since) => {
                let events = since.map_or_else(|| "all ".to_owned(), |n| format!("{} so far, ", words::counted(n, "event", "events")));
                format!("Answers hold every acknowledged event: {events}counted live, for nothing is published yet")
            }
            (_, since) => {
                let since = since.map_or_else(String::new, |n| format!(", and {} since", words::counted(n, "event", "events")));
                format!("Answers hold every acknowledged event: version {version}, computed {age}{since}")
            }
        };
        let look = if self.damaged_segments > 0 {
            Some(format!(
                "{} of the log or the store found damaged; a restart of the speed layer writes them afresh",
                words::counted(self.damaged_segments, "segment was", "segments were")
            ))
        } else if self.letters_percent >= LETTERS_PERCENT {
            Some(format!("refused rows fill {} % of their room", self.letters_percent))
        } else if self.computed_us.is_some_and(|at| self.now_us.saturating_sub(at) > LATE_AFTER.as_micros() as i64) {
            Some("no batch run has published for a day and a half".to_owned())
        } else {
            None
        };
        match look {
            Some(look) => Health { level: Level::Look, verdict: "Look", sentence: format!("{fresh}. But {look}.") },
            None => Health { level: Level::Well, verdict: "Fresh", sentence: format!("{fresh}.") },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_US: i64 = 3_600_000_000;

    fn well() -> Facts {
        Facts { version: 12, computed_us: Some(0), now_us: 3 * HOUR_US, since: Some(5312), reachable: true, ..Facts::default() }
    }

    /// Proves what is said when all is well, and that each thing that is not changes the verdict, the worst first.
    #[test]
    fn sentences() {
        let health = well().judged();
        assert_eq!((health.level, health.verdict), (Level::Well, "Fresh"));
        assert_eq!(health.sentence, "Answers hold every acknowledged event: version 12, computed 3 h ago, and 5,312 events since.");
        let empty = Facts { version: 0, computed_us: None, since: Some(0), ..well() };
        assert_eq!(empty.judged().sentence, "There are no events yet, and nothing is published.");
        let unpublished = Facts { since: Some(1), ..empty };
        assert_eq!(
            unpublished.judged().sentence,
            "Answers hold every acknowledged event: 1 event so far, counted live, for nothing is published yet."
        );

        let judged = |facts: Facts| (facts.judged().level, facts.judged().verdict);
        assert_eq!(judged(Facts { now_us: 37 * HOUR_US, ..well() }), (Level::Look, "Look"));
        assert_eq!(judged(Facts { letters_percent: 80, ..well() }), (Level::Look, "Look"));
        assert_eq!(judged(Facts { damaged_segments: 1, ..well() }), (Level::Look, "Look"));
        assert_eq!(judged(Facts { opening: true, ..well() }), (Level::Look, "Starting"));
        assert_eq!(judged(Facts { disk_full: true, ..well() }), (Level::Bad, "No new events"));
        assert_eq!(judged(Facts { log_failed: true, ..well() }), (Level::Bad, "No new events"));
        let away = Facts { reachable: false, log_failed: true, ..well() };
        assert_eq!(judged(away.clone()), (Level::Bad, "Not fresh"));
        assert!(away.judged().sentence.contains("only what version 12 covers is answered, computed 3 h ago"));
        assert_eq!(judged(Facts { damage: Some("a file".to_owned()), ..away }), (Level::Bad, "Damaged"));
    }
}
