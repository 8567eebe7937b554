//! Pages in a browser: that gRPC-Web gets the answers that gRPC gets, by the same rules, and that a stranger's page gets none.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

/// HTTP and frames by hand.
mod page;

use std::net::SocketAddr;
use std::time::Duration;

use integration_tests::cluster::Cluster;
use integration_tests::scrape::{Scrape, get};
use merganser_proto::server::Doors;
use merganser_proto::v1::{
    AppendEventsRequest, BatchGetUserStatsRequest, Consistency, Event, GetUserStatsRequest, GetUserStatsResponse, GetViewRowsRequest,
    GetViewRowsResponse, ListViewsRequest, ListViewsResponse, WatchUserStatsRequest, WatchUserStatsResponse,
};
use prost_types::Timestamp;
use storage::config::Config;
use storage::store::Store;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic_types::StatusExt;

use page::{BINARY, Page, Part, TEXT, framed};

const GET: &str = "/merganser.v1.UserStatsService/GetUserStats";
const BATCH: &str = "/merganser.v1.UserStatsService/BatchGetUserStats";
const WATCH: &str = "/merganser.v1.UserStatsService/WatchUserStats";
const ROWS: &str = "/merganser.v1.ViewService/GetViewRows";
const VIEWS: &str = "/merganser.v1.ViewService/ListViews";
const FRIEND: &str = "https://stats.example.com";
const USER: &str = "somebody";

async fn send(cluster: &Cluster, id: &str) {
    let event_time = Some(Timestamp { seconds: 1_700_000_000, nanos: 0 });
    let event = Event { event_id: id.into(), user_id: USER.into(), event_time, amount: "1.50".into(), ..Event::default() };
    cluster.ingest.clone().append_events(AppendEventsRequest { events: vec![event] }).await.unwrap();
}

fn question() -> GetUserStatsRequest {
    GetUserStatsRequest { user_id: USER.into(), ..GetUserStatsRequest::default() }
}

async fn cluster() -> (Cluster, SocketAddr) {
    let cluster = Cluster::start(true, |config: &mut Config| config.serving_layer.web_origins = FRIEND.into()).await.unwrap();
    let http = cluster.serving_http().unwrap();
    (cluster, http)
}

/// Proves that both services answer a page what they answer over HTTP/2, in both forms of gRPC-Web, many times on one connection, and that
/// both doors count into the same numbers.
#[tokio::test(flavor = "multi_thread")]
async fn answers_are_those_of_grpc() {
    let (cluster, http) = cluster().await;
    send(&cluster, "first").await;
    let expected = cluster.stats.clone().get_user_stats(question()).await.unwrap().into_inner();
    let rows = GetViewRowsRequest { view: "user_stats".into(), key: USER.into(), ..GetViewRowsRequest::default() };
    let expected_rows = cluster.views.clone().get_view_rows(rows.clone()).await.unwrap().into_inner();
    assert_eq!((expected.stats.as_ref().unwrap().event_count, expected_rows.rows.len()), (1, 1));
    let counted = r#"merganser_serving_calls_total{method="GetUserStats",code="OK"}"#;
    let before = Scrape::of(http).await.unwrap().samples[counted];
    let mut page = Page::open(http).await;
    for kind in [BINARY, TEXT, "application/grpc-web", "application/grpc-web-text+proto"] {
        assert_eq!(page.get::<GetUserStatsResponse>(GET, kind, &question()).await.unwrap(), expected, "{kind}");
        assert_eq!(page.get::<GetViewRowsResponse>(ROWS, kind, &rows).await.unwrap(), expected_rows, "{kind}");
    }
    assert_eq!(Scrape::of(http).await.unwrap().samples[counted], before + 4.0);
    cluster.stop().await.unwrap();
}

