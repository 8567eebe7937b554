//! The first page: the field that looks a user up, and how it goes at a glance.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};

use super::shell::{self, Again, Page, Tab, nothing};
use super::{Console, chart, health, runs, words};

/// The line of the rate goes back so far.
const LINE_S: f64 = 600.0;

pub(super) async fn show(State(console): State<Arc<Console>>) -> Response {
    let body = html! {
        section.hero {
            h1 { "What has this user done?" }
            (shell::find("", true))
            p.quiet { "Over all history, and up to the last event that was acknowledged." }
        }
        div #going data-live { (runs::going(&console, false).await) }
        div #glance data-live { (glance(&console)) }
    };
    Page::new("Look up a user", Tab::Home, body).looking(Again::Soon).show(&console).await
}

fn glance(console: &Console) -> Markup {
    let (heard, version) = (console.pulse.heard(), console.service.stats.versions.current());
    let asked: f64 = heard.questions().iter().map(|pace| pace.per_second).sum();
    let slowest = heard
        .questions()
        .iter()
        .filter(|pace| pace.method != "WatchUserStats")
        .filter_map(|pace| pace.took.quantile(0.99))
        .fold(None, |most: Option<f64>, one| Some(most.map_or(one, |most| most.max(one))));
    let history = heard.history();
    let speed = heard.speed();
    html! {
        dl.figures {
            (shell::figure("version that answers", &if version.number == 0 { "none yet".to_owned() } else { version.number.to_string() }, &html! { @if let Some(at) = version.computed_us() { (words::ago(at, console.now_us())) ", " (words::count(version.rows_in_batch())) " rows" } }))
            @if let Some(speed) = speed {
                (shell::figure("events since", &words::count(speed.partitions.iter().map(|p| health::behind(&version, p.number, p.head)).sum()), &html! { "counted live" }))
                (shell::figure("rows a second", &heard.rates().map_or_else(|| "…".to_owned(), |rates| words::rate(rates.accepted)), &nothing()))
            }
            (shell::figure("questions a second", &words::rate(asked), &html! { @if let Some(seconds) = slowest { "99 % within " (words::seconds(seconds)) } }))
            @if let Some(speed) = speed { (shell::figure("refused rows", &words::count(speed.letters), &html! { a href="/refused" { "why" } })) }
        }
        @if history.len() > 1 { (chart::line(&history, LINE_S, "Rows taken in per second over the last ten minutes")) }
    }
}
