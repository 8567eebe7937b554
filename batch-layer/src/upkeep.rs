//! What keeps a store small: expiry and compaction, when they are asked for and, if the schedule is told so, once a day behind a run.

use std::collections::BTreeSet;
use std::time::Duration;

use batch_layer::compact::{self, CompactOptions};
use batch_layer::expire::{self, ExpireOptions};
use chrono::{DateTime, Utc};
use cli::{Output, Printed};
use serde_json::json;
use storage::config::Config;
use storage::manifest::list_views;
use storage::paths::ViewName;
use storage::store::Store;
use tracing::warn;

use crate::acts::{self, Acts};
use crate::documents;

/// Least time between two upkeeps. It is less than a day, for one night's run may end sooner than the last one's.
const PAUSE: Duration = Duration::from_secs(20 * 3600);

/// What is done behind a run.
#[derive(clap::Args, Clone, Copy)]
pub(crate) struct UpkeepFlags {
    /// Do what batch-layer expire does, once a day behind a run
    #[arg(long)]
    expire: bool,
    /// Do what batch-layer compact does, once a day behind a run
    #[arg(long)]
    compact: bool,
}

/// Upkeep on schedule.
pub(crate) struct Upkeep {
    flags: UpkeepFlags,
    acts: Acts,
    output: Output,
    /// When everything that is asked for went well last.
    last: Option<DateTime<Utc>>,
}

impl Upkeep {
    pub(crate) fn new(flags: UpkeepFlags, acts: Acts, output: Output) -> Self {
        Self { flags, acts, output, last: None }
    }

    /// Does what is due behind a run that began at `now`. What fails is told, is tried again behind the next run, and keeps nothing else
    /// from being done: each holds the leases that it needs itself, so nothing is left to take back.
    pub(crate) async fn after_a_run(&mut self, config: &Config, store: &Store, now: DateTime<Utc>) {
        if !self.is_due(now) {
            return;
        }
        let printed = Printed { output: self.output };
        let expired = if self.flags.expire { self.acted("expire", expire(config, store, None, false, printed)).await } else { Ok(()) };
        let compacted = if self.flags.compact { self.acted("compact", compact(config, store, printed)).await } else { Ok(()) };
        let went_well = expired.is_ok() && compacted.is_ok();
        for (what, outcome) in [("expire", expired), ("compact", compacted)] {
            if let Err(error) = outcome {
                warn!(error = format!("{error:#}"), "{what} failed; it is tried again behind the next run");
            }
        }
        if went_well {
            self.last = Some(now);
        }
    }

    /// Does it, and writes down that it was done.
    async fn acted(&self, name: &'static str, work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
        let begun = self.acts.begin(acts::of_schedule(name)).await;
        let done = work.await.map(|()| 0);
        begun.ended(&done).await;
        done.map(drop)
    }

    fn is_due(&self, now: DateTime<Utc>) -> bool {
        let is_asked_for = self.flags.expire || self.flags.compact;
        // A clock that was set back is no reason to wait for it.
        is_asked_for && self.last.is_none_or(|last| (now - last).to_std().map_or(true, |pause| pause >= PAUSE))
    }
}

/// Removes what is past its keep-for, of one view or of all; prints what went.
pub(crate) async fn expire(config: &Config, store: &Store, view: Option<ViewName>, dry_run: bool, printed: Printed) -> anyhow::Result<()> {
    let views = match view {
        Some(view) => BTreeSet::from([view]),
        None => list_views(store).await?,
    };
    let (mut lines, mut of_views) = (Vec::new(), Vec::new());
    for view in views {
        let done = Box::pin(expire::expire(&ExpireOptions::from_config(config, view.clone(), dry_run), store)).await?;
        of_views.push(documents::of_expiry(&view, &done));
        lines.push(format!("view        {view}\n{done}"));
    }
    let mut document = json!({ "dry_run": dry_run, "views": of_views });
    if !dry_run {
        let (letters, erased) = expire::expire_dead_letters(store, config.batch_layer.keep_dead_letters_for.0).await?;
        let files = compact::remove_superseded(&CompactOptions::from_config(config), store).await?;
        document["refused_row_files"] = letters.into();
        document["erased_refused_rows"] = erased.into();
        document["superseded_files"] = files.into();
        lines.push(format!(
            "removed     refused rows of {letters} imports, {erased} refused rows of erased users, {files} files of the master dataset that others took the place of"
        ));
    }
    printed.answer(if lines.is_empty() { "no view is published".to_owned() } else { lines.join("\n") }, &document)
}

/// Writes old segments again; prints what was done.
pub(crate) async fn compact(config: &Config, store: &Store, printed: Printed) -> anyhow::Result<()> {
    let done = Box::pin(compact::compact(&CompactOptions::from_config(config), store)).await?;
    printed.answer(&done, &documents::of_compaction(&done))
}

#[cfg(test)]
mod tests {
    use storage::paths::ManifestPath;

    use super::*;

    /// Proves that nobody looks after a store unasked, that it is done behind every night's run and not behind every one of a day, that a
    /// clock that was set back does not keep it waiting, and that what failed is tried again behind the next run, unlike what went well.
    #[tokio::test]
    async fn once_a_day() {
        let acts = || Acts::open(&Config::default()).unwrap();
        let at = |hours: i64| DateTime::UNIX_EPOCH + chrono::TimeDelta::hours(hours);
        let idle = Upkeep::new(UpkeepFlags { expire: false, compact: false }, acts(), Output::Table);
        assert!(!idle.is_due(at(1_000)));
        let mut upkeep = Upkeep::new(UpkeepFlags { expire: true, compact: false }, acts(), Output::Table);
        let store = Store::open("memory://").unwrap();
        upkeep.after_a_run(&Config::default(), &store, at(100)).await;
        assert_eq!([101, 119, 120, 124, 99].map(|hours| upkeep.is_due(at(hours))), [false, false, true, true, true]);

        let manifest = ManifestPath { view: ViewName::user_stats(), version: 1 };
        store.put_durable(&manifest.path(), "no manifest".into()).await.unwrap();
        let mut upkeep = Upkeep::new(UpkeepFlags { expire: true, compact: true }, acts(), Output::Table);
        upkeep.after_a_run(&Config::default(), &store, at(100)).await;
        assert!(upkeep.is_due(at(101)));
    }
}
