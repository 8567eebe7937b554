//! A question becomes an answer: read both halves, merge them per key, finish.
//!
//! *Consistency.* An answer pins one [`Version`] throughout, and asks the speed layer in one call for all its keys. If the speed
//! layer has let go of the version meanwhile, the whole question is asked again of a newer one; halves of two versions
//! never meet.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use futures::{StreamExt, TryStreamExt, stream};
use merganser_proto::trace_span;
use storage::machine::blocking;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::Instrument;
use tracing::field::Empty;
use views::definition::EVENT_COUNT_COLUMN;
use views::{Definition, FoldError, Granularity, fold};

use crate::ServingError;
use crate::earlier::Earlier;
use crate::erasures::{Erased, Known};
use crate::explain::{Effort, timed};
use crate::grouping::{self, Grouping};
use crate::metrics::Metrics;
use crate::position::{Offsets, Shortfall};
use crate::question::{About, Consistency, Question, Resolved};
use crate::speed::{SpeedClient, SpeedStates};
use crate::states::RowsByKey;
use crate::version::Version;
use crate::versions::Versions;

/// How often a question is asked again of a newer version.
const MAX_RELOADS: u32 = 5;
/// The first wait for a newer version that is not there yet; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// Keys of one answer that are read from the batch view at the same time.
const READS_AT_ONCE: usize = 16;

/// Answers questions about one view. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Answers {
    pub(crate) versions: Arc<Versions>,
    pub(crate) earlier: Earlier,
    pub(crate) speed: SpeedClient,
    /// How long a question may wait for the speed layer, all its calls together.
    pub(crate) speed_timeout: Duration,
    pub(crate) erased: Known,
    pub(crate) metrics: Arc<Metrics>,
}

/// An answer, in the columns of the view.
#[derive(Debug)]
pub(crate) struct Answer {
    /// One for each user of the question, in its order; one for all keys that begin as it says.
    pub(crate) parts: Vec<Part>,
    /// The version that was read throughout.
    pub(crate) version: Arc<Version>,
    /// How far the realtime half was read; the boundary if it was not.
    pub(crate) head: Offsets,
    /// Why the answer may lack events, if it may.
    pub(crate) incomplete: Option<String>,
    /// Events below the boundary, each key's once.
    pub(crate) batch_event_count: i64,
    /// Events from the boundary on, each key's once.
    pub(crate) speed_event_count: i64,
    /// Users whose batch half does not count, if it is a view by user.
    pub(crate) erased: Erased,
    /// What was read for it. Slices are there if the question is to be explained.
    pub(crate) effort: Effort,
}

/// Finished rows of a user or of keys.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// The user, or what the keys begin with.
    pub(crate) key: String,
    pub(crate) merged: Finished,
    /// Each half apart, where the question is to be explained.
    pub(crate) halves: Option<Halves>,
    batch_event_count: i64,
    speed_event_count: i64,
}

/// What an answer was merged from.
#[derive(Clone, Debug)]
pub(crate) struct Halves {
    pub(crate) batch: Finished,
    /// Absent if the realtime half was not read.
    pub(crate) speed: Option<Finished>,
}

/// Outputs, in the columns of [`Definition::output_schema`].
#[derive(Clone, Debug)]
pub(crate) struct Finished {
    /// One row a key over the whole range; none if there are no events in it.
    pub(crate) total: RecordBatch,
    /// One row a key and bucket, oldest first, if they were asked for.
    pub(crate) buckets: Option<RecordBatch>,
}

/// What came of asking the speed layer.
enum SpeedHalf {
    NotAsked,
    Missing(String),
    Read(SpeedStates),
}

impl Answers {
    /// Answers, if need be from a newer version than the one that answered when the question came.
    ///
    /// # Errors
    /// What the question got wrong; what could not be read; with [`Consistency::Fresh`], a speed layer that does not answer.
    pub(crate) async fn answer(&self, question: &Question) -> Result<Answer, ServingError> {
        let deadline = Instant::now() + self.speed_timeout;
        if let Some(number) = question.version {
            return Box::pin(self.answer_as_of(number, question, deadline)).await;
        }
        let mut reloads = Reloads::until(deadline);
        loop {
            let (version, resolved) = self.pin(question)?;
            let stale = match self.answer_from(&version, question, &resolved, deadline).await {
                Err(ServingError::Stale { reason }) => reason,
                other => return other,
            };
            if !reloads.wait_for_newer(&self.versions, version.number).await {
                return self.without_speed(version, question, &resolved, stale).await;
            }
        }
    }