/// Proves that a refusal has its code and its details, that the rules on sizes and times hold, and that what is no call of a page
/// is none.
#[tokio::test(flavor = "multi_thread")]
async fn refusals() {
    let (cluster, http) = cluster().await;
    let mut page = Page::open(http).await;
    for kind in [BINARY, TEXT] {
        let status = page.get::<GetUserStatsResponse>(GET, kind, &GetUserStatsRequest::default()).await.unwrap_err();
        assert_eq!(
            (status.code(), status.get_details_bad_request().unwrap().field_violations[0].field.as_str()),
            (Code::InvalidArgument, "user_id")
        );
        let unknown = GetViewRowsRequest { view: "none".into(), key: USER.into(), ..GetViewRowsRequest::default() };
        assert_eq!(page.get::<GetViewRowsResponse>(ROWS, kind, &unknown).await.unwrap_err().code(), Code::NotFound);
        let missing = page.get::<ListViewsResponse>("/merganser.v1.ViewService/Nothing", kind, &ListViewsRequest {}).await;
        assert_eq!(missing.unwrap_err().code(), Code::Unimplemented);
    }
    let large = BatchGetUserStatsRequest { user_ids: vec!["x".repeat(256); 3000], ..BatchGetUserStatsRequest::default() };
    let status = page.get::<GetUserStatsResponse>(BATCH, BINARY, &large).await.unwrap_err();
    assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted), "{status}");

    let mut hasty = Page::open(http).await.with("grpc-timeout", "soon");
    assert_eq!(hasty.get::<GetUserStatsResponse>(GET, BINARY, &question()).await.unwrap_err().code(), Code::InvalidArgument);

    let body = framed(&[]);
    for (method, path, kind, status) in [
        ("POST", GET, "application/grpc", 415),
        ("POST", GET, "text/plain", 415),
        ("POST", GET, "", 415),
        ("POST", GET, "application/grpc-web+json", 400),
        ("GET", GET, BINARY, 405),
        ("POST", "/grpc.health.v1.Health/Check", BINARY, 404),
        ("POST", "/merganser.v1.RealtimeViewService/GetStates", BINARY, 404),
        ("POST", "/merganser.v1.UserStatsService", BINARY, 404),
    ] {
        assert_eq!(Page::open(http).await.ask(method, path, kind, &body).await.status, status, "{method} {path} {kind}");
    }
    cluster.stop().await.unwrap();
}

/// Proves that a page of this server may call, one of an origin in the settings may too and may read what it is told, and every other
/// one is refused, before and after its browser has asked for it.
#[tokio::test(flavor = "multi_thread")]
async fn origins() {
    let (cluster, http) = cluster().await;
    let own = format!("http://{http}");
    for (origin, allowed) in [(own.as_str(), true), (FRIEND, true), ("https://evil.example.com", false), ("null", false)] {
        let mut page = Page::open(http).await.with("origin", origin);
        let asked = Page::open(http).await.with("origin", origin).ask("OPTIONS", GET, "", &[]).await;
        let head = match allowed {
            true => {
                let mut frames = page.call(GET, BINARY, &question()).await;
                assert!(matches!(frames.next::<GetUserStatsResponse>().await, Part::Answer(_)));
                let head = frames.head();
                (
                    head.status,
                    head.headers.get("access-control-allow-origin").cloned(),
                    head.headers.get("access-control-expose-headers").cloned(),
                )
            }
            false => (page.ask("POST", GET, BINARY, &framed(&[])).await.status, None, None),
        };
        let told = (origin == FRIEND).then(|| FRIEND.to_owned());
        assert_eq!((head.0, &head.1), (if allowed { 200 } else { 403 }, &told), "{origin}");
        assert_eq!(asked.headers.get("access-control-allow-origin"), told.as_ref(), "{origin}");
        if origin == FRIEND {
            assert!(asked.headers["access-control-allow-headers"].contains("authorization"));
            assert!(head.2.unwrap().contains("grpc-status-details-bin"));
        }
    }
    cluster.stop().await.unwrap();
}

/// Proves that a page sees changes as they come, that one which is closed watches no more, and that a stop ends a watch with a status.
#[tokio::test(flavor = "multi_thread")]
async fn watching() {
    let (cluster, http) = cluster().await;
    send(&cluster, "first").await;
    let question = WatchUserStatsRequest { user_id: USER.into(), ..WatchUserStatsRequest::default() };
    let mut closed = Page::open(http).await;
    closed.call(WATCH, BINARY, &question).await;
    let mut page = Page::open(http).await;
    let mut frames = page.call(WATCH, TEXT, &question).await;
    let mut seen = 0;
    while seen < 3 {
        if let Part::Answer(WatchUserStatsResponse { stats: Some(stats), .. }) = frames.next().await {
            seen += 1;
            assert_eq!(stats.event_count, seen);
            send(&cluster, &format!("after {seen}")).await;
        }
    }
    drop(closed);
    let open = async {
        while Scrape::of(http).await.unwrap().samples["merganser_serving_watches"] > 1.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), open).await.expect("a page that is closed watches no more");
    let stopping = tokio::spawn(cluster.stop());
    let status = loop {
        if let Part::End(status) = frames.next::<WatchUserStatsResponse>().await {
            break status;
        }
    };
    assert_eq!((status.code(), status.get_details_error_info().unwrap().reason.as_str()), (Code::Unavailable, "STOPPING"));
    stopping.await.unwrap().unwrap();
}

