//! Events past a declared retention: what goes, what goes with it, what is refused, and that no number notices.

use storage::machine::RealMachine;
use storage::master::{Layout, list_segments};
use storage::store::faulty::{Fault, FaultyStore};

use super::compact::{Later, eager};
use super::fake_speed_layer::FakeSpeedLayer;
use super::*;
use crate::compact::{CompactOptions, Compacted, compact_on};
use crate::expire::{ExpireOptions, expire_on};
use crate::keeper::Turn;
use crate::{Depth, rollback, verify};

/// What is declared, in days.
const RETENTION_DAYS: i64 = 8;
const USERS: &str = "-- keep: 6d
    SELECT user_id, date_trunc('day', event_time) AS bucket, count(*) AS event_count, sum(amount) AS revenue,
           min(event_time) AS first_event_time, max(event_time) AS last_event_time
    FROM events GROUP BY user_id, date_trunc('day', event_time)";
const KINDS: &str = "-- keep: 8d
    SELECT event_type, date_trunc('week', event_time) AS week, count(*) AS n, sum(amount) AS revenue, approx_distinct(event_id) AS ids
    FROM events WHERE amount > 10 GROUP BY event_type, date_trunc('week', event_time)";

/// Two views by different keys, in a folder of their own.
struct Declared {
    folder: tempfile::TempDir,
}

impl Declared {
    fn new() -> Self {
        let declared = Self { folder: tempfile::tempdir().unwrap() };
        declared.write("user_stats", USERS);
        declared.write("kinds", KINDS);
        declared
    }

    fn write(&self, name: &str, sql: &str) {
        std::fs::write(self.folder.path().join(format!("{name}.sql")), sql).unwrap();
    }

    fn options(&self, master: &Master, name: &str) -> RunOptions {
        let retention = Some(Duration::from_secs(RETENTION_DAYS as u64 * 86_400));
        RunOptions { view: name.parse().unwrap(), views_dir: self.folder.path().to_owned(), retention, ..master.options() }
    }

