//! Dead letters: rows that were refused, kept with their reason before the sender is told.
//!
//! **Layout.** `<data>/dead-letter/letters.log`: `"MRGNDLQ1" | format u32 | crc32c u32`, little
//! endian, then the frames of the log, one a letter, numbered from 0, and a trailer. A payload is the
//! letter's id, 16 bytes, then its JSON `{"received_time_us":…,"field":…,"reason":…,"event":…}`. New
//! files have format 2; one of format 1 keeps it.
//!
//! **Consistency.** A letter is known by what was refused and why, not by when: the same row
//! refused again for the same reason is not kept again, so that repeating a load changes nothing.
//! The ids are held in memory, 16 bytes a letter, and the file is read whole on opening.
//!
//! **What a crash leaves behind.** As in the log: what was recorded is there, a torn tail is cut
//! when the server opens the file. Readers take no lock and change nothing; to them a torn tail is
//! the end.

use std::{
    collections::HashSet,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::log::{
    LogError,
    disk::{self, Disk, DiskLock, FileReader, OsDisk},
    frame::{Coding, FRAME_HEADER_BYTES, Format, Kind},
    header,
    journal::{Journal, Shape},
    recovery,
};

mod letter;
#[cfg(test)]
mod tests;

pub use letter::{DeadLetter, LetterId};

/// The largest letter in bytes: an event of 4 MiB, the most that a request can bring, with every
/// byte escaped in JSON, and its reason.
pub const MAX_LETTER_BYTES: usize = 32 * 1024 * 1024;

const MAGIC: &[u8; 8] = b"MRGNDLQ1";
const FORMAT: u32 = 2;
const HEADER_BYTES: usize = 16;

/// The writing end, held by the one server of the data folder.
#[derive(Debug)]
pub struct DeadLetters {
    journal: Journal,
    known: HashSet<LetterId>,
    _lock: DiskLock,
}

impl DeadLetters {
    /// Opens the dead letters under `data_dir`, or creates an empty file of them.
    ///
    /// # Errors
    /// [`LogError::Locked`] when another writer has them, [`LogError::Damaged`] when something
    /// invalid has a valid letter behind it.
    pub fn open(data_dir: &Path) -> Result<DeadLetters, LogError> {
        DeadLetters::open_on(Arc::new(OsDisk), data_dir)
    }

    /// [`DeadLetters::open`] on the disk that a test brings.
    ///
    /// # Errors
    /// As [`DeadLetters::open`].
    pub fn open_on(disk: Arc<dyn Disk>, data_dir: &Path) -> Result<DeadLetters, LogError> {
        let path = path_in(data_dir);
        let dir = path.parent().expect("the file is in a folder");
        disk::create_dir(&*disk, dir)?;
        let lock = disk::lock(&*disk, dir)?;
        let shape = match open_file(&disk, &path)? {
            Some((_, shape)) => shape,
            None => {
                let header = header();
                disk::create_file(&*disk, &path, &header)?;
                parse_header(&path, &header)?
            }
        };
        // An earlier creation may have died between the rename and the sync that makes the name
        // durable.
        disk.sync_dir(dir).map_err(LogError::io("sync", dir))?;
        let mut known = HashSet::new();
        let journal = recovery::recover(disk, path.clone(), shape, |payload| {
            known.insert(split(&path, payload)?.0);
            Ok(())
        })?;
        Ok(DeadLetters { journal, known, _lock: lock })
    }

    /// Keeps the letters that are not known yet, with one write and one fdatasync, and returns how
    /// many these were. When this returns, all of `letters` are durable. Where all are known it
    /// costs no I/O.
    ///
    /// # Errors
    /// [`LogError::RecordTooLarge`] over [`MAX_LETTER_BYTES`] and [`LogError::DiskFull`], with nothing
    /// kept; [`LogError::Poisoned`] when the write or the sync failed, and for every new letter after
    /// that.
    pub fn record(&mut self, letters: &[DeadLetter]) -> Result<usize, LogError> {
        let mut new = HashSet::new();
        let mut payloads = Vec::new();
        for letter in letters {
            let id = letter.id();
            if !self.known.contains(&id) && new.insert(id) {
                payloads.push(letter.payload(id));
            }
        }
        if payloads.is_empty() {
            return Ok(0);
        }
        self.journal.append(payloads.iter().map(Vec::as_slice))?;
        self.known.extend(&new);
        Ok(new.len())
    }

    /// How many letters are kept.
    pub fn count(&self) -> usize {
        self.known.len()
    }
}

/// Streams the letters under `data_dir`, oldest first, also while a server adds to them; none where
/// nothing was ever refused.
///
/// # Errors
/// [`LogError::Damaged`] or [`LogError::NewerFormat`] for the header; the iterator yields
/// [`LogError::Damaged`] with the byte when something invalid has a valid letter behind it, and
/// then ends.
pub fn read_all(data_dir: &Path) -> Result<Letters, LogError> {
    read_all_on(Arc::new(OsDisk), data_dir)
}

/// [`read_all`] on the disk that a test brings.
///
/// # Errors
/// As [`read_all`].
pub fn read_all_on(disk: Arc<dyn Disk>, data_dir: &Path) -> Result<Letters, LogError> {
    let path = path_in(data_dir);
    let file = open_file(&disk, &path)?;
    let byte = file.as_ref().map_or(0, |(_, shape)| shape.header_bytes as u64);
    Ok(Letters { file, path, byte, next: 0 })
}

/// The letters of a file; see [`read_all`].
#[derive(Debug)]
pub struct Letters {
    /// Gone at the end and after an error.
    file: Option<(BufReader<FileReader>, Shape)>,
    path: PathBuf,
    byte: u64,
    next: i64,
}

impl Iterator for Letters {
    type Item = Result<(LetterId, DeadLetter), LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (mut file, shape) = self.file.take()?;
        match self.read(&mut file, shape) {
            Ok(Some(letter)) => {
                self.file = Some((file, shape));
                Some(Ok(letter))
            }
            Ok(None) => None,
            Err(e) => Some(Err(e)),
        }
    }
}

