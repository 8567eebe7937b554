//! T2, the network: whole servers, each on a host of its own, over a simulated TCP that one seed decides.
//!
//! What runs is what `main` runs: `speed_layer::run_on`, `serving_layer::run_on`, `batch_layer::run_on`, with tonic's servers and
//! channels, HTTP/2, keep-alives and time limits. turmoil carries their bytes, and loses, delays, reorders or holds them
//! (`storm`). Disk, object store, chance, oracle and clients are those of [`crate::sim`], which has no network: what they find
//! alone, it finds faster.
//!
//! ```text
//! clients ──► speed ◄── batch-0, batch-1      each arrow a link that can be cut, in one direction or both, held or slowed down,
//!    └─────► serving ──► speed                each host a process that dies and starts again
//! ```
//!
//! While nothing gets from the serving layer to the speed layer, no answer may pass for complete (row 13 of the faults). Then
//! everything is mended, and every event must be counted once.

mod hosts;
mod report;
mod storm;
mod wire;

use std::cell::Cell;
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

use crate::sim::chance::Chance;
use crate::sim::clients::Clients;
use crate::sim::faults::{Fault, Weather};
use crate::sim::oracle::Oracle;
use crate::sim::process::{Stopwatch, Trace};
use crate::sim::world::World;
use crate::sim::{self, calm};
use hosts::{CLIENTS, Net};
pub use report::Report;
use storm::Storm;

/// Users of a run: each has room for [`crate::sim::oracle::EVENTS_PER_USER`] events.
const USERS: usize = 32;
/// Appends of each writer, and questions of each asker: about a thousand operations together.
const APPENDS: [usize; 2] = [230, 150];
const QUESTIONS: [usize; 2] = [370, 250];
/// How often a batch run is not the only one.
const TWO_BATCHES_PER_MILLE: u32 = 120;
/// Every resend is recognised: here an event is sent more often than its digit of the sum can count.
const DEDUP_WINDOW_ROWS: u32 = 1_000_000;
/// Every host runs for so long before the next one does.
const TICK: Duration = Duration::from_millis(1);
/// Simulated time that a run may take.
const PATIENCE: Duration = Duration::from_secs(3600);
/// Segments on their way on one connection.
const SOCKET_SEGMENTS: usize = 1024;

/// What befalls disk and store at rates of a run's own; [`storm`] has the rest.
const WEATHER: [Fault; 11] = [
    Fault::KilledAtDisk,
    Fault::PowerCutAtDisk,
    Fault::SyncFails,
    Fault::WriteFails,
    Fault::DiskFull,
    Fault::StoreFails,
    Fault::StoreReplyLost,
    Fault::StorePutTwice,
    Fault::StoreSlow,
    Fault::ListLate,
    Fault::KilledAtStore,
];

/// Runs whole servers on the network of one seed. With `printed`, every step is printed.
///
/// # Errors
/// What was wrong: an event lost or counted twice, an answer that passes for complete and is not, a server that refuses what it
/// wrote or does not recover, a panic.
pub fn simulate(seed: u64, printed: bool) -> Result<Report, String> {
    let panics = panics();
    let (chance, stopwatch) = (Chance::new(seed), Stopwatch::driven());
    let trace = Trace::new(printed, &stopwatch);
    let weather = Weather::among(&chance, &WEATHER);
    let world = World::new(&chance, &trace, weather.clone(), DEDUP_WINDOW_ROWS, &stopwatch);
    let net = Net::new(&world, &stopwatch);
    let mut storm = Storm::new(&net);

    let mut network = turmoil::Builder::new();
    network.rng_seed(seed).tick_duration(TICK).simulation_duration(PATIENCE).tcp_capacity(SOCKET_SEGMENTS);
    network.min_message_latency(Duration::from_millis(1)).max_message_latency(storm.usual_latency());
    let mut network = network.build();
    hosts::start(&mut network, &net);
    let told = Arc::new(Mutex::new(None));
    let telling = Arc::clone(&told);
    let clients_net = net.clone();
    let oracle = Oracle::new(USERS, true);
    network.client(CLIENTS, async move {
        let report = story(&clients_net, oracle).await;
        *telling.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
        Ok(())
    });

    loop {
        stopwatch.turn_to(network.elapsed());
        storm.strike(&mut network);
        let done = network.step().map_err(|e| format!("the network: {e}"))?;
        if let Some(wrong) = net.wrong() {
            return Err(wrong);
        }
        if done {
            break;
        }
    }
    if self::panics() > panics {
        return Err("something panicked, see above".to_owned());
    }
    let told = told.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_else(|| Err("the clients have no report".to_owned()));
    let mut sim = told?;
    sim.runs = 1;
    sim.tally = weather.tally();
    sim.digest = trace.digest();
    Ok(Report { sim, operations: weather.operations(), simulated: network.elapsed() })
}

/// What the clients do: everything at once while things go wrong, then everything again while nothing does.
async fn story(net: &Net, oracle: Oracle) -> Result<sim::Report, String> {
    let world = &net.world;
    let mut clients = Clients::over(world, oracle, USERS, net.to_speed(CLIENTS), net.to_serving(CLIENTS));
    clients.between = net.between.clone();
    tokio::select! {
        biased;
        told = operations(net, &clients) => told?,
        () = hosts::restart_unhealthy(net) => {}
    }
    world.absorb().await?;
    let report = clients.report.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(report)
}

async fn operations(net: &Net, clients: &Clients) -> Result<(), String> {
    let (world, runs) = (&net.world, 3 + net.world.chance.below(4));
    tokio::try_join!(
        write(clients, APPENDS[0]),
        write(clients, APPENDS[1]),
        clients.ask(QUESTIONS[0]),
        clients.ask(QUESTIONS[1]),
        run_batches(net, clients, runs),
    )?;
    world.weather.calm();
    world.disk.set_capacity(None);
    calm(clients, || net.batch(0)).await
}

/// Sends so many appends, none too soon after one that came to nothing: a server that is away would use them all up.
async fn write(clients: &Clients, appends: usize) -> Result<(), String> {
    let unknown = || clients.report.lock().unwrap_or_else(PoisonError::into_inner).unknown;
    for _ in 0..appends {
        let before = unknown();
        clients.write(1).await?;
        if unknown() > before {
            tokio::time::sleep(clients.world.chance.micros(400_000)).await;
        }
    }
    Ok(())
}

/// Runs the batch so many times, now and then two at once.
async fn run_batches(net: &Net, clients: &Clients, runs: usize) -> Result<(), String> {
    for _ in 0..runs {
        tokio::time::sleep(net.world.chance.micros(3_000_000)).await;
        let under_way = net.world.weather.under_way();
        if net.world.chance.happens(TWO_BATCHES_PER_MILLE) {
            net.world.weather.note(Fault::TwoBatches);
            let (one, other) = tokio::try_join!(net.batch(0), net.batch(1))?;
            clients.note_batch(&one);
            clients.note_batch(&other);
        } else {
            clients.note_batch(&net.batch(0).await?);
        }
        drop(under_way);
    }
    Ok(())
}

thread_local! {
    static PANICS: Cell<u64> = const { Cell::new(0) };
}

/// Panics on this thread so far. The runtimes catch those of tasks, and would let a run go on without them.
fn panics() -> u64 {
    static COUNTED: Once = Once::new();
    COUNTED.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.with(|count| count.set(count.get() + 1));
            before(panic);
        }));
    });
    PANICS.with(Cell::get)
}
