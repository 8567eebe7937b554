//! `[auth]` and `[client]` as the protocol crate takes them.

use std::path::PathBuf;
use std::sync::Arc;

use merganser_proto::audit::Audit;
use merganser_proto::auth::{AuthError, AuthOptions, Authority, JwtOptions, Limits, Scope};
use merganser_proto::{Bearer, BearerError};
use storage::config::{AuthConfig, ClientCertificates, ClientConfig, Config, MetricsDoor, TOKEN_VARIABLE};
use storage::machine::Machine;

/// Who decides what the clients of `program` may do. Inside a runtime.
///
/// # Errors
/// A file cannot be used.
pub fn authority(program: &'static str, config: &AuthConfig, machine: Arc<dyn Machine>) -> Result<Arc<Authority>, AuthError> {
    let audit = audit(program, config, Arc::clone(&machine))?;
    Authority::open(options(config), Arc::new(move || machine.now()), audit)
}

/// Whom a server lets in.
pub(crate) fn options(config: &AuthConfig) -> AuthOptions {
    let set = |path: &PathBuf| Some(path.clone()).filter(|path| !path.as_os_str().is_empty());
    let (issuer, audience) = (config.jwt_issuer.clone(), config.jwt_audience.clone());
    let limits = Limits {
        calls_per_second: Some(config.calls_per_second).filter(|calls| *calls > 0),
        ingest_bytes_per_second: Some(config.ingest_bytes_per_second.0).filter(|bytes| *bytes > 0),
    };
    let jwt = set(&config.jwt_keys).map(|keys| JwtOptions { keys, issuer, audience });
    let metrics = (config.metrics == MetricsDoor::Query).then_some(Scope::Query);
    AuthOptions { tokens: set(&config.tokens), jwt, limits, metrics }
}

/// Whether nobody gets in unasked: by `[auth]`, or by certificates that both listeners require.
#[must_use]
pub fn asks_everybody(config: &Config) -> bool {
    let tls = &config.tls;
    let required = [tls.client_certificates, tls.http_client_certificates].map(|those| those == ClientCertificates::Required);
    config.auth.is_on() || (tls.server().is_some() && tls.client_ca().is_some() && required == [true; 2])
}

/// Where the acts of `program` are written down.
///
/// # Errors
/// The file cannot be written.
pub fn audit(program: &'static str, config: &AuthConfig, machine: Arc<dyn Machine>) -> Result<Audit, AuthError> {
    let path = config.audit_file.clone();
    if path.as_os_str().is_empty() {
        return Ok(Audit::to_log(program));
    }
    Audit::open(program, path.clone(), Arc::new(move || machine.now())).map_err(|source| AuthError::Audit { path, source })
}

/// The token that calls to the server at `address` carry, if there is one.
///
/// # Errors
/// It cannot be read, or everyone on the way to that server could.
pub fn token(config: &ClientConfig, address: &str) -> Result<Option<Bearer>, BearerError> {
    let token = match &config.token {
        Some(token) => Some(Bearer::new(token.reveal(), TOKEN_VARIABLE)?),
        None if config.token_file.as_os_str().is_empty() => None,
        None => Some(Bearer::from_file(&config.token_file)?),
    };
    token.map(|token| token.for_address(address, config.token_in_plaintext)).transpose()
}
