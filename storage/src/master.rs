//! The master dataset: sealed segments of the log as plain Parquet, for us and for anyone with a Parquet reader.
//!
//! # Layout
//! `master/events/ingest_date=<day>/p<partition>-<start>-<end>.parquet`, zstd; the offsets are half-open and in the name
//! ([`crate::paths::SegmentPath`]). What columns a segment has is the caller's business. Beside each its [`Seal`], and in
//! `master/epochs` who may write ([`claim_epoch`]). Older segments may lie in other files, or in the cold store: the newest [`Layout`]
//! says where ([`mod@layout`]).
//!
//! # Consistency
//! A segment is written once, then sealed once. Writing it again gives the same bytes and changes nothing; the same name with
//! other rows is a conflict. A segment is archived when its seal is there, and not before: [`list_segments`] knows no others.
//! Readers take a [`chain`] of adjacent ranges, so a missing or doubled segment is an error, not a wrong sum, and
//! [`verify_segment`] compares every byte with the seal.
//!
//! # What a crash leaves behind
//! The whole segment with its seal, or without, or none of it. Where the seal is missing the segment is written again from the
//! log, which is there: [`write_segment`] returns after both objects were read back and found good, and only then may the log be
//! trimmed.

mod epoch;
pub mod layout;
mod places;
mod rewrite;
mod seal;
mod segment;
#[cfg(test)]
mod tests;
mod without;

use std::ops::Range;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path as ObjectPath;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::{ArrowWriter, ParquetRecordBatchStreamBuilder, ProjectionMask};
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};
use views::schema::{CONTENT_HASH, OFFSET, PARTITION};

use crate::machine::blocking;
use crate::paths::{SegmentPath, events_folder};
use crate::store::{ObjectMeta, ObjectReader, PutOutcome, Store, StoreError};

pub use epoch::{claim_epoch, epoch_after, newest_epoch};
pub use layout::Layout;
pub use places::Places;
pub use rewrite::{copy_to_cold, hidden_rows, leaving_rows, oldest_event_us, oldest_imported_us, rewrite, rewrite_import};
pub use seal::{Origin, Seal, record_fingerprint};
pub use segment::{SegmentMeta, segment_ending, segment_from, segment_of};
pub use without::{Expired, Without};

/// Rows of the batches that reading yields.
const READ_BATCH_ROWS: usize = 8192;
/// Parquet records who wrote a file. A fixed name keeps a segment's bytes the same from one release to the next.
const CREATED_BY: &str = "merganser";

/// Segments whose seals are read at a time.
const SEAL_READS: usize = 16;

/// Writes one segment, durably, reads it back, and seals it. Repeating the call is harmless.
///
/// The encoded segment is held in memory; the size at which the log seals bounds it.
///
/// # Errors
/// [`StoreError::Conflict`] if the segment exists with other rows or its seal says something else, [`StoreError::Checksum`] or
/// [`StoreError::Corrupt`] if what is read back is not what was written.
///
/// # Panics
/// If a batch is not of `schema`.
pub async fn write_segment<B>(
    store: &Store,
    segment: &SegmentPath,
    schema: SchemaRef,
    batches: B,
    origin: Origin,
) -> Result<Seal, StoreError>
where
    B: IntoIterator<Item = RecordBatch> + Send + 'static,
{
    let (there, rows) = put_segment(store, &segment.path(), schema, batches).await?;
    let seal = Seal::of(&there, rows, origin);
    seal.put(store, &segment.seal_path()).await?;
    Ok(seal)
}

/// Writes the Parquet file and reads it back; the answer is what is there, and its number of rows.
async fn put_segment<B>(store: &Store, path: &ObjectPath, schema: SchemaRef, batches: B) -> Result<(Bytes, i64), StoreError>
where
    B: IntoIterator<Item = RecordBatch> + Send + 'static,
{
    let encoded = blocking(move || encode(schema, batches)).await;
    let (bytes, rows) = encoded.map_err(|e| StoreError::parquet(path, e))?;

    let outcome = store.put_if_absent(path, bytes.clone()).await?;
    let there = store.get(path).await?;
    if there == bytes {
        let counted = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|e| StoreError::parquet(path, e))?;
        let counted = counted.metadata().file_metadata().num_rows();
        return match counted == rows {
            true => Ok((there, rows)),
            false => Err(StoreError::corrupt(path, format!("it has {counted} rows where {rows} were written"))),
        };
    }
    if outcome == PutOutcome::Created {
        let hash = |bytes: &[u8]| blake3::hash(bytes).to_hex().to_string();
        return Err(StoreError::Checksum { path: path.to_string(), expected: hash(&bytes), found: hash(&there) });
    }
    // Put before, perhaps by a release whose encoder wrote the same rows in other bytes, or before an attribute was declared.
    let found = there.clone();
    let same = blocking(move || Ok(same_rows(&decode(found)?, &decode(bytes)?))).await;
    match same.map_err(|e: ParquetError| StoreError::parquet(path, e))? {
        true => Ok((there, rows)),
        false => Err(StoreError::Conflict { path: path.to_string() }),
    }
}

