//! The log's folder: its identity, and the lock that keeps a second server out.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    LogError, LogId, PartitionLog,
    disk::{self, Disk, OsDisk},
    segment::{HEADER_BYTES, PartitionFolder},
};

const FORMAT: u32 = 1;

/// What the file `LOG` says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    format: u32,
    log_id: LogId,
    partitions: u32,
}

/// The log of one data folder, locked for this process.
#[derive(Debug)]
pub struct LogFolder {
    dir: PathBuf,
    identity: Identity,
    disk: Arc<dyn Disk>,
    _lock: File,
}

impl LogFolder {
    /// Opens the log under `data_dir`, or creates one with so many partitions and a new id.
    ///
    /// # Errors
    /// [`LogError::Locked`] when another server has it; [`LogError::PartitionCount`] when it was
    /// created with another number; [`LogError::Damaged`] when the identity cannot be read, or is
    /// gone while records are there.
    ///
    /// # Panics
    /// When `partitions` is zero; the configuration is validated before.
    pub fn open(data_dir: &Path, partitions: u32) -> Result<LogFolder, LogError> {
        LogFolder::open_on(Arc::new(OsDisk), data_dir, partitions)
    }

    /// [`LogFolder::open`] on a disk that a fault test brings.
    ///
    /// # Errors
    /// As [`LogFolder::open`].
    pub fn open_on(disk: Arc<dyn Disk>, data_dir: &Path, partitions: u32) -> Result<LogFolder, LogError> {
        assert!(partitions > 0, "a log has at least one partition");
        let dir = data_dir.join("log");
        disk::create_dir(&*disk, &dir)?;
        let lock_path = dir.join("LOCK");
        let lock_file = File::options().create(true).truncate(false).write(true).open(&lock_path);
        let lock = disk::lock(&lock_path, lock_file.map_err(LogError::io("open", &lock_path))?)?;

        let path = dir.join("LOG");
        let identity = match fs::read(&path) {
            Ok(bytes) => parse_identity(&path, &bytes)?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => create(&*disk, &dir, &path, partitions)?,
            Err(e) => return Err(LogError::io("read", &path)(e)),
        };
        if identity.partitions != partitions {
            return Err(LogError::PartitionCount { path, found: identity.partitions, asked: partitions });
        }
        // An earlier creation may have died between the rename and the sync that makes the name
        // durable.
        disk.sync_dir(&dir).map_err(LogError::io("sync", &dir))?;
        Ok(LogFolder { dir, identity, disk, _lock: lock })
    }

    /// The identity of this log.
    pub fn log_id(&self) -> LogId {
        self.identity.log_id
    }

    /// How many partitions the log has, numbered from 0.
    pub fn partitions(&self) -> u32 {
        self.identity.partitions
    }

    /// Opens one partition for writing and reading: checks its chain of segments and recovers the
    /// newest one.
    ///
    /// # Errors
    /// [`LogError::UnknownPartition`]; [`LogError::Locked`] while an earlier [`PartitionLog`] of
    /// this partition lives; [`LogError::Damaged`] for a missing or foreign segment, a spoilt
    /// header, or an invalid frame with valid ones behind it, and then nothing is changed.
    pub fn partition(&self, partition: u32) -> Result<PartitionLog, LogError> {
        let partitions = self.identity.partitions;
        if partition >= partitions {
            return Err(LogError::UnknownPartition { partition, partitions });
        }
        PartitionLog::open(PartitionFolder::new(&self.dir, partition, self.identity.log_id), Arc::clone(&self.disk))
    }
}

fn parse_identity(path: &Path, bytes: &[u8]) -> Result<Identity, LogError> {
    let damaged = |e: serde_json::Error| LogError::damaged(path, 0, e.to_string());
    let json: serde_json::Value = serde_json::from_slice(bytes).map_err(damaged)?;
    // A newer format may have other fields: its number is looked at before they are.
    match json.get("format").and_then(serde_json::Value::as_u64).map(u32::try_from) {
        Some(Ok(found)) if found > FORMAT => Err(LogError::NewerFormat { path: path.to_owned(), found, known: FORMAT }),
        _ => serde_json::from_value(json).map_err(damaged),
    }
}

/// The partitions first, the identity last: a log whose creation was cut short has no `LOG`, and is
/// created afresh.
fn create(disk: &dyn Disk, dir: &Path, path: &Path, partitions: u32) -> Result<Identity, LogError> {
    refuse_records(dir, path)?;
    let identity = Identity { format: FORMAT, log_id: LogId::random(), partitions };
    for partition in 0..partitions {
        let folder = PartitionFolder::new(dir, partition, identity.log_id);
        disk::create_dir(disk, &folder.dir)?;
        folder.create(disk, 0, 0)?;
    }
    let json = serde_json::to_vec(&identity).expect("numbers and a string are always JSON");
    disk::create_file(disk, path, &json)?;
    Ok(identity)
}

/// Records without a `LOG` are a log that lost its identity: creating a new one over it would lose
/// them too.
fn refuse_records(dir: &Path, path: &Path) -> Result<(), LogError> {
    for folder in list(dir)?.iter().filter(|folder| folder.is_dir()) {
        for segment in list(folder)? {
            let bytes = fs::metadata(&segment).map_err(LogError::io("read", &segment))?.len();
            if bytes > HEADER_BYTES as u64 {
                return Err(LogError::damaged(path, 0, format!("it is missing, though {} holds records", segment.display())));
            }
        }
    }
    Ok(())
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, LogError> {
    let entries = fs::read_dir(dir).map_err(LogError::io("list", dir))?;
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(LogError::io("list", dir))).collect()
}
