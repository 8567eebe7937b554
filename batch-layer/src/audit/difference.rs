//! What an audit found: every value that differs goes into a count and a digest, and the first keys are named.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use views::digest::Digest;

/// Keys that a report names when they differ; all are counted.
const NAMED_KEYS: usize = 100;

/// One value that is not the same in both computations.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Difference {
    /// The key.
    pub key: String,
    /// Its bucket, RFC 3339; `None` where the view has none.
    pub bucket: Option<String>,
    /// The output that differs.
    pub column: String,
    /// Its value in the new view.
    pub new: String,
    /// Its value in the other computation.
    pub expected: String,
}

impl Difference {
    /// What differs in an answer, as a line for people.
    pub(crate) fn of_answer(&self) -> String {
        let Self { key, bucket, column, new, expected } = self;
        let bucket = bucket.as_ref().map(|bucket| format!(", bucket {bucket}")).unwrap_or_default();
        format!("\n  key {key}{bucket}: {column} is {new} as it is answered, {expected} from the raw events")
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, bucket, column, new, expected } = self;
        let bucket = bucket.as_ref().map(|bucket| format!(", bucket {bucket}")).unwrap_or_default();
        write!(f, "key {key}{bucket}: {column} is {new} in the new view, expected {expected}")
    }
}

/// All that an audit found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// Keys that differ.
    pub keys: i64,
    /// Over every value that differs: key, bucket, column, and both values where they are exact. Two audits that found the same have
    /// the same, in whatever order.
    pub digest: Digest,
    /// One difference for each of the first keys.
    pub named: Vec<Difference>,
}

impl Differences {
    /// Adds what was found at a value: `of_value` says all of it, with `difference` for people.
    pub(super) fn note(&mut self, of_value: &[&str], difference: impl FnOnce() -> Difference) {
        let mut hasher = blake3::Hasher::new();
        for part in of_value {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
        self.digest.plus(Digest::of_row(hasher.finalize().as_bytes()));
        if self.named.len() < NAMED_KEYS {
            let difference = difference();
            if self.named.iter().all(|named| named.key != difference.key) {
                self.named.push(difference);
            }
        }
    }

    /// Counts keys, none of which was counted before.
    pub(super) fn count(&mut self, keys: &BTreeSet<String>) {
        self.keys += keys.len() as i64;
    }

    /// Adds what was found among other keys.
    pub(super) fn extend(&mut self, other: Self) {
        self.keys += other.keys;
        self.digest.plus(other.digest);
        self.named.extend(other.named);
        self.named.truncate(NAMED_KEYS);
    }
}
