//! Every shipped view under questions, while definitions change, versions are taken back, built upon one another and recomputed. What
//! an answer must say is counted from the offsets that it says it has read, so that each is held to its own snapshot.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use integration_tests::cluster::Cluster;
use merganser_proto::v1::value::Kind;
use merganser_proto::v1::{AppendEventsRequest, Event, GetUserStatsRequest, GetViewRowsRequest, Provenance};
use storage::manifest::{Manifest, Manifests};
use tonic::Request;
use views::schema::AttributeType;
use views::shard_of;

const PARTITIONS: u32 = 3;
const USERS: usize = 5;
const ITEMS: usize = 4;
const VIEWS: [&str; 3] = ["user_stats", "user_activity", "item_stats"];
/// Definition changes, each followed by a rollback.
const CHANGES: usize = 10;
/// Versions that are built upon others.
const INCREMENTS: usize = 50;
/// Versions from all events.
const FULLS: usize = 5;

/// User and item of every event, in the order of the log, and how many of them were acknowledged.
#[derive(Default)]
struct Log {
    partitions: [Vec<(usize, usize)>; PARTITIONS as usize],
    acknowledged: [usize; PARTITIONS as usize],
}

/// Which events an answer is about.
#[derive(Clone, Copy, Debug)]
enum About {
    User(usize),
    Item(usize),
}

impl Log {
    fn count(&self, about: About, heads: &[usize]) -> i64 {
        let matches = |(user, item): &&(usize, usize)| match about {
            About::User(wanted) => *user == wanted,
            About::Item(wanted) => *item == wanted,
        };
        self.partitions.iter().zip(heads).map(|(events, head)| events[..*head].iter().filter(matches).count() as i64).sum()
    }
}

fn user_id(user: usize) -> String {
    format!("user-{user}")
}

fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(Duration::from_secs(20));
    request
}

/// What asks, and what is asked about.
struct Asking {
    log: Mutex<Log>,
    finished: AtomicBool,
    /// Answers of each view from each version.
    answers: Mutex<BTreeMap<(&'static str, i64), usize>>,
}

impl Asking {
    /// An answer is complete, has read what was acknowledged before it was asked for, and says what lies below the heads that it has read.
    fn judge(&self, view: &'static str, about: About, before: [usize; 3], count: i64, revenue: &str, provenance: &Provenance) {
        assert!(provenance.complete, "{provenance:?}");
        let heads: Vec<usize> = provenance.head.iter().map(|head| head.offset as usize).collect();
        let log = self.log.lock().unwrap();
        let expected = log.count(about, &heads);
        assert_eq!(count, expected, "{view}, {about:?}: {provenance:?}");
        // Every event has the same amount, so that a half that is missing from one measure alone would show.
        assert_eq!(revenue, if count == 0 { String::new() } else { count.to_string() }, "{provenance:?}");
        assert_eq!(provenance.batch_event_count + provenance.speed_event_count, count);
        let read = |partition: usize| heads[partition] >= before[partition];
        let mine = |partition: usize| match about {
            About::User(user) => shard_of(&user_id(user), PARTITIONS) as usize == partition,
            About::Item(_) => true,
        };
        assert!((0..3).filter(|partition| mine(*partition)).all(read), "{before:?} were acknowledged: {provenance:?}");
        *self.answers.lock().unwrap().entry((view, provenance.version)).or_default() += 1;
    }

    fn acknowledged(&self) -> [usize; 3] {
        self.log.lock().unwrap().acknowledged
    }

    async fn ask(&self, cluster: &Cluster, view: &'static str) {
        let (mut stats, mut views) = (cluster.stats.clone(), cluster.views.clone());
        for number in 0.. {
            if self.finished.load(SeqCst) {
                return;
            }
            let about = if view == "item_stats" { About::Item(number % ITEMS) } else { About::User(number % USERS) };
            let before = self.acknowledged();
            if let ("user_stats", About::User(user)) = (view, about) {
                let question = GetUserStatsRequest { user_id: user_id(user), ..GetUserStatsRequest::default() };
                let answer = stats.get_user_stats(timed(question)).await.unwrap().into_inner();
                let found = answer.stats.unwrap();
                self.judge(view, about, before, found.event_count, &found.revenue, &answer.provenance.unwrap());
                continue;
            }
            let key = match about {
                About::User(user) => user_id(user),
                About::Item(item) => format!("item-{item}"),
            };
            let question = GetViewRowsRequest { view: view.to_owned(), key, ..GetViewRowsRequest::default() };
            let answer = views.get_view_rows(timed(question)).await.unwrap().into_inner();
            let cell = |name: &str| {
                let column = answer.column_names.iter().position(|column| column == name).unwrap();
                answer.rows.first().and_then(|row| row.values[column].kind.clone())
            };
            assert!(answer.rows.len() <= 1, "{answer:?}");
            let count = if let Some(Kind::IntValue(count)) = cell("event_count") { count } else { 0 };
            let revenue = if let Some(Kind::DecimalValue(text)) = cell("revenue") { text } else { String::new() };
            self.judge(view, about, before, count, &revenue, &answer.provenance.unwrap());
        }
    }

