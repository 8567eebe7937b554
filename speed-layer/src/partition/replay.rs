//! From the log back into memory: the dedup window at start, the slices of a definition whenever they are needed.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use storage::erasures::Erasure;
use storage::log::LogReader;
use storage::record::{self, Record};
use tracing::warn;
use views::columns::{Position, to_batch_for};
use views::event::too_wide;
use views::{Definition, Event, EventSchema, Refusal, fold};

use crate::dedup::{Window, identity};
use crate::error::SpeedError;
use crate::slices::Slices;

/// Events that are read back and folded at once.
const REPLAY_ROWS: usize = 8192;

/// The window over the newest records of the log.
///
/// # Errors
/// The log is damaged.
pub(crate) fn rebuild_window(log: &LogReader, capacity: usize, schema: &EventSchema, partition: i32) -> Result<Window, SpeedError> {
    let head = log.head();
    let wanted = (head - capacity as i64).max(0);
    let start = wanted.max(log.start());
    if start > wanted {
        // The window was made larger since the log was trimmed.
        warn!(partition, wanted, start, "the log is trimmed within the dedup window; retries of older events are not recognised");
    }
    let mut window = Window::new(capacity, start);
    for entry in log.read(start..head)? {
        let entry = entry?;
        match record::decode(&entry.payload, partition, entry.offset, schema)? {
            Record::Event(event, position) => window.push(identity(&event.user_id, &event.event_id), position.content_hash),
            Record::Erasure(erasure) => window.erase(&erasure.user_id),
        }
    }
    Ok(window)
}

/// Folds `range` of the log into new slices, with a cut at every segment.
///
/// # Errors
/// The log is damaged, or trimmed above the start of the range, or the definition fails on a record, or cannot take one that fits
/// `here`, the schema that rows are checked against.
pub(crate) fn fold_log(
    log: &LogReader,
    definition: &Arc<Definition>,
    here: &EventSchema,
    partition: i32,
    range: Range<i64>,
) -> Result<Slices, SpeedError> {
    let mut slices = Slices::new(Arc::clone(definition));
    slices.cut(range.start);
    let segments = log.segments()?;
    let start = segments.first().map_or(0, |oldest| oldest.start);
    if range.start < start {
        return Err(SpeedError::Trimmed { partition, wanted: range.start, start });
    }
    for segment in segments {
        let part = segment.start.max(range.start)..segment.end.min(range.end);
        if segment.start > range.start && segment.start <= range.end {
            slices.cut(segment.start);
        }
        if part.is_empty() {
            continue;
        }
        fold_into(&mut slices, log, here, partition, part)?;
    }
    Ok(slices)
}

/// Folds records of one segment into the newest of the slices, which are those of all records before.
///
/// # Errors
/// As [`fold_log`].
pub(crate) fn fold_into(
    slices: &mut Slices,
    log: &LogReader,
    here: &EventSchema,
    partition: i32,
    range: Range<i64>,
) -> Result<(), SpeedError> {
    let definition = Arc::clone(slices.definition());
    for_each_part(log, &definition, here, partition, range, |part| match part {
        LogPart::Events { first, batch } => {
            let fail = |e| SpeedError::fold(&e, definition.fingerprint(), partition, first);
            slices.push(fold::partial(&definition, &batch).map_err(fail)?).map_err(fail)
        }
        LogPart::Erasure(erasure) => {
            slices.erase_now(&erasure.user_id, erasure.offset);
            Ok(())
        }
    })
}

/// Looks for records that fit `here` and that the definition, which is of an older schema, would take for null.
///
/// # Errors
/// There is one, or the log is damaged.
pub(crate) fn check_widths(
    log: &LogReader,
    definition: &Definition,
    here: &EventSchema,
    partition: i32,
    range: Range<i64>,
) -> Result<(), SpeedError> {
    for_each_part(log, definition, here, partition, range, |_| Ok(()))
}

/// Some records in a row.
enum LogPart {
    /// Events, and the offset of the first.
    Events { first: i64, batch: RecordBatch },
    /// One that hides what came before it.
    Erasure(Erasure),
}

/// The records of `range` in the columns of `definition`.
///
/// # Errors
/// As [`check_widths`].
fn for_each_part(
    log: &LogReader,
    definition: &Definition,
    here: &EventSchema,
    partition: i32,
    range: Range<i64>,
    mut each: impl FnMut(LogPart) -> Result<(), SpeedError>,
) -> Result<(), SpeedError> {
    let (schema, typed) = (definition.schema(), definition.otherwise_typed(here));
    let mut rows = Vec::with_capacity(REPLAY_ROWS);
    let batch = |rows: &[(Event, Position)]| {
        let first = rows.first()?.1.offset;
        Some(LogPart::Events { first, batch: to_batch_for(rows.iter().map(|(event, position)| (event, *position)), definition) })
    };
    for entry in log.read(range)? {
        let entry = entry?;
        let erasure = match record::decode(&entry.payload, partition, entry.offset, schema)? {
            Record::Event(event, position) => {
                if let Some(Refusal { field, reason }) = too_wide(&event, &typed) {
                    let (fingerprint, reason) = (definition.fingerprint().to_owned(), format!("{field} {reason}"));
                    return Err(SpeedError::Fold { fingerprint, partition, offset: entry.offset, reason });
                }
                rows.push((event, position));
                None
            }
            Record::Erasure(erasure) => Some(erasure),
        };
        if rows.len() == REPLAY_ROWS || erasure.is_some() {
            batch(&rows).map_or(Ok(()), &mut each)?;
            rows.clear();
        }
        erasure.map_or(Ok(()), |erasure| each(LogPart::Erasure(erasure)))?;
    }
    batch(&rows).map_or(Ok(()), &mut each)
}

/// The erasures among the records of `range`.
///
/// # Errors
/// The log is damaged, or has a record of a kind that is not known.
pub(crate) fn erasures_in(log: &LogReader, schema: &EventSchema, partition: i32, range: Range<i64>) -> Result<Vec<Erasure>, SpeedError> {
    let mut found = Vec::new();
    for entry in log.read(range)? {
        let entry = entry?;
        if record::is_event(&entry.payload) {
            continue;
        }
        if let Record::Erasure(erasure) = record::decode(&entry.payload, partition, entry.offset, schema)? {
            found.push(erasure);
        }
    }
    Ok(found)
}
