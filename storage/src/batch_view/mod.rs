//! Files of partial states: what the batch layer writes once a night and the serving layer reads a key at a time.
//!
//! # Layout
//! `views/<view>/v<version>-<run id>/part-<shard>.parquet`, one file for each shard, an empty one too. Column 0 is the key
//! (`Utf8`, not null), column 1 the bucket (`Timestamp(µs, "+00:00")`, null where the view has none), then the states. Rows are
//! in strictly ascending order of key and bucket, null first. The settings are made for reading one key: a page holds
//! [`BLOCK_ROWS`] rows of a column, a row group a whole number of pages, nothing is compressed (zstd cost ten times the reading
//! and saved one percent over the delta encodings), and the page index holds the keys untruncated. A *block* is the rows
//! of one page of the key column.
//!
//! A shard may have several files, its layers: a row of a higher one stands in the place of the row of the same key and bucket below
//! it, so that a version can be built upon another one and share its files.
//!
//! # Consistency
//! Files are immutable, and exist only if a manifest names them. [`OpenView::open`] compares every byte with the manifest before
//! the first answer. Blocks are cached under the path and the BLAKE3 of their file.
//!
//! # What a crash leaves behind
//! Files that no manifest names. A collector removes them.

mod blocks;
mod cache;
mod layers;
mod open;
mod windows;
mod writer;

#[cfg(test)]
mod tests;

pub use blocks::verify_file;
pub use cache::BlockCache;
pub(crate) use layers::Layers;
pub use open::OpenView;
pub use windows::{States, Windows, overlaid};
pub use writer::ViewWriter;

use arrow::datatypes::{DataType, Schema, TimeUnit};

/// Rows of a block: what a point read decodes.
pub const BLOCK_ROWS: usize = 1_000;
/// Rows of a row group, a whole number of blocks.
const GROUP_ROWS: usize = 64_000;
/// A row group ends early at this size of its encoded states, so that large sketches do not fill the memory of the writer.
const GROUP_BYTES: usize = 128 << 20;

/// What is wrong with the schema of a file of states, if anything is.
fn check_schema(schema: &Schema) -> Result<(), String> {
    let [key, bucket, ..] = schema.fields().as_ref() else {
        return Err("it has no key and bucket".to_owned());
    };
    if key.data_type() != &DataType::Utf8 || key.is_nullable() {
        return Err(format!("the key {} is not Utf8 and never null", key.name()));
    }
    if bucket.data_type() != &DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())) {
        return Err(format!("the bucket {} is not a timestamp in UTC microseconds", bucket.name()));
    }
    Ok(())
}
