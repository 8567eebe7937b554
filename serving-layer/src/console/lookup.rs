//! One user: totals, events by bucket, where the answer came from, and a recount.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::{Extension, Form};
use maud::{Markup, html};
use merganser_proto::server::Peer;
use serde::Deserialize;
use views::definition::EVENT_COUNT_COLUMN;
use views::event::MAX_USER_ID_BYTES;
use views::shard_of;

use super::action::{self, Request};
use super::chart::{self, Bars, Bucket};
use super::shell::{self, Again, Page, Tab, warning};
use super::{Console, cell, words};
use crate::ServingError;
use crate::answer::{Answer, Finished, Part};
use crate::grouping::Grouping;
use crate::question::{About, Consistency, Question, TimeRange};
use crate::version::Version;

/// Buckets that the table has, the newest ones.
const MAX_TABLE_ROWS: usize = 100;
/// Columns of outputs before the measures: key, bucket, how many events.
const NOT_MEASURES: usize = 3;
/// Slices that are listed.
const MAX_SLICES: usize = 20;

/// Who is looked up.
#[derive(Deserialize)]
pub(super) struct Who {
    #[serde(default)]
    id: String,
}

/// A recount that somebody asks for.
#[derive(Deserialize)]
pub(super) struct Recount {
    id: String,
    #[serde(default)]
    token: String,
}

pub(super) async fn show(State(console): State<Arc<Console>>, Query(Who { id }): Query<Who>) -> Response {
    if let Err(reason) = check(&id) {
        let body = html! { h1 { "Nobody has such an id" } p { (reason) } };
        return Page::new("No such id", Tab::None, body).with_status(StatusCode::BAD_REQUEST).about(&id).show(&console).await;
    }
    match answer(&console, &id).await {
        Ok(answer) => {
            let body = html! {
                h1 { (shell::foreign(&id)) }
                (answered(&console, &id, &answer))
                (again(&console, &id))
            };
            Page::new(&shell::shown(&id), Tab::None, body).looking(Again::Soon).about(&id).show(&console).await
        }
        Err(e) => {
            let body = html! { h1 { (shell::foreign(&id)) } div #answer data-live { (warning(&html! { p { strong { "No answer." } " " (shell::shown(&e.in_one_line())) } })) } };
            let page = Page::new(&shell::shown(&id), Tab::None, body).looking(Again::Later).about(&id);
            page.with_status(StatusCode::SERVICE_UNAVAILABLE).show(&console).await
        }
    }
}

pub(super) async fn verify(
    State(console): State<Arc<Console>>,
    peer: Option<Extension<Peer>>,
    Form(Recount { id, token }): Form<Recount>,
) -> Response {
    match check(&id) {
        Err(reason) => shell::failed(&console, StatusCode::BAD_REQUEST, "Nobody has such an id", &reason).await,
        Ok(()) => action::begin(&console, Request::Recount { user_id: id }, &token, peer.unwrap_or_default().0).await,
    }
}

fn check(id: &str) -> Result<(), String> {
    match id.len() {
        0 => Err("Write the id of a user into the field above.".to_owned()),
        1..=MAX_USER_ID_BYTES => Ok(()),
        bytes => Err(format!("The id is {bytes} bytes long; an id has at most {MAX_USER_ID_BYTES}.")),
    }
}

async fn answer(console: &Console, id: &str) -> Result<Answer, ServingError> {
    let has_buckets = console.service.stats.versions.current().definition.has_buckets();
    let question = Question {
        about: About::Users(vec![id.to_owned()]),
        range: TimeRange::default(),
        within_buckets: false,
        grouping: if has_buckets { Grouping::Bucket } else { Grouping::Total },
        consistency: Consistency::BestEffort,
        version: None,
        min_position: None,
        explain: true,
    };
    console.service.stats.answer(&question).await
}

fn answered(console: &Console, id: &str, answer: &Answer) -> Markup {
    let part = answer.parts.first().expect("an answer has a part for each id of its question");
    let events = crate::answer::event_count(&part.merged.total);
    let version = &answer.version;
    html! {
        div #answer data-live {
            @if let Some(reason) = &answer.incomplete {
                (warning(&html! { p { strong { "Events may be missing. " } (shell::shown(reason)) ". What is shown is version " (version.number) " alone." } }))
            }
            @if events == 0 {
                p.lead { "No events of this user" @if answer.incomplete.is_some() { " in the batch view" } "." }
            } @else {
                (totals(part))
                (by_bucket(answer, part))
            }
            (provenance(console, id, answer, part))
        }
    }
}

