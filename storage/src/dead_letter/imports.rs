//! The rows that imports refused, in the object store.
//!
//! **Layout.** One object an import, `dead-letter/import-<number>.jsonl`; a line is the JSON of one [`DeadLetter`].
//!
//! **Consistency.** An import writes its object once and whole. What became of its letters is recorded beside those of the log
//! ([`SettledLetters`](super::SettledLetters)); those of erased users are taken out of it ([`forget_erased`](super::forget_erased)).

use std::collections::VecDeque;

use super::letter::{DeadLetter, LetterId};
use crate::paths::{ImportPath, dead_letters_folder};
use crate::store::{Store, StoreError};

/// How much is read at once.
const WINDOW_BYTES: u64 = 4 << 20;

/// The letters of all imports, by number of the import and then in the order of its object.
#[derive(Debug)]
pub struct ImportLetters {
    store: Store,
    /// Objects to come, with their sizes.
    objects: VecDeque<(ImportPath, u64)>,
    current: Option<Reading>,
    window_bytes: u64,
}

#[derive(Debug)]
struct Reading {
    object: ImportPath,
    size_bytes: u64,
    /// How far the object was read.
    at_bytes: u64,
    /// What was read and not yet taken, from `taken` on.
    buffer: Vec<u8>,
    taken: usize,
    /// Lines that were taken.
    lines: u64,
}

impl ImportLetters {
    /// Finds the objects of all imports; none where nothing was imported.
    ///
    /// # Errors
    /// What the store says; an object in the folder that no import writes.
    pub async fn find(store: &Store) -> Result<Self, StoreError> {
        let found = store.list(&dead_letters_folder()).await?.into_iter();
        let objects = found.map(|object| Ok((ImportPath::parse(&object.location)?, object.size)));
        let objects = objects.collect::<Result<_, StoreError>>()?;
        Ok(Self { store: store.clone(), objects, current: None, window_bytes: WINDOW_BYTES })
    }

    /// Those of one import alone.
    pub(super) fn only(mut self, import: i64) -> Self {
        self.objects.retain(|(object, _)| object.import == import);
        self
    }

    /// The next letter, with the number of its import.
    ///
    /// # Errors
    /// What the store says; [`StoreError::Corrupt`] with object and line where a line is no letter.
    pub async fn next(&mut self) -> Result<Option<(i64, LetterId, DeadLetter)>, StoreError> {
        loop {
            let Some(reading) = &mut self.current else {
                let Some((object, size_bytes)) = self.objects.pop_front() else { return Ok(None) };
                self.current = Some(Reading { object, size_bytes, at_bytes: 0, buffer: Vec::new(), taken: 0, lines: 0 });
                continue;
            };
            if let Some(letter) = reading.take_line()? {
                return Ok(Some((reading.object.import, letter.id(), letter)));
            }
            if reading.at_bytes == reading.size_bytes {
                self.current = None;
            } else {
                reading.read_on(&self.store, self.window_bytes).await?;
            }
        }
    }
}

impl Reading {
    async fn read_on(&mut self, store: &Store, window_bytes: u64) -> Result<(), StoreError> {
        let end = self.size_bytes.min(self.at_bytes + window_bytes);
        let path = self.object.path();
        let bytes = store.get_range(&path, self.at_bytes..end).await?;
        if bytes.len() as u64 != end - self.at_bytes {
            return Err(StoreError::corrupt(&path, format!("bytes {} to {end} are missing", self.at_bytes)));
        }
        self.buffer.drain(..self.taken);
        self.taken = 0;
        self.buffer.extend_from_slice(&bytes);
        self.at_bytes = end;
        Ok(())
    }

    /// The letter on the next whole line. At the end of the object what is left is a line.
    fn take_line(&mut self) -> Result<Option<DeadLetter>, StoreError> {
        let rest = &self.buffer[self.taken..];
        let line_bytes = match rest.iter().position(|byte| *byte == b'\n') {
            Some(at) => at + 1,
            None if self.at_bytes == self.size_bytes && !rest.is_empty() => rest.len(),
            None => return Ok(None),
        };
        self.taken += line_bytes;
        self.lines += 1;
        let letter = serde_json::from_slice(&rest[..line_bytes]);
        letter.map(Some).map_err(|e| StoreError::corrupt(&self.object.path(), format!("line {} is no letter: {e}", self.lines)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(user: &str) -> DeadLetter {
        let event = serde_json::json!({ "user_id": user });
        DeadLetter { received_time_us: 7, field: "amount".into(), reason: "is no number".into(), event }
    }

    async fn put(store: &Store, path: &str, text: &str) {
        store.put_durable(&path.into(), text.to_owned().into()).await.unwrap();
    }

    async fn all(store: &Store, window_bytes: u64) -> Result<Vec<(i64, LetterId, DeadLetter)>, StoreError> {
        let mut letters = ImportLetters { window_bytes, ..ImportLetters::find(store).await? };
        let mut found = Vec::new();
        while let Some(letter) = letters.next().await? {
            found.push(letter);
        }
        Ok(found)
    }

    /// Proves that the letters of all imports are read in order whatever the size of a read, that an absent folder is none, and
    /// that the id is that of the same letter in the log.
    #[tokio::test]
    async fn every_line_once() {
        let store = Store::open("memory://").unwrap();
        assert!(all(&store, 1).await.unwrap().is_empty());
        let line = |user| serde_json::to_string(&letter(user)).unwrap();
        put(&store, "dead-letter/import-00000000000000000002.jsonl", &format!("{}\n", line("c"))).await;
        put(&store, "dead-letter/import-00000000000000000010.jsonl", "").await;
        put(&store, "dead-letter/import-00000000000000000001.jsonl", &format!("{}\n{}", line("a"), line("b"))).await;
        let expected = [(1, "a"), (1, "b"), (2, "c")].map(|(number, user)| (number, letter(user).id(), letter(user)));
        for window_bytes in [1, 7, 100, WINDOW_BYTES] {
            assert_eq!(all(&store, window_bytes).await.unwrap(), expected, "{window_bytes} bytes a read");
        }
    }

    /// Proves that a line which is no letter is an error that names object and line, and a stray object one that names it.
    #[tokio::test]
    async fn damage_is_named() {
        let store = Store::open("memory://").unwrap();
        let line = serde_json::to_string(&letter("a")).unwrap();
        put(&store, "dead-letter/import-00000000000000000001.jsonl", &format!("{line}\n{{\"field\":1}}\n")).await;
        let error = all(&store, 100).await.unwrap_err().to_string();
        assert!(error.contains("dead-letter/import-00000000000000000001.jsonl") && error.contains("line 2"), "{error}");
        put(&store, "dead-letter/import-1.jsonl", "").await;
        let error = all(&store, 100).await.unwrap_err().to_string();
        assert!(error.contains("dead-letter/import-1.jsonl"), "{error}");
    }
}
