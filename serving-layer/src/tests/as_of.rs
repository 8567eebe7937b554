//! What an earlier version says, and what it can no longer say.

use std::time::Duration;

use merganser_proto::v1::value::Kind;
use merganser_proto::v1::view_service_client::ViewServiceClient;
use merganser_proto::v1::{
    BatchGetUserStatsRequest, Consistency, GetTopRowsRequest, GetUserStatsRequest, GetViewRowsRequest, WatchUserStatsRequest,
};
use storage::manifest::{Manifest, Manifests};
use storage::paths::{ViewFilePath, ViewName};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::fixture::{Fixture, InProcess, publish};
use super::{about, everybody, parts};

/// About user-0, as version `version` had it.
fn as_of(version: i64) -> GetUserStatsRequest {
    GetUserStatsRequest { version, ..about("user-0") }
}

fn with(version: i64, consistency: Consistency) -> GetUserStatsRequest {
    GetUserStatsRequest { consistency: consistency.into(), ..as_of(version) }
}

fn reason(status: &Status) -> (Code, String) {
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("an error without a reason: {status:?}"));
    (status.code(), info.reason)
}

fn file(version: i64, part: u32) -> ViewFilePath {
    ViewFilePath { view: "user_stats".parse().unwrap(), version, run_id: format!("run-{version}").parse().unwrap(), part }
}

