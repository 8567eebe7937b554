//! Three servers on one simulated machine: started, killed, unplugged, started again.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use merganser_proto::Transport;
use serving_layer::ServingLayer;
use speed_layer::SpeedLayer;
use storage::config::{ByteSize, Config, Period};
use storage::log::disk::{Call, Disk, Fault as DiskFault, MemoryDisk, Survivors};
use storage::machine::Machine;
use storage::store::Store;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use views::schema::AttributeType;

use super::chance::Chance;
use super::faults::{Fault, Weather};
use super::link::{Address, Link};
use super::process::{Process, SimClock, Stopwatch, Trace};
use super::runs::Batches;
use super::store::Objects;

/// Where the log is on the simulated disk.
pub(crate) const DATA: &str = "/data";
/// An attribute of the events, a text.
pub(super) const NOTE: &str = "note";
/// How long a server may take to come up when nothing goes wrong any more.
const CALM_PATIENCE: Duration = Duration::from_secs(300);

/// What the servers run on, and where they are found. Clones are the same world.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) config: Config,
    pub(crate) chance: Chance,
    pub(crate) weather: Weather,
    pub(crate) trace: Trace,
    pub(crate) disk: MemoryDisk,
    pub(crate) objects: Objects,
    pub(crate) clock: SimClock,
    pub(super) speed: Address,
    pub(super) serving: Address,
    /// From the serving layer to the speed layer.
    pub(super) between: Link,
    pub(super) batches: Arc<Mutex<Batches>>,
    /// The fault of the disk that is planned for this life, and how many had struck before.
    planned: Arc<Mutex<Option<(Fault, u64)>>>,
    /// The next death of the speed layer is a power cut that nothing unsynced outlives.
    unplugged: Arc<AtomicBool>,
}

/// The machine of one process.
#[derive(Debug)]
struct SimMachine {
    disk: Arc<dyn Disk>,
    clock: SimClock,
    chance: Chance,
}

impl Machine for SimMachine {
    fn disk(&self) -> Arc<dyn Disk> {
        Arc::clone(&self.disk)
    }

    fn now(&self) -> SystemTime {
        self.clock.now()
    }

    fn random(&self) -> u128 {
        self.chance.bits()
    }
}

impl World {
    pub(crate) fn new(chance: &Chance, trace: &Trace, weather: Weather, dedup_window_rows: u32, stopwatch: &Stopwatch) -> Self {
        let mut config = Config::default();
        config.events.attributes.insert(NOTE.to_owned(), AttributeType::String);
        config.log.dir = DATA.into();
        config.log.partitions = 1 + chance.below(3) as u32;
        config.log.dedup_window_rows = dedup_window_rows;
        config.log.segment_bytes = ByteSize(chance.pick(&[400, 1_500, 1 << 20]));
        config.log.segment_age = Period(Duration::from_secs(chance.pick(&[1, 600])));
        config.views.dir = "/there/are/no/views".into();
        config.speed_layer.poll_interval = Period(Duration::from_millis(chance.pick(&[50, 500])));
        config.serving_layer.poll_interval = Period(Duration::from_millis(chance.pick(&[50, 500])));
        let speed = Address::default();
        let between = Link::new(&speed, &weather, chance);
        Self {
            config,
            chance: chance.clone(),
            weather,
            trace: trace.clone(),
            disk: MemoryDisk::new(),
            objects: Objects::new(stopwatch),
            clock: SimClock::new(stopwatch),
            speed,
            serving: Address::default(),
            between,
            batches: Arc::default(),
            planned: Arc::default(),
            unplugged: Arc::default(),
        }
    }

    pub(super) fn machine(&self) -> Arc<dyn Machine> {
        self.machine_with(&self.clock)
    }

    /// A machine whose clock is its own.
    pub(crate) fn machine_with(&self, clock: &SimClock) -> Arc<dyn Machine> {
        Arc::new(SimMachine { disk: self.disk.process(), clock: clock.clone(), chance: self.chance.clone() })
    }

    pub(crate) fn store(&self, process: &Process) -> Store {
        Store::from_object_store(Arc::new(self.objects.seen_by(process, &self.weather)))
    }

