//! All letters: those beside the log, oldest first, then those of each import.

use std::collections::{HashMap, HashSet};
use std::fmt;

use storage::dead_letter::{self, DeadLetter, How, ImportLetters, LetterId, Letters, read_all, read_settled};
use storage::erasures::Erasures;

use super::{DeadLetterError, Place};

/// Where a letter is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// Beside the log: a server refused it.
    Log,
    /// In the store: the import of this number refused it.
    Import(i64),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log => write!(f, "log"),
            Self::Import(number) => write!(f, "import {number}"),
        }
    }
}

/// A letter with what is known of it.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) id: LetterId,
    pub(super) origin: Origin,
    pub(super) letter: DeadLetter,
    /// How it was settled, if it was.
    pub(super) settled: Option<How>,
}

/// The letters, each once, wherever and however often it is kept; none of users who were erased since.
pub(super) struct Walk {
    erasures: Erasures,
    log: Option<Letters>,
    imports: ImportLetters,
    settled: HashMap<LetterId, How>,
    seen: HashSet<LetterId>,
}

impl Walk {
    pub(super) async fn begin(place: &Place) -> Result<Self, DeadLetterError> {
        let settled = read_settled(&place.data_dir)?.map(|entry| entry.map(|(id, settlement)| (id, settlement.how)));
        Ok(Self {
            erasures: Erasures::list(&place.store).await?,
            settled: settled.collect::<Result<_, _>>()?,
            log: Some(read_all(&place.data_dir)?),
            imports: ImportLetters::find(&place.store).await?,
            seen: HashSet::new(),
        })
    }

    /// The next letter; those that a server adds meanwhile may come too.
    pub(super) async fn next(&mut self) -> Result<Option<Found>, DeadLetterError> {
        loop {
            let (id, origin, letter) = match self.log.as_mut().and_then(Iterator::next) {
                Some(letter) => {
                    let (id, letter) = letter?;
                    (id, Origin::Log, letter)
                }
                None => {
                    self.log = None;
                    let Some((number, id, letter)) = self.imports.next().await? else { return Ok(None) };
                    (id, Origin::Import(number), letter)
                }
            };
            if is_erased(&letter, origin, &self.erasures) {
                continue;
            }
            if self.seen.insert(id) {
                return Ok(Some(Found { id, origin, letter, settled: self.settled.get(&id).copied() }));
            }
        }
    }
}

/// Whether a letter is of a user who was erased after it. One of an import is gone whenever that came.
pub(super) fn is_erased(letter: &DeadLetter, origin: Origin, erasures: &Erasures) -> bool {
    match origin {
        Origin::Log => letter.user_id().is_some_and(|user_id| erasures.hides_refused(user_id, letter.received_time_us)),
        Origin::Import(_) => dead_letter::is_erased(letter, erasures),
    }
}
