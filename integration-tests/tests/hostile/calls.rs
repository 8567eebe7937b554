use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use merganser_proto::v1::ingest_service_client::IngestServiceClient;
use merganser_proto::v1::{AppendEventsRequest, Event};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;

use super::victim::{Over, PAYLOAD, Victim};

pub(super) const APPEND: &str = "/merganser.v1.IngestService/AppendEvents";
pub(super) const GET: &str = "/merganser.v1.UserStatsService/GetUserStats";
/// How long the server has for an answer: its own limit for an append, and a little.
const PATIENCE: Duration = Duration::from_secs(13);

/// An HTTP/2 connection that knows nothing of gRPC.
pub(super) async fn open(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> SendRequest<Bytes> {
    let (client, connection) = h2::client::handshake(io).await.unwrap();
    tokio::spawn(connection);
    client.ready().await.unwrap()
}

pub(super) async fn open_to(victim: &Victim, address: SocketAddr) -> SendRequest<Bytes> {
    open(victim.connect(address).await.unwrap()).await
}

pub(super) fn request(path: &str, headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder().method(Method::POST).uri(format!("http://localhost{path}"));
    for (name, value) in [("content-type", "application/grpc"), ("te", "trailers")].iter().chain(headers) {
        request = request.header(*name, *value);
    }
    let mut request = request.body(()).unwrap();
    // The last of a name counts.
    for (name, value) in headers {
        request.headers_mut().insert(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
    }
    request
}

/// A message with gRPC's five bytes before it.
pub(super) fn framed(message: &[u8]) -> Bytes {
    [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat().into()
}

/// What came back: HTTP status, gRPC status, gRPC message.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) http: StatusCode,
    pub(super) code: Option<Code>,
    pub(super) message: String,
}

fn grpc(headers: &HeaderMap) -> Option<(Code, String)> {
    let code = headers.get("grpc-status")?;
    let message = headers.get("grpc-message").map(|message| String::from_utf8_lossy(message.as_bytes()).into_owned());
    Some((Code::from_bytes(code.as_bytes()), message.unwrap_or_default()))
}

/// Sends `body` in pieces, `pause` apart, and waits for the answer. With `complete` the last piece ends the question.
async fn ask(victim: &Victim, address: SocketAddr, request: Request<()>, body: &[Bytes], pause: Duration, complete: bool) -> Answer {
    ask_over(&mut open_to(victim, address).await, request, body, pause, complete).await
}

/// As [`ask`], over a connection that there is.
pub(super) async fn ask_over(
    client: &mut SendRequest<Bytes>,
    request: Request<()>,
    body: &[Bytes],
    pause: Duration,
    complete: bool,
) -> Answer {
    let (response, mut send) = client.send_request(request, body.is_empty() && complete).unwrap();
    let pieces = body.to_vec();
    let sender = tokio::spawn(async move {
        for (i, piece) in pieces.iter().enumerate() {
            if send.send_data(piece.clone(), complete && i + 1 == pieces.len()).is_err() {
                return send;
            }
            tokio::time::sleep(pause).await;
        }
        send
    });
    let answered = async {
        let (head, mut body) = response.await.unwrap().into_parts();
        let mut status = grpc(&head.headers);
        while let Some(Ok(piece)) = body.data().await {
            let _read = body.flow_control().release_capacity(piece.len());
        }
        if let Ok(Some(trailers)) = body.trailers().await {
            status = grpc(&trailers);
        }
        let (code, message) = status.unzip();
        Answer { http: head.status, code, message: message.unwrap_or_default() }
    };
    let answer = timeout(PATIENCE, answered).await.expect("an answer");
    sender.abort();
    assert!(!answer.message.contains(PAYLOAD), "{answer:?}");
    answer
}

async fn ask_whole(victim: &Victim, address: SocketAddr, request: Request<()>, body: Bytes) -> Answer {
    ask(victim, address, request, &[body], Duration::ZERO, true).await
}

over_both!(bodies, slow_bodies, wrong_calls, unread_answers);

/// Proves that bodies which lie about their length, are compressed, or become a hundred times larger when decoded are refused
/// before they cost memory.
async fn bodies(over: Over) {
    let victim = Victim::start("", over).await;
    for (address, path) in [(victim.speed, APPEND), (victim.serving, GET)] {
        let huge = Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]);
        let answer = ask(&victim, address, request(path, &[]), &[huge], Duration::ZERO, false).await;
        assert_eq!(answer.code, Some(Code::OutOfRange), "{answer:?}");

        // Zeroes, a thousand to one.
        let zeroes = deflated(64 << 20);
        let mut bomb = framed(&zeroes).to_vec();
        bomb[0] = 1;
        let answer = ask_whole(&victim, address, request(path, &[("grpc-encoding", "gzip")]), bomb.clone().into()).await;
        assert_eq!(answer.code, Some(Code::Unimplemented), "{answer:?}");
        let answer = ask_whole(&victim, address, request(path, &[]), bomb.into()).await;
        assert_eq!(answer.code, Some(Code::Internal), "{answer:?}");
        victim.is_well("lengths and bombs").await;
    }
    // Two bytes an event, 150 of them in memory.
    let many = framed(&[0x0a, 0x00].repeat(2_000_000));
    for _ in 0..5 {
        let answer = ask_whole(&victim, victim.speed, request(APPEND, &[]), many.clone()).await;
        assert_eq!(answer.code, Some(Code::InvalidArgument), "{answer:?}");
    }
    // Over the limits of size: 4 MiB of events, 512 KiB of ids.
    let answer = ask_whole(&victim, victim.speed, request(APPEND, &[]), framed(&[0x0a, 0x00].repeat((2 << 20) + 1))).await;
    assert_eq!(answer.code, Some(Code::OutOfRange), "{answer:?}");
    let answer = ask_whole(&victim, victim.serving, request(GET, &[]), framed(&[0x0a, 0x00].repeat((256 << 10) + 1))).await;
    assert_eq!(answer.code, Some(Code::OutOfRange), "{answer:?}");
    victim.is_well("messages of very many fields").await;
}

