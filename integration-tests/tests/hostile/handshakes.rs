use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::victim::{Over, PAYLOAD, Victim};
use super::wire::{PREFACE, SETTINGS, frame};

/// What every handshake may take, and a little.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a silent peer is kept for, and a little.
const KEPT_ALIVE: Duration = Duration::from_secs(60);

/// What a TLS client says first, whoever it trusts.
fn client_hello() -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    let mut client = ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

/// Whether the server has not closed a connection, as far as is known by now.
fn is_open(stream: &TcpStream) -> bool {
    match stream.try_read(&mut [0; 4096]) {
        Ok(bytes) => bytes > 0,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

/// Sends, and reads until the server closes the connection; how many bytes it said.
async fn say(victim: &Victim, bytes: &[u8]) -> usize {
    let Ok(mut stream) = TcpStream::connect(victim.serving).await else { return 0 };
    let _sent = stream.write_all(bytes).await;
    let mut said = Vec::new();
    // An error is that of a connection that was reset.
    let _closed = timeout(PATIENCE, stream.read_to_end(&mut said)).await.expect("it is let go");
    said.len()
}

/// Proves that handshakes which stop after the first message, 5,000 of them, are let go after five seconds, take little memory meanwhile, and
/// keep nobody out for longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_shaken() {
    let victim = Victim::start("", Over::Tls).await;
    let hello = client_hello();
    let (mut open, mut greeted) = (Vec::new(), 0);
    let started = Instant::now();
    for _ in 0..5000 {
        // Those that the server has let go do not wait for anything; this process would want for file handles.
        if open.len() % 100 == 99 {
            open.retain(is_open);
        }
        if let Ok(Ok(mut stream)) = timeout(Duration::from_secs(1), TcpStream::connect(victim.speed)).await {
            // Beyond the places the connection is closed.
            greeted += usize::from(stream.write_all(&hello).await.is_ok());
            open.push(stream);
        }
    }
    println!("{} connections, {greeted} have said hello, after {:?}", open.len(), started.elapsed());
    assert!(greeted > 800, "{greeted}");
    victim.is_well("handshakes that stop half way").await;
    for mut stream in open {
        let _said = timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await.expect("a handshake that stops is given up");
    }
    victim.is_well("handshakes that were given up").await;
}

/// Proves that bytes which are no handshake cost the connection and nothing else: plaintext of two kinds, records that are too long, a
/// hello that announces 16 MiB or comes in pieces of one byte, hellos one after the other without end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn not_a_handshake() {
    let victim = Victim::start("", Over::Tls).await;
    let hello = client_hello();
    let mut announced = vec![0x16, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff];
    announced.extend([0; 0x4000 - 4]);
    let mut endless = announced.clone();
    for _ in 0..64 {
        endless.extend([0x16, 3, 1, 0x40, 0]);
        endless.extend([0; 0x4000]);
    }
    let dripping: Vec<u8> = hello[5..].iter().flat_map(|byte| [0x16, 3, 1, 0, 1, *byte]).collect();
    let attacks: [(&str, Vec<u8>); 8] = [
        ("HTTP/1.1", format!("GET /{PAYLOAD} HTTP/1.1\r\nhost: x\r\n\r\n").into_bytes()),
        ("HTTP/2", [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()),
        ("a record of 64 KiB", [&[0x16, 3, 3, 0xff, 0xff][..], &[7; 70_000]].concat()),
        ("a hello of 16 MiB", announced),
        ("a hello of 16 MiB that comes", endless),
        ("hellos without end", hello.repeat(1000)),
        ("empty records without end", [0x16, 3, 3, 0, 0].repeat(10_000)),
        ("an alert", vec![0x15, 3, 3, 0, 2, 2, 40]),
    ];
    for (attack, bytes) in &attacks {
        let started = Instant::now();
        for _ in 0..20 {
            // Whoever speaks plaintext is told in TLS what is wrong.
            let said = say(&victim, bytes).await;
            assert!(!attack.starts_with("HTTP") || said > 0, "{attack}: nothing was said");
        }
        println!("{attack}: 20 times in {:?}", started.elapsed());
        victim.is_well(attack).await;
    }
    // Slow, and right: the server answers it, and lets it go when nothing follows.
    assert!(say(&victim, &dripping).await > 0);
    victim.is_well("a hello in pieces of a byte").await;
}

/// Proves that whoever shakes hands and says nothing more is let go after five seconds, and whoever says hello and nothing more after forty.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_afterwards() {
    let victim = Victim::start("", Over::Tls).await;
    let hello = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    let let_go = async |said: &[u8]| {
        let mut stream = victim.connect(victim.speed).await.unwrap();
        stream.write_all(said).await.unwrap();
        let started = Instant::now();
        let _closed = timeout(KEPT_ALIVE, stream.read_to_end(&mut Vec::new())).await.expect("it is let go");
        started.elapsed().as_secs()
    };
    let (silent, asked_in_vain) = tokio::join!(let_go(&[]), let_go(&hello));
    assert!((4..=7).contains(&silent) && (39..=43).contains(&asked_in_vain), "{silent} s, {asked_in_vain} s");
    victim.is_well("silent peers").await;
}

/// Proves that two thousand handshakes that come to their end leave nothing behind, nor does whoever goes away right after.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many() {
    let victim = Victim::start("", Over::Tls).await;
    for _ in 0..200 {
        let hands = (0..10).map(|_| victim.connect(victim.serving));
        for stream in futures::future::join_all(hands).await {
            drop(stream.expect("there is a place"));
        }
    }
    victim.is_well("two thousand handshakes").await;
}
