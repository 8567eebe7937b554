//! The machine that a layer runs on: its disk, its clock, its chance, and its threads.
//!
//! This is the edge of the product. Behind it nothing asks for the time of day or for a random number (clippy refuses it), so
//! that a simulation which brings its own machine sees the same run for the same seed. No decision rests on the clock: times are
//! recorded and shown, that is all. What waits, waits by `tokio::time`, which a simulation can turn forward.
//!
//! Threads follow the runtime: on a runtime of one thread, which is what a simulation has, [`blocking`] work runs where it is
//! called and an [`Owner`] is a task.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::runtime::{Handle, RuntimeFlavor};

use crate::log::disk::{Disk, OsDisk};

/// What a process takes from the machine besides its network and its object store.
pub trait Machine: fmt::Debug + Send + Sync {
    /// Where the log is kept.
    fn disk(&self) -> Arc<dyn Disk>;

    /// The time of day. It may jump.
    fn now(&self) -> SystemTime;

    /// 128 random bits.
    fn random(&self) -> u128;
}

/// The machine that the process really runs on.
#[derive(Debug, Clone, Copy)]
pub struct RealMachine;

impl Machine for RealMachine {
    fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(OsDisk)
    }

    #[allow(clippy::disallowed_methods, reason = "this is the edge")]
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    #[allow(clippy::disallowed_methods, reason = "this is the edge")]
    fn random(&self) -> u128 {
        rand::random()
    }
}

/// Microseconds since 1970 by the machine's clock; 0 before.
pub fn now_us(machine: &dyn Machine) -> i64 {
    let since = machine.now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// Who runs this program, as `user@host`: for what is written down of what people do. A user whom the machine has no name for is a number, and one
/// who took another's rights by `sudo` is named behind.
#[must_use]
pub fn operator() -> String {
    use std::os::unix::fs::MetadataExt;
    let id = std::fs::metadata("/proc/self").map(|process| process.uid()).ok();
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = id.map_or_else(|| "unknown".to_owned(), |id| account(&accounts, id).unwrap_or_else(|| id.to_string()));
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() { "unknown" } else { host.trim() };
    let behind = std::env::var("SUDO_USER").map_or_else(|_| String::new(), |user| format!(" (sudo by {user})"));
    format!("{name}@{host}{behind}")
}

/// The name of a number, in a text like `/etc/passwd`.
fn account(accounts: &str, id: u32) -> Option<String> {
    let mut lines = accounts.lines().map(|line| line.split(':'));
    lines.find_map(|mut fields| {
        let (name, number) = (fields.next()?, fields.nth(1)?);
        (number.parse() == Ok(id)).then(|| name.to_owned())
    })
}

/// Runs `work` where blocking is allowed. It runs to its end even if the caller goes away.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    if is_single_threaded() {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}

/// Drives a future that blocks on CPU and disk between its awaits, where it disturbs nobody.
pub async fn driven<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    if is_single_threaded() {
        return work.await;
    }
    let runtime = Handle::current();
    blocking(move || runtime.block_on(work)).await
}

fn is_single_threaded() -> bool {
    Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread
}

/// Work that owns files and may block on them, until it ends by itself.
#[derive(Debug)]
pub enum Owner {
    /// On a thread of its own.
    Thread(std::thread::JoinHandle<()>),
    /// Among the tasks of the one thread there is.
    Task(tokio::task::JoinHandle<()>),
}

impl Owner {
    /// Starts `work`, inside a runtime.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(name: String, work: impl Future<Output = ()> + Send + 'static) -> io::Result<Self> {
        if is_single_threaded() {
            return Ok(Self::Task(tokio::spawn(work)));
        }
        let runtime = Handle::current();
        std::thread::Builder::new().name(name).spawn(move || runtime.block_on(work)).map(Self::Thread)
    }

    /// Waits until the work has ended. Whether it panicked is not told.
    pub async fn ended(self) {
        match self {
            Self::Thread(thread) => blocking(move || drop(thread.join())).await,
            Self::Task(task) => drop(task.await),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that a number is whoever has it, that whoever runs this is somebody somewhere, and that a number without a name stays one.
    #[test]
    fn operators() {
        let accounts = "root:x:0:0:root:/root:/bin/bash\nbroken\nann:x:1000:0::/:/bin/sh\n";
        assert_eq!([0, 1000, 1].map(|id| account(accounts, id)), [Some("root".to_owned()), Some("ann".to_owned()), None]);
        let operator = operator();
        let (user, host) = operator.split_once('@').unwrap();
        assert!(!user.is_empty() && user != "unknown" && !host.is_empty(), "{operator}");
    }
}
