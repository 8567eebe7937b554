//! How an answer came to be, as a message.

use std::time::Duration;

use merganser_proto::v1::{Explanation, FileRead, PartitionOffset, SliceContribution};

use super::stats;
use crate::answer::{Answer, Finished, Part};
use crate::explain::Contribution;

/// Of the answer about one user.
pub(super) fn of(answer: &Answer, user: &Part) -> Explanation {
    let (version, effort) = (&answer.version, &answer.effort);
    let manifest = version.manifest();
    let erased = answer.erased.of_key(&user.key);
    let half = |half: &Finished| stats::user_stats(&user.key, half);
    let speed = user.halves.as_ref().and_then(|halves| halves.speed.as_ref());
    let not_told = speed.is_some() && effort.slices.is_empty();
    Explanation {
        batch: user.halves.as_ref().map(|halves| half(&halves.batch)),
        speed: speed.map(half),
        parent_version: manifest.and_then(|manifest| manifest.parent).unwrap_or(0),
        run_id: version.run_id().to_owned(),
        late_duplicate_count: manifest.map_or(0, |manifest| manifest.late_duplicate_count),
        conflict_count: manifest.map_or(0, |manifest| manifest.conflict_count),
        files: version.files_with(&user.key).map(|file| FileRead { path: file.path.clone(), row_count: file.rows }).collect(),
        batch_row_count: effort.batch_rows as i64,
        batch_block_count: effort.batch_blocks as i64,
        batch_duration: Some(duration(effort.batch_elapsed)),
        slices: effort.slices.iter().map(slice).collect(),
        slices_missing_reason: if not_told { "the speed layer is older than this question, and does not tell them" } else { "" }.to_owned(),
        erased: erased.map(|(partition, offset)| PartitionOffset { partition, offset }),
        speed_duration: speed.is_some().then(|| duration(effort.speed_elapsed)),
    }
}

fn slice(slice: &Contribution) -> SliceContribution {
    SliceContribution {
        partition: slice.partition,
        start_offset: slice.offsets.start,
        end_offset: slice.offsets.end,
        row_count: slice.row_count as i64,
        event_count: slice.event_count,
    }
}

fn duration(elapsed: Duration) -> prost_types::Duration {
    // A question takes seconds at most.
    prost_types::Duration { seconds: elapsed.as_secs() as i64, nanos: elapsed.subsec_nanos() as i32 }
}