    /// Both, with what the speed layer folds of each.
    fn both(&self, master: &Master) -> [(&'static str, RunOptions); 2] {
        [(USERS, self.options(master, "user_stats")), (KINDS, self.options(master, "kinds"))]
    }

    async fn compact(&self, master: &Master) -> Result<Compacted, RunError> {
        let eager = eager(master);
        let run = RunOptions { view: ViewName::master_dataset(), grace: Duration::ZERO, ..self.options(master, "user_stats") };
        Box::pin(compact_on(&Later, &CompactOptions { run, ..eager }, &master.store)).await
    }

    /// Lets go of all versions but the newest two.
    async fn expire(&self, master: &Master) {
        for (_, run) in self.both(master) {
            let options = ExpireOptions {
                run: RunOptions { grace: Duration::ZERO, ..run },
                keep_versions: 2,
                keep_versions_for: Duration::ZERO,
                keep_reports_for: Duration::ZERO,
                dry_run: false,
            };
            Box::pin(expire_on(&Later, &options, &master.store)).await.unwrap();
        }
    }
}

async fn over(master: &Master, sql: &'static str, options: &RunOptions) -> RunOptions {
    RunOptions { speed_layer: Some(FakeSpeedLayer { sql, ..FakeSpeedLayer::of(master) }.serve().await), ..options.clone() }
}

/// Runs both views, against an honest speed layer.
async fn publish_both(declared: &Declared, master: &Master, incremental: bool) {
    for (sql, options) in declared.both(master) {
        let options = RunOptions { incremental, force: true, ..over(master, sql, &options).await };
        master.publish(&options).await;
    }
}

/// Day and user of every event that is still in a file.
async fn in_files(master: &Master) -> Vec<(i64, String)> {
    let mut found = Vec::new();
    let columns = Some(&["event_id".to_owned(), "event_time".to_owned()][..]);
    let mut batches = Vec::new();
    for segment in list_segments(&master.store).await.unwrap() {
        storage::master::verify_segment(&master.store, &segment).await.unwrap();
        batches.push(storage::master::read_segment(&master.store, &segment, columns).await.unwrap());
    }
    for import in storage::imports::list(&master.store).await.unwrap() {
        for partition in 0..PARTITIONS {
            storage::imports::verify_partition(&master.store, &import, partition).await.unwrap();
            batches.push(storage::imports::read_partition(&master.store, &import, partition, columns).await.unwrap());
        }
    }
    for batches in batches {
        let batches: Vec<RecordBatch> = batches.try_collect().await.unwrap();
        for batch in batches {
            let times = batch.column_by_name("event_time").unwrap().as_primitive::<TimestampMicrosecondType>();
            let ids = batch.column_by_name("event_id").unwrap().as_string::<i32>();
            found.extend((0..batch.num_rows()).map(|row| (times.value(row).div_euclid(DAY_US), ids.value(row).to_owned())));
        }
    }
    found.sort();
    found
}

async fn floor_day(master: &Master) -> Option<i64> {
    Layout::newest(&master.store).await.unwrap().expired_before_us.map(|before_us| before_us / DAY_US)
}

/// A dataset of twenty days, and two versions of each view over all of it.
async fn twenty_days(store: Store, declared: &Declared) -> (Master, Vec<Event>) {
    let mut master = Master { store, ..Master::new(schema()) };
    let mut all = Vec::new();
    for day in 0..20 {
        master.append_time_us = day * DAY_US + DAY_US / 2;
        let events: Vec<_> =
            (0..12).map(|i| event(&format!("user-{}", i % 5), &format!("d{day}-{i}"), day, 100 * i128::from(i + day))).collect();
        master.append(&events).await;
        all.extend(events);
    }
    publish_both(declared, &master, false).await;
    publish_both(declared, &master, false).await;
    (master, all)
}

fn kept(all: &[Event], from_day: i64) -> Vec<Event> {
    all.iter().filter(|event| event.event_time_us >= from_day * DAY_US).cloned().collect()
}

/// Proves that under a retention every view must have a limit within it, the built-in one too, and that the error names view, time and file.
#[tokio::test]
async fn every_view_must_let_go() {
    let declared = Declared::new();
    let master = Master::with(&[event("user-1", "a", 1, 1)]).await;
    for (sql, said) in [
        (Some(USERS.replace("-- keep: 6d", "")), "user_stats keeps its buckets for ever"),
        (Some(USERS.replace("6d", "9d")), "keeps its buckets for 9d; write -- keep: 8d or less in"),
        (Some(USERS.replace("6d", "193h")), "keeps its buckets for 193h"),
        (None, "keeps its buckets for ever"),
    ] {
        match sql {
            Some(sql) => declared.write("user_stats", &sql),
            None => std::fs::remove_file(declared.folder.path().join("user_stats.sql")).unwrap(),
        }
        let refused = master.run(&declared.options(&master, "user_stats")).await.unwrap_err();
        let text = refused.to_string();
        assert!(refused.exit_code() == 2 && text.contains(said) && text.contains("\"8d\"") && text.contains("user_stats.sql"), "{text}");
        let held = declared.compact(&master).await.unwrap().held.unwrap();
        assert!(held.contains("user_stats") || held.contains("kinds: it has no version yet"), "{held}");
    }
    declared.write("user_stats", &USERS.replace("6d", "8d"));
    master.publish(&declared.options(&master, "user_stats")).await;
    master.publish(&declared.options(&master, "kinds")).await;
}

/// Proves that exactly what no kept version of any view counts goes, from segments and imports, for the length of the retention at most, that
/// answers, digests and rows' equation are what they were, and that nothing goes twice or comes back.
#[tokio::test]
async fn what_nobody_counts_goes() {
    let declared = Declared::new();
    let (mut master, all) = twenty_days(Store::open("memory://").unwrap(), &declared).await;
    let history: Vec<_> = (0..20).map(|day| event("user-1", &format!("old-{day}"), day, 5)).collect();
    master.import(&history).await;
    publish_both(&declared, &master, false).await;
    let before = in_files(&master).await;
    // The versions without the import are kept as yet, so of the import nothing goes.
    let first = declared.compact(&master).await.unwrap();
    // As of day 19 at noon the retention leaves day 11 at noon, kinds keeps from the Monday before on, which is day 11.
    assert_eq!((first.held.as_deref(), floor_day(&master).await), (None, Some(11)));
    let old = |rows: &[(i64, String)], floor: i64| rows.iter().filter(|row| row.0 < floor).count() as i64;
    assert_eq!(first.expired_rows, old(&before, 11) - 11, "{first:?}");
    assert!(first.to_string().contains("expired     132 rows; events before 1970-01-12T00:00:00Z are past the retention"), "{first}");
    publish_both(&declared, &master, false).await;
    declared.expire(&master).await;
    let second = declared.compact(&master).await.unwrap();
    assert_eq!((second.expired_rows, old(&in_files(&master).await, 11)), (11, 0));
    assert_eq!(in_files(&master).await.len(), before.len() - 132 - 11);

    let everything = [&history[..], &all].concat();
    let expected = oracle(&kept(&everything, 13));
    assert_eq!(master.answers().await, expected);
    for incremental in [true, false] {
        publish_both(&declared, &master, incremental).await;
        assert_eq!(master.answers().await, expected);
    }
    let full = master.publish(&RunOptions { force: true, ..declared.options(&master, "user_stats") }).await;
    let rows = &full.rows;
    assert_eq!((rows.log, rows.segments, rows.expired, rows.imports, rows.left_out_and_gone), (240, 108, 132, 9, 0));
    assert!(rows.to_string().starts_with("240 in the log - 132 expired and gone, 108 in segments + 9 imported = "), "{rows}");
    master.append_time_us += 1;
    master.append(&[event("user-1", "new", 19, 1)]).await;
    let increment = master.publish(&RunOptions { incremental: true, ..declared.options(&master, "user_stats") }).await;
    assert_eq!((increment.built_upon, increment.rows.expired, increment.rows.left_out_and_gone), (Some(full.version), 132, 143));
    for version in [full.version, increment.version] {
        let options = declared.options(&master, "user_stats");
        verify(&options, &master.store, Some(version), Depth::Recompute { first: None }, Arc::new(Silent)).await.unwrap();
    }
    // Nothing is left to do, and no layout says so again.
    publish_both(&declared, &master, false).await;
    let number = Layout::newest(&master.store).await.unwrap().number;
    let third = declared.compact(&master).await.unwrap();
    assert_eq!((third.expired_rows, third.before, Layout::newest(&master.store).await.unwrap().number), (0, 2, number + 1), "{third:?}");
    assert_eq!(declared.compact(&master).await.unwrap(), Compacted { expired_before_us: Some(11 * DAY_US), ..Compacted::default() });
}

/// Proves that each of these holds the floor back: a view without a version, a kept version without a limit, a changed file, a file that is no
/// view, a run at work; that it is said which; and that the rest of the compaction is done all the same.
#[tokio::test]
async fn what_holds_it_back() {
    let declared = Declared::new();
    let (master, _) = twenty_days(Store::open("memory://").unwrap(), &declared).await;
    let held = |done: Compacted| {
        assert_eq!((done.expired_rows, done.expired_before_us), (0, None));
        assert!(done.to_string().contains("retention   waits: "), "{done}");
        done.held.unwrap()
    };
    declared.write("third", USERS);
    let first = declared.compact(&master).await.unwrap();
    assert!(first.before > 50, "{first:?}");
    assert_eq!(held(first), "third: it has no version yet");
    declared.write("third", "SELECT");
    let said = held(declared.compact(&master).await.unwrap());
    assert!(said.starts_with("third: ") && said.contains("third.sql"), "{said}");
    std::fs::remove_file(declared.folder.path().join("third.sql")).unwrap();
    declared.write("user_stats", &USERS.replace("6d", "5d"));
    assert_eq!(held(declared.compact(&master).await.unwrap()), "user_stats: its file has changed, and no run has computed it yet");
    declared.write("user_stats", USERS);

    let at_work = RunOptions { lease_ttl: Duration::from_millis(300), ..declared.options(&master, "kinds") };
    let turn = Turn::take(&RealMachine, &at_work, &master.store).await.unwrap();
    let said = held(declared.compact(&master).await.unwrap());
    assert!(said.contains("another run has the lease of kinds"), "{said}");
    turn.keeper.release().await;
    assert_eq!(declared.compact(&master).await.unwrap().expired_rows, 132);

    // A version of before the limit.
    let mut other = Master::new(schema());
    other.append_time_us = 20 * DAY_US;
    other.append(&[event("user-1", "a", 1, 1)]).await;
    other.publish(&other.options()).await;
    publish_both(&declared, &other, false).await;
    assert_eq!(
        held(declared.compact(&other).await.unwrap()),
        "user_stats: version 1 is kept and has no limit; batch-layer expire lets it go in time"
    );
    publish_both(&declared, &other, false).await;
    declared.expire(&other).await;
    assert_eq!(declared.compact(&other).await.unwrap().expired_rows, 1);
}

/// Proves that a definition that counts what is gone is refused with what can be declared instead, whether a retention is still declared or
/// not, that a version that counts it is neither rolled back to nor computed again, and that the floor never goes back.
#[tokio::test]
async fn what_is_gone_is_not_counted() {
    let declared = Declared::new();
    let (master, _) = twenty_days(Store::open("memory://").unwrap(), &declared).await;
    // Nobody answers for this one any more, so its version does not hold anything back.
    declared.write("withdrawn", &USERS.replace("-- keep: 6d", ""));
    let forever = RunOptions { retention: None, ..declared.options(&master, "withdrawn") };
    master.publish(&forever).await;
    std::fs::remove_file(declared.folder.path().join("withdrawn.sql")).unwrap();
    crate::withdraw(&forever, &master.store).await.unwrap();
    assert_eq!(declared.compact(&master).await.unwrap().expired_rows, 132);
    for refused in [
        rollback(&forever, &master.store, 1).await.unwrap_err(),
        verify(&forever, &master.store, Some(1), Depth::Recompute { first: None }, Arc::new(Silent)).await.unwrap_err(),
    ] {
        assert!(matches!(refused, RunError::ExpiredSince { version: 1, .. }), "{refused}");
    }
    verify(&forever, &master.store, Some(1), Depth::Files, Arc::new(Silent)).await.unwrap();
    rollback(&declared.options(&master, "user_stats"), &master.store, 1).await.unwrap();

    for (sql, said) in [
        (USERS.replace("-- keep: 6d", ""), "counts events of any age"),
        (
            USERS.replace("6d", "9d"),
            "counts events from 1970-01-11T00:00:00Z on, which would be only some of them; write -- keep: 8d or less",
        ),
        ("SELECT user_id, count(*) AS n FROM events GROUP BY user_id".to_owned(), "group it by a date_trunc of event_time"),
        (USERS.replace("6d", "9d").replace("'day'", "'month'"), "no bucket of it is whole yet"),
    ] {
        declared.write("user_stats", &sql);
        let options = RunOptions { retention: None, ..declared.options(&master, "user_stats") };
        let refused = master.run(&options).await.unwrap_err();
        assert!(refused.exit_code() == 2 && refused.to_string().contains(said), "{refused}");
    }
    declared.write("user_stats", &USERS.replace("6d", "8d"));
    master.publish(&declared.options(&master, "user_stats")).await;

    let mut back = Layout::newest(&master.store).await.unwrap().next("back");
    back.expire(10 * DAY_US);
    assert_eq!(back.expired_before_us, Some(11 * DAY_US));
}

/// Proves that a row that repeats an expired one under another time goes with it, that both stay while a later one is not in every kept
/// version, and that what is sent under the id after that is a new event, in both kinds of run.
#[tokio::test]
async fn repeats_go_together() {
    let declared = Declared::new();
    let (mut master, mut all) = twenty_days(Store::open("memory://").unwrap(), &declared).await;
    let again = |day, amount| event("user-1", "d3-1", day, amount);
    master.append(&[again(15, 7_000)]).await;
    publish_both(&declared, &master, true).await;
    let expected = oracle(&kept(&all, 13));
    assert_eq!(master.answers().await, expected);
    // The older of two kept versions does not know it.
    assert_eq!(declared.compact(&master).await.unwrap().expired_rows, 131);
    assert_eq!(in_files(&master).await.iter().filter(|row| row.1 == "d3-1").count(), 2);
    publish_both(&declared, &master, true).await;
    publish_both(&declared, &master, false).await;
    declared.expire(&master).await;
    assert_eq!(master.answers().await, expected);
    assert_eq!(declared.compact(&master).await.unwrap().expired_rows, 2);
    assert_eq!(in_files(&master).await.iter().filter(|row| row.1 == "d3-1").count(), 0);
    for incremental in [true, false] {
        publish_both(&declared, &master, incremental).await;
        assert_eq!(master.answers().await, expected);
    }
    master.append(&[again(16, 9_000), again(16, 9_000)]).await;
    all.retain(|event| event.event_id != "d3-1");
    all.push(again(16, 9_000));
    for incremental in [true, false] {
        publish_both(&declared, &master, incremental).await;
        assert_eq!(master.answers().await, oracle(&kept(&all, 13)));
    }
}

/// A row of the model: an event, and where it lies; imports come first.
#[derive(Clone, Debug)]
struct Row {
    event: Event,
    /// Import and log are told apart by the first.
    at: (bool, usize, usize),
}

/// What there is, by the plainest means.
#[derive(Default)]
struct Model {
    rows: Vec<Row>,
    imports: usize,
    log: Vec<usize>,
    floor_us: Option<i64>,
    /// For each view, of each version that is there: how far each partition goes, and how many imports.
    versions: BTreeMap<(String, i64), (Vec<i64>, usize)>,
}

impl Model {
    fn append(&mut self, events: &[Event]) {
        self.log.resize(PARTITIONS as usize, 0);
        for event in events {
            let partition = shard_of(&event.user_id, PARTITIONS) as usize;
            self.rows.push(Row { event: event.clone(), at: (true, partition, self.log[partition]) });
            self.log[partition] += 1;
        }
    }

