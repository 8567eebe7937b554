//! Whole runs over a store in memory, with master segments written as the speed layer writes them.

mod accepting;
mod audit;
mod collect;
mod compact;
mod divergences;
mod erasures;
mod expire;
mod fake_speed_layer;
mod faults;
mod imports;
mod incremental;
mod metrics;
mod old_segments;
mod other_keys;
mod recompute;
mod recount;
mod refusals;
mod retention;
mod rows;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Decimal128Type, Int64Type, TimestampMicrosecondType};
use chrono::NaiveDate;
use futures::TryStreamExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use storage::batch_view::{BlockCache, OpenView};
use storage::config::{ClientConfig, TlsConfig};
use storage::erasures::{Erasure, Erasures};
use storage::imports::{Claims, Identity, ImportWriter, Terms};
use storage::manifest::{Manifest, Manifests};
use storage::master::{Origin, write_segment};
use storage::paths::{SegmentPath, ViewName};
use storage::record::content_hash;
use storage::store::{Retry, Store};
use views::columns::{Position, to_batch};
use views::schema::AttributeType;
use views::{Definition, Event, EventSchema, Granularity, fold, shard_of};

use crate::progress::Silent;
use crate::{RunError, RunOptions, RunOutcome, RunReport, run};

const DAY_US: i64 = 86_400_000_000;
const PARTITIONS: u32 = 3;

fn view() -> ViewName {
    "user_stats".parse().unwrap()
}

fn schema() -> EventSchema {
    EventSchema { attributes: [("quantity".to_owned(), AttributeType::Int64)].into(), ..EventSchema::default() }
}

fn event(user: &str, id: &str, day: i64, amount: i128) -> Event {
    Event {
        event_id: id.to_owned(),
        user_id: user.to_owned(),
        event_time_us: day * DAY_US + 1,
        event_type: String::new(),
        amount: Some(amount),
        attributes: [("quantity".to_owned(), "2".to_owned())].into(),
    }
}

/// What stands in a log for the erasure of a user.
fn erasure(user: &str) -> Event {
    event(user, "", 0, 0)
}

fn is_erasure(event: &Event) -> bool {
    event.event_id.is_empty()
}

/// Events of few users, in any order of time, one in ten sent again later.
fn random_events(seed: u64, count: usize) -> Vec<Event> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut events: Vec<Event> = Vec::new();
    for i in 0..count {
        let repeat = !events.is_empty() && random.random_range(0..10) == 0;
        events.push(match repeat {
            true => events[random.random_range(0..events.len())].clone(),
            false => event(
                &format!("user-{}", random.random_range(0..count / 8 + 1)),
                &format!("e{i}"),
                random.random_range(0..5),
                random.random_range(-99..9999),
            ),
        });
    }
    events
}

/// A master dataset in memory: what was accepted, by partition.
struct Master {
    store: Store,
    schema: EventSchema,
    log: Vec<Vec<Event>>,
    archived: Vec<usize>,
    /// Of what is appended next.
    append_time_us: i64,
}

impl Master {
    fn new(schema: EventSchema) -> Self {
        let partitions = PARTITIONS as usize;
        Self {
            store: Store::open("memory://").unwrap(),
            schema,
            log: vec![Vec::new(); partitions],
            archived: vec![0; partitions],
            append_time_us: 0,
        }
    }

    async fn with(events: &[Event]) -> Self {
        let mut master = Self::new(schema());
        master.append(events).await;
        master
    }

    /// Appends and archives, in segments of odd sizes.
    async fn append(&mut self, events: &[Event]) {
        for event in events {
            self.log[shard_of(&event.user_id, PARTITIONS) as usize].push(event.clone());
        }
        for partition in 0..PARTITIONS {
            while self.archived[partition as usize] < self.log[partition as usize].len() {
                let start = self.archived[partition as usize];
                let end = self.log[partition as usize].len().min(start + 9_001);
                self.write_segment(partition, start, end, self.rows(partition, start, end)).await;
                self.archived[partition as usize] = end;
            }
        }
    }

    fn rows(&self, partition: u32, start: usize, end: usize) -> RecordBatch {
        let position = |(i, event): (usize, &Event)| Position {
            partition: partition as i32,
            offset: (start + i) as i64,
            append_time_us: self.append_time_us,
            content_hash: content_hash(event, &self.schema),
        };
        let events = &self.log[partition as usize][start..end];
        to_batch(
            events.iter().enumerate().filter(|(_, event)| !is_erasure(event)).map(|(i, event)| (event, position((i, event)))),
            &self.schema,
        )
    }