fn deflated(bytes: usize) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&vec![0; bytes]).unwrap();
    encoder.finish().unwrap()
}

/// Proves that a question which comes a byte a second is cut at the limit of its method, however alive its sender is.
async fn slow_bodies(over: Over) {
    let victim = Victim::start("", over).await;
    let body: Vec<Bytes> = framed(&[0x0a, 0x00].repeat(100)).chunks(1).map(Bytes::copy_from_slice).collect();
    let pause = Duration::from_secs(1);
    let slow = async |address, path| {
        let started = Instant::now();
        let answer = ask(&victim, address, request(path, &[]), &body, pause, false).await;
        assert_eq!(answer.code, Some(Code::DeadlineExceeded), "{answer:?}");
        started.elapsed().as_secs()
    };
    let (append, question, patient) = tokio::join!(slow(victim.speed, APPEND), slow(victim.serving, GET), victim.answers());
    let () = patient;
    assert!((9..12).contains(&append) && (4..7).contains(&question), "{append} s, {question} s");
    victim.is_well("a byte a second").await;
}

/// Proves that a wrong method, path, content type or timeout is answered as gRPC has it, and repeats nothing of what was sent.
async fn wrong_calls(over: Over) {
    let victim = Victim::start("", over).await;
    let secret_path = format!("/{PAYLOAD}/{PAYLOAD}");
    // Who is asked may call what is in the table, and these are not.
    let refused = if over == Over::Tls { Code::PermissionDenied } else { Code::Unimplemented };
    let unknown = ["/", secret_path.as_str(), "/merganser.v1.IngestService/Nothing", "/merganser.v1.IngestService/..", "/..%2f..%2fetc"];
    for path in unknown {
        let answer = ask_whole(&victim, victim.speed, request(path, &[]), framed(&[])).await;
        assert_eq!(answer.code, Some(refused), "{path}: {answer:?}");
    }
    for kind in ["text/plain", "application/json", "application/grpc-web", PAYLOAD] {
        let answer = ask_whole(&victim, victim.speed, request(APPEND, &[("content-type", kind)]), framed(&[])).await;
        assert_eq!((answer.http, answer.code), (StatusCode::UNSUPPORTED_MEDIA_TYPE, None), "{kind}: {answer:?}");
    }
    let mut get = request(APPEND, &[]);
    *get.method_mut() = Method::GET;
    let answer = ask_whole(&victim, victim.speed, get, framed(&[])).await;
    assert_eq!((answer.http, answer.code), (StatusCode::METHOD_NOT_ALLOWED, None), "{answer:?}");

    for garbage in ["soon", "-1S", "99999999999999H", "1", "", "1e9S", PAYLOAD] {
        let answer = ask_whole(&victim, victim.speed, request(APPEND, &[("grpc-timeout", garbage)]), framed(&[])).await;
        assert!(matches!(answer.code, Some(Code::Ok | Code::Internal | Code::InvalidArgument)), "{garbage}: {answer:?}");
    }
    // Bytes that are no message, and texts that are no UTF-8.
    for body in [&[0xff; 64][..], &[0x0a, 0x04, 0x0a, 0x02, 0xc3, 0x28], &[0x0a, 0x7f], &[0x0b; 100]] {
        let answer = ask_whole(&victim, victim.speed, request(APPEND, &[]), framed(body)).await;
        assert!(matches!(answer.code, Some(Code::Internal | Code::InvalidArgument)), "{body:?}: {answer:?}");
    }
    victim.is_well("wrong calls").await;
}