/// Each measure: the answer, and what either half says alone.
fn totals(part: &Part) -> Markup {
    let halves = part.halves.as_ref();
    let names: Vec<_> = part.merged.total.schema().fields().iter().skip(NOT_MEASURES).map(|field| field.name().clone()).collect();
    let column =
        |finished: &Finished, at: usize| (finished.total.num_rows() > 0).then(|| cell::of(finished.total.column(NOT_MEASURES + at), 0));
    let shown = |cell: Option<cell::Cell>| cell.map_or_else(|| "–".to_owned(), |cell| shell::shown(&cell.text));
    html! {
        dl.figures.main {
            @for (at, name) in names.iter().enumerate().take(2) {
                (shell::figure(&readable(name), &shown(column(&part.merged, at)), &shell::nothing()))
            }
        }
        div.scroll {
            table.totals {
                caption.hidden { "The answer, and what each half says alone" }
                thead { tr { th scope="col" { "measure" } th.num scope="col" { "answer" } th.num scope="col" { span.swatch.batch {} "batch view" } th.num scope="col" { span.swatch.speed {} "live" } } }
                tbody {
                    @for (at, name) in names.iter().enumerate() {
                        tr {
                            th scope="row" { (readable(name)) }
                            td.num { strong { (shown(column(&part.merged, at))) } }
                            td.num { (shown(halves.and_then(|halves| column(&halves.batch, at)))) }
                            td.num { (shown(halves.and_then(|halves| halves.speed.as_ref()).and_then(|speed| column(speed, at)))) }
                        }
                    }
                }
            }
        }
    }
}

fn by_bucket(answer: &Answer, part: &Part) -> Markup {
    let buckets = buckets(part);
    let Some(last) = buckets.last() else { return shell::nothing() };
    let definition = &answer.version.definition;
    let end_us = definition.edges_near(last.start_us).map_or(last.start_us + 1, |edges| edges.end_us);
    let bars = Bars::of(&buckets, end_us);
    html! {
        section aria-labelledby="by-bucket" {
            h2 #by-bucket { "Events by " (readable(definition.bucket_name().unwrap_or("bucket"))) }
            @if let Some(bars) = bars { (bars.draw(answer.version.computed_us())) }
            @if let Some(outputs) = &part.merged.buckets { (table(outputs, &buckets, definition.bucket_name().unwrap_or("bucket"))) }
        }
    }
}

/// Events of each bucket by half, oldest first.
fn buckets(part: &Part) -> Vec<Bucket> {
    let mut found: BTreeMap<i64, Bucket> = BTreeMap::new();
    let Some(halves) = &part.halves else { return Vec::new() };
    let mut add = |half: Option<&Finished>, to: fn(&mut Bucket) -> &mut i64| {
        let Some(outputs) = half.and_then(|half| half.buckets.as_ref()) else { return };
        for (start_us, count) in counts(outputs) {
            *to(found.entry(start_us).or_insert(Bucket { start_us, ..Bucket::default() })) += count;
        }
    };
    add(Some(&halves.batch), |bucket| &mut bucket.batch);
    add(halves.speed.as_ref(), |bucket| &mut bucket.speed);
    found.into_values().collect()
}

fn counts(outputs: &RecordBatch) -> Vec<(i64, i64)> {
    let starts = outputs.column(1).as_primitive::<TimestampMicrosecondType>();
    let counts = outputs.column_by_name(EVENT_COUNT_COLUMN).expect("every batch of outputs counts its events").as_primitive::<Int64Type>();
    (0..outputs.num_rows()).filter(|row| starts.is_valid(*row)).map(|row| (starts.value(row), counts.value(row))).collect()
}

