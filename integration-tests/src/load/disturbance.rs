//! What callers notice of a publish, a rollback, a recompute and a restart: the same open load throughout, with events going in
//! beside it to the very users who are asked for.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use merganser_proto::v1::AppendEventsRequest;
use merganser_proto::v1::ingest_service_client::IngestServiceClient;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::task::JoinHandle;
use tokio::time::{interval, sleep};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

use super::calls::Asker;
use super::history::History;
use super::open;
use super::tally::Tally;
use super::world::World;

/// Events a second that go in beside the questions.
pub const EVENTS_PER_SECOND: u32 = 500;
/// Events of one append.
const EVENTS: u32 = 10;
/// How long the load goes on after what happened.
const AFTERWARDS: Duration = Duration::from_secs(2);
/// Longest disturbance.
const LONGEST: Duration = Duration::from_secs(1_800);

/// What happens under load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disturbance {
    /// Nothing, for so many seconds.
    Nothing(u64),
    /// A full run of the batch layer, which publishes.
    FullRun,
    /// An incremental one.
    IncrementalRun,
    /// A rollback to the version before: a swap and nothing else.
    Rollback,
    /// The speed layer stops and comes back over its log.
    SpeedLayerRestart,
}

impl Disturbance {
    /// For tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing(_) => "nothing",
            Self::FullRun => "full recompute and publish",
            Self::IncrementalRun => "incremental run and publish",
            Self::Rollback => "rollback",
            Self::SpeedLayerRestart => "restart of the speed layer",
        }
    }

    async fn happen(self, world: &mut World) -> Result<Duration> {
        let started = tokio::time::Instant::now();
        match self {
            Self::Nothing(seconds) => sleep(Duration::from_secs(seconds)).await,
            Self::FullRun => drop(world.batch_layer(&["run"]).await?),
            Self::IncrementalRun => drop(world.batch_layer(&["run", "--incremental"]).await?),
            Self::Rollback => {
                let newest = newest(&world.batch_layer(&["versions"]).await?).context("`batch-layer versions` names no version")?;
                world.batch_layer(&["rollback", &(newest - 1).to_string()]).await?;
            }
            Self::SpeedLayerRestart => return world.restart_speed_layer().await,
        }
        Ok(started.elapsed())
    }
}

/// Keeps up `per_second` questions while it happens and a little longer. Gives what came of them, the seconds of load, and how long
/// what happened took.
///
/// # Errors
/// What should happen does not.
pub async fn under_load(world: &mut World, asker: &Asker, per_second: f64, what: Disturbance) -> Result<(Tally, f64, Duration)> {
    let stop = CancellationToken::new();
    let asker = asker.clone();
    let load = tokio::spawn(open::run(move |random: &mut StdRng| asker.ask(random), per_second, LONGEST, stop.clone()));
    let events = feed(world.speed_address()?, &world.history, stop.clone())?;
    let happened = what.happen(world).await;
    sleep(AFTERWARDS).await;
    stop.cancel();
    let (tally, seconds) = load.await.context("the load ended early")?;
    events.await.context("the events ended early")?;
    Ok((tally, seconds, happened?))
}

/// Sends events until told to stop, and notes which are acknowledged. One that fails may be in or not: it stays sent, and is not
/// sent again.
fn feed(address: &str, history: &Arc<History>, stop: CancellationToken) -> Result<JoinHandle<()>> {
    let mut client = IngestServiceClient::new(Endpoint::from_shared(address.to_owned())?.connect_lazy());
    let history = Arc::clone(history);
    let mut ticks = interval(Duration::from_secs(1) * EVENTS / EVENTS_PER_SECOND);
    Ok(tokio::spawn(async move {
        let mut random = StdRng::seed_from_u64(0);
        while !stop.is_cancelled() {
            ticks.tick().await;
            let users: Vec<u64> = (0..EVENTS).map(|_| history.popular(&mut random)).collect();
            let events = users.iter().map(|user| history.next(*user)).collect();
            if client.append_events(AppendEventsRequest { events }).await.is_ok() {
                users.into_iter().for_each(|user| history.acknowledge(user));
            }
        }
    }))
}

/// The largest number at the start of a line.
fn newest(versions: &str) -> Option<i64> {
    versions.lines().filter_map(|line| line.split_whitespace().next()?.trim_start_matches('v').parse().ok()).max()
}
