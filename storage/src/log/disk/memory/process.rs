//! The disk as a process sees it, as long as it lives.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use super::{
    super::{Disk, DiskFile, DiskLock, Handle, Held, other_disk},
    Call, State,
    fault::Done,
    lock,
    names::Node,
    pages::Inode,
};

#[derive(Debug)]
pub(super) struct Process {
    state: Arc<Mutex<State>>,
    life: u64,
}

/// A file that a process has open.
#[derive(Debug)]
pub(in super::super) struct OpenFile(Inode);

/// A lock that a process holds.
#[derive(Debug)]
pub(in super::super) struct HeldLock {
    state: Arc<Mutex<State>>,
    path: PathBuf,
    number: u64,
}

impl Drop for HeldLock {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        if state.locks.get(&self.path) == Some(&self.number) {
            state.locks.remove(&self.path);
        }
    }
}

impl Process {
    pub(super) fn new(state: Arc<Mutex<State>>, life: u64) -> Process {
        Process { state, life }
    }

    /// Makes a call, unless the process is dead, and as the plan wants it.
    fn call<T>(&self, call: Call, path: &Path, work: impl FnOnce(&mut State, Done) -> io::Result<T>) -> io::Result<T> {
        let state = &mut *lock(&self.state);
        if state.crashed || state.life != self.life {
            return Err(dead());
        }
        let Some(planned) = state.plan.judge(call, path) else {
            return work(state, Done::All);
        };
        let works = match (planned.done, call) {
            (Done::All, _) | (Done::Half, Call::Write) => true,
            (_, Call::Sync) => planned.error.is_some(),
            _ => false,
        };
        if works {
            // Whatever it answers, the caller hears what was planned.
            let _unheard = work(state, planned.done);
        }
        Err(planned.error.map_or_else(
            || {
                state.crashed = true;
                dead()
            },
            io::Error::from,
        ))
    }

    fn on_file<T>(&self, call: Call, file: &DiskFile, work: impl FnOnce(&mut State, Done, &Inode) -> io::Result<T>) -> io::Result<T> {
        let Handle::Memory(OpenFile(inode)) = &file.handle else {
            return Err(other_disk());
        };
        self.call(call, &file.path, |state, done| work(state, done, inode))
    }

    fn open_as(&self, call: Call, path: &Path) -> io::Result<DiskFile> {
        self.call(call, path, |state, _| {
            let inode = state.names.file(path)?;
            Ok(DiskFile::new(path, Handle::Memory(OpenFile(inode))))
        })
    }
}

fn dead() -> io::Error {
    io::Error::other("the process is dead")
}

impl Disk for Process {
    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn create(&self, path: &Path) -> io::Result<DiskFile> {
        self.call(Call::Create, path, |state, _| {
            let inode = match state.names.get(path) {
                Some(_) => {
                    let inode = state.names.file(path)?;
                    state.resize(&inode, |pages| pages.set_len(0));
                    inode
                }
                None => state.add_file(path)?,
            };
            Ok(DiskFile::new(path, Handle::Memory(OpenFile(inode))))
        })
    }

    fn open(&self, path: &Path) -> io::Result<DiskFile> {
        self.open_as(Call::Open, path)
    }

    fn open_for_writing(&self, path: &Path) -> io::Result<DiskFile> {
        self.open_as(Call::Open, path)
    }

    fn len(&self, file: &DiskFile) -> io::Result<u64> {
        self.on_file(Call::Len, file, |_, _, inode| Ok(inode.pages().cache().len() as u64))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.call(Call::Read, path, |state, _| Ok(state.names.file(path)?.pages().cache().to_vec()))
    }

    fn read_at(&self, file: &DiskFile, at: u64, bytes: &mut [u8]) -> io::Result<usize> {
        self.on_file(Call::Read, file, |_, _, inode| {
            let pages = inode.pages();
            let there = usize::try_from(at).ok().and_then(|at| pages.cache().get(at..)).unwrap_or_default();
            let read = there.len().min(bytes.len());
            bytes[..read].copy_from_slice(&there[..read]);
            Ok(read)
        })
    }

    fn write_at(&self, file: &DiskFile, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.on_file(Call::Write, file, |state, done, inode| {
            let wanted = if done == Done::Half { bytes.len() / 2 } else { bytes.len() };
            let room = state.room(inode).saturating_sub(at);
            let written = usize::try_from(room).map_or(wanted, |room| room.min(wanted));
            state.resize(inode, |pages| pages.write(at as usize, &bytes[..written]));
            if written < wanted { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        })
    }

    fn set_len(&self, file: &DiskFile, bytes: u64) -> io::Result<()> {
        self.on_file(Call::SetLen, file, |state, _, inode| {
            if bytes > state.room(inode) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            state.resize(inode, |pages| pages.set_len(bytes as usize));
            Ok(())
        })
    }

    fn reserve(&self, file: &DiskFile, end_bytes: u64) -> io::Result<()> {
        self.on_file(Call::Reserve, file, |state, _, inode| {
            if end_bytes > state.room(inode) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            state.resize(inode, |pages| pages.reserve(end_bytes));
            Ok(())
        })
    }

    fn sync_data(&self, file: &DiskFile) -> io::Result<()> {
        self.on_file(Call::Sync, file, |_, done, inode| {
            match done {
                Done::All => inode.pages().sync(),
                Done::Half | Done::Nothing => inode.pages().drop_dirty(),
            }
            Ok(())
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(Call::Rename, to, |state, _| {
            let inode = state.names.file(from)?;
            state.names.check_parent(to)?;
            state.unlink(to);
            state.names.change(vec![(from.to_owned(), None), (to.to_owned(), Some(Node::File(inode)))]);
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.call(Call::Remove, path, |state, _| {
            state.names.file(path)?;
            state.unlink(path);
            state.names.change(vec![(path.to_owned(), None)]);
            Ok(())
        })
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.call(Call::SyncDir, dir, |state, _| {
            state.names.check_dir(dir)?;
            state.names.sync_dir(dir);
            Ok(())
        })
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.call(Call::CreateDir, dir, |state, _| {
            state.names.check_parent(dir)?;
            if state.names.get(dir).is_some() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            state.names.change(vec![(dir.to_owned(), Some(Node::Dir))]);
            Ok(())
        })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.call(Call::List, dir, |state, _| {
            state.names.check_dir(dir)?;
            Ok(state.names.children(dir))
        })
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.call(Call::Exists, path, |state, _| Ok(state.names.get(path).is_some()))
    }

    fn lock(&self, path: &Path) -> io::Result<DiskLock> {
        let number = self.call(Call::Lock, path, |state, _| {
            if state.names.get(path).is_none() {
                state.add_file(path)?;
            }
            if state.locks.contains_key(path) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            state.locks_taken += 1;
            state.locks.insert(path.to_owned(), state.locks_taken);
            Ok(state.locks_taken)
        })?;
        Ok(DiskLock { _held: Held::Memory(HeldLock { state: Arc::clone(&self.state), path: path.to_owned(), number }) })
    }
}
