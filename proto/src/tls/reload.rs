//! Something made of files, and made again when they have changed.
//!
//! *Contents* are compared, not times, so that links which are turned to another folder and copies with an old date are noticed too. A certificate and its
//! key are two files, and nobody can write both at once: what does not fit is tried again at the next look, and complained of when it
//! is still the same then.

use std::error::Error;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::{error, info};

use super::TlsError;
use super::files::Named;
use crate::metrics::Counter;

/// Makes a `T` of the contents of the files.
type Make<T> = Box<dyn Fn(&[Vec<u8>]) -> Result<T, TlsError> + Send + Sync>;

/// The last `T` that could be made.
pub(super) struct Reloaded<T> {
    what: &'static str,
    files: Vec<Named>,
    make: Make<T>,
    state: Mutex<State<T>>,
    /// Times that files were complained of.
    pub(super) failures: Counter,
}

struct State<T> {
    current: Arc<T>,
    /// What it was made of.
    digest: u64,
    /// What could not be used at the last look, and whether it was complained of.
    broken: Option<(u64, bool)>,
}

/// How soon broken files are complained of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// When they are the same at two looks.
    NextLook,
    /// At once: whoever asked for the look has written them all.
    None,
}

impl<T> Reloaded<T> {
    /// Reads `files` for the first time. `what` is said in the log.
    pub(super) fn load(
        what: &'static str,
        files: Vec<Named>,
        make: impl Fn(&[Vec<u8>]) -> Result<T, TlsError> + Send + Sync + 'static,
    ) -> Result<Self, TlsError> {
        let contents = read(&files)?;
        let state = State { current: Arc::new(make(&contents)?), digest: digest(&contents), broken: None };
        Ok(Self { what, files, make: Box::new(make), state: Mutex::new(state), failures: Counter::default() })
    }

    /// The last that could be made.
    pub(super) fn current(&self) -> Arc<T> {
        Arc::clone(&self.state().current)
    }

    /// Reads the files again; true if something new was made of them.
    pub(super) fn look(&self, patience: Patience) -> bool {
        let contents = read(&self.files);
        let found = match &contents {
            Ok(contents) => digest(contents),
            Err(e) => digest(&[in_one_line(e).into_bytes()]),
        };
        let mut state = self.state();
        if contents.is_ok() && found == state.digest {
            if state.broken.take().is_some_and(|(_, said)| said) {
                info!(files = self.what, "the files are again those that are in use");
            }
            return false;
        }
        if patience == Patience::NextLook && state.broken == Some((found, true)) {
            return false;
        }
        match contents.and_then(|contents| (self.make)(&contents)) {
            Ok(made) => {
                *state = State { current: Arc::new(made), digest: found, broken: None };
                info!(files = self.what, "read again, and in use from the next connection on");
                true
            }
            Err(e) => {
                let say = patience == Patience::None || state.broken.is_some_and(|(before, _)| before == found);
                if say {
                    self.failures.inc();
                    error!(files = self.what, reason = in_one_line(&e), "changed files cannot be used; what was read before stays in use");
                }
                state.broken = Some((found, say));
                false
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(files: &[Named]) -> Result<Vec<Vec<u8>>, TlsError> {
    files.iter().map(Named::read).collect()
}

/// Whoever can write the files need not look for two with the same.
fn digest(contents: &[Vec<u8>]) -> u64 {
    let mut hasher = DefaultHasher::new();
    contents.hash(&mut hasher);
    hasher.finish()
}

fn in_one_line(error: &TlsError) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
