//! An object store in memory whose network is the weather's, one handle a process.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};
use tokio::time::sleep;

use super::faults::{Fault, Weather};
use super::process::{Process, Stopwatch};

/// How long an object may be absent from lists after its put.
const LIST_LAG: Duration = Duration::from_millis(400);

/// The objects, which outlive every process.
#[derive(Clone, Debug)]
pub(crate) struct Objects {
    inner: Arc<InMemory>,
    put_at: Arc<Mutex<BTreeMap<ObjectPath, Duration>>>,
    stopwatch: Stopwatch,
}

impl Objects {
    pub(crate) fn new(stopwatch: &Stopwatch) -> Self {
        Self { inner: Arc::default(), put_at: Arc::default(), stopwatch: stopwatch.clone() }
    }

    /// What a process sees of them.
    pub(crate) fn seen_by(&self, process: &Process, weather: &Weather) -> SimStore {
        SimStore { objects: self.clone(), process: process.clone(), weather: weather.clone() }
    }

    /// Names and bytes of all objects.
    pub(crate) async fn dump(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let mut found = Vec::new();
        for meta in self.inner.list(None).try_collect::<Vec<_>>().await? {
            found.push((meta.location.to_string(), self.inner.get(&meta.location).await?.bytes().await?.to_vec()));
        }
        found.sort();
        Ok(found)
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct SimStore {
    objects: Objects,
    process: Process,
    weather: Weather,
}

/// What becomes of a call.
enum Fate {
    Done,
    NotDone,
    ReplyLost,
    Twice,
    /// Carried out for a process that is dead.
    Orphaned,
}

impl SimStore {
    async fn fate(&self) -> Fate {
        self.process.or_never().await;
        let chance = self.process.chance();
        sleep(chance.micros(2_000)).await;
        if self.weather.strikes(Fault::StoreSlow) {
            sleep(chance.micros(3_000_000)).await;
        }
        if self.weather.strikes(Fault::StoreStalls) {
            sleep(Duration::from_secs(60) + chance.micros(60_000_000)).await;
        }
        // What was under way when a process died may arrive all the same.
        if self.process.is_dead() && chance.happens(500) {
            return Fate::Orphaned;
        }
        self.process.or_never().await;
        if self.weather.strikes(Fault::StoreFails) {
            return Fate::NotDone;
        }
        if self.weather.strikes(Fault::StoreReplyLost) {
            return Fate::ReplyLost;
        }
        if self.weather.strikes(Fault::StorePutTwice) { Fate::Twice } else { Fate::Done }
    }

    /// Whether the process dies at this call: before it is carried out, or after.
    async fn dies(&self) {
        if self.weather.strikes(Fault::KilledAtStore) {
            self.process.kill();
        }
        self.process.or_never().await;
    }

    fn failed<T>(&self, what: &'static str) -> Result<T> {
        Err(object_store::Error::Generic { store: "simulated", source: what.into() })
    }
}

impl fmt::Display for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated")
    }
}

#[tonic::async_trait]
impl ObjectStore for SimStore {
    async fn put_opts(&self, path: &ObjectPath, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let fate = self.fate().await;
        if let Fate::Orphaned = fate {
            self.process.trace(|| format!("put {path} arrives late"));
            let _nobody_hears = self.objects.inner.put_opts(path, payload, opts).await;
            return std::future::pending().await;
        }
        self.dies().await;
        if let Fate::NotDone = fate {
            return self.failed("503 slow down");
        }
        let mut done = self.objects.inner.put_opts(path, payload.clone(), opts.clone()).await;
        if done.is_ok() {
            self.objects.put_at.lock().unwrap_or_else(PoisonError::into_inner).insert(path.clone(), self.objects.stopwatch.elapsed());
        }
        self.process.trace(|| format!("put {path}: {}", if done.is_ok() { "created" } else { "exists" }));
        self.dies().await;
        match fate {
            Fate::ReplyLost => return self.failed("connection reset"),
            Fate::Twice => done = self.objects.inner.put_opts(path, payload, opts).await,
            Fate::Done | Fate::NotDone | Fate::Orphaned => {}
        }
        done
    }

    async fn put_multipart_opts(&self, path: &ObjectPath, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.objects.inner.put_multipart_opts(path, opts).await
    }

    async fn get_opts(&self, path: &ObjectPath, options: GetOptions) -> Result<GetResult> {
        let fate = self.fate().await;
        self.process.or_never().await;
        match fate {
            Fate::NotDone | Fate::ReplyLost => self.failed("503 slow down"),
            Fate::Done | Fate::Twice | Fate::Orphaned => self.objects.inner.get_opts(path, options).await,
        }
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<ObjectPath>>) -> BoxStream<'static, Result<ObjectPath>> {
        if self.process.is_dead() {
            return futures::stream::pending().boxed();
        }
        self.objects.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&ObjectPath>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.cloned());
        let listed = async move {
            let fate = store.fate().await;
            store.process.or_never().await;
            if let Fate::NotDone | Fate::ReplyLost = fate {
                return futures::stream::iter(vec![store.failed("503 slow down")]).boxed();
            }
            let all = store.objects.inner.list(prefix.as_ref());
            if !store.weather.strikes(Fault::ListLate) {
                return all;
            }
            let put_at = store.objects.put_at.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let now = store.objects.stopwatch.elapsed();
            let old = move |meta: &ObjectMeta| put_at.get(&meta.location).is_none_or(|at| now.saturating_sub(*at) > LIST_LAG);
            all.try_filter(move |meta| futures::future::ready(old(meta))).boxed()
        };
        futures::stream::once(listed).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&ObjectPath>) -> Result<ListResult> {
        self.objects.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &ObjectPath, to: &ObjectPath, options: CopyOptions) -> Result<()> {
        self.objects.inner.copy_opts(from, to, options).await
    }
}
