use jsonwebtoken::{EncodingKey, encode};
use serde_json::{Value, json};

use super::super::scope::Scope;
use super::*;

const NOW: u64 = 1_800_000_000;
const ISSUER: &str = "https://id.example.org/";

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

/// A pair of keys: the private one as PKCS#8, the public one as PEM and as its bytes.
struct Pair {
    private: EncodingKey,
    public: String,
    raw: Vec<u8>,
}

impl Pair {
    fn new(algorithm: &'static rcgen::SignatureAlgorithm) -> Self {
        let pair = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let private = match algorithm == &rcgen::PKCS_ED25519 {
            true => EncodingKey::from_ed_pem(pair.serialize_pem().as_bytes()),
            false => EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()),
        };
        Self { private: private.unwrap(), public: pair.public_key_pem(), raw: pair.public_key_raw().to_vec() }
    }

    fn jwk(&self, algorithm: Algorithm, id: &str) -> Value {
        // jsonwebtoken makes none of rcgen's keys on this curve.
        let mut jwk = match algorithm {
            Algorithm::EdDSA => json!({ "kty": "OKP", "crv": "Ed25519", "x": base64url(&self.raw), "alg": "EdDSA" }),
            _ => serde_json::to_value(Jwk::from_encoding_key(&self.private, algorithm).unwrap()).unwrap(),
        };
        jwk["kid"] = id.into();
        jwk
    }
}

fn claims() -> Value {
    json!({ "sub": "ann", "iss": ISSUER, "aud": ["other", "merganser"], "exp": NOW + 60, "scope": "openid query" })
}

fn signed(pair: &Pair, header: &Header, claims: &Value) -> String {
    encode(header, claims, &pair.private).unwrap()
}

fn with_id(algorithm: Algorithm, id: &str) -> Header {
    Header { kid: Some(id.to_owned()), ..Header::new(algorithm) }
}

fn keys(text: &str) -> Keys {
    Keys::parse(text, ISSUER, "merganser").unwrap()
}

/// base64url without padding, by hand: what a forger would do.
fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let digits_of = |chunk: &[u8]| {
        let bits = chunk.iter().chain(&[0, 0]).take(3).fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
        (0..=chunk.len()).map(|i| char::from(DIGITS[(bits >> (18 - 6 * i) & 63) as usize])).collect::<String>()
    };
    bytes.chunks(3).map(digits_of).collect()
}

