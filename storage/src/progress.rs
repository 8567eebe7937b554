//! How far a batch run is, for whoever looks at the store.
//!
//! *Layout.* `runs/<view>/progress/<run id>.json`, written again every few seconds while the run goes, with a checksum of its own; each
//! time with the next beat. It is removed when the run ends.
//!
//! *Consistency.* Nothing is decided by it: who may publish is for the lease ([`crate::lease`]) and the manifest to say. Whether a run is
//! alive shows in its beats: whoever sees none for [`Progress::silent_after_ms`], on a clock of his own, looks at a run that is dead.
//!
//! *What a crash leaves behind.* The last one that was written. The next run of the view removes it, as soon as it writes its own.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::paths::{Id, ProgressPath, ViewName, all_runs_folder, progress_folder};
use crate::store::json::{self, Formats};
use crate::store::{Store, StoreError};

/// The format that this program writes, and the newest it reads.
const FORMAT_VERSION: u32 = 1;
const FORMATS: Formats = Formats { known: FORMAT_VERSION, checked_from: 1 };
/// Runs of one view that are read: one works at a time, and the others are dead.
const MAX_RUNS: usize = 8;

/// What a run is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Decides what to compute: asks the speed layer for a cut, and lists the master dataset.
    Prepare,
    /// Reads events and sorts them.
    Read,
    /// Folds them and writes states.
    Fold,
    /// Reads the states back and compares them.
    Audit,
    /// Has compared all, and publishes.
    Publish,
}

/// One look at a run.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Progress {
    /// Of the object.
    pub format_version: u32,
    /// The view.
    pub view: ViewName,
    /// The run.
    pub run_id: Id,
    /// How often it was written; grows by one each time.
    pub beat: i64,
    /// A run that writes no next beat for so long is dead, or cannot reach the store.
    pub silent_after_ms: u64,
    /// When the run began, RFC 3339 in UTC.
    pub started_time: String,
    /// When this was written, by the run's clock.
    pub written_time: String,
    /// What it is at.
    pub stage: Stage,
    /// Events to go through reading, folding and comparing; 0 while that is not known.
    pub total_rows: u64,
    /// Of these, those that were read.
    pub read_rows: u64,
    /// Those that were folded.
    pub folded_rows: u64,
    /// Those that were compared.
    pub audited_rows: u64,
    /// Bytes of segments that were read.
    pub read_bytes: u64,
}

impl Progress {
    /// A run that has just begun.
    #[must_use]
    pub fn begun(view: ViewName, run_id: Id, started_time: String, silent_after_ms: u64) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            view,
            run_id,
            beat: 0,
            silent_after_ms,
            written_time: started_time.clone(),
            started_time,
            stage: Stage::Prepare,
            total_rows: 0,
            read_rows: 0,
            folded_rows: 0,
            audited_rows: 0,
            read_bytes: 0,
        }
    }

    /// How much of the run is done, from 0 to 1: of each event a third with each of the three things that are done with it.
    #[must_use]
    pub fn fraction(&self) -> f64 {
        let done = self.read_rows + self.folded_rows + self.audited_rows;
        if self.stage == Stage::Publish { 1.0 } else { (done as f64 / (3 * self.total_rows).max(1) as f64).clamp(0.0, 1.0) }
    }

    /// Writes it, in place of the one before. The first one removes what dead runs of the view have left: whoever calls holds the lease.
    ///
    /// # Errors
    /// What the store says.
    pub async fn write(&self, store: &Store) -> Result<(), StoreError> {
        if self.beat <= 1 {
            self.remove_dead(store).await?;
        }
        store.put_durable(&self.path().path(), json::encode(self).into()).await
    }

    /// Removes what dead runs of the view have left: whoever calls holds the lease.
    ///
    /// # Errors
    /// What the store says.
    pub async fn remove_dead(&self, store: &Store) -> Result<(), StoreError> {
        for other in list(store, &self.view).await?.into_iter().filter(|path| path.run_id != self.run_id) {
            store.delete(&other.path()).await?;
        }
        Ok(())
    }

    /// Removes it: the run has ended.
    ///
    /// # Errors
    /// What the store says.
    pub async fn remove(&self, store: &Store) -> Result<(), StoreError> {
        store.delete(&self.path().path()).await
    }

    fn path(&self) -> ProgressPath {
        ProgressPath { view: self.view.clone(), run_id: self.run_id.clone() }
    }
}

/// The views that somebody has begun a run of, published or not, by name.
///
/// # Errors
/// What the store says.
pub async fn views(store: &Store) -> Result<BTreeSet<ViewName>, StoreError> {
    let folders = store.folders(&all_runs_folder()).await?;
    // That of the master dataset is no view's.
    Ok(folders.iter().filter_map(|folder| folder.filename()?.parse().ok()).collect())
}

