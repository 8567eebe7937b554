//! The disks themselves.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
};

use rand::{SeedableRng, rngs::StdRng};

use crate::log::{
    LogFolder,
    disk::{Call, Disk, Fault, MemoryDisk, OsDisk, Survivors},
};

/// Does everything that a disk can do, and returns what was seen.
fn exercise(disk: &dyn Disk, root: &Path) -> Vec<String> {
    let mut seen = Vec::new();
    let mut see = |what: &str, found: String| seen.push(format!("{what}: {found}"));
    let (dir, file, other) = (root.join("dir"), root.join("dir/file"), root.join("dir/other"));
    see("missing folder", format!("{:?}", disk.create(&file).map(drop).map_err(|e| e.kind())));
    disk.create_dir(&dir).unwrap();
    see("folder twice", format!("{:?}", disk.create_dir(&dir).map_err(|e| e.kind())));
    see("exists", format!("{:?} {:?}", disk.exists(&dir).unwrap(), disk.exists(&file).unwrap()));
    see("missing file", format!("{:?}", disk.open(&file).map(drop).map_err(|e| e.kind())));
    let open = disk.create(&file).unwrap();
    disk.reserve(&open, 100_000).unwrap();
    disk.write_at(&open, 3, b"three").unwrap();
    disk.write_at(&open, 0, b"zer").unwrap();
    see("length", format!("{}", disk.len(&open).unwrap()));
    let mut bytes = [0; 6];
    see("read_at", format!("{} {bytes:?}", disk.read_at(&open, 4, &mut bytes).unwrap()));
    see("read_at the end", format!("{} {bytes:?}", disk.read_at(&open, 40, &mut bytes).unwrap()));
    disk.set_len(&open, 10).unwrap();
    disk.sync_data(&open).unwrap();
    disk.sync_dir(&dir).unwrap();
    see("read", format!("{:?}", disk.read(&file).unwrap()));
    drop(disk.create(&other).unwrap());
    let mut names = disk.list(&dir).unwrap();
    names.sort();
    see("list", format!("{:?}", names.iter().map(|path| path.strip_prefix(root).unwrap().to_owned()).collect::<Vec<PathBuf>>()));
    disk.rename(&file, &other).unwrap();
    see("renamed", format!("{:?} {:?}", disk.exists(&file).unwrap(), disk.read(&other).unwrap()));
    disk.write_at(&open, 0, b"Z").unwrap();
    disk.remove(&other).unwrap();
    see("removed, still open", format!("{:?} {}", disk.exists(&other).unwrap(), disk.read_at(&open, 0, &mut bytes).unwrap()));
    see("removed twice", format!("{:?}", disk.remove(&other).map_err(|e| e.kind())));
    for path in [dir.clone(), root.join("LOCK")] {
        let lock = disk.lock(&path).unwrap();
        see("locked", format!("{:?}", disk.lock(&path).map(drop).map_err(|e| e.kind())));
        drop(lock);
        see("unlocked", format!("{:?}", disk.lock(&path).map(drop).map_err(|e| e.kind())));
    }
    see("lock file", format!("{:?}", disk.exists(&root.join("LOCK")).unwrap()));
    seen
}

#[test]
fn memory_and_system_agree() {
    // Proves that the disk in memory answers as the one of the system does.
    let dir = tempfile::tempdir().unwrap();
    let memory = MemoryDisk::new();
    memory.process().create_dir(Path::new("/root")).unwrap();
    assert_eq!(exercise(&*memory.process(), Path::new("/root")), exercise(&OsDisk, dir.path()));
}

#[test]
fn the_log_works_on_the_system_s_disk() {
    // Proves that a log on real files keeps its records, its epoch and its closed segments, and that
    // closing one gives back what was set aside for it.
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    for epoch in 1..4 {
        let folder = LogFolder::open(dir.path(), 2).unwrap();
        assert_eq!(folder.epoch(), epoch);
        let mut log = folder.partition(1).unwrap();
        assert_eq!(log.head(), (epoch - 1) * 2);
        log.append([b"one".as_slice(), b"two"]).unwrap();
        let closed = log.roll().unwrap().unwrap();
        log.reader().verify(closed.clone()).unwrap();
        let metadata = std::fs::metadata(log.dir().join(format!("{:020}.log", closed.start))).unwrap();
        assert!(metadata.blocks() * 512 < 1024 * 1024, "{} blocks are kept", metadata.blocks());
        assert_eq!(log.trim(closed.start).unwrap().len(), usize::from(epoch > 1));
        assert_eq!(log.reader().read(closed).unwrap().map(Result::unwrap).count(), 2);
    }
}

