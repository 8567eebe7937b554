//! Questions from the other layers: states of keys from a boundary on, a cut, and readiness for a version.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use storage::erasures::Erasure;
use storage::machine::blocking;
use storage::manifest::{Definitions, Manifest, Manifests};
use storage::paths::ViewName;
use storage::store::Store;
use tokio::sync::{Mutex, Notify, watch};
use tracing::info;
use views::event::check_user_id;
use views::key::first_part;
use views::{Definition, EventSchema, fold, shard_of, shard_of_key, wire};

use crate::archive::Archive;
use crate::check::{check_boundary, check_record};
use crate::error::SpeedError;
use crate::ingest::note_log_failed;
use crate::partition::{Partition, check_widths, fold_log};
use crate::slices::{Erased, Ordered, Slice};

/// Versions of each view that can be answered from.
const KEPT_VERSIONS: usize = 2;
/// Rows of one message of an export.
const EXPORT_ROWS: usize = 8192;

/// A definition and the boundary from which its slices are kept.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) view: ViewName,
    pub(crate) version: i64,
    pub(crate) definition: Arc<Definition>,
    /// One entry a partition.
    pub(crate) boundary: Vec<i64>,
    /// Fingerprints of the records below the boundary; see [`Manifest::boundary_records`].
    pub(crate) boundary_records: Vec<String>,
}

/// The states of some keys, from one moment of each partition.
pub(crate) struct States {
    /// Wire bytes.
    pub(crate) states: Vec<u8>,
    /// Of every partition.
    pub(crate) heads: Vec<i64>,
    /// Every slice of the partitions that may have the keys, in the order of the rows.
    pub(crate) slices: Vec<SliceRows>,
    /// Users of the keys whose batch half does not count.
    pub(crate) erased: Vec<ErasedUser>,
}

/// The states of every key, as they are at one moment of each partition.
pub(crate) struct Pinned {
    pub(crate) states: Ordered,
    /// Of every partition.
    pub(crate) heads: Vec<i64>,
    /// Users whose batch half does not count.
    pub(crate) erased: Vec<ErasedUser>,
}

/// Everything folded in a range of one partition.
pub(crate) struct Export {
    /// Wire bytes, a few messages.
    pub(crate) parts: Vec<Vec<u8>>,
    /// Who was erased from the start of the range on.
    pub(crate) erased: Vec<ErasedUser>,
}

/// A user and the newest erasure.
pub(crate) struct ErasedUser {
    pub(crate) partition: usize,
    pub(crate) user_id: String,
    pub(crate) offset: i64,
}

/// How many of the rows come from one slice.
pub(crate) struct SliceRows {
    pub(crate) partition: usize,
    pub(crate) offsets: Range<i64>,
    pub(crate) rows: usize,
}

pub(crate) struct Realtime {
    pub(crate) log_id: Arc<str>,
    pub(crate) store: Store,
    pub(crate) schema: Arc<EventSchema>,
    pub(crate) partitions: Arc<[Partition]>,
    pub(crate) archive: Arc<Archive>,
    /// The versions whose boundaries can be answered from, a view's oldest first: its two newest that are prepared. One at a time
    /// changes it.
    pub(crate) kept: Mutex<Vec<Kept>>,
    /// A version was prepared.
    pub(crate) prepared: Notify,
    /// True once a log takes nothing any more.
    pub(crate) log_failed: Arc<watch::Sender<bool>>,
}

impl Realtime {
    /// The states of `keys`, or of all keys that begin so, from `boundary` on; each partition is read once.
    pub(crate) fn states(
        &self,
        fingerprint: &str,
        log_id: &str,
        boundary: &BTreeMap<usize, i64>,
        keys: &[String],
        begin: bool,
    ) -> Result<States, SpeedError> {
        self.check_boundary(log_id, boundary)?;
        let keys: BTreeSet<&str> = keys.iter().map(String::as_str).collect();
        let partitions = self.partitions.len() as u32;
        let mut heads = Vec::with_capacity(self.partitions.len());
        let (mut found, mut slices, mut erased) = (Vec::new(), Vec::new(), Vec::new());
        for partition in self.partitions.iter() {
            let start = boundary.get(&partition.number).copied().unwrap_or(0);
            let Runs { head, definition, slices: held, erased: erased_here } = partition.runs(fingerprint, start, None)?;
            heads.push(head);
            let everywhere = !definition.is_by_user() || (begin && keys.contains(""));
            let may_have = |key: &&&str| everywhere || shard_of_key(key, partitions) as usize == partition.number;
            let keys: Vec<&str> = keys.iter().filter(may_have).copied().collect();
            if keys.is_empty() {
                continue;
            }
            erased.extend(erased_of(&erased_here, &keys, begin, start).map(|(user_id, offset)| partition.erased(user_id, offset)));
            for (i, slice) in held.iter().enumerate() {
                let before = found.len();
                for key in &keys {
                    found.extend(slice.runs.iter().map(|run| run.rows_of(key, begin)).filter(|rows| rows.num_rows() > 0));
                }
                let rows = found[before..].iter().map(RecordBatch::num_rows).sum();
                let end = held.get(i + 1).map_or(head, |next| next.start);
                slices.push(SliceRows { partition: partition.number, offsets: slice.start..end, rows });
            }
        }
        let states = match found.first() {
            None => Vec::new(),
            Some(first) => concat_batches(&first.schema(), &found)
                .and_then(|all| wire::encode(&[all]))
                .map_err(views::FoldError::from)
                .map_err(|e| SpeedError::fold(&e, fingerprint, 0, 0))?,
        };
        Ok(States { states, heads, slices, erased })
    }

