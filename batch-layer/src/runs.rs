//! Runs over the declared views, once or whenever one is due.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use batch_layer::metrics::{self, Attempt};
use batch_layer::progress::Terminal;
use batch_layer::schedule::{self, Due, Timetable};
use batch_layer::{RunError, RunOptions, RunOutcome, view_of_run};
use chrono::{DateTime, Utc};
use cli::Output;
use cli::exit::{DONE, NOTHING_TO_DO};
use cli::print::{complain, mention};
use serde_json::Value;
use storage::config::{ByteSize, Config};
use storage::machine::{Machine, RealMachine};
use storage::manifest::{Manifests, list_views};
use storage::paths::{Id, ViewName};
use storage::store::Store;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::documents;
use crate::upkeep::Upkeep;

/// Exit codes of what may go well a little later: another run has the lease, a dependency is down.
const TRY_AGAIN: [u8; 2] = [3, 4];
/// How often it is looked whether a run is due.
const LOOK_PAUSE: Duration = Duration::from_secs(5);
/// Pause before a run that may go well a little later is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(60);

/// How views are computed.
#[derive(clap::Args, Clone)]
pub(crate) struct RunFlags {
    /// Do not ask for a cut; take what is archived already
    #[arg(long, conflicts_with = "speed_layer")]
    no_speed_layer: bool,
    /// Address of the speed layer, such as http://127.0.0.1:7401
    #[arg(long, value_name = "URL")]
    speed_layer: Option<String>,
    /// Memory for sorting, such as 512MiB; what does not fit is spilled to disk
    #[arg(long, value_name = "SIZE", value_parser = |text: &str| ByteSize::try_from(text.to_owned()))]
    memory_limit: Option<ByteSize>,
    /// Partitions recomputed at a time
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Where to write what the runs came to, for the textfile collector of Prometheus' node exporter; it reads files that end in .prom
    #[arg(long, value_name = "FILE")]
    metrics_file: Option<PathBuf>,
}

/// Runs over one view, or over all that are declared.
pub(crate) struct Runs<'a> {
    pub(crate) config: &'a Config,
    pub(crate) store: &'a Store,
    pub(crate) flags: RunFlags,
    pub(crate) view: Option<ViewName>,
    pub(crate) output: Output,
    /// Whether a run is at work now.
    pub(crate) at_work: &'a AtomicBool,
}

/// What the runs of one call have come to so far.
#[derive(Default)]
struct Ended {
    attempts: BTreeMap<ViewName, Attempt>,
    /// One of each, where they are asked for.
    documents: Vec<Value>,
}

