//! The log's folder: its identity, its epoch, and the lock that keeps a second server out.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    LogError, LogId, PartitionLog,
    disk::{self, Disk, DiskLock, OsDisk},
    epoch::{self, parse_versioned},
    header::MAX_HEADER_BYTES,
    repair,
    reserve::Reserve,
    segment::PartitionFolder,
};

const FORMAT: u32 = 1;
/// The log's folder in the data folder.
pub(super) const LOG_DIR: &str = "log";

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
    epoch: i64,
    disk: Arc<dyn Disk>,
    reserve: Arc<Reserve>,
    _lock: DiskLock,
}

impl LogFolder {
    /// Opens the log under `data_dir`, or creates one with so many partitions and a new id. Begins
    /// the next epoch.
    ///
    /// # Errors
    /// [`LogError::Locked`] when another server has it; [`LogError::PartitionCount`] when it was
    /// created with another number; [`LogError::Damaged`] when the identity cannot be read, or is
    /// gone while records are there.
    ///
    /// # Panics
    /// When `partitions` is zero; the configuration is validated before.
    pub fn open(data_dir: &Path, partitions: u32) -> Result<LogFolder, LogError> {
        LogFolder::open_on(Arc::new(OsDisk), data_dir, partitions, LogId::random())
    }

    /// [`LogFolder::open`] on the disk that a test brings; a log that is not there gets `fresh_id`.
    ///
    /// # Errors
    /// As [`LogFolder::open`].
    pub fn open_on(disk: Arc<dyn Disk>, data_dir: &Path, partitions: u32, fresh_id: LogId) -> Result<LogFolder, LogError> {
        assert!(partitions > 0, "a log has at least one partition");
        let dir = data_dir.join(LOG_DIR);
        disk::create_dir(&*disk, &dir)?;
        let lock = disk::lock(&*disk, &dir.join("LOCK"))?;

        let path = dir.join("LOG");
        let found = read_identity(&*disk, &path)?;
        match &found {
            Some(found) if found.partitions != partitions => {
                return Err(LogError::PartitionCount { path, found: found.partitions, asked: partitions });
            }
            Some(_) => {}
            None => refuse_records(&*disk, &dir, &path)?,
        }
        let reserve = Arc::new(Reserve::new(Arc::clone(&disk), &dir));
        let epoch = epoch::begin(&*disk, &dir, &reserve)?;
        let created = found.is_none();
        let identity = found.unwrap_or(Identity { format: FORMAT, log_id: fresh_id, partitions });
        let folder = LogFolder { dir, identity, epoch, disk, reserve, _lock: lock };
        if created {
            folder.create(&path)?;
        }
        // An earlier creation may have died between the rename and the sync that makes the name
        // durable.
        folder.disk.sync_dir(&folder.dir).map_err(LogError::io("sync", &folder.dir))?;
        folder.reserve.fill();
        Ok(folder)
    }

    /// The identity of this log.
    pub fn log_id(&self) -> LogId {
        self.identity.log_id
    }

    /// How many partitions the log has, numbered from 0.
    pub fn partitions(&self) -> u32 {
        self.identity.partitions
    }

    /// How often the log has been opened, this time included: a number that no other server of this
    /// log ever has.
    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    /// Opens one partition for writing and reading: checks its chain of segments and recovers the
    /// newest one.
    ///
    /// # Errors
    /// [`LogError::UnknownPartition`]; [`LogError::Locked`] while an earlier [`PartitionLog`] of
    /// this partition lives; [`LogError::Damaged`] for a missing or foreign segment, a spoilt
    /// header, or an invalid frame before what was durable, and then nothing is changed.
    pub fn partition(&self, partition: u32) -> Result<PartitionLog, LogError> {
        PartitionLog::open(self.partition_folder(partition)?, Arc::clone(&self.reserve))
    }

    /// [`PartitionLog::replace_closed`] for a partition that cannot be opened, because a closed
    /// segment is missing or its header is spoilt.
    ///
    /// # Errors
    /// As [`PartitionLog::replace_closed`]; [`LogError::UnknownPartition`]; [`LogError::Locked`]
    /// while the partition is open.
    pub fn replace_closed<'a>(
        &self,
        partition: u32,
        range: Range<i64>,
        records: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<(), LogError> {
        let folder = self.partition_folder(partition)?;
        let _lock = disk::lock(&*self.disk, &folder.dir)?;
        let bases = folder.bases()?;
        repair::replace(&folder, &bases, range, records)
    }

    fn partition_folder(&self, partition: u32) -> Result<PartitionFolder, LogError> {
        let partitions = self.identity.partitions;
        if partition >= partitions {
            return Err(LogError::UnknownPartition { partition, partitions });
        }
        Ok(PartitionFolder {
            disk: Arc::clone(&self.disk),
            dir: dir_of(&self.dir, partition),
            partition,
            log_id: self.identity.log_id,
            epoch: self.epoch,
        })
    }

    /// The partitions first, the identity last: a log whose creation was cut short has no `LOG`,
    /// and is created afresh.
    fn create(&self, path: &Path) -> Result<(), LogError> {
        for partition in 0..self.identity.partitions {
            let folder = self.partition_folder(partition)?;
            disk::create_dir(&*self.disk, &folder.dir)?;
            folder.create(0, 0)?;
        }
        let json = serde_json::to_vec(&self.identity).expect("numbers and a string are always JSON");
        disk::create_file(&*self.disk, path, &json)
    }
}

/// The id of the log under `data_dir`, if there is one, without opening it: a server may be running.
///
/// # Errors
/// [`LogError::Damaged`] or [`LogError::NewerFormat`], or the disk's.
pub fn read_log_id(data_dir: &Path) -> Result<Option<LogId>, LogError> {
    let identity = read_identity(&OsDisk, &data_dir.join(LOG_DIR).join("LOG"))?;
    Ok(identity.map(|identity| identity.log_id))
}

fn read_identity(disk: &dyn Disk, path: &Path) -> Result<Option<Identity>, LogError> {
    match disk.read(path) {
        Ok(bytes) => parse_versioned(path, &bytes, FORMAT).map(Some),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(LogError::io("read", path)(e)),
    }
}

/// Where a partition is kept.
fn dir_of(log_dir: &Path, partition: u32) -> PathBuf {
    log_dir.join(format!("p{partition:04}"))
}

/// Records without a `LOG` are a log that lost its identity: creating a new one over it would lose
/// them too.
fn refuse_records(disk: &dyn Disk, dir: &Path, path: &Path) -> Result<(), LogError> {
    for partition in 0.. {
        let folder = dir_of(dir, partition);
        if !disk.exists(&folder).map_err(LogError::io("look for", &folder))? {
            return Ok(());
        }
        for segment in disk.list(&folder).map_err(LogError::io("list", &folder))? {
            let bytes = disk.open(&segment).and_then(|file| disk.len(&file)).map_err(LogError::io("read", &segment))?;
            if bytes > MAX_HEADER_BYTES as u64 {
                return Err(LogError::damaged(path, 0, format!("it is missing, though {} holds records", segment.display())));
            }
        }
    }
    Ok(())
}