    /// Answers from one version and no other.
    async fn answer_as_of(&self, number: i64, question: &Question, deadline: Instant) -> Result<Answer, ServingError> {
        let opening = trace_span!("pin", version = number);
        let version = self.earlier_version(number, deadline).instrument(opening).await?;
        let resolved = resolve(question, &version)?;
        match self.answer_from(&version, question, &resolved, deadline).await {
            Err(ServingError::Stale { reason }) if question.consistency == Consistency::BestEffort => {
                self.without_speed(version, question, &resolved, reason).await
            }
            Err(ServingError::Stale { reason }) => Err(ServingError::VersionRetired { version: number, reason }),
            other => other,
        }
    }

    /// The version of now, and the question in its terms.
    fn pin(&self, question: &Question) -> Result<(Arc<Version>, Resolved), ServingError> {
        let pinning = trace_span!("pin", version = Empty).entered();
        let version = self.versions.current();
        pinning.record("version", version.number);
        let resolved = resolve(question, &version)?;
        Ok((version, resolved))
    }

    /// A version by its number, if it may still be shown.
    pub(crate) async fn earlier_version(&self, number: i64, deadline: Instant) -> Result<Arc<Version>, ServingError> {
        let current = self.versions.current();
        let version = if current.number == number { Arc::clone(&current) } else { self.earlier.version(number, deadline).await? };
        match self.erased.between(&version.boundary, &current.boundary) {
            0 => Ok(version),
            erasures => Err(ServingError::VersionErased { version: number, erasures, from: current.number }),
        }
    }

    async fn answer_from(
        &self,
        version: &Arc<Version>,
        question: &Question,
        resolved: &Resolved,
        deadline: Instant,
    ) -> Result<Answer, ServingError> {
        let reading = trace_span!("read batch view", keys = resolved.keys.len() as i64);
        let asking = trace_span!("ask speed layer", keys = resolved.keys.len() as i64);
        let batch = timed(Box::pin(batch_half(version, resolved)).instrument(reading));
        let speed = timed(Box::pin(self.speed_half(version, question, resolved, deadline)).instrument(asking));
        let ((batch, batch_elapsed), (speed, speed_elapsed)) = tokio::try_join!(batch, speed)?;
        let effort = Effort { speed_elapsed, ..Effort::of_batch(&batch, batch_elapsed) };
        self.assemble(Arc::clone(version), question, resolved, batch, speed, effort).await
    }

    /// The batch half alone, for those who take it.
    async fn without_speed(
        &self,
        version: Arc<Version>,
        question: &Question,
        resolved: &Resolved,
        reason: String,
    ) -> Result<Answer, ServingError> {
        let unavailable = ServingError::SpeedUnavailable { reason };
        if question.consistency != Consistency::BestEffort {
            return Err(unavailable);
        }
        let (batch, elapsed) = timed(Box::pin(batch_half(&version, resolved))).await?;
        let effort = Effort::of_batch(&batch, elapsed);
        self.assemble(version, question, resolved, batch, SpeedHalf::Missing(unavailable.to_string()), effort).await
    }

    async fn speed_half(
        &self,
        version: &Arc<Version>,
        question: &Question,
        resolved: &Resolved,
        deadline: Instant,
    ) -> Result<SpeedHalf, ServingError> {
        if question.consistency == Consistency::BatchOnly {
            return Ok(SpeedHalf::NotAsked);
        }
        let log_id = log_id(version, question);
        match self.speed.states(self.versions.view(), version, log_id, resolved, question.explain, deadline).await {
            Ok(states) => Ok(SpeedHalf::Read(states)),
            Err(e @ ServingError::Stale { .. }) => Err(e),
            Err(e) if question.consistency == Consistency::BestEffort => Ok(SpeedHalf::Missing(e.in_one_line())),
            Err(e) => Err(e),
        }
    }
}

