//! Letters by reason, with samples, for whoever shows them to people while the server runs: bounded in time, in memory and in size.
//!
//! It reads what `speed-layer dead-letter list` reads, so that both say the same, letters of imports and settled ones included.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use storage::dead_letter::LetterId;
use storage::machine::driven;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::walk::{Found, Walk};
use super::{DeadLetterError, Place};
use crate::refused::kind;

/// One reading answers everybody for so long.
const GOOD_FOR: Duration = Duration::from_secs(10);
/// A reading ends after so long, wherever it is.
const PATIENCE: Duration = Duration::from_secs(2);
/// Groups that are counted apart, and that are told.
const MAX_COUNTED_GROUPS: usize = 1024;
const MAX_GROUPS: usize = 50;
/// Letters of a group that are shown.
const MAX_SAMPLES: usize = 3;
/// Bytes of a letter's event that are shown.
const MAX_EVENT_BYTES: usize = 1024;
/// Of a field and a reason.
const MAX_REASON_BYTES: usize = 256;
/// What the groups beyond [`MAX_COUNTED_GROUPS`] count as.
const OTHER_REASONS: &str = "other reasons";

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Overview {
    pub(crate) outstanding: u64,
    pub(crate) settled: u64,
    /// Those with outstanding letters, the most frequent first.
    pub(crate) groups: Vec<SampledGroup>,
    /// Whether there are letters or groups beyond the bounds.
    pub(crate) partial: bool,
}

/// Outstanding letters with the same field and kind of reason.
#[derive(Clone, Debug, Default)]
pub(crate) struct SampledGroup {
    pub(crate) field: String,
    pub(crate) reason: String,
    pub(crate) outstanding: u64,
    pub(crate) samples: Vec<Sample>,
}

/// One letter.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) id: LetterId,
    pub(crate) received_time_us: i64,
    pub(crate) origin: String,
    pub(crate) event_json: String,
    pub(crate) is_cut: bool,
}

/// The newest reading. One is made at a time.
pub(crate) struct Overviews {
    place: Place,
    newest: Mutex<Option<(Instant, Arc<Overview>)>>,
}

impl Overviews {
    pub(crate) fn of(place: Place) -> Self {
        Self { place, newest: Mutex::default() }
    }

    /// A reading that is at most ten seconds old.
    ///
    /// # Errors
    /// Why there is none, in words.
    pub(crate) async fn get(&self) -> Result<Arc<Overview>, String> {
        let mut newest = self.newest.lock().await;
        if let Some((_, overview)) = newest.as_ref().filter(|(since, _)| since.elapsed() < GOOD_FOR) {
            return Ok(Arc::clone(overview));
        }
        let place = self.place.clone();
        let overview = driven(async move { Overview::read(&place, PATIENCE).await }).await;
        let overview = Arc::new(overview.map_err(|e| in_one_line(&e))?);
        *newest = Some((Instant::now(), Arc::clone(&overview)));
        Ok(overview)
    }
}

impl Overview {
    async fn read(place: &Place, patience: Duration) -> Result<Self, DeadLetterError> {
        let began = Instant::now();
        let mut overview = Self::default();
        let mut groups: BTreeMap<(String, String), SampledGroup> = BTreeMap::new();
        let mut walk = Walk::begin(place).await?;
        while let Some(found) = walk.next().await? {
            if found.settled.is_some() {
                overview.settled += 1;
            } else {
                overview.outstanding += 1;
                overview.partial |= !count(&mut groups, &found);
            }
            if began.elapsed() >= patience {
                overview.partial = true;
                break;
            }
        }
        overview.groups = groups.into_values().collect();
        overview.groups.sort_by_key(|group| std::cmp::Reverse(group.outstanding));
        overview.partial |= overview.groups.len() > MAX_GROUPS;
        overview.groups.truncate(MAX_GROUPS);
        Ok(overview)
    }
}

/// The error and its causes.
fn in_one_line(error: &DeadLetterError) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}

