//! Frames by RFC 9113, headers by RFC 7541, no more of either than attacks need.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, WriteHalf};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::victim::{Victim, Wire};

pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Error codes.
pub(super) const REFUSED_STREAM: u32 = 7;

/// How long a server may take to let an attacker's connection go.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a server said on one connection.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// Frames by type.
    pub(super) frames: BTreeMap<u8, usize>,
    /// RST_STREAM by error code.
    pub(super) resets: BTreeMap<u32, usize>,
    /// Error codes of GOAWAY.
    pub(super) goaway: Vec<u32>,
}

/// A connection of an attacker, who reads everything.
pub(super) struct Raw {
    write: WriteHalf<Box<dyn Wire>>,
    read: JoinHandle<Said>,
}

impl Raw {
    /// Connects and says hello as HTTP/2 has it.
    pub(super) async fn connect(victim: &Victim, address: SocketAddr) -> Self {
        let (mut read, write) = tokio::io::split(victim.connect(address).await.unwrap());
        let read = tokio::spawn(async move {
            let mut said = Said::default();
            let mut head = [0; 9];
            while read.read_exact(&mut head).await.is_ok() {
                let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
                if read.read_exact(&mut payload).await.is_err() {
                    break;
                }
                *said.frames.entry(head[3]).or_default() += 1;
                let code = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
                match head[3] {
                    RST_STREAM => *said.resets.entry(code(0)).or_default() += 1,
                    GOAWAY => said.goaway.push(code(4)),
                    _ => {}
                }
            }
            said
        });
        let mut raw = Self { write, read };
        raw.send(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await;
        raw
    }

    /// Sends, and tells whether the server still takes it.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> bool {
        matches!(timeout(PATIENCE, self.write.write_all(bytes)).await, Ok(Ok(())))
    }

    /// What the server said until it closed the connection, or until we do.
    pub(super) async fn end(mut self, wait_for_server: bool) -> Said {
        if !wait_for_server {
            let _closed = self.write.shutdown().await;
        }
        timeout(PATIENCE, &mut self.read).await.expect("the server closes the connection").unwrap()
    }
}

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The headers of a gRPC call, none of them remembered by the server.
pub(super) fn grpc_headers(path: &str) -> Vec<u8> {
    // Static table: :method POST, :scheme http.
    let mut block = vec![0x83, 0x86];
    block.push(0x04);
    text(&mut block, path);
    block.push(0x01);
    text(&mut block, "localhost");
    for (name, value) in [("content-type", "application/grpc"), ("te", "trailers")] {
        literal(&mut block, name, value);
    }
    block
}

/// A header that the server does not remember.
pub(super) fn literal(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0x00);
    text(block, name);
    text(block, value);
}

/// A header that the server puts into its table, where it has the index 62 then.
pub(super) fn remembered(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0x40);
    text(block, name);
    text(block, value);
}

fn text(block: &mut Vec<u8>, text: &str) {
    let mut length = text.len();
    if length < 127 {
        block.push(length as u8);
    } else {
        block.push(127);
        length -= 127;
        while length >= 128 {
            block.push((length % 128) as u8 | 0x80);
            length /= 128;
        }
        block.push(length as u8);
    }
    block.extend(text.as_bytes());
}
