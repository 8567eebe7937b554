//! What is wrong with the files of `[tls]`.

use std::io;
use std::path::PathBuf;

/// Why TLS cannot be spoken with these files. Each says which file, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// It is not there, or not readable.
    #[error("tls.{setting} = \"{}\" cannot be read", path.display())]
    Read {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// What it holds is not what the setting asks for.
    #[error("tls.{setting} = \"{}\": {wrong}", path.display())]
    File {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        wrong: String,
    },
    /// The name to expect is none.
    #[error("tls.server_name = \"{name}\" is no name that a certificate could have; write a host name or an IP address")]
    ServerName {
        /// As it is set.
        name: String,
    },
    /// The pieces do not go together in a way that none of the others says.
    #[error("[tls] cannot be used")]
    Unusable(#[source] rustls::Error),
}
