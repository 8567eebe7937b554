//! Adjacent segments, written again as one file.

use std::io::Write;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::max;
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path as ObjectPath;
use parquet::arrow::{ArrowWriter, ParquetRecordBatchStreamBuilder};
use parquet::file::statistics::Statistics;
use views::schema::APPEND_TIME;

use super::layout::{Part, Placed, PlacedImport};
use super::without::{COLUMNS, LeftOut};
use super::{Places, SegmentMeta, Without, parquet_schema, properties, read_segment, verify_object, verify_segment};
use crate::erasures::Erasures;
use crate::imports::{self, ImportMeta};
use crate::machine::blocking;
use crate::paths::{Id, RewrittenImportPath, RewrittenPath, SegmentPath};
use crate::store::{ObjectInfo, ObjectReader, ObjectWriter, Store, StoreError};

/// Rows of a row group, which waits in memory, encoded, until it is full.
const GROUP_ROWS: usize = 128 * 1024;

/// Writes adjacent segments again as one file for the layout of number `layout`, without the rows that `without` leaves out. Every byte
/// that is read was compared with its seal, and what was written is read back; it counts once the layout is published.
///
/// Held in memory: a row group of 131,072 rows, encoded; in a store that is not a local folder all bytes.
///
/// # Errors
/// A damaged segment, by name, and what the store says.
///
/// # Panics
/// If `segments` is empty, or they are not adjacent, or of different columns or logs.
pub async fn rewrite(store: &Store, segments: &[SegmentMeta], without: &Without, layout: i64, run_id: &Id) -> Result<Placed, StoreError> {
    let (first, last) = (segments.first().expect("there is something to rewrite"), &segments[segments.len() - 1]);
    let adjacent = segments
        .iter()
        .zip(&segments[1..])
        .all(|(a, b)| a.path.partition == b.path.partition && a.range().end == b.range().start && a.seal.log_id == b.seal.log_id);
    assert!(adjacent, "segments that are rewritten together are adjacent ones of one log");
    let segment = SegmentPath { end: last.path.end, ..first.path.clone() };
    let path = RewrittenPath { segment, layout, run_id: run_id.clone() }.path();
    let mut writing = Writing::create(store, path, parquet_schema(store, first).await?).await?;
    let mut parts = Vec::new();
    for segment in segments {
        verify_segment(store, segment).await?;
        for part in segment.parts() {
            let batches = read_segment(store, &part, None).await?;
            let places = Places::new(part.path.partition, part.range(), part.rows());
            let Copied { rows, left_out, newest_us } = writing.copy(&part.file(), batches, places, without).await?;
            let (end, expired, last_record) = (part.range().end, part.expired() + left_out.expired, part.last_record().to_owned());
            parts.push(Part { end, rows, expired, last_record, newest_append_us: part.newest_append_us().max(newest_us) });
        }
    }
    let (path, info) = writing.finish(store).await?;
    Ok(Placed { path: path.to_string(), cold: false, bytes: info.bytes, blake3: info.blake3, log_id: first.seal.log_id.clone(), parts })
}

/// Writes what an import has in a partition again, for the layout of number `layout`, without the rows that `without` leaves out; `None`
/// if there are none.
///
/// # Errors
/// A damaged file, by name, and what the store says.
pub async fn rewrite_import(
    store: &Store,
    import: &ImportMeta,
    partition: u32,
    without: &Without,
    layout: i64,
    run_id: &Id,
) -> Result<Option<PlacedImport>, StoreError> {
    let read = imports::read_partition(store, import, partition, Some(&COLUMNS.map(str::to_owned))).await?;
    if left_out_of(read, without).await?.rows() == 0 {
        return Ok(None);
    }
    imports::verify_partition(store, import, partition).await?;
    let mut batches = imports::read_partition(store, import, partition, None).await?;
    let Some(first) = batches.try_next().await? else { return Ok(None) };
    let path = RewrittenImportPath { import: import.import, partition, layout, run_id: run_id.clone() }.path();
    let mut writing = Writing::create(store, path, first.schema()).await?;
    let places = Places::new(partition, import.offsets(partition), import.rows(partition));
    let all = stream::iter([Ok(first)]).chain(batches).boxed();
    let Copied { rows, left_out, .. } = writing.copy(&import.file_path(partition), all, places, without).await?;
    let (path, info) = writing.finish(store).await?;
    let (path, bytes, blake3) = (path.to_string(), info.bytes, info.blake3);
    let expired = import.expired(partition) + left_out.expired;
    Ok(Some(PlacedImport { import: import.import, partition, path, rows, expired, bytes, blake3 }))
}

/// What became of rows that were copied.
struct Copied {
    /// How many were.
    rows: i64,
    left_out: LeftOut,
    /// When the newest of all was appended.
    newest_us: Option<i64>,
}

/// A file in the making.
struct Writing {
    path: ObjectPath,
    schema: SchemaRef,
    /// Away while it is written to.
    writer: Option<ArrowWriter<ObjectWriter>>,
}

impl Writing {
    async fn create(store: &Store, path: ObjectPath, schema: SchemaRef) -> Result<Self, StoreError> {
        let properties = properties().set_max_row_group_row_count(Some(GROUP_ROWS)).build();
        let object = store.create(&path).await?;
        let writer = ArrowWriter::try_new(object, schema.clone(), Some(properties)).map_err(|e| StoreError::parquet(&path, e))?;
        Ok(Self { path, schema, writer: Some(writer) })
    }

