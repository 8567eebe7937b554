//! `serving-layer rows`: rows of any view.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::{Args, ValueEnum, value_parser};
use cli::Printed;
use merganser_proto::v1::value::Kind;
use merganser_proto::v1::view_service_client::ViewServiceClient;
use merganser_proto::v1::{self, CalendarUnit, GetTopRowsRequest, GetViewRowsRequest, Provenance, Row, Value};
use storage::config::Config;

use super::{Consistency, Unanswered, connect, json, number, parse_date, table, timestamp};

/// No key has so many columns: it has 1,024 bytes.
const MAX_COLUMNS: i64 = 1024;

/// Which rows of which view.
#[derive(Args)]
pub(crate) struct Rows {
    /// The view, such as item_stats.
    view: String,
    /// The key, one text for each of its columns; fewer mean all keys that begin so.
    #[arg(required_unless_present_any = ["top", "null"])]
    key: Vec<String>,
    /// Of the key, the column with this number, from 1, is null, and takes none of the texts; repeat it for more.
    #[arg(long, value_name = "N", conflicts_with = "top", value_parser = value_parser!(u16).range(1..=MAX_COLUMNS))]
    null: Vec<u16>,
    /// Instead of a key: the keys with the largest value of this measure.
    #[arg(long, value_name = "MEASURE", conflicts_with_all = ["key", "by", "zone", "window"])]
    top: Option<String>,
    /// How many keys --top gives.
    #[arg(long, value_name = "N", requires = "top", default_value_t = 10)]
    limit: i32,
    /// Start of the range, inclusive: 2024-01-31 (midnight UTC) or RFC 3339.
    #[arg(long, value_name = "DATE", value_parser = parse_date, conflicts_with = "last")]
    from: Option<DateTime<Utc>>,
    /// End of the range, exclusive.
    #[arg(long, value_name = "DATE", value_parser = parse_date)]
    to: Option<DateTime<Utc>>,
    /// Instead of --from: so long before --to, or before now, such as 90m, 48h or 7d.
    #[arg(long, value_name = "TIME", value_parser = parse_length)]
    last: Option<Duration>,
    /// A row for each bucket, or for each period of the calendar, instead of one for the range.
    #[arg(long, value_enum)]
    by: Option<By>,
    /// The time zone of the calendar, such as Europe/Berlin; UTC if absent.
    #[arg(long, value_name = "ZONE", requires = "by")]
    zone: Option<String>,
    /// Each bucket's row is over this long, up to and with the bucket, such as 60m.
    #[arg(long, value_name = "TIME", requires = "by", value_parser = parse_length)]
    window: Option<Duration>,
    /// The server; by default the address in the settings.
    #[arg(long, value_name = "URL")]
    address: Option<String>,
    /// What the answer must contain; fresh if absent, and with --version batch-only.
    #[arg(long, value_enum)]
    consistency: Option<Consistency>,
    /// The answer of an earlier version, by its number.
    #[arg(long, value_name = "N", value_parser = value_parser!(i64).range(1..))]
    version: Option<i64>,
    #[command(flatten)]
    printed: Printed,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    Bucket,
    Day,
    Week,
    Month,
    Quarter,
    Year,
}

/// Asks and prints.
pub(crate) async fn run(rows: Rows, config: &Config) -> anyhow::Result<()> {
    let (by_key, refused) = (request(&rows)?, Unanswered::Refused);
    let mut client = ViewServiceClient::new(connect(rows.address.as_deref(), config).await?);
    let (names, found, provenance) = match &rows.top {
        Some(measure) => {
            let answer = client.get_top_rows(top(&rows, measure)).await.map_err(refused)?.into_inner();
            (answer.column_names, answer.rows, answer.provenance)
        }
        None => {
            let answer = client.get_view_rows(by_key).await.map_err(refused)?.into_inner();
            (answer.column_names, answer.rows, answer.provenance)
        }
    };
    let text = render(&names, &found, provenance.as_ref());
    rows.printed.answer(text.trim_end_matches('\n'), &json::rows(&names, &found, provenance.as_ref()))
}

/// The texts in their order, in the columns that are not null.
fn key_parts(texts: &[String], null: &[u16]) -> Result<Vec<Value>, Unanswered> {
    let columns = texts.len() + null.iter().collect::<BTreeSet<_>>().len();
    if let Some(beyond) = null.iter().find(|column| usize::from(**column) > columns) {
        let what = format!("--null {beyond}: there are {columns} columns in this key; name the ones before it, too");
        return Err(Unanswered::Question { what });
    }
    let mut texts = texts.iter();
    let part = |column| if null.iter().any(|null| usize::from(*null) == column) { None } else { texts.next() };
    Ok((1..=columns).map(part).map(|text| Value { kind: text.map(|text| Kind::StringValue(text.clone())) }).collect())
}

