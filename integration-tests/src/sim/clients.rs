//! Those who use the servers: they send events, again where they do not know, and ask, and compare.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use merganser_proto::Transport;
use merganser_proto::v1::ingest_service_client::IngestServiceClient;
use merganser_proto::v1::realtime_view_service_client::RealtimeViewServiceClient;
use merganser_proto::v1::user_stats_service_client::UserStatsServiceClient;
use merganser_proto::v1::{AppendEventsRequest, EraseUserRequest, Event};
use prost_types::Timestamp;
use storage::dead_letter;
use tokio::sync::RwLock;
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::Report;
use super::faults::Fault;
use super::link::Link;
use super::oracle::{Id, Oracle};
use super::runs::Batch;
use super::world::{DATA, NOTE, World};
use crate::boundaries::Boundaries;

/// Three sectors of a disk.
const NOTE_BYTES: usize = 1_500;
/// So often an erasure is tried while things go wrong.
const ERASE_ATTEMPTS: u32 = 300;
/// How long a client waits for an answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// What all clients share. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Clients {
    pub(crate) world: World,
    pub(crate) oracle: Arc<Mutex<Oracle>>,
    pub(crate) report: Arc<Mutex<Report>>,
    /// The token of the newest acknowledgement, and which events it acknowledged.
    pub(super) newest: Arc<Mutex<(String, Vec<Id>)>>,
    /// Ids of rows that were refused, each of which must be a dead letter.
    letters: Arc<Mutex<BTreeSet<String>>>,
    /// Of each user: whoever sends something has it with others, whoever erases them alone.
    turns: Arc<[RwLock<()>]>,
    ingest: IngestServiceClient<Transport>,
    realtime: RealtimeViewServiceClient<Transport>,
    pub(super) stats: UserStatsServiceClient<Transport>,
    to_speed: Link,
    pub(super) users: usize,
    pub(super) boundaries: Arc<Boundaries>,
    /// Whether the serving layer can reach the speed layer over a network; there is none in T1.
    pub(crate) between: Between,
}

pub(super) type Outcome = Result<(), String>;

impl Clients {
    pub(crate) fn new(world: &World, oracle: Oracle, users: usize) -> Self {
        let to_speed = Link::new(&world.speed, &world.weather, &world.chance);
        let to_serving = Link::new(&world.serving, &world.weather, &world.chance);
        let (ingest, stats) = (Transport::new(to_speed.clone()), Transport::new(to_serving));
        Self { to_speed, ..Self::over(world, oracle, users, ingest, stats) }
    }

    /// Clients whose calls are carried by these.
    pub(crate) fn over(world: &World, oracle: Oracle, users: usize, ingest: Transport, stats: Transport) -> Self {
        Self {
            world: world.clone(),
            oracle: Arc::new(Mutex::new(oracle)),
            report: Arc::default(),
            newest: Arc::default(),
            letters: Arc::default(),
            turns: (0..users).map(|_| RwLock::default()).collect(),
            realtime: RealtimeViewServiceClient::new(ingest.clone()),
            ingest: IngestServiceClient::new(ingest),
            stats: UserStatsServiceClient::new(stats),
            to_speed: Link::new(&world.speed, &world.weather, &world.chance),
            users,
            boundaries: Arc::default(),
            between: Between::default(),
        }
    }

