//! Who calls.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use super::limits::Limits;
use super::scope::{Scope, Scopes};

/// How a client has shown who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Via {
    /// By a token of the tokens file.
    Token,
    /// By a signed token of somebody else's, a JWT.
    Jwt,
    /// By the certificate of its connection.
    Certificate,
    /// Not at all: nobody is asked who they are.
    Address,
}

impl Via {
    /// As logs have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Jwt => "jwt",
            Self::Certificate => "certificate",
            Self::Address => "address",
        }
    }
}

/// A client that is known, or, where nobody is asked, the address that it calls from. In the extensions of every request that is let in.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    name: Arc<str>,
    via: Via,
    scopes: Scopes,
    limits: Limits,
    address: Option<SocketAddr>,
}

impl Identity {
    pub(super) fn new(name: impl Into<Arc<str>>, via: Via, scopes: Scopes, limits: Limits) -> Self {
        Self { name: name.into(), via, scopes, limits, address: None }
    }

    /// Whoever calls from there, where nobody is asked: everything is allowed, within `limits`.
    pub(super) fn anyone(address: Option<SocketAddr>, limits: Limits) -> Self {
        // Not the port: each connection has another.
        let name = address.map_or_else(|| "unknown".to_owned(), |address| address.ip().to_canonical().to_string());
        Self { address, ..Self::new(name, Via::Address, Scopes::all(), limits) }
    }

    pub(super) fn calling_from(self, address: Option<SocketAddr>) -> Self {
        Self { address, ..self }
    }

    /// Where nothing is said of it alone, `limits` are its own.
    pub(super) fn within(self, limits: Limits) -> Self {
        Self { limits: self.limits.or(limits), ..self }
    }

    /// Whether it may do that.
    #[must_use]
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.contain(scope)
    }

    /// Its name in the tokens file, the `sub` of its JWT, or its address.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it has shown that.
    #[must_use]
    pub fn via(&self) -> Via {
        self.via
    }

    /// All that it may do.
    #[must_use]
    pub fn scopes(&self) -> Scopes {
        self.scopes
    }

    /// Where the call came from.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// What it may ask for in a second.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.via.as_str())
    }
}
