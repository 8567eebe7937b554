//! When a run is due: at the times of a cron expression (from all events), after a pause (built upon the version before), or when
//! enough new data is archived.
//!
//! What is due is decided from the clock on the wall and from what was published, not from timers: a run that was missed while
//! nobody was there, or while another one took long, is due at once and once, and neither a clock change nor a suspended machine moves
//! the next one.

use std::time::Duration;

use chrono::{DateTime, TimeZone, Utc};
use chrono_tz::Tz;
use croner::{Cron, Direction};
use storage::manifest::Manifests;
use storage::master;
use storage::paths::ViewName;
use storage::store::Store;

use crate::error::RunError;
use crate::report::began;

#[cfg(test)]
mod tests;

/// What kind of run is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// One over all events.
    Full,
    /// One that builds upon the version before.
    Incremental,
}

/// When runs are due.
#[derive(Clone, Debug)]
pub struct Timetable {
    /// Times of runs over all events, by the clock of a place.
    pub cron: Option<(Cron, Tz)>,
    /// The longest time without a run.
    pub every: Option<Duration>,
    /// The most bytes of archived segments that no version covers.
    pub new_bytes: Option<u64>,
}

/// What was done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// When the last run over all events began.
    pub full: Option<DateTime<Utc>>,
    /// When the last run of any kind began.
    pub any: Option<DateTime<Utc>>,
}

impl Done {
    /// A run that began at `now` has ended.
    pub fn note(&mut self, due: Due, now: DateTime<Utc>) {
        self.any = Some(now);
        if due == Due::Full {
            self.full = Some(now);
        }
    }
}

impl Timetable {
    /// What is due at `now`, while `new_bytes` of archived segments are covered by no version.
    #[must_use]
    pub fn due(&self, now: DateTime<Utc>, done: Done, new_bytes: u64) -> Option<Due> {
        let since = |done: Option<DateTime<Utc>>| done.filter(|done| *done <= now);
        let was_missed = |last: DateTime<Utc>| since(done.full).is_none_or(|full| full < last);
        if self.last_of_cron(now).is_some_and(was_missed) {
            return Some(Due::Full);
        }
        let is_long_ago = |every: Duration| since(done.any).is_none_or(|any| (now - any).to_std().is_ok_and(|pause| pause >= every));
        let is_much = |most: u64| new_bytes > 0 && new_bytes >= most;
        (self.every.is_some_and(is_long_ago) || self.new_bytes.is_some_and(is_much)).then_some(Due::Incremental)
    }

    /// When the next run over all events is due, if it has its times.
    #[must_use]
    pub fn next_of_cron(&self, now: DateTime<Utc>) -> Option<DateTime<Tz>> {
        let (cron, zone) = self.cron.as_ref()?;
        cron.find_next_occurrence(&zone.from_utc_datetime(&now.naive_utc()), false).ok()
    }

    fn last_of_cron(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let (cron, zone) = self.cron.as_ref()?;
        let here = zone.from_utc_datetime(&now.naive_utc());
        cron.find_previous_occurrence(&here, true).ok().map(|last| last.to_utc())
    }
}

/// When the views were last published, the one that waits longest counting; nothing where a view has no version yet.
///
/// # Errors
/// What the store says.
pub async fn published(store: &Store, views: impl IntoIterator<Item = &ViewName>) -> Result<Done, RunError> {
    let mut all: Option<Done> = None;
    for view in views {
        let manifests = Manifests::new(store.clone(), view.clone());
        let mut done = Done::default();
        for version in manifests.list().await?.into_iter().rev() {
            let manifest = match manifests.read(version).await {
                Ok(manifest) => manifest,
                // What went before is not known then, so a run is due.
                Err(e) if e.is_damage() => break,
                Err(e) => return Err(e.into()),
            };
            // A version that was taken back or withdrawn is no run's work: it has no files of its own.
            let is_own = manifest.files.iter().any(|file| file.path.contains(&manifest.run_id));
            let Some(began) = began(&manifest.run_id).filter(|_| is_own) else { continue };
            done.any.get_or_insert(began);
            if manifest.built_upon.is_none() {
                done.full = Some(began);
                break;
            }
        }
        all = Some(all.map_or(done, |all| Done { full: all.full.min(done.full), any: all.any.min(done.any) }));
    }
    Ok(all.unwrap_or_default())
}

/// How many bytes of archived segments the newest version of some view does not cover.
///
/// # Errors
/// What the store says.
pub async fn uncovered_bytes(store: &Store, views: impl IntoIterator<Item = &ViewName>) -> Result<u64, RunError> {
    let sizes = master::segment_sizes(store).await?;
    let mut most = 0;
    for view in views {
        let newest = Manifests::new(store.clone(), view.clone()).latest().await?;
        let covered = |partition: u32| newest.as_ref().and_then(|newest| newest.boundary.get(partition as usize)).copied().unwrap_or(0);
        let uncovered = sizes.iter().filter(|(path, _)| path.end > covered(path.partition));
        most = most.max(uncovered.map(|(_, bytes)| bytes).sum());
    }
    Ok(most)
}

/// Reads a cron expression of five fields, to be meant in a place's time.
///
/// # Errors
/// It is none, or it never comes true.
pub fn cron(expression: &str) -> Result<Cron, String> {
    let wrong = |reason: String| {
        format!("\"{expression}\" is not a cron expression: {reason}; write minute, hour, day, month, weekday, such as \"0 2 * * *\"")
    };
    let cron: Cron = expression.parse().map_err(|e: croner::errors::CronError| wrong(e.to_string()))?;
    let any_time = DateTime::UNIX_EPOCH + Duration::from_secs(50 * 365 * 86_400);
    match cron.iter_from(any_time, Direction::Forward).next() {
        Some(_) => Ok(cron),
        None => Err(wrong("it never comes true".to_owned())),
    }
}
