//! A page's connection by hand: HTTP/1.1 as a browser writes it, gRPC-Web frames within it, in both of their forms.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use prost::Message;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;
use tonic::{Code, Status};

pub(super) const BINARY: &str = "application/grpc-web+proto";
pub(super) const TEXT: &str = "application/grpc-web-text";
/// Bit of a frame's first byte: it holds trailers, and no message.
const TRAILERS: u8 = 0x80;
/// What anything may take, by the clock of the test.
const PATIENCE: Duration = Duration::from_secs(3600);
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// One connection.
pub(super) struct Page {
    address: SocketAddr,
    read: BufReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
    headers: Vec<(String, String)>,
}

/// What an answer begins with.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) headers: BTreeMap<String, String>,
}

/// The frames of an answer that has begun.
pub(super) struct Frames<'a> {
    page: &'a mut Page,
    head: Head,
    bytes: VecDeque<u8>,
    /// Of base64, less than four.
    letters: Vec<u8>,
    has_ended: bool,
}

/// One frame.
#[derive(Debug)]
pub(super) enum Part<M> {
    Answer(M),
    End(Status),
}

impl Page {
    pub(super) async fn open(address: SocketAddr) -> Self {
        let (read, write) = TcpStream::connect(address).await.unwrap().into_split();
        Self { address, read: BufReader::new(read), write, headers: Vec::new() }
    }

    /// Sends this with every request from now on.
    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sends a request and reads how the answer begins.
    pub(super) async fn ask(&mut self, method: &str, path: &str, kind: &str, body: &[u8]) -> Head {
        self.ask_announcing(method, path, kind, body.len(), body).await
    }

    /// [`Self::ask`], with a body that is said to be longer or shorter than it is.
    pub(super) async fn ask_announcing(&mut self, method: &str, path: &str, kind: &str, length: usize, body: &[u8]) -> Head {
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-length: {length}\r\n", self.address);
        if !kind.is_empty() {
            request += &format!("content-type: {kind}\r\naccept: {kind}\r\nx-grpc-web: 1\r\n");
        }
        for (name, value) in &self.headers {
            request += &format!("{name}: {value}\r\n");
        }
        // A server that refuses need not read all of it.
        let _refused_meanwhile = self.write.write_all(&[request.as_bytes(), b"\r\n", body].concat()).await;
        self.head().await
    }

    /// A call, begun.
    pub(super) async fn call(&mut self, path: &str, kind: &str, message: &impl Message) -> Frames<'_> {
        let framed = framed(&message.encode_to_vec());
        let body = if kind.starts_with(TEXT) { encoded(&framed) } else { framed };
        let head = self.ask("POST", path, kind, &body).await;
        Frames { page: self, head, bytes: VecDeque::new(), letters: Vec::new(), has_ended: false }
    }

    /// A call to its end: the answer, or the status instead of one.
    pub(super) async fn get<M: Message + Default>(&mut self, path: &str, kind: &str, message: &impl Message) -> Result<M, Status> {
        let mut frames = self.call(path, kind, message).await;
        match frames.next().await {
            Part::End(status) => {
                assert_ne!(status.code(), Code::Ok, "an answer comes before its end");
                Err(status)
            }
            Part::Answer(answer) => {
                let Part::End(status) = frames.next::<M>().await else { panic!("a second answer") };
                assert_eq!(status.code(), Code::Ok);
                Ok(answer)
            }
        }
    }

    async fn head(&mut self) -> Head {
        let line = self.line().await;
        let status = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let mut headers = BTreeMap::new();
        loop {
            let line = self.line().await;
            let Some((name, value)) = line.split_once(": ") else { break };
            headers.insert(name.to_owned(), value.to_owned());
        }
        Head { status: status.unwrap_or_else(|| panic!("{line:?} is no answer")), headers }
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        timeout(PATIENCE, self.read.read_line(&mut line)).await.expect("there is an answer").unwrap();
        line.trim_end().to_owned()
    }

    /// The next piece of a body in pieces; nothing at its end.
    async fn piece(&mut self) -> Vec<u8> {
        let length = self.line().await;
        let mut piece = vec![0; usize::from_str_radix(&length, 16).unwrap_or_else(|_| panic!("{length:?} is no length")) + 2];
        self.read.read_exact(&mut piece).await.unwrap();
        piece.truncate(piece.len() - 2);
        piece
    }
}

impl Frames<'_> {
    pub(super) fn head(&self) -> &Head {
        &self.head
    }

    /// The next answer, or the status at the end.
    pub(super) async fn next<M: Message + Default>(&mut self) -> Part<M> {
        if let Some(status) = status_of(&self.head.headers) {
            assert_eq!(self.head.headers["content-length"], "0");
            return Part::End(status);
        }
        let prefix = self.take(5).await;
        let length = u32::from_be_bytes(prefix[1..].try_into().unwrap());
        let payload = self.take(length as usize).await;
        if prefix[0] & TRAILERS == 0 {
            return Part::Answer(M::decode(&*payload).unwrap());
        }
        let text = String::from_utf8(payload).unwrap();
        let trailers = text.lines().map(|line| line.split_once(':').unwrap()).map(|(name, value)| (name.into(), value.trim().into()));
        let status = status_of(&trailers.collect()).expect("trailers have a status");
        while !self.has_ended {
            self.more().await;
        }
        assert!(self.bytes.is_empty(), "trailers are the last");
        Part::End(status)
    }

    async fn take(&mut self, length: usize) -> Vec<u8> {
        while self.bytes.len() < length {
            assert!(!self.has_ended, "an answer ends with trailers");
            self.more().await;
        }
        self.bytes.drain(..length).collect()
    }

    async fn more(&mut self) {
        let piece = self.page.piece().await;
        self.has_ended = piece.is_empty();
        if self.head.headers["content-type"].starts_with(TEXT) {
            self.letters.extend(piece);
            let whole: Vec<u8> = self.letters.drain(..self.letters.len() / 4 * 4).collect();
            self.bytes.extend(whole.chunks(4).flat_map(decoded));
        } else {
            self.bytes.extend(piece);
        }
    }
}

fn status_of(headers: &BTreeMap<String, String>) -> Option<Status> {
    let headers = headers.iter().filter(|(name, _)| name.starts_with("grpc-"));
    let headers: http::HeaderMap = headers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
    Status::from_header_map(&headers)
}

/// A message with its length before it.
pub(super) fn framed(message: &[u8]) -> Vec<u8> {
    [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat()
}

/// In base64 (RFC 4648).
fn encoded(bytes: &[u8]) -> Vec<u8> {
    let four = |three: &[u8]| {
        let bits = three.iter().chain([&0, &0]).take(3).fold(0, |bits, byte| bits << 8 | usize::from(*byte));
        let letter = |at: usize| if at > three.len() { b'=' } else { ALPHABET[bits >> (18 - 6 * at) & 63] };
        [0, 1, 2, 3].map(letter)
    };
    bytes.chunks(3).flat_map(four).collect()
}

/// Four letters of base64, which may end in padding wherever they stand.
fn decoded(four: &[u8]) -> Vec<u8> {
    let value = |letter: u8| ALPHABET.iter().position(|known| *known == letter).unwrap_or_default();
    let bits = four.iter().fold(0, |bits, letter| bits << 6 | value(*letter));
    let padding = four.iter().filter(|letter| **letter == b'=').count();
    bits.to_be_bytes()[5..8 - padding].to_vec()
}
