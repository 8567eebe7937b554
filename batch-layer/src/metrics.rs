//! What runs came to, as a file for the textfile collector of Prometheus' node exporter: a job that ends cannot be scraped.
//!
//! Almost all of it is read from the store: the newest version and the newest report of each view. So a file that was lost is whole again
//! after the next run, and a run over one view does not forget the others. What the store does not know is how runs ended that came to
//! no report, and when there was nothing to do.
//!
//! *Layout.* Gauges in the Prometheus text format. *What a crash leaves behind.* The file before or the new one, and a temporary file
//! beside it, which the collector does not read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use merganser_proto::metrics::{Labels, Numbers, Sheet, text};
use storage::manifest::{Manifests, list_views};
use storage::paths::{RunPath, ViewName, runs_folder};
use storage::store::{Store, StoreError};

use crate::error::RunError;
use crate::report::RunReport;
use crate::rows::Rows;

/// Exit codes after which a view is as new as it can be.
const UP_TO_DATE: [u8; 2] = [0, 99];
const LAST_SUCCESS: &str = "merganser_batch_last_success_timestamp_seconds";
/// The collector runs as another user.
const READABLE: u32 = 0o644;

/// A run of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// How it ended.
    pub exit_code: u8,
    /// When it began.
    pub started: DateTime<Utc>,
    /// How long it took.
    pub elapsed: Duration,
}

/// Writes the metrics of all views to `file`, which appears complete or stays as it was. `attempts` are the newest runs of this process.
///
/// # Errors
/// The store cannot be read, or the file not be written.
pub async fn write(store: &Store, attempts: &BTreeMap<ViewName, Attempt>, file: &Path) -> Result<(), RunError> {
    let before = std::fs::read_to_string(file).unwrap_or_default();
    let mut views: BTreeSet<ViewName> = list_views(store).await?;
    views.extend(attempts.keys().cloned());
    let mut metrics = Metrics::default();
    for view in views {
        let newest = Manifests::new(store.clone(), view.clone()).latest().await?;
        if newest.as_ref().is_some_and(|newest| newest.withdrawn) {
            continue;
        }
        let published = newest.as_ref().and_then(|newest| seconds(&newest.created_time));
        let attempt = attempts.get(&view).copied();
        let verified = attempt.filter(|attempt| UP_TO_DATE.contains(&attempt.exit_code));
        let verified = verified.map(|attempt| attempt.started.timestamp() as f64 + attempt.elapsed.as_secs_f64());
        let last_success = [published, verified, success_before(&before, &view)].into_iter().flatten().max_by(f64::total_cmp);
        let version = newest.map(|newest| newest.version);
        metrics.views.push(OfView { report: newest_report(store, &view).await?, view, attempt, version, last_success });
    }
    let numbers: Arc<dyn Numbers> = Arc::new(metrics);
    let text = text(&numbers).expect("a string takes all text");
    replace(file, &text).map_err(|source| RunError::Local { path: file.display().to_string(), source })
}

/// The report with the greatest id, which begins with the time.
async fn newest_report(store: &Store, view: &ViewName) -> Result<Option<RunReport>, RunError> {
    let listed = store.list(&runs_folder(view)).await?;
    let newest =
        listed.iter().filter_map(|object| RunPath::parse(&object.location).ok()).max_by(|a, b| a.run_id.as_str().cmp(b.run_id.as_str()));
    let Some(newest) = newest else { return Ok(None) };
    let bytes = match store.get(&newest.path()).await {
        // It has expired meanwhile.
        Err(StoreError::NotFound { .. }) => return Ok(None),
        bytes => bytes?,
    };
    let corrupt = |e: serde_json::Error| StoreError::Corrupt { path: newest.path().to_string(), reason: e.to_string() };
    Ok(Some(serde_json::from_slice(&bytes).map_err(corrupt)?))
}

/// What the file said before: that there was nothing to do is written nowhere else.
fn success_before(text: &str, view: &ViewName) -> Option<f64> {
    let sample = format!("{LAST_SUCCESS}{{view=\"{view}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&sample)?.parse().ok())
}

fn replace(file: &Path, text: &str) -> std::io::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut new = tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(READABLE)).tempfile_in(folder)?;
    new.write_all(text.as_bytes())?;
    new.as_file().sync_all()?;
    new.persist(file)?;
    Ok(())
}

