//! `[client]` as the protocol crate takes it.

use merganser_proto::{Bearer, BearerError};
use storage::config::{ClientConfig, TOKEN_VARIABLE};

/// The token that calls to the server at `address` carry, if there is one.
///
/// # Errors
/// It cannot be read, or everyone on the way to that server could.
pub(crate) fn token(config: &ClientConfig, address: &str) -> Result<Option<Bearer>, BearerError> {
    let token = match &config.token {
        Some(token) => Some(Bearer::new(token.reveal(), TOKEN_VARIABLE)?),
        None if config.token_file.as_os_str().is_empty() => None,
        None => Some(Bearer::from_file(&config.token_file)?),
    };
    token.map(|token| token.for_address(address, config.token_in_plaintext)).transpose()
}
