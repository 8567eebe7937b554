//! What is wrong between two ends that reach one another, in words that say what to do.

use std::io;
use std::sync::Arc;

use rustls::{AlertDescription, CertificateError};

/// Why there is no connection to a server that is there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Trouble {
    /// It is too late for its certificate.
    #[error("the certificate of {server} is past its date; renew it, or set the clock of this machine right")]
    Expired {
        /// The server's address.
        server: Arc<str>,
    },
    /// It is too early for its certificate.
    #[error("the certificate of {server} is not valid yet; set the clock of this machine right, or wait")]
    NotYetValid {
        /// The server's address.
        server: Arc<str>,
    },
    /// Anybody could have made its certificate.
    #[error("the certificate of {server} is signed by nobody whom this side trusts; name the PEM file of its CA in tls.ca")]
    UnknownCa {
        /// The server's address.
        server: Arc<str>,
    },
    /// Its certificate is another server's.
    #[error("the certificate of {server} is for {}, not for {expected}; call it by a name that it has, or write that into tls.server_name", names(.presented))]
    OtherName {
        /// The server's address.
        server: Arc<str>,
        /// What it is called.
        expected: String,
        /// The names that the certificate has.
        presented: Vec<String>,
    },
    /// Its certificate cannot be used for another reason.
    #[error("the certificate of {server} is refused: {wrong}")]
    Certificate {
        /// The server's address.
        server: Arc<str>,
        /// rustls' words.
        wrong: String,
    },
    /// It wants to see a certificate.
    #[error("{server} wants a certificate of its clients; name one in tls.client_certificate and its key in tls.client_key")]
    WantsCertificate {
        /// The server's address.
        server: Arc<str>,
    },
    /// It does not trust ours.
    #[error(
        "{server} refuses tls.client_certificate ({alert}); it has to be within its dates and signed by a CA of that server's tls.client_ca"
    )]
    RefusesCertificate {
        /// The server's address.
        server: Arc<str>,
        /// What it said, in the words of the protocol.
        alert: String,
    },
    /// It answers in plaintext.
    #[error("{server} does not speak TLS; write http://, or give that server tls.certificate and tls.key")]
    SpeaksPlaintext {
        /// The server's address.
        server: Arc<str>,
    },
    /// It answers in TLS.
    #[error("{server} speaks TLS; write https://")]
    SpeaksTls {
        /// The server's address.
        server: Arc<str>,
    },
    /// It speaks TLS for something else.
    #[error("{server} speaks TLS, but not gRPC over it; is that its HTTP address?")]
    NotGrpc {
        /// The server's address.
        server: Arc<str>,
    },
    /// It goes away without a word.
    #[error(
        "{server} closed the connection before it said anything over TLS; it may not speak TLS, or not take clients without a certificate"
    )]
    Silent {
        /// The server's address.
        server: Arc<str>,
    },
    /// Names are needed where there is none.
    #[error("the address {server} has no name that a certificate could have; write what its certificate has into tls.server_name")]
    NoName {
        /// The server's address.
        server: Arc<str>,
    },
    /// Something else of the protocol.
    #[error("no TLS with {server}: {wrong}")]
    Other {
        /// The server's address.
        server: Arc<str>,
        /// rustls' words.
        wrong: String,
    },
}

impl Trouble {
    /// What an error of a stream of bytes says about the TLS on it; nothing if it says nothing.
    pub(super) fn of(error: &io::Error, server: &Arc<str>) -> Option<Self> {
        let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
        let server = Arc::clone(server);
        Some(match error {
            rustls::Error::InvalidCertificate(wrong) => Self::of_certificate(wrong, server),
            rustls::Error::InvalidMessage(_) => Self::SpeaksPlaintext { server },
            rustls::Error::NoApplicationProtocol | rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
                Self::NotGrpc { server }
            }
            rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => Self::WantsCertificate { server },
            rustls::Error::AlertReceived(alert) if is_about_certificate(*alert) => {
                Self::RefusesCertificate { server, alert: format!("{alert:?}") }
            }
            other => Self::Other { server, wrong: other.to_string() },
        })
    }

    fn of_certificate(wrong: &CertificateError, server: Arc<str>) -> Self {
        match wrong {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired { server },
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid { server },
            // The latter where a CA was made again by the same name.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UnknownCa { server },
            CertificateError::NotValidForNameContext { expected, presented } => {
                Self::OtherName { server, expected: expected.to_str().into_owned(), presented: presented.clone() }
            }
            wrong => Self::Certificate { server, wrong: wrong.to_string() },
        }
    }
}

/// Whether a server says by it that it does not like what it was shown.
fn is_about_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError
    )
}

/// rustls tells `DnsName("host")` and `IpAddress(127.0.0.1)`.
fn names(presented: &[String]) -> String {
    let bare =
        |name: &String| name.split_once('(').map_or(name.as_str(), |(_, rest)| rest.trim_end_matches(')').trim_matches('"')).to_owned();
    if presented.is_empty() { "nobody".to_owned() } else { presented.iter().map(bare).collect::<Vec<_>>().join(", ") }
}
