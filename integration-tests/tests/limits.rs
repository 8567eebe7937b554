//! A full disk, and a server with too few file handles.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

use std::time::Duration;

use integration_tests::chaos::limits::{self, SmallDisk};
use integration_tests::chaos::world::{Programs, World};
use tokio::sync::Mutex;

/// Two cores have room for one of these tests at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Proves that a full disk is refused as such, that questions are answered meanwhile, and that appends go on in the same
/// process once there is room. On a real file system of 64 MiB where it may be mounted, else by calls that fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_and_recovers() {
    let _alone = ALONE.lock().await;
    let programs = Programs::build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let small = SmallDisk::mount(&folder.path().join("data"), 64).unwrap();
    println!("a file system of its own: {}", small.is_some());
    let world = World::new(&programs, folder.path()).unwrap();
    Box::pin(limits::full_disk(world, small.is_some())).await.unwrap_or_else(|error| panic!("{error:#}"));
}

/// Proves that a server with 64 file handles and 200 connections does not spin, and works again when they are gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_few_file_handles_do_not_spin() {
    let _alone = ALONE.lock().await;
    let programs = Programs::build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let world = World::new(&programs, folder.path()).unwrap();
    let short = limits::too_few_file_handles(&world, 64, 200, Duration::from_secs(4)).await.unwrap_or_else(|error| panic!("{error:#}"));
    println!("{short:?}");
    assert!(short.connections > 64, "it was never short: {short:?}");
    assert!(short.cpu < short.wall / 5, "it spins: {short:?}");
}
