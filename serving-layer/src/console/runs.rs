//! Batch runs: those that go, with how far they are, and the reports of those that ended.
//!
//! A run that goes says so in the store, beat after beat. Whether it is alive is judged by this process's own clock: one whose beat has not moved for
//! the time that it names is shown as silent, whatever it said last.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use maud::{Markup, html};
use serde::Deserialize;
use storage::paths::{Id, RunPath, ViewName, runs_folder};
use storage::progress::{self, Progress, Stage};
use storage::store::{Store, StoreError};
use tokio::time::Instant;

use super::shell::{self, Again, Page, Tab, nothing, warning};
use super::{Console, words};

/// Reports that are listed, of all views together, the newest ones.
const MAX_REPORTS: usize = 40;
/// Reports that are kept in memory: they never change.
const MAX_KNOWN: usize = 500;
/// Bytes of a report that are shown.
const MAX_REPORT_BYTES: usize = 64 << 10;
/// Runs that go at once and are watched.
const MAX_WATCHED: usize = 64;

/// What was seen of runs until now.
#[derive(Default)]
pub(super) struct Watched {
    beats: Mutex<BTreeMap<Id, (i64, Instant)>>,
    reports: Mutex<BTreeMap<Id, Arc<Report>>>,
}

/// What the list says of a run.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Report {
    view: String,
    run_id: String,
    outcome: String,
    version: i64,
    built_upon: Option<i64>,
    recompute_reason: Option<String>,
    started_time: String,
    elapsed_ms: u64,
    rows_read: i64,
    event_count: i64,
    state_rows: i64,
    view_bytes: i64,
    late_duplicate_count: i64,
    conflict_count: i64,
    erased_count: i64,
    audit_kind: String,
    keys_compared: i64,
    keys_refolded: i64,
    differing_keys: i64,
}

impl Report {
    fn is_published(&self) -> bool {
        self.outcome == "published"
    }
}

impl Watched {
    /// Whether a run has moved within the time that it names. One that is seen for the first time is taken to have moved when it says it has, by
    /// its clock and ours.
    fn is_alive(&self, run: &Progress, now_us: i64) -> bool {
        let patience = Duration::from_millis(run.silent_after_ms);
        let mut beats = self.beats.lock().unwrap_or_else(PoisonError::into_inner);
        match beats.get_mut(&run.run_id) {
            Some((beat, moved)) => {
                if *beat != run.beat {
                    (*beat, *moved) = (run.beat, Instant::now());
                }
                moved.elapsed() < patience
            }
            None => {
                if beats.len() == MAX_WATCHED {
                    beats.pop_first();
                }
                let written_us = words::parsed(&run.written_time).unwrap_or(now_us);
                let since = Duration::from_micros(u64::try_from(now_us.saturating_sub(written_us)).unwrap_or(0));
                // A clock that runs from the start of the machine may be younger than the run.
                let moved = Instant::now().checked_sub(since);
                beats.insert(run.run_id.clone(), (run.beat, moved.unwrap_or_else(Instant::now)));
                since < patience && moved.is_some()
            }
        }
    }

