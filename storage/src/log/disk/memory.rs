//! A disk in memory that knows its page cache from its platter.
//!
//! It is for tests and simulations: deterministic, fast, and as unkind as a disk may be. What a
//! process reads is the page cache. What was synced is on the platter, and what was not is lost at a
//! power cut, or survives in part: which sectors of a write, which names of a folder, is drawn from
//! the caller's generator.
//!
//! ```
//! use std::path::Path;
//! use storage::log::disk::{Disk, Fault, MemoryDisk, Survivors};
//!
//! let machine = MemoryDisk::new();
//! let disk = machine.process();
//! machine.plan(Fault::crash().changing().after(1));
//! disk.create_dir(Path::new("/data")).unwrap();
//! assert!(disk.create(Path::new("/data/file")).is_err(), "the process is dead");
//! machine.power_cut(Survivors::None);
//! assert!(!machine.process().exists(Path::new("/data")).unwrap(), "the name was not synced");
//! ```

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rand::{Rng, RngCore};

use super::Disk;
use fault::Plan;
use names::{Names, Node};
use pages::{Inode, Pages};
use process::Process;

/// What goes wrong, and when.
mod fault;
/// The names of files and folders.
mod names;
/// The bytes of a file.
mod pages;
/// The disk as a process sees it.
mod process;

pub use fault::{Call, Fault};
pub(super) use process::{HeldLock, OpenFile};

/// What outlives a power cut, of that which was not synced.
pub enum Survivors<'a> {
    /// Nothing.
    None,
    /// Everything that is still to be written back; pages that a failed sync dropped are not.
    All,
    /// A choice for every sector of 512 bytes, every length and every name.
    Drawn(&'a mut dyn RngCore),
}

/// The disk of one simulated machine, and all that a test does to it: start processes, kill them,
/// cut the power, plan faults, fill it up, spoil bytes.
///
/// Cheap to clone; clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    names: Names,
    plan: Plan,
    capacity_bytes: Option<u64>,
    /// What the files take together.
    used_bytes: u64,
    /// Who holds which lock.
    locks: BTreeMap<PathBuf, u64>,
    locks_taken: u64,
    /// Counts the lives of the processes; those of an earlier one are dead.
    life: u64,
    /// A planned crash has come.
    crashed: bool,
}

impl MemoryDisk {
    /// An empty disk without a limit, `/` and `.` its only folders.
    pub fn new() -> MemoryDisk {
        MemoryDisk::default()
    }

    /// The disk as a process sees it, until [`MemoryDisk::kill`], [`MemoryDisk::power_cut`] or a
    /// planned crash: from then on every call on it, and on every file that it opened, fails and
    /// changes nothing.
    pub fn process(&self) -> Arc<dyn Disk> {
        Arc::new(Process::new(Arc::clone(&self.state), self.state().life))
    }

    /// Kills all processes. The page cache stays, locks are free, planned faults stay planned.
    pub fn kill(&self) {
        let mut state = self.state();
        state.life += 1;
        state.crashed = false;
        state.locks.clear();
    }

    /// Kills all processes and forgets what is not on the platter, but for the survivors.
    pub fn power_cut(&self, survivors: Survivors<'_>) {
        self.kill();
        let state = &mut *self.state();
        match survivors {
            Survivors::None => state.names.forget(|| false),
            Survivors::All => {
                // Files first: some names may go while their files are still being written back.
                state.names.files().for_each(|(_, inode)| inode.pages().sync());
                state.names.forget(|| true);
            }
            Survivors::Drawn(rng) => {
                // A disk that had time to write nearly everything, half of it, or nearly nothing.
                let survival = [0.1, 0.5, 0.9][rng.random_range(0..3)];
                state.names.files().for_each(|(_, inode)| inode.pages().sync_some(rng, survival));
                state.names.forget(|| rng.random_bool(survival));
            }
        }
        state.names.files().for_each(|(_, inode)| inode.pages().forget());
        state.used_bytes = state.names.files().map(|(_, inode)| inode.pages().allocated_bytes()).sum();
    }

    /// Lets something go wrong.
    pub fn plan(&self, fault: Fault) {
        self.state().plan.add(fault);
    }

    /// Lets nothing go wrong any more.
    pub fn clear_plan(&self) {
        self.state().plan.clear();
    }

    /// Whether a planned crash has come, and nobody has started again since.
    pub fn crashed(&self) -> bool {
        self.state().crashed
    }

    /// Limits what all files may take together, reserved room included; `None` lifts the limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity_bytes = bytes;
    }

    /// What all files take together, reserved room included.
    pub fn used_bytes(&self) -> u64 {
        self.state().used_bytes
    }

    /// How many calls a planned fault has struck so far.
    pub fn struck(&self) -> u64 {
        self.state().plan.struck()
    }

    /// How often each call was made, by all processes so far.
    pub fn counts(&self) -> BTreeMap<Call, u64> {
        self.state().plan.counts().clone()
    }

    /// How many calls were made that change the disk: a fault [`changing`](Fault::changing) comes
    /// in place of one of these.
    pub fn changes(&self) -> u64 {
        self.state().plan.counts().iter().filter(|(call, _)| call.changes()).map(|(_, count)| count).sum()
    }

    /// The paths of all files, as a process sees them.
    pub fn files(&self) -> Vec<PathBuf> {
        self.state().names.files().map(|(path, _)| path.clone()).collect()
    }

    /// The bytes of a file, as a process sees them; `None` where there is none.
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        self.state().names.file(path).ok().map(|inode| inode.pages().cache().to_vec())
    }

    /// Puts bytes in place of a file's, in the cache and on the platter: not the deed of a process.
    /// What is missing of file and folders is made.
    pub fn set_contents(&self, path: &Path, bytes: &[u8]) {
        let mut state = self.state();
        let inode = state.names.file(path).unwrap_or_else(|_| {
            let inode = Inode::default();
            state.names.change_by_hand(path, Some(Node::File(inode.clone())));
            inode
        });
        state.resize(&inode, |pages| pages.replace(bytes));
    }

    /// Takes a file away, in the cache and on the platter: not the deed of a process.
    pub fn lose(&self, path: &Path) {
        let mut state = self.state();
        if let Ok(inode) = state.names.file(path) {
            state.used_bytes -= inode.pages().allocated_bytes();
            state.names.change_by_hand(path, None);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// Changes a file's pages and keeps count of the room.
    fn resize<T>(&mut self, inode: &Inode, change: impl FnOnce(&mut Pages) -> T) -> T {
        let mut pages = inode.pages();
        let before = pages.allocated_bytes();
        let result = change(&mut pages);
        // A file without a name takes no room: a simulation has no time to wait for its last
        // reader.
        if pages.linked() {
            self.used_bytes = self.used_bytes - before + pages.allocated_bytes();
        }
        result
    }

    /// Up to which byte the file can grow.
    fn room(&self, inode: &Inode) -> u64 {
        match self.capacity_bytes {
            Some(capacity) => inode.pages().allocated_bytes() + capacity.saturating_sub(self.used_bytes),
            None => u64::MAX,
        }
    }

    fn add_file(&mut self, path: &Path) -> io::Result<Inode> {
        self.names.check_parent(path)?;
        let inode = Inode::default();
        self.names.change(vec![(path.to_owned(), Some(Node::File(inode.clone())))]);
        Ok(inode)
    }

    fn unlink(&mut self, path: &Path) {
        if let Ok(inode) = self.names.file(path) {
            let mut pages = inode.pages();
            self.used_bytes -= pages.allocated_bytes();
            pages.unlink();
        }
    }
}
