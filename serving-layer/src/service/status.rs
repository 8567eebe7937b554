//! What each error means to a client. Every status has an `ErrorInfo`; what may be asked again says after how long.

use std::time::Duration;

use storage::store::StoreError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::ServingError;

const DOMAIN: &str = "merganser";
/// When to ask again after UNAVAILABLE.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// The status of an error. What only an operator can mend is logged here.
pub(super) fn of(error: &ServingError) -> Status {
    let (code, reason) = meaning(error);
    let message = error.in_one_line();
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, []);
    if let ServingError::Field { field, reason } = error {
        details.add_bad_request_violation(field, reason);
    }
    match code {
        _ if matches!(error, ServingError::TooMuchUnread) || code == Code::Unavailable => {
            details.set_retry_info(Some(RETRY_AFTER));
        }
        Code::Internal | Code::DataLoss => tracing::error!(reason, message, "a question failed"),
        _ => {}
    }
    Status::with_error_details(code, message, details)
}

/// Whether asking again may mend it.
pub(super) fn may_pass(error: &ServingError) -> bool {
    meaning(error).0 == Code::Unavailable
}

fn meaning(error: &ServingError) -> (Code, &'static str) {
    match error {
        ServingError::Field { .. } => (Code::InvalidArgument, "INVALID_FIELD"),
        ServingError::OtherLog { .. } => (Code::FailedPrecondition, "OTHER_LOG"),
        ServingError::NotCovered { .. } => (Code::FailedPrecondition, "POSITION_NOT_COVERED"),
        ServingError::Behind { .. } => (Code::Unavailable, "POSITION_NOT_REACHED"),
        ServingError::SpeedUnavailable { .. } | ServingError::Stale { .. } => (Code::Unavailable, "SPEED_LAYER_UNAVAILABLE"),
        ServingError::SpeedRefused { .. } => (Code::FailedPrecondition, "SPEED_LAYER_REFUSES"),
        ServingError::SpeedAnswer { .. } => (Code::Internal, "SPEED_LAYER_BROKEN"),
        ServingError::TooLarge { .. } | ServingError::TooManyUsers { .. } => (Code::ResourceExhausted, "ANSWER_TOO_LARGE"),
        ServingError::ExportTooLong { .. } => (Code::DeadlineExceeded, "EXPORT_TOO_LONG"),
        ServingError::TooMuchUnread => (Code::ResourceExhausted, "OVERLOADED"),
        ServingError::NoVersion { .. } => (Code::NotFound, "NO_SUCH_VERSION"),
        ServingError::VersionGone { .. } => (Code::NotFound, "VERSION_GONE"),
        ServingError::VersionWithdrawn { .. } => (Code::FailedPrecondition, "VERSION_WITHDRAWN"),
        ServingError::VersionErased { .. } => (Code::FailedPrecondition, "VERSION_ERASED"),
        ServingError::VersionOpening { .. } => (Code::Unavailable, "OPENING_VERSION"),
        ServingError::VersionRetired { .. } => (Code::FailedPrecondition, "VERSION_RETIRED"),
        ServingError::Opening => (Code::Unavailable, "OPENING_VIEWS"),
        ServingError::Unopened { .. } => (Code::Unavailable, "VIEW_NOT_OPENED"),
        ServingError::NoView { .. } => (Code::NotFound, "NO_SUCH_VIEW"),
        ServingError::TooManyRows { .. } => (Code::FailedPrecondition, "TOO_MANY_ROWS"),
        ServingError::Fold(_) => (Code::Internal, "VIEW_FAILS"),
        ServingError::VersionDamaged { .. } => (Code::DataLoss, "STORE_DAMAGED"),
        ServingError::Store(StoreError::Io { .. } | StoreError::Backend { .. }) => (Code::Unavailable, "STORE_UNAVAILABLE"),
        ServingError::Store(_) if error.is_permanent() => (Code::DataLoss, "STORE_DAMAGED"),
        ServingError::Store(_) => (Code::Unavailable, "STORE_UNAVAILABLE"),
        ServingError::VersionRefused { .. }
        | ServingError::SpeedAddress(_)
        | ServingError::Tls(_)
        | ServingError::Auth(_)
        | ServingError::Token(_) => (Code::Internal, "INTERNAL"),
    }
}
