//! What goes wrong between hosts and with hosts, when, and for how long; and who starts the dead again.
//!
//! Incidents are spread over the operations of a run, not over its time, so that each of them meets some. Between two steps of the
//! network nothing runs, and that is when they strike.

use std::collections::BTreeMap;
use std::time::Duration;

use turmoil::Sim;

use super::hosts::{BATCHES, CLIENTS, Net, SERVING, SPEED};
use crate::sim::faults::Fault;

/// Every kind of incident.
pub(super) const INCIDENTS: [Fault; 10] = [
    Fault::Partition,
    Fault::OneWay,
    Fault::Held,
    Fault::Jitter,
    Fault::ConnectionLost,
    Fault::SpeedKilled,
    Fault::PowerCut,
    Fault::ServingKilled,
    Fault::BatchKilled,
    Fault::ClockJumps,
];
/// Incidents of a run: at least so many, and so many more at most.
const LEAST_INCIDENTS: usize = 4;
const MORE_INCIDENTS: usize = 7;
/// Operations over which incidents are spread.
const SPREAD: usize = 850;
/// Hosts that talk to one another; the way from the serving layer to the speed layer is the one that can do most harm.
const LINKS: [(&str, &str); 6] =
    [(SERVING, SPEED), (SERVING, SPEED), (CLIENTS, SPEED), (CLIENTS, SERVING), (BATCHES[0], SPEED), (BATCHES[1], SPEED)];

/// See the module.
pub(super) struct Storm {
    net: Net,
    usual_latency: Duration,
    /// What is to come, and after how many operations; the last comes first.
    coming: Vec<(u64, Fault)>,
    /// What has struck and is not over.
    cuts: Vec<Cut>,
    count: u64,
    /// When the dead come back.
    dead: BTreeMap<&'static str, Duration>,
    /// How old a batch run is when it dies, where one is to die.
    doomed_at_age: Option<Duration>,
}

/// A link that is not as it should be.
struct Cut {
    number: u64,
    kind: Fault,
    from: &'static str,
    to: &'static str,
    until: Duration,
}

impl Storm {
    pub(super) fn new(net: &Net) -> Self {
        let chance = &net.world.chance;
        let incidents = LEAST_INCIDENTS + chance.below(MORE_INCIDENTS + 1);
        let mut coming: Vec<_> = (0..incidents).map(|_| (20 + chance.below(SPREAD) as u64, chance.pick(&INCIDENTS))).collect();
        coming.sort_by_key(|(operations, _)| std::cmp::Reverse(*operations));
        let usual_latency = Duration::from_millis(chance.pick(&[1, 4, 20]));
        Self { net: net.clone(), usual_latency, coming, cuts: Vec::new(), count: 0, dead: BTreeMap::new(), doomed_at_age: None }
    }

    /// The most that a message takes where nothing slows it down.
    pub(super) fn usual_latency(&self) -> Duration {
        self.usual_latency
    }

    /// Does what is due.
    pub(super) fn strike(&mut self, network: &mut Sim<'_>) {
        let weather = self.net.world.weather.clone();
        let calm = weather.is_calm();
        if calm {
            self.coming.clear();
            self.doomed_at_age = None;
        }
        if self.coming.last().is_some_and(|(operations, _)| weather.operations() >= *operations) && weather.is_busy() {
            let (_, kind) = self.coming.pop().expect("it was looked at");
            self.begin(kind, network);
        }
        self.kill_batch(network);
        self.clear_the_dead(network);
        self.heal(network, |cut, now| calm || now >= cut.until);
        self.start_the_dead(network, calm);
    }

