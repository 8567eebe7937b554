//! Rows that were refused and are kept: why, how many, and some of them.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use maud::{Markup, html};
use tokio::time::Instant;

use super::shell::{self, Again, Page, Tab, nothing, warning};
use super::{Console, words};
use crate::speed::Refusals;

/// What the speed layer may take: it may read the letters for it.
const PATIENCE: Duration = Duration::from_secs(4);

pub(super) async fn show(State(console): State<Arc<Console>>) -> Response {
    let told = console.speed.status(true, Instant::now() + PATIENCE).await;
    let now_us = console.now_us();
    let body = html! {
        h1 { "Refused rows" }
        p.lead { "Rows that broke a rule are kept as they came, with what was wrong with them; the good rows of the same request went on." }
        div #refused data-live {
            @match &told {
                Err(e) => { (warning(&html! { p { "The speed layer, which keeps them, does not say: " (shell::shown(&e.in_one_line())) } })) }
                Ok(status) => {
                    dl.figures {
                        (shell::figure("kept by the log", &words::count(status.letters), &html! { (words::bytes(status.letter_bytes)) " of " (words::bytes(status.letter_limit_bytes)) }))
                        @if let Some(refusals) = &status.refusals {
                            (shell::figure("to be looked at", &words::count(refusals.outstanding), &html! { "those of imports too" }))
                            (shell::figure("dealt with", &words::count(refusals.settled), &nothing()))
                        }
                    }
                    @if let Some(refusals) = &status.refusals { (groups(refusals, now_us)) }
                }
            }
        }
        section aria-labelledby="mend" {
            h2 #mend { "Once the cause is mended" }
            p { "They are sent again, and go through every check anew; those whose event is in the log then are dealt with." }
            (shell::copyable("replay", "speed-layer dead-letter replay"))
        }
    };
    Page::new("Refused rows", Tab::Refused, body).looking(Again::Later).show(&console).await
}

/// For whoever may look at answers, but not at events.
pub(super) async fn locked(console: &Console) -> Response {
    let body = html! {
        h1 { "Refused rows" }
        p.lead { "They are kept as they came, with whatever is in them, and are shown for a token with the scopes " code { "query" } " and " code { "internal" } ". Sign out, and in again with one." }
    };
    Page::new("Refused rows", Tab::Refused, body).with_status(StatusCode::FORBIDDEN).show(console).await
}

fn groups(refusals: &Refusals, now_us: i64) -> Markup {
    let most = refusals.groups.iter().map(|group| group.outstanding).max().unwrap_or(1).max(1);
    html! {
        @if let Some(reason) = &refusals.failure { (warning(&html! { p { "They cannot be read: " (shell::shown(reason)) } })) }
        @if refusals.partial { p.quiet { "There are more than are read for this page: the counts are of the oldest, and " code { "speed-layer dead-letter list" } " has all." } }
        @if refusals.groups.is_empty() && refusals.failure.is_none() { p { "None is to be looked at." } }
        @for (at, group) in refusals.groups.iter().enumerate() {
            article.refusal {
                h2 { code { (shell::shown(&group.field)) } " " (shell::shown(&group.reason)) }
                div.count { strong { (words::count(group.outstanding)) } " " meter min="0" max=(most) value=(group.outstanding) aria-label=(format!("{} of the most frequent reason's {}", group.outstanding, most)) {} }
                details id=(format!("refusal-{at}")) open[at == 0] {
                    summary { (if group.samples.len() == 1 { "One of them".to_owned() } else { format!("{} of them", group.samples.len()) }) }
                    @for row in &group.samples {
                        div.sample {
                            p.quiet { (words::ago(row.received_us, now_us)) ", " (words::moment(row.received_us)) " · " (row.origin) " · " code { (row.id) } }
                            pre tabindex="0" dir="ltr" { code { (shell::shown(&row.event_json)) @if row.is_cut { "…" } } }
                        }
                    }
                }
            }
        }
    }
}