/// Equal in every column. Where the columns are not the same, the places and contents of the events decide.
fn same_rows(there: &RecordBatch, ours: &RecordBatch) -> bool {
    if there.schema().fields() == ours.schema().fields() {
        return there.columns() == ours.columns();
    }
    let same = |name: &&str| matches!((there.column_by_name(name), ours.column_by_name(name)), (Some(a), Some(b)) if a == b);
    ["user_id", "event_id", PARTITION, OFFSET, CONTENT_HASH].iter().all(same)
}

/// How files of events are written.
pub(crate) fn properties() -> WriterPropertiesBuilder {
    let level = ZstdLevel::try_new(3).expect("3 is a zstd level");
    WriterProperties::builder().set_compression(Compression::ZSTD(level)).set_created_by(CREATED_BY.to_owned())
}

fn encode(schema: SchemaRef, batches: impl IntoIterator<Item = RecordBatch>) -> Result<(Bytes, i64), ParquetError> {
    let mut writer = ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties().build()))?;
    let mut rows = 0;
    for batch in batches {
        assert_eq!(batch.schema(), schema, "every batch of a segment has the segment's schema");
        rows += batch.num_rows() as i64;
        writer.write(&batch)?;
    }
    Ok((writer.into_inner()?.into(), rows))
}

fn decode(bytes: Bytes) -> Result<RecordBatch, ParquetError> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes)?;
    let schema = builder.schema().clone();
    let batches = builder.build()?.collect::<Result<Vec<_>, _>>()?;
    Ok(concat_batches(&schema, &batches)?)
}

/// Every archived segment in the store, sorted by partition and offset, wherever the newest [`Layout`] says that it lies. A Parquet
/// file without a seal is not archived; one that its seal misses is listed, and found missing by whoever reads it. Objects of other
/// names are not looked at: where one should have been a seal, [`chain`] finds the gap.
///
/// # Errors
/// What the store says, and a damaged seal or layout, by name.
pub async fn list_segments(store: &Store) -> Result<Vec<SegmentMeta>, StoreError> {
    // In this order: what goes from the folder meanwhile went on the strength of a layout that was there before.
    let listed = store.list(&events_folder()).await?;
    let layout = Layout::newest(store).await?;
    segments_in(store, &layout, &listed).await
}

/// [`list_segments`] as `layout` says, which is the newest.
///
/// # Errors
/// As [`list_segments`].
pub async fn list_segments_in(store: &Store, layout: &Layout) -> Result<Vec<SegmentMeta>, StoreError> {
    let listed = store.list(&events_folder()).await?;
    segments_in(store, layout, &listed).await
}

async fn segments_in(store: &Store, layout: &Layout, listed: &[ObjectMeta]) -> Result<Vec<SegmentMeta>, StoreError> {
    let ranges = layout.ranges();
    let sealed: Vec<_> =
        listed.iter().filter_map(|m| SegmentPath::parse_seal(&m.location).ok()).filter(|p| !layout::is_covered(&ranges, p)).collect();
    let read = |path: SegmentPath| async move { Ok(SegmentMeta::archived(path.clone(), Seal::read(store, &path).await?)) };
    let mut segments: Vec<_> = stream::iter(sealed).map(read).buffered(SEAL_READS).try_collect().await?;
    segments.extend(layout.metas()?);
    segments.sort();
    Ok(segments)
}

/// The length in bytes of every segment whose Parquet file is in the store, sealed or about to be.
///
/// # Errors
/// What the store says.
pub async fn segment_sizes(store: &Store) -> Result<Vec<(SegmentPath, u64)>, StoreError> {
    let listed = store.list(&events_folder()).await?;
    Ok(listed.iter().filter_map(|object| Some((SegmentPath::parse(&object.location).ok()?, object.size))).collect())
}

