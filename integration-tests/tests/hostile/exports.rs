use std::time::Duration;

use merganser_proto::v1::ingest_service_client::IngestServiceClient;
use merganser_proto::v1::view_service_client::ViewServiceClient;
use merganser_proto::v1::{AppendEventsRequest, ExportViewRowsRequest};
use prost::Message;
use tokio::time::{Instant, sleep};
use tonic::Code;
use tonic_types::StatusExt;

use super::calls::{framed, request};
use super::victim::{Over, Victim, event};

const EXPORT: &str = "/merganser.v1.ViewService/ExportViewRows";
/// More than the windows of a connection hold of their rows.
const USERS: usize = 4000;
/// As many exports as there are at a time.
const PLACES: usize = 2;

over_both!(unread_exports);

/// Proves that exports that nobody reads take no more than their places, that the next one is told when to come back, that questions are
/// answered meanwhile, and that the places come back when their holders are gone.
async fn unread_exports(over: Over) {
    let victim = Victim::start("", over).await;
    let events: Vec<_> = (0..USERS).map(|user| event("the one", &format!("user-{user}"))).collect();
    IngestServiceClient::new(victim.channel(victim.speed)).append_events(AppendEventsRequest { events }).await.unwrap();

    let asked = ExportViewRowsRequest { view: "user_stats".to_owned(), ..Default::default() };
    let mut unread = Vec::new();
    for _ in 0..PLACES {
        let mut settings = h2::client::Builder::new();
        settings.initial_window_size(1).initial_connection_window_size(1 << 24);
        let (client, connection) = settings.handshake(victim.connect(victim.serving).await.unwrap()).await.unwrap();
        let connection = tokio::spawn(connection);
        let mut client = client.ready().await.unwrap();
        let (response, mut send) = client.send_request(request(EXPORT, &[]), false).unwrap();
        send.send_data(framed(&asked.encode_to_vec()), true).unwrap();
        let response = response.await.unwrap();
        assert!(!response.headers().contains_key("grpc-status"), "{:?}", response.headers());
        unread.push((response, client, connection));
    }
    let mut views = ViewServiceClient::new(victim.channel(victim.serving));
    let refused = views.export_view_rows(asked.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(refused.get_details_retry_info().is_some(), "{refused:?}");
    victim.answers().await;

    for (_, _, connection) in unread {
        connection.abort();
    }
    let deadline = Instant::now() + Duration::from_secs(15);
    let mut pieces = loop {
        match views.export_view_rows(asked.clone()).await {
            Err(busy) if busy.code() == Code::ResourceExhausted && Instant::now() < deadline => sleep(Duration::from_millis(100)).await,
            other => break other.unwrap().into_inner(),
        }
    };
    let mut rows = 0;
    while let Some(piece) = pieces.message().await.unwrap() {
        rows += piece.summary.map_or(0, |summary| summary.row_count);
    }
    assert!(rows >= USERS as i64, "{rows} rows");
    victim.is_well("unread exports").await;
}