    fn begin(&mut self, kind: Fault, network: &mut Sim<'_>) {
        let (net, chance) = (self.net.clone(), self.net.world.chance.clone());
        match kind {
            Fault::Partition | Fault::OneWay | Fault::Held | Fault::Jitter => {
                let (mut from, mut to) = chance.pick(&LINKS);
                if chance.happens(500) {
                    (from, to) = (to, from);
                }
                let pause = chance.pick(&[300_000, 3_000_000, 15_000_000]);
                let until = net.now() + chance.micros(pause);
                self.cut(kind, from, to, until, network);
            }
            Fault::ConnectionLost => {
                if let Some(name) = net.connections.break_one(&chance) {
                    self.note(kind, || name);
                }
            }
            Fault::SpeedKilled | Fault::PowerCut => self.kill(SPEED, kind, network),
            Fault::ServingKilled => self.kill(SERVING, kind, network),
            Fault::BatchKilled => self.doomed_at_age = Some(chance.micros(400_000)),
            Fault::ClockJumps => {
                let year_ms = 365 * 86_400_000;
                let skew_ms = chance.pick(&[-20 * year_ms, -3_600_000, 0, 3_600_000, 100 * year_ms]);
                let clock = if chance.happens(500) { &net.world.clock } else { &net.batch_clock };
                clock.jump_to(skew_ms);
                self.note(kind, || format!("{skew_ms} ms"));
            }
            _ => {}
        }
    }

    fn note(&self, kind: Fault, what: impl FnOnce() -> String) {
        self.net.world.weather.note(kind);
        self.net.world.trace.note(|| format!("{kind:?}: {}", what()));
    }

    /// Takes a link away, wholly or in part. One that something else has befallen is left at that.
    fn cut(&mut self, kind: Fault, from: &'static str, to: &'static str, until: Duration, network: &mut Sim<'_>) {
        if self.cuts.iter().any(|cut| cut.is_between(from, to)) {
            return;
        }
        self.note(kind, || format!("{from} to {to} until {} ms", until.as_millis()));
        self.begin_cut(kind, from, to, until, network);
    }

    fn begin_cut(&mut self, kind: Fault, from: &'static str, to: &'static str, until: Duration, network: &mut Sim<'_>) {
        match kind {
            Fault::OneWay => network.partition_oneway(from, to),
            Fault::Held => network.hold(from, to),
            Fault::Jitter => {
                let most = self.net.world.chance.pick(&[50, 400, 3_000]);
                network.set_link_max_message_latency(from, to, Duration::from_millis(most));
            }
            _ => network.partition(from, to),
        }
        self.count += 1;
        self.cuts.push(Cut { number: self.count, kind, from, to, until });
        self.tell_clients();
    }

    /// Ends the cuts that are over.
    fn heal(&mut self, network: &mut Sim<'_>, over: impl Fn(&Cut, Duration) -> bool) {
        let now = self.net.now();
        let healed: Vec<Cut> = self.cuts.extract_if(.., |cut| over(cut, now)).collect();
        for Cut { kind, from, to, .. } in &healed {
            match kind {
                Fault::OneWay => network.repair_oneway(*from, *to),
                Fault::Held => network.release(*from, *to),
                Fault::Jitter => network.set_link_max_message_latency(*from, *to, self.usual_latency),
                _ => network.repair(*from, *to),
            }
            self.net.world.trace.note(|| format!("{kind:?}: {from} to {to} is over"));
        }
        if !healed.is_empty() {
            self.tell_clients();
        }
    }

    /// Whether an answer can hold anything of the speed layer's is what the clients judge it by.
    fn tell_clients(&self) {
        let between = self.cuts.iter().find(|cut| cut.kind != Fault::Jitter && cut.is_between(SERVING, SPEED));
        self.net.between.set(between.map(|cut| cut.number));
    }

    fn kill(&mut self, host: &'static str, kind: Fault, network: &mut Sim<'_>) {
        let Some(life) = self.net.life(host) else { return };
        self.note(kind, || host.to_owned());
        life.process.kill();
        if kind == Fault::PowerCut {
            self.vanish(host, network);
        }
        self.bury(host, kind == Fault::PowerCut, network);
    }

