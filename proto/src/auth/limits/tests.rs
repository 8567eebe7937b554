use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::time::advance;

use super::*;

fn client(name: &str, calls: Option<u32>, bytes: Option<u64>) -> Identity {
    let limits = Limits { calls_per_second: calls, ingest_bytes_per_second: bytes };
    Identity::new(name, Via::Token, super::super::Scopes::all(), limits)
}

/// Proves that a client has a second's calls at once, then one each time that one comes in, is told exactly when, and takes none from others.
#[tokio::test(start_paused = true)]
async fn calls() {
    let (limiter, shop, other) = (Limiter::default(), client("shop", Some(10), None), client("other", Some(10), None));
    let admitted = (0..100).take_while(|_| limiter.admit(&shop, false).is_ok()).count();
    // The last one goes into debt, which is what the next one waits for.
    assert_eq!(admitted, 11);
    let (measure, wait) = limiter.admit(&shop, false).unwrap_err();
    assert_eq!((measure, wait), (Measure::Calls, Duration::from_millis(100)));
    assert!(limiter.admit(&other, false).is_ok());
    advance(wait - Duration::from_millis(1)).await;
    assert!(limiter.admit(&shop, false).is_err());
    advance(Duration::from_millis(1)).await;
    assert!(limiter.admit(&shop, false).is_ok());
    assert!(limiter.admit(&shop, false).is_err());
    // A minute of rest saves up no more than a second's.
    advance(Duration::from_secs(60)).await;
    assert_eq!((0..100).take_while(|_| limiter.admit(&shop, false).is_ok()).count(), 11);
}

/// Proves that over a long time a client gets its rate of bytes and one message more at most, whatever the sizes, and that only calls
/// that bring events are held to it.
#[tokio::test(start_paused = true)]
async fn bytes() {
    const RATE: u64 = 1 << 20;
    let (limiter, shop) = (Limiter::default(), client("shop", None, Some(RATE)));
    let (begin, mut taken, mut largest) = (Instant::now(), 0u64, 0);
    for message in [1usize, 4 << 20, 100, 3 << 20, 70_000, 1, 2 << 20].into_iter().cycle().take(70) {
        let allowance = loop {
            match limiter.admit(&shop, true) {
                Ok(allowance) => break allowance.unwrap(),
                Err((Measure::IngestBytes, wait)) => advance(wait).await,
                Err(other) => panic!("{other:?}"),
            }
        };
        allowance.take(message);
        taken += message as u64;
        largest = largest.max(message as u64);
    }
    assert!(limiter.admit(&shop, true).is_err() && limiter.admit(&shop, false).unwrap().is_none());
    let fair = RATE as f64 * (begin.elapsed().as_secs_f64() + BURST.as_secs_f64());
    assert!(taken as f64 <= fair + largest as f64, "{taken} in {:?}", begin.elapsed());
    assert!(taken as f64 >= fair * 0.95, "{taken} in {:?}", begin.elapsed());
}

/// Proves that whoever has very many addresses takes a bounded memory, gets no more by them than one client, and takes nothing from
/// those who were there before.
#[tokio::test(start_paused = true)]
async fn many_addresses() {
    let limiter = Limiter::default();
    let limits = Limits { calls_per_second: Some(1), ingest_bytes_per_second: None };
    let from = |number: usize| Identity::anyone(Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::from(number as u32)), 1)), limits);
    let mut admitted = 0;
    for number in 0..3 * MAX_CLIENTS {
        admitted += usize::from(limiter.admit(&from(number), false).is_ok());
    }
    assert_eq!(lock(&limiter.clients).len(), MAX_CLIENTS);
    assert_eq!(admitted, MAX_CLIENTS + 2);
    assert!(limiter.admit(&from(0), false).is_ok() && limiter.admit(&from(0), false).is_err());
    // Once they are at rest, there is room again.
    advance(Duration::from_secs(10)).await;
    assert!(limiter.admit(&from(5 * MAX_CLIENTS), false).is_ok());
    assert_eq!(lock(&limiter.clients).len(), 1);
}

/// Proves that nothing is remembered of those who are not limited.
#[tokio::test]
async fn no_limits() {
    let limiter = Limiter::default();
    for _ in 0..1000 {
        assert!(limiter.admit(&client("shop", None, None), true).unwrap().is_none());
    }
    assert!(lock(&limiter.clients).is_empty());
}