/// Proves that pages which watch leave room for probes, and that the one which finds no place is told to come back.
#[tokio::test(flavor = "multi_thread")]
async fn watches_leave_room() {
    let (cluster, http) = cluster().await;
    let question = WatchUserStatsRequest { user_id: USER.into(), ..WatchUserStatsRequest::default() };
    let mut open = Vec::new();
    let refused = loop {
        let mut page = Page::open(http).await;
        let mut frames = page.call(WATCH, BINARY, &question).await;
        match frames.next::<WatchUserStatsResponse>().await {
            Part::Answer(_) => open.push(page),
            Part::End(status) => break status,
        }
    };
    assert!((1..=64).contains(&open.len()), "{}", open.len());
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.get_details_retry_info().unwrap().retry_delay.is_some());
    assert_eq!(get(http, "/healthz").await.unwrap().0, 200);
    let mut page = Page::open(http).await;
    page.get::<ListViewsResponse>(VIEWS, BINARY, &ListViewsRequest {}).await.unwrap();
    open.pop();
    let room = async {
        loop {
            let mut page = Page::open(http).await;
            if let Part::Answer(_) = page.call(WATCH, BINARY, &question).await.next::<WatchUserStatsResponse>().await {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), room).await.expect("a place that is given up is free again");
    drop(open);
    cluster.stop().await.unwrap();
}

/// Proves that a question whose rest does not come is given up, when its page says or when the server does, and that a watch outlives other connections of its listener, with signs of
/// life, and ends with UNAVAILABLE at the age of a gRPC connection.
#[tokio::test(start_paused = true)]
async fn age() {
    let config = Config::default();
    let listen = || TcpListener::bind("127.0.0.1:0");
    let (grpc, http) = (listen().await.unwrap(), listen().await.unwrap());
    let address = http.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let store = Store::open("memory://").unwrap();
    let stop = shutdown.clone();
    let server = tokio::spawn(async move {
        let ready = || ready.send(()).unwrap();
        let doors = Doors { grpc, http: Some(http), tls: None };
        serving_layer::run_then(config, store, doors, stop, ready).await.unwrap();
    });
    is_ready.await.unwrap();
    for (limit, seconds) in [("", 5..7), ("1S", 1..3)] {
        let mut page = Page::open(address).await;
        if !limit.is_empty() {
            page = page.with("grpc-timeout", limit);
        }
        let started = Instant::now();
        let slow = page.ask_announcing("POST", GET, BINARY, 100, &framed(&[])[..3]).await;
        assert_eq!(slow.headers["grpc-status"], (Code::DeadlineExceeded as i32).to_string());
        assert!(seconds.contains(&started.elapsed().as_secs()), "{limit:?}: {:?}", started.elapsed());
    }
    let consistency = Consistency::BatchOnly.into();
    let question = WatchUserStatsRequest { user_id: USER.into(), consistency, ..WatchUserStatsRequest::default() };
    let mut page = Page::open(address).await;
    let mut frames = page.call(WATCH, BINARY, &question).await;
    let started = Instant::now();
    let mut messages = 0;
    let status = loop {
        match frames.next::<WatchUserStatsResponse>().await {
            Part::Answer(_) => messages += 1,
            Part::End(status) => break status,
        }
    };
    let seconds = started.elapsed().as_secs();
    assert!(status.code() == Code::Unavailable && (27 * 60 - 1..=33 * 60).contains(&seconds), "{status} after {seconds} s");
    assert!(messages > seconds / 20, "{messages} signs of life in {seconds} s");
    shutdown.cancel();
    server.await.unwrap();
}
