//! One partition at start: compare its log with the store, and bring back into memory what was lost with the last process.
//!
//! A closed segment that turns out to be damaged is written afresh from the archive, and the reading begins again.

use std::collections::BTreeSet;
use std::sync::Arc;

use storage::erasures::Erasure;
use storage::log::PartitionLog;
use storage::machine::blocking;
use tracing::error;
use views::{Definition, EventSchema};

use crate::archive::Archive;
use crate::check::{check_record, check_sealed_record};
use crate::dedup::Window;
use crate::error::SpeedError;
use crate::partition::{PartitionOptions, erasures_in, fold_log, rebuild_window};
use crate::realtime::Kept;
use crate::slices::Slices;

/// What is in memory of a partition.
pub(crate) struct Recovered {
    pub(crate) window: Window,
    pub(crate) views: Vec<Slices>,
    /// Fingerprints of definitions that fail on the log.
    pub(crate) failed: Vec<String>,
    /// Those that may not be in the store yet.
    pub(crate) erasures: Vec<Erasure>,
}

/// Compares and replays one partition.
///
/// # Errors
/// The log is not the one that the store was filled from, or is damaged and cannot be mended.
pub(crate) async fn recover(
    mut log: PartitionLog,
    kept: &[Kept],
    archive: &Arc<Archive>,
    options: &PartitionOptions,
) -> Result<(PartitionLog, Recovered), SpeedError> {
    let mut tried = BTreeSet::new();
    loop {
        let (kept, archive_here) = (kept.to_vec(), Arc::clone(archive));
        let (schema, window_rows) = (options.schema.clone(), options.dedup_window_rows);
        let (given_back, read) = blocking(move || {
            let read = read(&log, &kept, &archive_here, &schema, window_rows);
            (log, read)
        })
        .await;
        log = given_back;
        match read {
            Ok(recovered) => return Ok((log, recovered)),
            Err(SpeedError::Log(damage)) if damage.damaged_segment().is_some_and(|start| tried.insert(start)) => {
                log = archive.mend(log, damage).await?;
            }
            Err(e) => return Err(e),
        }
    }
}

fn read(log: &PartitionLog, kept: &[Kept], archive: &Archive, schema: &EventSchema, window_rows: usize) -> Result<Recovered, SpeedError> {
    let (reader, number) = (log.reader(), log.partition() as usize);
    check_sealed_record(archive, &reader, number)?;
    for version in kept {
        check_record(version, &reader, number)?;
    }
    let (views, failed) = replay(log, kept, schema)?;
    let window = rebuild_window(&reader, window_rows, schema, number as i32)?;
    // Those of an archived segment were put before it.
    let archived = archive.sealed_record(number).map_or(0, |(edge, _)| edge);
    let erasures = erasures_in(&reader, schema, number as i32, archived.max(reader.start())..reader.head())?;
    Ok(Recovered { window, views, failed, erasures })
}

/// The slices of every kept definition, from its lowest boundary on; and the fingerprints of those that fail on a record.
fn replay(log: &PartitionLog, kept: &[Kept], schema: &EventSchema) -> Result<(Vec<Slices>, Vec<String>), SpeedError> {
    let number = log.partition() as usize;
    let mut lowest: Vec<(Arc<Definition>, i64)> = Vec::new();
    for version in kept {
        let boundary = version.boundary.get(number).copied().unwrap_or(0);
        match lowest.iter_mut().find(|(d, _)| d.fingerprint() == version.definition.fingerprint()) {
            Some((_, start)) => *start = boundary.min(*start),
            None => lowest.push((Arc::clone(&version.definition), boundary)),
        }
    }
    let head = log.head();
    let (mut views, mut failed) = (Vec::new(), Vec::new());
    for (definition, start) in lowest {
        match fold_log(&log.reader(), &definition, schema, number as i32, start.min(head)..head) {
            Ok(slices) => views.push(slices),
            Err(e @ SpeedError::Fold { .. }) => {
                error!(
                    error = e.chain(),
                    "a published view fails on accepted events; it cannot be answered until it is mended and recomputed"
                );
                failed.push(definition.fingerprint().to_owned());
            }
            Err(e) => return Err(e),
        }
    }
    Ok((views, failed))
}