impl Answers {
    async fn assemble(
        &self,
        version: Arc<Version>,
        question: &Question,
        resolved: &Resolved,
        batch: RowsByKey,
        speed: SpeedHalf,
        effort: Effort,
    ) -> Result<Answer, ServingError> {
        let erased = match &speed {
            SpeedHalf::Read(states) => states.erased.clone(),
            SpeedHalf::NotAsked | SpeedHalf::Missing(_) => self.erased.from(&version.boundary),
        };
        let batch = erased.leave_out(&version.definition, batch);
        let has_speed_half = !matches!(speed, SpeedHalf::Missing(_));
        let merging = trace_span!("merge", keys = resolved.keys.len() as i64);
        let answer = assemble(version, question, resolved, batch, speed, effort).instrument(merging).await?;
        if answer.incomplete.is_some() {
            self.metrics.incomplete(has_speed_half);
        }
        Ok(Answer { erased, ..answer })
    }
}

/// How often, and how long, a question waits for a newer version than the one that the speed layer has let go of.
pub(crate) struct Reloads {
    deadline: Instant,
    pause: Duration,
    left: u32,
}

impl Reloads {
    pub(crate) fn until(deadline: Instant) -> Self {
        Self { deadline, pause: FIRST_PAUSE, left: MAX_RELOADS }
    }

    /// Looks for a version after `seen`, and waits a little if there is none. Whether it is worth the while to ask again.
    pub(crate) async fn wait_for_newer(&mut self, versions: &Versions, seen: i64) -> bool {
        if self.left == 0 || Instant::now() + self.pause >= self.deadline {
            return false;
        }
        self.left -= 1;
        // Opening a large version may take longer than a question may wait; the watcher goes on with it.
        let _opened = timeout_at(self.deadline, versions.refresh(seen)).await;
        if versions.current().number == seen {
            sleep(self.pause).await;
            self.pause *= 2;
        }
        true
    }
}

/// The log that the speed layer is to answer from. Where nothing is published none is known here; it can tell whether the position of the
/// question is in its own.
pub(crate) fn log_id<'a>(version: &'a Version, question: &'a Question) -> &'a str {
    match (version.log_id(), &question.min_position) {
        ("", Some(position)) => &position.log_id,
        (log_id, _) => log_id,
    }
}

/// Refuses what can be refused before anything is read.
pub(crate) fn resolve(question: &Question, version: &Version) -> Result<Resolved, ServingError> {
    let resolved = question.resolve(&version.definition, version.kept_from)?;
    match &question.min_position {
        Some(position) if !version.log_id().is_empty() && position.log_id != version.log_id() => {
            let (asked, kept) = (position.log_id.clone(), version.log_id().to_owned());
            Err(ServingError::OtherLog { asked, kept, version: version.number })
        }
        _ => Ok(resolved),
    }
}

async fn batch_half(version: &Version, resolved: &Resolved) -> Result<RowsByKey, ServingError> {
    let reads = resolved.keys.iter().map(|key| async move {
        let rows = match resolved.begin {
            true => version.batch_rows_beginning(key, resolved.read).await?,
            false => version.batch_rows(key, resolved.read).await?,
        };
        Ok((key.clone(), rows))
    });
    stream::iter(reads.collect::<Vec<_>>()).buffer_unordered(READS_AT_ONCE).try_collect().await
}

async fn assemble(
    version: Arc<Version>,
    question: &Question,
    resolved: &Resolved,
    batch: RowsByKey,
    speed: SpeedHalf,
    mut effort: Effort,
) -> Result<Answer, ServingError> {
    let incomplete = match &speed {
        SpeedHalf::Missing(reason) => Some(reason.clone()),
        SpeedHalf::NotAsked => shortcoming(&version, question, None)?,
        SpeedHalf::Read(states) => shortcoming(&version, question, Some(&states.head))?,
    };
    let (speed_rows, head) = match speed {
        SpeedHalf::Read(states) => {
            effort.slices = states.slices.iter().map(|slice| slice.contribution(&version.definition)).collect();
            (Some(states.rows), states.head)
        }
        SpeedHalf::NotAsked | SpeedHalf::Missing(_) => (None, version.boundary.clone()),
    };
    let mut by_key = HashMap::new();
    let (mut batch_event_count, mut speed_event_count) = (0, 0);
    for key in &resolved.keys {
        let rows_of = |half: &RowsByKey| half.get(key).cloned().unwrap_or_default();
        let halves = (rows_of(&batch), speed_rows.as_ref().map(rows_of));
        let part = if resolved.begin || question.grouping.reach_us() > 0 {
            // There may be many keys, or many windows.
            let (version, question, resolved, key) = (Arc::clone(&version), question.clone(), resolved.clone(), key.clone());
            blocking(move || merge(&key, &version.definition, &question, &resolved, halves)).await?
        } else {
            merge(key, &version.definition, question, resolved, halves)?
        };
        batch_event_count += part.batch_event_count;
        speed_event_count += part.speed_event_count;
        by_key.insert(key, part);
        // A thousand users are a tenth of a second of merging: let others in between.
        tokio::task::yield_now().await;
    }
    let parts = match &question.about {
        About::Users(users) => users.iter().map(|user| by_key[user].clone()).collect(),
        About::Beginning { .. } => by_key.into_values().collect(),
    };
    Ok(Answer { parts, version, head, incomplete, batch_event_count, speed_event_count, erased: Erased::default(), effort })
}

