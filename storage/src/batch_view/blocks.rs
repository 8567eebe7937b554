//! One file of a batch view, opened: its footer, and which keys each of its blocks holds.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{RecordBatch, StringArray};
use arrow::datatypes::SchemaRef;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path as ObjectPath;
use parquet::arrow::ParquetRecordBatchStreamBuilder;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, RowSelection, RowSelector};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};
use parquet::file::page_index::column_index::ColumnIndexMetaData;

use super::check_schema;
use crate::manifest::ViewFile;
use crate::store::{ObjectReader, Store, StoreError};

/// Rows of the batches that a scan yields.
const SCAN_BATCH_ROWS: usize = 8192;

/// A verified file with its table of blocks.
#[derive(Debug)]
pub(super) struct BlockFile {
    pub(super) path: ObjectPath,
    /// What it was compared with.
    pub(super) expected: ViewFile,
    pub(super) cache_name: Arc<str>,
    reader: ObjectReader,
    footer: ArrowReaderMetadata,
    blocks: Vec<Block>,
}

/// Adjacent rows that are read together.
#[derive(Debug)]
struct Block {
    group: usize,
    /// Rows of the row group.
    rows: Range<usize>,
    first_key: Box<str>,
    last_key: Box<str>,
}

impl BlockFile {
    /// Compares the file with what the manifest says of it, byte by byte, and reads its footer and page index.
    pub(super) async fn open(store: &Store, expected: &ViewFile) -> Result<Self, StoreError> {
        let (path, bytes) = compare(store, expected).await?;
        let mut reader = ObjectReader::new(store, path.clone(), bytes);
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
        let footer = ArrowReaderMetadata::load_async(&mut reader, options).await.map_err(|e| StoreError::parquet(&path, e))?;

        let damaged = |reason: String| StoreError::corrupt(&path, reason);
        check_schema(footer.schema()).map_err(damaged)?;
        let rows = footer.metadata().file_metadata().num_rows();
        if rows != expected.rows {
            return Err(damaged(format!("it has {rows} rows where its manifest says {}", expected.rows)));
        }
        let blocks = blocks_of(footer.metadata()).ok_or_else(|| damaged("its page index does not hold the keys".to_owned()))?;
        Ok(Self { cache_name: format!("{path} {}", expected.blake3).into(), expected: expected.clone(), path, reader, footer, blocks })
    }

    pub(super) fn schema(&self) -> &SchemaRef {
        self.footer.schema()
    }

    /// The blocks that can hold `key`. Few keys have more than one.
    pub(super) fn blocks_with(&self, key: &str) -> Range<usize> {
        let start = self.blocks.partition_point(|b| *b.last_key < *key);
        let end = self.blocks.partition_point(|b| *b.first_key <= *key);
        start..end.max(start)
    }

    /// The blocks that can hold keys that begin with `prefix`.
    pub(super) fn blocks_beginning(&self, prefix: &str) -> Range<usize> {
        let start = self.blocks.partition_point(|b| *b.last_key < *prefix);
        let end = self.blocks.partition_point(|b| *b.first_key <= *prefix || b.first_key.starts_with(prefix));
        start..end.max(start)
    }

    /// Reads and decodes one block.
    pub(super) async fn read(&self, block: usize) -> Result<RecordBatch, StoreError> {
        let Block { group, rows, first_key, last_key } = &self.blocks[block];
        let selection = RowSelection::from(vec![RowSelector::skip(rows.start), RowSelector::select(rows.len())]);
        let builder = ParquetRecordBatchStreamBuilder::new_with_metadata(self.reader.clone(), self.footer.clone())
            .with_row_groups(vec![*group])
            .with_row_selection(selection)
            .with_batch_size(rows.len());
        let decoded = async { builder.build()?.try_collect::<Vec<_>>().await }.await;
        let mut batches = decoded.map_err(|e| StoreError::parquet(&self.path, e))?;
        match batches.pop() {
            Some(batch) if batches.is_empty() && batch.num_rows() == rows.len() && holds(&batch, first_key, last_key) => Ok(batch),
            _ => Err(StoreError::corrupt(&self.path, format!("block {block} is not what the page index says"))),
        }
    }

