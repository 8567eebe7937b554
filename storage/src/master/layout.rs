//! The layout: which files the older part of the master dataset lies in, where they are no longer those that were archived.
//!
//! # Layout
//! `master/layout/<number, 20 digits>.json`, numbers from 1. Each says all: the newest holds alone, and segments that it does not name
//! lie as they were archived. A rewritten segment's name has the number of the layout that it was written for (decision 0013).
//!
//! # Consistency
//! Putting the next-numbered layout if absent is the commit: of two who rewrite at a time one loses, whatever became of the lease. A
//! layout never changes. What a file is and where the segments ended that it was made of, is in the layout; it has no seal.
//!
//! # What a crash leaves behind
//! The layout or no layout. Files that none names are nobody's; they go once a layout of their number is old enough ([`superseded`]).

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::SystemTime;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use object_store::path::Path as ObjectPath;
use serde::{Deserialize, Serialize};

use super::{Origin, Seal, SegmentMeta};
use crate::paths::{
    ImportObject, ImportPath, LayoutPath, RewrittenImportPath, RewrittenPath, SegmentPath, events_folder, imports_folder, layouts_folder,
};
use crate::store::json::{self, Formats};
use crate::store::{Claim, Store, StoreError};

/// The format that this program writes where nothing needs a newer one.
const FORMAT_VERSION: u32 = 1;
/// The format of a layout with [`Layout::expired_before_us`], which older programs must not overlook.
const EXPIRING_FORMAT_VERSION: u32 = 2;
const FORMATS: Formats = Formats { known: EXPIRING_FORMAT_VERSION, checked_from: 1 };
/// Lists of a folder that others change meanwhile, before giving up.
const LISTS: usize = 8;

/// Where the files of the master dataset are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    format_version: u32,
    /// Its number, from 1; 0 before the first.
    pub number: i64,
    /// Who made it.
    pub run_id: String,
    /// In order of partition and offset. What lies in no range of these lies as it was archived.
    pub segments: Vec<Placed>,
    /// Files in the place of those that commits of imports name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub imports: Vec<PlacedImport>,
    /// Erasures whose rows are in none of the segments any more, nor in the files of the imports below.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub erased: Vec<Erased>,
    /// Numbers of the imports that were looked through for all of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub erased_from_imports: Vec<i64>,
    /// The floor of a declared retention, microseconds since 1970: events of before may be gone, with those that repeat them, and no
    /// view counts any of them. Later layouts have the same or a later one. Format 2 where there is one (decision 0015).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expired_before_us: Option<i64>,
}

/// A file in the place of what an import has in a partition.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PlacedImport {
    /// Number of the import.
    pub import: i64,
    /// The partition.
    pub partition: u32,
    /// The object's path.
    pub path: String,
    /// Rows that are there; the import's offsets stay what they are.
    pub rows: i64,
    /// Rows that have expired and are not there any more.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub expired: i64,
    /// Length in bytes.
    pub bytes: i64,
    /// BLAKE3 of the bytes, in hex.
    pub blake3: String,
}

/// A file in the place of adjacent segments, or one segment in the cold store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Placed {
    /// The object's path.
    pub path: String,
    /// In the cold store, under the same path.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cold: bool,
    /// Length in bytes.
    pub bytes: i64,
    /// BLAKE3 of the bytes, in hex.
    pub blake3: String,
    /// The log whose offsets the events have.
    pub log_id: String,
    /// The segments that it was made of, in order. Their rows are in the order of their offsets.
    pub parts: Vec<Part>,
}

/// What a segment was that became a part of another file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// First offset outside; the first inside is the end of the part before.
    pub end: i64,
    /// Rows that are there.
    pub rows: i64,
    /// Rows that have expired and are not there any more.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub expired: i64,
    /// [`super::record_fingerprint`] of the last record, whether it is still there or erased.
    pub last_record: String,
    /// When the newest of its events was appended, microseconds since 1970, whether that one is still there or erased.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest_append_us: Option<i64>,
}