    /// Keeps the speed layer running, for ever.
    ///
    /// # Errors
    /// It refuses to start for a reason that no fault explains.
    pub(crate) async fn keep_speed(&self) -> Result<(), String> {
        let mut calm_since = None;
        for life in 0.. {
            let process = Process::new(format!("speed-{life}"), &self.chance, &self.trace);
            self.plan_disk_fault();
            let watched = self.watched(&process);
            let opening = SpeedLayer::open(self.machine(), self.config.clone(), self.store(&process));
            let opened = tokio::select! {
                biased;
                () = watched => None,
                opened = opening => Some(opened),
            };
            match opened {
                None => {}
                Some(Ok(mut layer)) => {
                    calm_since = None;
                    process.trace(|| "is up".to_owned());
                    self.speed.serve(layer.routes(), &process);
                    let log_failed = layer.log_failed();
                    tokio::select! {
                        biased;
                        () = self.watched(&process) => {}
                        ended = layer.first_end() => {
                            // A thread that panics, or a fence where there is one server.
                            if !process.is_dead() && !self.disk.crashed() {
                                return Err(format!("the speed layer ends by itself: {}", in_one_line(&ended)));
                            }
                        }
                        () = self.somebody_notices(log_failed) => process.trace(|| "is restarted: its log has failed".to_owned()),
                    }
                    self.speed.gone();
                }
                Some(Err(e)) => {
                    process.trace(|| format!("does not start: {e}"));
                    check_start(&e)?;
                    if self.weather.is_calm() && calm_since.get_or_insert_with(Instant::now).elapsed() > CALM_PATIENCE {
                        return Err(format!("the speed layer does not come up though nothing fails any more: {}", in_one_line(&e)));
                    }
                }
            }
            self.bury(&process);
            sleep(Duration::from_millis(1) + self.chance.micros(300_000)).await;
        }
        Ok(())
    }

    /// Waits until the process dies by itself, by its disk, or by the weather.
    async fn watched(&self, process: &Process) {
        while !process.is_dead() {
            self.look_again(process, 50).await;
            self.note_disk_fault();
            if self.disk.crashed() || self.weather.strikes(Fault::SpeedKilled) || self.weather.strikes(Fault::PowerCut) {
                process.kill();
            }
        }
    }

    /// Waits until somebody who watches the health of a server sees that its log takes no more events.
    async fn somebody_notices(&self, mut log_failed: watch::Receiver<bool>) {
        if log_failed.wait_for(|failed| *failed).await.is_err() {
            std::future::pending::<()>().await;
        }
        sleep(self.chance.micros(2_000_000)).await;
    }

    /// Waits for the death of a process, or for the time to look at it again, which is seldom when nothing goes wrong.
    async fn look_again(&self, process: &Process, every_ms: u64) {
        let pause = Duration::from_millis(if self.weather.is_calm() { 5_000 } else { every_ms });
        tokio::select! {
            biased;
            () = process.death() => {}
            () = sleep(pause) => {}
        }
    }

    /// What is left of a speed layer that died.
    fn bury(&self, process: &Process) {
        process.kill();
        self.note_disk_fault();
        if self.unplugged.swap(false, Ordering::Relaxed) {
            process.trace(|| "unplugged".to_owned());
            self.disk.power_cut(Survivors::None);
            self.disk.clear_plan();
            return;
        }
        let power = self.weather.has(Fault::PowerCutAtDisk) || self.weather.has(Fault::PowerCut);
        let cut = power && self.chance.happens(700);
        self.clear_up(process, cut);
    }

    /// The disk after the death of a speed layer, by a power cut or not.
    pub(crate) fn clear_up(&self, process: &Process, power_cut: bool) {
        self.note_disk_fault();
        if power_cut {
            process.trace(|| "power cut".to_owned());
            self.disk.power_cut(Survivors::Drawn(&mut self.chance.fork()));
        } else {
            self.disk.kill();
        }
        self.disk.clear_plan();
    }

    /// Pulls the plug: whatever was not synced is gone.
    pub(crate) fn unplug(&self) {
        self.unplugged.store(true, Ordering::Relaxed);
        self.speed.kill();
    }

