//! Why a call is not let in.

use std::time::Duration;

use tonic::codegen::http::StatusCode;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::limits::Measure;
use super::scope::Scope;

/// Why a call is not let in. It says nothing of what was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nobody said who calls.
    #[error("no token came with the call; send it as the header authorization: Bearer TOKEN")]
    TokenMissing,
    /// More than one header says who calls.
    #[error("more than one authorization header came with the call; send one")]
    TokenAmbiguous,
    /// The header is not what it should be.
    #[error("the authorization header is not Bearer and a token")]
    TokenMalformed,
    /// No token is that long.
    #[error("the token is longer than {MAX_TOKEN_BYTES} bytes")]
    TokenTooLong,
    /// No client has it.
    #[error("the token is not known here; it may have been taken out of the tokens file, or be meant for another server")]
    TokenUnknown,
    /// It was valid once.
    #[error("the token has expired; get a new one")]
    TokenExpired,
    /// It will be valid later.
    #[error("the token is not valid yet; compare the clocks")]
    TokenNotYetValid,
    /// A JWT that asks to be verified in a way that none of the keys is for.
    #[error("the token is not signed with the algorithm of one of the keys here")]
    JwtAlgorithm,
    /// A JWT of an unknown key.
    #[error("the token is signed with a key that is not known here")]
    JwtKeyUnknown,
    /// A JWT that was not signed by whom it says, or not in this wording.
    #[error("the token's signature does not fit")]
    JwtSignature,
    /// A JWT of somebody else.
    #[error("the token was not issued by the issuer that is trusted here")]
    JwtIssuer,
    /// A JWT for somebody else.
    #[error("the token is meant for another audience")]
    JwtAudience,
    /// A JWT without what it must say.
    #[error("the token lacks a claim, or has one that cannot be read; exp, aud, iss and sub are needed")]
    JwtClaims,
    /// A certificate that the tokens file does not know.
    #[error("no client here has a name of the connection's certificate, and no token came with the call")]
    CertificateUnknown,
    /// A client that may do other things.
    #[error("{name} may not do that; it takes the scope {scope}")]
    ScopeMissing {
        /// Who it is.
        name: String,
        /// What it lacks.
        scope: Scope,
    },
    /// Nobody may call what nobody has declared.
    #[error("there is no such method here that somebody may call")]
    MethodUnknown,
    /// A client that asks for more than it may have in a second.
    #[error("{name} has used up its {measure}; try again in {} ms", retry.as_millis())]
    RateLimited {
        /// Who it is.
        name: String,
        /// Of what.
        measure: Measure,
        /// When there is some again.
        retry: Duration,
    },
}

/// The longest token that is looked at. Headers have a bound of their own; this one keeps hashing and parsing cheap.
pub(super) const MAX_TOKEN_BYTES: usize = 4 << 10;
/// Nobody is told to wait for less: it would only be another refusal.
const RETRY_MIN: Duration = Duration::from_millis(1);

impl Refusal {
    /// Every [`Self::reason`], in the order of their numbers.
    pub const REASONS: [&'static str; 17] = [
        "TOKEN_MISSING",
        "TOKEN_AMBIGUOUS",
        "TOKEN_MALFORMED",
        "TOKEN_TOO_LONG",
        "TOKEN_UNKNOWN",
        "TOKEN_EXPIRED",
        "TOKEN_NOT_YET_VALID",
        "JWT_ALGORITHM",
        "JWT_KEY_UNKNOWN",
        "JWT_SIGNATURE",
        "JWT_ISSUER",
        "JWT_AUDIENCE",
        "JWT_CLAIMS",
        "CERTIFICATE_UNKNOWN",
        "SCOPE_MISSING",
        "METHOD_UNKNOWN",
        "RATE_LIMITED",
    ];

    /// Its place in [`Self::REASONS`].
    pub(super) fn number(&self) -> usize {
        match self {
            Self::TokenMissing => 0,
            Self::TokenAmbiguous => 1,
            Self::TokenMalformed => 2,
            Self::TokenTooLong => 3,
            Self::TokenUnknown => 4,
            Self::TokenExpired => 5,
            Self::TokenNotYetValid => 6,
            Self::JwtAlgorithm => 7,
            Self::JwtKeyUnknown => 8,
            Self::JwtSignature => 9,
            Self::JwtIssuer => 10,
            Self::JwtAudience => 11,
            Self::JwtClaims => 12,
            Self::CertificateUnknown => 13,
            Self::ScopeMissing { .. } => 14,
            Self::MethodUnknown => 15,
            Self::RateLimited { .. } => 16,
        }
    }

    /// For programs: the reason in `google.rpc.ErrorInfo`, and the label of the metric.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        Self::REASONS[self.number()]
    }

    /// UNAUTHENTICATED for whoever has not shown who it is, PERMISSION_DENIED for whoever may do other things, RESOURCE_EXHAUSTED for
    /// whoever may do it later.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::ScopeMissing { .. } | Self::MethodUnknown => Code::PermissionDenied,
            Self::RateLimited { .. } => Code::ResourceExhausted,
            _ => Code::Unauthenticated,
        }
    }

    /// The same for HTTP: 401, 403 or 429.
    #[must_use]
    pub fn http_status(&self) -> StatusCode {
        match self.code() {
            Code::PermissionDenied => StatusCode::FORBIDDEN,
            Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            _ => StatusCode::UNAUTHORIZED,
        }
    }

    /// For gRPC, with `ErrorInfo`, and with `RetryInfo` if waiting helps.
    #[must_use]
    pub fn status(&self) -> Status {
        let mut details = ErrorDetails::with_error_info(self.reason(), "merganser", []);
        if let Self::RateLimited { retry, .. } = self {
            details.set_retry_info(Some((*retry).max(RETRY_MIN)));
        }
        Status::with_error_details(self.code(), self.to_string(), details)
    }
}
