//! Who did what to a running system: one line for each administrative act.
//!
//! *Layout:* every act is an event of the `tracing` target `audit`, without the `user_id` of whom it was about. With `audit_file` set it is also a line of that file, a JSON object
//! with `time`, `program`, `act`, `outcome` and, where there are any, `by`, `via`, `address`, `reason` and what is special to the act. *Consistency:* lines are
//! only appended, one write each, so that several programs may share a file; the file is opened for each, so that it may be moved away.
//! When `Audit::record` returns, the line is synced. *What a crash leaves behind:* at most a part of a last line, which the next line does not touch.
//!
//! An act whose line cannot be written is still done, and the log of the program says both: a full disk must not keep an operator from acting.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use prost_types::Timestamp;
use serde_json::{Map, Value};
use tracing::{error, info};

use crate::auth::{Clock, Identity};

/// Who may read the file: who owns it.
const MODE: u32 = 0o600;
/// Longest reason; errors of stores and servers are longer at times.
const MAX_REASON_BYTES: usize = 500;

/// The detail that is in the file alone.
const USER_ID: &str = "user_id";

/// Writes acts down. Cheap to clone.
#[derive(Clone)]
pub struct Audit(Option<Arc<Sink>>);

struct Sink {
    program: &'static str,
    file: Option<PathBuf>,
    clock: Clock,
}

/// Something that somebody did.
#[derive(Clone, Debug, PartialEq)]
pub struct Act {
    act: &'static str,
    outcome: &'static str,
    reason: Option<String>,
    by: Option<(String, &'static str)>,
    address: Option<SocketAddr>,
    details: Map<String, Value>,
}

impl Act {
    /// Such as `cut`: done, by nobody yet.
    #[must_use]
    pub fn new(act: &'static str) -> Self {
        Self { act, outcome: "done", reason: None, by: None, address: None, details: Map::new() }
    }

    /// By this client.
    #[must_use]
    pub fn by(self, who: &Identity) -> Self {
        Self { by: Some((who.name().to_owned(), who.via().as_str())), address: who.address(), ..self }
    }

    /// By a person at a command line, such as `user@host`.
    #[must_use]
    pub fn by_person(self, who: impl Into<String>) -> Self {
        Self { by: Some((who.into(), "command line")), ..self }
    }

    /// From there.
    #[must_use]
    pub fn from(self, address: Option<SocketAddr>) -> Self {
        Self { address, ..self }
    }

    /// What is special to it. A user's id may be; a token or what an event holds may not.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    /// It is about to be done.
    #[must_use]
    pub fn begun(self) -> Self {
        Self { outcome: "begun", ..self }
    }

    /// It was not let happen.
    #[must_use]
    pub fn refused(self, reason: &str) -> Self {
        Self { outcome: "refused", reason: Some(reason.to_owned()), ..self }
    }

    /// It went wrong, perhaps half way.
    #[must_use]
    pub fn failed(self, reason: &str) -> Self {
        let end = (0..=MAX_REASON_BYTES.min(reason.len())).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or(0);
        Self { outcome: "failed", reason: Some(reason[..end].to_owned()), ..self }
    }

    fn line(&self, program: &str, time: &str) -> String {
        let mut line = Map::new();
        let mut put = |name: &str, value: Option<String>| value.map(|value| line.insert(name.to_owned(), value.into()));
        put("time", Some(time.to_owned()));
        put("program", Some(program.to_owned()));
        put("act", Some(self.act.to_owned()));
        put("outcome", Some(self.outcome.to_owned()));
        put("by", self.by.as_ref().map(|(name, _)| name.clone()));
        put("via", self.by.as_ref().map(|(_, via)| (*via).to_owned()));
        put("address", self.address.map(|address| address.to_string()));
        put("reason", self.reason.clone());
        line.extend(self.details.clone());
        Value::Object(line).to_string()
    }
}

impl Audit {
    /// For `program`, into its log and into `file`. The file is opened once, so that a server whose file cannot be written does not
    /// start.
    ///
    /// # Errors
    /// The file cannot be opened for appending.
    pub fn open(program: &'static str, file: PathBuf, clock: Clock) -> io::Result<Self> {
        append(&file, "")?;
        Ok(Self(Some(Arc::new(Sink { program, file: Some(file), clock }))))
    }

    /// For `program`, into its log alone.
    #[must_use]
    pub fn to_log(program: &'static str) -> Self {
        Self(Some(Arc::new(Sink { program, file: None, clock: Arc::new(|| SystemTime::UNIX_EPOCH) })))
    }