    /// A machine without power closes no connection: its peers wait, and hear nothing.
    fn vanish(&mut self, host: &'static str, network: &mut Sim<'_>) {
        self.heal(network, |cut, _| cut.from == host || cut.to == host);
        let until = self.net.now() + Duration::from_millis(100) + self.net.world.chance.micros(2_000_000);
        for peer in [SERVING, CLIENTS, BATCHES[0], BATCHES[1]] {
            self.begin_cut(Fault::PowerCut, host, peer, until, network);
        }
    }

    /// A batch run that is old enough dies, where one is to die.
    fn kill_batch(&mut self, network: &mut Sim<'_>) {
        let Some(age) = self.doomed_at_age else { return };
        let now = self.net.now();
        let of_age = |host| self.net.life(host).is_some_and(|life| !life.process.is_dead() && now >= life.born + age);
        if let Some(host) = BATCHES.into_iter().find(|host| of_age(*host)) {
            self.doomed_at_age = None;
            self.kill(host, Fault::BatchKilled, network);
        }
    }

    /// Hosts whose process has ended by itself, by its disk or at its store.
    fn clear_the_dead(&mut self, network: &mut Sim<'_>) {
        for host in [SPEED, SERVING, BATCHES[0], BATCHES[1]] {
            let Some(life) = self.net.life(host) else { continue };
            let crashed = host == SPEED && self.net.world.disk.crashed();
            if crashed || life.process.is_dead() {
                let weather = &self.net.world.weather;
                let power_cut = crashed && weather.has(Fault::PowerCutAtDisk) && self.net.world.chance.happens(700);
                self.bury(host, power_cut, network);
            }
        }
    }

    fn bury(&mut self, host: &'static str, power_cut: bool, network: &mut Sim<'_>) {
        let Some(life) = self.net.life(host) else { return };
        life.process.kill();
        self.crash(host, network);
        if host == SPEED {
            self.net.world.clear_up(&life.process, power_cut);
        }
        self.net.ended(host);
        let pause = if BATCHES.contains(&host) { Duration::ZERO } else { self.net.world.chance.micros(300_000) };
        // A machine without power is not there before its links are.
        let links = self.cuts.iter().filter(|cut| cut.kind == Fault::PowerCut && cut.from == host).map(|cut| cut.until).max();
        self.dead.insert(host, links.unwrap_or_default().max(self.net.now() + pause));
    }

    /// Ends all that runs on a host, unheard: tokio drops tasks in the order of their numbers, which a process counts through all its
    /// runs, so that what they still send would make each run another one. Peers are told afterwards, unless the power is gone.
    fn crash(&self, host: &'static str, network: &mut Sim<'_>) {
        let peers = || [SPEED, SERVING, CLIENTS, BATCHES[0], BATCHES[1]].into_iter().filter(|peer| *peer != host);
        peers().for_each(|peer| network.partition(host, peer));
        network.crash(host);
        peers().for_each(|peer| network.repair(host, peer));
        let cuts = || self.cuts.iter().filter(|cut| cut.from == host || cut.to == host);
        for Cut { kind, from, to, .. } in cuts() {
            match kind {
                Fault::OneWay => network.partition_oneway(*from, *to),
                Fault::Held => network.hold(*from, *to),
                Fault::Jitter => {}
                _ => network.partition(*from, *to),
            }
        }
        if !cuts().any(|cut| cut.kind == Fault::PowerCut) {
            self.net.connections.break_all_to(host);
        }
    }

    fn start_the_dead(&mut self, network: &mut Sim<'_>, calm: bool) {
        let now = self.net.now();
        let back: Vec<_> = self.dead.extract_if(.., |_, at| calm || now >= *at).map(|(host, _)| host).collect();
        for host in back {
            network.bounce(host);
        }
    }
}

impl Cut {
    fn is_between(&self, a: &str, b: &str) -> bool {
        (self.from, self.to) == (a, b) || (self.from, self.to) == (b, a)
    }
}