    /// The states of every key from `boundary` on. Each partition is looked at once, here: what is read of them later is what there is now.
    pub(crate) fn pin(&self, fingerprint: &str, log_id: &str, boundary: &BTreeMap<usize, i64>) -> Result<Pinned, SpeedError> {
        self.check_boundary(log_id, boundary)?;
        let (mut heads, mut runs, mut erased, mut definition) = (Vec::new(), Vec::new(), Vec::new(), None);
        for partition in self.partitions.iter() {
            let start = boundary.get(&partition.number).copied().unwrap_or(0);
            let found = partition.runs(fingerprint, start, None)?;
            heads.push(found.head);
            runs.extend(found.slices.into_iter().flat_map(|slice| slice.runs));
            let since = found.erased.iter().filter(|(_, offset)| **offset >= start);
            erased.extend(since.map(|(user_id, offset)| partition.erased(user_id, *offset)));
            definition.get_or_insert(found.definition);
        }
        let definition = definition.expect("a log has a partition");
        Ok(Pinned { states: Ordered::new(definition, runs), heads, erased })
    }

    /// Everything folded in `range` of one partition, merged, but for what is erased.
    pub(crate) fn export(&self, fingerprint: &str, log_id: &str, number: usize, range: Range<i64>) -> Result<Export, SpeedError> {
        self.check_log(log_id)?;
        let partition = self.partitions.get(number).ok_or_else(|| SpeedError::BadRequest(format!("there is no partition {number}")))?;
        if range.is_empty() {
            return Err(SpeedError::BadRequest(format!("the range [{}, {}) is empty", range.start, range.end)));
        }
        let Runs { definition, slices, erased, .. } = partition.runs(fingerprint, range.start, Some(range.end))?;
        let fail = |e: views::FoldError| SpeedError::fold(&e, fingerprint, number as i32, range.start);
        let merged = fold::merge(&definition, slices.iter().flat_map(|slice| &slice.runs).map(|run| run.states())).map_err(fail)?;
        let part = |start: usize| merged.slice(start, EXPORT_ROWS.min(merged.num_rows() - start));
        let parts = (0..merged.num_rows()).step_by(EXPORT_ROWS).map(|start| wire::encode(&[part(start)]));
        let parts = parts.collect::<Result<_, _>>().map_err(|e| fail(e.into()))?;
        let since = erased.iter().filter(|(_, offset)| **offset >= range.start);
        Ok(Export { parts, erased: since.map(|(user_id, offset)| partition.erased(user_id, *offset)).collect() })
    }

    /// Whether a user can be erased here at all. It waits for the store, so it comes before anything is done: a caller who gives up while
    /// it waits, and asks again, must not have the user erased once more long after the second answer.
    pub(crate) async fn check_erasable(&self, user_id: &str) -> Result<(), SpeedError> {
        check_user_id(user_id).map_err(|refusal| SpeedError::BadRequest(format!("{} {}", refusal.field, refusal.reason)))?;
        // Whoever must not archive any more has a log that nobody goes on with.
        self.archive.check_epoch().await
    }

    /// Erases a user. When this returns, the erasure is durable in the log and in the store, and shown.
    pub(crate) async fn erase(&self, user_id: String) -> Result<Erasure, SpeedError> {
        let partition = &self.partitions[shard_of(&user_id, self.partitions.len() as u32) as usize];
        let erasure = partition.erase(user_id).await.inspect_err(|e| note_log_failed(&self.log_failed, e))?;
        // Whatever becomes of the put, and of whoever waits for it.
        self.archive.owe([erasure.clone()]);
        self.archive.put_erasure(&erasure).await?;
        Ok(erasure)
    }

    fn check_boundary(&self, log_id: &str, boundary: &BTreeMap<usize, i64>) -> Result<(), SpeedError> {
        self.check_log(log_id)?;
        match boundary.keys().find(|p| **p >= self.partitions.len()) {
            Some(unknown) => Err(SpeedError::BadRequest(format!("there is no partition {unknown}; the log has {}", self.partitions.len()))),
            None => Ok(()),
        }
    }

