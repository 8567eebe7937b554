//! Where versions end, as answers say it: one version, one boundary.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use merganser_proto::v1::Provenance;

/// Where each version's batch view ends, by version and partition, as answers have said.
#[derive(Debug, Default)]
pub struct Boundaries(Mutex<BTreeMap<(i32, i64), i64>>);

impl Boundaries {
    /// A version has one boundary, and no later one lies lower.
    ///
    /// # Errors
    /// What contradicts an earlier answer.
    pub(crate) fn check(&self, provenance: &Provenance) -> Result<(), String> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for edge in &provenance.boundary {
            let (partition, version, offset) = (edge.partition, provenance.version, edge.offset);
            let first = *known.entry((partition, version)).or_insert(offset);
            if first != offset {
                return Err(format!("version {version} ends at {first} and at {offset} in partition {partition}"));
            }
            let later = known.range((partition, version + 1)..(partition + 1, 0)).find(|(_, later)| **later < offset);
            let earlier = known.range((partition, 0)..(partition, version)).find(|(_, earlier)| **earlier > offset);
            if let Some(other) = later.or(earlier) {
                return Err(format!("version {version} ends at {offset} in partition {partition}, and there is {other:?}"));
            }
        }
        Ok(())
    }
}