    fn import(&mut self, events: &[Event]) {
        self.imports += 1;
        self.rows.extend(events.iter().enumerate().map(|(i, event)| Row { event: event.clone(), at: (false, self.imports, i) }));
    }

    /// Rows in the order of their offsets, without those that a later erasure of their user hides.
    fn visible(&self) -> Vec<Row> {
        let mut rows = self.rows.clone();
        rows.sort_by_key(|row| row.at);
        let erased: Vec<Row> = rows.iter().filter(|row| is_erasure(&row.event)).cloned().collect();
        rows.retain(|row| !erased.iter().any(|erasure| erasure.event.user_id == row.event.user_id && row.at <= erasure.at));
        rows
    }

    fn answers(&self, from_us: i64) -> Answers {
        let events: Vec<Event> = self.visible().into_iter().map(|row| row.event).collect();
        let mut seen = BTreeSet::new();
        let firsts: Vec<Event> = events.into_iter().filter(|event| seen.insert((event.user_id.clone(), event.event_id.clone()))).collect();
        oracle(&firsts.into_iter().filter(|event| event.event_time_us >= from_us).collect::<Vec<_>>())
    }

    /// What a compaction takes: whole identities whose first row is old, once all of their rows are in every version; and old rows behind a
    /// first one that is not old, once all are.
    fn expire(&mut self, floor_us: i64) {
        self.floor_us = Some(floor_us);
        let versions: Vec<_> = self.versions.values().cloned().collect();
        let is_settled = |row: &Row| {
            versions.iter().all(|(boundary, imports)| match row.at {
                (true, partition, offset) => (offset as i64) < boundary[partition],
                (false, import, _) => import <= *imports,
            })
        };
        let mut groups: BTreeMap<(String, String), Vec<Row>> = BTreeMap::new();
        for row in self.visible() {
            groups.entry((row.event.user_id.clone(), row.event.event_id.clone())).or_default().push(row);
        }
        let mut gone = BTreeSet::new();
        for rows in groups.values() {
            let is_old = |row: &Row| row.event.event_time_us < floor_us;
            if rows.iter().all(is_old) {
                gone.extend(rows.iter().filter(|row| is_settled(row)).map(|row| (row.at, row.event.user_id.clone())));
            } else if rows.iter().all(is_settled) {
                let all = is_old(&rows[0]);
                gone.extend(rows.iter().filter(|row| all || is_old(row)).map(|row| (row.at, row.event.user_id.clone())));
            }
        }
        self.rows.retain(|row| !gone.contains(&(row.at, row.event.user_id.clone())));
    }
}

/// One random history under a retention.
async fn one_history(seed: u64) -> [usize; 4] {
    let mut random = StdRng::seed_from_u64(seed);
    let declared = Declared::new();
    let (mut master, mut model, mut sent) = (Master::new(schema()), Model::default(), Vec::<Event>::new());
    let mut seen = [0; 4];
    let mut day = 20;
    for step in 0..random.random_range(6..14) {
        day += random.random_range(0..3);
        master.append_time_us = master.append_time_us.max(day * DAY_US + random.random_range(0..DAY_US));
        let mut more = Vec::new();
        for number in 0..random.random_range(1..40) {
            let repeats = !sent.is_empty() && random.random_range(0..4) == 0;
            let mut next = match repeats {
                true => sent[random.random_range(0..sent.len())].clone(),
                false => {
                    event(&format!("user-{}", random.random_range(0..6)), &format!("s{step}-{number}"), 0, random.random_range(-99..9999))
                }
            };
            if !repeats || random.random_range(0..3) == 0 {
                next.event_time_us = (day - random.random_range(-1..14)) * DAY_US + 1;
            }
            next.event_type = ["", "sale", "visit"][random.random_range(0..3)].to_owned();
            more.push(next);
        }
        sent.extend(more.iter().cloned());
        if random.random_range(0..5) == 0 {
            more.insert(random.random_range(0..=more.len()), erasure(&format!("user-{}", random.random_range(0..6))));
            seen[0] += 1;
        }
        if random.random_range(0..4) == 0 {
            let history = more.split_off(more.len() / 2);
            let history: Vec<_> = history.into_iter().filter(|event| !is_erasure(event)).collect();
            if !history.is_empty() {
                master.import(&history).await;
                model.import(&history);
            }
        }
        master.append(&more).await;
        model.append(&more);
        for (sql, options) in declared.both(&master) {
            if random.random_range(0..5) == 0 {
                continue;
            }
            let case = format!("seed {seed}, step {step}, {}", options.view);
            let options = if random.random_range(0..3) > 0 { over(&master, sql, &options).await } else { options };
            let options = RunOptions { incremental: random.random_range(0..3) > 0, force: true, ..options };
            let published = match master.run(&options).await {
                Ok(RunOutcome::Published(report)) => report,
                other => panic!("{case}: {other:?}"),
            };
            let mut content = (published.digest, published.event_count);
            if random.random_range(0..3) == 0 {
                let whole = master.publish(&RunOptions { incremental: false, ..options.clone() }).await;
                assert_eq!((whole.digest.clone(), whole.event_count), content, "{case}");
                content = (whole.digest, whole.event_count);
            }
            let newest = Manifests::new(master.store.clone(), options.view.clone()).latest().await.unwrap().unwrap();
            assert_eq!((newest.digest.clone(), newest.event_count), content, "{case}");
            if sql == USERS {
                let from_us = (newest.as_of.unwrap() - 6 * DAY_US).div_euclid(DAY_US) * DAY_US;
                assert_eq!(master.answers().await, model.answers(from_us), "{case}");
            }
            if random.random_range(0..6) == 0
                && newest.version > 1
                && rollback(&options_alone(&options), &master.store, newest.version - 1).await.is_ok()
            {
                seen[1] += 1;
            }
        }
        if random.random_range(0..2) == 0 {
            declared.expire(&master).await;
        }
        if random.random_range(0..2) == 0 {
            model.versions.clear();
            for (_, options) in declared.both(&master) {
                let manifests = Manifests::new(master.store.clone(), options.view.clone());
                for version in manifests.list().await.unwrap() {
                    let manifest = manifests.read(version).await.unwrap();
                    model.versions.insert((options.view.to_string(), version), (manifest.boundary, manifest.imports.len()));
                }
            }
            let done = declared.compact(&master).await.unwrap();
            let left: usize = in_files(&master).await.len();
            match (done.held, done.expired_before_us) {
                (None, Some(floor_us)) => {
                    model.expire(floor_us);
                    assert!(floor_us <= master.append_time_us - RETENTION_DAYS * DAY_US, "seed {seed}, step {step}");
                }
                (held, _) => seen[2] += usize::from(held.is_some()),
            }
            seen[3] += done.expired_rows as usize;
            assert!(
                left >= model.visible().len(),
                "seed {seed}, step {step}: {left} rows in files, {} in the model",
                model.visible().len()
            );
            for (_, options) in declared.both(&master) {
                let manifests = Manifests::new(master.store.clone(), options.view.clone());
                let newest = manifests.newest().await.unwrap();
                for version in manifests.list().await.unwrap() {
                    let verified = verify(&options, &master.store, Some(version), Depth::Recompute { first: None }, Arc::new(Silent)).await;
                    match verified {
                        Ok(_) | Err(RunError::ErasedSince { .. }) => {}
                        Err(e) => panic!("seed {seed}, step {step}, {} v{version} of {newest:?}: {e}", options.view),
                    }
                }
            }
        }
    }
    seen
}

fn options_alone(options: &RunOptions) -> RunOptions {
    RunOptions { speed_layer: None, ..options.clone() }
}

/// Proves over random histories of late, repeated, conflicting, imported and erased events, runs of both kinds, rollbacks, expiry and compaction
/// that under a retention every answer is what a plain model says, that a digest is the same however it was computed, that every audit holds,
/// and that every kept version can be computed again. `HISTORIES` is how many, `SEED` the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_histories() {
    let number = |name, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let first = number("SEED", 1);
    let mut seen = [0; 4];
    for seed in first..first + number("HISTORIES", 12) {
        let more = Box::pin(one_history(seed)).await;
        seen.iter_mut().zip(more).for_each(|(all, more)| *all += more);
    }
    let [erasures, rollbacks, _, expired] = seen;
    assert!(erasures > 0 && rollbacks > 0 && expired > 0, "{seen:?}");
}

