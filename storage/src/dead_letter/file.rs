//! A file of frames, each a letter's id and a JSON text: the letters themselves, and what became of them.

use std::{
    io::{self, BufRead, BufReader},
    marker::PhantomData,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::de::DeserializeOwned;

use super::letter::{self, LetterId};
use crate::log::{
    LogError,
    disk::{self, Disk, DiskLock, FileReader},
    frame::{Coding, FRAME_HEADER_BYTES, Format, Kind},
    header,
    journal::{Journal, Shape},
    recovery,
};

pub(super) const HEADER_BYTES: usize = 16;

/// What tells one kind of file from another.
pub(super) struct FileKind {
    pub(super) magic: &'static [u8; 8],
    /// Of new files.
    pub(super) format: u32,
    pub(super) max_payload_bytes: usize,
}

/// Makes the folder of the file at `path` and keeps other writers out of it.
pub(super) fn lock_folder(disk: &dyn Disk, path: &Path) -> Result<DiskLock, LogError> {
    let dir = path.parent().expect("the file is in a folder");
    disk::create_dir(disk, dir)?;
    disk::lock(disk, dir)
}

impl FileKind {
    /// Opens the file for writing, or creates it, and shows all that it holds to `visit`. The caller has locked its folder.
    pub(super) fn recover(&self, disk: Arc<dyn Disk>, path: PathBuf, mut visit: impl FnMut(LetterId, &[u8])) -> Result<Journal, LogError> {
        let shape = match self.open(&disk, &path)? {
            Some((_, shape)) => shape,
            None => {
                let header = self.header();
                disk::create_file(&*disk, &path, &header)?;
                self.shape(&path, &header)?
            }
        };
        // An earlier creation may have died between the rename and the sync that makes the name
        // durable.
        let dir = path.parent().expect("the file is in a folder");
        disk.sync_dir(dir).map_err(LogError::io("sync", dir))?;
        recovery::recover(disk, path.clone(), shape, |payload| {
            let (id, json) = split(&path, payload)?;
            visit(id, json);
            Ok(())
        })
    }

    /// Opens the file at its first frame; `None` where there is no file.
    fn open(&self, disk: &Arc<dyn Disk>, path: &Path) -> Result<Option<(BufReader<FileReader>, Shape)>, LogError> {
        let mut file = match FileReader::open(disk, path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(LogError::io("open", path)(e)),
        };
        let shape = self.shape(path, file.fill_buf().map_err(LogError::io("read", path))?)?;
        file.consume(shape.header_bytes);
        Ok(Some((file, shape)))
    }

    pub(super) fn header(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(self.magic);
        bytes.extend_from_slice(&self.format.to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        bytes
    }

    /// What the frames look like after the header at the start of `bytes`.
    pub(super) fn shape(&self, path: &Path, bytes: &[u8]) -> Result<Shape, LogError> {
        let format = header::check_kind(path, bytes, self.magic, self.format)?;
        let fields = header::check_sum(path, bytes, HEADER_BYTES)?;
        let format = if format == 1 { Format::One } else { Format::Two(crc32c::crc32c(fields)) };
        let coding = Coding { format, max_payload_bytes: self.max_payload_bytes };
        Ok(Shape { header_bytes: HEADER_BYTES, first_offset: 0, coding })
    }
}

/// What a file holds, oldest first, each with the id of its letter. After an error there is nothing more.
#[derive(Debug)]
pub struct Entries<T> {
    /// Gone at the end and after an error.
    file: Option<(BufReader<FileReader>, Shape)>,
    path: PathBuf,
    byte: u64,
    next: i64,
    kind: PhantomData<fn() -> T>,
}

impl<T> Entries<T> {
    pub(super) fn read(kind: &FileKind, disk: &Arc<dyn Disk>, path: PathBuf) -> Result<Self, LogError> {
        let file = kind.open(disk, &path)?;
        let byte = file.as_ref().map_or(0, |(_, shape)| shape.header_bytes as u64);
        Ok(Self { file, path, byte, next: 0, kind: PhantomData })
    }
}

impl<T: DeserializeOwned> Iterator for Entries<T> {
    type Item = Result<(LetterId, T), LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (mut file, shape) = self.file.take()?;
        match self.read_next(&mut file, shape) {
            Ok(Some(entry)) => {
                self.file = Some((file, shape));
                Some(Ok(entry))
            }
            Ok(None) => None,
            Err(e) => Some(Err(e)),
        }
    }
}

impl<T: DeserializeOwned> Entries<T> {
    fn read_next(&mut self, file: &mut BufReader<FileReader>, shape: Shape) -> Result<Option<(LetterId, T)>, LogError> {
        let frame = shape.coding.read(file).map_err(LogError::io("read", &self.path))?;
        let Some(frame) = frame.filter(|frame| frame.kind != Kind::Trailer) else {
            self.check_end(file.get_ref(), shape)?;
            return Ok(None);
        };
        recovery::check_offset(&self.path, self.byte, frame.offset, self.next)?;
        let (id, json) = split(&self.path, &frame.payload)?;
        let entry = serde_json::from_slice(json).map_err(|e| LogError::damaged(&self.path, self.byte, e.to_string()))?;
        self.byte += (FRAME_HEADER_BYTES + frame.payload.len()) as u64;
        self.next += 1;
        Ok(Some((id, entry)))
    }

    /// Where no valid frame is, nothing may show that one was durable.
    fn check_end(&self, file: &FileReader, shape: Shape) -> Result<(), LogError> {
        let checked = self.check_tail(file, shape);
        match checked {
            // Others may have been added while the tail was read: what stands behind this one now was
            // begun after it was durable, so it must be there at a second look.
            Err(LogError::Damaged { .. }) => self.check_tail(file, shape),
            other => other,
        }
    }

    fn check_tail(&self, file: &FileReader, shape: Shape) -> Result<(), LogError> {
        let tail = file.tail(self.byte).map_err(LogError::io("read", &self.path))?;
        // The frame may have been completed since it was found unfinished.
        if shape.coding.decode(&tail).is_some_and(|frame| frame.kind != Kind::Trailer && frame.offset == self.next) {
            return Ok(());
        }
        recovery::check_tail(&self.path, self.byte, &tail, self.next, shape)
    }
}

fn split<'a>(path: &Path, payload: &'a [u8]) -> Result<(LetterId, &'a [u8]), LogError> {
    letter::split(payload).ok_or_else(|| LogError::damaged(path, 0, "an entry is shorter than its id"))
}
