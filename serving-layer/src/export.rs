//! Every row of a view, for whoever takes them elsewhere: both halves read side by side in order of key, merged and finished some keys
//! at a time.
//!
//! *Consistency.* As an answer does, an export pins one version, and each partition's head at its first read, which is before the first row. It goes
//! on with these however many versions are published meanwhile; the speed layer keeps what it has pinned. Once it has begun there is
//! no other version to ask again of: what cannot be read is an error, and the rows before it are worth nothing.
//!
//! *Memory.* A piece of each file, a message of the speed layer, and all states of the keys that are being merged: a key is never cut.

use std::sync::Arc;

use arrow::array::RecordBatch;
use futures::{StreamExt, TryStreamExt};
use merganser_proto::trace_span;
use storage::batch_view::{States, Windows};
use storage::machine::blocking;
use storage::store::StoreError;
use tokio::time::Instant;
use tracing::Instrument;
use views::{Definition, Granularity, fold};

use crate::ServingError;
use crate::answer::{Answers, Reloads, log_id, resolve, shortcoming};
use crate::erasures::Erased;
use crate::grouping::{self, Grouping};
use crate::position::Offsets;
use crate::question::{Consistency, Question, TimeRange};
use crate::speed::{About, SpeedStream};
use crate::version::{Version, rows_in};

/// What an export holds of the files of its version at a time, all together, unless a block of each is more.
const READ_BYTES: u64 = 32 << 20;

/// An export under way.
pub(crate) struct Export {
    /// The version that is read throughout.
    pub(crate) version: Arc<Version>,
    /// How far the realtime half is read; the boundary if it is not.
    pub(crate) head: Offsets,
    /// Why the rows may lack events, if they may.
    pub(crate) incomplete: Option<String>,
    /// Events of the rows so far that came from the batch view.
    pub(crate) batch_event_count: i64,
    /// Events of the rows so far that came from the realtime view.
    pub(crate) speed_event_count: i64,
    grouping: Grouping,
    /// The batch half's shards, then the realtime half.
    windows: Windows<ServingError>,
    shards: usize,
}

impl Answers {
    /// Pins what an export reads.
    ///
    /// # Errors
    /// As of [`Answers::answer`].
    pub(crate) async fn export(&self, question: &Question) -> Result<Export, ServingError> {
        let deadline = Instant::now() + self.speed_timeout;
        self.pinned(question, deadline).instrument(trace_span!("pin")).await
    }

    async fn pinned(&self, question: &Question, deadline: Instant) -> Result<Export, ServingError> {
        match question.version {
            Some(number) => {
                let version = self.earlier_version(number, deadline).await?;
                match self.export_from(&version, question, deadline).await {
                    Err(ServingError::Stale { reason }) if question.consistency == Consistency::BestEffort => {
                        self.export_without_speed(&version, question, ServingError::SpeedUnavailable { reason })
                    }
                    Err(ServingError::Stale { reason }) => Err(ServingError::VersionRetired { version: number, reason }),
                    other => other,
                }
            }
            None => self.export_newest(question, deadline).await,
        }
    }

    async fn export_newest(&self, question: &Question, deadline: Instant) -> Result<Export, ServingError> {
        let mut reloads = Reloads::until(deadline);
        loop {
            let version = self.versions.current();
            let reason = match self.export_from(&version, question, deadline).await {
                Err(ServingError::Stale { reason }) => reason,
                other => return other,
            };
            if !reloads.wait_for_newer(&self.versions, version.number).await {
                return self.export_without_speed(&version, question, ServingError::SpeedUnavailable { reason });
            }
        }
    }

