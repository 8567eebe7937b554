//! What the log promises, from frozen bytes to power cuts.

use std::{path::Path, sync::Arc};

use failing_disk::FastDisk;

use super::{LogError, LogFolder, PartitionLog, frame};

mod bytes;
mod crash;
pub(crate) mod failing_disk;
mod folder;
mod model;

/// Opens partition 0 of a log of one partition, without syncs.
fn open(data_dir: &Path) -> Result<PartitionLog, LogError> {
    LogFolder::open_on(Arc::new(FastDisk), data_dir, 1)?.partition(0)
}

/// The payloads of everything that the partition holds.
fn read_all(log: &PartitionLog) -> Result<Vec<Vec<u8>>, LogError> {
    let oldest = log.reader().segments()?[0].start;
    log.reader().read(oldest..log.head())?.map(|record| record.map(|record| record.payload)).collect()
}

fn append(log: &mut PartitionLog, payloads: &[&str]) -> std::ops::Range<i64> {
    log.append(payloads.iter().map(|payload| payload.as_bytes())).unwrap()
}

fn frame_bytes(payload: &str) -> usize {
    frame::FRAME_HEADER_BYTES + payload.len()
}