    /// All rows in order.
    pub(super) fn scan(&self) -> Result<BoxStream<'static, Result<RecordBatch, StoreError>>, StoreError> {
        let path = self.path.clone();
        let builder = ParquetRecordBatchStreamBuilder::new_with_metadata(self.reader.clone(), self.footer.clone());
        let stream = builder.with_batch_size(SCAN_BATCH_ROWS).build().map_err(|e| StoreError::parquet(&path, e))?;
        Ok(stream.map_err(move |e| StoreError::parquet(&path, e)).boxed())
    }

    /// [`Self::scan`] for whoever reads slowly, or many files at once: it reads whole blocks, of about `piece_bytes` together or a single one,
    /// when it is asked for their rows, where a scan reads whole row groups.
    pub(super) fn scan_in_pieces(&self, piece_bytes: u64) -> BoxStream<'static, Result<RecordBatch, StoreError>> {
        let (reader, footer, path) = (self.reader.clone(), self.footer.clone(), self.path.clone());
        let read = move |(group, rows): (usize, Range<usize>)| {
            let (reader, footer, path) = (reader.clone(), footer.clone(), path.clone());
            async move {
                let selection = RowSelection::from(vec![RowSelector::skip(rows.start), RowSelector::select(rows.len())]);
                let builder = ParquetRecordBatchStreamBuilder::new_with_metadata(reader, footer)
                    .with_row_groups(vec![group])
                    .with_row_selection(selection)
                    .with_batch_size(SCAN_BATCH_ROWS.min(rows.len()));
                let stream = builder.build().map_err(|e| StoreError::parquet(&path, e))?;
                Ok(stream.map_err(move |e| StoreError::parquet(&path, e)))
            }
        };
        stream::iter(self.pieces(piece_bytes)).then(read).try_flatten().boxed()
    }

    /// Row groups and their rows, so that each is whole blocks of about so many bytes, or a single one.
    fn pieces(&self, piece_bytes: u64) -> Vec<(usize, Range<usize>)> {
        let mut pieces: Vec<(usize, Range<usize>)> = Vec::new();
        for Block { group, rows, .. } in &self.blocks {
            let in_group = self.footer.metadata().row_group(*group);
            let row_bytes = (in_group.total_byte_size() / in_group.num_rows().max(1)).max(1).cast_unsigned();
            match pieces.last_mut() {
                Some((last, piece)) if last == group && (rows.end - piece.start) as u64 * row_bytes <= piece_bytes => piece.end = rows.end,
                _ => pieces.push((*group, rows.clone())),
            }
        }
        pieces
    }
}

/// Reads every byte of a file and compares it with what the manifest says of it. Gives its path and length.
async fn compare(store: &Store, expected: &ViewFile) -> Result<(ObjectPath, u64), StoreError> {
    let name = || StoreError::Name { text: expected.path.clone(), expected: "the path of a batch view's file" };
    let path = ObjectPath::parse(&expected.path).map_err(|_| name())?;
    let found = store.checksum(&path).await?;
    match found.blake3 == expected.blake3 {
        true => Ok((path, found.bytes as u64)),
        false => Err(StoreError::Checksum { path: path.to_string(), expected: expected.blake3.clone(), found: found.blake3 }),
    }
}

/// Reads every byte of a version's file again and compares it with the manifest, past every cache.
///
/// # Errors
/// [`StoreError::NotFound`] and [`StoreError::Checksum`], naming the file.
pub async fn verify_file(store: &Store, expected: &ViewFile) -> Result<(), StoreError> {
    compare(store, expected).await.map(|_| ())
}

/// The key column of a batch of states.
pub(super) fn keys(batch: &RecordBatch) -> &StringArray {
    batch.column(0).as_any().downcast_ref().expect("the schema was checked when the file was opened")
}

fn holds(batch: &RecordBatch, first_key: &str, last_key: &str) -> bool {
    keys(batch).value(0) == first_key && keys(batch).value(batch.num_rows() - 1) == last_key
}

/// A block for each page of the key column, or `None` if the page index is not as we write it.
fn blocks_of(footer: &ParquetMetaData) -> Option<Vec<Block>> {
    let mut blocks = Vec::new();
    for (group, metadata) in footer.row_groups().iter().enumerate() {
        let ColumnIndexMetaData::BYTE_ARRAY(keys) = footer.column_index()?.get(group)?.first()? else {
            return None;
        };
        let pages = footer.offset_index()?.get(group)?.first()?.page_locations();
        let starts = pages.iter().map(|p| p.first_row_index).chain([metadata.num_rows()]);
        let starts = starts.map(|row| usize::try_from(row).ok()).collect::<Option<Vec<_>>>()?;
        for (page, edges) in starts.windows(2).enumerate() {
            let key = |bytes: Option<&[u8]>| Some(std::str::from_utf8(bytes?).ok()?.into());
            let (first_key, last_key): (Box<str>, Box<str>) = (key(keys.min_value(page))?, key(keys.max_value(page))?);
            let ascends = blocks.last().is_none_or(|b: &Block| b.last_key <= first_key) && first_key <= last_key;
            if !ascends || edges[0] >= edges[1] {
                return None;
            }
            blocks.push(Block { group, rows: edges[0]..edges[1], first_key, last_key });
        }
    }
    Some(blocks)
}
