//! `[tls]` as the protocol crate takes it.

use merganser_proto::tls::{ClientFiles, ClientTls, Clock, ServerFiles, ServerTls, TlsError};
use storage::config::{ClientCertificates, TlsConfig};
use storage::machine::{Machine, RealMachine};

fn clock() -> Clock {
    Clock::new(|| RealMachine.now())
}

/// What a server's listeners show and ask for; nothing where they speak plaintext.
///
/// # Errors
/// A file cannot be used.
pub fn server(config: &TlsConfig) -> Result<Option<ServerTls>, TlsError> {
    let Some((certificate, key)) = config.server() else { return Ok(None) };
    let files = ServerFiles {
        certificate,
        key,
        client_ca: config.client_ca(),
        client_certificate_required: config.client_certificates == ClientCertificates::Required,
        http_client_certificate_required: config.http_client_certificates == ClientCertificates::Required,
    };
    ServerTls::load(files, clock()).map(Some)
}

/// What calls to a server show and trust.
///
/// # Errors
/// A file cannot be used.
pub fn calls(config: &TlsConfig) -> Result<ClientTls, TlsError> {
    let files = ClientFiles { ca: config.ca(), client: config.client(), server_name: config.server_name(), insecure: config.insecure };
    ClientTls::load(files, clock())
}
