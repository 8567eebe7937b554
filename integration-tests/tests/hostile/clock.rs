//! The clock is paused: it goes on, in one step, when nothing else can. The wire is a pipe in memory.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use h2::client::SendRequest;
use merganser_proto::auth::Authority;
use merganser_proto::server::{Room, Rule, Rules, Shape, serve};
use storage::config::Config;
use storage::machine::RealMachine;
use storage::store::Store;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use super::calls::{framed, open, request};
use super::wire::{PREFACE, SETTINGS, frame};

const WATCH: &str = "/grpc.health.v1.Health/Watch";
/// Longer than anything here may take.
const HOUR: Duration = Duration::from_secs(3600);
/// Connections at once, where there are file handles enough.
const MAX_CONNECTIONS: usize = 1024;

/// A server of the health service, whose answers are streams without end.
struct Server {
    connect: mpsc::UnboundedSender<DuplexStream>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    fn start(places: usize, unread: Duration) -> Self {
        let (connect, mut connections) = mpsc::unbounded_channel();
        let room = Room::new("watches", places, Duration::from_millis(10));
        let authority = Authority::off();
        let rules: Rules = Arc::new(move |_| {
            let authority = Arc::clone(&authority);
            Rule { room: Some(room.clone()), shape: Shape::Stream, within: None, unread, counts: None, authority }
        });
        let shutdown = CancellationToken::new();
        let incoming = stream::poll_fn(move |cx| connections.poll_recv(cx).map(|io| io.map(Ok)));
        let (_, health) = tonic_health::server::health_reporter();
        let task = tokio::spawn(serve(Routes::new(health), rules, None, incoming, shutdown.clone()));
        Self { connect, shutdown, task }
    }

    fn connect(&self) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        self.connect.send(theirs).unwrap();
        ours
    }
}

/// A watch that has been answered once, and goes on; or the status that refused it.
async fn watch(client: &mut SendRequest<Bytes>) -> Result<h2::RecvStream, (String, bool)> {
    let (response, mut send) = client.send_request(request(WATCH, &[]), false).unwrap();
    send.send_data(framed(&[]), true).unwrap();
    let (head, body) = response.await.unwrap().into_parts();
    match head.headers.get("grpc-status") {
        None => Ok(body),
        Some(status) => Err((status.to_str().unwrap().to_owned(), head.headers.contains_key("grpc-status-details-bin"))),
    }
}

/// Proves that a peer which does not say hello is let go after five seconds, one that says nothing more after forty, and that one
/// which gives signs of life is kept.
#[tokio::test(start_paused = true)]
async fn silent_peers() {
    let server = Server::start(8, HOUR);
    let ended_after = async |said: &[u8]| {
        let mut io = server.connect();
        io.write_all(said).await.unwrap();
        let started = Instant::now();
        let mut rest = Vec::new();
        timeout(HOUR, io.read_to_end(&mut rest)).await.expect("the server lets it go").ok();
        started.elapsed().as_secs()
    };
    assert_eq!(ended_after(&[]).await, 5);
    assert_eq!(ended_after(&PREFACE[..10]).await, 5);
    assert_eq!(ended_after(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await, 40);

    let mut client = open(server.connect()).await;
    let mut answers = watch(&mut client).await.unwrap();
    assert!(answers.data().await.is_some());
    assert!(timeout(Duration::from_secs(600), answers.data()).await.is_err(), "a peer that answers pings was let go");
}

/// Proves that of more connections than there are places the rest is closed at once, and that a place which is given up is free again.
#[tokio::test(start_paused = true)]
async fn places_of_connections() {
    let server = Server::start(8, HOUR);
    let mut open = Vec::new();
    let mut first_refused = None;
    for _ in 0..MAX_CONNECTIONS + 10 {
        let mut io = server.connect();
        if has_a_place(&mut io).await {
            open.push(io);
        } else {
            first_refused.get_or_insert(open.len());
        }
    }
    assert!(first_refused.is_some_and(|places| places <= MAX_CONNECTIONS), "{first_refused:?}");
    drop(open);
    // The clock goes on when they are gone.
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(has_a_place(&mut server.connect()).await, "a place that is given up is free again");
}

/// Whether the server says hello, as it does where there is a place; where there is none it closes without a word.
async fn has_a_place(io: &mut (impl AsyncRead + Unpin)) -> bool {
    match timeout(Duration::from_secs(1), io.read_u8()).await.expect("an answer or an end at once") {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
            false
        }
    }
}