/// An erasure that was carried out in every segment of its partition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Erased {
    /// The partition.
    pub partition: u32,
    /// Offset of its record.
    pub offset: i64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(count: &i64) -> bool {
    *count == 0
}

impl Placed {
    /// The rows.
    #[must_use]
    pub fn rows(&self) -> i64 {
        self.parts.iter().map(|part| part.rows).sum()
    }

    /// The rows that have expired.
    #[must_use]
    pub fn expired(&self) -> i64 {
        self.parts.iter().map(|part| part.expired).sum()
    }

    /// The partition and the offsets.
    ///
    /// # Errors
    /// Its path is none of a segment.
    pub(super) fn segment(&self) -> Result<SegmentPath, StoreError> {
        let path = ObjectPath::from(self.path.as_str());
        RewrittenPath::parse(&path).map(|rewritten| rewritten.segment).or_else(|_| SegmentPath::parse(&path))
    }

    fn meta(self) -> Result<SegmentMeta, StoreError> {
        let path = self.segment()?;
        let last_record = self.parts.last().map(|part| part.last_record.clone()).unwrap_or_default();
        let origin = Origin { log_id: self.log_id.clone(), last_record };
        let seal = Seal::new(self.rows(), self.bytes, self.blake3.clone(), origin);
        Ok(SegmentMeta { path, seal, placed: Some(self.into()), clip: None })
    }
}

impl Layout {
    /// The newest, or one without a number that says nothing.
    ///
    /// # Errors
    /// What the store says; a damaged layout, by name: never an older one.
    pub async fn newest(store: &Store) -> Result<Self, StoreError> {
        let mut missing = None;
        for _ in 0..LISTS {
            let listed = store.list(&layouts_folder()).await?;
            let last = listed.iter().filter_map(|object| LayoutPath::parse(&object.location).ok()).map(|path| path.number).max();
            // A list may lag behind: what comes after is asked for by name.
            let mut found = match last.map(|number| read(store, number)) {
                None => Self::default(),
                Some(reading) => match reading.await {
                    Ok(found) => found,
                    // It was removed after it was listed, so there are newer ones.
                    Err(e @ StoreError::NotFound { .. }) => {
                        missing = Some(e);
                        continue;
                    }
                    Err(e) => return Err(e),
                },
            };
            loop {
                match read(store, found.number + 1).await {
                    Ok(next) => found = next,
                    Err(StoreError::NotFound { .. }) => return Ok(found),
                    Err(e) => return Err(e),
                }
            }
        }
        Err(missing.expect("every round but the last found one that was gone"))
    }

    /// Whether something was ever moved to the cold store.
    #[must_use]
    pub fn has_cold(&self) -> bool {
        self.segments.iter().any(|placed| placed.cold)
    }

    /// The one to follow this, which says the same.
    #[must_use]
    pub fn next(&self, run_id: &str) -> Self {
        let next = Self { number: self.number + 1, run_id: run_id.to_owned(), ..self.clone() };
        next.in_its_format()
    }

    /// Says that events of before `before_us` may be gone. What was said before is not taken back.
    pub fn expire(&mut self, before_us: i64) {
        self.expired_before_us = self.expired_before_us.max(Some(before_us));
        *self = std::mem::take(self).in_its_format();
    }

    /// The same in the oldest format that says all of it, so that older programs read what they can.
    fn in_its_format(self) -> Self {
        Self { format_version: Self::format(self.expired_before_us.is_some()), ..self }
    }

    const fn format(is_expiring: bool) -> u32 {
        if is_expiring { EXPIRING_FORMAT_VERSION } else { FORMAT_VERSION }
    }

    /// Puts `placed` in the place of everything in its range.
    ///
    /// # Errors
    /// Its path is none of a segment.
    pub fn place(&mut self, placed: Placed) -> Result<(), StoreError> {
        let at = placed.segment()?;
        self.segments.retain(|other| !other.segment().is_ok_and(|other| is_in(&other, &at)));
        self.segments.push(placed);
        self.segments.sort_by_cached_key(|placed| placed.segment().ok().map(|at| (at.partition, at.start)));
        Ok(())
    }

