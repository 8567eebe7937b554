//! Who is at the other end of a connection. Every request has it among its extensions, on the gRPC listener and on the HTTP one.

use std::any::Any;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use tonic::transport::server::TcpConnectInfo;
use tracing::debug;

/// The other end of a connection, as far as the transport knows it. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Where it calls from; absent on pipes and in simulations.
    pub address: Option<SocketAddr>,
    /// Whether nobody between could read or change what was sent.
    pub over_tls: bool,
    /// What it has proven to hold the key of, signed by a CA that this server trusts; absent if it showed none.
    pub certificate: Option<PeerCertificate>,
}

/// The leaf of a verified chain. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate(Arc<Leaf>);

#[derive(Debug, PartialEq, Eq)]
struct Leaf {
    der: CertificateDer<'static>,
    names: Vec<AltName>,
}

/// One of the names that a certificate is for (its subject alternative names). The common name is none of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AltName {
    /// Such as `serving.example.org`, in lower case.
    Dns(String),
    /// Such as `spiffe://example.org/serving`.
    Uri(String),
}

impl Peer {
    /// The other end of a plaintext connection, of which the listener knows `info`.
    pub(crate) fn of(info: &dyn Any) -> Self {
        let address = info.downcast_ref::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
        Self { address, ..Self::default() }
    }

    /// The names of its certificate; none if it has none.
    #[must_use]
    pub fn names(&self) -> &[AltName] {
        self.certificate.as_ref().map_or(&[], PeerCertificate::names)
    }
}

impl PeerCertificate {
    /// A leaf whose chain was verified. A name that cannot be read is left out: it stands for nobody.
    #[must_use]
    pub fn verified(der: CertificateDer<'static>) -> Self {
        // The parser that verified it, so that both read the same names.
        let names = match webpki::EndEntityCert::try_from(&der) {
            Ok(leaf) => {
                let dns = leaf.valid_dns_names().map(|name| AltName::Dns(name.to_ascii_lowercase()));
                let uris = leaf.valid_uri_names().map(|name| AltName::Uri(name.to_owned()));
                dns.chain(uris).collect()
            }
            Err(error) => {
                debug!(%error, "the names of a verified certificate cannot be read");
                Vec::new()
            }
        };
        Self(Arc::new(Leaf { der, names }))
    }

    /// The certificate itself.
    #[must_use]
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.0.der
    }

    /// Whom it is for: DNS names, then URIs.
    #[must_use]
    pub fn names(&self) -> &[AltName] {
        &self.0.names
    }
}

impl AltName {
    /// The name without its kind.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Dns(name) | Self::Uri(name) => name,
        }
    }
}

impl fmt::Display for AltName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
