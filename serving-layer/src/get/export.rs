//! `serving-layer export`: the rows of every key of a view, into a file.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamDecoder;
use chrono::{DateTime, Utc};
use clap::{Args, ValueEnum, value_parser};
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use merganser_proto::v1::view_service_client::ViewServiceClient;
use merganser_proto::v1::{self, CalendarUnit, ExportSummary, ExportViewRowsRequest, ExportViewRowsResponse};
use storage::config::Config;
use storage::output::{TableFile, TableFormat, check_free};
use tokio::time::timeout;
use tonic::{Code, Streaming};

use super::{Consistency, Unanswered, connect, number, parse_date, sentence, table, timestamp};

/// Longer than the server lets one message wait.
const MESSAGE_PATIENCE: Duration = Duration::from_secs(60);
/// How often progress is drawn.
const TICK: Duration = Duration::from_millis(200);

/// Which rows of which view, and where to.
#[derive(Args)]
pub(crate) struct Export {
    /// The view, such as user_stats.
    view: String,
    /// The file to write; `-` is an Arrow stream on stdout.
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// How the file holds its rows; by the ending of its name if absent.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Replaces a file that is there.
    #[arg(long)]
    force: bool,
    /// Start of the range, inclusive: 2024-01-31 (midnight UTC) or RFC 3339.
    #[arg(long, value_name = "DATE", value_parser = parse_date)]
    from: Option<DateTime<Utc>>,
    /// End of the range, exclusive.
    #[arg(long, value_name = "DATE", value_parser = parse_date)]
    to: Option<DateTime<Utc>>,
    /// A row for each key, for each of its buckets, or for each period of the calendar.
    #[arg(long, value_enum, default_value_t = By::Total)]
    by: By,
    /// The time zone of the calendar, such as Europe/Berlin; UTC if absent.
    #[arg(long, value_name = "ZONE", requires = "by")]
    zone: Option<String>,
    /// The server; by default the address in the settings.
    #[arg(long, value_name = "URL")]
    address: Option<String>,
    /// What the rows must contain; fresh if absent, and with --version batch-only.
    #[arg(long, value_enum)]
    consistency: Option<Consistency>,
    /// The rows of an earlier version, by its number.
    #[arg(long, value_name = "N", value_parser = value_parser!(i64).range(1..))]
    version: Option<i64>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Parquet,
    Arrow,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    Total,
    Bucket,
    Day,
    Week,
    Month,
    Quarter,
    Year,
}

/// Where the rows go.
enum Sink {
    Stdout,
    File { path: PathBuf, format: TableFormat, replace: bool, begun: Option<TableFile> },
}

/// Asks, writes, and says what it has written. What is not whole is no file.
pub(crate) async fn run(export: Export, config: &Config) -> anyhow::Result<()> {
    let mut sink = Sink::of(&export)?;
    let mut client = ViewServiceClient::new(connect(export.address.as_deref(), config).await?);
    let mut pieces = client.export_view_rows(request(&export)).await.map_err(Unanswered::Refused)?.into_inner();
    let received = tokio::select! {
        summary = receive(&mut pieces, &mut sink) => summary,
        _ = tokio::signal::ctrl_c() => Err(anyhow!("interrupted")),
    };
    let summary = received.map_err(|e| e.context(sink.left_behind()))?;
    let bytes = sink.finish(&summary)?;
    say(&sink, &summary, bytes)
}

fn request(export: &Export) -> ExportViewRowsRequest {
    let calendar_unit = match export.by {
        By::Total | By::Bucket => CalendarUnit::Unspecified,
        By::Day => CalendarUnit::Day,
        By::Week => CalendarUnit::Week,
        By::Month => CalendarUnit::Month,
        By::Quarter => CalendarUnit::Quarter,
        By::Year => CalendarUnit::Year,
    };
    let granularity = if export.by == By::Total { v1::Granularity::Total } else { v1::Granularity::Bucket };
    ExportViewRowsRequest {
        view: export.view.clone(),
        start_time: export.from.map(timestamp),
        end_time: export.to.map(timestamp),
        granularity: granularity.into(),
        consistency: number(export.consistency),
        min_position: String::new(),
        version: export.version.unwrap_or(0),
        calendar_unit: calendar_unit.into(),
        time_zone: export.zone.clone().unwrap_or_default(),
    }
}

/// All pieces, to the summary behind the last of them.
async fn receive(pieces: &mut Streaming<ExportViewRowsResponse>, sink: &mut Sink) -> anyhow::Result<ExportSummary> {
    let (mut decoder, mut summary) = (StreamDecoder::new(), None);
    let (mut rows, mut bytes) = (0, 0);
    let progress = progress();
    while let Some(piece) =
        timeout(MESSAGE_PATIENCE, pieces.message()).await.context("the server says nothing more")?.map_err(broken_off)?
    {
        ensure!(summary.is_none(), "the server went on after the end");
        bytes += piece.arrow_ipc.len() as u64;
        sink.bytes(&piece.arrow_ipc)?;
        let mut unread = Buffer::from(piece.arrow_ipc);
        while !unread.is_empty() {
            if let Some(batch) = decoder.decode(&mut unread).context("the server's rows cannot be read")? {
                rows += batch.num_rows() as i64;
                sink.rows(&batch)?;
            }
        }
        summary = piece.summary;
        progress.set_message(format!("{} rows, {}", HumanCount(rows as u64), HumanBytes(bytes)));
    }
    progress.finish_and_clear();
    let summary = summary.context("the rows broke off before their end")?;
    decoder.finish().context("the rows broke off before their end")?;
    ensure!(summary.row_count == rows, "the server has sent {rows} of {} rows", summary.row_count);
    // A view without rows has columns.
    sink.begin(&decoder.schema().context("the server said nothing of the columns")?)?;
    Ok(summary)
}

