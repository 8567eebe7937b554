use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request};
use integration_tests::certificates::{Authority, LAYER, NOW, PAST};
use integration_tests::identities::{AUDIENCE, ISSUER};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::KeyPair;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout};
use tonic::Code;

use super::calls::{APPEND, GET, ask_over, framed, open, open_to, request};
use super::connections::frames;
use super::victim::{Over, PAYLOAD, Victim};

/// What whoever is refused waits for at most: it is not let to say what it wants first.
const AT_ONCE: Duration = Duration::from_secs(3);
/// Lines of refused calls that the audit log takes in a second.
const AUDITED_A_SECOND: usize = 5;

/// Proves that frames which are wrong, too many or too large cost whoever is not known no more than somebody who is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_of_nobody() {
    frames(Over::TlsAsNobody).await;
}

/// Proves that certificates of another CA and past their date do not get in, that those without a name and with one that nobody knows are
/// nobody's, and that a thousand of them leave nothing behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strange_certificates() {
    let victim = Victim::start("", Over::Tls).await;
    let (folder, ca, other) = (victim.folder(), victim.ca.as_ref().unwrap(), Authority::new().unwrap());
    let expired = ca.issue(folder, "expired", &[LAYER], PAST).unwrap();
    let of_another = other.issue(folder, "of-another", &[LAYER], NOW).unwrap();
    let nameless = ca.issue(folder, "nameless", &[], NOW).unwrap();
    let unknown = ca.issue(folder, "unknown", &[&format!("spiffe://{PAYLOAD}/layer")], NOW).unwrap();
    let alike = ca.issue(folder, "alike", &[&format!("{LAYER}/more"), "*.merganser.test"], NOW).unwrap();
    for (what, (certificate, key)) in [("expired", &expired), ("of another CA", &of_another)] {
        for _ in 0..200 {
            // TLS 1.3 has the client believe that it is in before the server has looked.
            if let Ok(mut stream) = victim.connect_with(Some((certificate, key)), victim.speed).await {
                let refused = timeout(AT_ONCE, stream.read_to_end(&mut Vec::new())).await.expect("it is let go");
                assert!(refused.is_err(), "{what}: {refused:?}");
            }
        }
    }
    for (what, (certificate, key)) in [("without a name", &nameless), ("with an unknown name", &unknown), ("with names alike", &alike)] {
        for _ in 0..200 {
            let stream = victim.connect_with(Some((certificate, key)), victim.serving).await.unwrap();
            let answer = ask_over(&mut open(stream).await, request(GET, &[]), &[framed(b"\x0a\x08ordinary")], Duration::ZERO, true).await;
            assert_eq!(answer.code, Some(Code::Unauthenticated), "{what}: {answer:?}");
        }
    }
    assert!(victim.audited().contains("CERTIFICATE_UNKNOWN"));
    victim.is_well("strange certificates").await;
}

/// Proves that nobody is refused before a byte of what they say is waited for or kept: endless, slow and lying bodies, and twenty
/// thousand calls, of which the audit log counts most and lists few.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_nobody() {
    let victim = Victim::start("", Over::TlsAsNobody).await;
    let lying = vec![Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3])];
    let large = vec![framed(&[0x0a, 0x00].repeat((2 << 20) - 5))];
    let slow: Vec<Bytes> = framed(&[0x0a, 0x00].repeat(100)).chunks(1).map(Bytes::copy_from_slice).collect();
    for (address, path) in [(victim.speed, APPEND), (victim.serving, GET)] {
        for (what, body, pause) in [("lying", &lying, 0), ("large", &large, 0), ("slow", &slow, 1)] {
            let started = Instant::now();
            let mut client = open_to(&victim, address).await;
            let answer = ask_over(&mut client, request(path, &[]), body, Duration::from_secs(pause), false).await;
            assert_eq!(answer.code, Some(Code::Unauthenticated), "{what}: {answer:?}");
            assert!(started.elapsed() < AT_ONCE, "{what}: {:?}", started.elapsed());
        }
    }
    victim.is_well("bodies of nobody").await;

    let (before, started) = (victim.audited().lines().count(), Instant::now());
    let floods = (0..20).map(|_| async {
        let mut client = open_to(&victim, victim.speed).await;
        for _ in 0..1000 {
            let answer = ask_over(&mut client, request(APPEND, &[]), &[framed(&[])], Duration::ZERO, true).await;
            assert_eq!(answer.code, Some(Code::Unauthenticated), "{answer:?}");
        }
    });
    futures::future::join_all(floods).await;
    let (listed, seconds) = (victim.audited().lines().count() - before, started.elapsed().as_secs() as usize);
    assert!((1..=AUDITED_A_SECOND * (seconds + 2)).contains(&listed), "{listed} lines in {seconds} s");
    victim.is_well("20,000 calls of nobody").await;
}