fn seconds(rfc3339: &str) -> Option<f64> {
    Some(DateTime::parse_from_rfc3339(rfc3339).ok()?.timestamp_micros() as f64 / 1e6)
}

#[derive(Default)]
struct Metrics {
    views: Vec<OfView>,
}

struct OfView {
    view: ViewName,
    attempt: Option<Attempt>,
    report: Option<RunReport>,
    version: Option<i64>,
    last_success: Option<f64>,
}

impl OfView {
    /// The last run that is known: began, exit code, seconds.
    fn last_run(&self) -> Option<(f64, u8, f64)> {
        if let Some(attempt) = self.attempt {
            return Some((attempt.started.timestamp() as f64, attempt.exit_code, attempt.elapsed.as_secs_f64()));
        }
        let report = self.report.as_ref()?;
        // Of a run of another process only this is known.
        let exit_code = u8::from(report.outcome != "published");
        Some((seconds(&report.started_time)?, exit_code, report.elapsed_ms as f64 / 1e3))
    }

    fn labels(&self) -> Labels {
        vec![("view", self.view.to_string())]
    }
}

impl Numbers for Metrics {
    fn write(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        self.gauge(sheet, "merganser_batch_last_run_timestamp_seconds", "When the last run began, since 1970.", |v| Some(v.last_run()?.0))?;
        let help = "How it ended: 0 published, 99 nothing to do, all else as batch-layer --help says.";
        self.gauge(sheet, "merganser_batch_last_run_exit_code", help, |v| Some(v.last_run()?.1.into()))?;
        self.gauge(sheet, "merganser_batch_last_run_duration_seconds", "How long it took.", |v| Some(v.last_run()?.2))?;
        self.gauge(sheet, LAST_SUCCESS, "When a run published, or found nothing to do, since 1970.", |v| v.last_success)?;
        self.gauge(sheet, "merganser_batch_version", "The newest version.", |v| Some(v.version? as f64))?;
        let of_report = |of: fn(&RunReport) -> i64| move |v: &OfView| Some(of(v.report.as_ref()?) as f64);
        self.gauge(sheet, "merganser_batch_events", "Events that the last reported run counted.", of_report(|r| r.event_count))?;
        let help = "Rows that it took out and that were counted before.";
        self.gauge(sheet, "merganser_batch_corrections", help, of_report(|r| r.correction_count))?;
        let help = "Keys in which its audit found a difference.";
        self.gauge(sheet, "merganser_batch_differing_keys", help, of_report(|r| r.differing_keys))?;
        let rows = self.views.iter().filter_map(|v| Some((v, &v.report.as_ref()?.rows)));
        let rows = rows.flat_map(|(v, rows)| {
            places(rows).map(|(place, rows)| {
                let mut labels = v.labels();
                labels.push(("place", place.to_owned()));
                (labels, rows as f64)
            })
        });
        sheet.gauge("merganser_batch_rows", "Where every row below its boundary went.", rows)
    }
}

impl Metrics {
    fn gauge(&self, sheet: &mut Sheet<'_>, name: &str, help: &str, value: impl Fn(&OfView) -> Option<f64>) -> fmt::Result {
        sheet.gauge(name, help, self.views.iter().filter_map(|view| Some((view.labels(), value(view)?))))
    }
}

/// The terms of both equations of `rows`.
fn places(rows: &Rows) -> [(&'static str, i64); 12] {
    [
        ("log", rows.log),
        ("segments", rows.segments),
        ("erasures", rows.erasures),
        ("gone", rows.gone),
        ("imports", rows.imports),
        ("counted", rows.counted),
        ("late_duplicates", rows.late_duplicates),
        ("conflicts", rows.conflicts),
        ("erased", rows.erased),
        ("filtered", rows.filtered),
        ("past_limit", rows.past_limit),
        ("left_out_before", rows.left_out_before),
    ]
}