/// Why an answer that reads the speed layer up to `head`, or does not ask it, may lack events, if it may.
///
/// # Errors
/// The position that was asked for is not reached, where that is not for the answer to say.
pub(crate) fn shortcoming(version: &Version, question: &Question, head: Option<&Offsets>) -> Result<Option<String>, ServingError> {
    let beyond = |reached: &Offsets| question.min_position.as_ref().and_then(|position| position.beyond(reached));
    match (head, beyond(head.unwrap_or(&version.boundary))) {
        (_, None) => Ok(None),
        (None, Some(Shortfall { partition, offset, reached: boundary })) => {
            Err(ServingError::NotCovered { partition, offset, boundary, version: version.number })
        }
        (Some(_), Some(Shortfall { partition, offset, reached: head })) => {
            let behind = ServingError::Behind { partition, offset, head };
            if question.consistency == Consistency::BestEffort { Ok(Some(behind.to_string())) } else { Err(behind) }
        }
    }
}

/// The one place where the halves meet.
fn merge(
    key: &str,
    definition: &Definition,
    question: &Question,
    resolved: &Resolved,
    (batch_rows, speed_rows): (Vec<RecordBatch>, Option<Vec<RecordBatch>>),
) -> Result<Part, ServingError> {
    let finish = |rows: &[RecordBatch]| finish(definition, rows, question.grouping, resolved);
    let count = |rows: &[RecordBatch]| rows.iter().map(|rows| fold::event_count(definition, rows)).sum();
    let halves = match question.explain {
        true => Some(Halves { batch: finish(&batch_rows)?, speed: speed_rows.as_deref().map(finish).transpose()? }),
        false => None,
    };
    let batch_event_count = count(&batch_rows);
    let speed_event_count = speed_rows.as_deref().map_or(0, count);
    let both = [batch_rows, speed_rows.unwrap_or_default()].concat();
    Ok(Part { key: key.to_owned(), merged: finish(&both)?, halves, batch_event_count, speed_event_count })
}

fn finish(definition: &Definition, rows: &[RecordBatch], grouping: Grouping, resolved: &Resolved) -> Result<Finished, ServingError> {
    let fold = if resolved.begin { of_any_keys } else { fold::finish_key };
    let total = fold(definition, rows, Granularity::Total)?;
    let buckets = grouping::moved(definition, rows, grouping)?.map(|moved| fold(definition, &moved, Granularity::Bucket)).transpose()?;
    // The rows before the range are there for the windows inside.
    let from = resolved.range.start_us.filter(|_| grouping.reach_us() > 0);
    let buckets = buckets.map(|rows| fold::from_bucket(&rows, from)).transpose()?;
    Ok(Finished { total, buckets })
}

fn of_any_keys(definition: &Definition, rows: &[RecordBatch], granularity: Granularity) -> Result<RecordBatch, FoldError> {
    fold::finish(definition, rows, granularity)
}

/// How many events are in the rows of `outputs`.
pub(crate) fn event_count(outputs: &RecordBatch) -> i64 {
    let counts = outputs.column_by_name(EVENT_COUNT_COLUMN).expect("every batch of outputs counts its events");
    counts.as_primitive::<Int64Type>().iter().flatten().sum()
}
