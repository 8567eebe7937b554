//! `ViewService`: any view, in the columns that its definition names.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::compute::{SortColumn, SortOptions, lexsort_to_indices, take_record_batch};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use merganser_proto::v1::view_service_server::ViewService;
use merganser_proto::v1::{
    ExportViewRowsRequest, ExportViewRowsResponse, GetTopRowsRequest, GetTopRowsResponse, GetViewRowsRequest, GetViewRowsResponse,
    ListVersionsRequest, ListVersionsResponse, ListViewsRequest, ListViewsResponse, PartitionOffset, Row, Version, View,
};
use prost::Message;
use storage::machine::{blocking, now_us};
use storage::manifest::{Manifest, Manifests};
use storage::paths::ViewName;
use storage::store::StoreError;
use tonic::{Request, Response, Status};
use views::definition::BUCKET;
use views::{Definition, FoldError};

use super::stats::NOT_MEASURES;
use super::{MAX_ANSWER_BYTES, Service, bytes_in_list, export, provenance, question, stats, status};
use crate::ServingError;
use crate::answer::Answers;
use crate::grouping::Grouping;
use crate::version::computed_us;

/// Most versions that are listed.
const MAX_VERSIONS: usize = 1000;
/// Most rows of a ranking.
const MAX_TOP_ROWS: usize = 1000;

#[tonic::async_trait]
impl ViewService for Service {
    type ExportViewRowsStream = BoxStream<'static, Result<ExportViewRowsResponse, Status>>;

    async fn list_views(&self, _: Request<ListViewsRequest>) -> Result<Response<ListViewsResponse>, Status> {
        Ok(Response::new(ListViewsResponse { views: self.served.all().iter().map(described).collect() }))
    }

    async fn get_view_rows(&self, request: Request<GetViewRowsRequest>) -> Result<Response<GetViewRowsResponse>, Status> {
        let response = self.rows(request.into_inner()).await;
        response.map(Response::new).map_err(|e| status::of(&e))
    }

    async fn get_top_rows(&self, request: Request<GetTopRowsRequest>) -> Result<Response<GetTopRowsResponse>, Status> {
        let response = self.top(request.into_inner()).await;
        response.map(Response::new).map_err(|e| status::of(&e))
    }

    async fn export_view_rows(&self, request: Request<ExportViewRowsRequest>) -> Result<Response<Self::ExportViewRowsStream>, Status> {
        let pieces = self.export(request.into_inner()).await;
        pieces.map(|pieces| Response::new(pieces.map_err(|e| status::of(&e)).boxed())).map_err(|e| status::of(&e))
    }

    async fn list_versions(&self, request: Request<ListVersionsRequest>) -> Result<Response<ListVersionsResponse>, Status> {
        let response = self.versions(&request.into_inner().view).await;
        response.map(Response::new).map_err(|e| status::of(&e))
    }
}

impl Service {
    async fn rows(&self, request: GetViewRowsRequest) -> Result<GetViewRowsResponse, ServingError> {
        let view = self.served.view(&request.view)?;
        let answer = view.answer(&question::of_rows(request, now_us(&*self.machine))?).await?;
        let part = answer.parts.first().expect("an answer about keys has one part");
        let outputs = part.merged.buckets.as_ref().unwrap_or(&part.merged.total);
        let table = Table::of(&answer.version.definition, outputs, part.merged.buckets.is_some())?;
        let mut response =
            GetViewRowsResponse { column_names: table.names(), rows: Vec::new(), provenance: Some(provenance(&view, &answer)) };
        response.rows = table.rows(response.encoded_len())?;
        Ok(response)
    }

    async fn top(&self, request: GetTopRowsRequest) -> Result<GetTopRowsResponse, ServingError> {
        let view = self.served.view(&request.view)?;
        let limit = usize::try_from(request.limit).ok().filter(|limit| (1..=MAX_TOP_ROWS).contains(limit));
        let limit = limit.ok_or_else(|| ServingError::field("limit", format!("is {}; ask for 1 to {MAX_TOP_ROWS} rows", request.limit)))?;
        if request.version == 0 {
            check_measure(&view.versions.current().definition, &request.measure)?;
        }
        let answer = view.answer(&question::of_top(&request, now_us(&*self.machine))?).await?;
        // The definition may be another one than that of now.
        check_measure(&answer.version.definition, &request.measure)?;
        let all = answer.parts.first().expect("an answer about keys has one part").merged.total.clone();
        let first = blocking(move || first_by(&all, &request.measure, request.ascending, limit)).await?;
        let table = Table::of(&answer.version.definition, &first, false)?;
        let mut response =
            GetTopRowsResponse { column_names: table.names(), rows: Vec::new(), provenance: Some(provenance(&view, &answer)) };
        response.rows = table.rows(response.encoded_len())?;
        Ok(response)
    }

