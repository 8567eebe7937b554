//! What a disk may hold after the power is cut: the synced part of a trace, and of the rest whatever a seed says.
//!
//! **What is durable.** A file's bytes and length, once a sync of it that returned well began after they were written. A
//! name, once its folder was synced likewise; a sync of the file itself does not keep its name.
//!
//! **What is not.** Every other change is there or not, each for itself: a later one may be there without an earlier one. A
//! write is there by sectors of 512 bytes; where one is missing below the file's end, zeros stand. A rename within a folder
//! is one change.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Context, Result};
use rand::Rng;
use rand::rngs::StdRng;

use super::trace::Change;

const SECTOR_BYTES: u64 = 512;

/// What becomes of the changes that were not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsynced {
    /// All lost.
    Lost,
    /// All kept.
    Kept,
    /// Each for itself; of a write its first sectors, up to any.
    Cut,
    /// Each for itself; of a write any of its sectors.
    Torn,
}

type Inode = usize;

#[derive(Clone, Debug)]
enum Content {
    Write(u64, Vec<u8>),
    Length(u64),
}

#[derive(Clone, Debug)]
enum Name {
    Add(String, Inode),
    Remove(String),
    Move(String, String, Inode),
}

/// A file or folder: what is durable of it, what is not yet, and how much of that a running sync covers.
#[derive(Clone, Debug, Default)]
struct Node {
    bytes: Vec<u8>,
    contents: Vec<Content>,
    /// Present in a folder only.
    entries: Option<BTreeMap<String, Inode>>,
    names: Vec<Name>,
    /// Changes that were made durable, of all that there were.
    durable: usize,
    /// How many of all the sync of a thread covers.
    covered: HashMap<i32, usize>,
}

/// A folder as the trace has changed it so far.
#[derive(Clone, Debug)]
pub struct Disk {
    nodes: Vec<Node>,
    /// As a process sees it, synced or not.
    seen: HashMap<String, Inode>,
    /// Length of a file as the system sees it.
    lengths: HashMap<Inode, u64>,
}

impl Default for Disk {
    fn default() -> Self {
        let root = Node { entries: Some(BTreeMap::new()), ..Node::default() };
        Self { nodes: vec![root], seen: HashMap::from([(String::new(), 0)]), lengths: HashMap::new() }
    }
}