/// Counts a letter; false if its reason has no group of its own any more.
fn count(groups: &mut BTreeMap<(String, String), SampledGroup>, found: &Found) -> bool {
    let Found { id, origin, letter, .. } = found;
    let (field, reason) = (cut(&letter.field, MAX_REASON_BYTES).0, cut(kind(&letter.reason), MAX_REASON_BYTES).0);
    let mut key = (field.to_owned(), reason.to_owned());
    let has_own = groups.len() < MAX_COUNTED_GROUPS || groups.contains_key(&key);
    if !has_own {
        key = (String::new(), OTHER_REASONS.to_owned());
    }
    let group = groups.entry(key.clone()).or_insert_with(|| SampledGroup { field: key.0, reason: key.1, ..SampledGroup::default() });
    group.outstanding += 1;
    if group.samples.len() < MAX_SAMPLES {
        let json = letter.event.to_string();
        let (event_json, is_cut) = cut(&json, MAX_EVENT_BYTES);
        let (received_time_us, origin, event_json) = (letter.received_time_us, origin.to_string(), event_json.to_owned());
        group.samples.push(Sample { id: *id, received_time_us, origin, event_json, is_cut });
    }
    has_own
}

/// At most so many bytes of a text, and whether that is not all of it.
fn cut(text: &str, bytes: usize) -> (&str, bool) {
    let end = (0..=bytes.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    (&text[..end], end < text.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use storage::dead_letter::{DeadLetter, DeadLetters};
    use storage::store::Store;

    use super::*;

    /// Proves that letters are counted by kind of reason, that samples and their texts are bounded, and that a reading which runs out of
    /// time says so.
    #[tokio::test]
    async fn bounded() {
        let folder = tempfile::tempdir().unwrap();
        let mut letters = DeadLetters::open(folder.path()).unwrap();
        let letter = |n: usize, reason: &str| DeadLetter {
            received_time_us: 7,
            field: "amount".to_owned(),
            reason: reason.to_owned(),
            event: json!({ "user_id": format!("u{n}"), "note": "é".repeat(2000) }),
        };
        let all: Vec<_> = (0..10).map(|n| letter(n, &format!("is no decimal: {n}"))).chain([letter(99, "is missing")]).collect();
        letters.record(&all).unwrap();
        let place = Place { data_dir: folder.path().to_owned(), store: Store::open("memory://").unwrap() };
        let overview = Overview::read(&place, Duration::from_secs(3600)).await.unwrap();
        assert_eq!((overview.outstanding, overview.settled, overview.partial), (11, 0, false));
        let [first, second] = overview.groups.as_slice() else { panic!("{overview:?}") };
        assert_eq!((first.reason.as_str(), first.outstanding, first.samples.len()), ("is no decimal", 10, MAX_SAMPLES));
        assert_eq!((second.reason.as_str(), second.outstanding), ("is missing", 1));
        let sample = &first.samples[0];
        assert!(sample.is_cut && sample.event_json.len() <= MAX_EVENT_BYTES, "{sample:?}");

        let cut_short = Overview::read(&place, Duration::ZERO).await.unwrap();
        assert_eq!((cut_short.outstanding, cut_short.partial), (1, true));
    }

    /// Proves that reasons beyond the bound are counted together, and that this is told.
    #[test]
    fn many_reasons() {
        let mut groups = BTreeMap::new();
        let found = |n: usize| Found {
            id: "0".repeat(32).parse().unwrap(),
            origin: super::super::walk::Origin::Log,
            letter: DeadLetter { received_time_us: 0, field: "f".into(), reason: format!("reason {n}"), event: json!({}) },
            settled: None,
        };
        let own: Vec<bool> = (0..MAX_COUNTED_GROUPS + 5).map(|n| count(&mut groups, &found(n))).collect();
        assert_eq!(own.iter().filter(|own| **own).count(), MAX_COUNTED_GROUPS);
        assert_eq!(groups.len(), MAX_COUNTED_GROUPS + 1);
        assert_eq!(groups[&(String::new(), OTHER_REASONS.to_owned())].outstanding, 5);
    }
}
