//! A log is written, its files are spoilt, and it is opened again: an error that names a file, or the records that were written,
//! at their offsets. Never others.

use std::fs;
use std::path::{Path, PathBuf};

use storage::log::{LogError, LogFolder, PartitionLog};

use crate::choices::Choices;
use crate::memory::largest_of;
use crate::scratch;
use crate::spoil::spoil;

/// What no allocation may exceed, next to the size of the files: twice the largest record.
const SLACK_BYTES: usize = 2 << 20;

pub(crate) fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let folder = scratch::folder();
    let written = write(folder.path(), &mut choices).expect("a new log takes records");
    let spoilt = spoil_files(folder.path(), &mut choices);
    let file_bytes: u64 = files(folder.path()).iter().filter_map(|file| fs::metadata(file).ok()).map(|m| m.len()).sum();
    let (head, largest) = largest_of(|| judge(folder.path(), &written, spoilt));
    assert!(largest <= SLACK_BYTES + 4 * file_bytes as usize, "{largest} bytes at once for files of {file_bytes}");
    if let Some(head) = head {
        goes_on(folder.path(), head);
    }
}

fn open(data_dir: &Path) -> Result<PartitionLog, LogError> {
    LogFolder::open(data_dir, 1)?.partition(0)
}

/// A few appends and rolls. A payload may hold the frames before it, byte for byte.
fn write(data_dir: &Path, choices: &mut Choices<'_>) -> Result<Vec<Vec<u8>>, LogError> {
    let mut log = open(data_dir)?;
    let mut written: Vec<Vec<u8>> = Vec::new();
    for _ in 0..choices.below(6) {
        let mut batch: Vec<Vec<u8>> = Vec::new();
        for _ in 0..choices.below(4) {
            batch.push(match choices.one_in(6) {
                true => files(data_dir).last().and_then(|file| fs::read(file).ok()).unwrap_or_default(),
                false => choices.bytes(48).to_vec(),
            });
        }
        log.append(batch.iter().map(Vec::as_slice))?;
        written.extend(batch);
        if choices.one_in(3) {
            log.roll()?;
        }
    }
    Ok(written)
}

/// The segments by name, oldest first.
fn files(data_dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(data_dir.join("log/p0000")).into_iter().flatten();
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| file.extension().is_some_and(|ending| ending == "log"));
    files.sort();
    files
}

/// What was done to the files, as far as it decides what may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spoilt {
    /// All files are there, and the newest one is as it was.
    NotTheNewest,
    /// The newest file is not as it was written, or gone.
    Newest,
}

fn spoil_files(data_dir: &Path, choices: &mut Choices<'_>) -> Spoilt {
    let segments = files(data_dir);
    let newest = segments.last().expect("a log has a segment").clone();
    let as_written = fs::read(&newest).expect("it was written");
    for _ in 0..choices.below(4) {
        let chosen = &segments[segments.len() - 1 - choices.below(segments.len())];
        match choices.below(12) {
            0 => drop(fs::remove_file(chosen)),
            1 => {
                let other = &segments[choices.below(segments.len())];
                let (one, two) = (fs::read(chosen).unwrap_or_default(), fs::read(other).unwrap_or_default());
                drop((fs::write(chosen, two), fs::write(other, one)));
            }
            2 => spoil_file(&data_dir.join("log/LOG"), choices),
            _ => spoil_file(chosen, choices),
        }
    }
    if fs::read(&newest).is_ok_and(|bytes| bytes == as_written) { Spoilt::NotTheNewest } else { Spoilt::Newest }
}

fn spoil_file(file: &Path, choices: &mut Choices<'_>) {
    let Ok(mut bytes) = fs::read(file) else { return };
    spoil(&mut bytes, choices);
    fs::write(file, bytes).expect("the folder takes files");
}

/// Opens and reads everything. The head, where all of it could be read.
fn judge(data_dir: &Path, written: &[Vec<u8>], spoilt: Spoilt) -> Option<i64> {
    let log = match open(data_dir) {
        Ok(log) => log,
        Err(error) => {
            names_a_file(&error, data_dir);
            return None;
        }
    };
    let head = log.head();
    assert!(usize::try_from(head).is_ok_and(|head| head <= written.len()), "a head of {head} after {} records", written.len());
    if spoilt == Spoilt::NotTheNewest {
        assert_eq!(head, written.len() as i64, "the newest segment is whole, and records are gone");
    }
    let oldest = log.reader().segments().expect("the folder can be listed").first().map_or(0, |range| range.start);
    let mut next = oldest;
    for record in log.reader().read(oldest..head).expect("the range is there") {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                names_a_file(&error, data_dir);
                return None;
            }
        };
        assert_eq!(record.offset, next, "offsets count up");
        assert!(record.payload == written[next as usize], "record {next} is not what was written");
        next += 1;
    }
    assert_eq!(next, head, "the reader ended early and said nothing");
    Some(head)
}

/// What was opened and read without a complaint takes records, and opens again.
fn goes_on(data_dir: &Path, head: i64) {
    let range = open(data_dir).and_then(|mut log| log.append([b"after".as_slice()])).expect("it was opened before");
    assert_eq!(range, head..head + 1);
    let log = open(data_dir).expect("it was opened before");
    let records: Result<Vec<_>, _> = log.reader().read(range.clone()).expect("the range is there").collect();
    let records = records.expect("it was just written");
    assert!(records.len() == 1 && records[0].payload == b"after" && records[0].offset == head);
}

fn names_a_file(error: &LogError, data_dir: &Path) {
    let text = error.to_string();
    assert!(text.contains(&*data_dir.to_string_lossy()), "no file is named: {text}");
}
