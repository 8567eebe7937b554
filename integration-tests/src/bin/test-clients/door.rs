//! What stands before a server in earnest: TLS, and a token. And what happens there: a call that does not get through.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use anyhow::{Context, Result};
use futures::future::BoxFuture;
use http::{Request, Response};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;
use tonic::body::Body;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Identity, Server, ServerTlsConfig};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use tower::Service;

/// What a client has to bring.
pub(crate) const TOKEN: &str = "a-token-for-examples";
/// What a client whose call is lost is told to wait.
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// A server behind a door, as long as this is kept.
pub(crate) struct Door {
    /// Such as `https://127.0.0.1:40123`.
    pub(crate) address: String,
    calls: Calls,
    _server: AbortOnDropHandle<()>,
}

/// By method.
type Calls = Arc<Mutex<BTreeMap<String, usize>>>;

impl Door {
    /// Before the server at `behind`, such as `http://127.0.0.1:40123`.
    pub(crate) async fn open(behind: &str) -> Result<Self> {
        let channel = Endpoint::from_shared(behind.to_owned())?.connect().await.context("the server behind the door")?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = format!("https://{}", listener.local_addr()?);
        let own = certificates()?;
        let tls = ServerTlsConfig::new().identity(Identity::from_pem(&own.certificate, &own.key));
        let calls = Calls::default();
        let through = Through { channel, calls: Arc::clone(&calls) };
        let server = Server::builder().tls_config(tls)?;
        let server = async move {
            // It ends with its task.
            let _ended = server.serve_with_incoming(through, TcpIncoming::from(listener)).await;
        };
        Ok(Self { address, calls, _server: AbortOnDropHandle::new(tokio::spawn(server)) })
    }

    /// How many calls of a method came to the door.
    pub(crate) fn calls(&self, method: &str) -> usize {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).get(method).copied().unwrap_or_default()
    }
}

/// Lets through who has the token; the first call of each method gets lost.
#[derive(Clone)]
struct Through {
    channel: Channel,
    calls: Calls,
}

impl Service<Request<Body>> for Through {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut channel = self.channel.clone();
        let refusal = self.refusal(&request);
        Box::pin(async move {
            if let Some(refusal) = refusal {
                return Ok(refusal.into_http());
            }
            let answer = async {
                std::future::poll_fn(|cx| channel.poll_ready(cx)).await?;
                channel.call(request).await
            };
            Ok(answer.await.unwrap_or_else(|error| Status::internal(error.to_string()).into_http()))
        })
    }
}

impl Through {
    fn refusal(&self, request: &Request<Body>) -> Option<Status> {
        let shown = request.headers().get("authorization").and_then(|value| value.to_str().ok());
        if shown.and_then(|shown| shown.strip_prefix("Bearer ")) != Some(TOKEN) {
            return Some(Status::unauthenticated("show a token"));
        }
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let number = calls.entry(method).or_default();
        *number += 1;
        (*number == 1).then(|| {
            let mut details = ErrorDetails::with_error_info("LOST", "merganser", []);
            details.set_retry_info(Some(RETRY_DELAY));
            Status::with_error_details(Code::Unavailable, "the first call of each method gets lost", details)
        })
    }
}

/// In PEM.
pub(crate) struct Certificates {
    /// Whom a client has to trust.
    pub(crate) authority: String,
    certificate: String,
    key: String,
}

/// Of all doors, made once.
pub(crate) fn certificates() -> Result<&'static Certificates> {
    static MADE: OnceLock<Certificates> = OnceLock::new();
    if MADE.get().is_none() {
        let mut authority = CertificateParams::new(Vec::new())?;
        // Who has signed has another name than what it has signed, or that is taken for its own signer.
        authority.distinguished_name.push(DnType::CommonName, "an authority for examples");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority_key = KeyPair::generate()?;
        let authority_pem = authority.self_signed(&authority_key)?.pem();
        let key = KeyPair::generate()?;
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let certificate = CertificateParams::new(names)?.signed_by(&key, &Issuer::new(authority, authority_key))?.pem();
        MADE.get_or_init(|| Certificates { authority: authority_pem, certificate, key: key.serialize_pem() });
    }
    MADE.get().context("it was made")
}