/// Reads every byte of a segment and compares it with the seal.
///
/// # Errors
/// Naming the file: [`StoreError::NotFound`], [`StoreError::Corrupt`] if its length is another, [`StoreError::Checksum`];
/// [`StoreError::NoCold`] and [`StoreError::ColdEmpty`] if it is in a cold store that is not there.
pub async fn verify_segment(store: &Store, segment: &SegmentMeta) -> Result<(), StoreError> {
    let place = segment.store(store)?;
    match verify_object(place, &segment.file(), segment.seal.bytes, &segment.seal.blake3).await {
        // A folder where nothing is mounted looks like one where nothing is.
        Err(StoreError::NotFound { path }) if segment.is_cold() => match owner(place).await? {
            Some(_) => Err(StoreError::NotFound { path }),
            None => Err(StoreError::ColdEmpty { path }),
        },
        verified => verified,
    }
}

/// Reads every byte of an object and compares it with what was written down of it.
pub(crate) async fn verify_object(store: &Store, path: &ObjectPath, bytes: i64, blake3: &str) -> Result<(), StoreError> {
    let found = store.checksum(path).await?;
    if found.bytes != bytes {
        return Err(StoreError::corrupt(path, format!("it has {} bytes where {bytes} were written", found.bytes)));
    }
    match found.blake3 == blake3 {
        true => Ok(()),
        false => Err(StoreError::Checksum { path: path.to_string(), expected: blake3.to_owned(), found: found.blake3 }),
    }
}

/// Makes sure that a segment's seal, or the layout that names its file, survives power loss: a server that died in the middle of
/// sealing may have left a name that is in no folder on the disk yet. The Parquet file was durable before.
///
/// # Errors
/// What the store says; [`StoreError::Conflict`] if another seal is there by now.
pub async fn confirm_seal(store: &Store, segment: &SegmentMeta) -> Result<(), StoreError> {
    if segment.placed.is_some() {
        return Layout::newest(store).await?.confirm(store).await;
    }
    segment.seal.put(store, &segment.path.seal_path()).await
}

/// Where the unbroken chain of segments of `partition` that starts at offset 0 ends, exclusive.
#[must_use]
pub fn archived_edge(segments: &[SegmentMeta], partition: u32) -> i64 {
    let mut ranges: Vec<_> = segments.iter().filter(|s| s.path.partition == partition).map(|s| s.path.range()).collect();
    ranges.sort_by_key(|range| (range.start, range.end));
    ranges.iter().fold(0, |edge, range| if range.start == edge { range.end } else { edge })
}

/// The segments that together hold exactly the events `range` of `partition`, in order; none if the range is empty. Of a file that was
/// written in the place of several segments only the parts inside are meant.
///
/// # Errors
/// [`StoreError::Gap`] or [`StoreError::Overlap`], naming both neighbours. A segment that reaches over an edge of the range
/// overlaps what lies beyond.
pub fn chain(segments: &[SegmentMeta], partition: u32, range: Range<i64>) -> Result<Vec<SegmentMeta>, StoreError> {
    if range.is_empty() {
        return Ok(Vec::new());
    }
    let touches = |s: &&SegmentMeta| s.path.partition == partition && s.path.start < range.end && range.start < s.path.end;
    let inside = |s: &SegmentMeta| s.clip(&(s.path.start.max(range.start)..s.path.end.min(range.end))).unwrap_or_else(|| s.clone());
    let mut links: Vec<SegmentMeta> = segments.iter().filter(touches).map(inside).collect();
    links.sort();

    let name = |link: Option<&SegmentMeta>| link.map_or_else(|| "none".to_owned(), |s| s.file().to_string());
    let gap = |start, end, before, after| StoreError::Gap { partition, start, end, before: name(before), after: name(after) };
    let edge = || format!("the range [{}, {}) of partition {partition} that was asked for", range.start, range.end);
    let mut covered = range.start;
    let mut before: Option<&SegmentMeta> = None;
    for link in &links {
        if link.range().start > covered {
            return Err(gap(covered, link.range().start, before, Some(link)));
        }
        if link.range().start < covered {
            let first = before.map_or_else(edge, |b| name(Some(b)));
            return Err(StoreError::Overlap { first, second: name(Some(link)) });
        }
        covered = link.range().end;
        before = Some(link);
    }
    if covered < range.end {
        return Err(gap(covered, range.end, before, None));
    }
    if covered > range.end {
        return Err(StoreError::Overlap { first: name(before), second: edge() });
    }
    Ok(links)
}

