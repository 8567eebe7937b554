//! An object as the Parquet reader wants to see it: byte ranges on demand.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, TryFutureExt};
use object_store::path::Path as ObjectPath;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use super::{Store, StoreError};

/// One Parquet object of known size.
#[derive(Clone, Debug)]
pub(crate) struct ObjectReader {
    store: Store,
    path: ObjectPath,
    bytes: u64,
}

impl ObjectReader {
    pub(crate) fn new(store: &Store, path: ObjectPath, bytes: u64) -> Self {
        Self { store: store.clone(), path, bytes }
    }
}

fn external(error: StoreError) -> ParquetError {
    ParquetError::External(Box::new(error))
}

impl AsyncFileReader for ObjectReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        self.store.get_range(&self.path, range).map_err(external).boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>>> {
        async move { self.store.get_ranges(&self.path, &ranges).await.map_err(external) }.boxed()
    }

    fn get_metadata<'a>(&'a mut self, options: Option<&'a ArrowReaderOptions>) -> BoxFuture<'a, Result<Arc<ParquetMetaData>>> {
        async move {
            let bytes = self.bytes;
            let footer = ParquetMetaDataReader::new().with_arrow_reader_options(options);
            footer.load_and_finish(self, bytes).await.map(Arc::new)
        }
        .boxed()
    }
}
