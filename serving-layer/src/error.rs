//! What can go wrong, in one list. `service/status.rs` says what each means to a client.

use merganser_proto::BearerError;
use merganser_proto::auth::AuthError;
use merganser_proto::client::ConnectError;
use merganser_proto::tls::TlsError;
use storage::paths::ViewName;
use storage::store::StoreError;
use views::FoldError;

/// What starting, watching or answering ended in. The cause is in `source`, not in the text.
#[derive(Debug, thiserror::Error)]
pub enum ServingError {
    /// The speed layer cannot be called by its address.
    #[error("the speed layer cannot be called")]
    SpeedAddress(#[from] ConnectError),
    /// The files of `[tls]` cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// What `[auth]` names cannot be used.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The token of `[client]` cannot be sent.
    #[error(transparent)]
    Token(#[from] BearerError),
    /// The object store failed, or holds something damaged.
    #[error("the batch view cannot be read")]
    Store(#[from] StoreError),
    /// A published version is whole but not one that this program can answer from.
    #[error("version {version} is refused: {reason}")]
    VersionRefused {
        /// The version.
        version: i64,
        /// What does not fit.
        reason: String,
    },
    /// The question names a version that nobody has published.
    #[error("version: there is no version {version}; the newest is {newest}")]
    NoVersion {
        /// The version.
        version: i64,
        /// The newest one; 0 if there is none.
        newest: i64,
    },
    /// The question names a version whose files or manifest are no longer there.
    #[error("version: version {version} was published, and its files are no longer there; ask for a later one")]
    VersionGone {
        /// The version.
        version: i64,
    },
    /// The question names the version that took the view back.
    #[error("version: version {version} says that the view is withdrawn, and has no answers; ask for the one before")]
    VersionWithdrawn {
        /// The version.
        version: i64,
    },
    /// The question names a version that may hold what erasures hide, and a newer one does not.
    #[error(
        "version: version {version} was computed before {erasures} {} that version {from} has carried out, and is not shown any more; ask for a later one",
        if *erasures == 1 { "erasure" } else { "erasures" }
    )]
    VersionErased {
        /// The version.
        version: i64,
        /// How many.
        erasures: usize,
        /// The version that answers.
        from: i64,
    },
    /// The question names a version whose files are still being read.
    #[error("version {version} is being opened; ask again")]
    VersionOpening {
        /// The version.
        version: i64,
    },
    /// The question asks for both halves of a version from which the speed layer keeps nothing any more.
    #[error("the speed layer cannot answer from version {version}, for it keeps what the two newest need ({reason}); ask with BATCH_ONLY")]
    VersionRetired {
        /// The version.
        version: i64,
        /// What the speed layer said.
        reason: String,
    },
    /// The version that answers was whole when it was opened, and is damaged now.
    #[error("version {version} is damaged and answers nothing: {reason}")]
    VersionDamaged {
        /// The version.
        version: i64,
        /// Which file, and how.
        reason: String,
    },
    /// A field of a question holds what it cannot.
    #[error("{field}: {reason}")]
    Field {
        /// The field, by the name it has in the request.
        field: String,
        /// What is wrong with it, and what to write instead.
        reason: String,
    },
    /// The position of a question is in another log than the view.
    #[error("min_position is in log {asked}, and version {version} of the view was computed from log {kept}")]
    OtherLog {
        /// The log that the question names.
        asked: String,
        /// The log that the version names.
        kept: String,
        /// The version.
        version: i64,
    },
    /// The batch view alone was asked for, and ends below the position of the question.
    #[error("min_position needs partition {partition} up to {offset}, and version {version} covers it up to {boundary}")]
    NotCovered {
        /// The partition.
        partition: i32,
        /// The position, exclusive.
        offset: i64,
        /// The boundary, exclusive.
        boundary: i64,
        /// The version.
        version: i64,
    },
    /// The speed layer has not come to the position of the question.
    #[error("min_position needs partition {partition} up to {offset}, and the speed layer has read it up to {head}")]
    Behind {
        /// The partition.
        partition: i32,
        /// The position, exclusive.
        offset: i64,
        /// The head, exclusive.
        head: i64,
    },
    /// The speed layer cannot be reached, is not ready, or does not answer in time.
    #[error("the speed layer does not answer: {reason}")]
    SpeedUnavailable {
        /// What it or the network said.
        reason: String,
    },
    /// The speed layer has nothing from this version's boundary on any more, or not yet by its definition.
    #[error("the speed layer cannot answer from this version: {reason}")]
    Stale {
        /// What it said.
        reason: String,
    },
    /// The speed layer will not answer for this version at all, because its log is another one.
    #[error("the speed layer refuses the question: {reason}")]
    SpeedRefused {
        /// What it said.
        reason: String,
    },
    /// The speed layer answered with something that is not the states that were asked for.
    #[error("the speed layer's answer cannot be used: {reason}")]
    SpeedAnswer {
        /// What is wrong with it.
        reason: String,
    },
    /// The view's SQL failed on states.
    #[error("the two halves cannot be merged")]
    Fold(#[from] FoldError),
    /// The answer is larger than a client takes.
    #[error(
        "the answer about {users} users is larger than 4 MiB; ask about fewer users, of whom the first {fitting} fit, a smaller range, or without buckets"
    )]
    TooManyUsers {
        /// Users that were asked about.
        users: usize,
        /// Users whose statistics came before the limit.
        fitting: usize,
    },
    /// No view of that name has a version.
    #[error("view: there is none of that name; the views are {}", known.iter().map(ViewName::as_str).collect::<Vec<_>>().join(", "))]
    NoView {
        /// Those that there are.
        known: Vec<ViewName>,
    },
    /// A view has a version, and none that can be opened.
    #[error("view: {view} is published and cannot be opened: {reason}")]
    Unopened {
        /// Its name.
        view: ViewName,
        /// What is in the way, as it was when it was tried last.
        reason: String,
    },
    /// Right after the start.
    #[error("views are being opened; ask again")]
    Opening,
    /// A question would read too much of the view.
    #[error(
        "the answer would be made of up to {rows} rows of the view, and a question may read a million; name more columns of the key, or declare a view with fewer keys"
    )]
    TooManyRows {
        /// Rows of the blocks that would be read.
        rows: usize,
    },
    /// Watchers that do not read leave no memory for one more answer.
    #[error("large answers that watchers have not read have taken all memory there is for them; watch again")]
    TooMuchUnread,
    /// An export was read for too long.
    #[error("the export took longer than {minutes} minutes, and what came of it is not whole; ask for a shorter range, or read faster")]
    ExportTooLong {
        /// What one may take.
        minutes: u64,
    },
    /// The answer about one user is larger than a client takes.
    #[error("the answer is larger than 4 MiB; {instead}")]
    TooLarge {
        /// What to ask for instead.
        instead: String,
    },
}

impl ServingError {
    pub(crate) fn field(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Field { field: field.into(), reason: reason.into() }
    }

    /// The error and its causes, in one line.
    #[must_use]
    pub fn in_one_line(&self) -> String {
        let causes = std::iter::successors(std::error::Error::source(self), |cause| cause.source());
        causes.fold(self.to_string(), |line, cause| format!("{line}: {cause}"))
    }

    /// Whether reading the same bytes again must end the same way.
    pub(crate) fn is_permanent(&self) -> bool {
        let damaged = |e: &StoreError| {
            matches!(e, StoreError::Checksum { .. } | StoreError::Corrupt { .. } | StoreError::NewerFormat { .. } | StoreError::Name { .. })
        };
        match self {
            Self::VersionRefused { .. } | Self::VersionDamaged { .. } | Self::Fold(_) => true,
            Self::Store(StoreError::Block { source, .. }) => damaged(source),
            Self::Store(e) => damaged(e),
            _ => false,
        }
    }
}