    async fn export(
        &self,
        request: ExportViewRowsRequest,
    ) -> Result<BoxStream<'static, Result<ExportViewRowsResponse, ServingError>>, ServingError> {
        let view = self.served.view(&request.view)?;
        let question = question::of_export(request)?;
        let export = view.export(&question).await?;
        export::pieces(view, export, question.grouping != Grouping::Total)
    }

    async fn versions(&self, view: &str) -> Result<ListVersionsResponse, ServingError> {
        let current = self.served.view(view)?.versions.current().number;
        let name: ViewName = view.parse()?;
        let manifests = Manifests::new(self.served.store().clone(), name);
        let mut versions = Vec::new();
        for number in manifests.list().await?.into_iter().rev().take(MAX_VERSIONS) {
            match manifests.read(number).await {
                Ok(manifest) => versions.push(version(&manifest, current)),
                // It has expired since it was listed.
                Err(StoreError::NotFound { .. }) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(ListVersionsResponse { versions })
    }
}

fn described(view: &Answers) -> View {
    let version = view.versions.current();
    let definition = &version.definition;
    View {
        name: view.versions.view().to_owned(),
        fingerprint: definition.fingerprint().to_owned(),
        version: version.number,
        sql: definition.sql().to_owned(),
        key_columns: key_columns(definition).collect(),
        bucket_column: definition.bucket_name().unwrap_or_default().to_owned(),
        measure_columns: measures(definition).map(str::to_owned).collect(),
    }
}

fn version(manifest: &Manifest, current: i64) -> Version {
    let boundary = (0..).zip(&manifest.boundary).map(|(partition, offset)| PartitionOffset { partition, offset: *offset });
    Version {
        version: manifest.version,
        fingerprint: manifest.fingerprint.clone(),
        run_id: manifest.run_id.clone(),
        computed_time: computed_us(manifest).map(stats::timestamp),
        boundary: boundary.collect(),
        row_count: manifest.row_count,
        size_bytes: manifest.files.iter().map(|file| file.bytes).sum(),
        current: manifest.version == current,
    }
}

fn key_columns(definition: &Definition) -> impl Iterator<Item = String> {
    definition.key_columns().iter().map(|column| column.name.clone())
}

fn measures(definition: &Definition) -> impl Iterator<Item = &str> {
    definition.output_schema().fields().iter().skip(NOT_MEASURES).map(|field| field.name().as_str())
}

fn check_measure(definition: &Definition, measure: &str) -> Result<(), ServingError> {
    if measures(definition).any(|name| name == measure) {
        return Ok(());
    }
    let known: Vec<_> = measures(definition).collect();
    Err(ServingError::field("measure", format!("is none of the view, which has {}", known.join(", "))))
}

/// The first rows of `outputs` by a measure, nulls last, equal ones by key.
fn first_by(outputs: &RecordBatch, measure: &str, ascending: bool, limit: usize) -> Result<RecordBatch, FoldError> {
    let fields = outputs.schema();
    let column = fields.fields().iter().skip(NOT_MEASURES).position(|field| field.name() == measure);
    let values = Arc::clone(outputs.column(NOT_MEASURES + column.expect("the measure was looked for")));
    let by = [
        SortColumn { values, options: Some(SortOptions { descending: !ascending, nulls_first: false }) },
        SortColumn { values: Arc::clone(outputs.column(0)), options: None },
    ];
    Ok(take_record_batch(outputs, &lexsort_to_indices(&by, Some(limit))?)?)
}

/// Outputs in columns of their own for key, bucket and measures.
pub(super) struct Table {
    pub(super) columns: Vec<(String, ArrayRef)>,
    rows: usize,
}

impl Table {
    pub(super) fn of(definition: &Definition, outputs: &RecordBatch, with_bucket: bool) -> Result<Self, ServingError> {
        let mut columns: Vec<_> = key_columns(definition).zip(definition.key_values(outputs.column(0).as_string())?).collect();
        if with_bucket {
            columns.push((definition.bucket_name().unwrap_or(BUCKET).to_owned(), Arc::clone(outputs.column(1))));
        }
        columns.extend(measures(definition).map(str::to_owned).zip(outputs.columns().iter().skip(NOT_MEASURES).cloned()));
        Ok(Self { columns, rows: outputs.num_rows() })
    }

    fn names(&self) -> Vec<String> {
        self.columns.iter().map(|(name, _)| name.clone()).collect()
    }

    /// The rows, beside so many bytes in an answer.
    fn rows(&self, mut bytes: usize) -> Result<Vec<Row>, ServingError> {
        let mut rows = Vec::with_capacity(self.rows);
        for row in 0..self.rows {
            let row = Row { values: self.columns.iter().map(|(_, column)| stats::value(column, row)).collect() };
            bytes += bytes_in_list(&row);
            if bytes > MAX_ANSWER_BYTES {
                let instead =
                    format!("{} of its {} rows fit: ask for a shorter range, or name more columns of the key", rows.len(), self.rows);
                return Err(ServingError::TooLarge { instead });
            }
            rows.push(row);
        }
        Ok(rows)
    }
}
