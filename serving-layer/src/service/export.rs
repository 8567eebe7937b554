//! Rows of every key as messages: one Arrow IPC stream, cut where a message is full.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use merganser_proto::v1::{ExportSummary, ExportViewRowsResponse};
use tokio::time::{Instant, timeout_at};
use tonic::codegen::Bytes;
use views::FoldError;

use super::snapshot;
use super::view::Table;
use crate::ServingError;
use crate::answer::Answers;
use crate::export::Export;
use crate::position::Offsets;
use crate::question::rfc3339;

/// The most of the stream in one message. A client that takes this much in the time that an answer may stay unread is fast enough.
const MESSAGE_BYTES: usize = 256 << 10;
/// An export that takes longer is given up: the speed layer keeps what it has pinned for it, and connections end at the age of half an hour.
const EXPORT_TIME: Duration = Duration::from_secs(25 * 60);
/// What times are in. `+00:00`, as states have it, is not known everywhere.
const UTC: &str = "UTC";

/// The messages of an export.
///
/// # Errors
/// Here, its columns cannot be had; in the stream, as of [`Export::next`], and it takes too long.
pub(super) fn pieces(
    view: Answers,
    export: Export,
    with_bucket: bool,
) -> Result<BoxStream<'static, Result<ExportViewRowsResponse, ServingError>>, ServingError> {
    let none = RecordBatch::new_empty(Arc::clone(export.version.definition.output_schema()));
    let schema = schema(&view, &export, &columns(&export, &none, with_bucket)?);
    let writer = StreamWriter::try_new(Vec::new(), &schema).map_err(FoldError::from)?;
    let deadline = Instant::now() + EXPORT_TIME;
    let pieces = Pieces { view, export, with_bucket, schema, writer, ready: Bytes::new(), rows: 0, deadline, stage: Stage::Rows };
    let next = |mut pieces: Pieces| async move { Ok(pieces.next().await?.map(|piece| (piece, pieces))) };
    Ok(stream::try_unfold(pieces, next).boxed())
}

struct Pieces {
    view: Answers,
    export: Export,
    with_bucket: bool,
    schema: SchemaRef,
    writer: StreamWriter<Vec<u8>>,
    /// Bytes of the stream that are in no message yet; others may be in the writer.
    ready: Bytes,
    rows: i64,
    deadline: Instant,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Rows,
    Summary,
    Over,
}

impl Pieces {
    async fn next(&mut self) -> Result<Option<ExportViewRowsResponse>, ServingError> {
        loop {
            if self.ready.is_empty() {
                self.ready = std::mem::take(self.writer.get_mut()).into();
            }
            if !self.ready.is_empty() {
                let arrow_ipc = self.ready.split_to(MESSAGE_BYTES.min(self.ready.len()));
                return Ok(Some(ExportViewRowsResponse { arrow_ipc, summary: None }));
            }
            match self.stage {
                Stage::Rows => self.read_on().await?,
                Stage::Summary => {
                    self.stage = Stage::Over;
                    return Ok(Some(ExportViewRowsResponse { arrow_ipc: Bytes::new(), summary: Some(self.summary()) }));
                }
                Stage::Over => return Ok(None),
            }
        }
    }

    /// Writes the rows of the next keys, or the end of the stream.
    async fn read_on(&mut self) -> Result<(), ServingError> {
        let too_long = |_| ServingError::ExportTooLong { minutes: EXPORT_TIME.as_secs() / 60 };
        match timeout_at(self.deadline, self.export.next()).await.map_err(too_long)?? {
            Some(outputs) => {
                let columns = columns(&self.export, &outputs, self.with_bucket)?.into_iter().map(|(_, column)| column);
                let rows = RecordBatch::try_new(Arc::clone(&self.schema), columns.collect()).map_err(FoldError::from)?;
                self.rows += rows.num_rows() as i64;
                if rows.num_rows() > 0 {
                    self.writer.write(&rows).map_err(FoldError::from)?;
                }
            }
            None => {
                self.writer.finish().map_err(FoldError::from)?;
                self.stage = Stage::Summary;
            }
        }
        Ok(())
    }

    fn summary(&self) -> ExportSummary {
        let Export { version, head, incomplete, batch_event_count, speed_event_count, .. } = &self.export;
        let provenance = snapshot(&self.view, version, head, incomplete.as_deref(), [*batch_event_count, *speed_event_count]);
        ExportSummary { row_count: self.rows, provenance: Some(provenance) }
    }
}

/// Names and cells of outputs, times in UTC by that name.
fn columns(export: &Export, outputs: &RecordBatch, with_bucket: bool) -> Result<Vec<(String, ArrayRef)>, ServingError> {
    let table = Table::of(&export.version.definition, outputs, with_bucket)?;
    let in_utc = |(name, column): (String, ArrayRef)| -> Result<_, ArrowError> {
        match column.data_type() {
            DataType::Timestamp(unit, Some(_)) => {
                let utc = DataType::Timestamp(*unit, Some(UTC.into()));
                Ok((name, cast(&column, &utc)?))
            }
            _ => Ok((name, column)),
        }
    };
    Ok(table.columns.into_iter().map(in_utc).collect::<Result<_, _>>().map_err(FoldError::from)?)
}

/// The schema of the rows, which says what they were read from.
fn schema(view: &Answers, export: &Export, columns: &[(String, ArrayRef)]) -> SchemaRef {
    let version = &export.version;
    let fields: Vec<_> = columns.iter().map(|(name, column)| Field::new(name, column.data_type().clone(), true)).collect();
    let mut notes = vec![
        ("view", view.versions.view().to_owned()),
        ("version", version.number.to_string()),
        ("fingerprint", version.definition.fingerprint().to_owned()),
        ("sql", version.definition.sql().to_owned()),
        ("boundary", offsets(&version.boundary)),
        ("head", offsets(&export.head)),
        ("complete", export.incomplete.is_none().to_string()),
    ];
    notes.extend(export.incomplete.clone().map(|reason| ("incomplete_reason", reason)));
    notes.extend(version.computed_us().map(|time_us| ("computed_time", rfc3339(time_us))));
    notes.extend(version.kept_from.map(|time_us| ("kept_from_time", rfc3339(time_us))));
    let notes: HashMap<_, _> = notes.into_iter().map(|(name, value)| (format!("merganser.{name}"), value)).collect();
    Arc::new(Schema::new_with_metadata(fields, notes))
}

/// As the settings and the tables of the command line have them: `0=12 1=15`.
fn offsets(offsets: &Offsets) -> String {
    offsets.iter().map(|(partition, offset)| format!("{partition}={offset}")).collect::<Vec<_>>().join(" ")
}
