//! Calls to a server by its address, `http://host:port` or `https://host:port`, whoever of us makes them.
//!
//! tonic carries them; the connections are made here, because what goes wrong with TLS is worth a sentence that says what to do: a certificate of
//! another name, an unknown CA, a server that wants a certificate or speaks plaintext. Some of it comes to light after the
//! handshake only, so a connection keeps what it learns where the call that fails finds it.

/// What a server says instead of an answer.
mod answered;
/// One connection.
mod connector;
/// What can be wrong with the other end.
mod trouble;

use std::error::Error;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tonic::codegen::http::Uri;
use tonic::codegen::http::uri::Scheme;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use tower::util::ServiceExt;
use tracing::warn;

use crate::tls::ClientTls;
use crate::{BoxError, Transport};

pub use answered::ServerError;
use connector::Connector;
pub use trouble::Trouble;

/// The reason in the details of a status that is made here, on this side of a connection that cannot be had. To try again is of no use
/// until somebody has changed something.
const NOT_TRUSTED: &str = "TLS";

/// Whether a status was made on this side, of a connection that cannot be had until somebody has changed something. Its message says what.
#[must_use]
pub fn is_not_trusted(status: &Status) -> bool {
    status.get_details_error_info().is_some_and(|info| info.reason == NOT_TRUSTED)
}

/// Why a server cannot be called.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address is none.
    #[error("\"{address}\" is no address to call; write http://host:port or https://host:port")]
    Address {
        /// As it was given.
        address: String,
    },
    /// There is somebody, but not with TLS that both agree upon.
    #[error(transparent)]
    Tls(#[from] Trouble),
    /// There is nobody.
    #[error("nobody answers at {address}")]
    Unreachable {
        /// The address.
        address: String,
        /// What the system says.
        #[source]
        source: tonic::transport::Error,
    },
}

/// A way to the server at `address`, which need not be up: a connection is made when it is first needed, and again whenever it is lost.
/// `adjust` sets its times. Inside a runtime.
///
/// # Errors
/// The address is none.
pub fn connect_lazily(address: &str, tls: &ClientTls, adjust: impl FnOnce(Endpoint) -> Endpoint) -> Result<Transport, ConnectError> {
    let way = Way::to(address, tls)?;
    let channel = adjust(way.endpoint.clone()).connect_with_connector_lazy(way.connector.clone());
    Ok(way.transport(channel))
}

/// As [`connect_lazily`], with the first connection made.
///
/// # Errors
/// The address is none, or the connection cannot be made. That the server refuses us because we show no certificate may come to light with
/// the first call only.
pub async fn connect(address: &str, tls: &ClientTls, adjust: impl FnOnce(Endpoint) -> Endpoint) -> Result<Transport, ConnectError> {
    let way = Way::to(address, tls)?;
    let connected = adjust(way.endpoint.clone()).connect_with_connector(way.connector.clone()).await;
    match connected {
        Ok(channel) => Ok(way.transport(channel)),
        Err(source) => match Trouble::within(&source) {
            Some(trouble) => Err(trouble.into()),
            None => Err(ConnectError::Unreachable { address: address.to_owned(), source }),
        },
    }
}

/// What a person should know of an address before calling it: that whoever is on the way can read and change everything. Nothing where it
/// stays on this machine, is over TLS, or `insecure` says that it is meant.
#[must_use]
pub fn plaintext_warning(address: &str, tls: &ClientTls) -> Option<String> {
    let uri: Uri = address.parse().ok()?;
    let host = uri.host()?.trim_matches(['[', ']']);
    let here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback());
    (uri.scheme() == Some(&Scheme::HTTP) && !here && !tls.is_insecure()).then(|| {
        format!("{address} is called in plaintext, which everybody on the way can read and change; write https://, or set tls.insecure = true if that is meant")
    })
}

/// The last trouble of a way's connections, for the call that fails of it.
type Last = Arc<Mutex<Option<Trouble>>>;

/// The way to one server.
struct Way {
    endpoint: Endpoint,
    connector: Connector,
    last: Last,
}

impl Way {
    fn to(address: &str, tls: &ClientTls) -> Result<Self, ConnectError> {
        let wrong = || ConnectError::Address { address: address.to_owned() };
        let uri: Uri = address.parse().map_err(|_| wrong())?;
        let over_tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong()),
        };
        let (host, authority) = uri.host().zip(uri.authority()).ok_or_else(wrong)?;
        if let Some(warning) = plaintext_warning(address, tls) {
            warn!(warning);
        }
        // tonic refuses https:// without its own TLS, so it is told so only as what calls say of themselves.
        let endpoint = Endpoint::from_shared(format!("http://{authority}")).map_err(|_| wrong())?;
        let endpoint = endpoint.origin(uri.clone());
        let last = Last::default();
        let connector = Connector {
            server: address.trim_end_matches('/').into(),
            host: host.trim_matches(['[', ']']).into(),
            port: uri.port_u16().unwrap_or(if over_tls { 443 } else { 80 }),
            tls: over_tls.then(|| tls.clone()),
            last: Arc::clone(&last),
        };
        Ok(Self { endpoint, connector, last })
    }

    /// What calls go through: it puts what the connections have learnt into what the caller is told.
    fn transport(&self, channel: Channel) -> Transport {
        let (last, said) = (Arc::clone(&self.last), Last::default());
        Transport::new(channel.map_err(move |error| -> BoxError {
            let learnt = locked(&last).take();
            let Some(trouble) = learnt.or_else(|| Trouble::within(&error)) else { return error.into() };
            // Once, however many calls fail of it.
            if locked(&said).replace(trouble.clone()).as_ref() != Some(&trouble) {
                warn!(reason = %trouble, "a server cannot be called");
            }
            let details = ErrorDetails::with_error_info(NOT_TRUSTED, "merganser", []);
            Status::with_error_details(Code::Unavailable, trouble.to_string(), details).into()
        }))
    }
}

fn locked(last: &Last) -> MutexGuard<'_, Option<Trouble>> {
    last.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Trouble {
    /// What it was at bottom, if it was that.
    fn within(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut causes = std::iter::successors(Some(error), |error| (**error).source());
        causes.find_map(|cause| {
            let inside = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
            cause.downcast_ref::<Self>().or_else(|| inside?.downcast_ref()).cloned()
        })
    }
}
