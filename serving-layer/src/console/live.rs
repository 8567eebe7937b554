//! What comes in and what is asked, now: rates, latencies, the tail of the log, slices and their memory.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};
use merganser_proto::metrics::Spread;

use super::pulse::Heard;
use super::shell::{self, Again, Page, Tab, nothing, warning};
use super::{Console, chart, health, words};
use crate::speed::{PartitionStatus, SpeedStatus};
use crate::version::Version;

/// Partitions that are listed.
const MAX_PARTITIONS: usize = 64;
/// The line of the rate goes back so far.
const LINE_S: f64 = 600.0;

pub(super) async fn show(State(console): State<Arc<Console>>) -> Response {
    let heard = console.pulse.heard();
    let version = console.service.stats.versions.current();
    let body = html! {
        h1 { "Live" }
        div #live data-live {
            (ingest(&heard, console.now_us()))
            @if let Some(speed) = heard.speed() { (log(speed, &version)) (room(speed)) }
        }
        div #questions data-live { (questions(&heard)) (cache(&console)) }
    };
    Page::new("Live", Tab::Live, body).looking(Again::Soon).show(&console).await
}

/// The rate, and a line of the last minutes.
pub(super) fn ingest(heard: &Heard, now_us: i64) -> Markup {
    let history = heard.history();
    html! {
        section aria-labelledby="ingest" {
            h2 #ingest { "Events coming in" }
            @match (heard.speed(), &heard.failure) {
                (None, None) => p { "The speed layer has not been heard of yet." },
                (None, Some(reason)) => { (warning(&html! { p { "The speed layer does not say how it is: " (shell::shown(reason)) } })) },
                (Some(speed), _) => {
                    (rates(heard, speed))
                    @if history.len() > 1 { (chart::line(&history, LINE_S, "Rows taken in per second over the last ten minutes")) }
                    p.quiet { "Since the speed layer began " (words::ago(speed.began_us, now_us)) ": " (words::count(speed.received)) " received = " (words::count(speed.accepted)) " accepted + " (words::count(speed.duplicates)) " duplicate + " (words::count(speed.refused)) " refused + " (words::count(speed.failed)) " failed." }
                }
            }
        }
    }
}

fn rates(heard: &Heard, speed: &SpeedStatus) -> Markup {
    let (rates, writes) = (heard.rates(), heard.writes());
    let rate = |of: fn(&super::pulse::Rates) -> f64| rates.as_ref().map_or_else(|| "…".to_owned(), |rates| words::rate(of(rates)));
    let (append, sync) = writes.unwrap_or_default();
    html! {
        dl.figures {
            (shell::figure("rows a second", &rate(|rates| rates.accepted), &html! { (rate(|rates| rates.duplicates)) " duplicate, " (rate(|rates| rates.refused)) " refused" }))
            (shell::figure("acknowledged within", &quantile(&append, 0.5), &html! { "99 % within " (quantile(&append, 0.99)) }))
            (shell::figure("a sync takes", &quantile(&sync, 0.5), &html! { "99 % within " (quantile(&sync, 0.99)) }))
            (shell::figure("waiting", &words::bytes(speed.queue_bytes), &html! { "of " (words::bytes(speed.queue_limit_bytes)) }))
        }
    }
}

/// Of the last minute; where nothing happened in it there is nothing to say.
fn quantile(spread: &Spread, q: f64) -> String {
    spread.quantile(q).map_or_else(|| "–".to_owned(), words::seconds)
}