/// Proves that an earlier version answers what it answered while it was the newest, in every call that may name one, and that the
/// speed layer is not asked for that.
#[tokio::test]
async fn what_it_said_then() {
    let mut fixture = InProcess::new(&[30], 100).await;
    let mut said = Vec::new();
    for (version, end) in [(1, 30), (2, 60), (3, 90)] {
        if version > 1 {
            publish(&fixture.store, &fixture.definition, version, end).await;
        }
        let answer = loop {
            let answer = fixture.client.get_user_stats(with(0, Consistency::BatchOnly)).await.unwrap().into_inner();
            if answer.provenance.as_ref().unwrap().version == version {
                break answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        assert_eq!(answer.stats.as_ref().unwrap().event_count, end / 3);
        said.push((version, answer));
    }
    let asked = fixture.speed().questions;
    for (version, then) in &said {
        let now = fixture.client.get_user_stats(as_of(*version)).await.unwrap().into_inner();
        assert_eq!(&now, then, "version {version}");
        let crowd = BatchGetUserStatsRequest { version: *version, ..everybody() };
        let crowd = fixture.client.batch_get_user_stats(crowd).await.unwrap().into_inner();
        assert_eq!((Some(&crowd.stats[0]), crowd.provenance.unwrap().version), (then.stats.as_ref(), *version));
    }
    assert_eq!(fixture.speed().questions, asked, "the batch view alone is asked");

    // With what came since, it is the answer of now.
    let now = fixture.client.get_user_stats(about("user-0")).await.unwrap().into_inner().stats;
    let fresh = fixture.client.get_user_stats(with(2, Consistency::Fresh)).await.unwrap().into_inner();
    assert_eq!((&fresh.stats, fresh.provenance.unwrap().version), (&now, 2));
}

/// Proves that rows of a view can be asked of an earlier version too.
#[tokio::test]
async fn rows() {
    let fixture = Fixture::new(&[30, 60], 100).await;
    let mut views = ViewServiceClient::new(fixture.channel.clone());
    let question = |version| GetViewRowsRequest { view: "user_stats".into(), key: "user-0".into(), version, ..Default::default() };
    for (version, events) in [(1, 10), (2, 20)] {
        let provenance = views.get_view_rows(question(version)).await.unwrap().into_inner().provenance.unwrap();
        assert_eq!((provenance.version, provenance.batch_event_count, provenance.speed_event_count), (version, events, 0));
        let request =
            GetTopRowsRequest { view: "user_stats".into(), measure: "event_count".into(), limit: 1, version, ..Default::default() };
        let top = views.get_top_rows(request).await.unwrap().into_inner();
        let counted = top.column_names.iter().zip(&top.rows[0].values).find(|(name, _)| *name == "event_count").unwrap().1;
        assert_eq!((top.provenance.unwrap().version, counted.kind.clone()), (version, Some(Kind::IntValue(events))));
    }
    assert_eq!(reason(&views.get_view_rows(question(3)).await.unwrap_err()), (Code::NotFound, "NO_SUCH_VERSION".into()));
}

/// Proves that a boundary which the speed layer has let go of is an error with what to ask instead, or an answer that says it is
/// incomplete, and never the answer of another version.
#[tokio::test]
async fn retired() {
    let mut fixture = Fixture::new(&[30, 60, 90], 100).await;
    fixture.speed().oldest_boundary = 60;
    let refused = fixture.client.get_user_stats(with(1, Consistency::Fresh)).await.unwrap_err();
    assert_eq!(reason(&refused), (Code::FailedPrecondition, "VERSION_RETIRED".into()));
    assert!(refused.message().contains("BATCH_ONLY"), "{refused}");
    let (stats, provenance) = parts(fixture.client.get_user_stats(with(1, Consistency::BestEffort)).await.unwrap().into_inner());
    assert_eq!((stats.event_count, provenance.version, provenance.complete), (10, 1, false));
    assert!(provenance.incomplete_reason.contains("BOUNDARY_RETIRED"), "{}", provenance.incomplete_reason);
    let (stats, provenance) = parts(fixture.client.get_user_stats(with(2, Consistency::Fresh)).await.unwrap().into_inner());
    assert_eq!((stats.event_count, provenance.version, provenance.complete), (34, 2, true));
}

/// Proves what is said of a version that is none, is withdrawn, is gone or is damaged, and that a watch takes none.
#[tokio::test]
async fn refusals() {
    let mut fixture = Fixture::new(&[30, 60, 90], 100).await;
    fixture.client.get_user_stats(about("user-0")).await.unwrap();
    let manifests = Manifests::new(fixture.store.clone(), ViewName::user_stats());
    let third = manifests.read(3).await.unwrap();
    let withdrawn =
        Manifest { format_version: 3, version: 4, run_id: "run-4".into(), files: Vec::new(), row_count: 0, withdrawn: true, ..third };
    manifests.publish(&withdrawn).await.unwrap();
    fixture.store.delete(&file(1, 0).path()).await.unwrap();
    let mut bytes = fixture.store.get(&file(2, 1).path()).await.unwrap().to_vec();
    bytes[10] ^= 1;
    fixture.store.put_durable(&file(2, 1).path(), bytes.into()).await.unwrap();
    for (version, code, says, sentence) in [
        (1, Code::NotFound, "VERSION_GONE", "no longer there"),
        (2, Code::DataLoss, "STORE_DAMAGED", "part-00001.parquet"),
        (4, Code::FailedPrecondition, "VERSION_WITHDRAWN", "withdrawn"),
        (5, Code::NotFound, "NO_SUCH_VERSION", "the newest is 4"),
        (-1, Code::InvalidArgument, "INVALID_FIELD", "numbered from 1"),
    ] {
        let refused = fixture.client.get_user_stats(as_of(version)).await.unwrap_err();
        assert_eq!(reason(&refused), (code, says.to_owned()), "{refused}");
        assert!(refused.message().contains(sentence), "{refused}");
    }
    let watch = WatchUserStatsRequest { user_id: "user-0".into(), version: 3, ..Default::default() };
    let refused = fixture.client.watch_user_stats(watch).await.unwrap_err();
    assert_eq!(refused.get_details_bad_request().unwrap().field_violations[0].field, "version");
}

/// Proves that four earlier versions stay open, the one that was asked for longest ago makes room, and that one which is open is
/// verified again after the time of a scrub.
#[tokio::test]
async fn few_stay_open() {
    let mut fixture = InProcess::new(&[10, 20, 30, 40, 50, 60], 100).await;
    for version in [1, 2, 3, 4, 1, 5] {
        fixture.client.get_user_stats(as_of(version)).await.unwrap();
    }
    for version in 1..=5 {
        fixture.store.delete(&file(version, 0).path()).await.unwrap();
        fixture.store.delete(&file(version, 1).path()).await.unwrap();
    }
    // Nobody in their blocks has this name, so that nothing has to be read.
    let question = |version| GetUserStatsRequest { version, ..about("zzz") };
    for version in [1, 3, 4, 5] {
        assert!(fixture.client.get_user_stats(question(version)).await.is_ok(), "version {version} is open");
    }
    assert_eq!(reason(&fixture.client.get_user_stats(question(2)).await.unwrap_err()), (Code::NotFound, "VERSION_GONE".into()));

    // Its files are scrubbed every 20 ms.
    let mut fixture = Fixture::new(&[30, 60], 100).await;
    fixture.client.get_user_stats(as_of(1)).await.unwrap();
    let mut bytes = fixture.store.get(&file(1, 0).path()).await.unwrap().to_vec();
    bytes[10] ^= 1;
    fixture.store.put_durable(&file(1, 0).path(), bytes.into()).await.unwrap();
    let found = async { while fixture.client.get_user_stats(question(1)).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(10), found).await.expect("nobody finds the damage");
}