    async fn export_from(&self, version: &Arc<Version>, question: &Question, deadline: Instant) -> Result<Export, ServingError> {
        let resolved = resolve(question, version)?;
        if question.consistency == Consistency::BatchOnly {
            let incomplete = shortcoming(version, question, None)?;
            return self.begin(version, question, resolved.read, None, incomplete);
        }
        let view = self.versions.view().to_owned();
        let about = About { view, version: Arc::clone(version), log_id: log_id(version, question).to_owned() };
        match self.speed.stream(about, deadline).await {
            Ok(speed) => {
                let incomplete = shortcoming(version, question, Some(&speed.head))?;
                self.begin(version, question, resolved.read, Some(speed), incomplete)
            }
            Err(e @ ServingError::Stale { .. }) => Err(e),
            Err(e) => self.export_without_speed(version, question, e),
        }
    }

    /// The batch half alone, for those who take it.
    fn export_without_speed(&self, version: &Arc<Version>, question: &Question, reason: ServingError) -> Result<Export, ServingError> {
        if question.consistency != Consistency::BestEffort {
            return Err(reason);
        }
        let resolved = resolve(question, version)?;
        self.begin(version, question, resolved.read, None, Some(reason.in_one_line()))
    }

    fn begin(
        &self,
        version: &Arc<Version>,
        question: &Question,
        range: TimeRange,
        speed: Option<SpeedStream>,
        incomplete: Option<String>,
    ) -> Result<Export, ServingError> {
        if incomplete.is_some() {
            self.metrics.incomplete(speed.is_some());
        }
        let (head, erased, speed) = match speed {
            Some(SpeedStream { head, erased, states }) => (head, erased, Some(states)),
            None => (version.boundary.clone(), self.erased.from(&version.boundary), None),
        };
        let erased = Arc::new(erased);
        let batch = version.batch_streams(READ_BYTES)?;
        let shards = batch.len();
        let batch = batch.into_iter().map(|states| counted(states, version, &erased, range));
        let speed = speed.map(|states| states.map(move |rows| Ok(rows_in(&rows?, range)?)).boxed());
        let windows = Windows::new(version.definition.state_schema(), batch.chain(speed).collect());
        let (version, grouping) = (Arc::clone(version), question.grouping);
        Ok(Export { version, head, incomplete, batch_event_count: 0, speed_event_count: 0, grouping, windows, shards })
    }
}

impl Export {
    /// The rows of the next keys, in the columns of [`Definition::output_schema`]; `None` after the last.
    ///
    /// # Errors
    /// A half cannot be read on, or is damaged; the buckets do not fit into the periods. Nothing comes after one.
    pub(crate) async fn next(&mut self) -> Result<Option<RecordBatch>, ServingError> {
        self.version.check_sound()?;
        let Some(window) = self.windows.next().await? else { return Ok(None) };
        let count = |states: &[RecordBatch]| states.iter().map(|rows| fold::event_count(&self.version.definition, rows)).sum::<i64>();
        let (batch, speed) = window.split_at(self.shards);
        self.batch_event_count += count(batch);
        self.speed_event_count += count(speed);
        let (version, grouping) = (Arc::clone(&self.version), self.grouping);
        blocking(move || finish(&version.definition, &window, grouping)).await.map(Some)
    }
}

fn finish(definition: &Definition, states: &[RecordBatch], grouping: Grouping) -> Result<RecordBatch, ServingError> {
    Ok(match grouping::moved(definition, states, grouping)? {
        None => fold::finish(definition, states, Granularity::Total)?,
        Some(moved) => fold::finish(definition, &moved, Granularity::Bucket)?,
    })
}

/// The rows of the batch half that count: in the range, and of nobody who was erased.
fn counted(states: States<StoreError>, version: &Arc<Version>, erased: &Arc<Erased>, range: TimeRange) -> States<ServingError> {
    let erased = Some(Arc::clone(erased)).filter(|erased| !erased.0.is_empty() && version.definition.is_by_user());
    let counted = move |rows: RecordBatch| -> Result<_, ServingError> {
        let rows = rows_in(&rows, range)?;
        Ok(erased.as_ref().map_or_else(|| rows.clone(), |erased| erased.without(&rows)))
    };
    states.map_err(ServingError::from).map(move |rows| counted(rows?)).boxed()
}