fn broken_off(status: tonic::Status) -> anyhow::Error {
    // It says how long an export may take.
    anyhow!(if status.code() == Code::DeadlineExceeded { status.message().to_owned() } else { sentence(&status) })
}

/// Seen on a terminal only.
fn progress() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})").expect("the template is well-formed");
    let progress = ProgressBar::new_spinner().with_style(style).with_message("waiting for the first rows");
    progress.enable_steady_tick(TICK);
    progress
}

impl Sink {
    /// Refuses what could not be written before anything is asked for.
    fn of(export: &Export) -> anyhow::Result<Self> {
        if export.output == Path::new("-") {
            ensure!(export.format.is_none(), "on stdout rows are an Arrow stream; leave --format out, or name a file");
            return Ok(Self::Stdout);
        }
        let format = match export.format {
            Some(Format::Parquet) => TableFormat::Parquet,
            Some(Format::Arrow) => TableFormat::Arrow,
            None => TableFormat::of(&export.output)?,
        };
        check_free(&export.output, export.force)?;
        Ok(Self::File { path: export.output.clone(), format, replace: export.force, begun: None })
    }

    /// Takes the stream as it comes.
    fn bytes(&mut self, stream: &[u8]) -> anyhow::Result<()> {
        if let Self::Stdout = self {
            io::stdout().write_all(stream).context("cannot write to stdout")?;
        }
        Ok(())
    }

    /// Takes the rows of the stream.
    fn rows(&mut self, batch: &RecordBatch) -> anyhow::Result<()> {
        match self.begin(batch.schema_ref())? {
            Some(file) => Ok(file.write(batch)?),
            None => Ok(()),
        }
    }

    /// The file, if there is to be one.
    fn begin(&mut self, schema: &SchemaRef) -> anyhow::Result<Option<&mut TableFile>> {
        let Self::File { path, format, replace, begun } = self else { return Ok(None) };
        if begun.is_none() {
            *begun = Some(TableFile::create(path, *format, schema, *replace)?);
        }
        Ok(begun.as_mut())
    }

    /// What there is of rows that did not come to their end.
    fn left_behind(&self) -> &'static str {
        match self {
            Self::Stdout => "what was written is not whole",
            Self::File { .. } => "nothing was written",
        }
    }

    /// Puts the file in its place; gives its size.
    fn finish(&mut self, summary: &ExportSummary) -> anyhow::Result<u64> {
        match self {
            Self::Stdout => Ok(io::stdout().flush().map(|()| 0).context("cannot write to stdout")?),
            Self::File { begun, .. } => Ok(begun.take().expect("it was begun with the columns").finish(notes(summary))?),
        }
    }
}

/// What the file says of itself beside what its schema does.
fn notes(summary: &ExportSummary) -> Vec<(String, String)> {
    let provenance = summary.provenance.clone().unwrap_or_default();
    let notes = [
        ("row_count", summary.row_count),
        ("batch_event_count", provenance.batch_event_count),
        ("speed_event_count", provenance.speed_event_count),
    ];
    notes.into_iter().map(|(name, count)| (format!("merganser.{name}"), count.to_string())).collect()
}

/// On stdout; on stderr if the rows are there.
fn say(sink: &Sink, summary: &ExportSummary, bytes: u64) -> anyhow::Result<()> {
    let source = table::source(&summary.provenance.clone().context("the server did not say what it read")?);
    let rows = HumanCount(summary.row_count as u64);
    #[allow(clippy::print_stdout, clippy::print_stderr, reason = "this is what the command is for")]
    match sink {
        Sink::Stdout => eprintln!("{rows} rows\n{source}"),
        Sink::File { path, format, .. } => {
            println!("{}: {rows} rows, {}\n{source}\n{}", path.display(), HumanBytes(bytes), reader(path, *format))
        }
    }
    Ok(())
}

/// The line that reads it.
fn reader(path: &Path, format: TableFormat) -> String {
    // Quoted for SQL, then for the shell.
    let name = path.display().to_string().replace('\'', "''");
    match format {
        TableFormat::Parquet => format!("duckdb -c \"FROM '{name}' LIMIT 10\""),
        TableFormat::Arrow => {
            format!(
                "python3 -c \"import duckdb, pyarrow.feather as f; rows = f.read_table('{name}'); print(duckdb.sql('FROM rows LIMIT 10'))\""
            )
        }
    }
}

#[cfg(test)]
mod tests;
