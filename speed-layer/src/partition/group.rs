//! A group of appends that share one fdatasync, and the judgement of each of their events.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use merganser_proto::{trace_span, traces};
use storage::machine::now_us;
use storage::record::Content;
use tokio::sync::oneshot;
use tracing::Span;
use tracing::field::Empty;
use views::columns::{Position, to_batch_for};
use views::event::too_wide;
use views::{Definition, Event, Refusal, fold};

use super::writer::Writer;
use super::{Appended, Verdict, Waiting};
use crate::dedup::{Seen, identity};
use crate::error::SpeedError;
use crate::slices::Grown;

/// Appends that are committed together.
#[derive(Default)]
pub(super) struct Group {
    events: Vec<Event>,
    /// How many of `events` each append has, in order, and where its verdicts go.
    appends: Vec<(usize, oneshot::Sender<Appended>)>,
    /// The calls that they are for, in their traces.
    calls: Vec<Span>,
}

impl Group {
    pub(super) fn add(&mut self, events: Vec<Event>, waiting: Waiting, reply: oneshot::Sender<Appended>) {
        if traces::are_on() {
            self.calls.push(waiting.end());
        }
        self.appends.push((events.len(), reply));
        self.events.extend(events);
    }

    pub(super) fn rows(&self) -> usize {
        self.events.len()
    }

    /// The span of what is done for all of them.
    pub(super) fn span(&self, partition: i32) -> Span {
        let begin = || {
            trace_span!(
                "commit",
                partition,
                events = self.rows() as i64,
                appends = self.appends.len() as i64,
                start_offset = Empty,
                end_offset = Empty
            )
        };
        traces::shared(&self.calls, begin)
    }

    /// Gives each append its share. One whose caller is gone is answered too; its events stay.
    pub(super) fn answer(self, outcome: Result<(Vec<Verdict>, i64), Arc<SpeedError>>) {
        let outcome = outcome.map(|(verdicts, head)| (verdicts.into_iter(), head));
        match outcome {
            Err(e) => self.appends.into_iter().for_each(|(_, reply)| drop(reply.send(Err(Arc::clone(&e))))),
            Ok((mut verdicts, head)) => {
                for (rows, reply) in self.appends {
                    let share = verdicts.by_ref().take(rows).collect();
                    drop(reply.send(Ok((share, head))));
                }
            }
        }
    }
}

/// Verdicts of a group, before the append.
pub(super) struct Judged {
    pub(super) verdicts: Vec<Verdict>,
    /// Each accepted event.
    pub(super) new: Vec<New>,
    pub(super) append_time_us: i64,
}

/// What is to be written and remembered of an accepted event.
pub(super) struct New {
    pub(super) identity: [u8; 16],
    pub(super) content_hash: i64,
    pub(super) content: Content,
}

impl Judged {
    pub(super) fn new_events<'a>(&'a self, group: &'a Group) -> impl Iterator<Item = &'a Event> {
        let accepted = |(event, verdict): (&'a Event, &Verdict)| (*verdict == Verdict::Accepted).then_some(event);
        group.events.iter().zip(&self.verdicts).filter_map(accepted)
    }
}

/// What the accepted events make of each view, by fingerprint.
type States = Vec<(String, Grown)>;

impl Writer {
    /// Judges a group and folds what is new. An event on which a view fails is refused, alone.
    pub(super) fn judge_and_fold(&self, group: &Group) -> Result<(Judged, States), SpeedError> {
        let mut bad = self.too_wide(group);
        let judged = self.judge(group, &bad);
        if let Ok(states) = self.fold(group, &judged) {
            return Ok((judged, states));
        }
        // Some event fails: try each by itself, then judge again without the bad ones. A later event of the same identity is
        // then no duplicate of an event that was never accepted.
        for (i, event) in group.events.iter().enumerate() {
            if let (false, Some(refusal)) = (bad.contains_key(&i), self.refusal(event)) {
                bad.insert(i, refusal);
            }
        }
        let judged = self.judge(group, &bad);
        let states =
            self.fold(group, &judged).map_err(|(fingerprint, e)| SpeedError::fold(&e, &fingerprint, self.number, self.log.head()))?;
        Ok((judged, states))
    }