    async fn write_segment(&self, partition: u32, start: usize, end: usize, rows: RecordBatch) {
        for (offset, erased) in (0..).zip(&self.log[partition as usize]).take(end).filter(|(_, event)| is_erasure(event)) {
            let erasure = Erasure::new(partition, offset, erased.user_id.clone(), self.append_time_us.max(offset));
            if Erasures::list(&self.store).await.unwrap().iter().all(|known| (known.partition, known.offset) != (partition, offset)) {
                storage::erasures::put(&self.store, &erasure).await.unwrap();
            }
        }
        let ingest_date = NaiveDate::from_ymd_opt(2026, 11, 21).unwrap();
        let path = SegmentPath { partition, start: start as i64, end: end as i64, ingest_date };
        let origin = Origin { log_id: "log-1".to_owned(), last_record: format!("record-{partition}-{}", end - 1) };
        write_segment(&self.store, &path, rows.schema(), vec![rows], origin).await.unwrap();
    }

    /// Imports the events as one file.
    async fn import(&self, events: &[Event]) {
        let content = format!("{events:?}");
        let identity = Identity { content, mapping: None, format: "jsonl".to_owned() };
        let (events_schema, now_us) = (self.schema.clone(), self.append_time_us);
        let terms = Terms { partitions: PARTITIONS, events: events_schema, views: Vec::new(), name: "history.jsonl".to_owned(), now_us };
        let claim = Claims::new(self.store.clone()).claim(&identity, &terms).await.unwrap();
        let mut writer = Box::pin(ImportWriter::create(&self.store, &claim)).await.unwrap();
        for event in events {
            writer.push(event.clone()).unwrap();
        }
        Box::pin(writer.commit()).await.unwrap();
    }

    fn boundary(&self) -> Vec<i64> {
        self.log.iter().map(|events| events.len() as i64).collect()
    }

    fn options(&self) -> RunOptions {
        RunOptions {
            view: view(),
            views_dir: PathBuf::from("no-such-folder"),
            events: self.schema.clone(),
            speed_layer: None,
            tls: TlsConfig::default(),
            client: ClientConfig::default(),
            partitions: PARTITIONS,
            memory_limit_bytes: 1 << 30,
            threads: NonZeroUsize::MIN,
            incremental: false,
            force: false,
            accept_difference: None,
            spill_dir: None,
            lease_ttl: Duration::from_secs(30),
            grace: Duration::from_secs(24 * 3600),
            retention: None,
            retry: Retry::NONE,
        }
    }

    async fn run(&self, options: &RunOptions) -> Result<RunOutcome, RunError> {
        run(options, &self.store, Arc::new(Silent)).await
    }

    async fn publish(&self, options: &RunOptions) -> RunReport {
        match self.run(options).await.unwrap() {
            RunOutcome::Published(report) => *report,
            RunOutcome::NothingToDo(reason) => panic!("nothing to do: {reason}"),
        }
    }

    async fn latest(&self) -> Option<Manifest> {
        Manifests::new(self.store.clone(), view()).latest().await.unwrap()
    }

    /// What the newest version, which is of `sql`, says of user-1 in these columns.
    async fn totals<const N: usize>(&self, sql: &str, columns: [&str; N]) -> [String; N] {
        let definition = Definition::parse(sql, &self.schema).unwrap();
        let open = OpenView::open(&self.store, self.latest().await.unwrap(), &BlockCache::new(0)).await.unwrap();
        let states = open.rows(shard_of("user-1", PARTITIONS), "user-1").await.unwrap();
        let rows = fold::finish(&definition, &states, Granularity::Total).unwrap();
        columns.map(|name| arrow::util::display::array_value_to_string(rows.column_by_name(name).unwrap(), 0).unwrap())
    }

    /// Key and day → count and revenue, as a reader of the newest version finishes them.
    async fn answers(&self) -> Answers {
        let definition = Definition::user_stats(&self.schema);
        let open = OpenView::open(&self.store, self.latest().await.unwrap(), &BlockCache::new(0)).await.unwrap();
        let mut answers = Answers::new();
        for shard in 0..open.shards() {
            let states: Vec<RecordBatch> = open.scan(shard).unwrap().try_collect().await.unwrap();
            let rows = fold::finish(&definition, &states, Granularity::Bucket).unwrap();
            for row in 0..rows.num_rows() {
                let key = rows.column(0).as_string::<i32>().value(row);
                assert_eq!(shard_of(key, PARTITIONS), shard);
                let bucket = rows.column(1).as_primitive::<TimestampMicrosecondType>().value(row);
                let count = rows.column(3).as_primitive::<Int64Type>().value(row);
                let revenue = rows.column(4).as_primitive::<Decimal128Type>().value(row);
                answers.insert((key.to_owned(), bucket / DAY_US), (count, revenue));
            }
        }
        answers
    }
}

type Answers = BTreeMap<(String, i64), (i64, i128)>;

/// What the answers must be, by the plainest means.
fn oracle(events: &[Event]) -> Answers {
    let mut seen = BTreeSet::new();
    let mut answers = Answers::new();
    for event in events {
        if seen.insert((&event.user_id, &event.event_id)) {
            let answer = answers.entry((event.user_id.clone(), event.event_time_us.div_euclid(DAY_US))).or_default();
            answer.0 += 1;
            answer.1 += event.amount.unwrap();
        }
    }
    answers
}
