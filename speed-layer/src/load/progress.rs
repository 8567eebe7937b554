//! What a server's log has acknowledged of a file, remembered from one run to the next.
//!
//! **Layout.** One small JSON file in the state folder for each pair of log and file content, named
//! `<log id>-<first 32 digits of the content's BLAKE3>.json`. The file's own name and place do not matter.
//!
//! **Consistency.** `tally.received` is the number of leading rows that are dealt with, in the order of the file; the tally
//! says what became of them. It only ever holds what the server has acknowledged.
//!
//! **What a crash leaves behind.** The file is replaced whole: written beside, synced, renamed. After a crash it may lag
//! behind the server. The rows in between are then sent again and the server finds them to be duplicates.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use merganser_proto::v1::StreamEventsResponse;
use serde::{Deserialize, Serialize};
use storage::input::EventFile;

use super::LoadError;
use super::batch::Batch;
use super::summary::Tally;

/// Written into every progress file; another number is refused.
const FORMAT: u32 = 1;
/// Acknowledgements between two writes.
const SAVE_EVERY: u32 = 50;

/// The progress of one file in one log.
pub(super) struct Progress {
    /// What became of the rows so far.
    pub tally: Tally,
    /// Whether those are all rows of the file.
    pub finished: bool,
    path: PathBuf,
    file_name: String,
    unsaved: u32,
}

/// The progress file.
#[derive(Serialize, Deserialize)]
struct Saved {
    format: u32,
    /// For people who look into the folder.
    file: String,
    finished: bool,
    tally: Tally,
}

impl Progress {
    /// What is remembered of the content `digest` in the log `log_id`: nothing the first time, nor when it goes in `again`.
    pub(super) fn open(state_dir: &Path, log_id: &str, digest: &blake3::Hash, file: &EventFile, again: bool) -> Result<Self, LoadError> {
        let path = state_dir.join(format!("{log_id}-{:.32}.json", digest.to_hex()));
        fs::create_dir_all(state_dir).map_err(|source| LoadError::Progress { file: path.clone(), source })?;
        let saved = if again { None } else { read(&path)? };
        let (tally, finished) = saved.map(|saved| (saved.tally, saved.finished)).unwrap_or_default();
        Ok(Self { tally, finished, path, file_name: file.name(), unsaved: 0 })
    }

    /// Counts a batch that the server has answered.
    pub(super) fn acknowledge(&mut self, batch: &Batch, response: StreamEventsResponse) -> Result<(), LoadError> {
        let (accepted, duplicate) = (response.accepted_count as u64, response.duplicate_count as u64);
        let refused = response.rejected.len() as u64;
        let answered = [accepted, duplicate, refused].into_iter().try_fold(0, u64::checked_add);
        if answered != Some(batch.events.len() as u64) {
            let what = format!(
                "{} events are answered by {} accepted, {} duplicate, {refused} rejected",
                batch.events.len(),
                response.accepted_count,
                response.duplicate_count,
            );
            return Err(LoadError::Contract { what });
        }
        self.tally.received += batch.rows() as u64;
        self.tally.accepted += accepted;
        self.tally.duplicate += duplicate;
        self.tally.rejected += refused + batch.unreadable.len() as u64;
        self.tally.unreadable += batch.unreadable.len() as u64;
        let place = |line: Option<&u64>| match line {
            Some(line) => format!("{}:{line}", self.file_name),
            None => self.file_name.clone(),
        };
        for error in response.rejected {
            let line = usize::try_from(error.index).ok().and_then(|index| batch.lines.get(index));
            let reason = if error.field.is_empty() { error.reason } else { format!("{} {}", error.field, error.reason) };
            self.tally.blame(reason, || place(line));
        }
        for (line, reason) in &batch.unreadable {
            self.tally.blame(reason.clone(), || place(Some(line)));
        }
        self.unsaved += 1;
        if self.unsaved >= SAVE_EVERY { self.save() } else { Ok(()) }
    }

    /// Writes what is known now. When this returns, it survives a crash.
    pub(super) fn save(&mut self) -> Result<(), LoadError> {
        let tally = self.tally.clone();
        let saved = Saved { format: FORMAT, file: self.file_name.clone(), finished: self.finished, tally };
        let text = serde_json::to_vec_pretty(&saved).expect("counts and texts are always valid JSON");
        replace(&self.path, &text).map_err(|source| LoadError::Progress { file: self.path.clone(), source })?;
        self.unsaved = 0;
        Ok(())
    }
}

fn read(path: &Path) -> Result<Option<Saved>, LoadError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(LoadError::Progress { file: path.to_owned(), source });
        }
    };
    match serde_json::from_slice::<Saved>(&text) {
        Ok(saved) if saved.format == FORMAT => Ok(Some(saved)),
        Ok(_) => Err(LoadError::DamagedProgress { file: path.to_owned(), source: None }),
        Err(source) => Err(LoadError::DamagedProgress { file: path.to_owned(), source: Some(source) }),
    }
}

/// Puts `bytes` in the place of the file at `path`, at once. Two processes do not share the file beside it.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension(format!("{}.tmp", std::process::id()));
    let mut file = File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)
}
