//! Writing one file of a batch view.

use arrow::array::{Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{Schema, SchemaRef};
use object_store::path::Path as ObjectPath;
use parquet::arrow::{ArrowSchemaConverter, ArrowWriter};
use parquet::basic::{Compression, ConvertedType, Encoding, Type};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::schema::types::ColumnPath;

use super::{BLOCK_ROWS, GROUP_BYTES, GROUP_ROWS, check_schema};
use crate::machine::blocking;
use crate::manifest::ViewFile;
use crate::paths::ViewFilePath;
use crate::store::{ObjectWriter, Store, StoreError};

/// Where blocks and row groups end; tests use small ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) block_rows: usize,
    pub(super) group_rows: usize,
    pub(super) group_bytes: usize,
}

impl Shape {
    const DEFAULT: Self = Self { block_rows: BLOCK_ROWS, group_rows: GROUP_ROWS, group_bytes: GROUP_BYTES };
}

/// One file of a batch view in the making. It exists once [`finish`](Self::finish) returns.
#[derive(Debug)]
pub struct ViewWriter {
    path: ObjectPath,
    shard: u32,
    shape: Shape,
    writer: ArrowWriter<ObjectWriter>,
    rows: i64,
    group_rows: usize,
    last: Option<(String, Option<i64>)>,
}

impl ViewWriter {
    /// Starts the file of `shard` for rows of `schema`: key, bucket, states.
    ///
    /// # Errors
    /// The disk's, and a state type that Parquet does not know.
    ///
    /// # Panics
    /// If the first two columns are not a key and a bucket.
    pub async fn create(store: &Store, path: &ViewFilePath, schema: SchemaRef, shard: u32) -> Result<Self, StoreError> {
        Self::with_shape(store, path.path(), schema, shard, Shape::DEFAULT).await
    }

    /// [`Self::create`] for a file of states that is no view's.
    pub(crate) async fn create_at(store: &Store, path: ObjectPath, schema: SchemaRef) -> Result<Self, StoreError> {
        Self::with_shape(store, path, schema, 0, Shape::DEFAULT).await
    }

    pub(super) async fn with_shape(
        store: &Store,
        path: ObjectPath,
        schema: SchemaRef,
        shard: u32,
        shape: Shape,
    ) -> Result<Self, StoreError> {
        assert_eq!(check_schema(&schema), Ok(()), "a view's file begins with key and bucket");
        let properties = properties(&schema, shape).map_err(|e| StoreError::parquet(&path, e))?;
        let object = store.create(&path).await?;
        let writer = ArrowWriter::try_new(object, schema, Some(properties)).map_err(|e| StoreError::parquet(&path, e))?;
        Ok(Self { path, shard, shape, writer, rows: 0, group_rows: 0, last: None })
    }

    /// Adds rows, all of them after those written before. Blocks on the disk. How rows are cut into batches does not change
    /// the file.
    ///
    /// # Errors
    /// The disk's. The file cannot be finished after one.
    ///
    /// # Panics
    /// If the rows are not in strictly ascending order of key and bucket, null first.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), StoreError> {
        self.assert_order(batch);
        let mut start = 0;
        while start < batch.num_rows() {
            let room = self.shape.block_rows - self.group_rows % self.shape.block_rows;
            let rows = room.min(batch.num_rows() - start);
            self.write_in_block(&batch.slice(start, rows)).map_err(|e| StoreError::parquet(&self.path, e))?;
            start += rows;
        }
        Ok(())
    }

    fn write_in_block(&mut self, rows: &RecordBatch) -> Result<(), ParquetError> {
        self.writer.write(rows)?;
        self.rows += rows.num_rows() as i64;
        self.group_rows += rows.num_rows();
        let block_is_full = self.group_rows.is_multiple_of(self.shape.block_rows);
        if block_is_full && (self.group_rows >= self.shape.group_rows || self.writer.in_progress_size() >= self.shape.group_bytes) {
            self.writer.flush()?;
            self.group_rows = 0;
        }
        Ok(())
    }

    fn assert_order(&mut self, batch: &RecordBatch) {
        let keys = batch.column(0).as_any().downcast_ref::<StringArray>().expect("a key is Utf8");
        let buckets = batch.column(1).as_any().downcast_ref::<TimestampMicrosecondArray>().expect("a bucket is a timestamp");
        let place = |row: usize| (keys.value(row), buckets.is_valid(row).then(|| buckets.value(row)));
        let mut before = self.last.as_ref().map(|(key, bucket)| (key.as_str(), *bucket));
        for row in 0..batch.num_rows() {
            assert!(before < Some(place(row)), "rows ascend by key and bucket: {:?} after {before:?} in {}", place(row), self.path);
            before = Some(place(row));
        }
        self.last = before.map(|(key, bucket)| (key.to_owned(), bucket));
    }

    /// Ends the file and makes it durable. The answer, which says that it is the shard's lowest, goes into the manifest.
    ///
    /// # Errors
    /// The disk's.
    pub async fn finish(self) -> Result<ViewFile, StoreError> {
        let Self { path, shard, writer, rows, .. } = self;
        let object = blocking(move || writer.into_inner()).await.map_err(|e| StoreError::parquet(&path, e))?;
        let info = object.finish().await?;
        Ok(ViewFile { path: path.to_string(), shard, layer: 0, rows, bytes: info.bytes, blake3: info.blake3 })
    }
}

/// Version 2 pages choose a delta encoding for every type that has one: integers, timestamps, small decimals, strings, wide
/// decimals. Sketches share no prefixes, so binary columns code their lengths only.
fn properties(schema: &Schema, shape: Shape) -> Result<WriterProperties, ParquetError> {
    let mut builder = WriterProperties::builder()
        .set_created_by("merganser".to_owned())
        .set_writer_version(WriterVersion::PARQUET_2_0)
        .set_compression(Compression::UNCOMPRESSED)
        .set_dictionary_enabled(false)
        .set_write_batch_size(shape.block_rows)
        .set_data_page_row_count_limit(shape.block_rows)
        // Only rows cut pages.
        .set_data_page_size_limit(1 << 30)
        // `write` ends the row groups.
        .set_max_row_group_row_count(None)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_column_statistics_enabled(ColumnPath::from(schema.field(0).name().as_str()), EnabledStatistics::Page)
        .set_column_index_truncate_length(None)
        .set_statistics_truncate_length(None);
    for column in ArrowSchemaConverter::new().convert(schema)?.columns() {
        if column.physical_type() == Type::BYTE_ARRAY && column.converted_type() != ConvertedType::UTF8 {
            builder = builder.set_column_encoding(column.path().clone(), Encoding::DELTA_LENGTH_BYTE_ARRAY);
        }
    }
    Ok(builder.build())
}
