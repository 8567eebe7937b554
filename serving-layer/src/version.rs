//! One version of the view: its definition, its boundary, and the batch half behind it.

use std::ops::Range;
use std::sync::{PoisonError, RwLock};

use arrow::array::{Array, AsArray, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::TimestampMicrosecondType;
use chrono::DateTime;
use storage::batch_view::{BLOCK_ROWS, BlockCache, OpenView, States};
use storage::manifest::{Definitions, Manifest, ViewFile};
use storage::store::{Store, StoreError};
use views::{Definition, EventSchema, FoldError, shard_of_key};

use crate::ServingError;
use crate::position::Offsets;
use crate::question::TimeRange;

/// Most rows of the batch view that one answer is made of.
const MAX_ROWS: usize = 1_000_000;

/// What one answer reads throughout. It never changes; the next version is another one.
#[derive(Debug)]
pub(crate) struct Version {
    /// 0 while nothing is published.
    pub(crate) number: i64,
    pub(crate) definition: Definition,
    /// Where the batch half ends.
    pub(crate) boundary: Offsets,
    /// Where the first bucket starts that the view keeps, in either half.
    pub(crate) kept_from: Option<i64>,
    batch: Option<OpenView>,
    /// What was found when its files were read again. It answers nothing while there is something.
    damage: RwLock<Option<String>>,
}

impl Version {
    /// What answers while nothing is published: the built-in view, with every event still in the speed layer.
    pub(crate) fn unpublished(events: &EventSchema) -> Self {
        Self {
            number: 0,
            definition: Definition::user_stats(events),
            boundary: Offsets::new(),
            kept_from: None,
            batch: None,
            damage: RwLock::default(),
        }
    }

    /// Opens and verifies a published version, but for the files that it shares with `before`, which were verified then.
    ///
    /// # Errors
    /// Whatever is not as the manifest says: a file, the stored definition, or the columns of the states.
    pub(crate) async fn open(store: &Store, manifest: Manifest, cache: &BlockCache, before: Option<&Self>) -> Result<Self, ServingError> {
        let refuse = |reason: String| ServingError::VersionRefused { version: manifest.version, reason };
        if manifest.withdrawn {
            return Err(refuse("it says that the view is withdrawn".to_owned()));
        }
        let stored = Definitions::new(store.clone(), manifest.view.clone()).get(&manifest.fingerprint).await?;
        let definition = stored.parse().map_err(|e| refuse(format!("its definition: {e}")))?;
        let kept_from = match manifest.as_of {
            Some(as_of) => definition.kept_from(as_of)?,
            None if definition.has_limit() => return Err(refuse("its definition has a limit, and it does not say as of when".to_owned())),
            None => None,
        };
        let boundary = (0..).zip(manifest.boundary.iter().copied()).collect();
        let number = manifest.version;
        let batch = OpenView::open_after(store, manifest, cache, before.and_then(|before| before.sound_batch().ok().flatten())).await?;
        if let Some(reason) = crate::states::misfit(batch.schema(), &definition) {
            return Err(ServingError::VersionRefused { version: number, reason: format!("its files: {reason}") });
        }
        Ok(Self { number, definition, boundary, kept_from, batch: Some(batch), damage: RwLock::default() })
    }

    /// The log that the boundary counts in; empty while nothing is published.
    pub(crate) fn log_id(&self) -> &str {
        self.manifest().map_or("", |manifest| &manifest.log_id)
    }

    /// The run that computed it; empty while nothing is published.
    pub(crate) fn run_id(&self) -> &str {
        self.manifest().map_or("", |manifest| &manifest.run_id)
    }

    /// Rows of states in the batch half.
    pub(crate) fn rows_in_batch(&self) -> i64 {
        self.manifest().map_or(0, |manifest| manifest.row_count)
    }

    /// When it was computed, in microseconds since 1970, if its manifest says so.
    pub(crate) fn computed_us(&self) -> Option<i64> {
        computed_us(self.manifest()?)
    }

    /// Its files that may have the key.
    pub(crate) fn files_with(&self, key: &str) -> impl Iterator<Item = &ViewFile> {
        let shard = self.batch.as_ref().map(|batch| shard_of_key(key, batch.shards()));
        self.files().iter().filter(move |file| Some(file.shard) == shard)
    }

    /// What its run has said of it; nothing while nothing is published.
    pub(crate) fn manifest(&self) -> Option<&Manifest> {
        self.batch.as_ref().map(OpenView::manifest)
    }

    /// Its files, as the manifest says they are.
    pub(crate) fn files(&self) -> &[ViewFile] {
        self.manifest().map_or(&[], |manifest| &manifest.files)
    }

    /// What is wrong with its files, if anything is.
    pub(crate) fn damage(&self) -> Option<String> {
        self.damage.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says what is wrong with its files now. The answer is whether that is news.
    pub(crate) fn set_damage(&self, damage: Option<String>) -> bool {
        let mut known = self.damage.write().unwrap_or_else(PoisonError::into_inner);
        let news = *known != damage;
        *known = damage;
        news
    }

    /// The batch half of one key: its state rows in `range`.
    ///
    /// # Errors
    /// The store's. A failed read is never an empty one.
    pub(crate) async fn batch_rows(&self, key: &str, range: TimeRange) -> Result<Vec<RecordBatch>, ServingError> {
        let Some(batch) = self.sound_batch()? else { return Ok(Vec::new()) };
        let rows = batch.rows(shard_of_key(key, batch.shards()), key).await?;
        Ok(rows.iter().map(|rows| rows_in(rows, range)).collect::<Result<_, _>>()?)
    }

    /// The batch half of all keys that begin with `prefix`: their state rows in `range`.
    ///
    /// # Errors
    /// The store's; and there are too many of them.
    pub(crate) async fn batch_rows_beginning(&self, prefix: &str, range: TimeRange) -> Result<Vec<RecordBatch>, ServingError> {
        let Some(batch) = self.sound_batch()? else { return Ok(Vec::new()) };
        // Keys with the same first column lie together.
        let shards = if prefix.is_empty() { 0..batch.shards() } else { one(shard_of_key(prefix, batch.shards())) };
        let rows: usize = shards.clone().map(|shard| batch.most_rows_beginning(shard, prefix)).sum();
        // Some of them may lie under others, or beside the prefix in their blocks.
        if rows > MAX_ROWS + MAX_ROWS / 2 + shards.len() * BLOCK_ROWS {
            return Err(ServingError::TooManyRows { rows });
        }
        let (mut found, mut held) = (Vec::new(), 0);
        for shard in shards {
            for rows in batch.rows_beginning(shard, prefix).await? {
                held += rows.num_rows();
                if held > MAX_ROWS {
                    return Err(ServingError::TooManyRows { rows: held });
                }
                found.push(rows_in(&rows, range)?);
            }
        }
        Ok(found)
    }

    /// The batch half of every key, a stream for each shard: state rows in order of key and bucket, past the cache. They hold about
    /// `bytes` of the files at a time.
    ///
    /// # Errors
    /// Here, that it is damaged; in the streams, the store's.
    pub(crate) fn batch_streams(&self, bytes: u64) -> Result<Vec<States<StoreError>>, ServingError> {
        Ok(self.sound_batch()?.map_or_else(Vec::new, |batch| batch.scan_in_pieces(bytes)))
    }

    /// Refuses to go on with files that were found damaged since they were opened.
    ///
    /// # Errors
    /// They were.
    pub(crate) fn check_sound(&self) -> Result<(), ServingError> {
        self.sound_batch().map(|_| ())
    }

    /// The batch half, which no version has before the first.
    ///
    /// # Errors
    /// Its files were found damaged since they were opened.
    fn sound_batch(&self) -> Result<Option<&OpenView>, ServingError> {
        if let Some(reason) = self.damage() {
            return Err(ServingError::VersionDamaged { version: self.number, reason });
        }
        Ok(self.batch.as_ref())
    }
}

/// When a version was computed, in microseconds since 1970, if its manifest says so.
pub(crate) fn computed_us(manifest: &Manifest) -> Option<i64> {
    Some(DateTime::parse_from_rfc3339(&manifest.created_time).ok()?.timestamp_micros())
}

fn one(shard: u32) -> Range<u32> {
    shard..shard + 1
}

/// The rows whose bucket is in `range`.
pub(crate) fn rows_in(rows: &RecordBatch, range: TimeRange) -> Result<RecordBatch, FoldError> {
    if range.is_everything() {
        return Ok(rows.clone());
    }
    let buckets = rows.column(1).as_primitive::<TimestampMicrosecondType>();
    let inside = |row: &usize| buckets.is_valid(*row) && range.holds(buckets.value(*row));
    let kept: UInt32Array = (0..rows.num_rows()).filter(inside).map(|row| row as u32).collect::<Vec<_>>().into();
    Ok(take_record_batch(rows, &kept)?)
}