/// A process that has made `/dir/file` of these bytes, durable with its name.
fn durable_file(bytes: &[u8]) -> (MemoryDisk, Arc<dyn Disk>, crate::log::disk::DiskFile) {
    let machine = MemoryDisk::new();
    let disk = machine.process();
    disk.create_dir(Path::new("/dir")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    let file = disk.create(Path::new("/dir/file")).unwrap();
    disk.write_at(&file, 0, bytes).unwrap();
    disk.sync_data(&file).unwrap();
    disk.sync_dir(Path::new("/dir")).unwrap();
    (machine, disk, file)
}

#[test]
fn what_is_not_synced_is_lost() {
    // Proves that a power cut takes bytes, lengths and names that were not synced, each for itself,
    // that a kill takes none, and that what was synced stays.
    let (machine, disk, file) = durable_file(b"synced");
    disk.write_at(&file, 0, b"S").unwrap();
    disk.set_len(&file, 3).unwrap();
    drop(disk.create(Path::new("/dir/new")).unwrap());
    disk.create_dir(Path::new("/dir/deep")).unwrap();
    drop(disk.create(Path::new("/dir/deep/file")).unwrap());
    disk.sync_dir(Path::new("/dir/deep")).unwrap();
    machine.kill();
    assert_eq!(machine.contents(Path::new("/dir/file")).unwrap(), b"Syn");
    assert_eq!(machine.files().len(), 3);
    machine.power_cut(Survivors::None);
    assert_eq!(machine.contents(Path::new("/dir/file")).unwrap(), b"synced");
    assert_eq!(machine.files().len(), 1);

    let (machine, disk, file) = durable_file(b"synced");
    disk.write_at(&file, 0, b"S").unwrap();
    disk.rename(Path::new("/dir/file"), Path::new("/dir/name")).unwrap();
    machine.power_cut(Survivors::All);
    assert_eq!(machine.contents(Path::new("/dir/name")).unwrap(), b"Synced");
    assert!(machine.contents(Path::new("/dir/file")).is_none());

    let (machine, disk, _file) = durable_file(b"synced");
    disk.remove(Path::new("/dir/file")).unwrap();
    machine.power_cut(Survivors::None);
    assert_eq!(machine.contents(Path::new("/dir/file")).unwrap(), b"synced");
}

#[test]
fn sectors_survive_one_by_one() {
    // Proves that of two unsynced sectors each may be there without the other, that a rename is
    // never half done, and that the same generator draws the same.
    let outcome = |seed: u64| {
        let (machine, disk, file) = durable_file(&[b'.'; 1024]);
        disk.write_at(&file, 0, &[b'x'; 1024]).unwrap();
        disk.rename(Path::new("/dir/file"), Path::new("/dir/name")).unwrap();
        machine.power_cut(Survivors::Drawn(&mut StdRng::seed_from_u64(seed)));
        let files = machine.files();
        assert_eq!(files.len(), 1, "{files:?}");
        let bytes = machine.contents(&files[0]).unwrap();
        assert!(bytes[..512].iter().all(|byte| *byte == bytes[0]) && bytes[512..].iter().all(|byte| *byte == bytes[512]));
        (bytes[0], bytes[512], files[0].clone())
    };
    let all: std::collections::BTreeSet<_> = (0..200).map(outcome).collect();
    assert_eq!(all.len(), 8, "two sectors, two names");
    assert_eq!(outcome(5), outcome(5));
}

#[test]
fn a_failed_sync_drops_the_pages() {
    // Proves that after a failed sync the bytes stay readable and are never written back, as on
    // Linux.
    let (machine, disk, file) = durable_file(b"old");
    machine.plan(Fault::error(ErrorKind::Other).on(Call::Sync));
    disk.write_at(&file, 0, b"new").unwrap();
    assert!(disk.sync_data(&file).is_err());
    disk.sync_data(&file).unwrap();
    assert_eq!(disk.read(Path::new("/dir/file")).unwrap(), b"new");
    machine.power_cut(Survivors::All);
    assert_eq!(machine.contents(Path::new("/dir/file")).unwrap(), b"old");
}

#[test]
fn a_dead_process_touches_nothing() {
    // Proves that from a crash on nothing a process does has an effect, also not once the next one
    // lives, and that its locks are free then.
    let (machine, disk, file) = durable_file(b"old");
    let _lock = disk.lock(Path::new("/dir")).unwrap();
    machine.plan(Fault::crash().half_way().on(Call::Write).of_path("file").after(1));
    disk.write_at(&file, 0, b"n").unwrap();
    assert!(disk.write_at(&file, 0, b"never").is_err());
    assert!(machine.crashed());
    assert!(disk.sync_data(&file).is_err() && disk.read(Path::new("/dir/file")).is_err());
    assert_eq!(machine.contents(Path::new("/dir/file")).unwrap(), b"ned", "two bytes of five");
    machine.kill();
    let next = machine.process();
    assert!(disk.remove(Path::new("/dir/file")).is_err() && disk.write_at(&file, 0, b"x").is_err());
    next.lock(Path::new("/dir")).unwrap();
    assert_eq!(next.read(Path::new("/dir/file")).unwrap(), b"ned");
}

#[test]
fn a_full_disk_takes_what_fits() {
    // Proves that files and reserved room count against the capacity, that a write stops where it
    // ends, and that removing and cutting give room back.
    let (machine, disk, file) = durable_file(&[1; 100]);
    machine.set_capacity(Some(150));
    let full = |result: std::io::Result<()>| result.unwrap_err().kind() == ErrorKind::StorageFull;
    assert!(full(disk.reserve(&file, 151)));
    disk.reserve(&file, 140).unwrap();
    assert_eq!(machine.used_bytes(), 140);
    assert!(full(disk.write_at(&file, 100, &[2; 60])));
    assert_eq!(disk.len(&file).unwrap(), 150);
    disk.set_len(&file, 10).unwrap();
    assert_eq!(machine.used_bytes(), 10);
    disk.remove(Path::new("/dir/file")).unwrap();
    assert_eq!(machine.used_bytes(), 0);
}