/// Proves that a token that is as it should be is its subject's with the scopes that are ours, from PEM and from a JWKS, on each kind of key.
#[test]
fn good_ones() {
    let kinds: [(&'static rcgen::SignatureAlgorithm, Algorithm); 3] = [
        (&rcgen::PKCS_ECDSA_P256_SHA256, Algorithm::ES256),
        (&rcgen::PKCS_ECDSA_P384_SHA384, Algorithm::ES384),
        (&rcgen::PKCS_ED25519, Algorithm::EdDSA),
    ];
    for (kind, algorithm) in kinds {
        let (pair, other) = (Pair::new(kind), Pair::new(kind));
        let set = json!({ "keys": [other.jwk(algorithm, "old"), pair.jwk(algorithm, "new")] }).to_string();
        for (text, header) in
            [(&pair.public, Header::new(algorithm)), (&pair.public, with_id(algorithm, "any")), (&set, with_id(algorithm, "new"))]
        {
            let (ann, until) = keys(text).verify(&signed(&pair, &header, &claims()), now()).unwrap();
            assert_eq!((ann.name(), ann.via()), ("ann", Via::Jwt));
            assert!(ann.may(Scope::Query) && !ann.may(Scope::Ingest) && !ann.may(Scope::Admin) && !ann.may(Scope::Internal));
            assert_eq!(until, now() + Duration::from_secs(60) + LEEWAY);
        }
    }
}

/// Proves that what a token claims is compared, each claim alone: who issued it, for whom, about whom, from when and until when.
#[test]
fn claims_are_compared() {
    let pair = Pair::new(&rcgen::PKCS_ECDSA_P256_SHA256);
    let keys = keys(&pair.public);
    let with = |name: &str, value: Value| {
        let mut claims = claims();
        claims[name] = value;
        keys.verify(&signed(&pair, &Header::new(Algorithm::ES256), &claims), now()).map(|_| ())
    };
    let leeway = LEEWAY.as_secs();
    let cases = [
        ("iss", json!("https://id.example.com/"), Err(Refusal::JwtIssuer)),
        ("iss", json!(7), Err(Refusal::JwtClaims)),
        ("iss", Value::Null, Err(Refusal::JwtClaims)),
        ("aud", json!("other"), Err(Refusal::JwtAudience)),
        ("aud", json!([]), Err(Refusal::JwtAudience)),
        ("aud", json!("merganser"), Ok(())),
        ("aud", Value::Null, Err(Refusal::JwtClaims)),
        ("sub", Value::Null, Err(Refusal::JwtClaims)),
        ("sub", json!(""), Err(Refusal::JwtClaims)),
        ("sub", json!("a\nb"), Err(Refusal::JwtClaims)),
        ("sub", json!("a".repeat(257)), Err(Refusal::JwtClaims)),
        ("exp", Value::Null, Err(Refusal::JwtClaims)),
        ("exp", json!("tomorrow"), Err(Refusal::JwtClaims)),
        ("exp", json!(-1), Err(Refusal::JwtClaims)),
        ("exp", json!(1e300), Err(Refusal::JwtClaims)),
        ("exp", json!(NOW - leeway), Err(Refusal::TokenExpired)),
        ("exp", json!(NOW - leeway + 1), Ok(())),
        ("nbf", json!(NOW + leeway + 1), Err(Refusal::TokenNotYetValid)),
        ("nbf", json!(NOW + leeway), Ok(())),
        ("nbf", json!("soon"), Err(Refusal::JwtClaims)),
    ];
    for (name, value, expected) in cases {
        assert_eq!(with(name, value.clone()), expected, "{name} = {value}");
    }
}

/// Proves that a token's own word for how it is to be verified counts for nothing: no algorithm, a symmetric one keyed with the public
/// key, another key, a key that it brings along, a header that has to be understood; and that no byte of it can be changed.
#[test]
fn forgeries() {
    let (pair, stranger) = (Pair::new(&rcgen::PKCS_ECDSA_P256_SHA256), Pair::new(&rcgen::PKCS_ECDSA_P256_SHA256));
    let set = json!({ "keys": [pair.jwk(Algorithm::ES256, "a")] }).to_string();
    let body = base64url(claims().to_string().as_bytes());
    for keys in [keys(&set), keys(&pair.public)] {
        for none in [r#"{"alg":"none"}"#, r#"{"alg":"None","typ":"JWT"}"#, r#"{"alg":""}"#, "{}", r#"{"alg":"ES256K"}"#] {
            for signature in ["", "AA"] {
                let refused = keys.verify(&format!("{}.{body}.{signature}", base64url(none.as_bytes())), now()).unwrap_err();
                assert!(matches!(refused, Refusal::JwtAlgorithm | Refusal::TokenMalformed), "{none}: {refused:?}");
            }
        }
        for secret in [pair.public.as_bytes(), set.as_bytes()] {
            for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
                let token = encode(&with_id(algorithm, "a"), &claims(), &EncodingKey::from_secret(secret).unwrap()).unwrap();
                assert_eq!(keys.verify(&token, now()), Err(Refusal::JwtAlgorithm));
            }
        }
        let refused = |header: &Header| keys.verify(&signed(&stranger, header, &claims()), now()).unwrap_err();
        assert_eq!(refused(&with_id(Algorithm::ES256, "a")), Refusal::JwtSignature);
        assert_eq!(refused(&Header::new(Algorithm::ES256)), Refusal::JwtSignature);
        let brought = Jwk::from_encoding_key(&stranger.private, Algorithm::ES256).unwrap();
        let url = Some("https://evil.example.org/keys".to_owned());
        let header = Header { jwk: Some(brought), jku: url.clone(), x5u: url, ..with_id(Algorithm::ES256, "a") };
        assert_eq!(refused(&header), Refusal::JwtSignature);
        let critical = Header { crit: Some(vec!["exp".to_owned()]), ..with_id(Algorithm::ES256, "a") };
        assert_eq!(keys.verify(&signed(&pair, &critical, &claims()), now()), Err(Refusal::TokenMalformed));

        let good = signed(&pair, &with_id(Algorithm::ES256, "a"), &claims());
        assert!(keys.verify(&good, now()).is_ok());
        let signature = good.rfind('.').unwrap();
        for at in 0..signature {
            let other = if good.as_bytes()[at] == b'A' { "B" } else { "A" };
            let changed = format!("{}{other}{}", &good[..at], &good[at + 1..]);
            assert!(keys.verify(&changed, now()).is_err(), "{at}");
        }
        assert!(keys.verify(&good[..signature + 1], now()).is_err() && keys.verify(&good[..signature], now()).is_err());
        for nonsense in ["..", "a.b.c", "....", "é.é.é", &format!("{good}.{good}"), &"e.".repeat(2000)] {
            assert!(keys.verify(nonsense, now()).is_err(), "{nonsense}");
        }
    }
    assert_eq!(keys(&set).verify(&signed(&pair, &with_id(Algorithm::ES256, "b"), &claims()), now()), Err(Refusal::JwtKeyUnknown));
}

/// Proves that files are refused from which a key could be used for what it is not for, or a secret be read.
#[test]
fn files_that_are_refused() {
    let (pair, other) = (Pair::new(&rcgen::PKCS_ECDSA_P256_SHA256), Pair::new(&rcgen::PKCS_ED25519));
    let private = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let set = |keys: &[Value]| json!({ "keys": keys }).to_string();
    let rsa = json!({ "kty": "RSA", "kid": "r", "n": "AQAB", "e": "AQAB" });
    let mut wrong_alg = pair.jwk(Algorithm::ES256, "a");
    wrong_alg["alg"] = "ES384".into();
    let mut nameless = pair.jwk(Algorithm::ES256, "a");
    nameless.as_object_mut().unwrap().remove("kid");
    let cases = [
        (String::new(), "no key"),
        (set(&[]), "no key"),
        ("{".to_owned(), "not a JWKS"),
        ("secret".to_owned(), "no key"),
        (private, "private key"),
        (format!("{}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", pair.public), "key 2: it is no public key"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n".to_owned(), "not a public key"),
        (set(&[json!({ "kty": "oct", "kid": "s", "k": "c2VjcmV0" })]), "key \"s\": it is symmetric"),
        (set(&[rsa]), "it has no alg"),
        (set(&[wrong_alg]), "its alg is ES384"),
        (set(&[nameless, other.jwk(Algorithm::EdDSA, "b")]), "no kid"),
        (pair.public.repeat(5), "5 keys have no kid"),
    ];
    for (text, says) in cases {
        let reason = Keys::parse(&text, ISSUER, "merganser").map(|_| ()).unwrap_err();
        assert!(reason.contains(says), "{reason}");
    }
    assert_eq!(keys(&pair.public.repeat(4)).len(), 4);
}
