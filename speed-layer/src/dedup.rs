//! Which identities a partition has seen among its newest records.
//!
//! A window of records, not of time: the record that is about to get offset `o` is compared with those at `[o − N, o)`,
//! on whichever side of the boundary they lie. An older duplicate passes, and the next batch removes it.
//!
//! What lies below the erasure of its user was never there (decision 0012): a record that repeats it is new. The window keeps such
//! identities until they are too old, and asks on a hit whether the user was erased since.

use std::collections::{HashMap, VecDeque};

/// 16 bytes of BLAKE3 over (`user_id`, `event_id`): nobody can make two identities meet.
type Identity = [u8; 16];

/// What the window says of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Not in the window.
    New,
    /// The same event, at this offset.
    Duplicate(i64),
    /// The same identity with other content, at this offset.
    Conflict(i64),
}

/// The newest records of one partition, by identity.
#[derive(Debug)]
pub(crate) struct Window {
    capacity: usize,
    /// Identities in order of offsets; the last has offset `head − 1`.
    order: VecDeque<Identity>,
    newest: HashMap<Identity, Entry>,
    /// Of users that were erased within the window, the offset of the newest erasure.
    erased: HashMap<String, i64>,
    head: i64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    offset: i64,
    content_hash: i64,
}

/// What stands in the place of a record without identity.
const NOBODY: Identity = [0; 16];

pub(crate) fn identity(user_id: &str, event_id: &str) -> Identity {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(user_id.len() as u64).to_le_bytes());
    hasher.update(user_id.as_bytes());
    hasher.update(event_id.as_bytes());
    let mut identity = Identity::default();
    identity.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    identity
}

impl Window {
    /// An empty window of `capacity` records, before the record at offset `head`.
    pub(crate) fn new(capacity: usize, head: i64) -> Self {
        Self { capacity, order: VecDeque::new(), newest: HashMap::new(), erased: HashMap::new(), head }
    }

    /// Looks an event of a user up, as the next record.
    pub(crate) fn look_up(&self, user_id: &str, identity: &Identity, content_hash: i64) -> Seen {
        let is_gone = |entry: &&Entry| self.erased.get(user_id).is_some_and(|erased| entry.offset < *erased);
        match self.newest.get(identity).filter(|entry| !is_gone(entry)) {
            None => Seen::New,
            Some(entry) if entry.content_hash == content_hash => Seen::Duplicate(entry.offset),
            Some(entry) => Seen::Conflict(entry.offset),
        }
    }

    /// Takes the record at offset `head` in, and the one that is now too old out.
    pub(crate) fn push(&mut self, identity: Identity, content_hash: i64) {
        self.newest.insert(identity, Entry { offset: self.head, content_hash });
        self.advance(identity);
    }

    /// Takes the erasure of a user in, as the record at offset `head`.
    pub(crate) fn erase(&mut self, user_id: &str) {
        // Whatever lies below an erasure that is too old is too old itself.
        let oldest = self.head - self.order.len() as i64;
        self.erased.retain(|_, erased| *erased > oldest);
        self.erased.insert(user_id.to_owned(), self.head);
        self.advance(NOBODY);
    }

    fn advance(&mut self, identity: Identity) {
        self.order.push_back(identity);
        self.head += 1;
        if self.order.len() > self.capacity {
            let oldest = self.head - self.order.len() as i64;
            let identity = self.order.pop_front().expect("it is longer than its capacity");
            if self.newest.get(&identity).is_some_and(|entry| entry.offset == oldest) {
                self.newest.remove(&identity);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves the edge: at a distance of N records a duplicate is known, at N + 1 it is not.
    #[test]
    fn distances() {
        const N: usize = 5;
        for distance in 1..=N + 2 {
            let mut window = Window::new(N, 100);
            window.push(identity("u", "first"), 1);
            (1..distance).for_each(|i| window.push(identity("u", &i.to_string()), 0));
            let expected = if distance <= N { Seen::Duplicate(100) } else { Seen::New };
            assert_eq!(window.look_up("u", &identity("u", "first"), 1), expected, "{distance}");
        }
    }

    /// Proves that a second copy that slipped past the window renews the identity, and that other content is a conflict.
    #[test]
    fn renewal_and_conflict() {
        let mut window = Window::new(2, 0);
        for id in ["a", "b", "c", "a"] {
            window.push(identity("u", id), 7);
        }
        assert_eq!(window.look_up("u", &identity("u", "a"), 7), Seen::Duplicate(3));
        assert_eq!(window.look_up("u", &identity("u", "a"), 8), Seen::Conflict(3));
        window.push(identity("u", "d"), 7);
        assert_eq!(window.look_up("u", &identity("u", "a"), 7), Seen::Duplicate(3));
        window.push(identity("u", "e"), 7);
        assert_eq!(window.look_up("u", &identity("u", "a"), 7), Seen::New);
    }

    /// Proves that an erasure is a record of the window, that what lies below it is new and what follows is known, and that nobody else
    /// is touched.
    #[test]
    fn erasures() {
        let mut window = Window::new(4, 10);
        window.push(identity("u", "a"), 1);
        window.push(identity("v", "a"), 1);
        window.erase("u");
        assert_eq!(window.look_up("u", &identity("u", "a"), 1), Seen::New);
        assert_eq!(window.look_up("u", &identity("u", "a"), 2), Seen::New);
        assert_eq!(window.look_up("v", &identity("v", "a"), 1), Seen::Duplicate(11));
        window.push(identity("u", "a"), 2);
        assert_eq!(window.look_up("u", &identity("u", "a"), 2), Seen::Duplicate(13));
        window.push(identity("u", "b"), 2);
        assert_eq!(window.look_up("v", &identity("v", "a"), 1), Seen::Duplicate(11));
        window.push(identity("u", "c"), 2);
        assert_eq!(window.look_up("v", &identity("v", "a"), 1), Seen::New);
        window.erase("v");
        window.erase("v");
        assert_eq!(window.erased.keys().collect::<Vec<_>>(), ["v"]);
        assert_eq!(window.look_up("u", &identity("u", "a"), 2), Seen::New);
        assert_eq!(window.look_up("u", &identity("u", "b"), 2), Seen::Duplicate(14));
    }

    /// Proves that no pair of ids can be mistaken for another by sliding letters between them.
    #[test]
    fn identities_are_pairs() {
        assert_ne!(identity("ab", "c"), identity("a", "bc"));
    }
}
