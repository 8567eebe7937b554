//! The hosts: one life of each server, and what they share.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use batch_layer::RunOptions;
use batch_layer::progress::Silent;
use merganser_proto::Transport;
use merganser_proto::v1::ingest_service_server::IngestServiceServer;
use tokio::sync::{Mutex as AsyncMutex, mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use turmoil::Sim;

use super::wire::{self, Connections};
use crate::sim::clients::Between;
use crate::sim::process::{Process, SimClock, Stopwatch};
use crate::sim::runs::{Batch, judged};
use crate::sim::world::{World, check_start, in_one_line};

/// Names of hosts.
pub(super) const SPEED: &str = "speed";
pub(super) const SERVING: &str = "serving";
pub(super) const BATCHES: [&str; 2] = ["batch-0", "batch-1"];
pub(super) const CLIENTS: &str = "clients";
/// A client gives up a silent server earlier than the layers do one another: it has more to do.
const CLIENT_PATIENCE: Duration = Duration::from_secs(1);
/// How often somebody looks whether the speed layer is well.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// What hosts and storm share. Clones are the same.
#[derive(Clone)]
pub(super) struct Net {
    pub(super) world: World,
    pub(super) connections: Connections,
    pub(super) between: Between,
    /// The clock of the batch layer's machines; the speed layer's is the world's.
    pub(super) batch_clock: SimClock,
    stopwatch: Stopwatch,
    lives: Arc<Mutex<BTreeMap<&'static str, Life>>>,
    count: Arc<AtomicU32>,
    orders: [Orders; 2],
    wrong: Arc<Mutex<Option<String>>>,
}

/// What runs on a host, and since when.
#[derive(Clone)]
pub(super) struct Life {
    pub(super) process: Process,
    pub(super) born: Duration,
}

/// Batch runs that are to be made on one host.
#[derive(Clone)]
struct Orders {
    sender: mpsc::UnboundedSender<Order>,
    receiver: Arc<AsyncMutex<mpsc::UnboundedReceiver<Order>>>,
}

/// Takes the outcome; it is dropped where the run dies.
type Order = oneshot::Sender<Result<Batch, String>>;

impl Net {
    pub(super) fn new(world: &World, stopwatch: &Stopwatch) -> Self {
        let orders = || {
            let (sender, receiver) = mpsc::unbounded_channel();
            Orders { sender, receiver: Arc::new(AsyncMutex::new(receiver)) }
        };
        Self {
            world: world.clone(),
            connections: Connections::default(),
            between: Between::default(),
            batch_clock: SimClock::new(stopwatch),
            stopwatch: stopwatch.clone(),
            lives: Arc::default(),
            count: Arc::default(),
            orders: [orders(), orders()],
            wrong: Arc::default(),
        }
    }

    pub(super) fn to_speed(&self, from: &'static str) -> Transport {
        wire::channel(from, SPEED, (from == CLIENTS).then_some(CLIENT_PATIENCE), &self.connections)
    }

    pub(super) fn to_serving(&self, from: &'static str) -> Transport {
        wire::channel(from, SERVING, Some(CLIENT_PATIENCE), &self.connections)
    }

    /// One batch run on a host.
    ///
    /// # Errors
    /// It found something wrong that no fault explains.
    pub(super) async fn batch(&self, host: usize) -> Result<Batch, String> {
        let (order, outcome) = oneshot::channel();
        self.orders[host].sender.send(order).expect("the receiver outlives every process");
        outcome.await.unwrap_or(Ok(Batch::Killed))
    }

    /// What runs on a host, if something does.
    pub(super) fn life(&self, host: &'static str) -> Option<Life> {
        self.lives.lock().unwrap_or_else(PoisonError::into_inner).get(host).cloned()
    }

    /// Nothing runs there any more.
    pub(super) fn ended(&self, host: &'static str) {
        self.lives.lock().unwrap_or_else(PoisonError::into_inner).remove(host);
    }

    pub(super) fn now(&self) -> Duration {
        self.stopwatch.elapsed()
    }

    /// What no fault explains, once something was found.
    pub(super) fn wrong(&self) -> Option<String> {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is_wrong(&self, wrong: String) {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(wrong);
    }

    fn born(&self, host: &'static str) -> Process {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let process = Process::new(format!("{host}#{number}"), &self.world.chance, &self.world.trace);
        let life = Life { process: process.clone(), born: self.now() };
        self.lives.lock().unwrap_or_else(PoisonError::into_inner).insert(host, life);
        process
    }
}

/// Gives every server a host. A life that has ended stays as it is until the storm clears it away.
pub(super) fn start(network: &mut Sim<'_>, net: &Net) {
    let of_speed = net.clone();
    network.host(SPEED, move || speed(of_speed.clone()));
    let of_serving = net.clone();
    network.host(SERVING, move || serving(of_serving.clone()));
    for (number, host) in BATCHES.into_iter().enumerate() {
        let of_batch = net.clone();
        network.host(host, move || batch(of_batch.clone(), number));
    }
}

/// The operator: a speed layer that says it takes no events any more is started again. Does not end.
pub(super) async fn restart_unhealthy(net: &Net) {
    let service = IngestServiceServer::<()>::NAME.to_owned();
    let mut health = HealthClient::new(net.to_speed(CLIENTS));
    loop {
        sleep(PROBE_INTERVAL).await;
        let answer = timeout(PROBE_INTERVAL, health.check(HealthCheckRequest { service: service.clone() })).await;
        if let Ok(Ok(answer)) = answer
            && answer.into_inner().status() == ServingStatus::NotServing
            && let Some(life) = net.life(SPEED)
        {
            life.process.trace(|| "takes no events, and is started again".to_owned());
            life.process.kill();
        }
    }
}

async fn speed(net: Net) -> turmoil::Result {
    let (process, world) = (net.born(SPEED), &net.world);
    world.plan_disk_fault();
    let incoming = Box::pin(wire::listen().await?);
    let machine = world.machine_with(&world.clock);
    let store = world.store(&process);
    let served = speed_layer::run_on(machine, world.config.clone(), store, incoming, CancellationToken::new()).await;
    if let Err(e) = served {
        process.trace(|| format!("ends: {}", in_one_line(&e)));
        // What a process says whose disk died before it is not its own opinion.
        if !world.disk.crashed()
            && let Err(wrong) = check_start(&e)
        {
            net.is_wrong(wrong);
        }
    }
    process.kill();
    std::future::pending().await
}

async fn serving(net: Net) -> turmoil::Result {
    let (process, world) = (net.born(SERVING), &net.world);
    let incoming = Box::pin(wire::listen().await?);
    let (config, events) = (world.config.serving_layer.clone(), world.config.events.clone());
    let store = world.store(&process);
    let served = serving_layer::run_on(
        world.machine_with(&world.clock),
        config,
        store,
        events,
        net.to_speed(SERVING),
        incoming,
        CancellationToken::new(),
    )
    .await;
    if let Err(e) = served {
        process.trace(|| format!("ends: {}", in_one_line(&e)));
    }
    process.kill();
    std::future::pending().await
}

/// One run, once there is an order.
async fn batch(net: Net, number: usize) -> turmoil::Result {
    let Some(order) = net.orders[number].receiver.lock().await.recv().await else { return Ok(()) };
    let (process, world) = (net.born(BATCHES[number]), &net.world);
    let view = "user_stats".parse().expect("it is the name of a view");
    let options = RunOptions { incremental: number % 2 == 1, ..RunOptions::from_config(&world.config, view) };
    let store = world.store(&process);
    let machine = world.machine_with(&net.batch_clock);
    let run = batch_layer::run_on(machine, Some(net.to_speed(BATCHES[number])), &options, &store, Arc::new(Silent));
    let outcome = tokio::select! {
        biased;
        () = process.death() => return std::future::pending().await,
        outcome = run => outcome,
    };
    // Nobody waits any more where the clients have found something wrong.
    drop(order.send(judged(&process, outcome)));
    process.kill();
    std::future::pending().await
}
