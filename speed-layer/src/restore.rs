//! A damaged closed segment of the log, written afresh from its Parquet file.
//!
//! *Consistency.* Only records that are, byte by byte, those of the log take its place: the Parquet file is compared with its
//! seal, each event with its content hash, and the last record with the fingerprint that the seal has of it. Erasures, which are no
//! rows, come from where they are kept. An attribute that was
//! sent in other digits than its column shows it in (`1.50` in a float column) cannot be brought back so; then nothing is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Decimal128Type, Float64Type, Int64Type, TimestampMicrosecondType};
use chrono::{DateTime, SecondsFormat};
use futures::TryStreamExt;
use storage::erasures::{Erasure, Erasures};
use storage::log::{LogError, LogFolder, PartitionLog};
use storage::machine::blocking;
use storage::master::{list_segments, read_segment, record_fingerprint, segment_from, verify_segment};
use storage::record;
use tracing::warn;
use views::schema::{CONTENT_HASH, EVENT_COLUMNS, EXTRA, LOG_COLUMNS, OFFSET};
use views::{Event, EventSchema, decimal};

use crate::archive::Archive;
use crate::error::SpeedError;

/// What a segment that is to be written afresh consists of.
pub(crate) type Restored = (Range<i64>, Vec<Vec<u8>>);

impl Archive {
    /// The records of the closed segment that starts at `start`, from the store.
    ///
    /// # Errors
    /// [`SpeedError::NotRestorable`] if they are not archived, or cannot be had exactly; [`SpeedError::Store`].
    pub(crate) async fn restored(&self, partition: usize, start: i64) -> Result<Restored, SpeedError> {
        let refuse = |reason: String| SpeedError::NotRestorable { partition, start, reason };
        let listed = list_segments(self.store()).await?;
        let Some(meta) = segment_from(&listed, partition as u32, start) else { return Err(refuse("it is not archived".to_owned())) };
        if meta.seal.log_id != self.log_id() {
            return Err(refuse(format!("{} comes from log {}", meta.file(), meta.seal.log_id)));
        }
        verify_segment(self.store(), &meta).await?;
        let batches: Vec<RecordBatch> = read_segment(self.store(), &meta, None).await?.try_collect().await?;
        let (schema, range) = (self.schema().clone(), meta.range());
        let number = meta.path.partition;
        let erasures = Erasures::list(self.store()).await?.within(|p| if p == number { range.clone() } else { 0..0 });
        let last_record = meta.last_record().to_owned();
        let decoded = blocking(move || {
            let mut records = Records { next: range.start, encoded: Vec::new(), erasures: erasures.iter().peekable() };
            for batch in &batches {
                records.add_rows(batch, &schema)?;
            }
            let records = records.up_to(range.end)?;
            let last = records.last().map(|record| record_fingerprint(record));
            match last == Some(last_record) && records.len() as i64 == range.end - range.start {
                true => Ok((range, records)),
                false => Err("the last record is not the one that was sealed".to_owned()),
            }
        });
        decoded.await.map_err(refuse)
    }

    /// Writes the damaged segment of an open log afresh. Gives the log back.
    ///
    /// # Errors
    /// `damage` itself if it cannot be mended, after a warning that says why.
    pub(crate) async fn mend(&self, mut log: PartitionLog, damage: LogError) -> Result<PartitionLog, SpeedError> {
        let number = log.partition() as usize;
        let Some((range, records)) = self.restored_or_warn(number, &damage).await else { return Err(damage.into()) };
        let (log, replaced) = blocking(move || {
            let replaced = log.replace_closed(range, records.iter().map(Vec::as_slice));
            (log, replaced)
        })
        .await;
        mended(number, &damage, replaced)?;
        Ok(log)
    }

    async fn restored_or_warn(&self, number: usize, damage: &LogError) -> Option<Restored> {
        let restored = self.restored(number, damage.damaged_segment()?).await;
        restored.inspect_err(|e| warn!(partition = number, damage = %damage, error = e.chain(), "a damaged segment stays as it is")).ok()
    }
}

/// Opens a partition. Closed segments whose headers are spoilt are written afresh first, where they are archived.
///
/// # Errors
/// The log's, among them the damage that could not be mended.
pub(crate) async fn open_partition(folder: &Arc<LogFolder>, number: u32, archive: &Archive) -> Result<PartitionLog, SpeedError> {
    let mut tried = BTreeSet::new();
    loop {
        let opening = Arc::clone(folder);
        let damage = match blocking(move || opening.partition(number)).await {
            Ok(log) => return Ok(log),
            Err(e) => e,
        };
        let fresh = damage.damaged_segment().is_some_and(|start| tried.insert(start));
        let restored = if fresh { archive.restored_or_warn(number as usize, &damage).await } else { None };
        let Some((range, records)) = restored else { return Err(damage.into()) };
        let folder = Arc::clone(folder);
        let replaced = blocking(move || folder.replace_closed(number, range, records.iter().map(Vec::as_slice))).await;
        mended(number as usize, &damage, replaced)?;
    }
}

