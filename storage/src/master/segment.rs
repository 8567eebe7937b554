//! A segment of the master dataset, wherever its file lies and whatever else is in it.

use std::ops::Range;
use std::sync::Arc;

use object_store::path::Path as ObjectPath;

use super::Seal;
use super::layout::{Part, Placed};
use crate::paths::{RewrittenPath, SegmentPath};
use crate::store::{Store, StoreError};

/// The events of a range of a partition, and the file that they are in. Ordered by partition, then by offset.
///
/// A file that was written in the place of several segments has them as its parts, and a segment may be some adjacent parts of a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentMeta {
    /// Partition and offsets of the file.
    pub path: SegmentPath,
    /// What the file is.
    pub seal: Seal,
    /// What the layout says of the file, if it does not lie as it was archived.
    pub(super) placed: Option<Arc<Placed>>,
    /// The offsets that are meant, if not all of the file.
    pub(super) clip: Option<(i64, i64)>,
}

impl SegmentMeta {
    /// One that lies as it was archived.
    #[must_use]
    pub fn archived(path: SegmentPath, seal: Seal) -> Self {
        Self { path, seal, placed: None, clip: None }
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> ObjectPath {
        self.placed.as_ref().map_or_else(|| self.path.path(), |placed| placed.path.as_str().into())
    }

    /// Whether the file was written in the place of others, which may have lost what was erased.
    #[must_use]
    pub fn is_rewritten(&self) -> bool {
        RewrittenPath::parse(&self.file()).is_ok()
    }

    /// Whether the file is in the cold store.
    #[must_use]
    pub fn is_cold(&self) -> bool {
        self.placed.as_ref().is_some_and(|placed| placed.cold)
    }

    /// The offsets inside.
    #[must_use]
    pub fn range(&self) -> Range<i64> {
        self.clip.map_or_else(|| self.path.range(), |(start, end)| start..end)
    }

    /// The rows inside: fewer than offsets where something was erased or has expired.
    #[must_use]
    pub fn rows(&self) -> i64 {
        let within = self.range();
        match &self.placed {
            None => self.seal.rows,
            Some(_) => self.places().filter(|(range, _)| within.start <= range.start && range.end <= within.end).map(|(_, p)| p.rows).sum(),
        }
    }

    /// The rows of the range that have expired and are gone.
    #[must_use]
    pub fn expired(&self) -> i64 {
        let within = self.range();
        self.places().filter(|(range, _)| within.start <= range.start && range.end <= within.end).map(|(_, part)| part.expired).sum()
    }

    /// Fingerprint of the last record of the range, whether it is still there or erased.
    #[must_use]
    pub fn last_record(&self) -> &str {
        let end = self.range().end;
        let part = self.placed.iter().flat_map(|placed| &placed.parts).find(|part| part.end == end);
        part.map_or(self.seal.last_record.as_str(), |part| part.last_record.as_str())
    }

    /// When the newest event of the last part was appended, microseconds since 1970, where that was noted: the event may be erased.
    #[must_use]
    pub fn newest_append_us(&self) -> Option<i64> {
        let end = self.range().end;
        self.placed.iter().flat_map(|placed| &placed.parts).find(|part| part.end == end)?.newest_append_us
    }

    /// The same file, of which only `range` is meant; `None` unless that is one or more of its parts.
    #[must_use]
    pub fn clip(&self, range: &Range<i64>) -> Option<Self> {
        if *range == self.range() {
            return Some(self.clone());
        }
        let within = self.range();
        let is_inside = within.start <= range.start && range.end <= within.end && range.start < range.end;
        let (mut begins, mut ends) = (false, false);
        for (part, _) in self.places() {
            begins |= part.start == range.start;
            ends |= part.end == range.end;
        }
        (is_inside && begins && ends).then(|| Self { clip: Some((range.start, range.end)), ..self.clone() })
    }

    /// The segments that were archived one by one, as far as they are in it, in order.
    #[must_use]
    pub fn parts(&self) -> Vec<Self> {
        let within = self.range();
        match &self.placed {
            None => vec![self.clone()],
            Some(_) => {
                let inside = self.places().filter(|(range, _)| within.start <= range.start && range.end <= within.end);
                inside.filter_map(|(range, _)| self.clip(&range)).collect()
            }
        }
    }

    /// The rows of the file that are meant: how many lie before, and how many there are; `None` if it is all.
    pub(super) fn rows_of_file(&self) -> Option<Range<i64>> {
        let (start, _) = self.clip?;
        let before = self.places().filter(|(range, _)| range.end <= start).map(|(_, part)| part.rows).sum();
        Some(before..before + self.rows())
    }

    /// As a layout names it.
    pub(super) fn as_placed(&self) -> Placed {
        self.placed.as_deref().cloned().unwrap_or_else(|| Placed {
            path: self.path.path().to_string(),
            cold: false,
            bytes: self.seal.bytes,
            blake3: self.seal.blake3.clone(),
            log_id: self.seal.log_id.clone(),
            parts: vec![Part {
                end: self.path.end,
                rows: self.seal.rows,
                expired: 0,
                last_record: self.seal.last_record.clone(),
                newest_append_us: None,
            }],
        })
    }

    /// The store that the file is in.
    pub(super) fn store<'a>(&self, store: &'a Store) -> Result<&'a Store, StoreError> {
        if self.is_cold() { store.cold_for(&self.file()) } else { Ok(store) }
    }

    /// The parts of the file, each with its offsets.
    fn places(&self) -> impl Iterator<Item = (Range<i64>, &Part)> {
        let mut start = self.path.start;
        self.placed.iter().flat_map(|placed| &placed.parts).map(move |part| {
            let range = start..part.end;
            start = part.end;
            (range, part)
        })
    }
}

/// The segment that was archived with exactly this range, wherever it lies now.
#[must_use]
pub fn segment_of(segments: &[SegmentMeta], partition: u32, range: &Range<i64>) -> Option<SegmentMeta> {
    segments.iter().filter(|segment| segment.path.partition == partition).find_map(|segment| segment.clip(range))
}

/// The segment that was archived with this first offset, wherever it lies now.
#[must_use]
pub fn segment_from(segments: &[SegmentMeta], partition: u32, start: i64) -> Option<SegmentMeta> {
    parts_of(segments, partition, start, start + 1).find(|part| part.range().start == start)
}

/// The segment that was archived with this end, wherever it lies now.
#[must_use]
pub fn segment_ending(segments: &[SegmentMeta], partition: u32, end: i64) -> Option<SegmentMeta> {
    parts_of(segments, partition, end - 1, end).find(|part| part.range().end == end)
}

fn parts_of(segments: &[SegmentMeta], partition: u32, from: i64, to: i64) -> impl Iterator<Item = SegmentMeta> {
    let touching = segments.iter().filter(move |s| s.path.partition == partition && s.path.start < to && from < s.path.end);
    touching.flat_map(SegmentMeta::parts)
}
