//! The thread of a partition: one command after the other, appends in groups.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use merganser_proto::{trace_span, traces};
use storage::erasures::Erasure;
use storage::log::{LogError, PartitionLog};
use storage::machine::now_us;
use storage::record;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::field::Empty;
use tracing::{error, info};

use super::group::{Group, Judged};
use super::replay::fold_into;
use super::{Command, PartitionOptions, Verdict, Visible};
use crate::dedup::Window;
use crate::error::SpeedError;
use crate::slices::Slices;

/// Events that share one append at most; what waits beyond goes into the next.
const GROUP_ROWS: usize = 8192;

pub(super) struct Writer {
    pub(super) number: i32,
    pub(super) log: PartitionLog,
    pub(super) window: Window,
    pub(super) visible: Arc<RwLock<Visible>>,
    pub(super) options: PartitionOptions,
    pub(super) segment_started: Instant,
    is_full: Arc<AtomicBool>,
    pub(super) on_roll: Box<dyn Fn() + Send>,
}

impl Writer {
    /// `on_roll` is called after each closed segment.
    pub(super) fn new(
        log: PartitionLog,
        window: Window,
        visible: Arc<RwLock<Visible>>,
        options: PartitionOptions,
        is_full: Arc<AtomicBool>,
        on_roll: Box<dyn Fn() + Send>,
    ) -> Self {
        let number = log.partition() as i32;
        Self { number, log, window, visible, options, segment_started: Instant::now(), is_full, on_roll }
    }