/// The log by partition, and what of it is in memory.
fn log(speed: &SpeedStatus, version: &Version) -> Markup {
    let sum = |of: fn(&PartitionStatus) -> i64| speed.partitions.iter().map(of).sum::<i64>();
    let since: i64 = speed.partitions.iter().map(|p| health::behind(version, p.number, p.head)).sum();
    html! {
        section aria-labelledby="log" {
            h2 #log { "The log and the realtime view" }
            dl.figures {
                (shell::figure("records in the log", &words::count(sum(|p| p.head - p.start)), &html! { (words::bytes(sum(|p| p.log_bytes.unwrap_or(0)))) }))
                (shell::figure("not archived yet", &words::count(sum(|p| (p.head - p.archived).max(0))), &html! { @if let Some(age) = speed.partitions.iter().filter_map(|p| p.unarchived_age).max() { "the oldest is " (words::age(age)) " old" } }))
                (shell::figure("since the boundary", &words::count(since), &html! { "counted live" }))
                (shell::figure("slices", &words::count(sum(|p| p.slices)), &html! { (words::count(sum(|p| p.slice_rows))) " rows, " (words::bytes(sum(|p| p.slice_bytes))) " of memory" }))
            }
            div.scroll {
                table {
                    thead { tr {
                        th.num scope="col" { "partition" } th.num scope="col" { "begins" } th.num scope="col" { "boundary" } th.num scope="col" { "archived to" } th.num scope="col" { "head" }
                        th.num scope="col" { "live" } th.num scope="col" { "on disk" } th.num scope="col" { "slices" } th.num scope="col" { "rows" } th.num scope="col" { "memory" } th.num scope="col" { "waiting" }
                    } }
                    tbody {
                        @for p in speed.partitions.iter().take(MAX_PARTITIONS) {
                            tr {
                                th.num scope="row" { (p.number) @if p.disk_full { " " span.tag.wrong { "disk full" } } }
                                td.num { (words::count(p.start)) }
                                td.num { (words::count(version.boundary.get(&p.number).copied().unwrap_or(0))) }
                                td.num { (words::count(p.archived)) }
                                td.num { strong { (words::count(p.head)) } }
                                td.num { (words::count(health::behind(version, p.number, p.head))) }
                                td.num { (p.log_bytes.map_or_else(|| "–".to_owned(), words::bytes)) }
                                td.num { (words::count(p.slices)) }
                                td.num { (words::count(p.slice_rows)) }
                                td.num { (words::bytes(p.slice_bytes)) }
                                td.num { (words::count(p.queued)) }
                            }
                        }
                    }
                }
            }
            @if speed.partitions.len() > MAX_PARTITIONS { p.quiet { "The first " (MAX_PARTITIONS) " of " (speed.partitions.len()) " partitions; the figures above are of all." } }
        }
    }
}

fn room(speed: &SpeedStatus) -> Markup {
    html! {
        dl.figures {
            (shell::figure("free on the log's disk", &speed.disk_free_bytes.map_or_else(|| "–".to_owned(), words::bytes), &nothing()))
            (shell::figure("refused rows kept", &words::count(speed.letters), &html! { (words::bytes(speed.letter_bytes)) " of " (words::bytes(speed.letter_limit_bytes)) }))
            (shell::figure("damaged segments", &words::count(speed.damaged_segments), &nothing()))
        }
    }
}

/// Calls by method, over the last minute.
pub(super) fn questions(heard: &Heard) -> Markup {
    let paces = heard.questions();
    html! {
        section aria-labelledby="asked" {
            h2 #asked { "Questions to the serving layer" }
            p.quiet { "Over the last minute. Looks at these pages are not among them." }
            div.scroll {
                table {
                    thead { tr { th scope="col" { "call" } th.num scope="col" { "a second" } th.num scope="col" { "half within" } th.num scope="col" { "99 % within" } th.num scope="col" { "failed" } } }
                    tbody {
                        @for pace in paces.iter().filter(|pace| pace.method != "other" || pace.per_second > 0.0) {
                            tr {
                                th scope="row" { (pace.method) }
                                td.num { (words::rate(pace.per_second)) }
                                td.num { (quantile(&pace.took, 0.5)) }
                                td.num { (quantile(&pace.took, 0.99)) }
                                td.num { @if pace.failed > 0 { span.wrong { (words::count(pace.failed as i64)) } } @else { "0" } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn cache(console: &Console) -> Markup {
    let cache = &console.service.served.opening().cache;
    let (hits, misses) = (cache.hits(), cache.misses());
    let ratio = if hits + misses == 0 { "–".to_owned() } else { format!("{:.0} %", hits as f64 * 100.0 / (hits + misses) as f64) };
    html! {
        dl.figures {
            (shell::figure("blocks found in memory", &ratio, &html! { (words::bytes(i64::try_from(cache.bytes()).unwrap_or(i64::MAX))) " are held" }))
            (shell::figure("watches open", &words::count(console.service.watches.open() as i64), &nothing()))
        }
    }
}
