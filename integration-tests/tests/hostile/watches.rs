use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use h2::client::SendRequest;
use merganser_proto::Transport;
use merganser_proto::v1::user_stats_service_client::UserStatsServiceClient;
use merganser_proto::v1::{WatchUserStatsRequest, WatchUserStatsResponse};
use storage::config::Config;
use storage::machine::RealMachine;
use storage::store::Store;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Code, Streaming};
use tonic_types::StatusExt;

use super::calls::{framed, open, request};
use super::victim::{Over, PAYLOAD, Victim};

const WATCH: &str = "/merganser.v1.UserStatsService/WatchUserStats";
/// Watches of one connection.
const PER_CONNECTION: usize = 64;
/// Watches in all.
const IN_ALL: usize = 1000;
/// Longer than anything here may take.
const HOUR: Duration = Duration::from_secs(3600);

/// A serving layer with nothing in its store, on pipes in memory and a paused clock: a watch of the batch view alone says every ten
/// seconds that it lives.
struct Server {
    connect: mpsc::UnboundedSender<DuplexStream>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    fn start() -> Self {
        let (connect, mut connections) = mpsc::unbounded_channel();
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let task = tokio::spawn(async move {
            let config = Config::default();
            let incoming = stream::poll_fn(move |cx| connections.poll_recv(cx).map(|io: Option<DuplexStream>| io.map(Ok)));
            let (store, nobody) = (Store::open("memory://").unwrap(), Transport::new(Routes::default()));
            let served = serving_layer::run_on(Arc::new(RealMachine), config.serving_layer, store, config.events, nobody, incoming, stop);
            served.await.unwrap();
        });
        Self { connect, shutdown, task }
    }

    async fn connect(&self) -> SendRequest<Bytes> {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        self.connect.send(theirs).unwrap();
        open(ours).await
    }
}

/// A watch whose first answer has been read, or the status that refused it.
async fn watch(client: &mut SendRequest<Bytes>) -> Result<h2::RecvStream, String> {
    let (response, mut send) = client.send_request(request(WATCH, &[]), false).unwrap();
    // user_id = "u", consistency = BATCH_ONLY.
    send.send_data(framed(&[0x0a, 1, b'u', 0x28, 3]), true).unwrap();
    let (head, mut body) = response.await.unwrap().into_parts();
    if let Some(status) = head.headers.get("grpc-status") {
        return Err(status.to_str().unwrap().to_owned());
    }
    assert!(body.data().await.is_some_and(|answer| answer.is_ok()));
    Ok(body)
}

/// Reads to the end; the status, and after how many messages.
async fn status(body: &mut h2::RecvStream) -> (String, usize) {
    let mut messages = 0;
    while let Some(piece) = timeout(HOUR, body.data()).await.expect("it ends") {
        let piece = piece.expect("the connection is not cut");
        body.flow_control().release_capacity(piece.len()).unwrap();
        messages += 1;
    }
    let trailers = body.trailers().await.unwrap().expect("it ends with a status");
    (trailers["grpc-status"].to_str().unwrap().to_owned(), messages)
}

/// Proves that a stop ends watches at once with UNAVAILABLE, and is not held up by them.
#[tokio::test(start_paused = true)]
async fn stop() {
    let server = Server::start();
    let mut client = server.connect().await;
    let mut watched = watch(&mut client).await.unwrap();
    let started = Instant::now();
    server.shutdown.cancel();
    assert_eq!(status(&mut watched).await, ("14".to_owned(), 0));
    drop((client, watched));
    timeout(HOUR, server.task).await.expect("it stops").unwrap();
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

/// Proves that a watch lives as long as its connection, with a sign of life every ten seconds, and ends with UNAVAILABLE when that is
/// too old, and not with a cut.
#[tokio::test(start_paused = true)]
async fn age() {
    let server = Server::start();
    let mut client = server.connect().await;
    let mut watched = watch(&mut client).await.unwrap();
    let started = Instant::now();
    let (code, messages) = status(&mut watched).await;
    let seconds = started.elapsed().as_secs() as usize;
    assert!(code == "14" && (27 * 60 - 1..=33 * 60).contains(&seconds), "{code} after {seconds} s");
    assert!(messages.abs_diff(seconds / 10) <= 1, "{messages} signs of life in {seconds} s");
}

/// Proves that one connection has so many watches and no more, that other calls find a stream on it meanwhile, and that a watch that
/// is given up makes room.
#[tokio::test(start_paused = true)]
async fn watches_of_a_connection() {
    let server = Server::start();
    let mut client = server.connect().await;
    let mut open = Vec::new();
    for _ in 0..PER_CONNECTION {
        open.push(watch(&mut client).await.unwrap());
    }
    assert_eq!(watch(&mut client).await.unwrap_err(), "8");
    let (response, mut send) = client.send_request(request("/merganser.v1.ViewService/ListViews", &[]), false).unwrap();
    send.send_data(framed(&[]), true).unwrap();
    assert!(response.await.unwrap().headers().get("grpc-status").is_none(), "an ordinary call is answered");
    let mut other = server.connect().await;
    assert!(watch(&mut other).await.is_ok());
    open.pop();
    let free = async { while watch(&mut client).await.is_err() {} };
    timeout(HOUR, free).await.expect("a place that is given up is free again");
}

/// Proves that a peer which takes its window back while a watch has nothing to say, and so never asks for more, loses the connection.
#[tokio::test(start_paused = true)]
async fn window_taken_back() {
    let server = Server::start();
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    server.connect.send(theirs).unwrap();
    let (client, mut connection) = h2::client::handshake(ours).await.unwrap();
    let (no_window, take_back) = tokio::sync::oneshot::channel::<()>();
    let ended = tokio::spawn(async move {
        tokio::select! {
            _ = &mut connection => return,
            _ = take_back => {}
        }
        connection.set_initial_window_size(0).unwrap();
        let _cut = connection.await;
    });
    let mut client = client.ready().await.unwrap();
    let _watched = watch(&mut client).await.unwrap();
    no_window.send(()).unwrap();
    let started = Instant::now();
    timeout(HOUR, ended).await.expect("the connection is cut").unwrap();
    assert!((30..=70).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
}

over_both!(more_than_there_are_places);

/// Proves that of more watches than there are places the rest is told to come back, and that others are answered, in little memory,
/// while a thousand look every second and nobody reads them.
async fn more_than_there_are_places(over: Over) {
    let victim = Victim::start("", over).await;
    let question = || WatchUserStatsRequest { user_id: PAYLOAD.to_owned(), ..WatchUserStatsRequest::default() };
    let mut kept: Vec<(UserStatsServiceClient<_>, Streaming<WatchUserStatsResponse>)> = Vec::new();
    let mut refused = 0;
    for _ in 0..IN_ALL / PER_CONNECTION + 4 {
        let mut client = UserStatsServiceClient::new(victim.channel(victim.serving));
        for _ in 0..PER_CONNECTION {
            match client.watch_user_stats(question()).await {
                Ok(stream) => kept.push((client.clone(), stream.into_inner())),
                Err(status) => {
                    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                    assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
                    refused += 1;
                }
            }
        }
    }
    println!("{} watches are open, {refused} were refused", kept.len());
    assert!(kept.len() <= IN_ALL && kept.len() >= IN_ALL * 9 / 10 && refused > 0);
    victim.is_well("a thousand watches").await;
    drop(kept);
    victim.is_well("watches that are given up").await;
}
