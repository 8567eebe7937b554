//! Dead letters: rows that were refused, kept with their reason before the sender is told.
//!
//! **Layout.** `<data>/dead-letter/letters.log`: `"MRGNDLQ1" | format u32 | crc32c u32`, little
//! endian, then the frames of the log, one a letter, numbered from 0. A payload is the letter's id,
//! 16 bytes, then its JSON `{"received_time_us":…,"field":…,"reason":…,"event":…}`.
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
    fs::File,
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::log::{
    LogError,
    disk::{self, Disk, OsDisk},
    frame::{self, FRAME_HEADER_BYTES},
    journal::{self, Journal, Shape},
    segment,
};

mod letter;
#[cfg(test)]
mod tests;

pub use letter::{DeadLetter, LetterId};

/// The largest letter in bytes: an event of 4 MiB, the most that a request can bring, with every
/// byte escaped in JSON, and its reason.
pub const MAX_LETTER_BYTES: usize = 32 * 1024 * 1024;

const MAGIC: &[u8; 8] = b"MRGNDLQ1";
const FORMAT: u32 = 1;
const HEADER_BYTES: usize = 16;
const SHAPE: Shape = Shape { header_bytes: HEADER_BYTES, first_offset: 0, max_payload_bytes: MAX_LETTER_BYTES };

/// The writing end, held by the one server of the data folder.
#[derive(Debug)]
pub struct DeadLetters {
    journal: Journal,
    known: HashSet<LetterId>,
    _lock: File,
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

    /// [`DeadLetters::open`] on a disk that a fault test brings.
    ///
    /// # Errors
    /// As [`DeadLetters::open`].
    pub fn open_on(disk: Arc<dyn Disk>, data_dir: &Path) -> Result<DeadLetters, LogError> {
        let path = path_in(data_dir);
        let dir = path.parent().expect("the file is in a folder");
        disk::create_dir(&*disk, dir)?;
        let lock = disk::lock_dir(dir)?;
        if open_file(&path)?.is_none() {
            disk::create_file(&*disk, &path, &header())?;
        }
        // An earlier creation may have died between the rename and the sync that makes the name
        // durable.
        disk.sync_dir(dir).map_err(LogError::io("sync", dir))?;
        let mut known = HashSet::new();
        let journal = Journal::recover(disk, path.clone(), SHAPE, |payload| {
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
    /// [`LogError::RecordTooLarge`] over [`MAX_LETTER_BYTES`], before anything is written;
    /// [`LogError::DiskFull`] or [`LogError::Poisoned`] when the write or the sync failed, and
    /// [`LogError::Poisoned`] for every new letter after that.
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
    let path = path_in(data_dir);
    Ok(Letters { file: open_file(&path)?, path, byte: HEADER_BYTES as u64, next: 0 })
}

/// The letters of a file; see [`read_all`].
#[derive(Debug)]
pub struct Letters {
    /// Gone at the end and after an error.
    file: Option<BufReader<File>>,
    path: PathBuf,
    byte: u64,
    next: i64,
}

impl Iterator for Letters {
    type Item = Result<(LetterId, DeadLetter), LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut file = self.file.take()?;
        match self.read(&mut file) {
            Ok(Some(letter)) => {
                self.file = Some(file);
                Some(Ok(letter))
            }
            Ok(None) => None,
            Err(e) => Some(Err(e)),
        }
    }
}

impl Letters {
    fn read(&mut self, file: &mut BufReader<File>) -> Result<Option<(LetterId, DeadLetter)>, LogError> {
        let io = |e| LogError::io("read", &self.path)(e);
        let Some(record) = frame::read(file, MAX_LETTER_BYTES).map_err(io)? else {
            self.check_end(file)?;
            return Ok(None);
        };
        journal::check_offset(&self.path, self.byte, record.offset, self.next)?;
        let (id, json) = split(&self.path, &record.payload)?;
        let letter = serde_json::from_slice(json).map_err(|e| LogError::damaged(&self.path, self.byte, e.to_string()))?;
        self.byte += (FRAME_HEADER_BYTES + record.payload.len()) as u64;
        self.next += 1;
        Ok(Some((id, letter)))
    }

    /// Where no valid frame is, nothing valid may follow.
    fn check_end(&self, file: &mut BufReader<File>) -> Result<(), LogError> {
        let mut tail = Vec::new();
        let read = io::Seek::seek(file, io::SeekFrom::Start(self.byte)).and_then(|_| file.read_to_end(&mut tail));
        read.map_err(LogError::io("read", &self.path))?;
        // The frame may have been completed, and others added, since it was found unfinished.
        if frame::decode(&tail, MAX_LETTER_BYTES).is_some_and(|frame| frame.offset == self.next) {
            return Ok(());
        }
        journal::check_tail(&self.path, self.byte, &tail, self.next, MAX_LETTER_BYTES)
    }
}

fn path_in(data_dir: &Path) -> PathBuf {
    data_dir.join("dead-letter").join("letters.log")
}

/// Opens the file at its first frame; `None` where there is no file.
fn open_file(path: &Path) -> Result<Option<BufReader<File>>, LogError> {
    let mut file = match File::open(path) {
        Ok(file) => BufReader::new(file),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(LogError::io("open", path)(e)),
    };
    let mut found = [0; HEADER_BYTES];
    match file.read_exact(&mut found) {
        Ok(()) => segment::check_format(path, &found, MAGIC, FORMAT).map(|()| Some(file)),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(LogError::damaged(path, 0, "the file ends within its header")),
        Err(e) => Err(LogError::io("read", path)(e)),
    }
}

fn header() -> [u8; HEADER_BYTES] {
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    bytes.try_into().expect("the fields add up to the header's size")
}

fn split<'a>(path: &Path, payload: &'a [u8]) -> Result<(LetterId, &'a [u8]), LogError> {
    letter::split(payload).ok_or_else(|| LogError::damaged(path, 0, "a letter is shorter than its id"))
}
