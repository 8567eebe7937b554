//! A declared retention: events go when no view counts them any more, so every view must have a limit within it, and none may count
//! what is gone (decision 0015).
//!
//! The floor is an event time in the newest layout of the master dataset. It lies below everything that a kept version keeps, and never
//! goes back, whatever is declared later.

use chrono::{DateTime, SecondsFormat};
use storage::config::Period;
use storage::manifest::Manifest;
use storage::master::Layout;
use storage::store::Store;
use views::{Definition, FoldError};

use crate::definition::{file_of, kept_from, of_version};
use crate::error::RunError;
use crate::options::RunOptions;

/// Units of a limit, the largest first, in microseconds.
const UNITS: [(&str, i64); 3] = [("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000)];

/// Refuses a view that counts events for longer than the retention keeps them.
pub(crate) fn check_limit(definition: &Definition, options: &RunOptions) -> Result<(), RunError> {
    let Some(retention) = options.retention else { return Ok(()) };
    let (view, file) = (options.view.to_string(), file_of(options).display().to_string());
    let declared = Period(retention).to_string();
    match definition.limit_us() {
        None => Err(RunError::NoLimit { view, file, retention: declared }),
        Some(keep_us) if i128::from(keep_us) > retention.as_micros() as i128 => {
            Err(RunError::LongLimit { view, file, keep: limit(keep_us), retention: declared })
        }
        Some(_) => Ok(()),
    }
}

/// Refuses a definition which as of that moment counts events that may be gone.
pub(crate) async fn check_floor(store: &Store, options: &RunOptions, definition: &Definition, as_of: Option<i64>) -> Result<(), RunError> {
    let Some(before_us) = Layout::newest(store).await?.expired_before_us else { return Ok(()) };
    let from = kept_from(definition, as_of)?;
    if from.is_some_and(|from| from >= before_us) {
        return Ok(());
    }
    let instead = match as_of {
        None if !definition.has_buckets() => {
            "group it by a date_trunc of event_time too, and write a limit such as -- keep: 30d".to_owned()
        }
        None => "write a limit such as -- keep: 30d".to_owned(),
        Some(as_of) => longest(definition, as_of, before_us).map_err(|source| RunError::Limit { source })?,
    };
    let from = from.map_or_else(|| "of any age".to_owned(), |from| format!("from {} on", rfc3339(from)));
    Err(RunError::BelowFloor { view: options.view.to_string(), before: rfc3339(before_us), from, instead })
}

/// The longest limit that lets all buckets go of which something may be gone.
fn longest(definition: &Definition, as_of: i64, before_us: i64) -> Result<String, FoldError> {
    let edges = definition.edges_near(before_us)?;
    let first_whole = if edges.start_us == before_us { before_us } else { edges.end_us };
    let longest_us = as_of - first_whole;
    let unit = UNITS.iter().find(|(_, unit)| longest_us >= *unit);
    Ok(unit.map_or_else(
        || "no bucket of it is whole yet".to_owned(),
        |(name, unit)| format!("write -- keep: {}{name} or less", longest_us / unit),
    ))
}

/// Refuses a version that counts events that may be gone: nobody can count them again.
pub(crate) async fn check_version(store: &Store, version: &Manifest) -> Result<(), RunError> {
    let Some(before_us) = Layout::newest(store).await?.expired_before_us else { return Ok(()) };
    let from = kept_from(&of_version(store, version).await?, version.as_of)?;
    match from.is_some_and(|from| from >= before_us) {
        true => Ok(()),
        false => Err(RunError::ExpiredSince { view: version.view.to_string(), version: version.version, before: rfc3339(before_us) }),
    }
}

/// A limit as its view writes it.
fn limit(keep_us: i64) -> String {
    let whole = UNITS.iter().find(|(_, unit)| keep_us % unit == 0);
    whole.map_or_else(|| format!("{keep_us} \u{b5}s"), |(name, unit)| format!("{}{name}", keep_us / unit))
}

/// A time, for people.
pub(crate) fn rfc3339(time_us: i64) -> String {
    DateTime::from_timestamp_micros(time_us).unwrap_or_default().to_rfc3339_opts(SecondsFormat::Secs, true)
}
