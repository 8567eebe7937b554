//! A store whose network can be bad. The signatures are those that `async_trait` writes.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result,
};

/// A store that can lose the reply of a put it carried out, drop a put, fail reads, and hide everything from lists.
#[derive(Debug, Default)]
pub(super) struct Faulty {
    inner: InMemory,
    pub(super) lose_reply: AtomicBool,
    pub(super) drop_put: AtomicBool,
    pub(super) fail_get: AtomicBool,
    pub(super) empty_list: AtomicBool,
}

impl Faulty {
    fn fail<T>(&self) -> Result<T> {
        Err(object_store::Error::Generic { store: "faulty", source: "timed out".into() })
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty")
    }
}

type Boxed<'a, T> = BoxFuture<'a, Result<T>>;

impl ObjectStore for Faulty {
    fn put_opts<'a: 'c, 'b: 'c, 'c>(&'a self, path: &'b ObjectPath, payload: PutPayload, opts: PutOptions) -> Boxed<'c, PutResult>
    where
        Self: 'c,
    {
        Box::pin(async move {
            if self.drop_put.load(Ordering::Relaxed) {
                return self.fail();
            }
            let done = self.inner.put_opts(path, payload, opts).await;
            if self.lose_reply.load(Ordering::Relaxed) { self.fail() } else { done }
        })
    }

    fn put_multipart_opts<'a: 'c, 'b: 'c, 'c>(
        &'a self,
        path: &'b ObjectPath,
        opts: PutMultipartOptions,
    ) -> Boxed<'c, Box<dyn MultipartUpload>>
    where
        Self: 'c,
    {
        self.inner.put_multipart_opts(path, opts)
    }

    fn get_opts<'a: 'c, 'b: 'c, 'c>(&'a self, path: &'b ObjectPath, options: GetOptions) -> Boxed<'c, GetResult>
    where
        Self: 'c,
    {
        Box::pin(async move { if self.fail_get.load(Ordering::Relaxed) { self.fail() } else { self.inner.get_opts(path, options).await } })
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<ObjectPath>>) -> BoxStream<'static, Result<ObjectPath>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&ObjectPath>) -> BoxStream<'static, Result<ObjectMeta>> {
        if self.empty_list.load(Ordering::Relaxed) { Box::pin(stream::empty()) } else { self.inner.list(prefix) }
    }

    fn list_with_delimiter<'a: 'c, 'b: 'c, 'c>(&'a self, prefix: Option<&'b ObjectPath>) -> Boxed<'c, ListResult>
    where
        Self: 'c,
    {
        self.inner.list_with_delimiter(prefix)
    }

    fn copy_opts<'a: 'd, 'b: 'd, 'c: 'd, 'd>(&'a self, from: &'b ObjectPath, to: &'c ObjectPath, options: CopyOptions) -> Boxed<'d, ()>
    where
        Self: 'd,
    {
        self.inner.copy_opts(from, to, options)
    }
}
