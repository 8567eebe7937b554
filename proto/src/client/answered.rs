//! What a server says instead of an answer.

use std::error::Error;
use std::fmt;

use tonic::Status;

/// A status in the server's own words and its code's name. tonic's own text begins with the definition of the code, which people read past.
#[derive(Clone, Debug)]
pub struct ServerError(Box<Status>);

impl ServerError {
    /// With code, details and all.
    #[must_use]
    pub fn status(&self) -> &Status {
        &self.0
    }
}

impl From<Status> for ServerError {
    fn from(status: Status) -> Self {
        Self(Box::new(status))
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self.0.code();
        match self.0.message() {
            "" => write!(f, "{} ({code:?})", code.description()),
            message => write!(f, "{message} ({code:?})"),
        }
    }
}

impl Error for ServerError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that people read the server's words, and what the code means where it has none.
    #[test]
    fn words() {
        let told = |status: Status| ServerError::from(status).to_string();
        assert_eq!(told(Status::permission_denied("ann may not do that")), "ann may not do that (PermissionDenied)");
        assert_eq!(told(Status::unavailable("")), "The service is currently unavailable (Unavailable)");
    }
}
