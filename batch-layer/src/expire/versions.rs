//! Which versions go.

use chrono::{DateTime, Utc};
use storage::erasures::Erasures;
use storage::manifest::Manifest;

/// The speed layer answers from so many newest versions.
const ANSWERED: usize = 2;

/// What is kept beside what must be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keep {
    /// So many newest versions,
    pub(super) versions: usize,
    /// and those that were published since.
    pub(super) since: DateTime<Utc>,
}

/// A version that is there.
#[derive(Clone, Debug)]
pub(super) struct Published {
    pub(super) manifest: Manifest,
    pub(super) since: DateTime<Utc>,
}

/// A version that goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Going {
    /// Its number.
    pub version: i64,
    /// Why, for people.
    pub reason: String,
}

/// The versions that go, of all that are there, oldest first.
pub(super) fn going(published: &[Published], keep: Keep, erasures: &Erasures) -> Vec<Going> {
    let newest_of = |wanted: fn(&Manifest) -> bool| published.iter().rev().map(|p| &p.manifest).find(|m| wanted(m));
    // Of a view that is withdrawn nobody answers.
    let withdrawn = published.last().is_some_and(|newest| newest.manifest.withdrawn);
    let answers = newest_of(|manifest| !manifest.withdrawn).filter(|_| !withdrawn);
    let from_all = newest_of(|manifest| !manifest.withdrawn && manifest.built_upon.is_none());
    let carried_out = answers.map_or_else(|| erasures.clone(), |answers| erasures.below(&answers.boundary));
    let mut going = Vec::new();
    for (newer, Published { manifest, since }) in published.iter().rev().enumerate() {
        let version = manifest.version;
        if newer == 0 || answers.is_some_and(|answers| answers.version == version) {
            continue;
        }
        let is_kept = newer < keep.versions.max(ANSWERED) || *since >= keep.since || from_all.is_some_and(|all| all.version == version);
        let reason = match manifest.withdrawn || carried_out.from(&manifest.boundary).is_empty() {
            true if is_kept => continue,
            true => format!("{newer} newer ones are there, and it is past its keep-for"),
            false => "users were erased whom it may still count".to_owned(),
        };
        going.push(Going { version, reason });
    }
    going.reverse();
    going
}
