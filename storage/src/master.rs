//! The master dataset: sealed segments of the log as plain Parquet, for us and for anyone with a Parquet reader.
//!
//! # Layout
//! `master/events/ingest_date=<day>/p<partition>-<start>-<end>.parquet`, zstd; the offsets are half-open and in the name
//! ([`crate::paths::SegmentPath`]). What columns a segment has is the caller's business.
//!
//! # Consistency
//! A segment is written once. Writing it again gives the same bytes and changes nothing; the same name with other rows is a
//! conflict. Readers take a [`chain`] of adjacent ranges, so a missing or doubled segment is an error, not a wrong sum.
//!
//! # What a crash leaves behind
//! The whole segment or none of it. [`write_segment`] returns after the object was read back and found good; only then may the
//! log be trimmed.

#[cfg(test)]
mod tests;

use std::ops::Range;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::{ArrowWriter, ParquetRecordBatchStreamBuilder, ProjectionMask};
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

use crate::machine::blocking;
use crate::paths::{SegmentPath, events_folder};
use crate::store::{ObjectInfo, ObjectReader, PutOutcome, Store, StoreError};

/// Rows of the batches that reading yields.
const READ_BATCH_ROWS: usize = 8192;
/// Parquet records who wrote a file. A fixed name keeps a segment's bytes the same from one release to the next.
const CREATED_BY: &str = "merganser";

/// A segment as the store lists it. Ordered by partition, then by offset.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentMeta {
    /// Partition and offsets.
    pub path: SegmentPath,
    /// Length in bytes.
    pub bytes: u64,
}

/// Writes one segment, durably, and reads it back before returning. Repeating the call is harmless.
///
/// The encoded segment is held in memory; the size at which the log seals bounds it.
///
/// # Errors
/// [`StoreError::Conflict`] if the segment exists with other rows, [`StoreError::Checksum`] or [`StoreError::Corrupt`] if what
/// is read back is not what was written.
///
/// # Panics
/// If a batch is not of `schema`.
pub async fn write_segment<B>(store: &Store, segment: &SegmentPath, schema: SchemaRef, batches: B) -> Result<ObjectInfo, StoreError>
where
    B: IntoIterator<Item = RecordBatch> + Send + 'static,
{
    let path = segment.path();
    let encoded = blocking(move || encode(schema, batches)).await;
    let (bytes, rows) = encoded.map_err(|e| StoreError::parquet(&path, e))?;
    let expected = blake3::hash(&bytes).to_hex().to_string();

    let outcome = store.put_if_absent(&path, bytes.clone()).await?;
    let there = store.get(&path).await?;
    let info = ObjectInfo { bytes: there.len() as i64, blake3: blake3::hash(&there).to_hex().to_string() };
    if info.blake3 == expected {
        let counted = ParquetRecordBatchReaderBuilder::try_new(there).map_err(|e| StoreError::parquet(&path, e))?;
        let counted = counted.metadata().file_metadata().num_rows();
        return match counted == rows as i64 {
            true => Ok(info),
            false => Err(StoreError::corrupt(&path, format!("it has {counted} rows where {rows} were written"))),
        };
    }
    if outcome == PutOutcome::Created {
        return Err(StoreError::Checksum { path: path.to_string(), expected, found: info.blake3 });
    }
    // Sealed before, perhaps by a release whose encoder wrote the same rows in other bytes.
    let same = blocking(move || Ok(decode(there)? == decode(bytes)?)).await;
    match same.map_err(|e: ParquetError| StoreError::parquet(&path, e))? {
        true => Ok(info),
        false => Err(StoreError::Conflict { path: path.to_string() }),
    }
}

fn encode(schema: SchemaRef, batches: impl IntoIterator<Item = RecordBatch>) -> Result<(Bytes, usize), ParquetError> {
    let level = ZstdLevel::try_new(3).expect("3 is a zstd level");
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(level)).set_created_by(CREATED_BY.to_owned());
    let mut writer = ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties.build()))?;
    let mut rows = 0;
    for batch in batches {
        assert_eq!(batch.schema(), schema, "every batch of a segment has the segment's schema");
        rows += batch.num_rows();
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

/// Every segment in the store, sorted by partition and offset. Objects of other names are not looked at: where one should have
/// been a segment, [`chain`] finds the gap.
///
/// # Errors
/// What the store says.
pub async fn list_segments(store: &Store) -> Result<Vec<SegmentMeta>, StoreError> {
    let listed = store.list(&events_folder()).await?;
    let parsed = listed.iter().filter_map(|m| Some(SegmentMeta { path: SegmentPath::parse(&m.location).ok()?, bytes: m.size }));
    let mut segments: Vec<_> = parsed.collect();
    segments.sort();
    Ok(segments)
}

/// Where the unbroken chain of segments of `partition` that starts at offset 0 ends, exclusive.
#[must_use]
pub fn archived_edge(segments: &[SegmentMeta], partition: u32) -> i64 {
    let mut ranges: Vec<_> = segments.iter().filter(|s| s.path.partition == partition).map(|s| s.path.range()).collect();
    ranges.sort_by_key(|range| (range.start, range.end));
    ranges.iter().fold(0, |edge, range| if range.start == edge { range.end } else { edge })
}

/// The segments that together hold exactly the events `range` of `partition`, in order; none if the range is empty.
///
/// # Errors
/// [`StoreError::Gap`] or [`StoreError::Overlap`], naming both neighbours. A segment that reaches over an edge of the range
/// overlaps what lies beyond.
pub fn chain(segments: &[SegmentMeta], partition: u32, range: Range<i64>) -> Result<Vec<SegmentMeta>, StoreError> {
    let touches = |s: &&SegmentMeta| s.path.partition == partition && s.path.start < range.end && range.start < s.path.end;
    let mut links: Vec<SegmentMeta> = segments.iter().filter(touches).cloned().collect();
    links.sort();

    let name = |link: Option<&SegmentMeta>| link.map_or_else(|| "none".to_owned(), |s| s.path.path().to_string());
    let gap = |start, end, before, after| StoreError::Gap { partition, start, end, before: name(before), after: name(after) };
    let edge = || format!("the range [{}, {}) of partition {partition} that was asked for", range.start, range.end);
    let mut covered = range.start;
    let mut before: Option<&SegmentMeta> = None;
    for link in &links {
        if link.path.start > covered {
            return Err(gap(covered, link.path.start, before, Some(link)));
        }
        if link.path.start < covered {
            let first = before.map_or_else(edge, |b| name(Some(b)));
            return Err(StoreError::Overlap { first, second: name(Some(link)) });
        }
        covered = link.path.end;
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
    let path = segment.path.path();
    let reader = ObjectReader::new(store, path.clone(), segment.bytes);
    let opened = ParquetRecordBatchStreamBuilder::new(reader).await;
    let mut builder = opened.map_err(|e| StoreError::parquet(&path, e))?;
    if let Some(columns) = columns {
        let wanted = builder.schema().fields().iter().enumerate().filter(|(_, f)| columns.contains(f.name()));
        let mask = ProjectionMask::roots(builder.parquet_schema(), wanted.map(|(i, _)| i));
        builder = builder.with_projection(mask);
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