impl Disk {
    /// Carries out the next change of the trace.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Create(path) => drop(self.create(path, false)),
            Change::Folder(path) => drop(self.create(path, true)),
            Change::Write(path, offset, data) => {
                let inode = self.inode(path);
                let end = offset + data.len() as u64;
                self.lengths.entry(inode).and_modify(|length| *length = end.max(*length)).or_insert(end);
                self.nodes[inode].contents.push(Content::Write(*offset, data.clone()));
            }
            Change::Truncate(path, length) => {
                let inode = self.inode(path);
                self.lengths.insert(inode, *length);
                self.nodes[inode].contents.push(Content::Length(*length));
            }
            Change::SyncBegin(path, length, thread) => {
                let inode = self.inode(path);
                if let Some(length) = length
                    && *length > self.lengths.get(&inode).copied().unwrap_or(0)
                {
                    // Grown by a call that is not in the trace.
                    self.lengths.insert(inode, *length);
                    self.nodes[inode].contents.push(Content::Length(*length));
                }
                let node = &mut self.nodes[inode];
                node.covered.insert(*thread, node.durable + node.names.len() + node.contents.len());
            }
            Change::SyncEnd(path, well, thread) => {
                let inode = self.inode(path);
                let covered = self.nodes[inode].covered.remove(thread).unwrap_or(0);
                if *well {
                    self.nodes[inode].sync(covered);
                }
            }
            Change::Rename(from, to) => {
                let inode = self.inode(from);
                self.seen.remove(from);
                self.seen.insert(to.clone(), inode);
                let (folder, new) = split(to);
                let parent = self.folder(folder);
                self.nodes[parent].names.push(Name::Move(split(from).1.to_owned(), new.to_owned(), inode));
            }
            Change::Link(from, to) => {
                let inode = self.inode(from);
                self.add(to, inode);
            }
            Change::Remove(path) => {
                self.seen.remove(path);
                let (folder, name) = split(path);
                let parent = self.folder(folder);
                self.nodes[parent].names.push(Name::Remove(name.to_owned()));
            }
        }
    }

    /// Writes what the disk may hold now into `target`, of the parts of the folder that `wanted` names.
    ///
    /// # Errors
    /// What keeps a file from being written.
    pub fn write_to(&self, target: &Path, unsynced: Unsynced, random: &mut StdRng, wanted: impl Fn(&str) -> bool) -> Result<()> {
        let mut written: HashMap<Inode, Vec<u8>> = HashMap::new();
        let mut folders = vec![(0, String::new())];
        std::fs::create_dir_all(target)?;
        while let Some((folder, path)) = folders.pop() {
            for (name, inode) in self.nodes[folder].after_cut(unsynced, random) {
                let path = if path.is_empty() { name } else { format!("{path}/{name}") };
                if !wanted(&path) {
                    continue;
                }
                let place = target.join(&path);
                if self.nodes[inode].entries.is_some() {
                    std::fs::create_dir_all(&place).with_context(|| place.display().to_string())?;
                    folders.push((inode, path));
                } else {
                    let bytes = written.entry(inode).or_insert_with(|| self.nodes[inode].bytes_after_cut(unsynced, random));
                    std::fs::write(&place, bytes).with_context(|| place.display().to_string())?;
                }
            }
        }
        Ok(())
    }

    /// How many changes are not durable now.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.nodes.iter().map(|node| node.contents.len() + node.names.len()).sum()
    }

    fn create(&mut self, path: &str, folder: bool) -> Inode {
        self.nodes.push(Node { entries: folder.then(BTreeMap::new), ..Node::default() });
        let inode = self.nodes.len() - 1;
        self.add(path, inode);
        inode
    }

    fn add(&mut self, path: &str, inode: Inode) {
        let (folder, name) = split(path);
        let parent = self.folder(folder);
        self.seen.insert(path.to_owned(), inode);
        self.nodes[parent].names.push(Name::Add(name.to_owned(), inode));
    }

    /// A file that is not known was made by a process that was killed before it could say so.
    fn inode(&mut self, path: &str) -> Inode {
        match self.seen.get(path) {
            Some(inode) => *inode,
            None => self.create(path, false),
        }
    }

    fn folder(&mut self, path: &str) -> Inode {
        match self.seen.get(path) {
            Some(inode) => *inode,
            None => self.create(path, true),
        }
    }
}

impl Node {
    /// Makes the first changes durable, up to this many since the beginning.
    fn sync(&mut self, covered: usize) {
        let pending = covered.saturating_sub(self.durable);
        self.durable += pending;
        match &mut self.entries {
            Some(entries) => self.names.drain(..pending).for_each(|name| name.apply(entries)),
            None => self.contents.drain(..pending).for_each(|content| content.apply(&mut self.bytes, |_| true)),
        }
    }

    fn after_cut(&self, unsynced: Unsynced, random: &mut StdRng) -> BTreeMap<String, Inode> {
        let mut entries = self.entries.clone().unwrap_or_default();
        for name in &self.names {
            if unsynced.keeps(random) {
                name.clone().apply(&mut entries);
            }
        }
        entries
    }

    fn bytes_after_cut(&self, unsynced: Unsynced, random: &mut StdRng) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        for content in &self.contents {
            if unsynced == Unsynced::Torn && random.random_bool(0.5) {
                content.clone().apply(&mut bytes, |_| random.random_bool(0.5));
            } else if unsynced == Unsynced::Cut && random.random_bool(0.5) {
                let mut whole = true;
                content.clone().apply(&mut bytes, |_| {
                    whole &= random.random_bool(0.7);
                    whole
                });
            } else if unsynced.keeps(random) {
                content.clone().apply(&mut bytes, |_| true);
            }
        }
        bytes
    }
}

impl Unsynced {
    fn keeps(self, random: &mut StdRng) -> bool {
        match self {
            Self::Lost => false,
            Self::Kept => true,
            Self::Cut | Self::Torn => random.random_bool(0.5),
        }
    }
}