/// The rows of a segment in order of their offsets, 8,192 at a time. `columns` limits what is read; those that the segment does
/// not have are absent from the batches, and the order is the segment's.
///
/// # Errors
/// Here and in the stream: [`StoreError::NotFound`] and [`StoreError::Parquet`], naming the file.
pub async fn read_segment(
    store: &Store,
    segment: &SegmentMeta,
    columns: Option<&[String]>,
) -> Result<BoxStream<'static, Result<RecordBatch, StoreError>>, StoreError> {
    read_some_rows(segment.store(store)?, segment.file(), segment.seal.bytes, columns, segment.rows_of_file()).await
}

/// The columns of a segment's file.
///
/// # Errors
/// As [`read_segment`].
pub async fn parquet_schema(store: &Store, segment: &SegmentMeta) -> Result<SchemaRef, StoreError> {
    let reader = ObjectReader::new(segment.store(store)?, segment.file(), segment.seal.bytes as u64);
    let opened = ParquetRecordBatchStreamBuilder::new(reader).await;
    Ok(SchemaRef::clone(opened.map_err(|e| StoreError::parquet(&segment.file(), e))?.schema()))
}

/// The rows of a Parquet object of `bytes` bytes in their order; see [`read_segment`].
pub(crate) async fn read_rows(
    store: &Store,
    path: ObjectPath,
    bytes: i64,
    columns: Option<&[String]>,
) -> Result<BoxStream<'static, Result<RecordBatch, StoreError>>, StoreError> {
    read_some_rows(store, path, bytes, columns, None).await
}

/// [`read_rows`], of which only those of these numbers, counted from 0.
async fn read_some_rows(
    store: &Store,
    path: ObjectPath,
    bytes: i64,
    columns: Option<&[String]>,
    wanted: Option<Range<i64>>,
) -> Result<BoxStream<'static, Result<RecordBatch, StoreError>>, StoreError> {
    let reader = ObjectReader::new(store, path.clone(), bytes as u64);
    let opened = ParquetRecordBatchStreamBuilder::new(reader).await;
    let mut builder = opened.map_err(|e| StoreError::parquet(&path, e))?;
    if let Some(columns) = columns {
        let wanted = builder.schema().fields().iter().enumerate().filter(|(_, f)| columns.contains(f.name()));
        let mask = ProjectionMask::roots(builder.parquet_schema(), wanted.map(|(i, _)| i));
        builder = builder.with_projection(mask);
    }
    if let Some(wanted) = wanted {
        let mut start = 0;
        let mut groups = Vec::new();
        let mut before = 0;
        for (group, rows) in builder.metadata().row_groups().iter().map(|group| group.num_rows()).enumerate() {
            if start + rows <= wanted.start {
                before += rows;
            } else if start < wanted.end {
                groups.push(group);
            }
            start += rows;
        }
        let count = |rows: i64| usize::try_from(rows).unwrap_or(0);
        builder = builder.with_row_groups(groups).with_offset(count(wanted.start - before)).with_limit(count(wanted.end - wanted.start));
    }
    let stream = builder.with_batch_size(READ_BATCH_ROWS).build().map_err(|e| StoreError::parquet(&path, e))?;
    Ok(stream.map_err(move |e| StoreError::parquet(&path, e)).boxed())
}

/// Which log the master dataset is made from: `log_id`, unless another log was first. Offsets of two logs must never lie in one
/// dataset. When this returns, the claim is durable.
///
/// # Errors
/// What the store says; [`StoreError::Corrupt`] if the claim is not text.
pub async fn claim(store: &Store, log_id: &str) -> Result<String, StoreError> {
    match store.put_if_absent(&crate::paths::master_log(), Bytes::from(log_id.to_owned())).await? {
        PutOutcome::Created => Ok(log_id.to_owned()),
        PutOutcome::Exists => Ok(owner(store).await?.unwrap_or_default()),
    }
}

/// The log that the master dataset is made from, if there is one.
///
/// # Errors
/// What the store says; [`StoreError::Corrupt`] if the claim is not text.
pub async fn owner(store: &Store) -> Result<Option<String>, StoreError> {
    let path = crate::paths::master_log();
    match store.get(&path).await {
        Ok(bytes) => String::from_utf8(bytes.to_vec()).map(Some).map_err(|e| StoreError::corrupt(&path, e.to_string())),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}