/// Proves that an old connection takes no more calls, a tenth more or less than half an hour after it came, and that a stream
/// which goes on then is cut a minute later.
#[tokio::test(start_paused = true)]
async fn age() {
    let server = Server::start(64, HOUR);
    let mut ages = Vec::new();
    for _ in 0..8 {
        let started = Instant::now();
        let mut client = open(server.connect()).await;
        let mut answers = watch(&mut client).await.unwrap();
        while timeout(2 * HOUR, answers.data()).await.expect("the server ends it").is_some_and(|piece| piece.is_ok()) {}
        ages.push(started.elapsed().as_secs());
    }
    assert!(ages.iter().all(|age| (27 * 60 + 60..33 * 60 + 62).contains(age)), "{ages:?}");
    ages.sort_unstable();
    ages.dedup();
    assert!(ages.len() > 4, "connections of one time end at one time: {ages:?}");
}

/// Proves that calls beyond the places are refused with RESOURCE_EXHAUSTED and details, and that an answer keeps its place until
/// it is read or given up.
#[tokio::test(start_paused = true)]
async fn places() {
    let server = Server::start(2, HOUR);
    let mut client = open(server.connect()).await;
    let mut other = open(server.connect()).await;
    let first = watch(&mut client).await.unwrap();
    let _second = watch(&mut other).await.unwrap();
    for client in [&mut client, &mut other] {
        let (status, has_details) = watch(client).await.expect_err("there is no place");
        assert_eq!((&*status, has_details), ("8", true));
    }
    drop(first);
    timeout(HOUR, async {
        while watch(&mut client).await.is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("a place that is given up is free again");
}

/// Proves that a peer which keeps its connection alive and does not read an answer loses the connection, and the answer its place.
#[tokio::test(start_paused = true)]
async fn unread() {
    let server = Server::start(1, Duration::from_secs(30));
    let (client, connection) = h2::client::Builder::new().initial_window_size(0).handshake::<_, Bytes>(server.connect()).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let _answers = watch(&mut client).await.unwrap();
    let started = Instant::now();
    let _ended = timeout(HOUR, connection).await.expect("the connection is cut");
    assert!((30..=60).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    let mut other = open(server.connect()).await;
    assert!(watch(&mut other).await.is_ok(), "the place was not given back");
}

/// Proves that a stop takes no connections any more, and waits five seconds for a stream that does not end.
#[tokio::test(start_paused = true)]
async fn stop() {
    let server = Server::start(8, HOUR);
    let mut client = open(server.connect()).await;
    let _answers = watch(&mut client).await.unwrap();
    let started = Instant::now();
    server.shutdown.cancel();
    timeout(HOUR, server.task).await.expect("it stops").unwrap();
    assert!((5..=6).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    assert!(server.connect.is_closed());
}

/// Proves that a stream of events is ended when its producer is silent for five minutes, not before, and that what it had sent is
/// acknowledged.
#[tokio::test]
async fn idle_stream() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.log.dir = dir.path().join("data");
    config.log.partitions = 1;
    let (connect, mut connections) = mpsc::unbounded_channel();
    let incoming = stream::poll_fn(move |cx| connections.poll_recv(cx).map(|io: Option<DuplexStream>| io.map(Ok)));
    let shutdown = CancellationToken::new();
    let server =
        tokio::spawn(speed_layer::run_on(Arc::new(RealMachine), config, Store::open("memory://").unwrap(), incoming, shutdown.clone()));

    let (ours, theirs) = tokio::io::duplex(1 << 16);
    connect.send(theirs).unwrap();
    let mut client = open(ours).await;
    let (response, mut send) = client.send_request(request("/merganser.v1.IngestService/StreamEvents", &[]), false).unwrap();
    // One event that is refused: no id, no time.
    send.send_data(framed(&[0x0a, 0x00]), false).unwrap();
    let mut answers = response.await.unwrap().into_body();
    assert!(answers.data().await.is_some_and(|answer| answer.is_ok()));

    tokio::time::pause();
    let started = Instant::now();
    assert!(timeout(HOUR, answers.data()).await.expect("it is ended").is_none());
    assert_eq!(answers.trailers().await.unwrap().unwrap()["grpc-status"], "4");
    assert!((298..=300).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    tokio::time::resume();
    drop((client, send));
    shutdown.cancel();
    server.await.unwrap().unwrap();
}
