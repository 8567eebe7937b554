//! JWTs (RFC 7519), by the advice of RFC 8725: the algorithm is the key's, never the token's; only asymmetric ones; `exp`, `aud`, `iss` and
//! `sub` must be there and are compared, `nbf` if it is there; nothing that a token says of where its key is found is looked at.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation, decode, decode_header};
use serde::Deserialize;

use super::identity::{Identity, Via};
use super::limits::Limits;
use super::refusal::Refusal;
use super::scope::Scopes;

/// How far two clocks may be apart.
const LEEWAY: Duration = Duration::from_secs(30);
/// Keys without an id in one file: a token without one is tried with each, which costs a verification.
const MAX_KEYS_WITHOUT_ID: usize = 4;
/// Subjects are in logs.
const MAX_SUBJECT_BYTES: usize = 256;
/// Begins each key of a PEM file.
const PEM_BEGIN: &str = "-----BEGIN ";
/// Bytes of an uncompressed point on the curve, with the byte before it.
const P256_BYTES: usize = 65;
const P384_BYTES: usize = 97;

/// One key, and the one algorithm that it is for.
#[derive(Debug)]
struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// The keys of a file, and whose tokens they verify.
#[derive(Debug)]
pub(super) struct Keys {
    keys: Vec<Key>,
    issuer: String,
    audience: String,
}

/// What is read of a token that is what it says it is.
#[derive(Deserialize)]
struct Claims {
    sub: String,
    /// Seconds since 1970, perhaps with a fraction (RFC 7519, section 2).
    exp: f64,
    nbf: Option<f64>,
    #[serde(default)]
    scope: String,
}

