//! Real events: the published figures of *Online Retail*. Skipped, with a line that says so, where the files are not there.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr)]

use std::path::{Path, PathBuf};

use integration_tests::cluster::Cluster;
use integration_tests::plain_fold::text::money;
use merganser_proto::v1::{BatchGetUserStatsRequest, UserStats};
use speed_layer::load::{self, LoadOptions, Tally};
use storage::dead_letter;

/// The file in the folder shared by all working copies, if there is one.
fn find(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/online_retail").join(name);
    if !path.exists() {
        println!("skipped: there is no {}", path.display());
        return None;
    }
    Some(path)
}

async fn load(cluster: &Cluster, file: &Path) -> Tally {
    let options = LoadOptions {
        address: cluster.speed_url(),
        files: vec![file.to_owned()],
        batch_rows: 1000,
        in_flight: 8,
        state_dir: cluster.folder().join("load"),
        progress: false,
        again: true,
    };
    load::run(options, std::future::pending()).await.unwrap().total()
}

/// Ids of all users that there may be: the data set numbers its customers so.
fn all_users() -> Vec<String> {
    (12_300..18_400).map(|id| id.to_string()).collect()
}

/// The users with events, from questions about everybody.
async fn ask(cluster: &Cluster) -> Vec<UserStats> {
    let mut found = Vec::new();
    for user_ids in all_users().chunks(1000) {
        let request = BatchGetUserStatsRequest { user_ids: user_ids.to_vec(), ..Default::default() };
        let response = cluster.stats.clone().batch_get_user_stats(request).await.unwrap().into_inner();
        assert!(response.provenance.unwrap().complete);
        found.extend(response.stats.into_iter().filter(|stats| stats.found));
    }
    found
}

fn dead_letters(cluster: &Cluster) -> u64 {
    dead_letter::read_all(&cluster.data_dir()).unwrap().map(Result::unwrap).count() as u64
}

struct Figures {
    rows: u64,
    users: usize,
    events: u64,
}

/// Loads `file`, compares the live answers with those after a batch run, restarts the speed layer, loads the file again and
/// compares again. Gives the answers, for more questions.
async fn prove(file: &Path, expected: &Figures) -> Vec<UserStats> {
    let mut cluster = Cluster::start(false, |_| ()).await.unwrap();
    let tally = load(&cluster, file).await;
    let counts = (tally.received, tally.accepted, tally.duplicate, tally.rejected);
    assert_eq!(counts, (expected.rows, expected.events, 0, expected.rows - expected.events));
    let live = ask(&cluster).await;

    let version = cluster.batch_run().await.unwrap().unwrap();
    cluster.wait_for_version(version).await.unwrap();
    let stats = ask(&cluster).await;
    assert!(live == stats, "the batch view says something else than the realtime view did");
    assert_eq!(stats.len(), expected.users);
    assert_eq!(stats.iter().map(|stats| stats.event_count).sum::<i64>(), expected.events as i64);

    assert_eq!(dead_letters(&cluster), tally.rejected, "every refused row is a letter of its own");
    cluster.stop_speed().await.unwrap();
    cluster.start_speed().await.unwrap();
    let again = load(&cluster, file).await;
    assert_eq!((again.accepted, again.duplicate, again.rejected), (0, tally.accepted, tally.rejected));
    assert_eq!(dead_letters(&cluster), tally.rejected, "the same refused row is kept once");
    assert!(ask(&cluster).await == stats, "a repeated load changed an answer");
    cluster.stop().await.unwrap();
    stats
}

fn revenue(stats: &UserStats) -> i128 {
    money(&stats.revenue).unwrap()
}

fn of(stats: &[UserStats], user: &str) -> i128 {
    revenue(stats.iter().find(|stats| stats.user_id == user).unwrap())
}

/// Proves the path on a month of real events, and that loading them twice is loading them once.
#[tokio::test(flavor = "multi_thread")]
async fn first_month() {
    let Some(file) = find("events-2010-12.jsonl.zst") else { return };
    let stats = prove(&file, &Figures { rows: 42_481, users: 948, events: 26_850 }).await;
    assert_eq!(stats.iter().map(revenue).sum::<i128>(), money("554604.02").unwrap());
}

/// Proves the published figures of the whole year, and that loading it twice is loading it once.
#[tokio::test(flavor = "multi_thread")]
async fn whole_year() {
    let Some(file) = find("events.jsonl.zst") else { return };
    let stats = prove(&file, &Figures { rows: 541_909, users: 4_372, events: 406_829 }).await;
    assert_eq!(stats.iter().map(revenue).sum::<i128>(), money("8300065.814").unwrap());
    assert_eq!([of(&stats, "16446"), of(&stats, "14646")], [money("2.90").unwrap(), money("279489.02").unwrap()]);
    assert_eq!([of(&stats, "18102"), of(&stats, "17450")], [money("256438.49").unwrap(), money("187482.17").unwrap()]);
}
