//! Expiry and compaction in the simulated world, beneath everything else that goes on.

use std::time::Duration;

use batch_layer::RunError;
use batch_layer::compact::{CompactOptions, Compacted, compact_on};
use batch_layer::expire::{ExpireOptions, Expiry, expire_on};
use storage::paths::ViewName;
use tokio::time::sleep;

use super::clients::{Clients, Outcome};
use super::faults::Fault;
use super::process::Process;
use super::runs::{Batch, check_run};
use super::world::{World, in_one_line};

const YEAR: Duration = Duration::from_secs(365 * 86_400);
/// Whoever looks after the store lives so many years later, so that nothing is too young for it.
const LATER_YEARS: u32 = 20;

/// What becomes of files that others took the place of, and of those that only expired versions had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Surplus {
    /// Somebody may be reading them.
    Stays,
    /// Nobody is.
    Goes,
}

/// What one upkeep did, if it came to an end.
#[derive(Debug)]
pub(crate) enum Kept {
    Done(Expiry, Compacted),
    /// It failed as it may, or was killed.
    NotDone,
}

impl World {
    /// Lets go of versions but the newest two, and merges and erases.
    ///
    /// # Errors
    /// It found something wrong that no fault explains.
    pub(crate) async fn look_after(&self, surplus: Surplus) -> Result<Kept, String> {
        let number = self.chance.bits() as u32;
        let process = Process::new(format!("upkeep-{number:08x}"), &self.chance, &self.trace);
        let machine = self.machine_with(&self.clock.beside(i64::try_from((YEAR * LATER_YEARS).as_millis()).expect("it is twenty years")));
        let grace = if surplus == Surplus::Goes { Duration::ZERO } else { YEAR * (LATER_YEARS + 10) };
        let mut expire = ExpireOptions::from_config(&self.config, ViewName::user_stats(), false);
        (expire.keep_versions, expire.keep_versions_for) = (2, Duration::ZERO);
        expire.run.grace = grace;
        let mut compact = CompactOptions::from_config(&self.config);
        (compact.after, compact.least_files, compact.target_bytes) = (Duration::ZERO, 2, self.chance.pick(&[4 << 10, 1 << 20]));
        compact.run.grace = grace;
        let store = self.store(&process);
        let work = async {
            let expired = Box::pin(expire_on(&*machine, &expire, &store)).await?;
            Ok::<_, RunError>((expired, Box::pin(compact_on(&*machine, &compact, &store)).await?))
        };
        let doomed = async {
            if self.weather.strikes(Fault::UpkeepKilled) {
                sleep(self.chance.micros(100_000)).await;
                process.kill();
            }
            process.death().await;
        };
        let outcome = tokio::select! {
            biased;
            () = doomed => None,
            outcome = work => Some(outcome),
        };
        let kept = match outcome {
            None => Kept::NotDone,
            Some(Ok((expired, compacted))) => {
                process.trace(|| format!("{expired:?}, {compacted:?}"));
                Kept::Done(expired, compacted)
            }
            Some(Err(error)) => {
                process.trace(|| format!("ends: {}", in_one_line(&error)));
                check_run(&error)?;
                Kept::NotDone
            }
        };
        process.kill();
        Ok(kept)
    }
}

impl Clients {
    /// Looks after the store so many times while others write, ask and recompute.
    pub(crate) async fn keep_store(&self, times: usize) -> Outcome {
        for _ in 0..times {
            sleep(self.world.chance.micros(300_000)).await;
            let under_way = self.world.weather.under_way();
            let kept = self.world.look_after(Surplus::Stays).await?;
            drop(under_way);
            self.note_kept(&kept);
        }
        Ok(())
    }

    fn note_kept(&self, kept: &Kept) {
        let Kept::Done(expired, compacted) = kept else { return };
        self.world.weather.recovered();
        self.count(|r| {
            r.upkeeps += 1;
            r.expired_versions += expired.versions.len() as u64;
            r.merged_files += compacted.before as u64;
            r.erased_rows += compacted.erased_rows as u64;
        });
    }

    /// Nothing goes wrong any more and everything was judged: what is surplus goes, all is computed from what is left, and judged again.
    pub(crate) async fn afterwards(&self) -> Outcome {
        for attempt in 0.. {
            let kept = self.world.look_after(Surplus::Goes).await?;
            self.note_kept(&kept);
            if matches!(kept, Kept::Done(..)) {
                break;
            }
            if attempt == 20 {
                return Err("no upkeep succeeds though nothing fails any more".to_owned());
            }
            sleep(Duration::from_secs(10)).await;
        }
        let batch = self.world.batch_over_all().await?;
        self.note_batch(&batch);
        if !matches!(batch, Batch::Published) {
            return Err(format!("a run over what an upkeep has left ends otherwise: {batch:?}"));
        }
        sleep(Duration::from_secs(2)).await;
        self.ask_once_more().await
    }
}