pub(crate) fn mended(partition: usize, damage: &LogError, replaced: Result<(), LogError>) -> Result<(), SpeedError> {
    warn!(partition, damage = %damage, mended = replaced.is_ok(), "a segment of the log was damaged and is written afresh from the archive");
    Ok(replaced?)
}

/// Records as they come, in order of their offsets.
struct Records<'a, I: Iterator<Item = &'a Erasure>> {
    /// Offset of the next one.
    next: i64,
    encoded: Vec<Vec<u8>>,
    /// Those that are no rows.
    erasures: Peekable<I>,
}

impl<'a, I: Iterator<Item = &'a Erasure>> Records<'a, I> {
    /// Fills up what lies between rows. The answer is all records so far.
    fn up_to(mut self, end: i64) -> Result<Vec<Vec<u8>>, String> {
        self.fill(end)?;
        Ok(self.encoded)
    }

    fn fill(&mut self, end: i64) -> Result<(), String> {
        while self.next < end {
            let Some(erasure) = self.erasures.next_if(|erasure| erasure.offset == self.next) else {
                return Err(format!("record {} is neither a row of it nor an erasure", self.next));
            };
            self.push(record::encode_erasure(&erasure.user_id, erasure.append_time_us));
        }
        Ok(())
    }

    fn push(&mut self, encoded: Vec<u8>) {
        self.encoded.push(encoded);
        self.next += 1;
    }

    /// Adds those of archived rows.
    fn add_rows(&mut self, batch: &RecordBatch, schema: &EventSchema) -> Result<(), String> {
        let column = |name: &str| batch.column_by_name(name).ok_or_else(|| format!("its file has no column {name}"));
        let offsets = column(OFFSET)?.as_primitive_opt::<Int64Type>().ok_or("its offsets are no integers")?;
        let hashes = column(CONTENT_HASH)?.as_primitive_opt::<Int64Type>().ok_or("its hashes are no integers")?;
        let append_times = column("_append_time")?.as_primitive_opt::<TimestampMicrosecondType>().ok_or("its append times are none")?;
        if column("amount")?.data_type() != &schema.amount.arrow() {
            return Err("its amounts are of another type than events.amount".to_owned());
        }
        for row in 0..batch.num_rows() {
            self.fill(offsets.value(row))?;
            let (event, due) = (event(batch, row)?, self.next);
            if offsets.value(row) != due || record::content_hash(&event, schema) != hashes.value(row) {
                return Err(format!("record {due} cannot be had from its columns as it was sent"));
            }
            self.push(record::encode(&event, append_times.value(row), schema));
        }
        Ok(())
    }
}

/// One archived row as an event: what is in no column of its own is in `_extra`.
fn event(batch: &RecordBatch, row: usize) -> Result<Event, String> {
    let text = |name: &str| batch.column_by_name(name).and_then(|column| text_of(column, row)).unwrap_or_default();
    let mut attributes: BTreeMap<String, String> = match text(EXTRA).as_str() {
        "" => BTreeMap::new(),
        extra => serde_json::from_str(extra).map_err(|e| format!("its column {EXTRA}: {e}"))?,
    };
    let schema = batch.schema();
    let own = |name: &str| EVENT_COLUMNS.contains(&name) || LOG_COLUMNS.contains(&name);
    for (field, column) in schema.fields().iter().zip(batch.columns()).filter(|(field, _)| !own(field.name())) {
        if let Some(text) = text_of(column, row) {
            attributes.insert(field.name().clone(), text);
        }
    }
    let time = batch.column_by_name("event_time").and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
    let amount = batch.column_by_name("amount").and_then(|column| column.as_primitive_opt::<Decimal128Type>());
    Ok(Event {
        event_id: text("event_id"),
        user_id: text("user_id"),
        event_time_us: time.ok_or("its event times are none")?.value(row),
        event_type: text("event_type"),
        amount: amount.filter(|amount| amount.is_valid(row)).map(|amount| amount.value(row)),
        attributes,
    })
}

/// A value in the text that it was most likely sent in.
fn text_of(column: &dyn Array, row: usize) -> Option<String> {
    if column.is_null(row) {
        return None;
    }
    Some(match column.data_type() {
        DataType::Utf8 => column.as_string::<i32>().value(row).to_owned(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(row).to_string(),
        DataType::Float64 => column.as_primitive::<Float64Type>().value(row).to_string(),
        DataType::Boolean => column.as_boolean().value(row).to_string(),
        DataType::Decimal128(_, scale) => decimal::format(column.as_primitive::<Decimal128Type>().value(row), *scale),
        DataType::Timestamp(_, _) => {
            let time = DateTime::from_timestamp_micros(column.as_primitive::<TimestampMicrosecondType>().value(row))?;
            time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
        }
        _ => return None,
    })
}