fn request(rows: &Rows) -> anyhow::Result<GetViewRowsRequest> {
    let granularity = if rows.by.is_some() { v1::Granularity::Bucket } else { v1::Granularity::Total };
    let calendar_unit = match rows.by {
        None | Some(By::Bucket) => CalendarUnit::Unspecified,
        Some(By::Day) => CalendarUnit::Day,
        Some(By::Week) => CalendarUnit::Week,
        Some(By::Month) => CalendarUnit::Month,
        Some(By::Quarter) => CalendarUnit::Quarter,
        Some(By::Year) => CalendarUnit::Year,
    };
    Ok(GetViewRowsRequest {
        view: rows.view.clone(),
        key_parts: key_parts(&rows.key, &rows.null)?,
        start_time: rows.from.map(timestamp),
        end_time: rows.to.map(timestamp),
        last: rows.last.map(length),
        granularity: granularity.into(),
        calendar_unit: calendar_unit.into(),
        time_zone: rows.zone.clone().unwrap_or_default(),
        window: rows.window.map(length),
        consistency: number(rows.consistency),
        version: rows.version.unwrap_or(0),
        ..GetViewRowsRequest::default()
    })
}

fn top(rows: &Rows, measure: &str) -> GetTopRowsRequest {
    GetTopRowsRequest {
        view: rows.view.clone(),
        measure: measure.to_owned(),
        limit: rows.limit,
        start_time: rows.from.map(timestamp),
        end_time: rows.to.map(timestamp),
        last: rows.last.map(length),
        consistency: number(rows.consistency),
        version: rows.version.unwrap_or(0),
        ..GetTopRowsRequest::default()
    }
}

fn render(names: &[String], rows: &[Row], provenance: Option<&Provenance>) -> String {
    // One line a row, whatever is in a cell.
    let cell = |value| table::text(value).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let lines: Vec<Vec<String>> =
        std::iter::once(names.to_vec()).chain(rows.iter().map(|row| row.values.iter().map(cell).collect())).collect();
    let mut text = if names.is_empty() { String::new() } else { table::aligned(&lines) };
    if rows.is_empty() {
        text += "no rows\n";
    }
    text + &provenance.map_or_else(String::new, |provenance| format!("\n{}\n", table::source(provenance)))
}

fn length(length: Duration) -> prost_types::Duration {
    prost_types::Duration { seconds: i64::try_from(length.as_secs()).unwrap_or(i64::MAX), nanos: 0 }
}

fn parse_length(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.len() - text.chars().last().map_or(0, char::len_utf8));
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err("write a number with s, m, h or d, such as 48h".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "write a number with s, m, h or d, such as 48h".to_owned())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(|| "that is too long".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that rows line up under their names, whatever is in a cell, and that there being none is said.
    #[test]
    fn rendered() {
        let text = |text: &str| Value { kind: Some(Kind::StringValue(text.into())) };
        let number = |number| Value { kind: Some(Kind::IntValue(number)) };
        let names = ["item".to_owned(), "n".to_owned()];
        let rows = [vec![text("tea\ncup"), number(3)], vec![Value { kind: None }, number(12)]].map(|values| Row { values });
        assert_eq!(render(&names, &rows, None), "item      n\ntea cup   3\nnull     12\n");
        assert_eq!(render(&names, &[], None), "item  n\nno rows\n");
    }

    /// Proves that texts fill the columns that are not null, in their order, and that a null with nothing before it is refused.
    #[test]
    fn null_columns() {
        let parts = |texts: &[&str], null: &[u16]| {
            let texts: Vec<_> = texts.iter().map(|text| (*text).to_owned()).collect();
            let parts = key_parts(&texts, null).map_err(|error| error.to_string())?;
            let text = |part: Value| if let Some(Kind::StringValue(text)) = part.kind { text } else { "-".to_owned() };
            Ok::<_, String>(parts.into_iter().map(text).collect::<Vec<_>>().join(" "))
        };
        for (texts, null, key) in [
            (&["a", "b"][..], &[][..], "a b"),
            (&[], &[1], "-"),
            (&["a"], &[2, 2], "a -"),
            (&["a"], &[1], "- a"),
            (&["a", "b"], &[4, 2], "a - b -"),
        ] {
            assert_eq!(parts(texts, null).as_deref(), Ok(key));
        }
        assert!(parts(&["a"], &[3]).unwrap_err().contains("--null 3"));
    }

    /// Proves which lengths are taken.
    #[test]
    fn lengths() {
        for (text, seconds) in [("90m", 5400), ("48h", 172_800), ("7d", 604_800), ("1s", 1)] {
            assert_eq!(parse_length(text), Ok(Duration::from_secs(seconds)));
        }
        for wrong in ["", "h", "5", "-1h", "1.5h", "5 h", "99999999999999999999d", "7é"] {
            assert!(parse_length(wrong).is_err(), "{wrong}");
        }
    }
}