impl Keys {
    /// Reads a JWKS (RFC 7517), or public keys in PEM.
    ///
    /// # Errors
    /// What is wrong with which key, and what to do.
    pub(super) fn parse(text: &str, issuer: &str, audience: &str) -> Result<Self, String> {
        let keys = match text.trim_start().starts_with('{') {
            true => of_jwks(text)?,
            false => of_pem(text)?,
        };
        if keys.is_empty() {
            return Err("there is no key in it; put public keys there, as a JWKS or as PEM".to_owned());
        }
        let nameless = keys.iter().filter(|key| key.id.is_none()).count();
        if nameless > MAX_KEYS_WITHOUT_ID {
            return Err(format!("{nameless} keys have no kid; at most {MAX_KEYS_WITHOUT_ID} may have none, for each is tried"));
        }
        Ok(Self { keys, issuer: issuer.to_owned(), audience: audience.to_owned() })
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whom a token is about, and until when that is so.
    pub(super) fn verify(&self, token: &str, now: SystemTime) -> Result<(Identity, SystemTime), Refusal> {
        // `none`, and what is no algorithm, cannot be read.
        let header = decode_header(token).map_err(|e| match e.kind() {
            ErrorKind::InvalidAlgorithmName | ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => Refusal::JwtAlgorithm,
            _ => Refusal::TokenMalformed,
        })?;
        if header.crit.is_some() {
            // It has to be understood, and none is (RFC 7515, section 4.1.11).
            return Err(Refusal::TokenMalformed);
        }
        let mut refusal = None;
        for key in self.that_fit(&header)? {
            match self.verified(token, key) {
                Ok(claims) => return about(claims, now),
                Err(reason) => refusal = Some(reason),
            }
        }
        Err(refusal.unwrap_or(Refusal::JwtKeyUnknown))
    }

    /// The keys of the token's id and algorithm.
    fn that_fit(&self, header: &Header) -> Result<Vec<&Key>, Refusal> {
        let of_id = |key: &&Key| key.id.is_none() || key.id == header.kid;
        // Without an id, one that has one cannot be meant, unless it is the only one.
        let keys: Vec<&Key> = if self.keys.len() == 1 && header.kid.is_none() {
            self.keys.iter().collect()
        } else {
            self.keys.iter().filter(of_id).collect()
        };
        if keys.is_empty() {
            return Err(Refusal::JwtKeyUnknown);
        }
        let keys: Vec<&Key> = keys.into_iter().filter(|key| key.algorithm == header.alg).collect();
        if keys.is_empty() { Err(Refusal::JwtAlgorithm) } else { Ok(keys) }
    }

    fn verified(&self, token: &str, key: &Key) -> Result<Claims, Refusal> {
        let mut wanted = Validation::new(key.algorithm);
        wanted.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        wanted.set_audience(&[&self.audience]);
        wanted.set_issuer(&[&self.issuer]);
        // By the machine's clock, below.
        wanted.validate_exp = false;
        wanted.validate_nbf = false;
        let token = decode::<Claims>(token, &key.key, &wanted).map_err(|e| match e.kind() {
            ErrorKind::InvalidSignature => Refusal::JwtSignature,
            ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => Refusal::JwtAlgorithm,
            ErrorKind::InvalidIssuer => Refusal::JwtIssuer,
            ErrorKind::InvalidAudience => Refusal::JwtAudience,
            ErrorKind::InvalidToken | ErrorKind::Base64(_) => Refusal::TokenMalformed,
            _ => Refusal::JwtClaims,
        })?;
        Ok(token.claims)
    }
}

/// Whom verified claims are about, if it is their time.
fn about(claims: Claims, now: SystemTime) -> Result<(Identity, SystemTime), Refusal> {
    let moment =
        |seconds: f64| Duration::try_from_secs_f64(seconds).ok().and_then(|since| UNIX_EPOCH.checked_add(since)).ok_or(Refusal::JwtClaims);
    let until = moment(claims.exp)?.checked_add(LEEWAY).ok_or(Refusal::JwtClaims)?;
    if now >= until {
        return Err(Refusal::TokenExpired);
    }
    if claims.nbf.map(moment).transpose()?.is_some_and(|from| now + LEEWAY < from) {
        return Err(Refusal::TokenNotYetValid);
    }
    // It is in logs and in messages.
    if claims.sub.is_empty() || claims.sub.len() > MAX_SUBJECT_BYTES || claims.sub.chars().any(char::is_control) {
        return Err(Refusal::JwtClaims);
    }
    Ok((Identity::new(claims.sub, Via::Jwt, Scopes::of_words(&claims.scope), Limits::default()), until))
}

fn of_jwks(text: &str) -> Result<Vec<Key>, String> {
    let set: JwkSet = serde_json::from_str(text).map_err(|e| format!("it is not a JWKS (line {}, column {})", e.line(), e.column()))?;
    let of_one = |(number, jwk): (usize, &Jwk)| {
        let name = jwk.common.key_id.as_ref().map_or_else(|| format!("key {}", number + 1), |id| format!("key \"{id}\""));
        key_of(jwk).map_err(|reason| format!("{name}: {reason}"))
    };
    // Those for encryption are none of ours.
    let for_signatures = set.keys.iter().filter(|jwk| !matches!(jwk.common.public_key_use, Some(PublicKeyUse::Encryption)));
    let keys = for_signatures.enumerate().map(of_one).collect::<Result<Vec<_>, _>>()?;
    if keys.len() > 1 && keys.iter().any(|key| key.id.is_none()) {
        return Err("a key has no kid; with more than one key each needs its own".to_owned());
    }
    Ok(keys)
}

fn key_of(jwk: &Jwk) -> Result<Key, String> {
    let stated = jwk.common.key_algorithm;
    let algorithm = match (&jwk.algorithm, stated) {
        (AlgorithmParameters::OctetKey(_), _) | (_, Some(KeyAlgorithm::HS256 | KeyAlgorithm::HS384 | KeyAlgorithm::HS512)) => {
            return Err("it is symmetric: whoever can verify with it can sign too; use ES256, EdDSA or RS256".to_owned());
        }
        (AlgorithmParameters::EllipticCurve(curve), _) => match curve.curve {
            EllipticCurve::P256 => Algorithm::ES256,
            EllipticCurve::P384 => Algorithm::ES384,
            _ => return Err("its curve is not P-256 or P-384".to_owned()),
        },
        (AlgorithmParameters::OctetKeyPair(pair), _) if pair.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        (AlgorithmParameters::RSA(_), Some(stated)) => rsa(stated).ok_or("its alg is none of RS256, RS384, RS512, PS256, PS384, PS512")?,
        (AlgorithmParameters::RSA(_), None) => return Err("it has no alg; say which one it is for, such as \"alg\": \"RS256\"".to_owned()),
        _ => return Err("it is of no kind that is known here; use ES256, ES384, EdDSA, or RSA".to_owned()),
    };
    if let Some(stated) = stated.filter(|stated| stated.to_string() != format!("{algorithm:?}")) {
        return Err(format!("its alg is {stated}, but a key of its kind is for {algorithm:?}"));
    }
    let key = DecodingKey::from_jwk(jwk).map_err(|_| "it cannot be read".to_owned())?;
    Ok(Key { id: jwk.common.key_id.clone(), algorithm, key })
}

fn rsa(stated: KeyAlgorithm) -> Option<Algorithm> {
    Some(match stated {
        KeyAlgorithm::RS256 => Algorithm::RS256,
        KeyAlgorithm::RS384 => Algorithm::RS384,
        KeyAlgorithm::RS512 => Algorithm::RS512,
        KeyAlgorithm::PS256 => Algorithm::PS256,
        KeyAlgorithm::PS384 => Algorithm::PS384,
        KeyAlgorithm::PS512 => Algorithm::PS512,
        _ => return None,
    })
}

/// PEM names no algorithm: a key on a curve is for that of its curve, one of RSA for RS256.
fn of_pem(text: &str) -> Result<Vec<Key>, String> {
    let starts = text.match_indices(PEM_BEGIN).map(|(at, _)| at);
    let ends = text.match_indices(PEM_BEGIN).map(|(at, _)| at).skip(1).chain([text.len()]);
    let pieces = starts.zip(ends).map(|(start, end)| &text[start..end]);
    (1..).zip(pieces).map(|(number, pem)| pem_key(pem).map_err(|reason| format!("key {number}: {reason}"))).collect()
}

fn pem_key(pem: &str) -> Result<Key, String> {
    match pem.lines().next().unwrap_or_default().trim_end() {
        "-----BEGIN PUBLIC KEY-----" | "-----BEGIN RSA PUBLIC KEY-----" => {}
        private if private.contains("PRIVATE") => {
            return Err("it is a private key; put the public one there, and look who can read this file".to_owned());
        }
        _ => return Err("it is no public key; write the one that `openssl pkey -pubout` prints".to_owned()),
    }
    let bytes = pem.as_bytes();
    let curve = |key: &DecodingKey| match key.try_get_as_bytes().map_or(0, <[u8]>::len) {
        P256_BYTES => Some(Algorithm::ES256),
        P384_BYTES => Some(Algorithm::ES384),
        _ => None,
    };
    let (key, algorithm) = if let Ok(key) = DecodingKey::from_ec_pem(bytes) {
        let algorithm = curve(&key).ok_or("its curve is not P-256 or P-384")?;
        (key, algorithm)
    } else if let Ok(key) = DecodingKey::from_ed_pem(bytes) {
        (key, Algorithm::EdDSA)
    } else if let Ok(key) = DecodingKey::from_rsa_pem(bytes) {
        (key, Algorithm::RS256)
    } else {
        return Err("it is not a public key in PEM".to_owned());
    };
    Ok(Key { id: None, algorithm, key })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
