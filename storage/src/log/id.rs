//! The identity of a log.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::LogError;

/// Names one log for ever: drawn at random when the log is created, written in every segment, and
/// carried by manifests and positions, so that a log that was recreated or swapped is noticed.
///
/// Shown, parsed and serialized as 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LogId([u8; 16]);

impl LogId {
    /// Draws a new id.
    #[allow(clippy::disallowed_methods, reason = "a log that is opened without a machine, as in tests")]
    pub(crate) fn random() -> LogId {
        LogId(rand::random())
    }

    /// The id with these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> LogId {
        LogId(bytes)
    }

    /// The bytes of the id, in the order in which they are shown.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl FromStr for LogId {
    type Err = LogError;

    fn from_str(text: &str) -> Result<LogId, LogError> {
        let well_formed = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match u128::from_str_radix(text, 16) {
            Ok(number) if well_formed => Ok(LogId(number.to_be_bytes())),
            _ => Err(LogError::InvalidLogId { text: text.to_owned() }),
        }
    }
}

impl TryFrom<String> for LogId {
    type Error = LogError;

    fn try_from(text: String) -> Result<LogId, LogError> {
        text.parse()
    }
}

impl From<LogId> for String {
    fn from(id: LogId) -> String {
        id.to_string()
    }
}
