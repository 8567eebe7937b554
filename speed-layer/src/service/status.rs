//! How the layer is, as a message: what [`Told`] tells over HTTP, and the dead letters by reason.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use merganser_proto::metrics::{Counter, Spread};
use merganser_proto::v1 as pb;
use merganser_proto::v1::speed_status_service_server::SpeedStatusService;
use storage::log::Room;
use storage::machine::blocking;
use tonic::{Request, Response, Status};

use super::timestamp;
use crate::dead_letter::{Overview, Overviews};
use crate::partition::Partition;
use crate::told::Told;

pub(crate) struct StatusAdapter {
    pub(crate) told: Arc<Told>,
    /// When the layer was opened, in microseconds since 1970.
    pub(crate) began_us: i64,
    pub(crate) letters: Arc<Overviews>,
}

#[tonic::async_trait]
impl SpeedStatusService for StatusAdapter {
    async fn get_speed_status(&self, request: Request<pb::GetSpeedStatusRequest>) -> Result<Response<pb::GetSpeedStatusResponse>, Status> {
        let (told, began_us) = (Arc::clone(&self.told), self.began_us);
        // Sizes and ages are read from the disk.
        let mut status = blocking(move || of_now(&told, began_us)).await;
        if request.into_inner().with_dead_letters {
            status.dead_letters = Some(match self.letters.get().await {
                Ok(overview) => letters(&overview),
                Err(failure) => pb::DeadLetterStatus { failure, ..pb::DeadLetterStatus::default() },
            });
        }
        Ok(Response::new(status))
    }
}

fn of_now(told: &Told, began_us: i64) -> pb::GetSpeedStatusResponse {
    let (ingest, metrics) = (&told.ingest, &told.ingest.metrics);
    let (queue_bytes, queue_limit_bytes) = ingest.room.bytes();
    let room = Room::of(&*ingest.machine.disk(), &told.data_dir);
    let (letters, letter_bytes, letter_limit_bytes) = ingest.dead_letters.kept();
    let [received_count, accepted_count, duplicate_count, failed_count] =
        [&metrics.received, &metrics.accepted, &metrics.duplicates, &metrics.failed].map(Counter::get).map(u64::cast_signed);
    pb::GetSpeedStatusResponse {
        log_id: ingest.log_id.to_string(),
        start_time: Some(timestamp(began_us)),
        partitions: ingest.partitions.iter().map(|partition| of_partition(told, partition)).collect(),
        received_count,
        accepted_count,
        duplicate_count,
        refused_count: metrics.refused().iter().map(|(_, rows)| rows.cast_signed()).sum(),
        failed_count,
        append_latency: Some(histogram(metrics.append_durations.spread())),
        sync_latency: Some(histogram(metrics.sync_durations.spread())),
        queue_bytes: queue_bytes as i64,
        queue_limit_bytes: queue_limit_bytes as i64,
        disk_free_bytes: room.free_bytes.map(u64::cast_signed),
        disk_reserve_bytes: room.reserve_bytes.cast_signed(),
        log_failed: *told.log_failed.borrow(),
        damaged_segment_count: metrics.damaged_segments.load(Ordering::Relaxed).cast_signed(),
        dead_letter_count: letters as i64,
        dead_letter_bytes: letter_bytes.cast_signed(),
        dead_letter_limit_bytes: letter_limit_bytes.cast_signed(),
        dead_letters: None,
    }
}

fn of_partition(told: &Told, partition: &Partition) -> pb::PartitionStatus {
    let weight = partition.weight();
    pb::PartitionStatus {
        partition: partition.number as i32,
        start_offset: partition.log.start(),
        archived_offset: told.archive.archived(partition.number),
        head_offset: partition.log.head(),
        log_bytes: partition.log.bytes().ok().map(u64::cast_signed),
        queued_append_count: partition.queued() as i64,
        slice_count: weight.slices as i64,
        slice_row_count: weight.rows as i64,
        slice_bytes: weight.bytes as i64,
        unarchived_age: told.unarchived_age(partition).map(duration),
        disk_full: partition.is_full.load(Ordering::Relaxed),
    }
}

fn duration(age: Duration) -> prost_types::Duration {
    prost_types::Duration { seconds: i64::try_from(age.as_secs()).unwrap_or(i64::MAX), nanos: age.subsec_nanos().cast_signed() }
}

fn histogram(spread: Spread) -> pb::LatencyHistogram {
    let counts = spread.counts.into_iter().map(u64::cast_signed).collect();
    pb::LatencyHistogram { bounds_seconds: spread.bounds_seconds, counts }
}

fn letters(overview: &Overview) -> pb::DeadLetterStatus {
    let groups = overview.groups.iter().map(|group| pb::DeadLetterGroup {
        field: group.field.clone(),
        reason: group.reason.clone(),
        outstanding_count: group.outstanding.cast_signed(),
        samples: group
            .samples
            .iter()
            .map(|sample| pb::DeadLetterSample {
                letter_id: sample.id.to_string(),
                receive_time: Some(timestamp(sample.received_time_us)),
                origin: sample.origin.clone(),
                event_json: sample.event_json.clone(),
                event_cut: sample.is_cut,
            })
            .collect(),
    });
    pb::DeadLetterStatus {
        outstanding_count: overview.outstanding.cast_signed(),
        settled_count: overview.settled.cast_signed(),
        groups: groups.collect(),
        partial: overview.partial,
        failure: String::new(),
    }
}