impl Name {
    fn apply(self, entries: &mut BTreeMap<String, Inode>) {
        match self {
            Self::Add(name, inode) => drop(entries.insert(name, inode)),
            Self::Remove(name) => drop(entries.remove(&name)),
            Self::Move(from, to, inode) => {
                if entries.get(&from) == Some(&inode) {
                    entries.remove(&from);
                }
                entries.insert(to, inode);
            }
        }
    }
}

impl Content {
    /// `keeps` is asked for every sector that is touched, by its number.
    fn apply(self, bytes: &mut Vec<u8>, mut keeps: impl FnMut(u64) -> bool) {
        match self {
            Self::Length(length) => {
                if keeps(0) {
                    bytes.resize(length as usize, 0);
                }
            }
            Self::Write(offset, data) => {
                let end = offset + data.len() as u64;
                for sector in offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
                    if !keeps(sector) {
                        continue;
                    }
                    let (from, to) = ((sector * SECTOR_BYTES).max(offset), ((sector + 1) * SECTOR_BYTES).min(end));
                    if bytes.len() < to as usize {
                        bytes.resize(to as usize, 0);
                    }
                    bytes[from as usize..to as usize].copy_from_slice(&data[(from - offset) as usize..(to - offset) as usize]);
                }
            }
        }
    }
}

/// Folder and name.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn after(changes: &[Change], unsynced: Unsynced, seed: u64) -> Option<Vec<u8>> {
        let mut disk = Disk::default();
        changes.iter().for_each(|change| disk.apply(change));
        let folder = tempfile::tempdir().unwrap();
        disk.write_to(folder.path(), unsynced, &mut StdRng::seed_from_u64(seed), |_| true).unwrap();
        std::fs::read(folder.path().join("a")).ok()
    }

    fn written(bytes: usize) -> Vec<Change> {
        vec![Change::Create("a".into()), Change::Write("a".into(), 0, vec![7; bytes])]
    }

    /// Proves that bytes need a sync of the file, and a name one of its folder, and that a failed one keeps nothing.
    #[test]
    fn a_cut_takes_what_was_not_synced() {
        let sync =
            |path: &str, well| [Change::SyncBegin(path.into(), (path == "a").then_some(3), 1), Change::SyncEnd(path.into(), well, 1)];
        let mut changes = written(3);
        assert_eq!(after(&changes, Unsynced::Lost, 1), None);
        assert_eq!(after(&changes, Unsynced::Kept, 1), Some(vec![7; 3]));
        changes.extend(sync("", true));
        assert_eq!(after(&changes, Unsynced::Lost, 1), Some(vec![]));
        changes.extend(sync("a", false));
        assert_eq!(after(&changes, Unsynced::Lost, 1), Some(vec![]));
        changes.extend(sync("a", true));
        assert_eq!(after(&changes, Unsynced::Lost, 1), Some(vec![7; 3]));
    }

    /// Proves that a sync covers what was written before it began, and that a renamed file keeps its old name until the folder is synced.
    #[test]
    fn a_sync_covers_what_came_before() {
        let mut changes = written(3);
        changes.extend([Change::SyncBegin(String::new(), None, 1), Change::SyncEnd(String::new(), true, 1)]);
        changes.extend([Change::SyncBegin("a".into(), Some(3), 1), Change::SyncBegin("a".into(), Some(3), 2)]);
        changes.extend([Change::Write("a".into(), 3, vec![8; 3]), Change::SyncEnd("a".into(), true, 2)]);
        changes.push(Change::Rename("a".into(), "b".into()));
        assert_eq!(after(&changes, Unsynced::Lost, 1), Some(vec![7; 3]));
        assert_eq!(after(&changes, Unsynced::Kept, 1), None);
    }

    /// Proves that a write is torn at sectors, differently for different seeds.
    #[test]
    fn writes_are_torn() {
        let results: std::collections::BTreeSet<_> = (0..64).map(|seed| after(&written(4000), Unsynced::Torn, seed)).collect();
        assert!(results.contains(&None) && results.len() > 10, "{}", results.len());
        let torn = results.iter().flatten().any(|bytes| bytes.starts_with(&[0; 512]) && bytes.ends_with(&[7]));
        assert!(torn, "a later sector without an earlier one");
    }
}