    /// Works until it is told to stop.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        let mut next = queue.recv().await;
        while let Some(command) = next.take() {
            match command {
                Command::Append { events, waiting, reply } => {
                    let mut group = Group::default();
                    group.add(events, waiting, reply);
                    while group.rows() < GROUP_ROWS {
                        match queue.try_recv() {
                            Ok(Command::Append { events, waiting, reply }) => group.add(events, waiting, reply),
                            Ok(other) => {
                                next = Some(other);
                                break;
                            }
                            Err(_) => break,
                        }
                    }
                    self.append(group);
                }
                Command::Erase { user_id, reply } => {
                    let erased = self.erase(user_id);
                    let _gone = reply.send(erased);
                    self.roll_if_full();
                }
                Command::Roll { at_least, reply } => {
                    let rolled = self.roll_if_older(at_least);
                    let _gone = reply.send(rolled);
                }
                Command::Trim { below, reply } => {
                    let trimmed = self.log.trim(below).map_err(SpeedError::from);
                    let _gone = reply.send(trimmed);
                }
                Command::Replace { range, records, reply } => {
                    let replaced = self.log.replace_closed(range, records.iter().map(Vec::as_slice)).map_err(SpeedError::from);
                    let _gone = reply.send(replaced);
                }
                Command::Stop => return,
                Command::Install { slices, folded_to, reply } => {
                    let installed = self.install(slices, folded_to);
                    let _gone = reply.send(installed);
                }
            }
            if next.is_none() {
                next = queue.recv().await;
            }
        }
    }

    fn append(&mut self, group: Group) {
        let committing = group.span(self.number).entered();
        let outcome = self.commit(&group).map_err(Arc::new);
        drop(committing);
        if let Err(e) = &outcome {
            error!(partition = self.number, error = e.chain(), "append failed; nothing of it was acknowledged");
        }
        group.answer(outcome);
        self.roll_if_full();
    }

    fn roll_if_full(&mut self) {
        if self.log.active_bytes() >= self.options.segment_bytes
            && let Err(e) = self.roll()
        {
            error!(partition = self.number, error = e.chain(), "segment could not be closed");
        }
    }

    /// Judges, folds, appends and shows a group. When this returns, what was accepted is durable and visible.
    fn commit(&mut self, group: &Group) -> Result<(Vec<Verdict>, i64), SpeedError> {
        let (Judged { verdicts, new, append_time_us }, states) = trace_span!("fold").in_scope(|| self.judge_and_fold(group))?;
        let known: Vec<_> = new.iter().map(|new| (new.identity, new.content_hash)).collect();
        let records: Vec<Vec<u8>> = new.into_iter().map(|new| new.content.into_record(append_time_us)).collect();
        if !records.is_empty() {
            self.write(&records)?;
        }
        let _showing = trace_span!("show").entered();
        for (identity, content_hash) in known {
            self.window.push(identity, content_hash);
        }
        let head = self.log.head();
        let mut visible = self.visible.write().expect("no reader panics while it holds the lock");
        for (fingerprint, grown) in states {
            // A view may have been retired since it was folded.
            if let Some(slices) = visible.views.get_mut(&fingerprint) {
                slices.grow(grown);
            }
        }
        visible.head = head;
        Ok((verdicts, head))
    }

    fn write(&mut self, payloads: &[Vec<u8>]) -> Result<(), LogError> {
        let appending = trace_span!("append and sync", records = payloads.len() as i64, sync_us = Empty).entered();
        let written = self.log.append(payloads.iter().map(Vec::as_slice));
        appending.record("sync_us", self.log.last_sync().as_micros() as i64);
        drop(appending);
        self.is_full.store(matches!(written, Err(LogError::DiskFull { .. })), Ordering::Relaxed);
        let range = written?;
        // Of the commit: so the segment is found that an event of it was archived in.
        traces::current().record("start_offset", range.start).record("end_offset", range.end);
        let metrics = &self.options.metrics;
        metrics.log_events.inc_by((range.end - range.start) as u64);
        metrics.sync_durations.observe(self.log.last_sync());
        Ok(())
    }

    /// Appends an erasure and takes what it hides out of what is shown. When this returns, it is durable and visible.
    fn erase(&mut self, user_id: String) -> Result<Erasure, SpeedError> {
        let append_time_us = now_us(&*self.options.machine);
        let payload = record::encode_erasure(&user_id, append_time_us);
        let offset = self.log.append([payload.as_slice()])?.start;
        self.window.erase(&user_id);
        let without: Vec<_> = {
            let visible = self.visible.read().expect("no writer panics while it holds the lock");
            visible.views.iter().map(|(fingerprint, slices)| (fingerprint.clone(), slices.without(&user_id))).collect()
        };
        let mut visible = self.visible.write().expect("no reader panics while it holds the lock");
        for (fingerprint, without) in without {
            // A view may have been retired meanwhile.
            if let Some(slices) = visible.views.get_mut(&fingerprint) {
                slices.erase(&user_id, offset, without);
            }
        }
        visible.head = self.log.head();
        drop(visible);
        info!(partition = self.number, offset, "erased a user");
        Ok(Erasure::new(self.log.partition(), offset, user_id, append_time_us))
    }

    fn roll_if_older(&mut self, at_least: Duration) -> Result<i64, SpeedError> {
        if self.segment_started.elapsed() >= at_least {
            self.roll()?;
        }
        Ok(self.log.active_base())
    }

    fn roll(&mut self) -> Result<(), SpeedError> {
        let Some(closed) = self.log.roll()? else { return Ok(()) };
        self.segment_started = Instant::now();
        let mut visible = self.visible.write().expect("no reader panics while it holds the lock");
        visible.closed_to = closed.end;
        visible.views.values_mut().for_each(|slices| slices.cut(closed.end));
        drop(visible);
        info!(partition = self.number, start = closed.start, end = closed.end, "closed segment");
        (self.on_roll)();
        Ok(())
    }

    fn install(&mut self, mut slices: Slices, folded_to: i64) -> Result<(), SpeedError> {
        let head = self.log.head();
        for segment in self.log.reader().segments()? {
            if segment.start >= folded_to {
                slices.cut(segment.start);
            }
            let part = segment.start.max(folded_to)..segment.end.min(head);
            if !part.is_empty() {
                fold_into(&mut slices, &self.log.reader(), &self.options.schema, self.number, part)?;
            }
        }
        let mut visible = self.visible.write().expect("no reader panics while it holds the lock");
        visible.views.insert(slices.definition().fingerprint().to_owned(), slices);
        Ok(())
    }
}
