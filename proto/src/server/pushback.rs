//! When to try again, once more in the header that gRPC libraries heed when a service config tells them to retry (gRFC A6).
//!
//! RetryInfo is for programs that read the details of a status; no library does. Without this a client that retries RESOURCE_EXHAUSTED would
//! send a question again whose answer is too large, and would come back sooner than it was told.

use tonic::body::Body;
use tonic::codegen::http::{HeaderValue, Response};
use tonic::{Code, Status};
use tonic_types::StatusExt;

const HEADER: &str = "grpc-retry-pushback-ms";
/// What is no number of milliseconds means that there is no use in trying again.
const NEVER: HeaderValue = HeaderValue::from_static("-1");

/// Adds the header to a refusal that says how long to wait, and to one for want of something that does not: waiting does not help there.
pub(super) fn tell(response: &mut Response<Body>) {
    let Some(status) = Status::from_header_map(response.headers()) else { return };
    if !matches!(status.code(), Code::ResourceExhausted | Code::Unavailable) {
        return;
    }
    let delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
    let value = match delay {
        Some(delay) => HeaderValue::from(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)),
        None if status.code() == Code::ResourceExhausted => NEVER,
        None => return,
    };
    response.headers_mut().insert(HEADER, value);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic_types::ErrorDetails;

    use super::*;

    /// Proves that a library is told to wait as long as a person is, not to try again what waiting does not mend, and nothing else.
    #[test]
    fn told() {
        let told = |code, delay: Option<Duration>| {
            let mut details = ErrorDetails::with_error_info("REASON", "merganser", []);
            details.set_retry_info(delay);
            let mut response = Status::with_error_details(code, "no", details).into_http();
            tell(&mut response);
            response.headers().get(HEADER).map(|value| value.to_str().unwrap_or_default().to_owned())
        };
        let delay = Some(Duration::from_millis(200));
        assert_eq!(told(Code::Unavailable, delay).as_deref(), Some("200"));
        assert_eq!(told(Code::ResourceExhausted, delay).as_deref(), Some("200"));
        assert_eq!(told(Code::ResourceExhausted, None).as_deref(), Some("-1"));
        assert_eq!(told(Code::Unavailable, None), None);
        assert_eq!(told(Code::Internal, delay), None);
        let mut answer = Response::new(Body::empty());
        tell(&mut answer);
        assert!(answer.headers().is_empty());
    }
}
