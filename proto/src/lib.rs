//! The contract between Merganser's servers and everyone who talks to them.
//!
//! The source is `proto/merganser/v1/*.proto`, where every service, message and field is described; this crate holds what is
//! generated from it at build time. What a field may hold is decided by the layer that receives it.
//!
//! - `ingest.proto`: events go in (speed layer)
//! - `user_stats.proto`: merged statistics of users come out (serving layer)
//! - `view.proto`: the same for any declared view (serving layer)
//! - `realtime.proto`: the handover between the layers, not for clients (speed layer)
//! - `speed_status.proto`: how the speed layer is, for the console, not for clients (speed layer)
//! - `types.proto`: what they share
//!
//! Maps are `BTreeMap`s, so that equal messages have equal bytes, and `bytes` fields are `Bytes`, so that Arrow can read them
//! in place.
//!
//! Beside the contract stands what both servers do alike whoever calls them: [`server`] bounds connections and calls, `codec`
//! bounds what a message turns into, [`http`] tells over HTTP how a server is, in numbers by [`metrics`], and [`traces`] what each call was about.
//! [`tls`] is what both ends of a connection show and trust, [`client`] how one server calls another, [`auth`] decides who may call what, and
//! [`audit`] writes down who changed something.

/// Who did what.
pub mod audit;
/// Who may call what.
pub mod auth;
/// The token that a program's own calls carry.
mod bearer;
/// Calls by address, over TLS or not.
pub mod client;
/// Messages, decoded within bounds.
pub mod codec;
/// SIGHUP.
mod hangup;
/// Health, readiness and metrics over HTTP.
pub mod http;
/// Numbers, for Prometheus.
pub mod metrics;
/// Connections and calls, served within bounds.
pub mod server;
/// What servers and calls show, and whom they trust.
pub mod tls;
/// What was done for a call, for a collector of traces.
pub mod traces;

use std::pin::Pin;
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::codegen::{Service, http as wire};
use tower::util::{BoxCloneSyncService, ServiceExt};

pub use bearer::{Bearer, BearerError};

/// Package `merganser.v1`: messages, clients and server traits.
#[allow(missing_docs, unreachable_pub)]
#[allow(clippy::large_futures)]
#[allow(rustdoc::bare_urls, rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags)]
pub mod v1 {
    tonic::include_proto!("merganser.v1");
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Answer = Pin<Box<dyn Future<Output = Result<wire::Response<Body>, BoxError>> + Send>>;

/// What carries the calls of a client to a server: a connection, or, in a simulation, the server's services themselves.
#[derive(Clone, Debug)]
pub struct Transport(BoxCloneSyncService<wire::Request<Body>, wire::Response<Body>, BoxError>);

impl Transport {
    /// Over anything that answers gRPC requests, such as a `tonic` channel.
    pub fn new<S>(service: S) -> Self
    where
        S: Service<wire::Request<Body>, Response = wire::Response<Body>> + Clone + Send + Sync + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
    {
        Self(BoxCloneSyncService::new(service.map_err(Into::into)))
    }

    /// The same, whose calls carry the token if there is one.
    #[must_use]
    pub fn carrying(self, token: Option<Bearer>) -> Self {
        let Some(token) = token else { return self };
        Self::new(self.map_request(move |mut request: wire::Request<Body>| {
            request.headers_mut().insert(wire::header::AUTHORIZATION, token.value());
            request
        }))
    }
}

impl Service<wire::Request<Body>> for Transport {
    type Response = wire::Response<Body>;
    type Error = BoxError;
    type Future = Answer;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: wire::Request<Body>) -> Answer {
        traces::pass_on(request.headers_mut());
        self.0.call(request)
    }
}

/// The encoded `FileDescriptorSet` of the package and of what it imports, comments included, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/merganser.v1.bin"));

/// [`FILE_DESCRIPTOR_SET`] with these services of the package only, by their short names: what one server really answers.
#[must_use]
pub fn descriptors_of(services: &[&str]) -> prost_types::FileDescriptorSet {
    let mut set: prost_types::FileDescriptorSet =
        prost::Message::decode(FILE_DESCRIPTOR_SET).expect("the descriptor set was generated with the code");
    for file in &mut set.file {
        file.service.retain(|service| services.contains(&service.name()));
    }
    set
}
