//! The versions of a view, and going back to one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::{Extension, Form};
use maud::{Markup, html};
use merganser_proto::server::Peer;
use serde::Deserialize;
use storage::manifest::{Manifest, Manifests};
use storage::paths::ViewName;
use storage::store::{Store, StoreError};

use super::action::{self, Request};
use super::shell::{self, Page, Tab, warning};
use super::{Console, words};
use crate::version::computed_us;

/// Versions that are listed, the newest ones.
const MAX_VERSIONS: usize = 50;
/// Manifests that are kept in memory: they never change.
const MAX_KNOWN: usize = 1000;
/// Partitions whose offsets are written out.
const MAX_OFFSETS: usize = 8;

/// Manifests that were read.
#[derive(Default)]
pub(super) struct Known(Mutex<BTreeMap<(ViewName, i64), Arc<Manifest>>>);

impl Known {
    /// The newest manifests of a view, newest first, and how many versions there are.
    pub(super) async fn newest(&self, store: &Store, view: &ViewName) -> Result<(Vec<Arc<Manifest>>, usize), StoreError> {
        let manifests = Manifests::new(store.clone(), view.clone());
        let numbers = manifests.list().await?;
        let mut found = Vec::new();
        for number in numbers.iter().rev().take(MAX_VERSIONS) {
            match self.read(&manifests, view, *number).await {
                Ok(manifest) => found.push(manifest),
                // It has expired since it was listed.
                Err(StoreError::NotFound { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        Ok((found, numbers.len()))
    }

    async fn read(&self, manifests: &Manifests, view: &ViewName, number: i64) -> Result<Arc<Manifest>, StoreError> {
        let key = (view.clone(), number);
        if let Some(manifest) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(Arc::clone(manifest));
        }
        let manifest = Arc::new(manifests.read(number).await?);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(key, Arc::clone(&manifest));
        Ok(manifest)
    }
}

/// The version that somebody wants back.
#[derive(Deserialize)]
pub(super) struct To {
    to: i64,
    #[serde(default)]
    token: String,
}

/// The list; `current` is the version that answers.
pub(super) fn table(view: &ViewName, manifests: &[Arc<Manifest>], all: usize, current: i64, now_us: i64) -> Markup {
    html! {
        div.scroll {
            table {
                thead { tr {
                    th.num scope="col" { "version" } th scope="col" { "computed" } th.num scope="col" { "events" } th.num scope="col" { "rows" } th.num scope="col" { "size" }
                    th scope="col" { "boundary" } th scope="col" { "audit" } th scope="col" { span.hidden { "action" } }
                } }
                tbody {
                    @for manifest in manifests {
                        tr.current[manifest.version == current] {
                            th.num scope="row" { (manifest.version) @if manifest.version == current { " " span.tag { "answers" } } }
                            td { @if let Some(at) = computed_us(manifest) { span title=(words::moment(at)) { (words::ago(at, now_us)) } } }
                            @if manifest.withdrawn {
                                td colspan="6" { "withdrawn: nobody answers for the view" }
                            } @else {
                                td.num { (words::count(manifest.event_count)) }
                                td.num { (words::count(manifest.row_count)) }
                                td.num { (words::bytes(manifest.files.iter().map(|file| file.bytes).sum())) }
                                td { (boundary(&manifest.boundary)) }
                                td { (audit(manifest)) }
                                td { @if manifest.version != current { a href=(format!("/views/{view}/rollback?to={}", manifest.version)) { "Roll back" span.hidden { " to version " (manifest.version) } "…" } } }
                            }
                        }
                    }
                }
            }
        }
        @if all > manifests.len() { p.quiet { "The newest " (manifests.len()) " of " (words::count(all as i64)) " versions; " code { "batch-layer versions" } " lists all." } }
    }
}

fn boundary(offsets: &[i64]) -> Markup {
    let shown = offsets.iter().take(MAX_OFFSETS).map(|offset| words::count(*offset)).collect::<Vec<_>>().join(" · ");
    html! { span.offsets { (shown) @if offsets.len() > MAX_OFFSETS { " and " (offsets.len() - MAX_OFFSETS) " more" } } }
}

fn audit(manifest: &Manifest) -> Markup {
    let Some(audit) = &manifest.audit else { return html! { "not audited" } };
    html! {
        @match &manifest.accepted_difference {
            None => { span.good { "✔" } " " (words::counted(audit.keys_compared, "key", "keys")) " equal to the " (audit.kind) }
            Some(accepted) => { span.odd { "▲" } " a difference in " (words::counted(accepted.keys, "key", "keys")) " was accepted (run " code { (accepted.run_id) } ")" }
        }
        @if audit.keys_refolded > 0 { ", " (words::count(audit.keys_refolded)) " folded again" }
        @if manifest.late_duplicate_count > 0 { "; " (words::counted(manifest.late_duplicate_count, "late duplicate", "late duplicates")) " removed" }
        @if manifest.conflict_count > 0 { "; " (words::counted(manifest.conflict_count, "conflict", "conflicts")) }
    }
}

/// What a rollback would do, before anything is done.
pub(super) async fn confirm(State(console): State<Arc<Console>>, Path(view): Path<String>, Query(To { to, .. }): Query<To>) -> Response {
    let (name, manifest) = match find(&console, &view, to).await {
        Ok(found) => found,
        Err(reason) => return shell::failed(&console, StatusCode::NOT_FOUND, "There is no such version", &reason).await,
    };
    let current = console.service.served.view(&view).map(|answers| answers.versions.current().number).unwrap_or(0);
    let path = format!("/views/{name}/rollback");
    let request = Request::Rollback { view: name.clone(), version: to };
    let (number, now_us) = (to.to_string(), console.now_us());
    let body = html! {
        h1 { "Roll " (name) " back to version " (to) "?" }
        p.lead { "The content of version " (to) @if let Some(at) = computed_us(&manifest) { ", computed " (words::ago(at, now_us)) "," } " is published again under the next number. No event is lost: what version " (to) " does not cover is counted live, as far as the speed layer can go back; if it cannot, nothing is published." }
        dl.figures {
            (shell::figure("events in it", &words::count(manifest.event_count), &shell::nothing()))
            (shell::figure("rows", &words::count(manifest.row_count), &shell::nothing()))
            (shell::figure("answers now", &format!("version {current}"), &shell::nothing()))
        }
        @if to == current { (warning(&html! { p { "This is the version that answers now." } })) }
        (action::offer(&console, &request, &path, "Roll back", &[("to", &number)]))
        p { a href=(format!("/views/{name}")) { "Leave it as it is" } }
    };
    Page::new(&format!("Roll back {name}"), Tab::Views, body).show(&console).await
}

pub(super) async fn rollback(
    State(console): State<Arc<Console>>,
    Path(view): Path<String>,
    peer: Option<Extension<Peer>>,
    Form(To { to, token }): Form<To>,
) -> Response {
    match find(&console, &view, to).await {
        Ok((view, _)) => action::begin(&console, Request::Rollback { view, version: to }, &token, peer.unwrap_or_default().0).await,
        Err(reason) => shell::failed(&console, StatusCode::NOT_FOUND, "There is no such version", &reason).await,
    }
}

async fn find(console: &Console, view: &str, version: i64) -> Result<(ViewName, Arc<Manifest>), String> {
    let view: ViewName = view.parse().map_err(|_| "That is not the name of a view.".to_owned())?;
    let manifests = Manifests::new(console.service.served.store().clone(), view.clone());
    match console.versions.read(&manifests, &view, version).await {
        Ok(manifest) if manifest.withdrawn => Err(format!("Version {version} says that the view is withdrawn.")),
        Ok(manifest) => Ok((view, manifest)),
        Err(StoreError::NotFound { .. }) => Err(format!("Version {version} of {view} was never published, or has expired.")),
        Err(e) => Err(e.to_string()),
    }
}