    fn check_log(&self, asked: &str) -> Result<(), SpeedError> {
        if !asked.is_empty() && asked != &*self.log_id {
            return Err(SpeedError::WrongLog { here: self.log_id.to_string(), asked: asked.to_owned() });
        }
        Ok(())
    }

    /// Closes every active segment and archives all below. The offsets are the new edges.
    pub(crate) async fn cut(&self) -> Result<Vec<i64>, SpeedError> {
        let mut boundary = Vec::with_capacity(self.partitions.len());
        for partition in self.partitions.iter() {
            boundary.push(partition.roll(std::time::Duration::ZERO).await?);
        }
        for (partition, edge) in self.partitions.iter().zip(&boundary) {
            self.archive.archive_up_to(partition, *edge).await?;
        }
        Ok(boundary)
    }

    /// Makes sure that a version's definition can be answered from its boundary, folding the log under it if need be, then
    /// lets go of what no kept version needs.
    pub(crate) async fn prepare(&self, view: &ViewName, version: i64) -> Result<(), SpeedError> {
        let mut kept = self.kept.lock().await;
        if kept.iter().any(|k| k.view == *view && k.version == version) {
            return Ok(());
        }
        if kept.iter().any(|k| k.view == *view && k.version > version) {
            return Err(SpeedError::BadRequest(format!("version {version} of {view} is older than the versions kept here")));
        }
        let manifest = self.manifest(view, version).await?;
        if manifest.withdrawn {
            if kept.iter().any(|k| k.view == *view) {
                info!(%view, version, "the view is withdrawn");
                kept.retain(|k| k.view != *view);
                self.partitions.iter().for_each(|partition| partition.retire(&kept));
                self.prepared.notify_one();
            }
            return Ok(());
        }
        let next = self.kept_from(view, &manifest).await?;
        if let Err(e) = self.prepare_partitions(&next, &kept).await {
            // What some partitions have folded for it would refuse events on which it fails.
            self.partitions.iter().for_each(|partition| partition.retire(&kept));
            return Err(e);
        }
        info!(%view, version, fingerprint = next.definition.fingerprint(), boundary = ?next.boundary, "prepared version");
        kept.push(next);
        let mut surplus = kept.iter().filter(|k| k.view == *view).count().saturating_sub(KEPT_VERSIONS);
        kept.retain(|k| {
            let goes = k.view == *view && surplus > 0;
            surplus -= usize::from(goes);
            !goes
        });
        self.partitions.iter().for_each(|partition| partition.retire(&kept));
        self.prepared.notify_one();
        Ok(())
    }

    /// Whether the log still reaches back to the boundary of a version, and has nothing that the version would take for null because
    /// an attribute was widened since.
    pub(crate) async fn check_version(&self, view: &ViewName, version: i64) -> Result<(), SpeedError> {
        let version = self.kept_from(view, &self.manifest(view, version).await?).await?;
        if version.definition.otherwise_typed(&self.schema).is_empty() {
            return Ok(());
        }
        for partition in self.partitions.iter() {
            let (log, schema, number) = (partition.log.clone(), Arc::clone(&self.schema), partition.number);
            let (definition, range) = (Arc::clone(&version.definition), version.boundary[number]..log.head());
            blocking(move || check_widths(&log, &definition, &schema, number as i32, range)).await?;
        }
        Ok(())
    }

    async fn manifest(&self, view: &ViewName, version: i64) -> Result<Manifest, SpeedError> {
        Ok(Manifests::new(self.store.clone(), view.clone()).read(version).await?)
    }

    /// A version whose boundary the log still reaches back to.
    async fn kept_from(&self, view: &ViewName, manifest: &Manifest) -> Result<Kept, SpeedError> {
        let next = load_kept(&self.store, view, manifest, &self.log_id, &self.schema).await?;
        check_boundary(&next, self.partitions.iter().map(|partition| &partition.log))?;
        Ok(next)
    }

    async fn prepare_partitions(&self, next: &Kept, kept: &[Kept]) -> Result<(), SpeedError> {
        for partition in self.partitions.iter() {
            let (version, log, number) = (next.clone(), partition.log.clone(), partition.number);
            blocking(move || check_record(&version, &log, number)).await?;
            self.prepare_partition(partition, next, kept).await?;
        }
        Ok(())
    }

