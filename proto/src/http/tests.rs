#![allow(clippy::unwrap_used)]

use std::fmt;
use std::sync::Mutex;

use axum::extract::Extension;
use futures::{FutureExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use super::*;
use crate::metrics::{Sheet, one};

/// Is ready unless told otherwise.
#[derive(Default)]
struct Fake(Mutex<Option<String>>);

impl Numbers for Fake {
    fn write(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        sheet.gauge("a_level", "Level.", one(1.0))
    }
}

impl Started for Fake {
    fn not_ready(&self) -> Option<String> {
        self.0.lock().unwrap().clone()
    }

    fn may_read_metrics(&self, headers: &HeaderMap, _: &Peer) -> Result<(), Refusal> {
        if headers.contains_key("x-nobody") { Err(Refusal::TokenMissing) } else { Ok(()) }
    }
}

async fn ask(address: std::net::SocketAddr, request: &str) -> String {
    let io = TcpStream::connect(address).await.unwrap();
    answered(io, request).await
}

/// As [`ask`], from another address of this machine.
async fn ask_from(from: &str, address: std::net::SocketAddr, request: &str) -> String {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    answered(socket.connect(address).await.unwrap(), request).await
}

async fn answered(mut io: TcpStream, request: &str) -> String {
    io.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(Duration::from_secs(30), io.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer
}

async fn get_from(address: std::net::SocketAddr, path: &str) -> String {
    ask(address, &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await
}

/// Proves that a server is alive from its start to its end, ready only in between, and says why not.
#[tokio::test]
async fn from_start_to_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let http = Http::start(Some(listener), None, "the log is being replayed", shutdown.clone());
    for path in ["/readyz", "/metrics"] {
        let answer = get_from(address, path).await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("\r\n\r\nnot ready: the log is being replayed\n"), "{answer}");
    }
    assert!(get_from(address, "/healthz").await.starts_with("HTTP/1.1 200 "));

    let layer = Arc::new(Fake::default());
    http.started(Arc::clone(&layer));
    let answer = get_from(address, "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nready\n"), "{answer}");
    let answer = get_from(address, "/metrics").await;
    assert!(answer.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n# HELP a_level Level.\n# TYPE a_level gauge\na_level 1.0\n# EOF\n"), "{answer}");
    let answer = ask(address, "GET /metrics HTTP/1.1\r\nhost: x\r\nx-nobody: 1\r\nconnection: close\r\n\r\n").await;
    assert!(
        answer.starts_with("HTTP/1.1 401 ") && answer.contains("www-authenticate: Bearer\r\n") && !answer.contains("a_level"),
        "{answer}"
    );
    *layer.0.lock().unwrap() = Some("the log is full".to_owned());
    let answer = get_from(address, "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("\r\n\r\nnot ready: the log is full\n"), "{answer}");
    *layer.0.lock().unwrap() = None;

    shutdown.cancel();
    let answer = get_from(address, "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("\r\n\r\nnot ready: the server is stopping\n"), "{answer}");
    assert!(get_from(address, "/healthz").await.starts_with("HTTP/1.1 200 "));
    http.close().await;
    assert_eq!(Arc::strong_count(&layer), 1);
    assert!(TcpStream::connect(address).await.is_err());
}

/// Proves that the pages of a layer are shown once there are some, on every path but the server's own, and that until then whoever looks is told
/// that the server starts.
#[tokio::test]
async fn pages_beside() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let http = Http::start(Some(listener), None, "the views are being opened", CancellationToken::new());
    let answer = get_from(address, "/").await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("not ready: the views are being opened\n"), "{answer}");
    http.also(Router::new().route("/", get(async || "a page")).route("/healthz", get(async || "not this")));
    assert!(get_from(address, "/").await.ends_with("\r\n\r\na page"));
    assert!(get_from(address, "/healthz").await.ends_with("\r\n\r\nalive\n"));
    assert!(get_from(address, "/else").await.starts_with("HTTP/1.1 404 "));
    http.close().await;
}

/// Proves that other paths, methods and headers without end are refused, and that connections which say nothing keep no other host
/// out, and their own not for long, however many there are.
#[tokio::test]
async fn strangers() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let http = Http::start(Some(listener), None, "starting", CancellationToken::new());
    assert!(get_from(address, "/else").await.ends_with("not ready: starting\n"));
    http.started(Arc::new(Fake::default()));
    assert!(get_from(address, "/else").await.starts_with("HTTP/1.1 404 "));
    assert!(
        ask(address, "POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            .await
            .starts_with("HTTP/1.1 405 ")
    );
    let long = format!("GET /healthz HTTP/1.1\r\nhost: x\r\nlong: {}\r\n\r\n", "x".repeat(2 * MAX_HEADER_BYTES));
    let mut io = TcpStream::connect(address).await.unwrap();
    // It may close the connection before it has read all.
    let _cut = io.write_all(long.as_bytes()).await;
    let mut answer = Vec::new();
    let _cut = timeout(Duration::from_secs(30), io.read_to_end(&mut answer)).await.unwrap();
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));

    let mut silent = Vec::new();
    for _ in 0..2 * MAX_CONNECTIONS {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    // One after the other they were let in or closed, so that a place is free now.
    let started = tokio::time::Instant::now();
    let request = "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    assert!(ask_from("127.0.0.2", address, request).await.starts_with("HTTP/1.1 200 "));
    assert!(started.elapsed() < HEADER_PATIENCE, "it waited for the silent ones");
    for mut io in silent {
        let _reset = timeout(2 * HEADER_PATIENCE, io.read_to_end(&mut Vec::new())).await.unwrap();
    }
    assert!(get_from(address, "/healthz").await.starts_with("HTTP/1.1 200 "));
    http.close().await;
}

/// Reads until the server closes the connection.
async fn all_of(address: std::net::SocketAddr, path: &str) -> String {
    let mut io = TcpStream::connect(address).await.unwrap();
    io.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A connection that is cut may be reset.
    let _cut = io.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

/// Proves that what a layer serves beside is there from its start on, and has its connection at hand: it may keep it, past the age of
/// others, and cut it.
#[tokio::test(start_paused = true)]
async fn beside() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let http = Http::start(Some(listener), None, "starting", CancellationToken::new());
    assert!(all_of(address, "/slow").await.ends_with("not ready: starting\n"));
    // Three words, the last of them after more than the age of a connection.
    let words = |kept: Option<Kept>| {
        let words = futures::stream::iter(["first", "second", "last"]).then(move |word| {
            let _kept = &kept;
            sleep(MAX_AGE / 2).map(move |()| Ok::<_, Infallible>(word))
        });
        Response::new(axum::body::Body::from_stream(words))
    };
    let routes = Router::new()
        .route("/slow", get(move || async move { words(None) }))
        .route("/kept", get(move |Extension(line): Extension<Line>| async move { words(line.keep()) }))
        .route(
            "/cut",
            get(async |Extension(line): Extension<Line>| {
                line.cut().cancel();
                std::future::pending::<()>().await;
            }),
        );
    http.also(routes);
    let slow = all_of(address, "/slow").await;
    assert!(slow.contains("first") && !slow.contains("last"), "{slow}");
    assert!(all_of(address, "/kept").await.contains("last"));
    let started = tokio::time::Instant::now();
    assert_eq!(all_of(address, "/cut").await, "");
    assert!(started.elapsed() < MAX_AGE);
    assert!(all_of(address, "/other").await.starts_with("HTTP/1.1 404 "));
    http.close().await;
}
