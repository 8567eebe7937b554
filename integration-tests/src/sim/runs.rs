//! Batch runs in the simulated world, and what they may end in.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, PoisonError};

use batch_layer::progress::Silent;
use batch_layer::{RunError, RunOptions, RunOutcome};
use merganser_proto::Transport;
use tokio::time::sleep;

use super::faults::Fault;
use super::link::Link;
use super::process::Process;
use super::world::{World, in_one_line};

/// The batch runs so far.
#[derive(Debug, Default)]
pub(super) struct Batches {
    started: u32,
    /// Which run said that it had published a version.
    published: BTreeMap<i64, String>,
}

/// What a run of the batch layer ended in.
#[derive(Debug)]
pub(crate) enum Batch {
    Published,
    NothingToDo,
    /// It failed as it may: nothing is wrong.
    Failed,
    Killed,
}

impl World {
    /// One batch run.
    ///
    /// # Errors
    /// It found something wrong that no fault explains, such as a difference in the audit, or it lost to itself.
    pub(crate) async fn batch(&self) -> Result<Batch, String> {
        self.batch_as(false).await
    }

    /// One from all events, whether there is something new or not.
    pub(crate) async fn batch_over_all(&self) -> Result<Batch, String> {
        self.batch_as(true).await
    }

    async fn batch_as(&self, over_all: bool) -> Result<Batch, String> {
        let number = self.batches().started;
        self.batches().started += 1;
        let process = Process::new(format!("batch-{number}"), &self.chance, &self.trace);
        let mut options = RunOptions::from_config(&self.config, "user_stats".parse().expect("it is the name of a view"));
        options.threads = NonZeroUsize::MIN.saturating_add(1);
        options.incremental = !over_all && !number.is_multiple_of(3);
        options.force = over_all;
        let link = Link::new(&self.speed, &self.weather, &self.chance);
        let store = self.store(&process);
        let run = batch_layer::run_on(self.machine(), Some(Transport::new(link)), &options, &store, Arc::new(Silent));
        let doomed = async {
            if self.weather.strikes(Fault::BatchKilled) {
                sleep(self.chance.micros(100_000)).await;
                process.kill();
            }
            process.death().await;
        };
        let outcome = tokio::select! {
            biased;
            () = doomed => {
                process.kill();
                return Ok(Batch::Killed);
            }
            outcome = run => outcome,
        };
        self.check_winner(&outcome, number)?;
        // A list that lags behind may lack an erasure: the run sees a record of the log that is no row, and must not publish.
        if let Err(RunError::Rows(rows)) = &outcome
            && self.weather.has(Fault::ListLate)
            && !self.weather.is_calm()
            && rows.log > rows.segments + rows.erasures + rows.gone
        {
            process.trace(|| "ends: an erasure is not listed yet".to_owned());
            process.kill();
            return Ok(Batch::Failed);
        }
        let batch = judged(&process, outcome)?;
        process.kill();
        Ok(batch)
    }

    /// A version belongs to one run, and a run that was alone has not lost.
    fn check_winner(&self, outcome: &Result<RunOutcome, RunError>, number: u32) -> Result<(), String> {
        match outcome {
            Ok(RunOutcome::Published(report)) => match self.batches().published.insert(report.version, report.run_id.clone()) {
                None => Ok(()),
                Some(other) => Err(format!("two runs say that version {} is theirs: {other} and {}", report.version, report.run_id)),
            },
            // Others may start meanwhile, and a run that was killed no longer publishes.
            Err(e @ RunError::Lost { .. }) if number + 1 == self.batches().started && !self.weather.has(Fault::TwoBatches) => {
                Err(format!("a run that was alone says that it lost: {}", in_one_line(e)))
            }
            _ => Ok(()),
        }
    }

    fn batches(&self) -> std::sync::MutexGuard<'_, Batches> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a run has ended in.
///
/// # Errors
/// It found something wrong.
pub(crate) fn judged(process: &Process, outcome: Result<RunOutcome, RunError>) -> Result<Batch, String> {
    match outcome {
        Ok(RunOutcome::Published(report)) => {
            process.trace(|| format!("publishes version {}", report.version));
            Ok(Batch::Published)
        }
        Ok(RunOutcome::NothingToDo(_)) => Ok(Batch::NothingToDo),
        Err(e) => {
            process.trace(|| format!("ends: {}", in_one_line(&e)));
            check_run(&e)?;
            Ok(Batch::Failed)
        }
    }
}

/// Only what the weather did may end a run; a difference, a wrong count or a damaged file may not.
pub(super) fn check_run(error: &RunError) -> Result<(), String> {
    let text = in_one_line(error);
    match error {
        RunError::Audit { .. } | RunError::Rows(_) | RunError::OtherLog { .. } => Err(format!("a batch run found: {text}")),
        _ if text.contains("is damaged") || text.contains("other content") || text.contains("overlap") => {
            Err(format!("a batch run found: {text}"))
        }
        _ => Ok(()),
    }
}
