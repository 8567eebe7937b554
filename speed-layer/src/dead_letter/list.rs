//! Letters, shown: by field and reason, one by one, or one in full.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;

use serde::Serialize;
use serde_json::json;
use storage::dead_letter::{How, LetterId};

use super::walk::{Found, Walk};
use super::{DeadLetterError, Place, Selection};
use crate::load::grouped;

/// The letters of one field and reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Group {
    /// The field at fault.
    pub field: String,
    /// What was wrong with it.
    pub reason: String,
    /// How many are outstanding.
    pub outstanding: u64,
    /// How many are settled.
    pub settled: u64,
    /// One of them, an outstanding one if there is one.
    pub example: LetterId,
}

/// All letters by field and reason, the most frequent first. Displays as a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Listing {
    /// How many are outstanding.
    pub outstanding: u64,
    /// How many are settled.
    pub settled: u64,
    /// Where settled letters are not asked for, only groups with outstanding ones.
    pub groups: Vec<Group>,
    #[serde(skip)]
    all: bool,
}

/// Counts the letters of `selection`, `all` of them or the outstanding ones.
///
/// # Errors
/// Letters that cannot be read.
pub async fn list(place: &Place, selection: &Selection, all: bool) -> Result<Listing, DeadLetterError> {
    let mut groups: BTreeMap<(String, String), Group> = BTreeMap::new();
    let mut listing = Listing { all, ..Listing::default() };
    let mut walk = Walk::begin(place).await?;
    while let Some(Found { id, letter, settled, .. }) = walk.next().await? {
        if !selection.takes(id, &letter) {
            continue;
        }
        let (field, reason) = (letter.field.clone(), letter.reason.clone());
        let fresh = || Group { field: letter.field, reason: letter.reason, outstanding: 0, settled: 0, example: id };
        let group = groups.entry((field, reason)).or_insert_with(fresh);
        if settled.is_some() {
            group.settled += 1;
            listing.settled += 1;
        } else {
            if group.outstanding == 0 {
                group.example = id;
            }
            group.outstanding += 1;
            listing.outstanding += 1;
        }
    }
    listing.groups = groups.into_values().filter(|group| all || group.outstanding > 0).collect();
    listing.groups.sort_by_key(|group| std::cmp::Reverse((group.outstanding, group.settled)));
    Ok(listing)
}

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |text: fn(&Group) -> &str, title: &str| {
            let longest = self.groups.iter().map(|group| text(group).chars().count()).max();
            longest.unwrap_or(0).max(title.len())
        };
        let (fields, reasons) = (width(|group| &group.field, "field"), width(|group| &group.reason, "reason"));
        let settled = |text: &str| if self.all { format!("  {text:>11}") } else { String::new() };
        if !self.groups.is_empty() {
            writeln!(f, "outstanding{}  {:fields$}  {:reasons$}  example", settled("settled"), "field", "reason")?;
        }
        for group in &self.groups {
            let (outstanding, settled) = (grouped(group.outstanding), settled(&grouped(group.settled)));
            writeln!(f, "{outstanding:>11}{settled}  {:fields$}  {:reasons$}  {}", group.field, group.reason, group.example)?;
        }
        write!(f, "{} refused rows are outstanding, {} are settled", grouped(self.outstanding), grouped(self.settled))
    }
}

/// Writes a line for each letter of `selection`, as text or as JSON.
///
/// # Errors
/// Letters that cannot be read, and what `out` says.
pub async fn rows(place: &Place, selection: &Selection, all: bool, json: bool, out: &mut impl Write) -> Result<(), DeadLetterError> {
    let mut walk = Walk::begin(place).await?;
    while let Some(found) = walk.next().await? {
        if !selection.takes(found.id, &found.letter) || (found.settled.is_some() && !all) {
            continue;
        }
        if json {
            let mut row = as_json(&found);
            row.as_object_mut().expect("it was made as an object").remove("event");
            writeln!(out, "{row}")?;
            continue;
        }
        let Found { id, origin, letter, settled } = found;
        let time = chrono::DateTime::from_timestamp_micros(letter.received_time_us);
        let time = time.map_or_else(|| letter.received_time_us.to_string(), |time| time.format("%Y-%m-%dT%H:%M:%SZ").to_string());
        let settled = settled.map_or_else(String::new, |how| format!("  (settled: {})", text_of(how)));
        writeln!(out, "{id}  {time}  {origin}  {}: {}{settled}", letter.field, letter.reason)?;
    }
    Ok(())
}

/// The first letter whose id begins so, in full, as JSON.
///
/// # Errors
/// [`DeadLetterError::UnknownId`], and letters that cannot be read.
pub async fn show(place: &Place, begin: &str) -> Result<String, DeadLetterError> {
    let mut walk = Walk::begin(place).await?;
    while let Some(found) = walk.next().await? {
        if found.id.to_string().starts_with(begin) {
            return Ok(format!("{:#}", as_json(&found)));
        }
    }
    Err(DeadLetterError::UnknownId { begin: begin.to_owned() })
}

fn as_json(Found { id, origin, letter, settled }: &Found) -> serde_json::Value {
    json!({
        "id": id,
        "origin": origin.to_string(),
        "received_time_us": letter.received_time_us,
        "field": letter.field,
        "reason": letter.reason,
        "settled": settled.map(text_of),
        "event": letter.event,
    })
}

fn text_of(how: How) -> String {
    match how {
        How::InLog => "the event is in the log".to_owned(),
        How::SupersededBy(other) => format!("superseded by {other}"),
    }
}
