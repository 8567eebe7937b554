//! What came before the events that a run reads, if it does not read all: the index of identities, brought up to the boundary.
//!
//! What an erasure hides has no identity. A file of the index leaves out what is hidden by the erasures below its end, and knows nothing
//! of later ones: where a hidden identity is found in it, the files are asked that lie above or around the erasure.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use futures::{StreamExt, TryStreamExt, stream};
use storage::batch_view::{BlockCache, States};
use storage::erasures::Erasures;
use storage::identities::{self, First, Identities, IdentitiesFile, IdentitiesMeta};
use storage::master;
use storage::paths::{IdentitiesPath, ImportIdentitiesPath};
use storage::store::{Store, StoreError};
use tokio::sync::OnceCell;
use tracing::info;
use views::key;
use views::schema::{CONTENT_HASH, OFFSET};

use crate::error::RunError;
use crate::hidden::Hidden;
use crate::piece::{Master, Piece, of_imports};
use crate::progress::{Silent, Stage};
use crate::run::on_blocking_thread;
use crate::sort::{SortBounds, Sorted};
use crate::source::{EventColumns, Source, column};

/// A file is taken into the one above it unless it covers more than so many times its offsets.
const CARRY: i64 = 4;
/// Decoded blocks of the index that are kept, bytes: the events come in the order of its keys.
const CACHE_BYTES: u64 = 32 << 20;

/// Everything that the index is made from.
#[derive(Clone)]
pub(crate) struct Index {
    pub(crate) store: Store,
    pub(crate) columns: Arc<EventColumns>,
    pub(crate) master: Master,
    pub(crate) bounds: SortBounds,
}

impl Index {
    /// Brings the index of every partition up to `boundary` and opens it. The first time that reads the ids of all events; from then
    /// on, of those that came since.
    pub(crate) async fn open(&self, boundary: &[i64], threads: usize) -> Result<Vec<Arc<Earlier>>, RunError> {
        let files: Arc<[IdentitiesMeta]> = identities::list(&self.store).await?.into();
        let open = |(partition, end): (u32, i64)| {
            let (index, files) = (self.clone(), Arc::clone(&files));
            on_blocking_thread(async move { index.open_partition(&files, partition, end).await.map(Arc::new) })
        };
        let boundary: Vec<_> = (0..).zip(boundary.iter().copied()).collect();
        stream::iter(boundary).map(open).buffered(threads).try_collect().await
    }

    async fn open_partition(&self, files: &[IdentitiesMeta], partition: u32, end: i64) -> Result<Earlier, RunError> {
        let mut chain = identities::chain(files, partition);
        let edge = chain.last().map_or(0, |last| last.path.end);
        if edge < end {
            let mut start = edge;
            let mut stay = chain.len();
            while stay > 0 && chain[stay - 1].path.end - chain[stay - 1].path.start <= CARRY * (end - start) {
                stay -= 1;
                start = chain[stay].path.start;
            }
            let path = IdentitiesPath { partition, start, end };
            let mut taken_in = chain.split_off(stay);
            let mut from = edge;
            let oldest_end = taken_in.first().map_or(edge, |file| file.path.end);
            if self.master.erasures.iter().any(|erasure| erasure.partition == partition && erasure.offset >= oldest_end) {
                // They have identities that are hidden from where one of them ends.
                taken_in.clear();
                from = start;
            }
            let new = master::chain(&self.master.segments, partition, from..end)?.into_iter().map(Piece::Segment).collect();
            let firsts = self.firsts(partition, new, &self.master.erasures)?;
            let written = Box::pin(identities::write(&self.store, &path, &taken_in, firsts)).await?;
            info!(partition, from, to = end, files = chain.len() + 1, "brought the index of identities up to the boundary");
            chain.push(written);
        }
        let imports = self.imports(partition).await?;
        let cache = BlockCache::new(CACHE_BYTES);
        let all = Identities::open(&self.store, &chain, imports.as_ref(), &cache).await?;
        let later = chain.iter().map(|_| OnceCell::new()).collect();
        Ok(Earlier { store: self.store.clone(), erasures: Arc::clone(&self.master.erasures), cache, all, chain, later })
    }

    /// The file of the imports' part of a partition, which is written if it is not there.
    async fn imports(&self, partition: u32) -> Result<Option<IdentitiesFile>, RunError> {
        let pieces: Vec<_> = of_imports(&self.master.imports, partition).collect();
        let numbers: Vec<i64> = self.master.imports.iter().map(|import| import.import).collect();
        let path = ImportIdentitiesPath::of(partition, &numbers);
        match identities::of_imports(&self.store, &path).await? {
            _ if pieces.is_empty() => Ok(None),
            Some(there) => Ok(Some(there)),
            None => Ok(Some(
                Box::pin(identities::write_imports(&self.store, &path, self.firsts(partition, pieces, &Erasures::default())?)).await?,
            )),
        }
    }

