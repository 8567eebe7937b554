//! Rows of a file, cut into requests by a thread of its own.

use merganser_proto::v1::Event;
use prost::Message;
use storage::input::{EventFile, Position, Rows};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::LoadError;
use super::{FileRow, message};

/// Where a request is cut, in bytes of its encoded events: well below the 4 MiB that a server takes.
const MAX_BATCH_BYTES: usize = 1024 * 1024;

/// Batches that wait to be sent. The sender holds the ones in flight.
const READ_AHEAD: usize = 2;

/// Some adjacent rows of a file.
pub(super) struct Batch {
    /// The rows that can be sent.
    pub events: Vec<Event>,
    /// The line or row of each of `events`.
    pub lines: Vec<u64>,
    /// The rows that cannot: line or row, and why.
    pub unreadable: Vec<(u64, String)>,
    /// How far the file was read behind these rows, in bytes as stored.
    pub position_bytes: u64,
}

impl Batch {
    fn empty() -> Self {
        Self { events: Vec::new(), lines: Vec::new(), unreadable: Vec::new(), position_bytes: 0 }
    }

    /// All rows, readable or not.
    pub(super) fn rows(&self) -> usize {
        self.events.len() + self.unreadable.len()
    }
}

/// The batches of one file, as they are read.
pub(super) struct Batches {
    receiver: mpsc::Receiver<Result<Batch, LoadError>>,
    reader: Option<JoinHandle<()>>,
}

impl Batches {
    /// Starts to read `file` behind its first `skip` rows. The thread ends when this is dropped.
    pub(super) fn read(file: &EventFile, skip: u64, batch_rows: usize) -> Result<Self, LoadError> {
        let position = Position::default();
        let rows = file.rows(&position)?;
        let (sender, receiver) = mpsc::channel(READ_AHEAD);
        let reader = tokio::task::spawn_blocking(move || {
            for batch in cut(rows, skip, batch_rows, position) {
                if sender.blocking_send(batch).is_err() {
                    break;
                }
            }
        });
        Ok(Self { receiver, reader: Some(reader) })
    }

    /// The next batch; none at the end of the file. May be dropped at any await and called again.
    pub(super) async fn next(&mut self) -> Option<Result<Batch, LoadError>> {
        let batch = self.receiver.recv().await;
        if batch.is_none()
            && let Some(reader) = &mut self.reader
        {
            // A reader that panicked closes the channel too: that is not the end of the file.
            reader.await.expect("the reader thread ran to its end");
            self.reader = None;
        }
        batch
    }
}

/// The batches of `rows`: at most `batch_rows` rows and [`MAX_BATCH_BYTES`] each. An error is the last item.
pub(super) fn cut(mut rows: Rows, mut skip: u64, batch_rows: usize, position: Position) -> impl Iterator<Item = Result<Batch, LoadError>> {
    let mut held: Option<(FileRow, usize)> = None;
    let mut failure: Option<LoadError> = None;
    std::iter::from_fn(move || {
        let mut batch = Batch::empty();
        let mut batch_bytes = 0;
        while batch.rows() < batch_rows && failure.is_none() {
            let ((line, event), bytes) = match held.take().map(Ok).or_else(|| next(&mut rows, &mut skip)) {
                None => break,
                Some(Ok(sized)) => sized,
                Some(Err(error)) => {
                    failure = Some(error);
                    break;
                }
            };
            if batch_bytes + bytes > MAX_BATCH_BYTES && batch.rows() > 0 {
                held = Some(((line, event), bytes));
                break;
            }
            batch_bytes += bytes;
            match event {
                Ok(event) => {
                    batch.events.push(event);
                    batch.lines.push(line);
                }
                Err(reason) => batch.unreadable.push((line, reason)),
            }
        }
        batch.position_bytes = position.get();
        if batch.rows() > 0 { Some(Ok(batch)) } else { failure.take().map(Err) }
    })
}

/// The next row behind the skipped ones, with the bytes it takes in a request. A row too large for any request cannot be sent.
fn next(rows: &mut Rows, skip: &mut u64) -> Option<Result<(FileRow, usize), LoadError>> {
    while *skip > 0 {
        *skip -= 1;
        if let Err(error) = rows.next()? {
            return Some(Err(error.into()));
        }
    }
    let row = match rows.next()? {
        Ok(row) => row,
        Err(error) => return Some(Err(error.into())),
    };
    let event = row.event.map(message);
    // A tag and a length stand before each event.
    let bytes = event.as_ref().map_or(0, |event| event.encoded_len() + 6);
    Some(Ok(match bytes <= MAX_BATCH_BYTES {
        true => ((row.line, event), bytes),
        false => ((row.line, Err("the event is larger than 1 MiB".to_owned())), 0),
    }))
}
