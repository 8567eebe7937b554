//! Adjacent segments, written again as one file.

use std::io::Write;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{filter_record_batch, max};
use arrow::datatypes::{Int64Type, SchemaRef, TimestampMicrosecondType};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path as ObjectPath;
use parquet::arrow::ArrowWriter;
use views::schema::{APPEND_TIME, OFFSET};

use super::layout::{Part, Placed, PlacedImport};
use super::{Places, SegmentMeta, parquet_schema, properties, read_segment, verify_object, verify_segment};
use crate::erasures::Erasures;
use crate::imports::{self, ImportMeta};
use crate::machine::blocking;
use crate::paths::{Id, RewrittenImportPath, RewrittenPath, SegmentPath};
use crate::store::{ObjectInfo, ObjectWriter, Store, StoreError};

/// Rows of a row group, which waits in memory, encoded, until it is full.
const GROUP_ROWS: usize = 128 * 1024;

/// Writes adjacent segments again as one file for the layout of number `layout`, without the rows that `without` hides. Every byte
/// that is read was compared with its seal, and what was written is read back; it counts once the layout is published.
///
/// Held in memory: a row group of 131,072 rows, encoded; in a store that is not a local folder all bytes.
///
/// # Errors
/// A damaged segment, by name, and what the store says.
///
/// # Panics
/// If `segments` is empty, or they are not adjacent, or of different columns or logs.
pub async fn rewrite(store: &Store, segments: &[SegmentMeta], without: &Erasures, layout: i64, run_id: &Id) -> Result<Placed, StoreError> {
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
            let (rows, newest) = writing.copy(&part.file(), batches, places, without).await?;
            let newest_append_us = part.newest_append_us().max(newest);
            parts.push(Part { end: part.range().end, rows, last_record: part.last_record().to_owned(), newest_append_us });
        }
    }
    let (path, info) = writing.finish(store).await?;
    Ok(Placed { path: path.to_string(), cold: false, bytes: info.bytes, blake3: info.blake3, log_id: first.seal.log_id.clone(), parts })
}

/// Writes what an import has in a partition again, for the layout of number `layout`, without the rows that `without` hides; `None` if
/// there are none.
///
/// # Errors
/// A damaged file, by name, and what the store says.
pub async fn rewrite_import(
    store: &Store,
    import: &ImportMeta,
    partition: u32,
    without: &Erasures,
    layout: i64,
    run_id: &Id,
) -> Result<Option<PlacedImport>, StoreError> {
    let read = imports::read_partition(store, import, partition, Some(&["user_id".to_owned(), OFFSET.to_owned()])).await?;
    if hidden_in(read, without).await? == 0 {
        return Ok(None);
    }
    imports::verify_partition(store, import, partition).await?;
    let mut batches = imports::read_partition(store, import, partition, None).await?;
    let Some(first) = batches.try_next().await? else { return Ok(None) };
    let path = RewrittenImportPath { import: import.import, partition, layout, run_id: run_id.clone() }.path();
    let mut writing = Writing::create(store, path, first.schema()).await?;
    let places = Places::new(partition, import.offsets(partition), import.rows(partition));
    let all = stream::iter([Ok(first)]).chain(batches).boxed();
    let (rows, _) = writing.copy(&import.file_path(partition), all, places, without).await?;
    let (path, info) = writing.finish(store).await?;
    let (path, bytes, blake3) = (path.to_string(), info.bytes, info.blake3);
    Ok(Some(PlacedImport { import: import.import, partition, path, rows, bytes, blake3 }))
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

    /// Writes what is not hidden of the rows of `from`; the answer is how many, and when the newest of all was appended.
    async fn copy(
        &mut self,
        from: &ObjectPath,
        mut batches: BoxStream<'static, Result<RecordBatch, StoreError>>,
        mut places: Places,
        without: &Erasures,
    ) -> Result<(i64, Option<i64>), StoreError> {
        let damaged = |offset: i64| StoreError::corrupt(from, format!("the event of offset {offset} is not where it belongs"));
        let (mut rows, mut newest) = (0, None);
        while let Some(batch) = batches.try_next().await? {
            assert_eq!(batch.schema().fields(), self.schema.fields(), "files that are rewritten together have the same columns");
            places.take(&batch).map_err(damaged)?;
            newest = newest.max(newest_append_us(&batch));
            let kept = without_hidden(&batch, without);
            rows += kept.num_rows() as i64;
            let mut held = self.writer.take().expect("it is put back");
            let written = blocking(move || held.write(&kept).map(|()| held)).await;
            self.writer = Some(written.map_err(|e| StoreError::parquet(&self.path, e))?);
        }
        places.end().map_err(damaged)?;
        Ok((rows, newest))
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

/// The rows that no erasure hides.
fn without_hidden(batch: &RecordBatch, without: &Erasures) -> RecordBatch {
    let users = batch.column_by_name("user_id").and_then(|column| column.as_string_opt::<i32>());
    let offsets = batch.column_by_name(OFFSET).and_then(|column| column.as_primitive_opt::<Int64Type>());
    let (Some(users), Some(offsets)) = (users, offsets) else { return batch.clone() };
    if without.is_empty() {
        return batch.clone();
    }
    let stays: BooleanArray = (0..users.len()).map(|row| Some(!without.hides(users.value(row), offsets.value(row)))).collect();
    filter_record_batch(batch, &stays).expect("the mask has an entry for each row")
}

/// How many rows of a segment are hidden.
///
/// # Errors
/// What the store says.
pub async fn hidden_rows(store: &Store, segment: &SegmentMeta, erasures: &Erasures) -> Result<i64, StoreError> {
    hidden_in(read_segment(store, segment, Some(&["user_id".to_owned(), OFFSET.to_owned()])).await?, erasures).await
}

async fn hidden_in(mut batches: BoxStream<'static, Result<RecordBatch, StoreError>>, erasures: &Erasures) -> Result<i64, StoreError> {
    let mut hidden = 0;
    while let Some(batch) = batches.try_next().await? {
        hidden += (batch.num_rows() - without_hidden(&batch, erasures).num_rows()) as i64;
    }
    Ok(hidden)
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
