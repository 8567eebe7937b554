//! An object store in memory that has bad moments on command, for tests and simulations.
//!
//! Each call is shown to a plan, which may let it fail before it has an effect, fail after it had one (a reply that is lost), or
//! show nothing of what is there. Without a plan everything works. Calls are numbered from 1 and written down, so that a test can go
//! through all of them. The signatures below are those that `async_trait` writes.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};

/// What a call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    /// Writes an object.
    Put,
    /// Reads an object, its head or ranges of it.
    Get,
    /// Lists a folder.
    List,
    /// Removes an object.
    Delete,
}

/// One call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// From 1, in the order in which calls come.
    pub number: u64,
    /// What it is about.
    pub kind: CallKind,
    /// The object or folder.
    pub path: String,
}

/// What happens to a call in place of working.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails and has no effect.
    Before,
    /// It has its effect and fails.
    After,
    /// It finds nothing, if it is a list or a read; otherwise it works.
    Nothing,
}

type Plan = Box<dyn FnMut(&Call) -> Option<Fault> + Send>;

#[derive(Default)]
struct State {
    plan: Option<Plan>,
    calls: Vec<Call>,
}

/// A store in memory, and its plan. Clones share both.
#[derive(Clone, Default)]
pub struct FaultyStore {
    inner: Arc<InMemory>,
    state: Arc<Mutex<State>>,
}

impl FaultyStore {
    /// Shows every call from now on to `plan`. Numbers go on.
    pub fn plan(&self, plan: impl FnMut(&Call) -> Option<Fault> + Send + 'static) {
        self.state().plan = Some(Box::new(plan));
    }

    /// From now on everything works.
    pub fn heal(&self) {
        self.state().plan = None;
    }

    /// A store of its own with the same objects, where everything works.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self { inner: Arc::new(self.inner.fork()), state: Arc::default() }
    }

    /// Every call so far.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self, kind: CallKind, path: &str) -> Option<Fault> {
        let mut state = self.state();
        let call = Call { number: state.calls.len() as u64 + 1, kind, path: path.to_owned() };
        state.calls.push(call.clone());
        state.plan.as_mut().and_then(|plan| plan(&call))
    }

    async fn meet<T>(&self, kind: CallKind, path: &ObjectPath, call: impl Future<Output = Result<T>>) -> Result<T> {
        match self.fault(kind, path.as_ref()) {
            Some(Fault::Nothing) if kind == CallKind::Get => {
                Err(object_store::Error::NotFound { path: path.to_string(), source: "hidden".into() })
            }
            None | Some(Fault::Nothing) => call.await,
            Some(Fault::Before) => Err(timed_out()),
            Some(Fault::After) => call.await.and_then(|_| Err(timed_out())),
        }
    }
}

fn timed_out() -> object_store::Error {
    object_store::Error::Generic { store: "faulty", source: "timed out".into() }
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyStore")
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty")
    }
}

type Boxed<'a, T> = BoxFuture<'a, Result<T>>;

impl ObjectStore for FaultyStore {
    fn put_opts<'a: 'c, 'b: 'c, 'c>(&'a self, path: &'b ObjectPath, payload: PutPayload, opts: PutOptions) -> Boxed<'c, PutResult>
    where
        Self: 'c,
    {
        self.meet(CallKind::Put, path, self.inner.put_opts(path, payload, opts)).boxed()
    }

    fn put_multipart_opts<'a: 'c, 'b: 'c, 'c>(
        &'a self,
        path: &'b ObjectPath,
        opts: PutMultipartOptions,
    ) -> Boxed<'c, Box<dyn MultipartUpload>>
    where
        Self: 'c,
    {
        self.meet(CallKind::Put, path, self.inner.put_multipart_opts(path, opts)).boxed()
    }

    fn get_opts<'a: 'c, 'b: 'c, 'c>(&'a self, path: &'b ObjectPath, options: GetOptions) -> Boxed<'c, GetResult>
    where
        Self: 'c,
    {
        self.meet(CallKind::Get, path, self.inner.get_opts(path, options)).boxed()
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<ObjectPath>>) -> BoxStream<'static, Result<ObjectPath>> {
        let store = self.clone();
        let delete = move |path: Result<ObjectPath>| {
            let store = store.clone();
            async move {
                let path = path?;
                store.meet(CallKind::Delete, &path, store.inner.delete(&path)).await?;
                Ok(path)
            }
        };
        paths.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&ObjectPath>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.fault(CallKind::List, prefix.map_or("", |prefix| prefix.as_ref())) {
            None => self.inner.list(prefix),
            Some(Fault::Nothing) => stream::empty().boxed(),
            Some(Fault::Before | Fault::After) => stream::iter([Err(timed_out())]).boxed(),
        }
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
        self.meet(CallKind::Put, to, self.inner.copy_opts(from, to, options)).boxed()
    }
}
