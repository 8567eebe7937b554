use std::pin::Pin;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};
use arrow::ipc::writer::StreamWriter;
use clap::Parser;
use futures::{Stream, stream};
use merganser_proto::v1::view_service_server::{ViewService, ViewServiceServer};
use merganser_proto::v1::{
    GetTopRowsRequest, GetTopRowsResponse, GetViewRowsRequest, GetViewRowsResponse, ListVersionsRequest, ListVersionsResponse,
    ListViewsRequest, ListViewsResponse, Provenance,
};
use tempfile::TempDir;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use super::*;

const ROWS: i64 = 3000;

/// Says the same to everybody.
struct Says(Vec<Result<ExportViewRowsResponse, Status>>);

#[tonic::async_trait]
impl ViewService for Says {
    type ExportViewRowsStream = Pin<Box<dyn Stream<Item = Result<ExportViewRowsResponse, Status>> + Send>>;

    async fn export_view_rows(&self, _: Request<ExportViewRowsRequest>) -> Result<Response<Self::ExportViewRowsStream>, Status> {
        Ok(Response::new(Box::pin(stream::iter(self.0.clone()))))
    }

    async fn list_views(&self, _: Request<ListViewsRequest>) -> Result<Response<ListViewsResponse>, Status> {
        Err(Status::unimplemented("no test asks"))
    }

    async fn get_view_rows(&self, _: Request<GetViewRowsRequest>) -> Result<Response<GetViewRowsResponse>, Status> {
        Err(Status::unimplemented("no test asks"))
    }

    async fn get_top_rows(&self, _: Request<GetTopRowsRequest>) -> Result<Response<GetTopRowsResponse>, Status> {
        Err(Status::unimplemented("no test asks"))
    }

    async fn list_versions(&self, _: Request<ListVersionsRequest>) -> Result<Response<ListVersionsResponse>, Status> {
        Err(Status::unimplemented("no test asks"))
    }
}

/// A stream of two batches in pieces of a thousand bytes.
fn pieces() -> Vec<Result<ExportViewRowsResponse, Status>> {
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..ROWS));
    let rows = RecordBatch::try_from_iter([("n", numbers)]).unwrap();
    let mut writer = StreamWriter::try_new(Vec::new(), rows.schema_ref()).unwrap();
    writer.write(&rows.slice(0, 1000)).unwrap();
    writer.write(&rows.slice(1000, 2000)).unwrap();
    let stream = writer.into_inner().unwrap();
    stream.chunks(1000).map(|bytes| Ok(ExportViewRowsResponse { arrow_ipc: bytes.to_vec().into(), summary: None })).collect()
}

fn summary(row_count: i64) -> Result<ExportViewRowsResponse, Status> {
    let provenance = Some(Provenance { view: "user_stats".to_owned(), version: 7, complete: true, ..Default::default() });
    Ok(ExportViewRowsResponse { arrow_ipc: Default::default(), summary: Some(ExportSummary { row_count, provenance }) })
}

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    export: Export,
}

/// Runs the command against a server that says this.
async fn run_against(said: Vec<Result<ExportViewRowsResponse, Status>>, output: &Path, flags: &[&str]) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let mut config = Config::default();
    config.serving_layer.grpc_address = listener.local_addr()?.to_string();
    let server = tonic::transport::Server::builder().add_service(ViewServiceServer::new(Says(said)));
    let server = tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let line = ["export", "user_stats", "--output", output.to_str().unwrap()];
    let ran = run(Line::try_parse_from(line.iter().chain(flags))?.export, &config).await;
    server.abort();
    ran
}

fn files(folder: &TempDir) -> usize {
    std::fs::read_dir(folder.path()).unwrap().count()
}

/// Proves that a whole export is a file, in either format, that one that is there stays unless it is to be replaced, and that this is said
/// before the server is asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whole() {
    let folder = TempDir::new().unwrap();
    for (name, flags) in [("a.parquet", vec![]), ("a.arrow", vec![]), ("a.txt", vec!["--format", "parquet"])] {
        let output = folder.path().join(name);
        let said = || pieces().into_iter().chain([summary(ROWS)]).collect::<Vec<_>>();
        run_against(said(), &output, &flags).await.unwrap();
        let written = std::fs::read(&output).unwrap();
        assert!(written.starts_with(if name == "a.arrow" { b"ARROW1" } else { b"PAR1" }), "{name}");
        let refused = run_against(Vec::new(), &output, &flags).await.unwrap_err();
        assert!(refused.to_string().contains("--force"), "{refused}");
        assert_eq!(std::fs::read(&output).unwrap(), written);
        run_against(said(), &output, &[flags.as_slice(), &["--force"]].concat()).await.unwrap();
    }
    assert_eq!(files(&folder), 3);
    let refused = run_against(Vec::new(), &folder.path().join("a.csv"), &[]).await.unwrap_err();
    assert!(refused.to_string().contains("unknown ending"), "{refused}");
}

/// Proves that what breaks off, fails, or is not what the summary says, leaves no file, nor anything beside it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn not_whole() {
    let folder = TempDir::new().unwrap();
    let output = folder.path().join("a.parquet");
    let all = pieces;
    let cut = |at: usize| all().into_iter().take(at);
    let failed = || Err(Status::unavailable("the speed layer does not answer"));
    let cases: [(&str, Vec<_>); 6] = [
        ("nothing was said", Vec::new()),
        ("no summary", all()),
        ("an end in the middle", cut(9).chain([summary(1000)]).collect()),
        ("an error in the middle", cut(20).chain([failed()]).collect()),
        ("rows are missing", all().into_iter().chain([summary(ROWS + 1)]).collect()),
        ("more after the end", all().into_iter().chain([summary(ROWS), summary(ROWS)]).collect()),
    ];
    for (case, said) in cases {
        let refused = run_against(said, &output, &[]).await.expect_err(case);
        assert!(format!("{refused:#}").contains("nothing was written"), "{case}: {refused:#}");
        assert_eq!(files(&folder), 0, "{case}");
    }
}

/// Proves that the line that is printed reads files whose names have quotes.
#[test]
fn reading() {
    assert_eq!(reader(Path::new("it's.parquet"), TableFormat::Parquet), "duckdb -c \"FROM 'it''s.parquet' LIMIT 10\"");
}
