//! Every row of a view, as one stream from one snapshot.

use std::collections::HashMap;

use arrow::array::{AsArray, RecordBatch};
use arrow::buffer::Buffer;
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Int64Type, TimeUnit};
use arrow::ipc::reader::StreamDecoder;
use merganser_proto::v1::view_service_client::ViewServiceClient;
use merganser_proto::v1::{Consistency, ExportSummary, ExportViewRowsRequest, Granularity};
use tonic::{Code, Status};
use views::{Granularity as Fold, fold};

use super::fixture::{DAY_US, Fixture, states};

/// A whole export.
#[derive(Debug)]
struct Exported {
    rows: RecordBatch,
    summary: ExportSummary,
    notes: HashMap<String, String>,
}

fn by_bucket() -> ExportViewRowsRequest {
    ExportViewRowsRequest { view: "user_stats".to_owned(), granularity: Granularity::Bucket.into(), ..Default::default() }
}

async fn export(fixture: &Fixture, request: ExportViewRowsRequest) -> Result<Exported, Status> {
    let mut pieces = ViewServiceClient::new(fixture.channel.clone()).export_view_rows(request).await?.into_inner();
    let (mut decoder, mut batches, mut summary) = (StreamDecoder::new(), Vec::new(), None);
    while let Some(piece) = pieces.message().await? {
        assert_eq!(summary, None, "the summary comes last");
        let mut unread = Buffer::from(piece.arrow_ipc);
        while !unread.is_empty() {
            batches.extend(decoder.decode(&mut unread).unwrap());
        }
        summary = piece.summary;
    }
    decoder.finish().unwrap();
    let (schema, summary) = (decoder.schema().unwrap(), summary.expect("a stream that ends well has a summary"));
    let rows = concat_batches(&schema, &batches).unwrap();
    assert_eq!(summary.row_count, rows.num_rows() as i64);
    Ok(Exported { rows, summary, notes: schema.metadata().clone() })
}

/// Proves that the cells are those of a fold of the events `[0, end)`.
fn assert_rows(fixture: &Fixture, exported: &RecordBatch, end: i64, granularity: Fold) {
    let outputs = fold::finish(&fixture.definition, [&states(&fixture.definition, 0, end)], granularity).unwrap();
    let mut expected = outputs.columns().to_vec();
    expected.remove(2);
    if granularity == Fold::Total {
        expected.remove(1);
    }
    for (found, expected) in exported.columns().iter().zip(&expected) {
        assert_eq!(found, &cast(expected, found.data_type()).unwrap());
    }
    assert_eq!(exported.num_columns(), expected.len());
}

/// Proves that both halves are in every row, each event once, in columns of their own types, and that the stream says what it is made of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_halves() {
    let fixture = Fixture::new(&[40], 100).await;
    let Exported { rows, summary, notes } = export(&fixture, by_bucket()).await.unwrap();
    assert_rows(&fixture, &rows, 100, Fold::Bucket);
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let columns: Vec<_> = rows.schema().fields().iter().map(|field| (field.name().clone(), field.data_type().clone())).collect();
    let expected = [
        ("user_id", DataType::Utf8),
        ("bucket", utc.clone()),
        ("event_count", DataType::Int64),
        ("revenue", DataType::Decimal128(28, 4)),
        ("first_event_time", utc.clone()),
        ("last_event_time", utc),
    ];
    assert_eq!(columns, expected.map(|(name, kind)| (name.to_owned(), kind)));
    let provenance = summary.provenance.unwrap();
    assert_eq!((provenance.version, provenance.batch_event_count, provenance.speed_event_count), (1, 40, 60));
    assert!(provenance.complete && provenance.boundary[0].offset == 40 && provenance.head[0].offset == 100);
    let note = |name: &str| notes[&format!("merganser.{name}")].as_str();
    assert_eq!(
        [note("view"), note("version"), note("boundary"), note("head"), note("complete")],
        ["user_stats", "1", "0=40", "0=100", "true"]
    );
    assert_eq!((note("fingerprint"), note("sql")), (provenance.fingerprint.as_str(), fixture.definition.sql()));

    let total = ExportViewRowsRequest { view: "user_stats".to_owned(), ..Default::default() };
    assert_rows(&fixture, &export(&fixture, total).await.unwrap().rows, 100, Fold::Total);
}

