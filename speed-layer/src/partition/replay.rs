//! From the log back into memory: the dedup window at start, the slices of a definition whenever they are needed.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use storage::log::LogReader;
use storage::record;
use tracing::warn;
use views::columns::to_batch;
use views::event::too_wide;
use views::{Definition, EventSchema, Refusal, fold};

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
        let (event, position) = record::decode(&entry.payload, partition, entry.offset, schema)?;
        window.push(identity(&event.user_id, &event.event_id), position.content_hash);
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
        for_each_batch(log, definition, here, partition, part, |first, batch| {
            let fail = |e| SpeedError::fold(&e, definition.fingerprint(), partition, first);
            slices.push(fold::partial(definition, &batch).map_err(fail)?).map_err(fail)
        })?;
    }
    Ok(slices)
}

/// The records of `range` as event batches in the columns of `definition`, each with its first offset.
///
/// # Errors
/// The log is damaged, or has a record that fits `here` and that the definition, which is of an older schema, would take for null.
pub(crate) fn for_each_batch(
    log: &LogReader,
    definition: &Definition,
    here: &EventSchema,
    partition: i32,
    range: Range<i64>,
    mut each: impl FnMut(i64, RecordBatch) -> Result<(), SpeedError>,
) -> Result<(), SpeedError> {
    let (schema, typed) = (definition.schema(), definition.otherwise_typed(here));
    let mut rows = Vec::with_capacity(REPLAY_ROWS);
    for entry in log.read(range)? {
        let entry = entry?;
        let row = record::decode(&entry.payload, partition, entry.offset, schema)?;
        if let Some(Refusal { field, reason }) = too_wide(&row.0, &typed) {
            let (fingerprint, reason) = (definition.fingerprint().to_owned(), format!("{field} {reason}"));
            return Err(SpeedError::Fold { fingerprint, partition, offset: entry.offset, reason });
        }
        rows.push(row);
        if rows.len() == REPLAY_ROWS {
            each(rows[0].1.offset, to_batch(rows.iter().map(|(e, p)| (e, *p)), schema))?;
            rows.clear();
        }
    }
    match rows.first() {
        Some((_, first)) => each(first.offset, to_batch(rows.iter().map(|(e, p)| (e, *p)), schema)),
        None => Ok(()),
    }
}
