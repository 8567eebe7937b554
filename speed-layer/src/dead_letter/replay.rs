//! Letters, sent again.
//!
//! Two passes over the letters: the first finds which are to be sent, so that those which come to be meanwhile, by this very
//! replay too, wait for the next one; the second sends them in requests of bounded size, one after the other. After each answer
//! what it settles is made durable. Wherever this is cut short, a letter that was not settled is sent once more and is then a
//! duplicate, within the server's dedup window; beyond it the next batch run removes it, as of any other event.

use std::collections::{HashMap, HashSet};

use merganser_proto::v1::{AppendEventsResponse, Event};
use prost::Message;
use storage::config::{ClientConfig, TlsConfig};
use storage::dead_letter::{DeadLetter, How, LetterId, SettledLetters, Settlement};
use storage::log::read_log_id;
use storage::machine::{RealMachine, now_us};
use views::Refusal;

use super::event::event_of;
use super::summary::ReplaySummary;
use super::walk::{Found, Walk};
use super::{DeadLetterError, Place, Selection};
use crate::ingest::dead_letter;
use crate::load::{LoadError, Sender, Shutdown, unless};
use crate::service::raw_event;

/// A request is cut before its events are larger than this.
const MAX_REQUEST_BYTES: usize = 1 << 20;

/// What to send again, and where to.
#[derive(Clone, Debug)]
pub struct ReplayOptions {
    /// The server of the log beside the letters, such as `http://127.0.0.1:7401`.
    pub address: String,
    /// What calls to it show and trust.
    pub tls: TlsConfig,
    /// The token that they carry.
    pub client: ClientConfig,
    /// Where the letters are.
    pub place: Place,
    /// Which are sent.
    pub selection: Selection,
    /// Events of one request, at least 1.
    pub batch_rows: usize,
}

/// Sends outstanding letters to the server, until all are answered or `shutdown` completes, and counts in `summary` what became
/// of them, also where it ends with an error.
///
/// # Errors
/// Whatever kept it from going on; rows that are refused again are no error.
///
/// # Panics
/// When `batch_rows` is 0.
pub async fn replay(
    options: &ReplayOptions,
    shutdown: impl Future<Output = ()> + Send,
    summary: &mut ReplaySummary,
) -> Result<(), DeadLetterError> {
    assert!(options.batch_rows > 0, "a request needs room for one event");
    let mut shutdown: Shutdown<'_> = Box::pin(shutdown);
    let mut wanted = unless(&mut shutdown, interruptible(select(options, summary))).await??;
    if wanted.is_empty() {
        return Ok(());
    }
    let token = cli::auth::token(&options.client, &options.address).map_err(LoadError::from)?;
    let mut sender = Sender::new(&options.address, &cli::tls::calls(&options.tls).map_err(LoadError::from)?, token, 1)?;
    let server = unless(&mut shutdown, sender.log_id()).await?;
    check_log(options, server)?;
    let settled = SettledLetters::open(&options.place.data_dir)?;
    let mut replay = Replay { sender, settled, summary, batch: Vec::new(), batch_bytes: 0 };
    let sending = async {
        let mut walk = Walk::begin(&options.place).await?;
        while let Some(Found { id, letter, .. }) = walk.next().await? {
            // Another replay may have been faster.
            if wanted.remove(&id) && !replay.settled.contains(id) {
                replay.add(id, letter, options.batch_rows).await?;
            }
        }
        replay.flush().await
    };
    unless(&mut shutdown, interruptible(sending)).await?
}

/// [`unless`] knows one kind of error; ours travels inside.
async fn interruptible<T>(work: impl Future<Output = T>) -> Result<T, LoadError> {
    Ok(work.await)
}

/// The letters that are outstanding, selected, and can be sent.
async fn select(options: &ReplayOptions, summary: &mut ReplaySummary) -> Result<HashSet<LetterId>, DeadLetterError> {
    let mut wanted = HashSet::new();
    let mut missing: HashSet<&String> = options.selection.ids.iter().collect();
    let mut walk = Walk::begin(&options.place).await?;
    while let Some(Found { id, letter, settled, .. }) = walk.next().await? {
        if !missing.is_empty() {
            let id = id.to_string();
            missing.retain(|begin| !id.starts_with(*begin));
        }
        if !options.selection.takes(id, &letter) {
            continue;
        }
        match event_of(&letter.event) {
            _ if settled.is_some() => summary.settled_before += 1,
            Ok(_) => drop(wanted.insert(id)),
            Err(reason) => ReplaySummary::count(&mut summary.unsendable, reason, id),
        }
    }
    match missing.into_iter().next() {
        Some(begin) => Err(DeadLetterError::UnknownId { begin: begin.clone() }),
        None => Ok(wanted),
    }
}

