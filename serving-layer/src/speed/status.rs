//! How the speed layer is, for the console: the answer of `SpeedStatusService` in terms of our own.

use std::time::Duration;

use merganser_proto::metrics::Spread;
use merganser_proto::v1::{self as pb, GetSpeedStatusRequest};
use tokio::time::{Instant, timeout_at};
use tonic::Code;

use super::{SpeedClient, failure, too_long};
use crate::ServingError;

/// What the speed layer holds, and what has become of what it received since it began.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SpeedStatus {
    /// When the process began, in microseconds since 1970.
    pub(crate) began_us: i64,
    pub(crate) partitions: Vec<PartitionStatus>,
    pub(crate) received: i64,
    pub(crate) accepted: i64,
    pub(crate) duplicates: i64,
    pub(crate) refused: i64,
    pub(crate) failed: i64,
    pub(crate) append: Spread,
    pub(crate) sync: Spread,
    pub(crate) queue_bytes: i64,
    pub(crate) queue_limit_bytes: i64,
    pub(crate) disk_free_bytes: Option<i64>,
    pub(crate) log_failed: bool,
    pub(crate) damaged_segments: i64,
    pub(crate) letters: i64,
    pub(crate) letter_bytes: i64,
    pub(crate) letter_limit_bytes: i64,
    /// What the letters are, when that was asked for.
    pub(crate) refusals: Option<Refusals>,
}

/// One partition of its log.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PartitionStatus {
    pub(crate) number: i32,
    pub(crate) start: i64,
    pub(crate) archived: i64,
    pub(crate) head: i64,
    pub(crate) log_bytes: Option<i64>,
    pub(crate) queued: i64,
    pub(crate) slices: i64,
    pub(crate) slice_rows: i64,
    pub(crate) slice_bytes: i64,
    pub(crate) unarchived_age: Option<Duration>,
    pub(crate) disk_full: bool,
}

/// Refused rows that are kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Refusals {
    pub(crate) outstanding: i64,
    pub(crate) settled: i64,
    pub(crate) groups: Vec<RefusalGroup>,
    /// Whether there are more than were read.
    pub(crate) partial: bool,
    /// Why they could not be read, if they could not.
    pub(crate) failure: Option<String>,
}

/// Those with one field and reason.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RefusalGroup {
    pub(crate) field: String,
    pub(crate) reason: String,
    pub(crate) outstanding: i64,
    pub(crate) samples: Vec<RefusedRow>,
}

/// One of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RefusedRow {
    pub(crate) id: String,
    pub(crate) received_us: i64,
    pub(crate) origin: String,
    pub(crate) event_json: String,
    pub(crate) is_cut: bool,
}

impl SpeedClient {
    /// Asks how the speed layer is.
    ///
    /// # Errors
    /// It does not answer, or is older than the question.
    pub(crate) async fn status(&self, with_letters: bool, deadline: Instant) -> Result<SpeedStatus, ServingError> {
        let mut client = self.status.clone();
        let request = GetSpeedStatusRequest { with_dead_letters: with_letters };
        match timeout_at(deadline, client.get_speed_status(request)).await {
            Ok(Ok(response)) => Ok(response.into_inner().into()),
            Ok(Err(status)) if status.code() == Code::Unimplemented => {
                Err(ServingError::SpeedUnavailable { reason: "it is older than this question".to_owned() })
            }
            Ok(Err(status)) => Err(failure(&status)),
            Err(_) => Err(too_long()),
        }
    }
}

impl From<pb::GetSpeedStatusResponse> for SpeedStatus {
    fn from(told: pb::GetSpeedStatusResponse) -> Self {
        Self {
            began_us: micros(told.start_time),
            partitions: told.partitions.into_iter().map(Into::into).collect(),
            received: told.received_count,
            accepted: told.accepted_count,
            duplicates: told.duplicate_count,
            refused: told.refused_count,
            failed: told.failed_count,
            append: spread(told.append_latency),
            sync: spread(told.sync_latency),
            queue_bytes: told.queue_bytes,
            queue_limit_bytes: told.queue_limit_bytes,
            disk_free_bytes: told.disk_free_bytes,
            log_failed: told.log_failed,
            damaged_segments: told.damaged_segment_count,
            letters: told.dead_letter_count,
            letter_bytes: told.dead_letter_bytes,
            letter_limit_bytes: told.dead_letter_limit_bytes,
            refusals: told.dead_letters.map(Into::into),
        }
    }
}

impl From<pb::PartitionStatus> for PartitionStatus {
    fn from(told: pb::PartitionStatus) -> Self {
        Self {
            number: told.partition,
            start: told.start_offset,
            archived: told.archived_offset,
            head: told.head_offset,
            log_bytes: told.log_bytes,
            queued: told.queued_append_count,
            slices: told.slice_count,
            slice_rows: told.slice_row_count,
            slice_bytes: told.slice_bytes,
            unarchived_age: told.unarchived_age.and_then(|age| age.try_into().ok()),
            disk_full: told.disk_full,
        }
    }
}

impl From<pb::DeadLetterStatus> for Refusals {
    fn from(told: pb::DeadLetterStatus) -> Self {
        let sample = |told: pb::DeadLetterSample| RefusedRow {
            id: told.letter_id,
            received_us: micros(told.receive_time),
            origin: told.origin,
            event_json: told.event_json,
            is_cut: told.event_cut,
        };
        let group = |told: pb::DeadLetterGroup| RefusalGroup {
            field: told.field,
            reason: told.reason,
            outstanding: told.outstanding_count,
            samples: told.samples.into_iter().map(sample).collect(),
        };
        Self {
            outstanding: told.outstanding_count,
            settled: told.settled_count,
            groups: told.groups.into_iter().map(group).collect(),
            partial: told.partial,
            failure: (!told.failure.is_empty()).then_some(told.failure),
        }
    }
}

fn micros(time: Option<prost_types::Timestamp>) -> i64 {
    time.map_or(0, |time| time.seconds.saturating_mul(1_000_000).saturating_add(i64::from(time.nanos / 1000)))
}

fn spread(told: Option<pb::LatencyHistogram>) -> Spread {
    let told = told.unwrap_or_default();
    Spread { bounds_seconds: told.bounds_seconds, counts: told.counts.into_iter().map(|count| u64::try_from(count).unwrap_or(0)).collect() }
}
