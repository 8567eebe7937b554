//! Fields from text, whatever file they come from.

use chrono::DateTime;
use views::RawEvent;

use super::json;

/// The columns that an event cannot do without.
pub(super) const REQUIRED: [&str; 3] = ["event_id", "user_id", "event_time"];

/// Puts the text of one cell of a table where it belongs: columns that are no field of an event are attributes. Empty
/// text is an absent value. An absent id or time is left to the server, which refuses the row and keeps it.
pub(super) fn set(event: &mut RawEvent, column: &str, text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Ok(());
    }
    match column {
        "event_id" => text.clone_into(&mut event.event_id),
        "user_id" => text.clone_into(&mut event.user_id),
        "event_time" => event.event_time = Some(time(text)?),
        "event_type" => text.clone_into(&mut event.event_type),
        "amount" => text.clone_into(&mut event.amount),
        "attributes" => event.attributes.extend(json::attributes(text)?),
        _ => {
            event.attributes.insert(column.to_owned(), text.to_owned());
        }
    }
    Ok(())
}

/// A time of RFC 3339. Digits finer than a microsecond are cut; a leap second is the first of the next minute.
pub(super) fn time(text: &str) -> Result<(i64, i32), String> {
    let time =
        DateTime::parse_from_rfc3339(text).map_err(|_| "event_time is not a time of RFC 3339 such as 2026-11-21T08:30:00Z".to_owned())?;
    let micros = time.timestamp_micros();
    Ok(timestamp(micros, 1_000_000))
}

/// The moment `ticks` after 1970, `per_second` of them in a second, cut to the microsecond.
pub(super) fn timestamp(ticks: i64, per_second: i64) -> (i64, i32) {
    let micros = ticks.rem_euclid(per_second) * 1_000_000 / per_second;
    let nanos = i32::try_from(micros * 1000).expect("less than one second");
    (ticks.div_euclid(per_second), nanos)
}