    /// The identities of those events that `erasures` do not hide, in order, each once.
    fn firsts(&self, partition: u32, pieces: Vec<Piece>, erasures: &Erasures) -> Result<States<RunError>, RunError> {
        let (columns, hidden) = (Arc::clone(&self.columns), Hidden::by(erasures));
        let source = Source { store: self.store.clone(), columns, partition, last: None, pieces, hidden, progress: Arc::new(Silent) };
        let sorted = Sorted::events(&source, &self.bounds)?;
        let next = |(mut sorted, mut last): (Sorted, String)| async move {
            let Some(rows) = sorted.next().await? else { return Ok(None) };
            let firsts = first_of_each(&rows, &mut last);
            Ok(Some((firsts, (sorted, last))))
        };
        Ok(stream::try_unfold((sorted, String::new()), next).boxed())
    }
}

/// What came before, of one partition.
#[derive(Debug)]
pub(crate) struct Earlier {
    store: Store,
    /// Those below the boundary.
    erasures: Arc<Erasures>,
    cache: BlockCache,
    all: Identities,
    chain: Vec<IdentitiesMeta>,
    /// From each file of the chain on, without imports; opened when they are asked.
    later: Vec<OnceCell<Identities>>,
}

impl Earlier {
    /// The first event of an identity that is not hidden; `None` if there is none.
    ///
    /// # Errors
    /// A file of the index cannot be read.
    pub(crate) async fn first(&self, user_id: &str, event_id: &str) -> Result<Option<First>, StoreError> {
        let identity = key::encode([Some(user_id), Some(event_id)]);
        let found = self.all.first(&identity).await?;
        let Some(erased) = self.erasures.of_user(user_id).filter(|erased| found.is_some_and(|first| first.offset < *erased)) else {
            return Ok(found);
        };
        // Files that end above the erasure leave out what it hides; imports lie below all of them.
        let Some(from) = self.chain.iter().position(|file| file.path.end > erased) else { return Ok(None) };
        let later = self.later[from].get_or_try_init(|| Identities::open(&self.store, &self.chain[from..], None, &self.cache));
        later.await?.first(&identity).await
    }
}

/// The rows of sorted events whose identity is not that of the row before, as the index has them.
fn first_of_each(rows: &RecordBatch, last: &mut String) -> RecordBatch {
    let users = column::<StringArray>(rows, "user_id");
    let events = column::<StringArray>(rows, "event_id");
    let (offsets, hashes) = (column::<Int64Array>(rows, OFFSET), column::<Int64Array>(rows, CONTENT_HASH));
    let mut firsts: (Vec<String>, Vec<i64>, Vec<i64>) = Default::default();
    for row in 0..rows.num_rows() {
        let identity = key::encode([Some(users.value(row)), Some(events.value(row))]);
        if identity != *last {
            last.clone_from(&identity);
            firsts.0.push(identity);
            firsts.1.push(offsets.value(row));
            firsts.2.push(hashes.value(row));
        }
    }
    let (identities, offsets, hashes) = firsts;
    let buckets = TimestampMicrosecondArray::new_null(identities.len()).with_timezone("+00:00");
    let columns: Vec<arrow::array::ArrayRef> = vec![
        Arc::new(StringArray::from(identities)),
        Arc::new(buckets),
        Arc::new(Int64Array::from(offsets)),
        Arc::new(Int64Array::from(hashes)),
    ];
    RecordBatch::try_new(identities::schema(), columns).expect("the columns are those of the index")
}

/// The identities that events of one partition have in the master dataset, by their offsets: what the index is checked against.
pub(crate) async fn identities_at(
    of: &Source,
    master: &Master,
    offsets: &BTreeSet<i64>,
) -> Result<HashMap<i64, (String, String)>, StoreError> {
    let mut found = HashMap::new();
    let segments = master.segments.iter().filter(|segment| segment.path.partition == of.partition).cloned();
    let pieces = of_imports(&master.imports, of.partition).chain(segments.map(Piece::Segment));
    for piece in pieces.filter(|piece| offsets.range(piece.range()).next().is_some()) {
        let source = Source { pieces: vec![piece], progress: Arc::new(Silent), ..of.clone() };
        let mut batches = source.batches(Stage::Audit);
        while let Some(batch) = batches.try_next().await? {
            let places = column::<Int64Array>(&batch, OFFSET);
            let text = |name, row| column::<StringArray>(&batch, name).value(row).to_owned();
            let wanted = (0..batch.num_rows()).filter(|row| offsets.contains(&places.value(*row)));
            found.extend(wanted.map(|row| (places.value(row), (text("user_id", row), text("event_id", row)))));
        }
    }
    Ok(found)
}