impl Runs<'_> {
    /// One run over each view. One that fails does not keep the others from being published. The exit code is that of the first
    /// failure that may go well a little later, for whoever tries again meets the others again; else that of the first failure; without
    /// one it says whether anything was published.
    pub(crate) async fn once(&self, due: Due, force: bool) -> anyhow::Result<u8> {
        let mut ended = Ended::default();
        let (views, mut failed) = self.views(&mut ended)?;
        if self.view.is_none() {
            self.warn_of_views_without_file(&views).await?;
        }
        let mut code = NOTHING_TO_DO;
        self.at_work.store(true, Ordering::Relaxed);
        for view in views {
            let options = self.options(view, due, force);
            match self.attempt(&options, &mut ended).await {
                NOTHING_TO_DO => {}
                DONE => code = DONE,
                error => failed = Some(failed.map_or(error, |first| graver(first, error))),
            }
        }
        self.at_work.store(false, Ordering::Relaxed);
        self.write_metrics(&ended.attempts).await;
        Ok(self.tell(&ended, failed.unwrap_or(code)))
    }

    /// The run that publishes in spite of the difference that the run of that id found.
    pub(crate) async fn accepting(&self, run_id: Id) -> anyhow::Result<u8> {
        let view = match &self.view {
            Some(view) => view.clone(),
            None => view_of_run(self.store, &list_views(self.store).await?, &run_id).await?,
        };
        self.at_work.store(true, Ordering::Relaxed);
        let options = RunOptions { accept_difference: Some(run_id), ..self.options(view, Due::Full, false) };
        let mut ended = Ended::default();
        let code = self.attempt(&options, &mut ended).await;
        self.write_metrics(&ended.attempts).await;
        Ok(self.tell(&ended, code))
    }

    /// One run, which is noted; gives its exit code.
    async fn attempt(&self, options: &RunOptions, ended: &mut Ended) -> u8 {
        let (started, since) = (now(), Instant::now());
        let exit_code = self.of_view(options, &mut ended.documents).await;
        ended.attempts.insert(options.view.clone(), Attempt { exit_code, started, elapsed: since.elapsed() });
        exit_code
    }

    /// Prints the document of the call, where one is asked for, and gives the exit code.
    fn tell(&self, ended: &Ended, code: u8) -> u8 {
        if self.output == Output::Json {
            mention(format_args!("{:#}", documents::of_runs(&ended.documents, code)));
        }
        code
    }

    /// Best effort: a run has come to what it has come to.
    async fn write_metrics(&self, attempts: &BTreeMap<ViewName, Attempt>) {
        let file = self.flags.metrics_file.as_ref().unwrap_or(&self.config.batch_layer.metrics_file);
        if file.as_os_str().is_empty() {
            return;
        }
        if let Err(error) = metrics::write(self.store, attempts, file).await {
            warn!(file = %file.display(), error = format!("{:#}", anyhow::Error::new(error)), "the metrics of the run could not be written");
        }
    }

    /// One run, which is told or noted; gives its exit code.
    async fn of_view(&self, options: &RunOptions, documents: &mut Vec<Value>) -> u8 {
        let (view, speed_layer) = (&options.view, options.speed_layer.as_deref().unwrap_or("none"));
        let url = &self.config.store.url;
        info!(store = url, %view, speed_layer, memory_bytes = options.memory_limit_bytes, threads = options.threads, incremental = options.incremental, "batch run");
        match batch_layer::run(options, self.store, Arc::new(Terminal::default())).await {
            Ok(outcome) => {
                let (code, text) = match &outcome {
                    RunOutcome::Published(report) => (DONE, report.to_string()),
                    RunOutcome::NothingToDo(reason) => (NOTHING_TO_DO, format!("nothing to do for {view}: {reason}")),
                };
                match self.output {
                    Output::Table => mention(text),
                    Output::Json => documents.push(documents::of_run(view, &outcome)),
                }
                code
            }
            Err(error) => {
                let code = error.exit_code();
                let error = crate::plain(error.into());
                if self.output == Output::Json {
                    documents.push(documents::of_failure(view.as_str(), code, &format!("{error:#}")));
                }
                complain(crate::NAME, &error.context(format!("view {view}")));
                code
            }
        }
    }

    /// A run whenever one is due, for ever. Those that may go well a little later are tried again; others wait for their next time.
    /// Between two runs, once a day, it looks after the store as `upkeep` says.
    pub(crate) async fn on_schedule(&self, timetable: &Timetable, mut upkeep: Upkeep) -> anyhow::Result<u8> {
        let mut done = schedule::published(self.store, &self.views(&mut Ended::default())?.0).await?;
        let mut told = None;
        loop {
            let now = now();
            let next = timetable.next_of_cron(now);
            if next != told {
                told = next;
                info!(next_full_run = next.map(|next| next.to_rfc3339()), every = ?timetable.every, on_new_bytes = timetable.new_bytes, "waiting");
            }
            let pause = match timetable.due(now, done, self.new_bytes(timetable).await) {
                None => LOOK_PAUSE,
                Some(due) => match self.once(due, false).await {
                    Ok(code) if TRY_AGAIN.contains(&code) => {
                        warn!(code, "the run is tried again in a minute");
                        RETRY_PAUSE
                    }
                    Err(error) => {
                        warn!(error = format!("{error:#}"), "the run is tried again in a minute");
                        RETRY_PAUSE
                    }
                    Ok(code) => {
                        done.note(due, now);
                        self.at_work.store(true, Ordering::Relaxed);
                        upkeep.after_a_run(self.config, self.store, now).await;
                        self.at_work.store(false, Ordering::Relaxed);
                        // New data that no run brings into a version stays new.
                        if code == 0 { Duration::ZERO } else { RETRY_PAUSE }
                    }
                },
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Nothing is new as long as nobody can look.
    async fn new_bytes(&self, timetable: &Timetable) -> u64 {
        if timetable.new_bytes.is_none() {
            return 0;
        }
        let looked = match self.views(&mut Ended::default()) {
            Ok((views, _)) => schedule::uncovered_bytes(self.store, &views).await.map_err(anyhow::Error::new),
            Err(error) => Err(error),
        };
        looked.unwrap_or_else(|error| {
            warn!(error = format!("{error:#}"), "how much data is new cannot be seen");
            0
        })
    }

    fn options(&self, view: ViewName, due: Due, force: bool) -> RunOptions {
        let mut options = RunOptions { incremental: due == Due::Incremental, force, ..RunOptions::from_config(self.config, view) };
        let flags = &self.flags;
        options.speed_layer = if flags.no_speed_layer { None } else { flags.speed_layer.clone().or(options.speed_layer) };
        options.memory_limit_bytes = flags.memory_limit.map_or(options.memory_limit_bytes, |size| size.0);
        options.threads = flags.threads.unwrap_or(options.threads);
        options
    }

    /// The views to run over, and the exit code of the first file that is named as none can be.
    fn views(&self, ended: &mut Ended) -> anyhow::Result<(BTreeSet<ViewName>, Option<u8>)> {
        if let Some(view) = &self.view {
            return Ok((BTreeSet::from([view.clone()]), None));
        }
        let (views, misnamed) = batch_layer::declared(&self.config.views.dir)?;
        let failed = misnamed.first().map(RunError::exit_code);
        for error in misnamed {
            let (code, error) = (error.exit_code(), anyhow::Error::new(error));
            ended.documents.push(documents::of_failure("", code, &format!("{error:#}")));
            complain(crate::NAME, &error);
        }
        Ok((views, failed))
    }

    async fn warn_of_views_without_file(&self, declared: &BTreeSet<ViewName>) -> anyhow::Result<()> {
        for view in list_views(self.store).await?.difference(declared) {
            let newest = Manifests::new(self.store.clone(), view.clone()).latest().await?;
            if newest.is_some_and(|newest| !newest.withdrawn) {
                warn!(%view, "the view is published and has no file; it stays as it is, and keeps the log from being trimmed past it, until batch-layer withdraw");
            }
        }
        Ok(())
    }
}

/// Which of two exit codes of failures, in their order, is told.
fn graver(first: u8, second: u8) -> u8 {
    if !TRY_AGAIN.contains(&first) && TRY_AGAIN.contains(&second) { second } else { first }
}

fn now() -> DateTime<Utc> {
    RealMachine.now().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that a failure that may go well a little later is told, whatever else failed before or after, and else the first one.
    #[test]
    fn graver_of_two() {
        let told = [(1, 4), (4, 1), (2, 3), (4, 3), (2, 1)].map(|(first, second)| graver(first, second));
        assert_eq!(told, [4, 4, 3, 4, 2]);
    }
}