/// Proves that nothing at all is exported as columns without rows, and that what was never published is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_version() {
    let fixture = Fixture::new(&[], 0).await;
    let exported = export(&fixture, by_bucket()).await.unwrap();
    assert_eq!((exported.rows.num_rows(), exported.rows.num_columns()), (0, 6));
    fixture.speed().head = 7;
    assert_rows(&fixture, &export(&fixture, by_bucket()).await.unwrap().rows, 7, Fold::Bucket);
}

/// Proves that a range and an earlier version are what they are in any answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn range_and_version() {
    let fixture = Fixture::new(&[40, 70], 100).await;
    let day = |day: i64| Some(prost_types::Timestamp { seconds: day * DAY_US / 1_000_000, nanos: 0 });
    let some = export(&fixture, ExportViewRowsRequest { start_time: day(1), end_time: day(3), ..by_bucket() }).await.unwrap();
    let counts: i64 = some.rows.column(2).as_primitive::<Int64Type>().values().iter().sum();
    assert_eq!((some.rows.num_rows(), counts), (6, 40));
    let earlier = export(&fixture, ExportViewRowsRequest { version: 1, ..by_bucket() }).await.unwrap();
    assert_rows(&fixture, &earlier.rows, 40, Fold::Bucket);
    let inside = ExportViewRowsRequest { start_time: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }), ..by_bucket() };
    let refused = export(&fixture, inside).await.unwrap_err();
    assert!(refused.code() == Code::InvalidArgument && refused.message().starts_with("start_time: "), "{refused:?}");
    let refused = export(&fixture, ExportViewRowsRequest { view: "nothing".to_owned(), ..by_bucket() }).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
}

/// Proves that without the speed layer there is an error, or for those who take it the batch half, which says so from its first byte on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn speed_layer_down() {
    let fixture = Fixture::new(&[40], 100).await;
    fixture.speed().down = true;
    let refused = export(&fixture, by_bucket()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    let asked = |consistency: Consistency| ExportViewRowsRequest { consistency: consistency.into(), ..by_bucket() };
    let half = export(&fixture, asked(Consistency::BestEffort)).await.unwrap();
    assert_rows(&fixture, &half.rows, 40, Fold::Bucket);
    let provenance = half.summary.provenance.unwrap();
    assert!(!provenance.complete && provenance.incomplete_reason.contains("down for a test"), "{provenance:?}");
    assert_eq!(half.notes["merganser.complete"], "false");
    assert_eq!(half.notes["merganser.incomplete_reason"], provenance.incomplete_reason);
    let batch = export(&fixture, asked(Consistency::BatchOnly)).await.unwrap();
    assert!(batch.summary.provenance.unwrap().complete && batch.notes["merganser.complete"] == "true");
}

/// Proves that states which break off, wherever they do, are an error and no end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn states_that_break_off() {
    let fixture = Fixture::new(&[40], 100).await;
    let messages = 2 + states(&fixture.definition, 40, 100).num_rows().div_ceil(2);
    for broken in 0..messages {
        fixture.speed().messages = Some(broken);
        let refused = export(&fixture, by_bucket()).await.unwrap_err();
        assert_eq!(refused.code(), Code::Internal, "after {broken} messages: {refused:?}");
    }
    fixture.speed().messages = Some(messages);
    assert_rows(&fixture, &export(&fixture, by_bucket()).await.unwrap().rows, 100, Fold::Bucket);
}

/// Proves that an export asks again of a newer version when the speed layer has let go of its boundary.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn newer_version() {
    let fixture = Fixture::new(&[40], 100).await;
    fixture.publish(2, 80).await;
    fixture.speed().oldest_boundary = 80;
    let exported = export(&fixture, by_bucket()).await.unwrap();
    assert_rows(&fixture, &exported.rows, 100, Fold::Bucket);
    assert_eq!(exported.summary.provenance.unwrap().version, 2);
}