    /// One event of every user, each of some item.
    async fn append(&self, cluster: &Cluster, round: usize, now: i64) {
        let mut events = Vec::new();
        for user in 0..USERS {
            let item = (user + round) % ITEMS;
            events.push(Event {
                event_id: format!("r{round}"),
                user_id: user_id(user),
                event_time: Some(prost_types::Timestamp { seconds: now - (round as i64 % 7) * 40, nanos: 0 }),
                event_type: "sale".to_owned(),
                amount: "1".to_owned(),
                attributes: [("stock_code".to_owned(), format!("item-{item}")), ("quantity".to_owned(), "2".to_owned())].into(),
            });
            self.log.lock().unwrap().partitions[shard_of(&user_id(user), PARTITIONS) as usize].push((user, item));
        }
        let answer = cluster.ingest.clone().append_events(timed(AppendEventsRequest { events })).await.unwrap().into_inner();
        assert_eq!(answer.accepted_count as usize, USERS, "{answer:?}");
        let mut log = self.log.lock().unwrap();
        log.acknowledged = [0, 1, 2].map(|partition| log.partitions[partition].len());
    }
}

async fn newest(cluster: &Cluster, view: &str) -> Manifest {
    Manifests::new(cluster.store(), view.parse().unwrap()).latest().await.unwrap().unwrap()
}

/// Polls until the view answers from `version`.
async fn until_answers(cluster: &Cluster, view: &str, version: i64) {
    let question = || GetViewRowsRequest { view: view.to_owned(), key: "nothing".to_owned(), ..GetViewRowsRequest::default() };
    let polled = async {
        loop {
            let answer = cluster.views.clone().get_view_rows(timed(question())).await;
            if answer.is_ok_and(|answer| answer.into_inner().provenance.unwrap().version >= version) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), polled).await.expect("the version comes to answer");
}

/// Proves that under questions to every shipped view ten definition changes, ten rollbacks, fifty versions built upon others and five from all events
/// bring no error, and no answer that differs from a count of the very offsets that it was read from.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn changes_rollbacks_increments_and_fulls() {
    let cluster = Cluster::start(true, |config| {
        config.log.partitions = PARTITIONS;
        config.events.attributes.insert("stock_code".to_owned(), AttributeType::String);
        config.events.attributes.insert("quantity".to_owned(), AttributeType::Int64);
    });
    let cluster = Arc::new(cluster.await.unwrap());
    let folder = cluster.folder().join("views");
    std::fs::create_dir_all(&folder).unwrap();
    let shipped = |view: &str| std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../views/{view}.sql"))).unwrap();
    let declare = |view: &str, sql: &str| std::fs::write(folder.join(format!("{view}.sql")), sql).unwrap();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64;
    let asking = Arc::new(Asking { log: Mutex::default(), finished: AtomicBool::new(false), answers: Mutex::default() });
    let mut rounds = 0..;
    asking.append(&cluster, rounds.next().unwrap(), now).await;
    for view in VIEWS {
        declare(view, &shipped(view));
        let first = cluster.start_batch_run_as(view, false).await.unwrap().unwrap().unwrap();
        until_answers(&cluster, view, first).await;
    }
    let askers = VIEWS.map(|view| {
        let (asking, cluster) = (Arc::clone(&asking), Arc::clone(&cluster));
        tokio::spawn(async move { asking.ask(&cluster, view).await })
    });

    let (mut changes, mut rollbacks, mut increments, mut fulls) = (0, 0, 0, 0);
    for (change, view) in (0..CHANGES).zip(VIEWS.into_iter().cycle()) {
        asking.append(&cluster, rounds.next().unwrap(), now).await;
        let before = newest(&cluster, view).await;
        declare(view, &shipped(view).replace("AS revenue", &format!("AS revenue, max(amount) AS largest_{change}")));
        let changed = cluster.start_batch_run_as(view, false).await.unwrap().unwrap().unwrap();
        until_answers(&cluster, view, changed).await;
        let manifest = newest(&cluster, view).await;
        assert!(manifest.version == changed && manifest.fingerprint != before.fingerprint);
        changes += 1;
        asking.append(&cluster, rounds.next().unwrap(), now).await;
        let taken_back = cluster.rollback(view, before.version).await.unwrap();
        declare(view, &shipped(view));
        until_answers(&cluster, view, taken_back).await;
        assert_eq!(newest(&cluster, view).await.fingerprint, before.fingerprint);
        rollbacks += 1;
    }
    for (number, view) in (0..INCREMENTS).zip(VIEWS.into_iter().cycle()) {
        asking.append(&cluster, rounds.next().unwrap(), now).await;
        let incremental = cluster.start_batch_run_as(view, true).await.unwrap().unwrap().unwrap();
        until_answers(&cluster, view, incremental).await;
        assert!(newest(&cluster, view).await.built_upon.is_some(), "{view} v{incremental}");
        increments += 1;
        if number % (INCREMENTS / FULLS) == 0 {
            asking.append(&cluster, rounds.next().unwrap(), now).await;
            let full = cluster.start_batch_run_as(view, false).await.unwrap().unwrap().unwrap();
            until_answers(&cluster, view, full).await;
            assert!(newest(&cluster, view).await.built_upon.is_none(), "{view} v{full}");
            fulls += 1;
        }
    }
    assert_eq!((changes, rollbacks, increments, fulls), (CHANGES, CHANGES, INCREMENTS, FULLS));
    asking.finished.store(true, SeqCst);
    for asker in askers {
        asker.await.unwrap();
    }
    let answers = asking.answers.lock().unwrap().clone();
    for view in VIEWS {
        let of_view: Vec<_> = answers.iter().filter(|((of, _), _)| *of == view).map(|(_, answers)| *answers).collect();
        println!("{view}: {} answers from {} versions, all as counted", of_view.iter().sum::<usize>(), of_view.len());
        assert!(of_view.len() > 15 && of_view.iter().sum::<usize>() > 100, "{view}: {of_view:?}");
    }
    let Ok(cluster) = Arc::try_unwrap(cluster) else { panic!("nobody asks any more") };
    cluster.stop().await.unwrap();
}