/// The newest buckets with their measures.
fn table(outputs: &RecordBatch, buckets: &[Bucket], bucket_name: &str) -> Markup {
    let rows = outputs.num_rows();
    let of_start: BTreeMap<i64, &Bucket> = buckets.iter().map(|bucket| (bucket.start_us, bucket)).collect();
    let starts = outputs.column(1).as_primitive::<TimestampMicrosecondType>();
    let columns: Vec<_> = outputs
        .schema()
        .fields()
        .iter()
        .zip(outputs.columns())
        .skip(NOT_MEASURES)
        .map(|(field, column)| (field.name().clone(), Arc::clone(column)))
        .collect();
    html! {
        details #buckets {
            summary { "The numbers, newest first" }
            @if rows > MAX_TABLE_ROWS { p.quiet { "The newest " (MAX_TABLE_ROWS) " of " (words::count(rows as i64)) " buckets; the grpcurl line below asks for all." } }
            div.scroll {
                table {
                    thead { tr {
                        th scope="col" { (readable(bucket_name)) }
                        @for (name, column) in &columns { th.num[column.data_type().is_numeric()] scope="col" { (readable(name)) } }
                        th.num scope="col" { "batch" } th.num scope="col" { "live" }
                    } }
                    tbody {
                        @for row in (0..rows).rev().take(MAX_TABLE_ROWS) {
                            @let of_bucket = of_start.get(&starts.value(row));
                            tr {
                                th scope="row" { (cell::of(outputs.column(1), row).text) }
                                @for (_, column) in &columns { @let cell = cell::of(column, row); td.num[cell.is_number] { (shell::shown(&cell.text)) } }
                                td.num { (words::count(of_bucket.map_or(0, |bucket| bucket.batch))) }
                                td.num { (words::count(of_bucket.map_or(0, |bucket| bucket.speed))) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Where the answer came from, in words.
fn provenance(console: &Console, id: &str, answer: &Answer, part: &Part) -> Markup {
    let (version, head) = (&answer.version, &answer.head);
    let partition = shard_of(id, u32::try_from(head.len().max(1)).unwrap_or(1)) as i32;
    let (boundary, reached) = (offset(&version.boundary, partition), offset(head, partition));
    html! {
        section aria-labelledby="from" {
            h2 #from { "Where this comes from" }
            @if version.number == 0 {
                p { "Nothing is published yet. The speed layer has counted " (words::counted(answer.speed_event_count, "event", "events")) " of this user, from the first offset of the log on." }
            } @else {
                p {
                    (words::counted(answer.batch_event_count, "event", "events")) " from " a href=(format!("/views/{}", console.service.stats.versions.view())) { "version " (version.number) }
                    @if let Some(at) = version.computed_us() { ", computed " (words::ago(at, console.now_us())) " (" (words::moment(at)) ")" }
                    @if answer.incomplete.is_none() { "; " (words::counted(answer.speed_event_count, "event", "events")) " that came after it, from the speed layer, live" }
                    "."
                }
            }
            @if answer.incomplete.is_some() {
                p { "What came after it could not be asked for, so nobody can say here whether there is any." }
            } @else if !head.is_empty() {
                p { "The halves meet at an offset of the log, not at a moment: this user is in partition " (partition) ", of which the batch view covers everything below " (words::count(boundary)) " and the speed layer everything from there to " (words::count(reached)) ". An event that comes late counts at once, in whichever bucket its time is." }
                (chart::seam(partition, boundary, reached))
            }
            @if let Some((partition, offset)) = answer.erased.of_key(id) {
                p { "This user was erased by record " (words::count(offset)) " of partition " (partition) ": nothing from before it counts, whatever the batch view still holds." }
            }
            @if let Some(from) = version.kept_from { p { "The view keeps buckets from " (words::moment(from)) " on." } }
            (effort(answer, version, part))
        }
    }
}

/// What was read for it.
fn effort(answer: &Answer, version: &Version, part: &Part) -> Markup {
    let effort = &answer.effort;
    let files = version.files_with(&part.key).count() as i64;
    html! {
        details #effort {
            summary { "What was read for it" }
            ul {
                @if version.number > 0 {
                    li { (words::counted(effort.batch_rows as i64, "row", "rows")) " of states in " (words::counted(effort.batch_blocks as i64, "block", "blocks")) " of " (words::counted(files, "file", "files")) ", in " (words::seconds(effort.batch_elapsed.as_secs_f64())) "." }
                    li { "Run " code { (version.run_id()) } ", definition " code { (version.definition.fingerprint().chars().take(16).collect::<String>()) "…" } "." }
                }
                @if answer.incomplete.is_none() { li { "The speed layer answered in " (words::seconds(effort.speed_elapsed.as_secs_f64())) "." } }
                @for slice in effort.slices.iter().take(MAX_SLICES) {
                    li { "Slice [" (words::count(slice.offsets.start)) ", " (words::count(slice.offsets.end)) ") of partition " (slice.partition) ": " (words::counted(slice.event_count, "event", "events")) " in " (words::counted(slice.row_count as i64, "row", "rows")) "." }
                }
                @if effort.slices.len() > MAX_SLICES { li { "and " (effort.slices.len() - MAX_SLICES) " more slices." } }
            }
        }
    }
}

/// The same question from elsewhere, and the recount.
fn again(console: &Console, id: &str) -> Markup {
    let request = Request::Recount { user_id: id.to_owned() };
    html! {
        section aria-labelledby="verify" {
            h2 #verify { "Verify this user" }
            p { "Counts the raw events of this user again, those that no version covers too, and compares every number with the answer. The speed layer seals what it has for it, so it takes a moment; nothing is published." }
            (action::offer(console, &request, "/users/verify", "Recount", &[("id", id)]))
        }
        section aria-labelledby="call" {
            h2 #call { "The same call" }
            (shell::copyable("grpcurl", &console.callers.of_user(id)))
        }
    }
}

fn offset(offsets: &crate::position::Offsets, partition: i32) -> i64 {
    offsets.get(&partition).copied().unwrap_or(0)
}

/// A column's name as words.
pub(super) fn readable(name: &str) -> String {
    shell::shown(&name.replace('_', " "))
}