    fn judge(&self, group: &Group, bad: &HashMap<usize, Refusal>) -> Judged {
        let mut judged =
            Judged { verdicts: Vec::with_capacity(group.rows()), new: Vec::new(), append_time_us: now_us(&*self.options.machine) };
        let mut in_group: HashMap<[u8; 16], i64> = HashMap::new();
        for (i, event) in group.events.iter().enumerate() {
            if let Some(refusal) = bad.get(&i) {
                judged.verdicts.push(Verdict::Refused(refusal.clone()));
                continue;
            }
            let identity = identity(&event.user_id, &event.event_id);
            let content = Content::of(event, &self.options.schema);
            let content_hash = content.hash();
            let seen = match in_group.get(&identity) {
                Some(first) if *first == content_hash => Seen::Duplicate(self.log.head()),
                Some(_) => Seen::Conflict(self.log.head()),
                None => self.window.look_up(&event.user_id, &identity, content_hash),
            };
            judged.verdicts.push(match seen {
                Seen::Duplicate(_) => Verdict::Duplicate,
                Seen::Conflict(_) => Verdict::Refused(Refusal::new("event_id", "is that of an accepted event with other content")),
                Seen::New => {
                    in_group.insert(identity, content_hash);
                    judged.new.push(New { identity, content_hash, content });
                    Verdict::Accepted
                }
            });
        }
        judged
    }

    /// Events that fit the schema, and that a kept version of an older one would take for null.
    fn too_wide(&self, group: &Group) -> HashMap<usize, Refusal> {
        let typed: Vec<_> = self.definitions().iter().flat_map(|d| d.otherwise_typed(&self.options.schema)).collect();
        if typed.is_empty() {
            return HashMap::new();
        }
        group.events.iter().enumerate().filter_map(|(i, event)| Some((i, too_wide(event, &typed)?))).collect()
    }

    fn definitions(&self) -> Vec<Arc<Definition>> {
        let visible = self.visible.read().expect("no writer panics while it holds the lock");
        visible.views.values().map(|slices| Arc::clone(slices.definition())).collect()
    }

    fn fold(&self, group: &Group, judged: &Judged) -> Result<States, (String, views::FoldError)> {
        if judged.new.is_empty() {
            return Ok(Vec::new());
        }
        let head = self.log.head();
        let position = |(i, content_hash): (usize, i64)| Position {
            partition: self.number,
            offset: head + i as i64,
            append_time_us: judged.append_time_us,
            content_hash,
        };
        let mut states = Vec::new();
        for definition in self.definitions() {
            // Columns lie as the definition's own schema says, which may be older than that of the configuration.
            let positions = judged.new.iter().map(|new| new.content_hash).enumerate().map(position);
            let batch = to_batch_for(judged.new_events(group).zip(positions), &definition);
            let grown = fold::partial(&definition, &batch).and_then(|states| self.grown(definition.fingerprint(), states));
            match grown {
                Ok(Some(grown)) => states.push((definition.fingerprint().to_owned(), grown)),
                Ok(None) => {}
                Err(e) => return Err((definition.fingerprint().to_owned(), e)),
            }
        }
        Ok(states)
    }

    /// The view with new states in it. Merging happens here, where no reader waits for it.
    fn grown(&self, fingerprint: &str, states: RecordBatch) -> Result<Option<Grown>, views::FoldError> {
        let visible = self.visible.read().expect("no writer panics while it holds the lock");
        visible.views.get(fingerprint).map_or(Ok(None), |slices| slices.with(states))
    }

    /// Why a view cannot take an event, if one cannot.
    fn refusal(&self, event: &Event) -> Option<Refusal> {
        self.definitions().into_iter().find_map(|definition| fold::failure(&definition, self.number, [event])).map(Refusal::from)
    }
}
