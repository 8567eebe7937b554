//! The views: their SQL, their versions, their rows.

use std::sync::Arc;

use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use maud::{Markup, html};
use storage::paths::ViewName;

use super::shell::{self, Again, Page, Tab, warning};
use super::{Console, rows, versions, words};
use crate::answer::Answers;

/// Columns of outputs before the measures: key, bucket, how many events.
const NOT_MEASURES: usize = 3;

pub(super) async fn list(State(console): State<Arc<Console>>) -> Response {
    let (views, now_us) = (console.service.served.all(), console.now_us());
    let body = html! {
        h1 { "Views" }
        p.lead { "Each is one SQL statement over " code { "events" } ", folded twice: by the batch layer up to a boundary, by the speed layer from there on." }
        div #views data-live {
            div.scroll {
                table {
                    thead { tr { th scope="col" { "view" } th scope="col" { "a row is about" } th scope="col" { "bucket" } th.num scope="col" { "version" } th scope="col" { "computed" } th.num scope="col" { "rows" } th scope="col" { "files" } } }
                    tbody { @for view in &views { (row(view, now_us)) } }
                }
            }
        }
        p.quiet { "A view is declared by a file in the folder of " code { "[views]" } ", and answers when " code { "batch-layer run" } " has published its first version." }
    };
    Page::new("Views", Tab::Views, body).looking(Again::Later).show(&console).await
}

fn row(view: &Answers, now_us: i64) -> Markup {
    let (name, version) = (view.versions.view(), view.versions.current());
    let definition = &version.definition;
    let key = definition.key_columns().iter().map(|column| column.name.clone()).collect::<Vec<_>>().join(", ");
    html! {
        tr {
            th scope="row" { a href=(format!("/views/{name}")) { (name) } }
            td { (key) }
            td { (definition.bucket_name().unwrap_or("none")) }
            td.num { @if version.number == 0 { "none yet" } @else { (version.number) } }
            td { @if let Some(at) = version.computed_us() { (words::ago(at, now_us)) } }
            td.num { (words::count(version.rows_in_batch())) }
            td { @match version.damage() { None => span.good { "✔ whole" }, Some(reason) => span.wrong { "✕ " (reason) } } }
        }
    }
}

pub(super) async fn show(State(console): State<Arc<Console>>, Path(name): Path<String>, RawQuery(query): RawQuery) -> Response {
    let view = match console.service.served.view(&name) {
        Ok(view) => view,
        Err(e) => return shell::failed(&console, StatusCode::NOT_FOUND, "There is no such view", &e.in_one_line()).await,
    };
    let name: ViewName = name.parse().expect("a view that is served has a name");
    let (version, asked) =
        (view.versions.current(), rows::Asked::read(query.as_deref().unwrap_or_default(), &view.versions.current().definition));
    let definition = &version.definition;
    let measures = definition.output_schema().fields().iter().skip(NOT_MEASURES).map(|field| field.name().clone()).collect::<Vec<_>>();
    let body = html! {
        h1 { (name) }
        p { "A row is about " (definition.key_columns().iter().map(|column| column.name.clone()).collect::<Vec<_>>().join(" and "))
            @if let Some(bucket) = definition.bucket_name() { ", for each " (bucket) } "; its measures are " (measures.join(", ")) "." }
        @if let Some(reason) = version.damage() { (warning(&html! { p { "Version " (version.number) " is damaged and answers nothing: " (reason) } })) }
        section aria-labelledby="rows" {
            h2 #rows { "Rows by key" }
            (rows::form(&name, definition, &asked))
            @if asked.is_a_question() { (rows::answered(&console, &view, &asked).await) }
        }
        section aria-labelledby="versions" {
            h2 #versions { "Versions" }
            div #versions-list data-live { (list_of_versions(&console, &name, version.number).await) }
        }
        section aria-labelledby="sql" {
            h2 #sql { "Its SQL" }
            (shell::copyable("sql-text", definition.sql().trim()))
            p.quiet { "Fingerprint " code { (definition.fingerprint()) } }
        }
    };
    Page::new(name.as_str(), Tab::Views, body).looking(Again::Later).show(&console).await
}

async fn list_of_versions(console: &Console, view: &ViewName, current: i64) -> Markup {
    match console.versions.newest(console.service.served.store(), view).await {
        Ok((manifests, _)) if manifests.is_empty() => {
            html! { p { "Nothing is published yet. " code { "batch-layer run" } " publishes the first version." } }
        }
        Ok((manifests, all)) => versions::table(view, &manifests, all, current, console.now_us()),
        Err(e) => warning(&html! { p { "The versions cannot be read: " (e) } }),
    }
}
