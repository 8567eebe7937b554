//! The next step to take, for failures whose own words do not say it: those of disks, stores and sockets, which every command can meet.

use std::io::{Error, ErrorKind};

use merganser_proto::client::ServerError;
use storage::log::LogError;
use storage::store::StoreError;
use tonic::Code;

const NEWER: &str = "a newer release wrote it: install that release, here too";
const DAMAGED: &str = "bring the file back from a copy of the store; a view comes back by `batch-layer run --force`, too";

/// What to do about the error, by the first of its causes that is known.
#[must_use]
pub(crate) fn step(error: &anyhow::Error) -> Option<&'static str> {
    error.chain().find_map(|cause| {
        let of_store = cause.downcast_ref().and_then(of_store).or_else(|| cause.downcast_ref().and_then(of_server));
        of_store.or_else(|| cause.downcast_ref().and_then(of_log)).or_else(|| cause.downcast_ref().and_then(of_io))
    })
}

fn of_store(error: &StoreError) -> Option<&'static str> {
    match error {
        StoreError::NewerFormat { .. } => Some(NEWER),
        StoreError::Parquet { .. } | StoreError::Corrupt { .. } | StoreError::Checksum { .. } | StoreError::Block { .. } => Some(DAMAGED),
        StoreError::Gap { .. } | StoreError::Overlap { .. } => {
            Some("bring master/events back from a copy of the store; leave what is there as it is until then")
        }
        StoreError::Io { .. } | StoreError::Backend { .. } => Some("look at the disk or the store with `doctor`, then try again"),
        _ => None,
    }
}

fn of_log(error: &LogError) -> Option<&'static str> {
    match error {
        LogError::NewerFormat { .. } => Some(NEWER),
        LogError::Damaged { .. } => {
            Some("docs/operations.md says what can be done about a damaged log; keep a copy of the folder before anything else")
        }
        LogError::Io { .. } => Some("look at the disk with `speed-layer doctor`, then start again"),
        _ => None,
    }
}

fn of_server(error: &ServerError) -> Option<&'static str> {
    match error.status().code() {
        Code::Unauthenticated | Code::PermissionDenied => {
            Some("give a token that may do this in the variable MERGANSER_TOKEN, or in the file of [client] token_file")
        }
        _ => None,
    }
}

fn of_io(error: &Error) -> Option<&'static str> {
    match error.kind() {
        ErrorKind::AddrInUse => Some("`doctor` says who has the address; stop that one, or set another address"),
        ErrorKind::AddrNotAvailable => Some("set an address of this machine"),
        ErrorKind::PermissionDenied => Some("give this user the right to do so, or name another place"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that the step is found under whatever was said around it, and that an error of another kind has none.
    #[test]
    fn steps() {
        let refused = ServerError::from(tonic::Status::permission_denied("layers may not do that"));
        assert!(step(&anyhow::Error::new(refused).context("the server refused the request")).unwrap().contains("MERGANSER_TOKEN"));
        let taken = anyhow::Error::new(Error::from(ErrorKind::AddrInUse)).context("cannot listen on 127.0.0.1:7401");
        assert!(step(&taken).unwrap().contains("`doctor`"));
        let newer = anyhow::Error::new(StoreError::NewerFormat { path: "x".into(), found: 9, known: 5 }).context("view user_stats");
        assert_eq!(step(&newer), Some(NEWER));
        assert_eq!(step(&anyhow::anyhow!("there is no view x")), None);
    }
}
