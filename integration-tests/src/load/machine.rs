//! What the figures of a run depend on beside the program.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;

/// Syncs that are timed.
const SYNCS: usize = 200;

/// Name and value of what a reader has to know.
///
/// # Errors
/// The disk's.
pub fn environment(folder: &Path, users: u64, days: u64) -> Result<Vec<(String, String)>> {
    let of_file = |path: &str, name: &str| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or_else(|| line.trim().to_owned(), |(_, value)| value.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let build = if cfg!(debug_assertions) { "dev profile: its figures say nothing about speed" } else { "release" };
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let pairs = [
        ("command", format!("make load-test {}", arguments.join(" "))),
        ("build", format!("{} {build}", env!("CARGO_PKG_VERSION"))),
        (
            "machine",
            format!("{cores} cores, {}, {} of memory", of_file("/proc/cpuinfo", "model name"), of_file("/proc/meminfo", "MemTotal")),
        ),
        ("kernel", of_file("/proc/sys/kernel/osrelease", "")),
        ("disk", synced(folder)?),
        (
            "data",
            format!(
                "{users} users with an event on each of {days} days in the batch view, a fifth of them with one more in the realtime view"
            ),
        ),
    ];
    Ok(pairs.map(|(name, value)| (name.to_owned(), value)).to_vec())
}

/// How long an append of 1 KiB and its fdatasync take.
fn synced(folder: &Path) -> Result<String> {
    let mut file = File::create(folder.join("sync"))?;
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let started = Instant::now();
        file.write_all(&[7; 1024])?;
        file.sync_data()?;
        times.push(started.elapsed().as_micros());
    }
    times.sort_unstable();
    Ok(format!("append of 1 KiB and fdatasync, p50 {} µs, p99 {} µs", times[SYNCS / 2], times[SYNCS * 99 / 100]))
}
