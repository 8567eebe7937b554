//! `[tls]` as the protocol crate takes it.

use merganser_proto::tls::{ClientFiles, ClientTls, Clock, TlsError};
use storage::config::TlsConfig;
use storage::machine::{Machine, RealMachine};

/// What calls to the speed layer show and trust.
///
/// # Errors
/// A file cannot be used.
pub fn calls(config: &TlsConfig) -> Result<ClientTls, TlsError> {
    let files = ClientFiles { ca: config.ca(), client: config.client(), server_name: config.server_name(), insecure: config.insecure };
    ClientTls::load(files, Clock::new(|| RealMachine.now()))
}