    pub(super) fn oracle<T>(&self, ask: impl FnOnce(&mut Oracle) -> T) -> T {
        ask(&mut self.oracle.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn count(&self, note: impl FnOnce(&mut Report)) {
        note(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Sends so many appends: new events, events that may or may not be in the log, events that surely are.
    pub(crate) async fn write(&self, appends: usize) -> Outcome {
        for _ in 0..appends {
            // Some of them late enough to meet a version.
            sleep(self.world.chance.micros(self.world.chance.pick(&[20_000, 200_000]))).await;
            let mut ids = Vec::new();
            for _ in 0..=self.world.chance.below(3) {
                ids.extend(self.choose());
            }
            // The same event twice in one request is a case of its own, seldom.
            if !self.world.chance.happens(50) {
                ids.sort_unstable();
                ids.dedup();
            }
            if !ids.is_empty() {
                self.append(&ids).await?;
            }
            if self.world.weather.strikes(Fault::LinkCut) {
                let link = if self.world.chance.happens(500) { &self.to_speed } else { &self.world.between };
                link.cut(self.world.chance.micros(2_000_000));
            }
            if self.world.weather.strikes(Fault::ClockJumps) {
                let year_ms = 365 * 86_400_000;
                self.world.clock.jump_to(self.world.chance.pick(&[-20 * year_ms, -3_600_000, 0, 3_600_000, 100 * year_ms]));
            }
            if self.world.weather.strikes(Fault::DiskFull) {
                let (world, pause) = (self.world.clone(), self.world.chance.micros(1_000_000));
                world.disk.set_capacity(Some(world.disk.used_bytes() + world.chance.below(300) as u64));
                tokio::spawn(async move {
                    sleep(pause).await;
                    world.disk.set_capacity(None);
                });
            }
        }
        Ok(())
    }

    fn choose(&self) -> Option<Id> {
        let chance = &self.world.chance;
        let pool = match chance.below(10) {
            0 => self.oracle(|o| o.known()),
            1 | 2 => self.oracle(|o| o.unsure()),
            3 => self.oracle(|o| o.erased()),
            _ => Vec::new(),
        };
        match pool.is_empty() {
            true => self.oracle(|o| o.invent(chance.below(self.users))),
            false => Some(chance.pick(&pool)),
        }
    }

    /// Sends events in one request.
    async fn append(&self, ids: &[Id]) -> Outcome {
        let users: BTreeSet<usize> = ids.iter().map(|id| id.user).collect();
        let mut turns = Vec::new();
        for user in &users {
            turns.push(self.turns[*user].read().await);
        }
        let surely_there: Vec<bool> = {
            let known = self.oracle(|o| o.known());
            ids.iter().map(|id| known.contains(id)).collect()
        };
        let bad: Vec<Event> = self.bad_event().into_iter().chain(self.conflict(&users)).collect();
        let events = ids.iter().map(|id| event(*id)).chain(bad.iter().cloned()).collect::<Vec<_>>();
        let sent = events.len() as i64;
        ids.iter().for_each(|id| self.oracle(|o| o.send(*id)));
        let under_way = self.world.weather.under_way();
        let answered = timeout(PATIENCE, self.ingest.clone().append_events(AppendEventsRequest { events })).await;
        drop(under_way);
        let response = match answered {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => {
                check_error(&status)?;
                // Where it all goes to one place, a refusal for want of room is one of every event.
                let one_place = bad.is_empty() && (ids.len() == 1 || self.world.config.log.partitions == 1);
                match one_place && status.code() == Code::ResourceExhausted {
                    true => ids.iter().for_each(|id| self.oracle(|o| o.refused(*id))),
                    false => self.count(|r| r.unknown += 1),
                }
                self.world.trace.note(|| format!("append of {ids:?}: {}", status.message()));
                return Ok(());
            }
            Err(_) => {
                self.count(|r| r.unknown += 1);
                return Ok(());
            }
        };
        self.world.trace.note(|| format!("append of {ids:?}: {response:?}"));
        let (accepted, duplicates, refused) = (response.accepted_count, response.duplicate_count, response.rejected.len() as i64);
        if accepted + duplicates + refused != sent || refused != bad.len() as i64 {
            return Err(format!("of {sent} rows {accepted} are accepted, {duplicates} duplicates, {:?} refused", response.rejected));
        }
        let known = surely_there.iter().filter(|there| **there).count() as i64;
        if accepted > ids.len() as i64 - known && self.whole_window() {
            return Err(format!("{accepted} of {ids:?} are accepted as new, though {known} were in the log"));
        }
        if accepted == 0 && known == ids.len() as i64 {
            ids.iter().for_each(|id| self.oracle(|o| o.recognised(*id)));
        }
        ids.iter().for_each(|id| self.oracle(|o| o.sure(*id)));
        self.letters.lock().unwrap_or_else(PoisonError::into_inner).extend(bad.into_iter().map(|event| event.event_id));
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = (response.position, ids.to_vec());
        self.world.weather.recovered();
        self.count(|r| {
            r.acknowledged += accepted as u64;
            r.duplicates += duplicates as u64;
            r.refused += refused as u64;
        });
        Ok(())
    }

    /// Now and then a row that is refused for what it is.
    fn bad_event(&self) -> Option<Event> {
        let chance = &self.world.chance;
        chance.happens(60).then(|| Event { event_id: format!("bad-{:x}", chance.bits()), user_id: "u0".to_owned(), ..Event::default() })
    }

    /// Now and then an event with the identity of one of these users that is in the log, and other content.
    fn conflict(&self, users: &BTreeSet<usize>) -> Option<Event> {
        let mut known = self.oracle(|o| o.known());
        known.retain(|id| users.contains(&id.user));
        let wanted = self.whole_window() && !known.is_empty() && self.world.chance.happens(30);
        wanted.then(|| Event { event_type: "other".to_owned(), ..event(self.world.chance.pick(&known)) })
    }

    /// Erases so many users, each until it is known to be done. Where a resend may go unrecognised nobody is erased: what is left then could not
    /// be told.
    pub(crate) async fn erase(&self, times: usize) -> Outcome {
        for _ in 0..if self.whole_window() { times } else { 0 } {
            sleep(self.world.chance.micros(200_000)).await;
            let user = self.world.chance.below(self.users);
            let turn = self.turns[user].write().await;
            self.oracle(|o| o.begin_erasure(user));
            self.newest.lock().unwrap_or_else(PoisonError::into_inner).1.retain(|id| id.user != user);
            let mut attempts = 0;
            while !self.erase_once(user).await? {
                sleep(Duration::from_millis(100)).await;
                attempts += 1;
                // Nobody writes about the user meanwhile: one that does not get through ends the storm.
                if attempts == ERASE_ATTEMPTS {
                    self.world.weather.calm();
                    self.world.disk.set_capacity(None);
                }
            }
            self.oracle(|o| o.end_erasure(user));
            self.count(|r| r.erasures += 1);
            drop(turn);
        }
        Ok(())
    }

    async fn erase_once(&self, user: usize) -> Result<bool, String> {
        let under_way = self.world.weather.under_way();
        let request = EraseUserRequest { user_id: user_id(user) };
        let answered = timeout(PATIENCE, self.realtime.clone().erase_user(request)).await;
        drop(under_way);
        match answered {
            Ok(Ok(erased)) => {
                self.world.trace.note(|| format!("user {user} is erased: {:?}", erased.into_inner()));
                self.world.weather.recovered();
                Ok(true)
            }
            Ok(Err(status)) => {
                check_error(&status)?;
                self.world.trace.note(|| format!("whether user {user} is erased is not known: {}", status.message()));
                Ok(false)
            }
            Err(_) => Ok(false),
        }
    }

    /// Every row whose refusal was told is a dead letter.
    pub(crate) fn check_letters(&self) -> Outcome {
        let kept = dead_letter::read_all_on(self.world.disk.process(), Path::new(DATA)).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let kept = kept.map_err(|e| format!("the dead letters: {e}"))?;
        let kept: BTreeSet<_> = kept.iter().filter_map(|(_, letter)| letter.event["event_id"].as_str()).collect();
        let told = self.letters.lock().unwrap_or_else(PoisonError::into_inner);
        match told.iter().find(|id| !kept.contains(id.as_str())) {
            None => Ok(()),
            Some(id) => Err(format!("{id} was refused, and is no dead letter")),
        }
    }

    fn whole_window(&self) -> bool {
        self.world.config.log.dedup_window_rows > 1_000
    }

    /// Runs the batch so many times, now and then two at once.
    pub(crate) async fn run_batches(&self, runs: usize) -> Outcome {
        for _ in 0..runs {
            sleep(self.world.chance.micros(150_000)).await;
            let under_way = self.world.weather.under_way();
            if self.world.weather.strikes(Fault::TwoBatches) {
                let (one, other) = tokio::join!(self.world.batch(), self.world.batch());
                self.note_batch(&one?);
                self.note_batch(&other?);
            } else {
                let batch = self.world.batch().await?;
                self.note_batch(&batch);
            }
            drop(under_way);
        }
        Ok(())
    }

    pub(crate) fn note_batch(&self, batch: &Batch) {
        match batch {
            Batch::Published => {
                self.world.weather.recovered();
                self.count(|r| r.publishes += 1);
            }
            Batch::Failed => self.count(|r| r.failed_runs += 1),
            Batch::Killed => self.count(|r| r.killed_runs += 1),
            Batch::NothingToDo => {}
        }
    }

    /// Sends what nobody knows about once more, until it is known.
    pub(crate) async fn settle(&self) -> Outcome {
        // Each of them once, and some for which it takes a while.
        for _ in 0..200 + self.oracle(|o| o.unsure()).len() {
            let unsure = self.oracle(|o| o.unsure());
            let Some(first) = unsure.first() else { return Ok(()) };
            self.append(&[*first]).await?;
            sleep(Duration::from_millis(100)).await;
        }
        Err("events cannot be sent though nothing fails any more".to_owned())
    }

    pub(crate) fn user_count(&self) -> usize {
        self.users
    }
}

/// Nothing here damages what was written, and no client asks for what there is not: a server that says so is wrong. That a log has
/// failed may be true.
pub(super) fn check_error(status: &Status) -> Outcome {
    let reason = status.get_details_error_info().map(|info| info.reason);
    let blames = matches!(status.code(), Code::Internal | Code::DataLoss | Code::InvalidArgument | Code::Unimplemented | Code::Unknown);
    match reason {
        Some(reason) if blames && reason != "LOG_FAILED" => Err(format!("an error that no fault explains: {status:?}")),
        _ => Ok(()),
    }
}

/// Whether anything gets from the serving layer to the speed layer and back. Clones are the same link.
#[derive(Clone, Debug, Default)]
pub(crate) struct Between(Arc<Mutex<Option<u64>>>);

impl Between {
    /// The number of the cut there is: the same number twice is the same cut all the while.
    pub(crate) fn cut(&self) -> Option<u64> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, cut: Option<u64>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = cut;
    }
}

pub(super) fn user_id(user: usize) -> String {
    format!("u{user}")
}

fn event(id: Id) -> Event {
    Event {
        event_id: id.to_string(),
        user_id: user_id(id.user),
        // Some are late, and some from the future.
        event_time: Some(Timestamp { seconds: 1_795_000_000 + (id.digit as i64 * 7 % 5 - 2) * 86_400, nanos: 0 }),
        amount: id.amount().to_string(),
        // Some are larger than a sector of the disk.
        attributes: (id.digit % 3 == 2).then(|| (NOTE.to_owned(), "x".repeat(NOTE_BYTES))).into_iter().collect(),
        ..Event::default()
    }
}