/// Proves that forged, doubled and oversized tokens are refused, that a good one is taken beside them, and that none of them is in
/// an answer, a log or the audit log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_tokens() {
    let victim = Victim::start("", Over::TlsAsNobody).await;
    let issuer = victim.issuer.as_ref().expect("they ask who calls");
    let private = EncodingKey::from_ec_pem(issuer.serialize_pem().as_bytes()).unwrap();
    let claims = |change: fn(&mut Value)| {
        // 2100, and 2000.
        let mut claims = json!({ "sub": "ann", "iss": ISSUER, "aud": AUDIENCE, "exp": 4_102_444_800_u64, "scope": "ingest query" });
        change(&mut claims);
        claims
    };
    let signed = |change| encode(&Header::new(Algorithm::ES256), &claims(change), &private).unwrap();
    let good = signed(|_| {});
    let [_, said, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!("{good}") };
    let another = EncodingKey::from_ec_pem(KeyPair::generate().unwrap().serialize_pem().as_bytes()).unwrap();
    let keyed_with_public = EncodingKey::from_secret(issuer.public_key_pem().as_bytes()).unwrap();
    let mut forged = vec![
        ("alg none", format!("eyJhbGciOiJub25lIn0.{said}.")),
        ("alg none with a signature", format!("eyJhbGciOiJub25lIn0.{said}.{signature}")),
        ("HS256 with the public key", encode(&Header::new(Algorithm::HS256), &claims(|_| {}), &keyed_with_public).unwrap()),
        ("signed by another", encode(&Header::new(Algorithm::ES256), &claims(|_| {}), &another).unwrap()),
        ("not valid yet", signed(|claims| claims["nbf"] = 4_102_444_799_u64.into())),
        ("expired", signed(|claims| claims["exp"] = 946_684_800_u64.into())),
        ("for somebody else", signed(|claims| claims["aud"] = "other".into())),
        ("of another issuer", signed(|claims| claims["iss"] = PAYLOAD.into())),
        ("of nobody", signed(|claims| claims["sub"] = Value::Null)),
        ("not of this server", format!("{PAYLOAD}-0123456789abcdef0123456789abcdef")),
        ("of 5,000 bytes", PAYLOAD.repeat(200)),
        ("half of a good one", good[..good.len() / 2].to_owned()),
    ];
    let with = |tokens: &[String]| {
        let mut request: Request<()> = request(GET, &[]);
        for token in tokens {
            request.headers_mut().append("authorization", HeaderValue::try_from(token).unwrap());
        }
        request
    };
    let call = async |tokens: &[String]| {
        let mut client = open_to(&victim, victim.serving).await;
        ask_over(&mut client, with(tokens), &[framed(b"\x0a\x08ordinary")], Duration::ZERO, true).await
    };
    assert_eq!(call(&[format!("Bearer {good}")]).await.code, Some(Code::Ok));
    for (what, token) in &forged {
        let answer = call(&[format!("Bearer {token}")]).await;
        assert_eq!(answer.code, Some(Code::Unauthenticated), "{what}: {answer:?}");
        assert!(!answer.message.contains(token.as_str()), "{what}: {answer:?}");
    }
    let twice = [format!("Bearer {good}"), format!("Bearer {good}")];
    for (what, tokens) in [("twice", &twice[..]), ("another scheme", &[format!("Basic {good}")]), ("two in one", &[twice.join(", ")])] {
        let answer = call(tokens).await;
        assert_eq!(answer.code, Some(Code::Unauthenticated), "{what}: {answer:?}");
    }
    // One of a megabyte does not come through the bound on headers: the connection ends.
    let mut client = open_to(&victim, victim.serving).await;
    let (answer, _) = client.send_request(with(&[format!("Bearer {}", PAYLOAD.repeat((1 << 20) / PAYLOAD.len()))]), true).unwrap();
    assert!(answer.await.is_err());
    victim.is_well("forged tokens").await;

    forged.push(("good", good.clone()));
    for (what, token) in &forged {
        // Its signature alone would be enough to go on with.
        let part = token.rsplit('.').find(|part| !part.is_empty()).expect("no token is empty");
        assert!(!victim.log().contains(part) && !victim.audited().contains(part), "{what} is in a log");
    }
}
