use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};

use super::victim::{Over, PAYLOAD, Victim, Wire};
use super::wire::{
    CONTINUATION, END_HEADERS, END_STREAM, HEADERS, PING, REFUSED_STREAM, RST_STREAM, Raw, SETTINGS, WINDOW_UPDATE, frame, grpc_headers,
    literal, remembered,
};

const APPEND: &str = "/merganser.v1.IngestService/AppendEvents";
/// Streams of one connection.
const MAX_STREAMS: usize = 128;
/// Resets that a connection may cause.
const MAX_RESETS: usize = 256;

over_both!(frames, half_open, few_file_handles);

/// Proves that frames which are wrong, too many or too large cost the attacker its streams or its connection, and nobody else
/// anything.
pub(super) async fn frames(over: Over) {
    let victim = Victim::start("", over).await;
    too_many_streams(&victim).await;
    victim.is_well("10,000 streams").await;
    streams_that_the_server_resets(&victim).await;
    victim.is_well("streams that the server resets").await;
    streams_that_the_client_resets(&victim).await;
    victim.is_well("streams that the client resets").await;
    headers_without_end(&victim).await;
    victim.is_well("headers without end").await;
    headers_of_a_mebibyte(&victim).await;
    victim.is_well("headers of a mebibyte").await;
    headers_that_unpack(&victim).await;
    victim.is_well("headers that unpack").await;
    pings_and_settings(&victim).await;
    victim.is_well("pings and settings").await;
    not_http2(&victim).await;
    victim.is_well("bytes that are not HTTP/2").await;
}

/// Of 10,000 streams 128 are kept; the others are refused, as streams or, to nobody, as calls.
async fn too_many_streams(victim: &Victim) {
    let mut raw = Raw::connect(victim, victim.speed).await;
    let headers = grpc_headers(APPEND);
    for i in 0..10_000 {
        if !raw.send(&frame(HEADERS, END_HEADERS, 2 * i + 1, &headers)).await {
            break;
        }
    }
    let said = raw.end(false).await;
    let refused = said.resets.get(&REFUSED_STREAM).copied().unwrap_or(0) + said.frames.get(&HEADERS).copied().unwrap_or(0);
    assert!(refused >= 10_000 - MAX_STREAMS - MAX_RESETS || !said.goaway.is_empty(), "{said:?}");
}

/// A window that grows by nothing is an error of its stream, which the server resets.
async fn streams_that_the_server_resets(victim: &Victim) {
    let mut raw = Raw::connect(victim, victim.speed).await;
    let headers = grpc_headers(APPEND);
    for i in 0..100_000 {
        let stream = 2 * i + 1;
        let attack = [frame(HEADERS, END_HEADERS, stream, &headers), frame(WINDOW_UPDATE, 0, stream, &[0; 4])].concat();
        if !raw.send(&attack).await {
            break;
        }
    }
    let said = raw.end(true).await;
    let resets: usize = said.resets.values().sum();
    assert!(!said.goaway.is_empty() && resets <= MAX_RESETS + 1, "{said:?}");
}

/// Rapid reset, CVE-2023-44487.
async fn streams_that_the_client_resets(victim: &Victim) {
    let mut raw = Raw::connect(victim, victim.serving).await;
    let headers = grpc_headers("/merganser.v1.UserStatsService/GetUserStats");
    for i in 0..20_000 {
        let stream = 2 * i + 1;
        let attack = [frame(HEADERS, END_HEADERS, stream, &headers), frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())].concat();
        if !raw.send(&attack).await {
            break;
        }
    }
    raw.end(false).await;
}

/// CONTINUATION flood, VU#421644.
async fn headers_without_end(victim: &Victim) {
    let mut raw = Raw::connect(victim, victim.speed).await;
    raw.send(&frame(HEADERS, END_STREAM, 1, &grpc_headers(APPEND))).await;
    let mut block = Vec::new();
    literal(&mut block, "x", PAYLOAD);
    for _ in 0..100_000 {
        if !raw.send(&frame(CONTINUATION, 0, 1, &block)).await {
            break;
        }
    }
    let said = raw.end(true).await;
    assert!(!said.goaway.is_empty(), "{said:?}");
}

async fn headers_of_a_mebibyte(victim: &Victim) {
    let mut raw = Raw::connect(victim, victim.speed).await;
    let mut block = grpc_headers(APPEND);
    literal(&mut block, "x-large", &PAYLOAD.repeat((1 << 20) / PAYLOAD.len()));
    let pieces: Vec<&[u8]> = block.chunks(16_000).collect();
    for (i, piece) in pieces.iter().enumerate() {
        let kind = if i == 0 { HEADERS } else { CONTINUATION };
        let flags = if i + 1 == pieces.len() { END_HEADERS } else { 0 };
        if !raw.send(&frame(kind, flags, 1, piece)).await {
            break;
        }
    }
    let said = raw.end(false).await;
    assert!(!said.goaway.is_empty() || !said.resets.is_empty() || said.frames.contains_key(&HEADERS), "{said:?}");
}

