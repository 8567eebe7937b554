use std::net::{Ipv4Addr, SocketAddr};

use super::*;

const NOW: u64 = 1_800_000_000;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

/// A tokens file of one client of this name and scope, and its token.
pub(in super::super) fn one(name: &str, scope: &str) -> (String, String) {
    let (token, hash) = new_token([name.len() as u8; SECRET_BYTES]);
    (format!("[[client]]\nname = \"{name}\"\ntoken_sha256 = \"{hash}\"\nscopes = [\"{scope}\"]\n"), token)
}

/// Proves that a token is its own client's and nobody else's, that one may have two of them, and that no part of one will do.
#[test]
fn tokens() {
    let tokens: Vec<(String, String)> = (1..4).map(|random| new_token([random; SECRET_BYTES])).collect();
    let text = format!(
        "[[client]]\nname = \"shop\"\ntoken_sha256 = [\"{}\", \"{}\"]\nscopes = [\"ingest\"]\ncalls_per_second = 5\ningest_bytes_per_second = \"2MiB\"\n\
         [[client]]\nname = \"nightly\"\ntoken_sha256 = \"{}\"\nscopes = [\"internal\", \"admin\"]",
        tokens[0].1,
        tokens[1].1,
        tokens[2].1.to_uppercase()
    );
    let clients = Clients::parse(&text).unwrap();
    let names = tokens.iter().map(|(token, _)| clients.of_token(token, now()).unwrap().name().to_owned());
    assert_eq!(names.collect::<Vec<_>>(), ["shop", "shop", "nightly"]);
    let shop = clients.of_token(&tokens[0].0, now()).unwrap();
    assert!(shop.may(Scope::Ingest) && !shop.may(Scope::Query) && !shop.may(Scope::Internal));
    assert_eq!(shop.limits(), Limits { calls_per_second: Some(5), ingest_bytes_per_second: Some(2 << 20) });
    for wrong in ["", "mgs_", &tokens[0].0[1..], &tokens[0].1, &format!("{} ", tokens[0].0)] {
        assert_eq!(clients.of_token(wrong, now()), Err(Refusal::TokenUnknown), "{wrong}");
    }
    // What anybody can make by `printf %s TOKEN | sha256sum`.
    assert_eq!(hex(&hash("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

/// Proves that a client is nobody from the moment on that `expires` says.
#[test]
fn expiry() {
    let (text, token) = one("shop", "ingest");
    let clients = Clients::parse(&format!("{text}expires = 2027-01-15T09:00:00+01:00")).unwrap();
    let moment = UNIX_EPOCH + Duration::from_secs(NOW);
    assert!(clients.of_token(&token, moment - Duration::from_secs(1)).is_ok());
    assert_eq!(clients.of_token(&token, moment), Err(Refusal::TokenExpired));
}

fn peer(names: &[&str]) -> Peer {
    let mut made = rcgen::CertificateParams::new(Vec::new()).unwrap();
    made.subject_alt_names = names
        .iter()
        .map(|name| match name.contains("://") {
            true => rcgen::SanType::URI((*name).try_into().unwrap()),
            false => rcgen::SanType::DnsName((*name).try_into().unwrap()),
        })
        .collect();
    let certificate = made.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
    let certificate = crate::server::PeerCertificate::verified(certificate.der().clone());
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    Peer { address: Some(address), over_tls: true, certificate: Some(certificate) }
}

/// Proves that a certificate is whoever has one of its names in full, and otherwise nobody.
#[test]
fn certificates() {
    let text = "[[client]]\nname = \"serving\"\ncertificate = [\"spiffe://example.org/serving\", \"Serving.example.org\"]\nscopes = [\"internal\"]\n";
    let clients = Clients::parse(text).unwrap();
    for names in [&["spiffe://example.org/serving"][..], &["other.example.org", "serving.example.org"]] {
        let serving = clients.of_certificate(&peer(names), now()).unwrap();
        assert_eq!((serving.name(), serving.via(), serving.may(Scope::Internal)), ("serving", Via::Certificate, true));
    }
    for names in [&["*.example.org"][..], &["spiffe://example.org/serving/2"], &["example.org"], &[]] {
        assert_eq!(clients.of_certificate(&peer(names), now()), Err(Refusal::CertificateUnknown), "{names:?}");
    }
}

/// Proves that each mistake is refused with its client, and that no refusal repeats a token that was put in the wrong place.
#[test]
fn refusals() {
    let (good, token) = one("shop", "ingest");
    let hash = "0".repeat(64);
    let wrong = [
        (String::new(), "no client"),
        (format!("{good}{good}"), "two of this name"),
        (good.replace("\"shop\"", "\"a b\""), "client 1: a name has"),
        (good.replace("[\"ingest\"]", "[]"), "client \"shop\": scopes is empty"),
        (good.replace("\"ingest\"", &format!("\"{token}\"")), "no such scope"),
        (good.replace("token_sha256", "token"), "unknown field, expected one of `name`"),
        (good.replace("token_sha256", &token), "unknown field, expected one of `name`"),
        (format!("{token} = 1\n{good}"), "unknown field"),
        (format!("{good}scopes = [\"query\"]"), "duplicate key"),
        (format!("[[client]]\nname = \"shop\"\ntoken_sha256 = \"{token}\"\nscopes = [\"query\"]"), "64 hexadecimal digits"),
        (format!("[[client]]\nname = \"shop\"\ntoken_sha256 = \"{hash}é\"\nscopes = [\"query\"]"), "64 hexadecimal digits"),
        ("[[client]]\nname = \"shop\"\nscopes = [\"query\"]".to_owned(), "nobody can be it"),
        (
            format!("{good}[[client]]\nname = \"other\"\ntoken_sha256 = \"{}\"\nscopes = [\"query\"]", hex(&super::hash(&token))),
            "same token",
        ),
        (format!("{good}expires = 2027-01-31"), "expires is not a moment"),
        (format!("{good}expires = \"{token}\""), "invalid type"),
        (format!("{good}calls_per_second = 0"), "limit of 0"),
        (format!("{good}calls_per_second = \"{token}\""), "invalid type"),
        (format!("{good}ingest_bytes_per_second = \"1MB\""), "is not a size"),
        (format!("{good}certificate = \"*.example.org\""), "in full"),
        (format!("{good}{token}"), "line 5"),
    ];
    for (text, says) in wrong {
        let reason = Clients::parse(&text).map(|_| text.clone()).unwrap_err();
        assert!(reason.contains(says), "{reason}\n{text}");
        assert!(!reason.contains(&token[4..]), "{reason}");
    }
}