    /// Puts `placed` in the place of what its import has in its partition.
    pub fn place_import(&mut self, placed: PlacedImport) {
        self.imports.retain(|other| (other.import, other.partition) != (placed.import, placed.partition));
        self.imports.push(placed);
        self.imports.sort_by_key(|placed| (placed.import, placed.partition));
    }

    /// Publishes it under its number. Every file that it names must be durable already. False if another was first.
    ///
    /// # Errors
    /// [`StoreError::UnknownOutcome`] if nobody can tell: then delete nothing.
    ///
    /// # Panics
    /// If it contradicts itself.
    pub async fn publish(&self, store: &Store) -> Result<bool, StoreError> {
        assert_eq!(self.contradiction(), None, "a layout that contradicts itself is never published");
        let path = LayoutPath { number: self.number }.path();
        Ok(store.claim(&path, Bytes::from(json::encode(self))).await? == Claim::Ours)
    }

    /// Makes sure that it survives power loss: whoever put it may have died on the way.
    ///
    /// # Errors
    /// What the store says.
    pub async fn confirm(&self, store: &Store) -> Result<(), StoreError> {
        if self.number > 0 {
            store.put_if_absent(&LayoutPath { number: self.number }.path(), Bytes::from(json::encode(self))).await?;
        }
        Ok(())
    }

    /// What its files have.
    pub(super) fn ranges(&self) -> Vec<SegmentPath> {
        self.segments.iter().filter_map(|placed| placed.segment().ok()).collect()
    }

    pub(super) fn metas(&self) -> Result<Vec<SegmentMeta>, StoreError> {
        self.segments.iter().cloned().map(Placed::meta).collect()
    }

    /// What in it cannot be true, if anything cannot.
    fn contradiction(&self) -> Option<String> {
        let is_expiring = self.expired_before_us.is_some();
        if self.format_version != Self::format(is_expiring) {
            return Some(format!("it is of format {}, and {} a floor", self.format_version, if is_expiring { "has" } else { "has not" }));
        }
        let may_be = |rows: i64, expired: i64| rows >= 0 && expired >= 0 && (expired == 0 || is_expiring);
        let mut before: Option<SegmentPath> = None;
        for placed in &self.segments {
            let Ok(at) = placed.segment() else { return Some(format!("{} is no path of a segment", placed.path)) };
            if before.is_some_and(|before| (before.partition, before.end) > (at.partition, at.start)) {
                return Some(format!("{} is not behind the one before it", placed.path));
            }
            let mut start = at.start;
            for part in &placed.parts {
                let offsets = part.end - start;
                if offsets <= 0 || !may_be(part.rows, part.expired) || part.rows > offsets - part.expired {
                    return Some(format!("{} has a part that cannot be", placed.path));
                }
                start = part.end;
            }
            if start != at.end || placed.bytes < 0 {
                return Some(format!("the parts of {} are not all of it", placed.path));
            }
            if RewrittenPath::parse(&placed.path.as_str().into()).is_ok_and(|rewritten| rewritten.layout > self.number) {
                return Some(format!("{} was written for a later layout", placed.path));
            }
            before = Some(at);
        }
        let wrong = self.imports.iter().find(|placed| {
            let read = RewrittenImportPath::parse(&placed.path.as_str().into());
            !read.is_ok_and(|path| (path.import, path.partition) == (placed.import, placed.partition) && path.layout <= self.number)
                || !may_be(placed.rows, placed.expired)
                || placed.bytes < 0
        });
        if let Some(placed) = wrong {
            return Some(format!("{} is not what an import has in a partition", placed.path));
        }
        let in_order = |(a, b): (&PlacedImport, &PlacedImport)| (a.import, a.partition) < (b.import, b.partition);
        let second = self.imports.iter().zip(self.imports.iter().skip(1)).find(|pair| !in_order(*pair));
        second.map(|(_, placed)| {
            format!("{} is a second file for what an import has in a partition, or not behind the one before", placed.path)
        })
    }
}

/// Whether another file stands in the place of an archived segment, or that one in another place.
pub(super) fn is_covered(ranges: &[SegmentPath], path: &SegmentPath) -> bool {
    ranges.iter().any(|range| is_in(path, range))
}

