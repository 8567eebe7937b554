//! `grpc-timeout`, which tonic's own server reads for calls over HTTP/2.

use std::time::Duration;

use tonic::codegen::http::HeaderMap;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

const HEADER: &str = "grpc-timeout";
/// Digits that the protocol allows.
const MAX_DIGITS: usize = 8;

/// Not what the protocol says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// How long the client waits for an answer, or for a stream for the first; none if it does not say.
pub(super) fn of(headers: &HeaderMap) -> Result<Option<Duration>, Malformed> {
    let Some(text) = headers.get(HEADER) else { return Ok(None) };
    let (unit, digits) = text.as_bytes().split_last().ok_or(Malformed)?;
    if digits.is_empty() || digits.len() > MAX_DIGITS || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Malformed);
    }
    let number = digits.iter().fold(0, |number: u64, digit| number * 10 + u64::from(digit - b'0'));
    let limit = match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return Err(Malformed),
    };
    Ok(Some(limit))
}

/// What is said to one that is malformed.
pub(super) fn refusal() -> Status {
    let details = ErrorDetails::with_error_info("INVALID_TIMEOUT", "merganser", []);
    Status::with_error_details(Code::InvalidArgument, "grpc-timeout: write up to eight digits and one of H, M, S, m, u, n", details)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Proves that every unit is read, and nothing that the protocol does not have.
    #[test]
    fn read() {
        let of = |text: &str| of(&[(HEADER.parse().unwrap(), text.parse().unwrap())].into_iter().collect());
        for (text, nanos) in [("1H", 3_600_000_000_000), ("2M", 120_000_000_000), ("3S", 3_000_000_000), ("4m", 4_000_000), ("5u", 5_000)] {
            assert_eq!(of(text), Ok(Some(Duration::from_nanos(nanos))), "{text}");
        }
        assert_eq!(of("99999999H"), Ok(Some(Duration::from_secs(99_999_999 * 3600))));
        for text in ["", "S", "1", "123456789S", "1s", "-1S", "1 S", "1.5S"] {
            assert_eq!(of(text), Err(Malformed), "{text}");
        }
        assert_eq!(super::of(&HeaderMap::new()), Ok(None));
    }
}
