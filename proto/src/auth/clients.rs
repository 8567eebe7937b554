//! The tokens file: which clients there are.
//!
//! *Layout:* TOML, one `[[client]]` each: `name`; `token_sha256`, one hash or, while a token is exchanged, several; `certificate`, names that
//! a certificate may have; `scopes`; and optionally `expires`, `calls_per_second` and `ingest_bytes_per_second`. A token itself is never in it.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use prost_types::Timestamp;
use serde::Deserialize;
use toml::value::Datetime;

use super::identity::{Identity, Via};
use super::limits::Limits;
use super::refusal::Refusal;
use super::scope::{Scope, Scopes};
use crate::server::{AltName, Peer};

/// What a token begins with, so that a scanner for leaked secrets can know one.
const TOKEN_PREFIX: &str = "mgs_";
/// Random bits of a new token, in bytes. With so many a plain hash cannot be turned back, however fast it is.
const SECRET_BYTES: usize = 32;
/// Bytes of a SHA-256.
const HASH_BYTES: usize = 32;
/// Names are in logs and labels of people.
const MAX_NAME_BYTES: usize = 63;
/// Units of sizes, largest first, as `merganser.toml` has them.
const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// SHA-256 of a token.
type Hash = [u8; HASH_BYTES];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    client: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    #[serde(default)]
    token_sha256: OneOrMore,
    #[serde(default)]
    certificate: OneOrMore,
    scopes: Vec<String>,
    expires: Option<Datetime>,
    calls_per_second: Option<u32>,
    ingest_bytes_per_second: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl Default for OneOrMore {
    fn default() -> Self {
        Self::More(Vec::new())
    }
}

impl OneOrMore {
    fn all(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::More(texts) => texts,
        }
    }
}

#[derive(Debug)]
struct Client {
    identity: Identity,
    expires: Option<SystemTime>,
}

/// The clients of a tokens file.
#[derive(Debug, Default)]
pub(super) struct Clients {
    clients: Vec<Client>,
    /// By the first bytes of the hash: what is learnt from how long that takes is a part of a hash, which whoever has a token can
    /// compute, and from which nobody computes one.
    tokens: HashMap<[u8; 8], Vec<(Hash, usize)>>,
    names: HashMap<AltName, usize>,
}

impl Clients {
    /// Reads a tokens file.
    ///
    /// # Errors
    /// What is wrong with which client. Nothing of what is in the file but names is repeated.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        // The message alone: the whole error shows the line, which may be a token in the wrong place.
        let at = |e: &toml::de::Error| e.span().map_or(0, |span| text[..span.start].lines().count().max(1));
        let file: File = toml::from_str(text).map_err(|e| format!("line {}: {}", at(&e), without_values(e.message())))?;
        // An empty file is rather one that is being written; whoever means nobody says so.
        let Some(clients) = file.client else {
            return Err(
                "there is no client in it; `speed-layer token new NAME` prints one to copy, and `client = []` lets nobody in".to_owned()
            );
        };
        let (mut parsed, mut known) = (Self::default(), HashSet::new());
        for (number, entry) in (1..).zip(clients) {
            if let Err(reason) = check_name(&entry.name) {
                return Err(format!("client {number}: {reason}"));
            }
            if !known.insert(entry.name.clone()) {
                return Err(format!("client \"{}\": there are two of this name", entry.name));
            }
            parsed.add(&entry).map_err(|reason| format!("client \"{}\": {reason}", entry.name))?;
        }
        Ok(parsed)
    }

    fn add(&mut self, entry: &Entry) -> Result<(), String> {
        let scopes = entry.scopes.iter().map(|scope| scope.parse()).collect::<Result<Vec<Scope>, _>>()?;
        if scopes.is_empty() {
            return Err("scopes is empty; name what it may do".to_owned());
        }
        let bytes = entry.ingest_bytes_per_second.as_deref().map(size).transpose()?;
        if entry.calls_per_second == Some(0) || bytes == Some(0) {
            return Err("a limit of 0 would let nothing in; leave it out for no limit".to_owned());
        }
        let limits = Limits { calls_per_second: entry.calls_per_second, ingest_bytes_per_second: bytes };
        let identity = Identity::new(entry.name.as_str(), Via::Token, scopes.into_iter().collect::<Scopes>(), limits);
        let number = self.clients.len();
        self.clients.push(Client { identity, expires: entry.expires.as_ref().map(moment).transpose()? });
        for text in entry.token_sha256.all() {
            let hash =
                parse_hash(text).ok_or("token_sha256 is not 64 hexadecimal digits; `speed-layer token new NAME` prints a line to copy")?;
            if self.of_hash(&hash).is_some() {
                return Err("token_sha256: another client has the same token".to_owned());
            }
            self.tokens.entry(first(&hash)).or_default().push((hash, number));
        }
        for name in entry.certificate.all() {
            let name = if name.contains("://") { AltName::Uri(name.clone()) } else { AltName::Dns(name.to_ascii_lowercase()) };
            if name.as_str().is_empty() || name.as_str().contains('*') {
                return Err("certificate: write a DNS name or a URI, in full".to_owned());
            }
            if self.names.insert(name, number).is_some() {
                return Err("certificate: another client has the same name".to_owned());
            }
        }
        if entry.token_sha256.all().is_empty() && entry.certificate.all().is_empty() {
            return Err("it has neither token_sha256 nor certificate, so nobody can be it".to_owned());
        }
        Ok(())
    }

    /// Whose token it is.
    pub(super) fn of_token(&self, token: &str, now: SystemTime) -> Result<Identity, Refusal> {
        let number = self.of_hash(&hash(token)).ok_or(Refusal::TokenUnknown)?;
        self.valid(number, now).cloned()
    }

    /// Whose certificate the connection has.
    pub(super) fn of_certificate(&self, peer: &Peer, now: SystemTime) -> Result<Identity, Refusal> {
        let number = peer.names().iter().find_map(|name| self.names.get(name)).ok_or(Refusal::CertificateUnknown)?;
        let known = self.valid(*number, now)?;
        Ok(Identity::new(known.name(), Via::Certificate, known.scopes(), known.limits()))
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.clients.len()
    }

    fn valid(&self, number: usize, now: SystemTime) -> Result<&Identity, Refusal> {
        let Client { identity, expires } = &self.clients[number];
        if expires.is_some_and(|expires| now >= expires) { Err(Refusal::TokenExpired) } else { Ok(identity) }
    }

    fn of_hash(&self, hash: &Hash) -> Option<usize> {
        let same = self.tokens.get(&first(hash))?.iter().find(|(known, _)| verify_slices_are_equal(known, hash).is_ok());
        same.map(|(_, number)| *number)
    }
}

