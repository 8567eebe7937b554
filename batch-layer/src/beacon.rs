//! A run tells the store how far it is, every few seconds, for whoever looks there ([`storage::progress`]).
//!
//! Best effort: a run that cannot tell goes on. One that is over before the first time is never told of.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use storage::machine::Machine;
use storage::paths::{Id, ViewName};
use storage::progress::{self, Stage as At};
use storage::store::Store;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use crate::progress::{Progress, Stage};
use crate::run::rfc3339;

/// From the beginning of a run to the first time.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Between two times.
const PAUSE: Duration = Duration::from_secs(2);
/// Whoever sees no next one for so long may take the run for dead: a store that is slow now and then is no death.
const SILENT_AFTER: Duration = Duration::from_secs(15);

/// What a run waits for the store at its end.
const LAST_PATIENCE: Duration = Duration::from_secs(5);

/// A run that tells. Dropped without [`put_out`](Self::put_out) it tells no more, and what it told stays, as that of a dead run.
pub(crate) struct Beacon {
    stop: CancellationToken,
    telling: AbortOnDropHandle<()>,
}

/// What was counted, and whom else it is told.
struct Counted {
    total_rows: AtomicU64,
    rows: [AtomicU64; 3],
    read_bytes: AtomicU64,
    others: Arc<dyn Progress>,
}

impl Progress for Counted {
    fn begin(&self, rows: u64) {
        self.total_rows.store(rows, Ordering::Relaxed);
        self.others.begin(rows);
    }

    fn advance(&self, stage: Stage, rows: u64, bytes: u64) {
        self.rows[stage as usize].fetch_add(rows, Ordering::Relaxed);
        self.read_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.others.advance(stage, rows, bytes);
    }

    fn end(&self) {
        self.others.end();
    }
}

impl Counted {
    fn write_to(&self, told: &mut progress::Progress) {
        told.total_rows = self.total_rows.load(Ordering::Relaxed);
        let rows = [Stage::Read, Stage::Fold, Stage::Audit].map(|stage| self.rows[stage as usize].load(Ordering::Relaxed));
        [told.read_rows, told.folded_rows, told.audited_rows] = rows;
        told.read_bytes = self.read_bytes.load(Ordering::Relaxed);
        told.stage = match rows {
            _ if told.total_rows == 0 => At::Prepare,
            [_, _, audited] if audited >= told.total_rows => At::Publish,
            [_, _, audited] if audited > 0 => At::Audit,
            [_, folded, _] if folded > 0 => At::Fold,
            _ => At::Read,
        };
    }
}

impl Beacon {
    /// Tells from now on how far the run is; what the progress that it gives is told, `others` is told too.
    pub(crate) fn light(
        machine: &Arc<dyn Machine>,
        store: &Store,
        view: &ViewName,
        run_id: &Id,
        started: SystemTime,
        others: Arc<dyn Progress>,
    ) -> (Arc<dyn Progress>, Self) {
        let counted = Arc::new(Counted { total_rows: AtomicU64::new(0), rows: Default::default(), read_bytes: AtomicU64::new(0), others });
        let told = progress::Progress::begun(view.clone(), run_id.clone(), rfc3339(started), SILENT_AFTER.as_millis() as u64);
        let stop = CancellationToken::new();
        let telling = tell(Arc::clone(machine), store.clone(), told, Arc::clone(&counted), stop.clone());
        (counted, Self { stop, telling: AbortOnDropHandle::new(tokio::spawn(telling)) })
    }

    /// Removes what was told, if the store lets it in time.
    pub(crate) async fn put_out(self) {
        self.stop.cancel();
        let _ended = timeout(LAST_PATIENCE, self.telling).await;
    }
}

async fn tell(machine: Arc<dyn Machine>, store: Store, mut told: progress::Progress, counted: Arc<Counted>, stop: CancellationToken) {
    let complained = AtomicBool::new(false);
    let complain = |error: &dyn std::fmt::Display| {
        if !complained.swap(true, Ordering::Relaxed) {
            warn!(%error, "how far the run is could not be written to the store; it goes on");
        }
    };
    let mut pause = FIRST_PAUSE;
    while stop.run_until_cancelled(sleep(pause)).await.is_some() {
        told.beat += 1;
        told.written_time = rfc3339(machine.now());
        counted.write_to(&mut told);
        // Not in the middle: what is written in part would come after it is removed.
        if let Err(error) = told.write(&store).await {
            complain(&error);
        }
        pause = PAUSE;
    }
    // A run that was over before it told anything has the dead ones before it to remove all the same.
    let removed = if told.beat > 0 { told.remove(&store).await } else { told.remove_dead(&store).await };
    if let Err(error) = removed {
        complain(&error);
    }
}

#[cfg(test)]
mod tests {
    use storage::machine::RealMachine;

    use super::*;
    use crate::progress::Silent;

    /// Proves that a run which goes on is told of again and again, with what it has done by then, that one which ends leaves nothing, and that one
    /// which is dropped in the middle leaves what it told last, until the next run ends, however short.
    #[tokio::test(start_paused = true)]
    async fn told_while_it_goes() {
        let (store, view) = (Store::open("memory://").unwrap(), ViewName::user_stats());
        let machine: Arc<dyn Machine> = Arc::new(RealMachine);
        let run_id: Id = "r-1".parse().unwrap();
        let light = || Beacon::light(&machine, &store, &view, &run_id, machine.now(), Arc::new(Silent));
        let (counted, beacon) = light();
        let look = || async { progress::read(&store, &view).await.unwrap().pop() };
        assert_eq!(look().await, None);
        sleep(FIRST_PAUSE * 2).await;
        assert_eq!(look().await.map(|told| (told.beat, told.stage)), Some((1, At::Prepare)));
        counted.begin(10);
        counted.advance(Stage::Read, 10, 77);
        counted.advance(Stage::Fold, 4, 0);
        sleep(PAUSE).await;
        let told = look().await.unwrap();
        assert_eq!(
            (told.beat, told.stage, told.total_rows, told.read_rows, told.folded_rows, told.read_bytes),
            (2, At::Fold, 10, 10, 4, 77)
        );
        counted.advance(Stage::Audit, 1, 0);
        sleep(PAUSE).await;
        assert_eq!(look().await.unwrap().stage, At::Audit);
        beacon.put_out().await;
        assert_eq!(look().await, None);

        let (_, killed) = light();
        sleep(PAUSE * 2).await;
        drop(killed);
        let last = look().await.unwrap();
        sleep(PAUSE * 4).await;
        assert_eq!(look().await, Some(last));

        let next: Id = "r-2".parse().unwrap();
        let (_, short) = Beacon::light(&machine, &store, &view, &next, machine.now(), Arc::new(Silent));
        short.put_out().await;
        assert_eq!(look().await, None);
    }
}
