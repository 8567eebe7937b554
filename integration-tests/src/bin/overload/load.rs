//! Load on servers of their own process: idle, then as fast as a few callers can, then open at multiples of that.

use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use integration_tests::certificates::{mutual, of_tonic};
use integration_tests::identities::known;
use merganser_proto::v1::ingest_service_client::IngestServiceClient;
use merganser_proto::v1::user_stats_service_client::UserStatsServiceClient;
use merganser_proto::v1::{AppendEventsRequest, BatchGetUserStatsRequest, Event};
use prost_types::Timestamp;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::tally::{Tally, print_head, print_row};

/// Connections that calls are spread over.
const CONNECTIONS: usize = 8;
/// Events of one append.
const EVENTS: usize = 20;
/// Users of one question.
const USERS: usize = 20;
/// Users that there are.
const ALL_USERS: u64 = 1000;
/// Load, in capacities.
const LOADS: [f64; 4] = [0.5, 1.0, 2.0, 3.0];
/// A pause between rows, so that one does not pay for another.
const REST: Duration = Duration::from_secs(1);

/// Measures both kinds of calls and prints the table.
#[allow(clippy::print_stdout)]
pub(crate) async fn run(row: Duration, tls: bool) -> Result<()> {
    let servers = Servers::start(tls).await?;
    print_head();
    for kind in [Kind::Append, Kind::Ask] {
        let idle = one_after_the_other(&servers, kind, row).await;
        let idle_p99 = idle.percentile(99.0);
        let name = kind.name();
        let busy = side_by_side(&servers, kind, row).await;
        let capacity = busy.goodput();
        print_row(&format!("{name}, idle"), &idle, idle_p99, capacity, servers.resident_bytes()?);
        print_row(&format!("{name}, {} callers", kind.callers()), &busy, idle_p99, capacity, servers.resident_bytes()?);
        for load in LOADS {
            tokio::time::sleep(REST).await;
            let tally = open_loop(&servers, kind, capacity * load, row).await;
            print_row(&format!("{name}, {load} x capacity"), &tally, idle_p99, capacity, servers.resident_bytes()?);
        }
    }
    println!(
        "\nan append has {EVENTS} events, a question {USERS} users; times from when a call was due; capacity is what callers get who wait for each answer"
    );
    Ok(())
}

/// Kinds of calls.
#[derive(Clone, Copy)]
enum Kind {
    Append,
    Ask,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Append => "appends",
            Self::Ask => "questions",
        }
    }

    /// Callers that ask again as soon as they are answered, to find the capacity: as many as keep the servers busy, and fewer than
    /// are let in.
    fn callers(self) -> usize {
        match self {
            Self::Append => 32,
            Self::Ask => 8,
        }
    }
}

struct Servers {
    child: Child,
    ingest: Vec<IngestServiceClient<Channel>>,
    stats: Vec<UserStatsServiceClient<Channel>>,
    next: AtomicU64,
    _dir: tempfile::TempDir,
}

impl Servers {
    async fn start(tls: bool) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let tls = if tls { Some(mutual(dir.path())?.1) } else { None };
        if tls.is_some() {
            known(dir.path())?;
        }
        let log = std::fs::File::create(dir.path().join("log"))?;
        let mut child = Command::new(std::env::current_exe()?)
            .arg("serve")
            .args(tls.is_some().then_some("--tls"))
            .arg(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("it has a standard output")?).lines();
        let line = lines.next_line().await?.context("the servers did not start")?;
        let (speed, serving) = line.split_once(' ').context("two addresses")?;
        let channels = |address: &str| {
            let url = tls.as_ref().map_or_else(|| format!("http://{address}"), |tls| tls.url_of(address));
            let mut endpoint = Endpoint::from_shared(url)?.timeout(Duration::from_secs(20));
            if let Some(tls) = &tls {
                endpoint = endpoint.tls_config(of_tonic(tls)?)?;
            }
            anyhow::Ok((0..CONNECTIONS).map(|_| endpoint.connect_lazy()).collect::<Vec<_>>())
        };
        let servers = Self {
            ingest: channels(speed)?.into_iter().map(IngestServiceClient::new).collect(),
            stats: channels(serving)?.into_iter().map(UserStatsServiceClient::new).collect(),
            child,
            next: AtomicU64::new(0),
            _dir: dir,
        };
        // Every connection is made before anything is measured.
        for _ in 0..4 * CONNECTIONS {
            while servers.call(Kind::Append).await.is_err() || servers.call(Kind::Ask).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(servers)
    }

