//! The folders of a program: room, what a sync takes, and what kind of file system they are on.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use storage::config::Config;
use storage::log::disk::{Disk, OsDisk};
use tokio::time::Instant;

use super::Program;
use super::finding::Report;

const CHECK: &str = "disk";
/// Less is no room to work in.
const LEAST_BYTES: u64 = 64 << 20;
/// Less is soon used up.
const ENOUGH_BYTES: u64 = 2 << 30;
/// Producers wait for a sync of the log at each acknowledgement.
const SLOW_SYNC: Duration = Duration::from_millis(50);
/// Syncs of which the middle one is told.
const SYNCS: usize = 7;
/// What each of them writes.
const SYNC_BYTES: usize = 4096;
/// File systems on other machines, as the kernel names them.
const REMOTE: [&str; 12] = ["nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "virtiofs", "ceph", "glusterfs", "lustre", "afs", "fuse"];
/// File systems in memory.
const IN_MEMORY: [&str; 2] = ["tmpfs", "ramfs"];

/// A folder, and what it is for.
struct Place {
    setting: &'static str,
    folder: PathBuf,
    /// Whether what is acknowledged rests on it.
    is_durable: bool,
}

pub(super) fn check(program: Program, config: &Config, report: &mut Report) {
    for place in places(program, config) {
        examine(&place, report);
    }
}

fn places(program: Program, config: &Config) -> Vec<Place> {
    let mut places = Vec::new();
    if program == Program::SpeedLayer {
        places.push(Place { setting: "log.dir", folder: config.log.dir.clone(), is_durable: true });
    }
    for (setting, url) in [("store.url", &config.store.url), ("store.cold", &config.store.cold)] {
        if let Some(folder) = folder_of(url) {
            places.push(Place { setting, folder, is_durable: true });
        }
    }
    if program == Program::BatchLayer {
        let spill = &config.batch_layer.spill_dir;
        let folder = if spill.as_os_str().is_empty() { std::env::temp_dir() } else { spill.clone() };
        places.push(Place { setting: "batch_layer.spill_dir", folder, is_durable: false });
    }
    places
}

/// The folder of a store, if it is one.
pub(super) fn folder_of(url: &str) -> Option<PathBuf> {
    match url.split_once("://") {
        None => Some(PathBuf::from(url)).filter(|path| !path.as_os_str().is_empty()),
        Some(("file", path)) => Some(PathBuf::from(path)),
        Some(_) => None,
    }
}

fn examine(place: &Place, report: &mut Report) {
    let Place { setting, folder, is_durable } = place;
    let name = folder.display();
    // The programs make what is not there.
    let Some(there) =
        folder.ancestors().map(|path| if path.as_os_str().is_empty() { Path::new(".") } else { path }).find(|path| path.is_dir())
    else {
        return report.bad(CHECK, format!("{setting} = {name}: no folder above it is there"), "name another folder, or mount the disk");
    };
    let made = if there == folder { "" } else { ", which will be made" };
    let syncs = match syncs(there) {
        Ok(syncs) => syncs,
        Err(error) => {
            let what = format!("{setting} = {name}{made}: cannot write in {}: {error}", there.display());
            return report.bad(CHECK, what, "give this user the right to write there, make room, or name another folder");
        }
    };
    let free = OsDisk.free_bytes(there).ok();
    let kind = file_system(there);
    let (room, sync) = (free.map_or_else(|| "room unknown".to_owned(), room), format!("{:.1} ms a sync", syncs.as_secs_f64() * 1e3));
    let on = kind.as_deref().map_or_else(String::new, |kind| format!(", on {kind}"));
    let what = format!("{setting} = {name}{made}: {room} free, {sync}{on}");
    let base = kind.as_deref().map(|kind| kind.split('.').next().unwrap_or(kind));
    match (free, base) {
        (Some(free), _) if free < LEAST_BYTES => report.bad(CHECK, what, "make room, or name a folder on another disk"),
        (_, Some(base)) if *is_durable && IN_MEMORY.contains(&base) => {
            report.bad(CHECK, what, "it is memory, and gone with the machine's power: name a folder on a disk");
        }
        (_, Some(base)) if REMOTE.contains(&base) => {
            let next = "a network file system: the log belongs on a local disk, and of a store the server must keep what is synced and name a file once";
            report.warn(CHECK, what, next);
        }
        (_, Some("overlay")) if *is_durable => report.warn(CHECK, what, "it goes with the container: mount a volume there"),
        (Some(free), _) if free < ENOUGH_BYTES => report.warn(CHECK, what, "make room soon"),
        _ if *is_durable && syncs > SLOW_SYNC => {
            report.warn(CHECK, what, "each acknowledgement waits for a sync: use a faster disk, or see what else writes to this one");
        }
        _ => report.good(CHECK, what),
    }
}

/// What a sync takes there: the middle one of some, of a file that is removed again.
fn syncs(folder: &Path) -> std::io::Result<Duration> {
    let path = folder.join(format!(".doctor-{}", std::process::id()));
    let timed = || {
        let mut file = File::create(&path)?;
        let mut times = Vec::new();
        for _ in 0..SYNCS {
            file.write_all(&[0; SYNC_BYTES])?;
            let since = Instant::now();
            file.sync_data()?;
            times.push(since.elapsed());
        }
        times.sort();
        Ok(times[SYNCS / 2])
    };
    let outcome = timed();
    match fs::remove_file(&path) {
        Err(error) if outcome.is_ok() => Err(error),
        _ => outcome,
    }
}

fn room(bytes: u64) -> String {
    match bytes {
        _ if bytes >= 10 << 30 => format!("{} GiB", bytes >> 30),
        _ => format!("{} MiB", bytes >> 20),
    }
}

/// The kind of file system that a folder is on, as the kernel names it; nothing where it does not tell.
fn file_system(folder: &Path) -> Option<String> {
    let folder = folder.canonicalize().ok()?;
    kind_in(&fs::read_to_string("/proc/self/mountinfo").ok()?, &folder)
}

/// The kind of the mount with the longest path above the folder; of those with the same path the newest.
fn kind_in(mounts: &str, folder: &Path) -> Option<String> {
    let mount = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        // Blanks in names are written as octal numbers.
        let path = before.split(' ').nth(4)?.replace("\\040", " ");
        Some((PathBuf::from(path), after.split(' ').next()?.to_owned()))
    };
    let mounts = mounts.lines().filter_map(mount).filter(|(path, _)| folder.starts_with(path));
    mounts.max_by_key(|(path, _)| path.components().count()).map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::super::finding::Mark;
    use super::*;

    /// Proves which mount a folder belongs to: the nearest above it, and of two in one place the later.
    #[test]
    fn mounts() {
        let mounts = "1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:3 / /mnt/my\\040data rw shared:1 - nfs4 host:/x rw\n3 1 0:4 / /tmp rw - ext4 x rw\n4 3 0:5 / /tmp rw - tmpfs tmpfs rw\n";
        let kind = |path: &str| kind_in(mounts, Path::new(path)).unwrap();
        assert_eq!([kind("/home"), kind("/mnt/my data/log"), kind("/mnt/my"), kind("/tmp/x")], ["ext4", "nfs4", "ext4", "tmpfs"]);
        assert_eq!(kind_in("", Path::new("/")), None);
    }

    /// Proves that a folder is tried where it is, or where it will be made, that one that cannot be written is bad, and that nothing is left behind.
    #[test]
    fn folders() {
        let folder = tempfile::tempdir().unwrap();
        let mut report = Report::new("x");
        let later = folder.path().join("a/b");
        for place in [folder.path().to_owned(), later.clone(), PathBuf::from("/proc/self/nowhere")] {
            examine(&Place { setting: "log.dir", folder: place, is_durable: false }, &mut report);
        }
        let found = report.of(CHECK);
        assert!(found[0].1.contains("a sync") && found[1].1.contains("which will be made"), "{found:?}");
        assert!(found[0].0 != Mark::Bad && found[1].0 != Mark::Bad && found[2].0 == Mark::Bad, "{found:?}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    /// Proves that each program looks at the folders that it uses.
    #[test]
    fn of_programs() {
        let config = Config::default();
        let settings = |program| places(program, &config).iter().map(|place| place.setting).collect::<Vec<_>>();
        assert_eq!(settings(Program::SpeedLayer), ["log.dir", "store.url"]);
        assert_eq!(settings(Program::BatchLayer), ["store.url", "batch_layer.spill_dir"]);
        assert_eq!(settings(Program::ServingLayer), ["store.url"]);
    }
}
