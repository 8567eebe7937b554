//! What the log promises, from frozen bytes to power cuts.

use std::path::{Path, PathBuf};

use super::{LogError, LogFolder, LogId, PartitionLog, disk::MemoryDisk, frame, header::SegmentHeader};

mod bytes;
mod crash;
mod disk;
mod folder;
mod full;
mod model;
mod repair;
mod torn;
mod trim;

const ID: LogId = LogId::from_bytes([0xab; 16]);

/// Opens the folder of a log of one partition.
fn open_folder(disk: &MemoryDisk) -> Result<LogFolder, LogError> {
    LogFolder::open_on(disk.process(), Path::new("/data"), 1, ID)
}

/// Opens partition 0 of a log of one partition.
fn open(disk: &MemoryDisk) -> Result<PartitionLog, LogError> {
    open_folder(disk)?.partition(0)
}

/// A new log on a new disk.
fn fresh() -> (MemoryDisk, PartitionLog) {
    let disk = MemoryDisk::new();
    let log = open(&disk).unwrap();
    (disk, log)
}

/// Where a segment of partition 0 is kept.
fn segment(base: i64) -> PathBuf {
    PathBuf::from(format!("/data/log/p0000/{base:020}.log"))
}

/// The payloads of everything that the partition holds.
fn read_all(log: &PartitionLog) -> Result<Vec<Vec<u8>>, LogError> {
    let reader = log.reader();
    reader.read(reader.start()..log.head())?.map(|record| record.map(|record| record.payload)).collect()
}

fn append(log: &mut PartitionLog, payloads: &[&str]) -> std::ops::Range<i64> {
    log.append(payloads.iter().map(|payload| payload.as_bytes())).unwrap()
}

fn frame_bytes(payload: &str) -> usize {
    frame::FRAME_HEADER_BYTES + payload.len()
}

/// What the header of a segment takes.
const HEADER_BYTES: usize = super::header::MAX_HEADER_BYTES;
/// What a trailer takes.
const TRAILER_BYTES: usize = frame::FRAME_HEADER_BYTES;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Turns over one bit.
fn flip(bytes: &mut [u8], bit: usize) {
    bytes[bit / 8] ^= 1 << (bit % 8);
}
