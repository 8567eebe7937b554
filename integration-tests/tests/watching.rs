//! Whoever watches sees where every change has led, and nothing that never was; whoever asks for an earlier version, or for how an answer came
//! to be, gets what was.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use integration_tests::cluster::Cluster;
use integration_tests::oracle::{Fact, Oracle};
use merganser_proto::v1::{
    AppendEventsRequest, Consistency, Event, GetUserStatsRequest, GetUserStatsResponse, PartitionOffset, UserStats, WatchUserStatsRequest,
    WatchUserStatsResponse,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::{Code, Request, Response};

const USERS: usize = 4;
/// Rounds of appends; while each second one goes on a version is published.
const ROUNDS: usize = 8;
/// The shortest that may be asked for.
const INTERVAL: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(30);

fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(Duration::from_secs(10));
    request
}

fn user(number: usize) -> String {
    format!("user-{number}")
}

fn question(number: usize, consistency: Consistency) -> GetUserStatsRequest {
    GetUserStatsRequest { user_id: user(number), consistency: consistency.into(), ..GetUserStatsRequest::default() }
}

/// What all sides know.
struct World {
    cluster: Cluster,
    oracle: Oracle,
    /// Events of each user that were sent, copies too.
    sent: Arc<[AtomicUsize; USERS]>,
    /// The newest version.
    version: i64,
}

/// What a watcher has seen last, and how many answers.
struct Watcher {
    seen: watch::Receiver<(i64, String)>,
    task: JoinHandle<(usize, Duration)>,
}

impl World {
    /// Appends events, one call each, which the version after next covers at the latest.
    async fn append(&mut self, events: &[(usize, &str)]) {
        for (number, id) in events {
            self.sent[*number].fetch_add(1, SeqCst);
            let (user_id, seconds) = (user(*number), 86_400 * (id.len() as i64));
            let event = Event {
                event_id: (*id).to_owned(),
                user_id: user_id.clone(),
                event_time: Some(prost_types::Timestamp { seconds, nanos: 0 }),
                amount: "1".to_owned(),
                ..Event::default()
            };
            let answer = self.cluster.ingest.append_events(timed(AppendEventsRequest { events: vec![event] })).await.unwrap().into_inner();
            assert_eq!(answer.accepted_count, 1, "{answer:?}");
            let covered_by = self.version + 1..=self.version + 1;
            let fact =
                Fact { user: user_id, id: (*id).to_owned(), time_us: seconds * 1_000_000, amount: Some(10_000), covered_by, record: 0 };
            self.oracle.acknowledge(fact);
        }
    }

    /// What the answer about a user must be now: count and revenue, which are the same.
    fn expected(&self, number: usize) -> i64 {
        self.oracle.answer(&user(number), self.version, i64::MIN..i64::MAX).total.0
    }

    /// Waits until every watcher's last answer is that of now.
    async fn all_see_it(&self, watchers: &mut [Watcher]) {
        for (i, watcher) in watchers.iter_mut().enumerate() {
            let expected = (self.version, self.expected(i % USERS).to_string());
            let seen = tokio::time::timeout(PATIENCE, watcher.seen.wait_for(|seen| *seen == expected)).await;
            assert!(seen.is_ok(), "watcher {i} has not come to see {expected:?}");
            seen.unwrap().unwrap();
        }
    }

    fn watch(&self, number: usize, stop: &Arc<AtomicBool>) -> Watcher {
        let (tell, seen) = watch::channel((0, String::new()));
        let (mut client, stop, sent) = (self.cluster.stats.clone(), Arc::clone(stop), Arc::clone(&self.sent));
        let min_interval = Some(prost_types::Duration::try_from(INTERVAL).unwrap());
        let request = WatchUserStatsRequest { user_id: user(number), min_interval, ..WatchUserStatsRequest::default() };
        let task = tokio::spawn(async move {
            let started = Instant::now();
            let mut stream = client.watch_user_stats(request).await.unwrap().into_inner();
            let mut answers = 0;
            while !stop.load(SeqCst) {
                let Ok(said) = tokio::time::timeout(Duration::from_millis(50), stream.message()).await else { continue };
                let WatchUserStatsResponse { stats, provenance, unchanged, .. } = said.unwrap().unwrap();
                if unchanged {
                    continue;
                }
                let (stats, provenance) = (stats.unwrap(), provenance.unwrap());
                // Every event has the same amount, so that a half that is missing from one measure alone would show.
                assert_eq!(stats.revenue, if stats.found { stats.event_count.to_string() } else { String::new() });
                assert_eq!(provenance.batch_event_count + provenance.speed_event_count, stats.event_count);
                assert!(provenance.complete && stats.event_count <= sent[number].load(SeqCst) as i64, "{stats:?}");
                answers += 1;
                tell.send((provenance.version, stats.event_count.to_string())).ok();
            }
            (answers, started.elapsed())
        });
        Watcher { seen, task }
    }