    /// Lets the disk fail at some call of the life that begins.
    pub(crate) fn plan_disk_fault(&self) {
        let after = self.chance.below(60) as u64;
        let crash = || {
            let crash = DiskFault::crash().changing().after(after);
            match self.chance.below(3) {
                0 => crash,
                1 => crash.half_way(),
                _ => crash.afterwards(),
            }
        };
        let error = |call| DiskFault::error(std::io::ErrorKind::Other).on(call).after(after / 4);
        // A life has one chance in four to be cut short by its disk, where that is part of the run.
        let rolls = |fault| self.weather.has(fault) && !self.weather.is_calm() && self.chance.happens(250);
        let planned = [
            (Fault::KilledAtDisk, crash()),
            (Fault::PowerCutAtDisk, crash()),
            (Fault::SyncFails, error(Call::Sync)),
            (Fault::WriteFails, error(Call::Write).half_way()),
            // The disk had promised the room.
            (Fault::DiskFull, DiskFault::error(std::io::ErrorKind::StorageFull).on(Call::Write).after(after / 4).half_way()),
        ];
        // One at a time, so that it is known which one has struck.
        if let Some((fault, plan)) = planned.into_iter().find(|(fault, _)| rolls(*fault)) {
            *self.planned.lock().unwrap_or_else(PoisonError::into_inner) = Some((fault, self.disk.struck()));
            self.disk.plan(plan);
        }
    }

    /// Counts the planned fault once it has struck.
    fn note_disk_fault(&self) {
        let mut planned = self.planned.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((fault, _)) = planned.take_if(|(_, before)| self.disk.struck() > *before) {
            self.weather.note(fault);
        }
    }

    /// Keeps the serving layer running, for ever.
    ///
    /// # Errors
    /// It refuses to start for a reason that no fault explains.
    pub(crate) async fn keep_serving(&self) -> Result<(), String> {
        let mut calm_since = None;
        for life in 0.. {
            let process = Process::new(format!("serving-{life}"), &self.chance, &self.trace);
            let transport = Transport::new(self.between.clone());
            let (store, events) = (self.store(&process), &self.config.events);
            let opening = ServingLayer::open(self.machine(), &self.config.serving_layer, store, events, transport);
            let opened = tokio::select! {
                biased;
                () = process.death() => None,
                opened = opening => Some(opened),
            };
            match opened {
                None => {}
                Some(Ok(layer)) => {
                    calm_since = None;
                    process.trace(|| "is up".to_owned());
                    self.serving.serve(layer.routes(), &process);
                    while !process.is_dead() {
                        self.look_again(&process, 100).await;
                        if self.weather.strikes(Fault::ServingKilled) {
                            process.kill();
                        }
                    }
                    self.serving.gone();
                }
                Some(Err(e)) => {
                    process.trace(|| format!("does not start: {e}"));
                    if self.weather.is_calm() && calm_since.get_or_insert_with(Instant::now).elapsed() > CALM_PATIENCE {
                        return Err(format!("the serving layer does not come up though nothing fails any more: {}", in_one_line(&e)));
                    }
                }
            }
            process.kill();
            sleep(Duration::from_millis(1) + self.chance.micros(100_000)).await;
        }
        Ok(())
    }

    /// Every byte that outlives the processes goes into the trace.
    pub(crate) async fn absorb(&self) -> Result<(), String> {
        for path in self.disk.files() {
            self.trace.absorb(path.as_os_str().as_encoded_bytes());
            self.trace.absorb(&self.disk.contents(Path::new(&path)).unwrap_or_default());
        }
        for (name, bytes) in self.objects.dump().await.map_err(|e| e.to_string())? {
            self.trace.absorb(name.as_bytes());
            self.trace.absorb(&bytes);
        }
        Ok(())
    }
}

/// No fault of the simulation damages what was written, and nobody swaps logs: a speed layer that says so is wrong.
pub(crate) fn check_start(error: &speed_layer::SpeedError) -> Result<(), String> {
    let text = in_one_line(error);
    let wrong = [
        "is damaged",
        "does not start there",
        "older copy",
        "is not the log",
        "other content",
        "made from log",
        "cannot be used",
        "overlap",
    ];
    match wrong.iter().any(|word| text.contains(word)) {
        true => Err(format!("the speed layer refuses its own log: {text}")),
        false => Ok(()),
    }
}

pub(crate) fn in_one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