    /// Writes nothing down: for simulations and tests.
    #[must_use]
    pub fn off() -> Self {
        Self(None)
    }

    /// Writes an act down. When this returns, its line is durable, or the log says why it is not.
    pub async fn record(&self, act: Act) {
        let Some(sink) = self.0.clone() else { return };
        if sink.file.is_none() {
            return sink.write(&act);
        }
        // Not given up with the call that it is about.
        let _written = tokio::task::spawn_blocking(move || sink.write(&act)).await;
    }

    /// Writes an act down soon: for what strangers cause, which must not wait for a disk. Inside a runtime.
    pub fn note(&self, act: Act) {
        let Some(sink) = self.0.clone() else { return };
        if sink.file.is_none() {
            return sink.write(&act);
        }
        drop(tokio::task::spawn_blocking(move || sink.write(&act)));
    }
}

impl Sink {
    fn write(&self, act: &Act) {
        let Act { act: name, outcome, reason, by, address, details } = act;
        let by_name = by.as_ref().map(|(name, _)| name.as_str());
        let via = by.as_ref().map(|(_, via)| *via);
        let address = address.map(|address| address.to_string());
        // Logs go further than this file does: whom an act was about is not for everyone who reads them.
        let told: Map<String, Value> =
            details.iter().filter(|(name, _)| *name != USER_ID).map(|(name, value)| (name.clone(), value.clone())).collect();
        let details = (!told.is_empty()).then(|| Value::Object(told).to_string());
        info!(target: "audit", outcome, by = by_name, via, address, reason, details, "{name}");
        let Some(file) = &self.file else { return };
        let line = act.line(self.program, &Timestamp::from((self.clock)()).to_string());
        if let Err(e) = append(file, &line) {
            error!(target: "audit", file = %file.display(), error = %e, "the audit file cannot be written; the line above is not in it");
        }
    }
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Audit").field(&self.0.as_ref().map(|sink| &sink.file)).finish()
    }
}

/// Appends a line and syncs it; nothing for an empty one.
fn append(path: &Path, line: &str) -> io::Result<()> {
    let is_new = !path.exists();
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(MODE).open(path)?;
    if is_new && let Some(folder) = path.parent() {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        File::open(folder)?.sync_all()?;
    }
    if line.is_empty() {
        return Ok(());
    }
    let torn = if ends_torn(&mut file)? { "\n" } else { "" };
    file.write_all(format!("{torn}{line}\n").as_bytes())?;
    file.sync_data()
}

/// Whether a crash has left a part of a line at the end.
fn ends_torn(file: &mut File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(false);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn lines(path: &Path) -> Vec<Value> {
        std::fs::read_to_string(path).unwrap().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Proves what a line is, that it is there when `record` returns, that only its owner may read the file, that a torn line costs itself
    /// alone, and that a file that was moved away is made again.
    #[tokio::test]
    async fn lines_of_a_file() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let audit = Audit::open("speed-layer", path.clone(), Arc::new(|| UNIX_EPOCH + Duration::from_millis(1500))).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        audit.record(Act::new("erase").by_person("ann@host").with("user_id", "u\"1\n").begun()).await;
        let expected = r#"{"act":"erase","by":"ann@host","outcome":"begun","program":"speed-layer","time":"1970-01-01T00:00:01.500Z","user_id":"u\"1\n","via":"command line"}"#;
        assert_eq!(lines(&path), [serde_json::from_str::<Value>(expected).unwrap()]);
        std::fs::write(&path, "{\"act\":\"torn").unwrap();
        audit.record(Act::new("cut").failed(&"é".repeat(MAX_REASON_BYTES))).await;
        let kept = lines(&path);
        assert_eq!(kept.len(), 1);
        assert_eq!(kept[0]["reason"].as_str().unwrap().len(), MAX_REASON_BYTES);
        std::fs::rename(&path, folder.path().join("audit.1")).unwrap();
        audit.record(Act::new("cut")).await;
        assert_eq!(lines(&path).len(), 1);
    }

    /// Proves that a program whose audit file cannot be written does not start, and that one that has become so is no reason to stop.
    #[tokio::test]
    async fn no_such_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("away").join("audit.jsonl");
        let clock: Clock = Arc::new(|| UNIX_EPOCH);
        Audit::open("speed-layer", path.clone(), Arc::clone(&clock)).unwrap_err();
        std::fs::create_dir(folder.path().join("away")).unwrap();
        let audit = Audit::open("speed-layer", path, clock).unwrap();
        std::fs::remove_dir_all(folder.path().join("away")).unwrap();
        audit.record(Act::new("cut")).await;
    }
}
