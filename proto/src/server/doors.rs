//! Where a server listens. Plaintext stays on this machine unless somebody says that it may leave.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, lookup_host};

use crate::tls::ServerTls;

/// The listeners of a server, and the TLS on both.
#[derive(Debug)]
pub struct Doors {
    /// For gRPC.
    pub grpc: TcpListener,
    /// For health, readiness and metrics, if they are told.
    pub http: Option<TcpListener>,
    /// Absent for plaintext.
    pub tls: Option<ServerTls>,
}

/// Why a server listens nowhere.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DoorsError {
    /// It would speak plaintext to other machines.
    #[error(
        "{setting} = \"{address}\" is not on loopback, where everybody on the way could read and change what is said in plaintext; \
         name tls.certificate and tls.key, or say --insecure if that is meant"
    )]
    Plaintext {
        /// The setting that has the address.
        setting: &'static str,
        /// The address.
        address: String,
    },
    /// Whoever reaches the address could do everything there.
    #[error(
        "{setting} = \"{address}\" is not on loopback, and not everybody is asked there who they are, so that whoever reaches it could read, \
         write and erase; set [auth], or [tls] client_ca with required certificates (docs/security.md), or give --insecure if that is meant"
    )]
    Everybody {
        /// The setting that has the address.
        setting: &'static str,
        /// The address.
        address: String,
    },
    /// The system does not give the address.
    #[error("cannot listen on {address}, which is {setting}")]
    Listen {
        /// The setting that has the address.
        setting: &'static str,
        /// The address.
        address: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

impl Doors {
    /// Listens for gRPC on one address and for HTTP on another, unless that is empty. Where plaintext would leave the machine, or others would
    /// come in unasked because not `everybody_is_asked` who they are, and `insecure` does not say that they may, nothing is bound.
    ///
    /// # Errors
    /// That, or an address that cannot be had.
    pub async fn open(
        grpc: &str,
        http: &str,
        tls: Option<ServerTls>,
        everybody_is_asked: bool,
        insecure: bool,
    ) -> Result<Self, DoorsError> {
        let (grpc, http) = (Door { setting: "grpc_address", address: grpc }, Door { setting: "http_address", address: http });
        let resolved = (grpc.resolve().await?, if http.address.is_empty() { None } else { Some(http.resolve().await?) });
        let is_plaintext = tls.is_none();
        if (is_plaintext || !everybody_is_asked) && !insecure {
            grpc.stays_here(&resolved.0, is_plaintext)?;
            resolved.1.as_ref().map_or(Ok(()), |resolved| http.stays_here(resolved, is_plaintext))?;
        }
        Ok(Self {
            grpc: grpc.bind(&resolved.0).await?,
            http: match &resolved.1 {
                Some(resolved) => Some(http.bind(resolved).await?),
                None => None,
            },
            tls,
        })
    }

    /// One listener for gRPC in plaintext.
    #[must_use]
    pub fn plain(grpc: TcpListener) -> Self {
        Self { grpc, http: None, tls: None }
    }

    /// What a client writes to call it.
    ///
    /// # Errors
    /// The system does not know where it listens.
    pub fn url(&self) -> io::Result<String> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        Ok(format!("{scheme}://{}", self.grpc.local_addr()?))
    }
}

/// An address, and where it comes from.
struct Door<'a> {
    setting: &'static str,
    address: &'a str,
}

impl Door<'_> {
    async fn resolve(&self) -> Result<Vec<SocketAddr>, DoorsError> {
        Ok(lookup_host(self.address).await.map_err(|source| self.failed(source))?.collect())
    }

    /// Of a name that stands for several addresses each has to be on loopback: the system may give any.
    fn stays_here(&self, resolved: &[SocketAddr], is_plaintext: bool) -> Result<(), DoorsError> {
        let (setting, address) = (self.setting, self.address.to_owned());
        match resolved.iter().all(|address| address.ip().to_canonical().is_loopback()) {
            true => Ok(()),
            false if is_plaintext => Err(DoorsError::Plaintext { setting, address }),
            false => Err(DoorsError::Everybody { setting, address }),
        }
    }

    async fn bind(&self, resolved: &[SocketAddr]) -> Result<TcpListener, DoorsError> {
        TcpListener::bind(resolved).await.map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> DoorsError {
        DoorsError::Listen { setting: self.setting, address: self.address.to_owned(), source }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Proves that plaintext is refused on every address that others reach, on either listener, before anything is bound.
    #[tokio::test]
    async fn plaintext_stays_here() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let taken = taken.local_addr().unwrap().to_string();
        for elsewhere in ["0.0.0.0:0", "[::]:0", "192.0.2.1:7401", "[::ffff:192.0.2.1]:7401"] {
            // The other address is taken: were it bound first, the error would be another.
            for (grpc, http, setting) in [(elsewhere, &*taken, "grpc_address"), (&*taken, elsewhere, "http_address")] {
                let refused = Doors::open(grpc, http, None, false, false).await.unwrap_err();
                assert!(
                    matches!(&refused, DoorsError::Plaintext { setting: it, address } if *it == setting && address == elsewhere),
                    "{refused}"
                );
                assert!(refused.to_string().contains("--insecure"), "{refused}");
            }
        }
        // Over TLS it is not what is said that others could read: it is they who would come in.
        let door = Door { setting: "grpc_address", address: "0.0.0.0:0" };
        let open = door.stays_here(&["0.0.0.0:0".parse().unwrap()], false).unwrap_err();
        assert!(matches!(&open, DoorsError::Everybody { .. }) && open.to_string().contains("[auth]"), "{open}");
        let doors = Doors::open("127.0.0.1:0", "", None, false, false).await.unwrap();
        assert!(doors.http.is_none() && doors.url().unwrap().starts_with("http://127.0.0.1:"));
        assert!(Doors::open("[::ffff:127.0.0.1]:0", "localhost:0", None, false, false).await.is_ok());
    }

    /// Proves that a name stays here only if every address that it stands for does.
    #[test]
    fn names_of_several_addresses() {
        let door = Door { setting: "grpc_address", address: "a name" };
        let resolved = |texts: [&str; 2]| texts.map(|text| text.parse::<SocketAddr>().unwrap());
        for elsewhere in [["127.0.0.1:1", "192.0.2.1:1"], ["192.0.2.1:1", "[::1]:1"], ["0.0.0.0:1", "[::]:1"]] {
            assert!(door.stays_here(&resolved(elsewhere), true).is_err(), "{elsewhere:?}");
        }
        assert!(door.stays_here(&resolved(["127.0.0.1:1", "[::1]:1"]), true).is_ok());
    }

    /// Proves that an address that is taken is named with its setting, and that so is one that is none.
    #[tokio::test]
    async fn not_to_be_had() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let taken = taken.local_addr().unwrap().to_string();
        for (grpc, http, said) in
            [(&*taken, "", "which is grpc_address"), ("127.0.0.1:0", &*taken, "which is http_address"), ("nowhere", "", "nowhere")]
        {
            let error = Doors::open(grpc, http, None, false, false).await.unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