    async fn prepare_partition(&self, partition: &Partition, next: &Kept, kept: &[Kept]) -> Result<(), SpeedError> {
        let fingerprint = next.definition.fingerprint();
        if partition.runs(fingerprint, next.boundary[partition.number], None).is_ok() {
            return Ok(());
        }
        // What is folded now takes the place of what is there, so it must reach as far back.
        let same = kept.iter().filter(|k| k.definition.fingerprint() == fingerprint).chain([next]);
        let start = same.map(|k| k.boundary[partition.number]).min().expect("`next` is one of them");
        let (log, definition, number) = (partition.log.clone(), Arc::clone(&next.definition), partition.number);
        let folded_to = log.head();
        let schema = Arc::clone(&self.schema);
        let fold = move || fold_log(&log, &definition, &schema, number as i32, start..folded_to);
        let slices = blocking(fold).await?;
        partition.install(slices, folded_to).await
    }
}

/// A manifest's definition as this version of the code reads it.
pub(crate) async fn load_kept(
    store: &Store,
    view: &ViewName,
    manifest: &Manifest,
    log_id: &str,
    here: &EventSchema,
) -> Result<Kept, SpeedError> {
    if !manifest.log_id.is_empty() && manifest.log_id != log_id {
        return Err(SpeedError::OtherLog {
            view: view.as_str().to_owned(),
            version: manifest.version,
            stored: manifest.log_id.clone(),
            here: log_id.to_owned(),
        });
    }
    let file = Definitions::new(store.clone(), view.clone()).get(&manifest.fingerprint).await?;
    let definition = file.parse().map_err(|source| SpeedError::Definition { fingerprint: file.fingerprint.clone(), source })?;
    check_types(&definition, here, view, manifest.version)?;
    Ok(Kept {
        view: view.clone(),
        version: manifest.version,
        definition: Arc::new(definition),
        boundary: manifest.boundary.clone(),
        boundary_records: manifest.boundary_records.clone(),
    })
}

/// The types of what a version reads are those of the configuration, or widen to them: rows are checked against the one and folded by
/// the other. A row that only the wider type takes is refused as long as the version is kept.
fn check_types(definition: &Definition, here: &EventSchema, view: &ViewName, version: i64) -> Result<(), SpeedError> {
    let stored = definition.schema();
    let used = definition.event_columns();
    let refuse = |column: &str, stored: String, here: String| {
        Err(SpeedError::ColumnType { view: view.to_string(), version, column: column.to_owned(), stored, here })
    };
    if stored.amount != here.amount {
        return refuse("amount", stored.amount.into(), here.amount.into());
    }
    for (name, kind) in stored.attributes.iter().filter(|(name, _)| used.contains(name)) {
        match here.attributes.get(name) {
            Some(wider) if kind.widens_to(*wider) => {}
            Some(other) => return refuse(&format!("attributes.{name}"), (*kind).into(), (*other).into()),
            None => return refuse(&format!("attributes.{name}"), (*kind).into(), "not declared".to_owned()),
        }
    }
    Ok(())
}

/// A view in a range of slices of one partition, from one moment.
struct Runs {
    head: i64,
    definition: Arc<Definition>,
    slices: Vec<Slice>,
    /// Some erasures may lie below the range.
    erased: Arc<Erased>,
}

/// Those users of the keys who were erased from `start` on.
fn erased_of<'a>(erased: &'a Erased, keys: &[&str], begin: bool, start: i64) -> impl Iterator<Item = (&'a str, i64)> {
    let all = begin && keys.contains(&"");
    let named: BTreeSet<&str> = keys.iter().filter(|_| !erased.is_empty()).map(|key| first_part(key)).collect();
    let meant = move |user_id: &str| all || named.contains(user_id);
    erased.iter().map(|(user_id, offset)| (user_id.as_str(), *offset)).filter(move |(user_id, offset)| *offset >= start && meant(user_id))
}

impl Partition {
    /// What there is of a view in a range of slices.
    fn runs(&self, fingerprint: &str, start: i64, end: Option<i64>) -> Result<Runs, SpeedError> {
        let visible = self.visible.read().expect("no writer panics while it holds the lock");
        let slices = visible.views.get(fingerprint).ok_or_else(|| SpeedError::UnknownDefinition(fingerprint.to_owned()))?;
        let slices_between =
            slices.between(start, end).map_err(|e| SpeedError::BoundaryRetired { partition: self.number, offset: e.offset })?;
        let (definition, erased) = (Arc::clone(slices.definition()), Arc::clone(slices.erased()));
        Ok(Runs { head: visible.head, definition, slices: slices_between, erased })
    }

    fn erased(&self, user_id: &str, offset: i64) -> ErasedUser {
        ErasedUser { partition: self.number, user_id: user_id.to_owned(), offset }
    }

    /// Drops views and slices that no kept version needs.
    pub(crate) fn retire(&self, kept: &[Kept]) {
        let mut visible = self.visible.write().expect("no reader panics while it holds the lock");
        visible.views.retain(|fingerprint, slices| {
            let needed = kept.iter().filter(|k| k.definition.fingerprint() == fingerprint).map(|k| k.boundary[self.number]).min();
            needed.inspect(|lowest| slices.retire_below(*lowest)).is_some()
        });
    }
}
