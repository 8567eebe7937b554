//! An export, read to its end.

use anyhow::{Context, Result, bail, ensure};
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Decimal128Type, Int64Type, TimestampMicrosecondType};
use arrow::ipc::reader::StreamDecoder;
use integration_tests::view_oracle::Cell;
use merganser_proto::v1::view_service_client::ViewServiceClient;
use merganser_proto::v1::{ExportViewRowsRequest, ExportViewRowsResponse, Provenance};
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// Names, rows, and what they were read from.
pub(crate) type Exported = (Vec<String>, Vec<Vec<Cell>>, Option<Provenance>);

pub(crate) async fn export(
    client: &mut ViewServiceClient<Channel>,
    request: ExportViewRowsRequest,
) -> Result<Streaming<ExportViewRowsResponse>, Status> {
    Ok(client.export_view_rows(request).await?.into_inner())
}

/// Every piece; an error if it is not whole.
pub(crate) async fn whole(mut pieces: Streaming<ExportViewRowsResponse>) -> Result<Exported> {
    let (mut decoder, mut rows, mut summary) = (StreamDecoder::new(), Vec::new(), None);
    while let Some(piece) = pieces.message().await? {
        ensure!(summary.is_none(), "something comes after the summary");
        let mut unread = Buffer::from(piece.arrow_ipc);
        while !unread.is_empty() {
            let Some(batch) = decoder.decode(&mut unread)? else { continue };
            for row in 0..batch.num_rows() {
                rows.push(batch.columns().iter().map(|column| cell(column, row)).collect::<Result<_>>()?);
            }
        }
        summary = piece.summary;
    }
    decoder.finish()?;
    let (schema, summary) = (decoder.schema().context("no schema")?, summary.context("no summary")?);
    ensure!(summary.row_count == rows.len() as i64, "{} of {} rows came", rows.len(), summary.row_count);
    let provenance = summary.provenance.context("no provenance")?;
    let note = |name: &str| schema.metadata().get(&format!("merganser.{name}")).cloned().unwrap_or_default();
    ensure!(note("version") == provenance.version.to_string(), "the columns are those of v{}: {provenance:?}", note("version"));
    let head: Vec<_> = provenance.head.iter().map(|at| format!("{}={}", at.partition, at.offset)).collect();
    ensure!(note("head") == head.join(" ") && note("complete") == provenance.complete.to_string(), "{schema:?} is from {provenance:?}");
    Ok((schema.fields().iter().map(|field| field.name().clone()).collect(), rows, Some(provenance)))
}

fn cell(column: &ArrayRef, row: usize) -> Result<Cell> {
    Ok(match column.data_type() {
        _ if column.is_null(row) => Cell::Null,
        DataType::Utf8 => Cell::Text(column.as_string::<i32>().value(row).to_owned()),
        DataType::Int64 => Cell::Count(column.as_primitive::<Int64Type>().value(row)),
        DataType::Decimal128(_, 4) => Cell::Money(column.as_primitive::<Decimal128Type>().value(row)),
        DataType::Timestamp(_, Some(zone)) if &**zone == "UTC" => Cell::Time(column.as_primitive::<TimestampMicrosecondType>().value(row)),
        other => bail!("no view has a {other}"),
    })
}