impl Letters {
    fn read(&mut self, file: &mut BufReader<FileReader>, shape: Shape) -> Result<Option<(LetterId, DeadLetter)>, LogError> {
        let frame = shape.coding.read(file).map_err(LogError::io("read", &self.path))?;
        let Some(frame) = frame.filter(|frame| frame.kind != Kind::Trailer) else {
            self.check_end(file.get_ref(), shape)?;
            return Ok(None);
        };
        recovery::check_offset(&self.path, self.byte, frame.offset, self.next)?;
        let (id, json) = split(&self.path, &frame.payload)?;
        let letter = serde_json::from_slice(json).map_err(|e| LogError::damaged(&self.path, self.byte, e.to_string()))?;
        self.byte += (FRAME_HEADER_BYTES + frame.payload.len()) as u64;
        self.next += 1;
        Ok(Some((id, letter)))
    }

    /// Where no valid letter is, nothing may show that one was durable.
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
        // The letter may have been completed since it was found unfinished.
        if shape.coding.decode(&tail).is_some_and(|frame| frame.kind != Kind::Trailer && frame.offset == self.next) {
            return Ok(());
        }
        recovery::check_tail(&self.path, self.byte, &tail, self.next, shape)
    }
}

fn path_in(data_dir: &Path) -> PathBuf {
    data_dir.join("dead-letter").join("letters.log")
}

/// Opens the file at its first frame; `None` where there is no file.
fn open_file(disk: &Arc<dyn Disk>, path: &Path) -> Result<Option<(BufReader<FileReader>, Shape)>, LogError> {
    let mut file = match FileReader::open(disk, path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(LogError::io("open", path)(e)),
    };
    let shape = parse_header(path, file.fill_buf().map_err(LogError::io("read", path))?)?;
    file.consume(shape.header_bytes);
    Ok(Some((file, shape)))
}

fn header() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

/// What the frames look like after the header at the start of `bytes`.
fn parse_header(path: &Path, bytes: &[u8]) -> Result<Shape, LogError> {
    let format = header::check_kind(path, bytes, MAGIC, FORMAT)?;
    let fields = header::check_sum(path, bytes, HEADER_BYTES)?;
    let format = if format == 1 { Format::One } else { Format::Two(crc32c::crc32c(fields)) };
    Ok(Shape { header_bytes: HEADER_BYTES, first_offset: 0, coding: Coding { format, max_payload_bytes: MAX_LETTER_BYTES } })
}

fn split<'a>(path: &Path, payload: &'a [u8]) -> Result<(LetterId, &'a [u8]), LogError> {
    letter::split(payload).ok_or_else(|| LogError::damaged(path, 0, "a letter is shorter than its id"))
}
