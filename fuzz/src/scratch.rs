//! Folders for one input, in memory where the system has such a place: a sync costs nothing there.

use std::path::Path;

use tempfile::TempDir;

/// A new folder, removed when it is dropped.
///
/// # Panics
/// When the system has no place for it.
#[must_use]
pub fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::Builder::new().prefix("merganser-fuzz-").tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("there is a place for temporary folders")
}
