//! Who is known to the servers of a test: the layers by their certificate, others by a token that an issuer of the test has signed.

use std::path::Path;

use anyhow::Result;
use rcgen::KeyPair;
use storage::config::AuthConfig;

use crate::certificates::LAYER;

/// Who signs tokens.
pub const ISSUER: &str = "https://issuer.merganser.test/";
/// Whom they are for.
pub const AUDIENCE: &str = "merganser";

/// Writes who is known, and the public key of whoever signs tokens; gives its pair.
///
/// # Errors
/// A file cannot be written.
pub fn known(folder: &Path) -> Result<KeyPair> {
    let issuer = KeyPair::generate()?;
    let auth = in_folder(folder);
    std::fs::write(auth.jwt_keys, issuer.public_key_pem())?;
    let layers =
        format!("[[client]]\nname = \"layers\"\ncertificate = \"{LAYER}\"\nscopes = [\"ingest\", \"query\", \"admin\", \"internal\"]\n");
    std::fs::write(auth.tokens, layers)?;
    Ok(issuer)
}

/// The settings that name the files of [`known`].
#[must_use]
pub fn in_folder(folder: &Path) -> AuthConfig {
    AuthConfig {
        tokens: folder.join("tokens.toml"),
        jwt_keys: folder.join("issuer.pem"),
        jwt_issuer: ISSUER.to_owned(),
        jwt_audience: AUDIENCE.to_owned(),
        audit_file: folder.join("audit.jsonl"),
        ..AuthConfig::default()
    }
}