    /// The newest reports of all views, newest first.
    async fn newest(&self, store: &Store, views: impl Iterator<Item = &ViewName>) -> Result<(Vec<Arc<Report>>, usize), StoreError> {
        let mut paths = Vec::new();
        for view in views {
            paths.extend(store.list(&runs_folder(view)).await?.iter().filter_map(|object| RunPath::parse(&object.location).ok()));
        }
        let all = paths.len();
        // Their ids begin with the time.
        paths.sort_by(|a, b| b.run_id.as_str().cmp(a.run_id.as_str()));
        let mut reports = Vec::new();
        for path in paths.iter().take(MAX_REPORTS) {
            match self.read(store, path).await {
                Ok(report) => reports.push(report),
                // It has expired since.
                Err(StoreError::NotFound { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        Ok((reports, all))
    }

    async fn read(&self, store: &Store, path: &RunPath) -> Result<Arc<Report>, StoreError> {
        if let Some(known) = self.reports.lock().unwrap_or_else(PoisonError::into_inner).get(&path.run_id) {
            return Ok(Arc::clone(known));
        }
        let bytes = store.get(&path.path()).await?;
        // One that cannot be read is shown as such, and keeps no other from being shown.
        let unread = |e: serde_json::Error| Report {
            view: path.view.to_string(),
            run_id: path.run_id.to_string(),
            outcome: format!("the report cannot be read: {e}"),
            ..Report::default()
        };
        let report = Arc::new(serde_json::from_slice(&bytes).unwrap_or_else(unread));
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        if reports.len() == MAX_KNOWN {
            reports.pop_first();
        }
        reports.insert(path.run_id.clone(), Arc::clone(&report));
        Ok(report)
    }
}

pub(super) async fn list(State(console): State<Arc<Console>>) -> Response {
    let body = html! {
        h1 { "Batch runs" }
        div #going data-live { (going(&console, true).await) }
        div #reports data-live { (reports(&console).await) }
    };
    Page::new("Batch runs", Tab::Runs, body).looking(Again::Soon).show(&console).await
}

/// The runs that go.
pub(super) async fn going(console: &Console, say_if_none: bool) -> Markup {
    let (store, now_us) = (console.service.served.store(), console.now_us());
    let mut runs = Vec::new();
    let listed = async {
        for view in progress::views(store).await? {
            runs.extend(progress::read(store, &view).await?);
        }
        Ok::<_, StoreError>(())
    };
    if let Err(e) = listed.await {
        return warning(&html! { p { "The runs that go cannot be read: " (e) } });
    }
    html! {
        @for run in &runs { (progress_of(run, console.runs.is_alive(run, now_us), now_us)) }
        @if runs.is_empty() && say_if_none {
            p { "No run goes on just now. " code { "batch-layer run" } " starts one, " code { "batch-layer schedule" } " one whenever it is due." }
        }
    }
}

fn progress_of(run: &Progress, is_alive: bool, now_us: i64) -> Markup {
    let percent = (run.fraction() * 100.0).floor();
    let begun = words::parsed(&run.started_time).map_or_else(|| run.started_time.clone(), |at| words::ago(at, now_us));
    let written = words::parsed(&run.written_time).map_or_else(|| run.written_time.clone(), |at| words::ago(at, now_us));
    let stage = match run.stage {
        Stage::Prepare => "asks for a cut and looks what there is",
        Stage::Read => "reads and sorts events",
        Stage::Fold => "folds events into states",
        Stage::Audit => "compares every key",
        Stage::Publish => "publishes",
    };
    html! {
        article.run.silent[!is_alive] {
            h2 { (run.view) " " @if is_alive { span.tag.goes { "goes" } } @else { span.tag.wrong { "silent" } } }
            @if is_alive {
                progress aria-label=(format!("The run of {}", run.view)) max="100" value=[(run.stage != Stage::Prepare).then_some(percent)] { (percent) " %" }
                p { strong { @if run.stage != Stage::Prepare { (percent) " % · " } (stage) } ", begun " (begun) }
            } @else {
                p { strong { "Nothing was heard of this run since " (written) "." } " It died, or cannot reach the store: it publishes nothing unless it is heard of again. It had come to " (percent) " %." }
            }
            @if run.total_rows > 0 {
                p.quiet { (words::count(run.read_rows.cast_signed())) " of " (words::counted(run.total_rows.cast_signed(), "event", "events")) " read (" (words::bytes(run.read_bytes.cast_signed())) "), " (words::count(run.folded_rows.cast_signed())) " folded, " (words::count(run.audited_rows.cast_signed())) " compared" }
            }
            p.quiet { "Run " code { (run.run_id) } }
        }
    }
}

async fn reports(console: &Console) -> Markup {
    let (store, now_us) = (console.service.served.store(), console.now_us());
    let found = async {
        let views = progress::views(store).await?;
        console.runs.newest(store, views.iter()).await
    };
    let (reports, all) = match found.await {
        Ok(found) => found,
        Err(e) => return warning(&html! { p { "The reports cannot be read: " (e) } }),
    };
    html! {
        h2 { "Those that ended" }
        @if reports.is_empty() { p { "No run has ended yet." } } @else {
            div.scroll {
                table {
                    thead { tr {
                        th scope="col" { "began" } th scope="col" { "view" } th scope="col" { "outcome" } th.num scope="col" { "took" } th.num scope="col" { "rows read" }
                        th.num scope="col" { "events" } th scope="col" { "audit" }
                    } }
                    tbody { @for report in &reports { (row(report, now_us)) } }
                }
            }
            @if all > reports.len() { p.quiet { "The newest " (reports.len()) " of " (words::count(all as i64)) " reports; the others are in the store under " code { "runs/" } "." } }
        }
    }
}

fn row(report: &Report, now_us: i64) -> Markup {
    let began = words::parsed(&report.started_time);
    html! {
        tr {
            th scope="row" {
                a href=(format!("/runs/{}/{}", report.view, report.run_id)) { @match began { Some(at) => (words::ago(at, now_us)), None => (report.run_id) } }
            }
            td { (report.view) }
            td {
                @if report.is_published() { span.good { "✔" } " version " (report.version) @if let Some(base) = report.built_upon { ", upon " (base) } }
                @else { span.wrong { "✕" } " " (short(&report.outcome)) }
            }
            td.num { (words::seconds(report.elapsed_ms as f64 / 1e3)) }
            td.num { (words::count(report.rows_read)) }
            td.num { @if report.is_published() { (words::count(report.event_count)) } @else { "–" } }
            td { @if report.differing_keys > 0 { span.wrong { "✕" } " " (words::counted(report.differing_keys, "key differs", "keys differ")) } @else if report.keys_compared > 0 { (words::count(report.keys_compared)) " equal" } }
        }
    }
}

fn short(text: &str) -> String {
    const CHARS: usize = 120;
    let mut short: String = text.chars().take(CHARS).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    shell::shown(&short)
}

pub(super) async fn show(State(console): State<Arc<Console>>, Path((view, run)): Path<(String, String)>) -> Response {
    let path = match (view.parse::<ViewName>(), run.parse::<Id>()) {
        (Ok(view), Ok(run_id)) => RunPath { view, run_id },
        _ => return shell::failed(&console, StatusCode::NOT_FOUND, "There is no such run", "That is not the id of a run.").await,
    };
    let store = console.service.served.store();
    let (report, bytes) = match (console.runs.read(store, &path).await, store.get(&path.path()).await) {
        (Ok(report), Ok(bytes)) => (report, bytes),
        (Err(StoreError::NotFound { .. }), _) => {
            let why = "It has not ended yet, or its report has expired.";
            return shell::failed(&console, StatusCode::NOT_FOUND, "There is no report of that run", why).await;
        }
        (Err(e), _) | (_, Err(e)) => {
            return shell::failed(&console, StatusCode::BAD_GATEWAY, "The report cannot be read", &e.to_string()).await;
        }
    };
    let text =
        String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_REPORT_BYTES)]).lines().map(shell::shown).collect::<Vec<_>>().join("\n");
    let body = html! {
        h1 { "Run of " (path.view) }
        (summary(&report, console.now_us()))
        details #report {
            summary { "The whole report" }
            @if bytes.len() > MAX_REPORT_BYTES { p.quiet { "Its first 64 KiB; it is " code { (path.path()) } " in the store." } }
            pre.said tabindex="0" dir="ltr" { (text) }
        }
    };
    Page::new(&format!("Run of {}", path.view), Tab::Runs, body).show(&console).await
}