/// What unread answers may grow the servers by: 32 MiB of them, what 20 questions in flight take, and what the allocator keeps of
/// both.
const UNREAD_GROWTH_BYTES: u64 = 256 << 20;

/// Proves that answers that nobody reads, 170 MB of them, do not grow the server without bound, and that others are answered
/// meanwhile.
async fn unread_answers(over: Over) {
    let victim = Victim::start("", over).await;
    let attacked = &victim;
    // Each row is refused, so that the answer is larger than the question.
    let events = vec![Event { event_id: PAYLOAD.repeat(5), ..Event::default() }; 3000];
    let body = framed(&prost_encoded(&AppendEventsRequest { events: events.clone() }));
    let clients = (0..20).map(|_| {
        let body = body.clone();
        async move {
            // Room for one byte of each answer, so that the server begins to send it.
            let mut settings = h2::client::Builder::new();
            settings.initial_window_size(1).initial_connection_window_size(1 << 24);
            let (client, connection) = settings.handshake(attacked.connect(attacked.speed).await.unwrap()).await.unwrap();
            tokio::spawn(connection);
            let mut client = client.ready().await.unwrap();
            let mut unread = Vec::new();
            for _ in 0..20 {
                let (response, mut send) = client.send_request(request(APPEND, &[]), false).unwrap();
                send.send_data(body.clone(), true).unwrap();
                unread.push((response.await, send));
            }
            (client, unread)
        }
    });
    let kept = futures::future::join_all(clients).await;
    let is_refused = |response: &&Result<Response<_>, h2::Error>| response.as_ref().unwrap().headers().contains_key("grpc-status");
    let refused = kept.iter().flat_map(|(_, unread)| unread).map(|(response, _)| response).filter(is_refused).count();
    assert!(refused > 200, "{refused} of 400 answers were refused, which take five times the memory there is for them");
    // Others may be told to come back, and then they are answered.
    let deadline = Instant::now() + Duration::from_secs(15);
    let mut others = IngestServiceClient::new(victim.channel(victim.speed));
    let refused = loop {
        match others.append_events(AppendEventsRequest { events: events[..10].to_vec() }).await {
            Err(busy) if busy.code() == Code::ResourceExhausted && Instant::now() < deadline => sleep(Duration::from_millis(100)).await,
            other => break other,
        }
    };
    assert_eq!(refused.unwrap().into_inner().rejected.len(), 10);
    victim.is_well_within("unread answers", UNREAD_GROWTH_BYTES).await;
}

/// Without a dependency for it: the client's own encoder.
fn prost_encoded(request: &AppendEventsRequest) -> Vec<u8> {
    let mut bytes = Vec::new();
    for event in &request.events {
        let mut message = Vec::new();
        for (tag, text) in [(0x0a, &event.event_id), (0x12, &event.user_id)] {
            message.push(tag);
            varint(&mut message, text.len());
            message.extend(text.as_bytes());
        }
        bytes.push(0x0a);
        varint(&mut bytes, message.len());
        bytes.extend(message);
    }
    bytes
}

fn varint(bytes: &mut Vec<u8>, mut value: usize) {
    while value >= 128 {
        bytes.push((value % 128) as u8 | 0x80);
        value /= 128;
    }
    bytes.push(value as u8);
}