fn is_in(inner: &SegmentPath, outer: &SegmentPath) -> bool {
    inner.partition == outer.partition && outer.start <= inner.start && inner.end <= outer.end
}

async fn read(store: &Store, number: i64) -> Result<Layout, StoreError> {
    let path = LayoutPath { number }.path();
    let found: Layout = json::decode(&path, &store.get(&path).await?, FORMATS)?;
    let contradiction = match found.number == number {
        true => found.contradiction(),
        false => Some(format!("it says it is number {}", found.number)),
    };
    contradiction.map_or(Ok(found), |reason| Err(StoreError::corrupt(&path, reason)))
}

/// What nobody needs any more: removed in this order, it is never seen by halves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Superseded {
    /// Objects of the store itself: seals before their files, older layouts last.
    pub here: Vec<ObjectPath>,
    /// Objects of the cold store.
    pub cold: Vec<ObjectPath>,
    /// Of those in both, how many are files of events.
    pub files: usize,
}

/// What a layout that was there before `before` has put others in the place of, and files that lost. Who read a list of segments after
/// that reads none of these. Call it as long as nobody else rewrites.
///
/// # Errors
/// What the stores say.
pub async fn superseded(store: &Store, before: SystemTime) -> Result<Superseded, StoreError> {
    let before = DateTime::<Utc>::from(before);
    let newest = Layout::newest(store).await?;
    let listed = store.list(&layouts_folder()).await?;
    let numbers = listed.iter().filter(|object| object.last_modified < before);
    let numbers: BTreeSet<i64> = numbers.filter_map(|object| LayoutPath::parse(&object.location).ok()).map(|path| path.number).collect();
    let mut found = Superseded::default();
    let Some(last) = numbers.last().copied() else { return Ok(found) };
    let old = read(store, last).await?;
    // What goes on the strength of a layout goes when that one can no longer be lost.
    newest.confirm(store).await?;

    let ranges = old.ranges();
    let is_named = |path: &ObjectPath, cold: bool| old.segments.iter().any(|p| p.path == path.as_ref() && (cold || !p.cold));
    let is_over = |path: &ObjectPath, cold: bool| match (RewrittenPath::parse(path), SegmentPath::parse(path)) {
        (Ok(rewritten), _) => rewritten.layout <= old.number && !is_named(path, cold),
        (_, Ok(archived)) => is_covered(&ranges, &archived) && !is_named(path, cold),
        _ => false,
    };
    let objects = store.list(&events_folder()).await?;
    let seals = objects.iter().filter(|object| SegmentPath::parse_seal(&object.location).is_ok_and(|path| is_covered(&ranges, &path)));
    found.here.extend(seals.map(|object| object.location.clone()));
    let files: Vec<_> = objects.iter().map(|object| object.location.clone()).filter(|path| is_over(path, false)).collect();
    found.here.extend(files.iter().cloned());
    let of_imports: Vec<_> = store.list(&imports_folder()).await?.into_iter().map(|object| object.location).collect();
    let is_over_there = |path: &&ObjectPath| match (RewrittenImportPath::parse(path), ImportPath::parse(path)) {
        (Ok(rewritten), _) => rewritten.layout <= old.number && !old.imports.iter().any(|placed| placed.path == path.as_ref()),
        (_, Ok(ImportPath { import, object: ImportObject::File { partition } })) => {
            old.imports.iter().any(|placed| (placed.import, placed.partition) == (import, partition))
        }
        _ => false,
    };
    let of_imports: Vec<_> = of_imports.iter().filter(is_over_there).cloned().collect();
    found.files = files.len() + of_imports.len();
    found.here.extend(of_imports);
    found.here.extend(numbers.into_iter().filter(|number| *number < last).map(|number| LayoutPath { number }.path()));
    if let Some(cold) = store.cold() {
        let objects = cold.list(&events_folder()).await?;
        found.cold = objects.into_iter().map(|object| object.location).filter(|path| is_over(path, true)).collect();
        found.files += found.cold.len();
    }
    Ok(found)
}