    /// How each user's answer came to be must add up to it.
    async fn explain(&mut self) {
        for number in 0..USERS {
            let request = GetUserStatsRequest { explain: true, ..question(number, Consistency::Fresh) };
            let GetUserStatsResponse { stats, provenance, explanation } =
                self.cluster.stats.get_user_stats(timed(request)).await.unwrap().into_inner();
            let (stats, provenance, explanation) = (stats.unwrap(), provenance.unwrap(), explanation.unwrap());
            assert_eq!(stats.event_count, self.expected(number));
            assert_eq!((provenance.version, explanation.slices_missing_reason.as_str()), (self.version, ""));
            let of_batch = explanation.batch.as_ref().unwrap();
            let of_slices: i64 = explanation.slices.iter().map(|slice| slice.event_count).sum();
            assert_eq!(of_batch.event_count + of_slices, stats.event_count, "{explanation:?}");
            assert_eq!(of_slices, provenance.speed_event_count);
            // From the boundary to the head of one partition, without a gap.
            let partition = explanation.slices[0].partition;
            let at = |edges: &[PartitionOffset]| edges.iter().find(|at| at.partition == partition).map_or(0, |at| at.offset);
            let mut reached = at(&provenance.boundary);
            for slice in &explanation.slices {
                assert_eq!((slice.partition, slice.start_offset), (partition, reached));
                reached = slice.end_offset;
            }
            assert_eq!(reached, at(&provenance.head));
            assert!(explanation.batch_duration.is_some() && explanation.speed_duration.is_some());
            if self.version > 0 {
                assert!(explanation.files.iter().any(|file| file.path.contains("views/user_stats/")), "{explanation:?}");
                assert!(!explanation.run_id.is_empty());
                assert_eq!(explanation.parent_version, self.version - 1);
                assert_eq!(explanation.batch_row_count > 0, of_batch.found);
            }
        }
    }
}

/// Proves that watchers, while events come, a late copy among them, and versions are published, see the last answer of every round, never
/// one that cannot be, and no more of them than was asked for; that each version says later what it said while it was the newest, also
/// to whoever adds what came since; and that the parts an explanation names add up.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn watched_explained_and_asked_again() {
    let cluster = Cluster::start(true, |config| {
        config.log.partitions = 3;
        config.log.dedup_window_rows = 4;
    })
    .await
    .unwrap();
    let mut world = World { cluster, oracle: Oracle::default(), sent: Arc::default(), version: 0 };
    let stop = Arc::new(AtomicBool::new(false));
    let mut watchers: Vec<Watcher> = (0..2 * USERS).map(|i| world.watch(i % USERS, &stop)).collect();
    let mut said: BTreeMap<i64, Vec<UserStats>> = BTreeMap::new();
    for round in 0..ROUNDS {
        let ids: Vec<String> = (0..10).map(|i| format!("{round}-{}", "x".repeat(i % 3) + &i.to_string())).collect();
        let events: Vec<(usize, &str)> = ids.iter().enumerate().map(|(i, id)| (i % USERS, id.as_str())).collect();
        world.append(&events).await;
        if round == 4 {
            // Far beyond the window: it counts until the next version.
            world.append(&[(0, "0-0")]).await;
        }
        world.all_see_it(&mut watchers).await;
        world.explain().await;
        // A version comes while nobody appends, so that the oracle knows what it covers; watchers look all the while.
        if round % 2 == 0 {
            let version = world.cluster.batch_run().await.unwrap().expect("there is something to publish");
            world.version = version;
            world.cluster.wait_for_version(version).await.unwrap();
            world.all_see_it(&mut watchers).await;
            let mut of_version = Vec::new();
            for number in 0..USERS {
                let answer = world.cluster.stats.get_user_stats(timed(question(number, Consistency::BatchOnly))).await.unwrap();
                of_version.push(answer.into_inner().stats.unwrap());
            }
            said.insert(version, of_version);
        }
    }
    stop.store(true, SeqCst);
    for watcher in watchers {
        let (answers, elapsed) = watcher.task.await.unwrap();
        println!("{answers} answers in {elapsed:?}");
        assert!(answers >= ROUNDS && answers as u128 <= elapsed.as_millis() / INTERVAL.as_millis() + 1, "{answers} in {elapsed:?}");
    }

    let newest = world.version;
    assert_eq!((newest, said.len()), (ROUNDS as i64 / 2, ROUNDS / 2));
    let mut client = world.cluster.stats.clone();
    for (version, then) in &said {
        for (number, stats) in then.iter().enumerate() {
            let mut as_of = async |consistency| {
                let request = GetUserStatsRequest { version: *version, explain: true, ..question(number, consistency) };
                client.get_user_stats(timed(request)).await.map(Response::into_inner)
            };
            let again = as_of(Consistency::Unspecified).await.unwrap();
            assert_eq!((again.stats.as_ref(), again.provenance.unwrap().version), (Some(stats), *version));
            let corrected = again.explanation.unwrap().late_duplicate_count;
            assert_eq!(corrected, i64::from(*version >= 3), "version 3 is the first that covers the copy");
            match as_of(Consistency::Fresh).await {
                Ok(fresh) if *version >= newest - 1 => assert_eq!(fresh.stats.unwrap().event_count, world.expected(number)),
                Err(refused) if *version < newest - 1 => assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}"),
                other => panic!("version {version}: {other:?}"),
            }
        }
    }
    world.cluster.stop().await.unwrap();
}
