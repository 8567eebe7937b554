//! `speed-layer dead-letter`: what was refused, shown and sent again.
//!
//! Letters come from two places, the file beside the log and the objects that imports leave (`walk`). They are shown by reason or
//! one by one (`list`), and sent again through `AppendEvents`, so that whatever is true of an event is true of one that comes
//! this way (`replay`, with `event` for what travels). A letter is *settled* once its event is in the log, or once another
//! letter speaks for it; what is not settled is outstanding.
//!
//! A letter's event is refused again for another reason than before: then the server keeps a new letter, and the old one is
//! superseded by it, unless the new one is itself settled. So each refused event has an outstanding letter until it is in the log.
//!
//! All of it runs beside the server, which holds the lock of the letters: only the list of what is settled is written here. To
//! take settled letters out of the file (`prune`) the server must be stopped.
//!
//! Letters of a user who was erased after them are neither shown nor sent, and `prune` takes them out too.

/// What keeps a command from its work.
mod error;
/// From a letter back to an event.
mod event;
/// Letters, shown.
mod list;
/// Letters by reason, with samples, for whoever shows them.
mod overview;
/// Letters, sent again.
mod replay;
/// What became of them.
mod summary;
/// All letters, one after the other.
mod walk;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use storage::dead_letter::{DeadLetter, LetterId, Pruned};
use storage::erasures::Erasures;
use storage::machine::blocking;
use storage::store::Store;

pub use error::DeadLetterError;
pub use list::{Group, Listing, list, rows, show};
pub(crate) use overview::{Overview, Overviews};
pub use replay::{ReplayOptions, replay};
pub use summary::{ReplaySummary, Rows};
use walk::{Origin, is_erased};

/// Takes letters that are settled, of erased users, or received before a time, in microseconds since 1970, out of the file beside the log,
/// which no server may have open. Those of imports stay in the store.
///
/// # Errors
/// The erasures or the letters cannot be read, a server has them, or the file cannot be written.
pub async fn prune(place: &Place, received_before_us: i64) -> Result<Pruned, DeadLetterError> {
    let erasures = Erasures::list(&place.store).await?;
    let data_dir = place.data_dir.clone();
    let is_gone = move |letter: &DeadLetter| letter.received_time_us < received_before_us || is_erased(letter, Origin::Log, &erasures);
    Ok(blocking(move || storage::dead_letter::prune(&data_dir, is_gone)).await?)
}

/// Where letters are.
#[derive(Clone, Debug)]
pub struct Place {
    /// The folder of the log and its dead letters.
    pub data_dir: PathBuf,
    /// The store with the dead letters of imports.
    pub store: Store,
}

/// Which letters are meant; all where nothing is said.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Ids, or beginnings of ids.
    pub ids: Vec<String>,
    /// The field at fault.
    pub field: Option<String>,
    /// A part of the reason.
    pub reason: Option<String>,
}

impl Selection {
    fn takes(&self, id: LetterId, letter: &DeadLetter) -> bool {
        let id = id.to_string();
        (self.ids.is_empty() || self.ids.iter().any(|begin| id.starts_with(begin)))
            && self.field.as_ref().is_none_or(|field| *field == letter.field)
            && self.reason.as_ref().is_none_or(|part| letter.reason.contains(part))
    }
}