/// The runs of `view` that go, and those that died, by their ids, which sort by time.
///
/// # Errors
/// What the store says, and a damaged object, by name.
pub async fn read(store: &Store, view: &ViewName) -> Result<Vec<Progress>, StoreError> {
    let mut runs = Vec::new();
    for path in list(store, view).await?.into_iter().rev().take(MAX_RUNS) {
        let path = path.path();
        match store.get(&path).await {
            Ok(bytes) => runs.push(json::decode::<Progress>(&path, &bytes, FORMATS)?),
            // It has ended since.
            Err(StoreError::NotFound { .. }) => {}
            Err(e) => return Err(e),
        }
    }
    runs.reverse();
    Ok(runs)
}

async fn list(store: &Store, view: &ViewName) -> Result<BTreeSet<ProgressPath>, StoreError> {
    let listed = store.list(&progress_folder(view)).await?;
    Ok(listed.iter().filter_map(|object| ProgressPath::parse(&object.location).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(run_id: &str) -> Progress {
        Progress::begun(ViewName::user_stats(), run_id.parse().unwrap(), "2026-11-30T02:00:00.000Z".to_owned(), 15_000)
    }

    /// Proves what is in the store while a run goes: its newest beat, nothing of runs that died before it, and in the end nothing.
    #[tokio::test]
    async fn from_begin_to_end() {
        let store = Store::open("memory://").unwrap();
        let view = ViewName::user_stats();
        let dead = Progress { beat: 7, ..progress("20261130T010000000Z-00000001") };
        dead.write(&store).await.unwrap();
        let run = Progress { beat: 1, ..progress("20261130T020000000Z-00000002") };
        assert_eq!(views(&Store::open("memory://").unwrap()).await.unwrap(), BTreeSet::new());
        run.write(&store).await.unwrap();
        assert_eq!(views(&store).await.unwrap(), BTreeSet::from([view.clone()]));
        assert_eq!(read(&store, &view).await.unwrap(), std::slice::from_ref(&run));
        let next = Progress { beat: 2, stage: Stage::Fold, total_rows: 10, read_rows: 10, folded_rows: 5, ..run };
        next.write(&store).await.unwrap();
        assert_eq!(read(&store, &view).await.unwrap(), std::slice::from_ref(&next));
        assert_eq!(next.fraction(), 0.5);
        next.remove(&store).await.unwrap();
        assert_eq!(read(&store, &view).await.unwrap(), []);
    }

    /// Proves that the bytes of the format stay as they are, and that what a newer program wrote, and damage, are named.
    #[tokio::test]
    async fn frozen() {
        let store = Store::open("memory://").unwrap();
        let run = Progress {
            beat: 3,
            stage: Stage::Audit,
            total_rows: 9,
            read_rows: 9,
            folded_rows: 9,
            audited_rows: 4,
            read_bytes: 100,
            ..progress("r-1")
        };
        let text = String::from_utf8(json::encode(&run)).unwrap();
        let expected = r#"{
  "format_version": 1,
  "view": "user_stats",
  "run_id": "r-1",
  "beat": 3,
  "silent_after_ms": 15000,
  "started_time": "2026-11-30T02:00:00.000Z",
  "written_time": "2026-11-30T02:00:00.000Z",
  "stage": "audit",
  "total_rows": 9,
  "read_rows": 9,
  "folded_rows": 9,
  "audited_rows": 4,
  "read_bytes": 100,
  "checksum": ""#;
        assert!(text.starts_with(expected), "{text}");
        let path = run.path().path();
        for (wrong, expected) in [(text.replace("_version\": 1", "_version\": 2"), "format"), (text.replace("audit", "fold"), "BLAKE3")] {
            store.put_durable(&path, wrong.into()).await.unwrap();
            let error = read(&store, &ViewName::user_stats()).await.unwrap_err().to_string();
            assert!(error.contains("runs/user_stats/progress/r-1.json") && error.contains(expected), "{error}");
        }
    }

    /// Proves that the path of a progress is that of no report, and the other way round.
    #[test]
    fn paths_apart() {
        let path = progress("r-1").path().path();
        assert!(crate::paths::RunPath::parse(&path).is_err() && crate::paths::LeasePath::parse(&path).is_err());
        assert!(ProgressPath::parse(&"runs/user_stats/r-1.json".into()).is_err());
        assert_eq!(ProgressPath::parse(&path).unwrap().path(), path);
    }
}
