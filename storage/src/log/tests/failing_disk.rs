//! A disk that fails, and one that forgets.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use crate::log::disk::{Disk, OsDisk};

/// A disk that works for a number of calls and then not; a write that fails gets half way. It tells
/// the page cache, which is the real folder, from the platter, so that a power cut can take back
/// what was not synced.
#[derive(Debug)]
pub(crate) struct FailingDisk(Mutex<State>);

#[derive(Debug)]
struct State {
    calls_left: usize,
    calls: usize,
    error: io::ErrorKind,
    files: BTreeMap<PathBuf, Platter>,
    /// Renames since the last sync of their folder, oldest first.
    unsynced_names: Vec<(PathBuf, PathBuf)>,
}

#[derive(Debug)]
struct Platter {
    /// What a power cut leaves; `None` before the first sync.
    durable: Option<Vec<u8>>,
    /// The dirty pages. A failed sync marks them clean, as Linux does: no later sync writes them.
    dirty: Vec<Change>,
}

#[derive(Debug)]
enum Change {
    Write(usize, Vec<u8>),
    SetLen(usize),
}

impl Platter {
    fn sync(&mut self) {
        let durable = self.durable.get_or_insert_default();
        for change in self.dirty.drain(..) {
            match change {
                Change::SetLen(bytes) => durable.resize(bytes, 0),
                Change::Write(at, bytes) => {
                    durable.resize(durable.len().max(at + bytes.len()), 0);
                    durable[at..at + bytes.len()].copy_from_slice(&bytes);
                }
            }
        }
    }
}

impl FailingDisk {
    pub(crate) fn failing_after(calls: usize, error: io::ErrorKind) -> Arc<FailingDisk> {
        let (files, unsynced_names) = (BTreeMap::new(), Vec::new());
        Arc::new(FailingDisk(Mutex::new(State { calls_left: calls, calls: 0, error, files, unsynced_names })))
    }

    fn call(&self) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.calls += 1;
        state.calls_left = state.calls_left.checked_sub(1).ok_or(state.error)?;
        Ok(())
    }

    pub(crate) fn calls(&self) -> usize {
        self.0.lock().unwrap().calls
    }

    pub(crate) fn fail_after(&self, calls: usize) {
        self.0.lock().unwrap().calls_left = calls;
    }

    fn on_file(&self, path: &Path, change: impl FnOnce(&mut Platter)) {
        change(self.0.lock().unwrap().files.get_mut(path).expect("the log writes to a file first"));
    }

    /// Takes back every rename and every byte that was not synced.
    pub(crate) fn cut_power(&self) {
        let mut state = self.0.lock().unwrap();
        for (from, to) in std::mem::take(&mut state.unsynced_names).into_iter().rev() {
            fs::rename(&to, &from).unwrap();
            let platter = state.files.remove(&to).unwrap();
            state.files.insert(from, platter);
        }
        for (path, platter) in &state.files {
            match &platter.durable {
                Some(bytes) => fs::write(path, bytes).unwrap(),
                None => fs::remove_file(path).unwrap(),
            }
        }
    }
}

impl Disk for FailingDisk {
    fn write_at(&self, path: &Path, file: &File, at: u64, bytes: &[u8]) -> io::Result<()> {
        let before = fs::read(path)?;
        let durable = (!before.is_empty()).then_some(before);
        self.0.lock().unwrap().files.entry(path.to_owned()).or_insert(Platter { durable, dirty: Vec::new() });
        let called = self.call();
        let bytes = if called.is_ok() { bytes } else { &bytes[..bytes.len() / 2] };
        self.on_file(path, |platter| platter.dirty.push(Change::Write(at as usize, bytes.to_vec())));
        OsDisk.write_at(path, file, at, bytes)?;
        called
    }

    fn set_len(&self, path: &Path, file: &File, bytes: u64) -> io::Result<()> {
        self.call()?;
        self.on_file(path, |platter| platter.dirty.push(Change::SetLen(bytes as usize)));
        OsDisk.set_len(path, file, bytes)
    }

    fn sync_data(&self, path: &Path, _file: &File) -> io::Result<()> {
        let called = self.call();
        self.on_file(path, |platter| if called.is_ok() { platter.sync() } else { platter.dirty.clear() });
        called
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call()?;
        OsDisk.rename(from, to)?;
        let mut state = self.0.lock().unwrap();
        let platter = state.files.remove(from).expect("a file is written before it is named");
        state.files.insert(to.to_owned(), platter);
        state.unsynced_names.push((from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.call()?;
        self.0.lock().unwrap().unsynced_names.retain(|(_, to)| to.parent() != Some(dir));
        Ok(())
    }
}

/// A disk that syncs nothing, for tests that write much and cut no power.
#[derive(Debug)]
pub(crate) struct FastDisk;

impl Disk for FastDisk {
    fn sync_data(&self, _path: &Path, _file: &File) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }
}