/// Proves that a compaction under a retention whose k-th call of the store fails, before its effect or after it, or who dies at it, in turn, leaves
/// everything to answer and to compute from, repeated rows together, and that the next one ends what was begun.
#[tokio::test]
async fn every_call() {
    let declared = Declared::new();
    let faulty = FaultyStore::default();
    let (mut master, all) = twenty_days(Store::from_object_store(Arc::new(faulty.clone())), &declared).await;
    // Merged before, so that the calls are those of the expiry.
    Box::pin(compact_on(&Later, &eager(&master), &master.store)).await.unwrap();
    let only_expire = CompactOptions {
        run: RunOptions { view: ViewName::master_dataset(), grace: Duration::ZERO, ..declared.options(&master, "user_stats") },
        least_files: usize::MAX,
        ..eager(&master)
    };
    let compact = async |master: &Master| Box::pin(compact_on(&Later, &only_expire, &master.store)).await;
    // Expired ones lie in other files than those that repeat them.
    let repeated: Vec<_> = (0..4).map(|i| event(&format!("user-{}", i % 5), &format!("d2-{i}"), 16, 4_000)).collect();
    master.append(&repeated).await;
    for incremental in [true, false, true] {
        publish_both(&declared, &master, incremental).await;
    }
    declared.expire(&master).await;
    let expected = oracle(&kept(&all, 13));
    assert_eq!(master.answers().await, expected);
    let of = |store: &FaultyStore| {
        let store = Store::from_object_store(Arc::new(store.clone()));
        Master {
            store,
            log: master.log.clone(),
            archived: master.archived.clone(),
            append_time_us: master.append_time_us,
            ..Master::new(schema())
        }
    };
    async fn forget_leases(master: &Master) {
        for object in master.store.list(&"runs".into()).await.unwrap() {
            master.store.delete(&object.location).await.unwrap();
        }
    }
    let clean = faulty.fork();
    assert_eq!(compact(&of(&clean)).await.unwrap().expired_rows, 132 + 4);
    let calls = clean.calls().len() as u64;
    let expected_files = in_files(&of(&clean)).await;
    assert!(calls > 60, "{calls}");
    for k in (1..=calls).step_by(2) {
        let (fault, dies) = [(Fault::Before, false), (Fault::After, false), (Fault::After, true)][k as usize % 3];
        let case = format!("call {k} of {calls}, {fault:?}, dies: {dies}");
        let store = faulty.fork();
        let master = of(&store);
        store.plan(move |call| match call.number {
            number if number == k => Some(fault),
            number if number > k && dies => Some(Fault::Before),
            _ => None,
        });
        if let Err(error) = compact(&master).await {
            assert_eq!(error.exit_code(), 4, "{case}: {error:?}");
        }
        store.heal();
        forget_leases(&master).await;
        // What comes next says the same, whichever way it is computed, though only some of it is gone.
        let copy = of(&store.fork());
        publish_both(&declared, &copy, k % 2 == 0).await;
        assert_eq!(copy.answers().await, expected, "{case}");
        compact(&master).await.unwrap_or_else(|e| panic!("{case}: {e}"));
        assert_eq!(in_files(&master).await, expected_files, "{case}");
        publish_both(&declared, &master, true).await;
        assert_eq!(master.answers().await, expected, "{case}");
    }
}
