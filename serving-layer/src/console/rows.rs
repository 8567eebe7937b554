//! Rows of a view by key: a field for each column of the key, of which the first ones are enough.

use arrow::array::{Array, ArrayRef, AsArray};
use maud::{Markup, html};
use storage::paths::ViewName;
use views::Definition;

use super::lookup::readable;
use super::shell::{self, warning};
use super::{Console, cell, words};
use crate::ServingError;
use crate::answer::Answers;
use crate::grouping::Grouping;
use crate::question::{About, Consistency, Question, TimeRange};

/// Rows that are shown.
const MAX_ROWS: usize = 200;
/// Columns of outputs before the measures: key, bucket, how many events.
const NOT_MEASURES: usize = 3;
/// Bytes of a part of a key.
const MAX_PART_BYTES: usize = 4096;

/// What is asked for: the first columns of the key, up to the first that is left empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    parts: Vec<Option<String>>,
    by_bucket: bool,
}

impl Asked {
    /// Reads `k0=…&k1=…&null1=on&by=bucket`.
    pub(super) fn read(query: &str, definition: &Definition) -> Self {
        let pairs: Vec<(String, String)> =
            query.split('&').filter_map(|pair| pair.split_once('=')).map(|(name, value)| (decoded(name), decoded(value))).collect();
        let value = |name: &str| pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let part = |at: usize| match (value(&format!("null{at}")), value(&format!("k{at}"))) {
            (Some("on"), _) => Some(None),
            (_, Some(text)) if !text.is_empty() && text.len() <= MAX_PART_BYTES => Some(Some(text.to_owned())),
            _ => None,
        };
        let parts = (0..definition.key_columns().len()).map_while(part).collect();
        Self { parts, by_bucket: value("by") == Some("bucket") && definition.has_buckets() }
    }

    pub(super) fn is_a_question(&self) -> bool {
        !self.parts.is_empty()
    }

    fn question(&self) -> Question {
        Question {
            about: About::Beginning { parts: self.parts.clone(), field: "key" },
            range: TimeRange::default(),
            within_buckets: false,
            grouping: if self.by_bucket { Grouping::Bucket } else { Grouping::Total },
            consistency: Consistency::BestEffort,
            version: None,
            min_position: None,
            explain: false,
        }
    }
}

/// What a browser makes of the text of a field.
fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        let hex = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
        match (first, after.get(..2).and_then(hex)) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            (byte, _) => {
                bytes.push(if *byte == b'+' { b' ' } else { *byte });
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The form, with what was asked for in it.
pub(super) fn form(view: &ViewName, definition: &Definition, asked: &Asked) -> Markup {
    let columns = definition.key_columns();
    html! {
        form.rows method="get" action=(format!("/views/{view}")) {
            @for (at, column) in columns.iter().enumerate() {
                @let part = asked.parts.get(at);
                div.field {
                    label for=(format!("k{at}")) { (readable(&column.name)) @if at > 0 { span.quiet { " (empty: all of them)" } } }
                    input id=(format!("k{at}")) type="text" name=(format!("k{at}")) value=(part.and_then(Option::as_deref).unwrap_or_default()) autocomplete="off" autocapitalize="none" spellcheck="false" dir="auto";
                    @if column.name != "user_id" {
                        label.check { input type="checkbox" name=(format!("null{at}")) checked[part == Some(&None)]; " none" span.hidden { " in " (readable(&column.name)) } }
                    }
                }
            }
            @if definition.has_buckets() {
                div.field {
                    label for="by" { "one row for" }
                    select #by name="by" {
                        option value="total" selected[!asked.by_bucket] { "each key" }
                        option value="bucket" selected[asked.by_bucket] { "each " (definition.bucket_name().unwrap_or("bucket")) }
                    }
                }
            }
            button type="submit" { "Show rows" }
        }
    }
}

/// The rows, or why there are none.
pub(super) async fn answered(console: &Console, view: &Answers, asked: &Asked) -> Markup {
    match table(view, asked).await {
        Ok(table) => html! {
            div #answer data-live { (table) }
            (shell::copyable("grpcurl", &console.callers.of_rows(view.versions.view(), &asked.parts, asked.by_bucket)))
        },
        Err(e) => html! { div #answer data-live { (warning(&html! { p { (shell::shown(&e.in_one_line())) } })) } },
    }
}

async fn table(view: &Answers, asked: &Asked) -> Result<Markup, ServingError> {
    let answer = view.answer(&asked.question()).await?;
    let part = answer.parts.first().expect("an answer about keys has one part");
    let outputs = part.merged.buckets.as_ref().filter(|_| asked.by_bucket).unwrap_or(&part.merged.total);
    let definition = &answer.version.definition;
    let keys = definition.key_values(outputs.column(0).as_string())?;
    let mut columns: Vec<(String, ArrayRef)> = definition.key_columns().iter().map(|column| column.name.clone()).zip(keys).collect();
    if asked.by_bucket {
        columns.push((definition.bucket_name().unwrap_or("bucket").to_owned(), outputs.column(1).clone()));
    }
    let measures = outputs.schema();
    columns.extend(measures.fields().iter().map(|field| field.name().clone()).zip(outputs.columns().iter().cloned()).skip(NOT_MEASURES));
    let rows = outputs.num_rows();
    Ok(html! {
        @if let Some(reason) = &answer.incomplete { (warning(&html! { p { strong { "Events may be missing. " } (shell::shown(reason)) } })) }
        @if rows == 0 {
            p.lead { "No events have such a key." }
        } @else {
            p { (words::counted(rows as i64, "row", "rows")) ": " (words::counted(answer.batch_event_count, "event", "events")) " from version " (answer.version.number) ", " (words::count(answer.speed_event_count)) " since, live." }
            div.scroll {
                table {
                    thead { tr { @for (name, column) in &columns { th.num[column.data_type().is_numeric()] scope="col" { (readable(name)) } } } }
                    tbody {
                        @for row in 0..rows.min(MAX_ROWS) {
                            tr { @for (_, column) in &columns { @let cell = cell::of(column, row); td.num[cell.is_number].null[cell.is_null] { bdi { (shell::shown(&cell.text)) } } } }
                        }
                    }
                }
            }
            @if rows > MAX_ROWS { p.quiet { "The first " (MAX_ROWS) " of " (words::count(rows as i64)) " rows. Name more columns of the key, or ask by the line below." } }
        }
    })
}

#[cfg(test)]
mod tests {
    use views::EventSchema;

    use super::*;

    /// Proves that the fields of the form are read as they were typed, that the first empty one ends the key, and that null is no text.
    #[test]
    fn fields() {
        let sql = "SELECT user_id, event_type, date_trunc('day', event_time) AS bucket, count(*) AS n FROM events GROUP BY user_id, event_type, date_trunc('day', event_time)";
        let definition = Definition::parse(sql, &EventSchema::default()).unwrap();
        let read = |query: &str| Asked::read(query, &definition);
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(read(""), Asked::default());
        assert!(!read("k0=&k1=buy&by=bucket").is_a_question());
        assert_eq!(read("k0=a+b%2F%3F%23%25&k1=&by=total").parts, [some("a b/?#%")]);
        assert_eq!(read("k0=%F0%9F%A6%86&k1=x&null1=on&by=bucket"), Asked { parts: vec![some("🦆"), None], by_bucket: true });
        assert_eq!(read("k0=%ff%").parts, [some("\u{fffd}%")]);
        assert_eq!(read(&format!("k0={}", "x".repeat(MAX_PART_BYTES + 1))).parts, []);
    }
}
