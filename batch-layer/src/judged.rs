//! A run whose audit found a difference that a person has judged to be right, say because a fold was mended.
//!
//! The run that accepts it computes what the failed one computed: the same range of the log and the same imports, under the same
//! definition, from all events, and compares with the same version before. What came since is for the next run. So the two find the
//! same difference to the last value, or something else has changed, which nobody has judged.

use storage::manifest::{AcceptedDifference, Manifest};
use storage::paths::{Id, RunPath, ViewName};
use storage::store::{Store, StoreError};
use views::Definition;

use crate::audit::Audited;
use crate::cut::Cut;
use crate::error::RunError;
use crate::report::RunReport;

/// The failed run.
pub(crate) struct Judged {
    report: RunReport,
}

impl Judged {
    /// Reads its report.
    ///
    /// # Errors
    /// There is none of that view, or it is one of a run that did not fail because of a difference.
    pub(crate) async fn read(store: &Store, view: &ViewName, run_id: &Id) -> Result<Self, RunError> {
        let path = RunPath { view: view.clone(), run_id: run_id.clone() }.path();
        let no_run = || RunError::NoJudgedRun { path: path.to_string(), run_id: run_id.to_string() };
        let bytes = match store.get(&path).await {
            Err(StoreError::NotFound { .. }) => return Err(no_run()),
            bytes => bytes?,
        };
        let corrupt = |e: serde_json::Error| StoreError::Corrupt { path: path.to_string(), reason: e.to_string() };
        let report: RunReport = serde_json::from_slice(&bytes).map_err(corrupt)?;
        match report.differing_keys > 0 && report.accepted_difference.is_none() {
            true => Ok(Self { report }),
            false => Err(RunError::NothingJudged { run_id: run_id.to_string(), outcome: report.outcome }),
        }
    }

    /// Where it ended.
    pub(crate) fn cut(&self) -> Cut {
        Cut { log_id: self.report.log_id.clone(), boundary: self.report.boundary.clone() }
    }

    /// The imports that it covered.
    pub(crate) fn imports(&self) -> &[i64] {
        &self.report.imports
    }

    /// Refuses to begin where the comparison would be another one.
    ///
    /// # Errors
    /// The newest version or the definition is not what it was.
    pub(crate) fn check(&self, parent: Option<&Manifest>, definition: &Definition) -> Result<(), RunError> {
        let report = &self.report;
        let parent = parent.map(|parent| parent.version);
        if report.parent != parent {
            let name = |version: Option<i64>| version.map_or_else(|| "no version".to_owned(), |version| format!("version {version}"));
            return Err(self.other(format!("it was compared with {}, and the newest is {}", name(report.parent), name(parent))));
        }
        match report.fingerprint == definition.fingerprint() {
            true => Ok(()),
            false => Err(self.other("the view has another definition now".to_owned())),
        }
    }

    /// What the manifest says, if `audited` found what was judged.
    ///
    /// # Errors
    /// It found something else.
    pub(crate) fn accept(&self, audited: &Audited) -> Result<AcceptedDifference, RunError> {
        let (judged, found) = (&self.report, &audited.differences);
        if judged.audit_kind != audited.summary.kind {
            return Err(
                self.other(format!("it was found against the {}, and this run met the {}", judged.audit_kind, audited.summary.kind))
            );
        }
        let keys = found.keys;
        if keys != judged.differing_keys {
            return Err(self.other(format!("it is one in {} keys, and this run finds one in {keys}", judged.differing_keys)));
        }
        match found.digest.to_string() == judged.difference_digest {
            true => Ok(AcceptedDifference { run_id: judged.run_id.clone(), keys }),
            false => Err(self.other(format!("this run finds one in {keys} keys too, with other values"))),
        }
    }

    fn other(&self, reason: String) -> RunError {
        RunError::OtherDifference { judged: self.report.run_id.clone(), reason }
    }
}

/// The view whose run has that id, of some.
///
/// # Errors
/// None of them has, or the store cannot say.
pub async fn view_of_run(store: &Store, views: impl IntoIterator<Item = &ViewName>, run_id: &Id) -> Result<ViewName, RunError> {
    for view in views {
        let path = RunPath { view: view.clone(), run_id: run_id.clone() };
        match store.get(&path.path()).await {
            Ok(_) => return Ok(view.clone()),
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(RunError::NoJudgedRun { path: format!("runs/*/{run_id}.json"), run_id: run_id.to_string() })
}