    /// Writes those rows of `from` that are not left out.
    async fn copy(
        &mut self,
        from: &ObjectPath,
        mut batches: BoxStream<'static, Result<RecordBatch, StoreError>>,
        mut places: Places,
        without: &Without,
    ) -> Result<Copied, StoreError> {
        let damaged = |offset: i64| StoreError::corrupt(from, format!("the event of offset {offset} is not where it belongs"));
        let mut copied = Copied { rows: 0, left_out: LeftOut::default(), newest_us: None };
        while let Some(batch) = batches.try_next().await? {
            assert_eq!(batch.schema().fields(), self.schema.fields(), "files that are rewritten together have the same columns");
            places.take(&batch).map_err(damaged)?;
            copied.newest_us = copied.newest_us.max(newest_append_us(&batch));
            let (kept, left_out) = without.leave_out(&batch);
            copied.rows += kept.num_rows() as i64;
            copied.left_out += left_out;
            let mut held = self.writer.take().expect("it is put back");
            let written = blocking(move || held.write(&kept).map(|()| held)).await;
            self.writer = Some(written.map_err(|e| StoreError::parquet(&self.path, e))?);
        }
        places.end().map_err(damaged)?;
        Ok(copied)
    }

    /// Ends the file and reads it back.
    async fn finish(self, store: &Store) -> Result<(ObjectPath, ObjectInfo), StoreError> {
        let Self { path, writer, .. } = self;
        let writer = writer.expect("it is put back");
        let object = blocking(move || writer.into_inner()).await.map_err(|e| StoreError::parquet(&path, e))?;
        let info = object.finish().await?;
        verify_object(store, &path, info.bytes, &info.blake3).await?;
        Ok((path, info))
    }
}

fn newest_append_us(batch: &RecordBatch) -> Option<i64> {
    let times = batch.column_by_name(APPEND_TIME)?.as_primitive_opt::<TimestampMicrosecondType>()?;
    max(times)
}

/// How many rows of a segment erasures hide.
///
/// # Errors
/// What the store says.
pub async fn hidden_rows(store: &Store, segment: &SegmentMeta, erasures: &Erasures) -> Result<i64, StoreError> {
    leaving_rows(store, segment, &Without::erased(erasures)).await
}

/// How many rows of a segment are left out of what is written in its place.
///
/// # Errors
/// What the store says.
pub async fn leaving_rows(store: &Store, segment: &SegmentMeta, without: &Without) -> Result<i64, StoreError> {
    let read = read_segment(store, segment, Some(&COLUMNS.map(str::to_owned))).await?;
    Ok(left_out_of(read, without).await?.rows())
}

async fn left_out_of(mut batches: BoxStream<'static, Result<RecordBatch, StoreError>>, without: &Without) -> Result<LeftOut, StoreError> {
    let mut left_out = LeftOut::default();
    while let Some(batch) = batches.try_next().await? {
        left_out += without.leave_out(&batch).1;
    }
    Ok(left_out)
}

/// A time that no event of a segment's file is older than, by what Parquet says of it; `None` if there are no rows. Reads no rows.
///
/// # Errors
/// What the store says.
pub async fn oldest_event_us(store: &Store, segment: &SegmentMeta) -> Result<Option<i64>, StoreError> {
    oldest_in(segment.store(store)?, segment.file(), segment.seal.bytes).await
}

/// The same of what an import has in a partition.
///
/// # Errors
/// What the store says.
pub async fn oldest_imported_us(store: &Store, import: &ImportMeta, partition: u32) -> Result<Option<i64>, StoreError> {
    match import.file(partition) {
        Some(_) => oldest_in(store, import.file_path(partition), import.bytes(partition)).await,
        None => Ok(None),
    }
}

async fn oldest_in(store: &Store, path: ObjectPath, bytes: i64) -> Result<Option<i64>, StoreError> {
    let opened = ParquetRecordBatchStreamBuilder::new(ObjectReader::new(store, path.clone(), bytes as u64)).await;
    let opened = opened.map_err(|e| StoreError::parquet(&path, e))?;
    let column = opened.parquet_schema().columns().iter().position(|column| column.path().string() == "event_time");
    let oldest = opened.metadata().row_groups().iter().filter(|group| group.num_rows() > 0).map(|group| {
        match column.and_then(|column| group.column(column).statistics()) {
            Some(Statistics::Int64(of_group)) => of_group.min_opt().copied().unwrap_or(i64::MIN),
            // Nothing is said of it, so it may be of any age.
            _ => i64::MIN,
        }
    });
    Ok(oldest.min())
}

/// Copies a segment to the cold store and reads it back there; it lies there once the layout is published.
///
/// # Errors
/// A damaged segment, by name; what the stores say, and that there is no cold one.
pub async fn copy_to_cold(store: &Store, segment: &SegmentMeta) -> Result<Placed, StoreError> {
    let path = segment.file();
    let cold = store.cold_for(&path)?;
    verify_segment(store, segment).await?;
    let mut copy = cold.create(&path).await?;
    let mut start = 0;
    let bytes = segment.seal.bytes as u64;
    while start < bytes {
        let end = bytes.min(start + COPY_BYTES);
        let window = store.get_range(&path, start..end).await?;
        let failed = path.clone();
        copy = blocking(move || copy.write_all(&window).map(|()| copy).map_err(|e| StoreError::io(failed, e))).await?;
        start = end;
    }
    let info = copy.finish().await?;
    if info.blake3 != segment.seal.blake3 {
        return Err(StoreError::Checksum { path: path.to_string(), expected: segment.seal.blake3.clone(), found: info.blake3 });
    }
    verify_object(cold, &path, segment.seal.bytes, &segment.seal.blake3).await?;
    Ok(Placed { cold: true, ..segment.as_placed() })
}

/// How much is copied at once.
const COPY_BYTES: u64 = 4 << 20;
