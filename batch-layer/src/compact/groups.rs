//! Which segments are merged: adjacent small old ones of a partition.

use chrono::{Days, NaiveTime};
use storage::master::SegmentMeta;

/// When a group is worth a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Size that files grow to.
    pub(super) target_bytes: i64,
    /// So many make a file though it is smaller.
    pub(super) least_files: usize,
}

impl Limits {
    /// Whether a file in their place is worth writing. A row is written again only when its file has company enough, so never often.
    pub(super) fn is_worth_it(&self, group: &[SegmentMeta]) -> bool {
        let bytes: i64 = group.iter().map(|segment| segment.seal.bytes).sum();
        group.len() > 1 && (group.len() >= self.least_files || bytes >= self.target_bytes)
    }

    /// A file of half the size or more is large enough.
    fn is_small(&self, segment: &SegmentMeta) -> bool {
        segment.seal.bytes < self.target_bytes / 2
    }
}

/// The groups of `segments`, which are sorted, that are worth a file each.
pub(super) fn groups(segments: &[SegmentMeta], is_old: impl Fn(&SegmentMeta) -> bool, limits: Limits) -> Vec<Vec<SegmentMeta>> {
    let mut groups: Vec<Vec<SegmentMeta>> = Vec::new();
    let mut group: Vec<SegmentMeta> = Vec::new();
    for segment in segments {
        let fits = limits.is_small(segment) && is_old(segment) && !segment.is_cold();
        let goes_on = group.last().is_none_or(|last| {
            (last.path.partition, last.path.end) == (segment.path.partition, segment.path.start) && last.seal.log_id == segment.seal.log_id
        });
        let is_full = group.iter().map(|segment| segment.seal.bytes).sum::<i64>() >= limits.target_bytes;
        if !fits || !goes_on || is_full {
            groups.push(std::mem::take(&mut group));
        }
        if fits {
            group.push(segment.clone());
        }
    }
    groups.push(group);
    groups.retain(|group| limits.is_worth_it(group));
    groups
}

/// When the newest event of a segment was appended, microseconds since 1970, or a moment that is not before it.
pub(super) fn newest_us(segment: &SegmentMeta) -> i64 {
    let noted = segment.parts().iter().filter_map(SegmentMeta::newest_append_us).max();
    let day_after = || segment.path.ingest_date.checked_add_days(Days::new(1)).unwrap_or(segment.path.ingest_date);
    noted.unwrap_or_else(|| day_after().and_time(NaiveTime::MIN).and_utc().timestamp_micros())
}
