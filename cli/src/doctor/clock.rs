//! The time of day. No decision of the layers rests on it; ages, retention by time and certificates do.

use std::fs;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use storage::config::Config;
use storage::machine::{Machine, RealMachine};
use storage::manifest::{Manifests, list_views};
use storage::store::Store;
use tokio::time::{Instant, sleep};

use super::Program;
use super::disk::folder_of;
use super::finding::Report;

const CHECK: &str = "clock";
/// The first day of the year in which this was written, in seconds since 1970: no clock is right that is earlier.
const WRITTEN: u64 = 1_767_225_600;
/// For so long the clock is held against one that does not jump.
const LOOK: Duration = Duration::from_millis(200);
/// The two may part by so much meanwhile.
const TOLERANCE: Duration = Duration::from_millis(100);
/// Files on another machine carry that one's time, which may be so far from here.
const SKEW: Duration = Duration::from_secs(5);

pub(super) async fn check(program: Program, config: &Config, report: &mut Report) {
    let now = RealMachine.now();
    let told = DateTime::<Utc>::from(now).format("%Y-%m-%d %H:%M:%S UTC").to_string();
    let next = "set the clock and keep it right, by NTP";
    if now < SystemTime::UNIX_EPOCH + Duration::from_secs(WRITTEN) {
        return report.bad(CHECK, format!("{told} is before this program was written"), next);
    }
    let newest = newest_version(config).await;
    if let Some((view, time)) = newest.filter(|(_, time)| *time > DateTime::<Utc>::from(now + SKEW)) {
        return report.warn(CHECK, format!("{told} is before {view}'s newest version was computed, {}", time.to_rfc3339()), next);
    }
    let folder = if program == Program::SpeedLayer { Some(config.log.dir.clone()) } else { folder_of(&config.store.url) };
    if let Some(skew) = folder.and_then(|folder| file_skew(&folder)).filter(|skew| *skew > SKEW) {
        let what = format!("{told}, and files written now are {} s from that: their machine has another time", skew.as_secs());
        return report.warn(CHECK, what, next);
    }
    match drift().await {
        Some(drift) if drift > TOLERANCE => {
            report.warn(CHECK, format!("{told}, and it jumped by {} ms in {} ms", drift.as_millis(), LOOK.as_millis()), next);
        }
        _ => report.good(CHECK, told),
    }
}

/// How far the time of day parts from one that does not jump.
async fn drift() -> Option<Duration> {
    let (wall, steady) = (RealMachine.now(), Instant::now());
    sleep(LOOK).await;
    let (elapsed, steady) = (RealMachine.now().duration_since(wall).ok(), steady.elapsed());
    Some(elapsed.map_or(Duration::MAX, |elapsed| elapsed.abs_diff(steady)))
}

/// How far the time of a file that is written now is from ours.
fn file_skew(folder: &std::path::Path) -> Option<Duration> {
    let path = folder.join(format!(".doctor-clock-{}", std::process::id()));
    fs::write(&path, b"").ok()?;
    let written = fs::metadata(&path).and_then(|found| found.modified());
    fs::remove_file(&path).ok()?;
    let (written, now) = (written.ok()?, RealMachine.now());
    now.duration_since(written).or_else(|_| written.duration_since(now)).ok()
}

/// The view with the latest version, and when that was computed.
async fn newest_version(config: &Config) -> Option<(String, DateTime<Utc>)> {
    // Opening a store makes its folder, and nothing is made here.
    folder_of(&config.store.url).filter(|folder| folder.is_dir())?;
    let store = Store::open(&config.store.url).ok()?;
    let mut newest = None;
    for view in list_views(&store).await.ok()? {
        let Ok(Some(manifest)) = Manifests::new(store.clone(), view.clone()).latest().await else { continue };
        let Ok(time) = DateTime::parse_from_rfc3339(&manifest.created_time) else { continue };
        let found = (view.to_string(), time.to_utc());
        if newest.as_ref().is_none_or(|(_, time)| *time < found.1) {
            newest = Some(found);
        }
    }
    newest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that a file written now is near the clock, and that nothing is left behind.
    #[tokio::test]
    async fn files() {
        let folder = tempfile::tempdir().unwrap();
        assert!(file_skew(folder.path()).unwrap() < SKEW);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert_eq!(file_skew(&folder.path().join("none")), None);
        assert!(drift().await.is_some());
    }
}