/// A header of 4,000 bytes that is remembered, then meant a thousand times with one byte each.
async fn headers_that_unpack(victim: &Victim) {
    let mut raw = Raw::connect(victim, victim.serving).await;
    for i in 0..200 {
        let mut block = grpc_headers(APPEND);
        remembered(&mut block, "x-bomb", &"b".repeat(3900));
        block.extend([0x80 | 62; 8000]);
        if !raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 2 * i + 1, &block)).await {
            break;
        }
    }
    let said = raw.end(false).await;
    assert!(!said.goaway.is_empty() || !said.resets.is_empty() || said.frames.contains_key(&HEADERS), "{said:?}");
}

/// Each asks for an answer.
async fn pings_and_settings(victim: &Victim) {
    let mut raw = Raw::connect(victim, victim.serving).await;
    let pair = [frame(PING, 0, 0, &[7; 8]), frame(SETTINGS, 0, 0, &[])].concat().repeat(100);
    for _ in 0..1_000 {
        if !raw.send(&pair).await {
            break;
        }
    }
    raw.end(false).await;
}

async fn not_http2(victim: &Victim) {
    let http1 = format!("GET /{PAYLOAD} HTTP/1.1\r\nHost: x\r\n\r\n");
    for bytes in [http1.as_bytes(), &[0xff; 4096], b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS client says hello....."] {
        let naked: Box<dyn Wire> = Box::new(TcpStream::connect(victim.speed).await.unwrap());
        for mut stream in [victim.connect(victim.speed).await.unwrap(), naked] {
            let _sent = stream.write_all(bytes).await;
            let mut said = Vec::new();
            timeout(Duration::from_secs(6), stream.read_to_end(&mut said)).await.expect("it is let go").ok();
            assert!(!String::from_utf8_lossy(&said).contains(PAYLOAD));
        }
    }
}

/// Proves that connections which say nothing are let go after five seconds, that those of one host are refused at once from 769 on, and that
/// a client among them is answered, as one is that comes later from elsewhere.
async fn half_open(over: Over) {
    let victim = Victim::start("", over).await;
    let mut client = Raw::connect(&victim, victim.speed).await;
    let mut open = Vec::new();
    for _ in 0..2000 {
        if let Ok(Ok(stream)) = timeout(Duration::from_secs(1), TcpStream::connect(victim.speed)).await {
            open.push(stream);
        }
    }
    println!("{} connections are open", open.len());
    // Whoever was there before them is served.
    assert!(client.send(&frame(PING, 0, 0, &[1; 8])).await);
    let started = Instant::now();
    assert!(has_a_place(&victim, "127.0.0.2").await, "one host keeps others out");
    assert!(!has_a_place(&victim, "127.0.0.1").await, "one host has more than its share");
    victim.is_well("half-open connections").await;
    for mut stream in open {
        // An error is that of a connection that was refused.
        let _said = timeout(Duration::from_secs(10), stream.read_to_end(&mut Vec::new())).await.expect("a silent connection is let go");
    }
    assert!(started.elapsed() < Duration::from_secs(15));
    client.end(false).await;
}

/// Whether whoever calls from there is kept waiting, rather than shown the door.
async fn has_a_place(victim: &Victim, from: &str) -> bool {
    let mut stream = connect_from(from, victim.speed).await.unwrap();
    // A server that speaks in plaintext says hello first.
    !matches!(timeout(Duration::from_secs(1), stream.read(&mut [0])).await, Ok(Ok(0) | Err(_)))
}

/// A connection from one of this machine's own addresses.
async fn connect_from(from: &str, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(format!("{from}:0").parse().unwrap())?;
    socket.connect(to).await
}

/// Proves that a server with few file handles goes on: it refuses connections, without spinning, and its log never wants for one.
async fn few_file_handles(over: Over) {
    let victim = Victim::start("ulimit -n 64", over).await;
    let mut open = Vec::new();
    for i in 0..1000 {
        let connecting = connect_from(["127.0.0.2", "127.0.0.3"][i % 2], victim.serving);
        if let Ok(Ok(stream)) = timeout(Duration::from_millis(200), connecting).await {
            open.push(stream);
        }
    }
    let before = victim.processor_time();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let hundredths = victim.processor_time() - before;
    assert!(hundredths < 50, "{hundredths} hundredths of a second of processor time in one second of nothing");
    victim.is_well("1,000 connections and 64 file handles").await;
    drop(open);
    assert!(victim.log().contains("connections are refused"), "{}", victim.log());
}