    fn call(&self, kind: Kind) -> impl Future<Output = Result<(), Status>> + Send + 'static {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let connection = number as usize % CONNECTIONS;
        let (mut ingest, mut stats) = (self.ingest[connection].clone(), self.stats[connection].clone());
        async move {
            match kind {
                Kind::Append => {
                    let events = (0..EVENTS).map(|i| event(number, i)).collect();
                    ingest.append_events(AppendEventsRequest { events }).await.map(drop)
                }
                Kind::Ask => {
                    let user_ids = (0..USERS as u64).map(|i| format!("user-{}", (number * 7 + i * 31) % ALL_USERS)).collect();
                    stats.batch_get_user_stats(BatchGetUserStatsRequest { user_ids, ..Default::default() }).await.map(drop)
                }
            }
        }
    }

    fn resident_bytes(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id().context("the servers run")?))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a process has one")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }
}

fn event(number: u64, i: usize) -> Event {
    let event_time = Some(Timestamp { seconds: 1_700_000_000 + (number % 30) as i64 * 86_400, nanos: 0 });
    let user_id = format!("user-{}", (number + i as u64 * 13) % ALL_USERS);
    Event { event_id: format!("{number}-{i}"), user_id, event_time, event_type: "sale".into(), amount: "12.34".into(), ..Event::default() }
}

async fn one_after_the_other(servers: &Servers, kind: Kind, row: Duration) -> Tally {
    let (mut tally, started) = (Tally::default(), Instant::now());
    while started.elapsed() < row {
        let due = Instant::now();
        let outcome = servers.call(kind).await;
        tally.add(due.elapsed(), &outcome);
    }
    tally.seconds = started.elapsed().as_secs_f64();
    tally
}

async fn side_by_side(servers: &Servers, kind: Kind, row: Duration) -> Tally {
    let (mut tally, started, mut calls) = (Tally::default(), Instant::now(), JoinSet::new());
    let timed = |due: Instant| {
        let call = servers.call(kind);
        async move {
            let outcome = call.await;
            (due.elapsed(), outcome)
        }
    };
    for _ in 0..kind.callers() {
        calls.spawn(timed(Instant::now()));
    }
    while let Some(Ok((took, outcome))) = calls.join_next().await {
        tally.add(took, &outcome);
        if started.elapsed() < row {
            calls.spawn(timed(Instant::now()));
        }
    }
    tally.seconds = started.elapsed().as_secs_f64();
    tally
}

/// `rate` calls a second, each on its time.
async fn open_loop(servers: &Servers, kind: Kind, rate: f64, row: Duration) -> Tally {
    let (outcomes, mut ended) = mpsc::unbounded_channel();
    let started = Instant::now();
    let calls = (rate * row.as_secs_f64()) as u64;
    for i in 0..calls {
        let due = started + Duration::from_secs_f64(i as f64 / rate);
        if due > Instant::now() {
            sleep_until(due).await;
        }
        let (call, outcomes) = (servers.call(kind), outcomes.clone());
        tokio::spawn(async move {
            let outcome = call.await;
            let _all_are_counted = outcomes.send((due.elapsed(), outcome));
        });
    }
    drop(outcomes);
    let mut tally = Tally::default();
    while let Some((took, outcome)) = ended.recv().await {
        tally.add(took, &outcome);
    }
    tally.seconds = started.elapsed().as_secs_f64();
    tally
}