/// A new token from as many random bytes, and its hash in hexadecimal digits. The token is shown once and kept by its client.
#[must_use]
pub fn new_token(random: [u8; SECRET_BYTES]) -> (String, String) {
    let token = format!("{TOKEN_PREFIX}{}", hex(&random));
    let hash = hex(&hash(&token));
    (token, hash)
}

/// How many clients a tokens file has.
///
/// # Errors
/// What is wrong with which client.
pub fn check_tokens(text: &str) -> Result<usize, String> {
    Clients::parse(text).map(|clients| clients.len())
}

/// Whether it can be the name of a client.
///
/// # Errors
/// What it should be.
pub fn check_name(name: &str) -> Result<(), String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    match !name.is_empty() && name.len() <= MAX_NAME_BYTES && name.chars().all(is_word) {
        true => Ok(()),
        false => Err(format!("a name has 1 to {MAX_NAME_BYTES} letters, digits, and - _ . @")),
    }
}

fn hash(token: &str) -> Hash {
    digest(&SHA256, token.as_bytes()).as_ref().try_into().expect("a SHA-256 has 32 bytes")
}

fn first(hash: &Hash) -> [u8; 8] {
    hash[..8].try_into().expect("32 bytes are more than 8")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse_hash(text: &str) -> Option<Hash> {
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect::<Option<_>>()?;
    if digits.len() != 2 * HASH_BYTES {
        return None;
    }
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    bytes.try_into().ok()
}

fn size(text: &str) -> Result<u64, String> {
    let parsed = SIZES.iter().find_map(|(name, unit)| text.strip_suffix(name)?.trim_end().parse::<u64>().ok()?.checked_mul(*unit));
    parsed.ok_or_else(|| "ingest_bytes_per_second is not a size; write a whole number with B, KiB, MiB or GiB, such as \"1MiB\"".to_owned())
}

fn moment(time: &Datetime) -> Result<SystemTime, String> {
    let wrong = || "expires is not a moment; write it with its offset, such as 2027-01-31T00:00:00Z".to_owned();
    if time.date.is_none() || time.time.is_none() || time.offset.is_none() {
        return Err(wrong());
    }
    let time: Timestamp = time.to_string().parse().map_err(|_| wrong())?;
    let since = u64::try_from(time.seconds).map_err(|_| wrong())?;
    Ok(UNIX_EPOCH + Duration::from_secs(since))
}

/// serde puts what it found into some messages, between quotation marks or backticks after "invalid" and "unknown". A token is easily in the
/// place of either.
fn without_values(message: &str) -> String {
    if message.starts_with("invalid") {
        return message.split([':', '"', '`']).next().unwrap_or_default().to_owned();
    }
    match (message.strip_prefix("unknown "), message.rsplit_once("expected ")) {
        (Some(found), Some((_, known))) => format!("unknown {}, expected {known}", found.split_whitespace().next().unwrap_or_default()),
        (Some(found), None) => format!("unknown {}", found.split_whitespace().next().unwrap_or_default()),
        (None, _) => message.to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests;
