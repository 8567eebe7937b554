//! `speed-layer load FILE…`: sends event files to a running server.
//!
//! A reader thread takes the rows of a file ([`storage::input`]) and cuts them into batches (`batch`); the sender keeps a bounded
//! number of them in flight over one `StreamEvents` call (`send`). Acknowledged rows are tallied and remembered
//! (`progress`), so that a load that was stopped goes on where it was, and a finished one is not sent again. The bar and
//! the closing table are `bar` and `summary`.
//!
//! A row that is no event at all (broken JSON, a time that is no time) cannot be sent: it is counted as rejected, with file
//! and line. Every other row goes to the server, which judges it and keeps what it refuses.
//!
//! The loader never changes a value: the digits of a number travel as they stand in the file.

mod bar;
mod batch;
mod error;
mod progress;
mod send;
mod summary;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::pin::Pin;

use tokio::time::Instant;

use merganser_proto::v1::Event;
use prost_types::Timestamp;
use storage::config::{ClientConfig, TlsConfig};
use storage::input::{EventFile, Position};
use views::RawEvent;

pub use error::LoadError;
pub use summary::{FileSummary, LoadSummary, Outcome, Reason, Tally};

pub(crate) use send::Sender;
pub(crate) use summary::grouped;

use bar::Bar;
use batch::Batches;
use cli::{auth, tls};
use progress::Progress;

/// What to load, and how.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// The server, such as `http://127.0.0.1:7401`.
    pub address: String,
    /// What calls to it show and trust.
    pub tls: TlsConfig,
    /// The token that they carry.
    pub client: ClientConfig,
    /// The event files, loaded one after the other.
    pub files: Vec<PathBuf>,
    /// Rows of one request, at least 1. A request is cut earlier when its events reach 1 MiB.
    pub batch_rows: usize,
    /// Requests sent and not yet acknowledged, at least 1.
    pub in_flight: usize,
    /// Where progress is kept.
    pub state_dir: PathBuf,
    /// Whether to draw a progress bar on stderr. It stays hidden when stderr is not a terminal.
    pub progress: bool,
    /// Whether to send from the first row, whatever was loaded before.
    pub again: bool,
}

/// Loads the files, until all are acknowledged or `shutdown` completes.
///
/// When this returns, whether well or not, all that the server acknowledged is remembered: the same call goes on from there.
/// Every file is found and its ending known before the first row is sent.
///
/// # Errors
/// Whatever kept the load from going on; rows that were rejected are no error and stand in the summary.
///
/// # Panics
/// When `batch_rows` or `in_flight` is 0.
pub async fn run(options: LoadOptions, shutdown: impl Future<Output = ()> + Send) -> Result<LoadSummary, LoadError> {
    assert!(options.batch_rows > 0 && options.in_flight > 0, "a load needs room for one row in one request");
    let started = Instant::now();
    let mut shutdown: Shutdown = Box::pin(shutdown);
    let files = options.files.iter().map(|path| EventFile::find(path)).collect::<Result<Vec<_>, _>>()?;
    let mut bar = Bar::new(files.iter().map(|file| file.size_bytes).sum(), options.progress);
    let token = auth::token(&options.client, &options.address)?;
    let mut sender = Sender::new(&options.address, &tls::calls(&options.tls)?, token, options.in_flight)?;
    let log_id = unless(&mut shutdown, sender.log_id()).await?;

    let mut summary = LoadSummary::default();
    for file in &files {
        let digest = unless(&mut shutdown, async { Ok(file.digest().await?) }).await?;
        let mut progress = Progress::open(&options.state_dir, &log_id, &digest, file, options.again)?;
        let before = progress.tally.received;
        let finished = progress.finished;
        bar.begin(file, before);
        if !finished {
            let loading = load_file(&mut sender, file, options.batch_rows, &mut progress, &bar);
            let outcome = unless(&mut shutdown, loading).await;
            let saved = progress.save();
            outcome?;
            saved?;
        }
        bar.end(file);
        summary.sent_rows += progress.tally.received - before;
        summary.files.push(FileSummary {
            file: file.path.clone(),
            outcome: match before {
                _ if finished => Outcome::AlreadyLoaded,
                0 => Outcome::Loaded,
                row => Outcome::Resumed { after_rows: row },
            },
            tally: progress.tally,
        });
    }
    summary.elapsed = started.elapsed();
    Ok(summary)
}

/// The first line of a row, from 1, and the event or why the row is none.
pub type FileRow = (u64, Result<Event, String>);

/// The rows of one file as [`run`] sends them. After an error there is nothing more.
///
/// # Errors
/// When the file cannot be opened, its ending is unknown, or its columns are not those of events.
pub fn rows(path: &Path) -> Result<impl Iterator<Item = Result<FileRow, LoadError>> + use<>, LoadError> {
    let rows = EventFile::find(path)?.rows(&Position::default())?;
    Ok(rows.map(|row| Ok(row.map(|row| (row.line, row.event.map(message)))?)))
}

/// The event as it is sent.
pub(crate) fn message(raw: RawEvent) -> Event {
    let RawEvent { event_id, user_id, event_time, event_type, amount, attributes } = raw;
    let event_time = event_time.map(|(seconds, nanos)| Timestamp { seconds, nanos });
    Event { event_id, user_id, event_time, event_type, amount, attributes }
}

/// Sends what `progress` does not hold yet.
async fn load_file(sender: &mut Sender, file: &EventFile, batch_rows: usize, progress: &mut Progress, bar: &Bar) -> Result<(), LoadError> {
    let batches = Batches::read(file, progress.tally.received, batch_rows)?;
    sender.send(batches, progress, bar).await?;
    progress.finished = true;
    Ok(())
}

pub(crate) type Shutdown<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Runs `work` to its end, or drops it at its next await when `shutdown` completes first.
pub(crate) async fn unless<T>(shutdown: &mut Shutdown<'_>, work: impl Future<Output = Result<T, LoadError>>) -> Result<T, LoadError> {
    tokio::select! {
        biased;
        () = shutdown.as_mut() => Err(LoadError::Interrupted),
        result = work => result,
    }
}