fn summary(report: &Report, now_us: i64) -> Markup {
    let began = words::parsed(&report.started_time)
        .map_or_else(|| report.started_time.clone(), |at| format!("{} ({})", words::ago(at, now_us), words::moment(at)));
    let computed = match (report.built_upon, &report.recompute_reason) {
        (Some(base), _) => format!("upon version {base}"),
        (None, Some(reason)) => format!("from all events ({reason})"),
        (None, None) => "from all events".to_owned(),
    };
    let removed = html! { @if report.conflict_count > 0 { (words::counted(report.conflict_count, "conflict", "conflicts")) " too" } };
    html! {
        @if report.is_published() {
            p.state.well { span.sign aria-hidden="true" { "✔" } strong { "Published version " (report.version) "." } " Began " (began) "; computed " (computed) "." }
        } @else {
            p.state.bad { span.sign aria-hidden="true" { "✕" } strong { "Nothing was published." } " Began " (began) "." }
            pre.said tabindex="0" dir="ltr" { (shell::shown(&report.outcome)) }
        }
        dl.figures {
            (shell::figure("took", &words::seconds(report.elapsed_ms as f64 / 1e3), &nothing()))
            (shell::figure("rows read", &words::count(report.rows_read), &nothing()))
            (shell::figure("events", &words::count(report.event_count), &nothing()))
            (shell::figure("rows of states", &words::count(report.state_rows), &html! { (words::bytes(report.view_bytes)) }))
            (shell::figure("late duplicates removed", &words::count(report.late_duplicate_count), &removed))
            @if report.erased_count > 0 { (shell::figure("events of erased users", &words::count(report.erased_count), &nothing())) }
            (shell::figure("keys compared", &words::count(report.keys_compared), &html! { @if !report.audit_kind.is_empty() { "with the " (report.audit_kind) } @if report.keys_refolded > 0 { ", " (words::count(report.keys_refolded)) " folded again" } }))
            @if report.differing_keys > 0 { (shell::figure("keys that differ", &words::count(report.differing_keys), &nothing())) }
        }
        p.quiet { "Run " code { (report.run_id) } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(beat: i64, written_time: &str) -> Progress {
        let begun = Progress::begun(ViewName::user_stats(), "r-1".parse().unwrap(), written_time.to_owned(), 15_000);
        Progress { beat, stage: Stage::Fold, total_rows: 10, read_rows: 10, folded_rows: 5, ..begun }
    }

    /// Proves that a run is alive while its beat moves, that one which stops is not for long, and that one which died long ago does not look alive at
    /// the first look.
    #[tokio::test(start_paused = true)]
    async fn a_dead_run_does_not_look_alive() {
        tokio::time::advance(Duration::from_secs(3600)).await;
        let (watched, now_us) = (Watched::default(), words::parsed("2026-11-30T02:00:10Z").unwrap());
        assert!(watched.is_alive(&run(1, "2026-11-30T02:00:08Z"), now_us));
        tokio::time::advance(Duration::from_secs(14)).await;
        assert!(!watched.is_alive(&run(1, "2026-11-30T02:00:08Z"), now_us));
        // Its clock may say what it likes: it has moved.
        assert!(watched.is_alive(&run(2, "1999-01-01T00:00:00Z"), now_us));
        tokio::time::advance(Duration::from_secs(16)).await;
        assert!(!watched.is_alive(&run(2, "2026-11-30T02:00:09Z"), now_us));
        assert!(!Watched::default().is_alive(&run(7, "2026-11-30T01:59:00Z"), now_us));
        let dead = progress_of(&run(7, "2026-11-30T01:59:00Z"), false, now_us).into_string();
        assert!(dead.contains("silent") && !dead.contains("<progress") && dead.contains("since 1 min ago"), "{dead}");
        let alive = progress_of(&run(7, "2026-11-30T02:00:08Z"), true, now_us).into_string();
        assert!(alive.contains("<progress") && alive.contains("50 % · ") && alive.contains("folds events"), "{alive}");
    }

    /// Proves that reports are listed newest first across views, and that one which is no JSON keeps none of the others from being read.
    #[tokio::test]
    async fn reports_of_all_views() {
        let (store, watched) = (Store::open("memory://").unwrap(), Watched::default());
        let views: [ViewName; 2] = ["a", "b"].map(|name| name.parse().unwrap());
        let put = async |view: &ViewName, id: &str, text: &str| {
            let path = RunPath { view: view.clone(), run_id: id.parse().unwrap() };
            store.put_durable(&path.path(), text.to_owned().into()).await.unwrap();
        };
        put(&views[0], "20261130T010000000Z-1", r#"{"view":"a","run_id":"20261130T010000000Z-1","outcome":"published","version":1}"#).await;
        put(&views[1], "20261130T020000000Z-2", "{").await;
        put(&views[0], "20261130T030000000Z-3", r#"{"view":"a","run_id":"20261130T030000000Z-3","outcome":"<b>no</b>"}"#).await;
        let (found, all) = watched.newest(&store, views.iter()).await.unwrap();
        assert_eq!((all, found.iter().map(|report| report.run_id.rsplit('-').next().unwrap()).collect::<String>()), (3, "321".to_owned()));
        assert!(found[1].outcome.contains("cannot be read") && found[2].is_published());
        let html = row(&found[0], 0).into_string();
        assert!(html.contains("&lt;b&gt;no&lt;/b&gt;"), "{html}");
    }
}