/// An event that is in the log of another server does not settle a letter of this one.
fn check_log(options: &ReplayOptions, server: String) -> Result<(), DeadLetterError> {
    let (data_dir, address) = (options.place.data_dir.clone(), options.address.clone());
    match read_log_id(&data_dir)?.map(|id| id.to_string()) {
        None => Err(DeadLetterError::NoLog { data_dir, address }),
        Some(here) if here != server => Err(DeadLetterError::OtherLog { address, server, here }),
        Some(_) => Ok(()),
    }
}

struct Replay<'a> {
    sender: Sender,
    settled: SettledLetters,
    summary: &'a mut ReplaySummary,
    batch: Vec<(LetterId, DeadLetter, Event)>,
    batch_bytes: usize,
}

impl Replay<'_> {
    async fn add(&mut self, id: LetterId, letter: DeadLetter, batch_rows: usize) -> Result<(), DeadLetterError> {
        let event = event_of(&letter.event).expect("the first pass has tried it");
        // A tag and a length stand before each event.
        let bytes = event.encoded_len() + 6;
        if self.batch.len() >= batch_rows || (self.batch_bytes + bytes > MAX_REQUEST_BYTES && !self.batch.is_empty()) {
            self.flush().await?;
        }
        self.batch.push((id, letter, event));
        self.batch_bytes += bytes;
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), DeadLetterError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let events: Vec<_> = self.batch.iter().map(|(_, _, event)| event.clone()).collect();
        let response = self.sender.append(&events).await?;
        self.settle(response)
    }

    /// Makes durable what the answer settles, then counts it.
    fn settle(&mut self, response: AppendEventsResponse) -> Result<(), DeadLetterError> {
        let refusals: HashMap<i32, Refusal> =
            response.rejected.into_iter().map(|error| (error.index, Refusal::new(error.field, error.reason))).collect();
        let (accepted, duplicate) = (response.accepted_count as u64, response.duplicate_count as u64);
        let answered = accepted.checked_add(duplicate).and_then(|taken| taken.checked_add(refusals.len() as u64));
        if answered != Some(self.batch.len() as u64) {
            let what = format!(
                "{} events are answered by {accepted} accepted, {duplicate} duplicate, {} rejected",
                self.batch.len(),
                refusals.len()
            );
            return Err(LoadError::Contract { what }.into());
        }
        let settled_time_us = now_us(&RealMachine);
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        let (mut settled, mut superseded) = (Vec::new(), 0);
        for (index, (id, _, event)) in (0..).zip(&batch) {
            let how = match refusals.get(&index) {
                None => Some(How::InLog),
                Some(refusal) => self.other_letter(*id, event, refusal).map(How::SupersededBy),
            };
            superseded += u64::from(matches!(how, Some(How::SupersededBy(_))));
            settled.extend(how.map(|how| (*id, Settlement { settled_time_us, how })));
        }
        self.settled.record(&settled)?;
        self.summary.sent += batch.len() as u64;
        self.summary.accepted += accepted;
        self.summary.duplicate += duplicate;
        self.summary.superseded += superseded;
        for (index, (id, _, _)) in (0..).zip(&batch) {
            if let Some(Refusal { field, reason }) = refusals.get(&index) {
                ReplaySummary::count(&mut self.summary.refused, format!("{field} {reason}"), *id);
            }
        }
        Ok(())
    }

    /// The letter that the server has kept of this refusal, if it is another one and outstanding: only such a one can stand for
    /// the event from now on.
    fn other_letter(&self, id: LetterId, event: &Event, refusal: &Refusal) -> Option<LetterId> {
        // Of very many refused rows an answer has the index only.
        let told = !refusal.field.is_empty() || !refusal.reason.is_empty();
        let kept = dead_letter(&raw_event(event.clone()), refusal, 0).id();
        (told && kept != id && !self.settled.contains(kept)).then_some(kept)
    }
}
