//! `[auth]`, whom a server lets in, and `[client]`, with what a program calls one.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::units::ByteSize;

/// The token of whoever calls is said by this variable, or is in the file of [`ClientConfig::token_file`]; never in the settings.
pub const TOKEN_VARIABLE: &str = "MERGANSER_TOKEN";

/// `[auth]`. Without `tokens` and `jwt_keys` nobody is asked who they are.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthConfig {
    /// The tokens file: clients by the hash of their token or a name of their certificate. Empty means there is none.
    pub tokens: PathBuf,
    /// Public keys, as a JWKS or as PEM, of whoever issues JWTs; empty means that none are taken.
    pub jwt_keys: PathBuf,
    /// Their `iss`.
    pub jwt_issuer: String,
    /// What their `aud` has to name.
    pub jwt_audience: String,
    /// Who may read `/metrics`.
    pub metrics: MetricsDoor,
    /// Where administrative acts are written down, beside the log; empty means nowhere.
    pub audit_file: PathBuf,
    /// Calls of one client in a second, where the tokens file says nothing of it; 0 means as many as it likes.
    pub calls_per_second: u32,
    /// The same for the bytes of the events that it sends.
    pub ingest_bytes_per_second: ByteSize,
}

/// Who may read `/metrics`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MetricsDoor {
    /// Whoever reaches the port.
    #[default]
    Open,
    /// Whoever may ask questions.
    Query,
}

/// `[client]`, for the layers among themselves and for the command lines.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClientConfig {
    /// A file with nothing but a token; empty means that none is sent. It is read again when it changes.
    pub token_file: PathBuf,
    /// Send it over plaintext to other machines too, where everyone on the way can read it.
    pub token_in_plaintext: bool,
    /// From the environment; it goes before the file.
    #[serde(skip)]
    pub token: Option<Secret>,
}

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// It.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, for whoever it is meant for.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl AuthConfig {
    /// Whether anybody is asked who they are.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.tokens.as_os_str().is_empty() || !self.jwt_keys.as_os_str().is_empty()
    }

    pub(super) fn validate(&self) -> Result<(), String> {
        let has_keys = !self.jwt_keys.as_os_str().is_empty();
        let of_jwt = [("jwt_issuer", &self.jwt_issuer), ("jwt_audience", &self.jwt_audience)];
        if let Some((name, _)) = of_jwt.iter().find(|(_, text)| text.is_empty() == has_keys) {
            return Err(match has_keys {
                true => format!("auth.{name} is empty; a JWT is taken only from a named issuer for a named audience"),
                false => format!("auth.{name} is set, but auth.jwt_keys is not; name the file of the issuer's public keys"),
            });
        }
        if self.metrics == MetricsDoor::Query && !self.is_on() {
            return Err("auth.metrics = \"query\" needs clients; set auth.tokens or auth.jwt_keys".to_owned());
        }
        Ok(())
    }
}
