//! The bytes of a file: the page cache, the platter, and what has still to go from one to the
//! other.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rand::{Rng, RngCore};

/// What the platter takes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// A file, whatever its name is by now.
#[derive(Clone, Debug, Default)]
pub(super) struct Inode(Arc<Mutex<Pages>>);

impl Inode {
    pub(super) fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
pub(super) struct Pages {
    /// What a process reads.
    cache: Vec<u8>,
    platter: Vec<u8>,
    /// What has still to be written back, oldest first.
    dirty: Vec<Change>,
    reserved_bytes: u64,
    /// It has no name any more.
    unlinked: bool,
}

#[derive(Debug)]
enum Change {
    Write(usize, Vec<u8>),
    SetLen(usize),
}

impl Pages {
    pub(super) fn cache(&self) -> &[u8] {
        &self.cache
    }

    /// What the file takes of the disk's capacity.
    pub(super) fn allocated_bytes(&self) -> u64 {
        self.reserved_bytes.max(self.cache.len() as u64)
    }

    /// Whether it counts against the disk's capacity.
    pub(super) fn linked(&self) -> bool {
        !self.unlinked
    }

    pub(super) fn unlink(&mut self) {
        self.unlinked = true;
    }

    pub(super) fn reserve(&mut self, end_bytes: u64) {
        self.reserved_bytes = self.reserved_bytes.max(end_bytes);
    }

    pub(super) fn write(&mut self, at: usize, bytes: &[u8]) {
        if !bytes.is_empty() {
            overlay(&mut self.cache, at, bytes);
            self.dirty.push(Change::Write(at, bytes.to_vec()));
        }
    }

    pub(super) fn set_len(&mut self, bytes: usize) {
        self.reserved_bytes = 0;
        if bytes != self.cache.len() {
            self.cache.resize(bytes, 0);
            self.dirty.push(Change::SetLen(bytes));
        }
    }

    pub(super) fn sync(&mut self) {
        for change in self.dirty.drain(..) {
            match change {
                Change::Write(at, bytes) => overlay(&mut self.platter, at, &bytes),
                Change::SetLen(bytes) => self.platter.resize(bytes, 0),
            }
        }
    }

    /// Takes the dirty pages for clean ones.
    pub(super) fn drop_dirty(&mut self) {
        self.dirty.clear();
    }

    /// Puts these bytes in the cache and on the platter, whatever was there.
    pub(super) fn replace(&mut self, bytes: &[u8]) {
        *self = Pages { cache: bytes.to_vec(), platter: bytes.to_vec(), ..Pages::default() };
    }

    /// Writes a part of the dirty pages back, each with a chance of `survival`: by sectors, which
    /// go through their versions in order, and by lengths.
    pub(super) fn sync_some(&mut self, rng: &mut dyn RngCore, survival: f64) {
        let mut stopped_sectors = BTreeSet::new();
        let mut length_stopped = false;
        let mut len = self.platter.len();
        for change in std::mem::take(&mut self.dirty) {
            match change {
                Change::SetLen(bytes) => {
                    length_stopped = length_stopped || !rng.random_bool(survival);
                    if !length_stopped {
                        self.platter.resize(bytes, 0);
                        len = bytes;
                    }
                }
                Change::Write(at, bytes) => {
                    let end = at + bytes.len();
                    let mut from = at;
                    while from < end {
                        let to = (from / SECTOR_BYTES * SECTOR_BYTES + SECTOR_BYTES).min(end);
                        let sector = from / SECTOR_BYTES;
                        if !stopped_sectors.contains(&sector) && rng.random_bool(survival) {
                            overlay(&mut self.platter, from, &bytes[from - at..to - at]);
                        } else {
                            stopped_sectors.insert(sector);
                        }
                        from = to;
                    }
                    if end > len && !length_stopped {
                        // The length may be that of the whole write, or of any part of it.
                        if rng.random_bool(survival) {
                            len = end;
                        } else {
                            length_stopped = true;
                            len = rng.random_range(len..end);
                        }
                    }
                }
            }
        }
        self.platter.resize(len, 0);
    }

    /// What is left when the cache is gone.
    pub(super) fn forget(&mut self) {
        self.dirty.clear();
        self.reserved_bytes = 0;
        self.unlinked = false;
        self.cache.clone_from(&self.platter);
    }
}

fn overlay(bytes: &mut Vec<u8>, at: usize, new: &[u8]) {
    let end = at + new.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[at..end].copy_from_slice(new);
}
