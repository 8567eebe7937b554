//! What can keep a file from being imported.

use std::path::PathBuf;

use storage::input::InputError;
use storage::store::StoreError;

use super::MappingError;
use crate::error::RunError;

/// Why an input was not imported. At most its number is claimed then, and the same import goes on there.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The address leads to no file.
    #[error("\"{input}\" cannot be imported: {reason}")]
    Address {
        /// As given.
        input: String,
        /// Why not, and what to do instead.
        reason: String,
    },
    /// A URL does not give the file.
    #[error("{url} cannot be fetched: {reason}")]
    Fetch {
        /// Without its query.
        url: String,
        /// Why not.
        reason: String,
    },
    /// The file cannot be read.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The mapping is refused or fails.
    #[error(transparent)]
    Mapping(#[from] MappingError),
    /// A declared view cannot be used.
    #[error(transparent)]
    Declared(Box<RunError>),
    /// A published view cannot be used.
    #[error("version {version} of {view} cannot try the events: {reason}")]
    Published {
        /// The version.
        version: i64,
        /// The view.
        view: String,
        /// Why not, and what to do.
        reason: String,
    },
    /// The import was begun by another release.
    #[error("import {import} was begun with a view that cannot be used here: {reason}; finish it with the release that began it")]
    Claimed {
        /// Number of the import.
        import: i64,
        /// Why not.
        reason: String,
    },
    /// A view came after the import was begun, and fails on one of its events.
    #[error(
        "import {import} was begun before a view that is declared now and fails on the event {event_id}: {reason}; take the view back, import the file, and declare a view that takes the event"
    )]
    LaterView {
        /// Number of the import.
        import: i64,
        /// Id of the event.
        event_id: String,
        /// Why the view fails.
        reason: String,
    },
    /// The object store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Somebody wrote to the file.
    #[error("{} has changed while it was read; import it when it is complete", file.display())]
    Changed {
        /// The file.
        file: PathBuf,
    },
}

impl From<RunError> for ImportError {
    fn from(e: RunError) -> Self {
        Self::Declared(Box::new(e))
    }
}

impl ImportError {
    /// The exit code: 2 for settings, addresses and mappings, 1 for anything else.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Address { .. }
            | Self::Input(InputError::UnknownEnding { .. })
            | Self::Store(StoreError::Claimed { .. } | StoreError::Partitions { .. }) => 2,
            Self::Declared(_) | Self::Published { .. } | Self::Claimed { .. } | Self::LaterView { .. } => 2,
            Self::Mapping(MappingError::Rows(_) | MappingError::Spool(_)) => 1,
            Self::Mapping(_) => 2,
            Self::Fetch { .. } | Self::Input(_) | Self::Store(_) | Self::Changed { .. } => 1,
        }
    }
}
