//! Versions built upon others, against versions computed from all events.

use storage::identities::{self, Identities};
use storage::paths::IdentitiesPath;

use super::fake_speed_layer::FakeSpeedLayer;
use super::*;
use crate::compact::{CompactOptions, compact_on};

pub(super) const VIEWS: [(&str, &str); 5] = [
    ("user_stats", views::definition::USER_STATS_SQL),
    (
        "by_type",
        "SELECT event_type, date_trunc('day', event_time) AS day, count(*) AS n, sum(amount) AS revenue
         FROM events GROUP BY event_type, date_trunc('day', event_time)",
    ),
    (
        "wide",
        "SELECT user_id, event_type, count(*) AS n, sum(quantity), count(DISTINCT event_id), approx_distinct(event_id),
                min(amount), max(event_time), avg(amount), first_value(event_id ORDER BY event_time), last_value(amount ORDER BY event_time)
         FROM events GROUP BY user_id, event_type",
    ),
    (
        "recent",
        "-- keep: 48h
         SELECT user_id, date_trunc('day', event_time) AS day, count(*) AS n, sum(amount) FILTER (WHERE quantity > 2) AS revenue
         FROM events GROUP BY user_id, date_trunc('day', event_time)",
    ),
    (
        "sales",
        "SELECT event_type, count(*) AS n, stddev(quantity), approx_percentile_cont(quantity, 0.5)
         FROM events WHERE amount > 100 GROUP BY event_type",
    ),
];

/// A view in a folder of its own.
pub(super) fn declare(folder: &tempfile::TempDir, master: &Master, (name, sql): (&'static str, &'static str)) -> RunOptions {
    std::fs::write(folder.path().join(format!("{name}.sql")), sql).unwrap();
    RunOptions { view: name.parse().unwrap(), views_dir: folder.path().to_owned(), incremental: true, ..master.options() }
}

/// Some new events, some sent before, and one in twenty of those with another content.
pub(super) fn more_events(random: &mut StdRng, all: &[Event], count: usize) -> Vec<Event> {
    let new = |random: &mut StdRng, number: usize| {
        let mut new = event(
            &format!("user-{}", random.random_range(0..12)),
            &format!("e{number}"),
            random.random_range(0..6),
            random.random_range(-99..9999),
        );
        new.event_type = ["", "sale", "return", "visit"][random.random_range(0..4)].to_owned();
        new.attributes = [("quantity".to_owned(), random.random_range(0..5).to_string())].into();
        new
    };
    let mut more: Vec<Event> = Vec::new();
    for number in all.len()..all.len() + count {
        let before = all.len() + more.len();
        let repeats = before > 0 && random.random_range(0..6) == 0;
        more.push(match repeats {
            false => new(random, number),
            true => {
                let at = random.random_range(0..before);
                let mut repeated = all.get(at).unwrap_or_else(|| &more[at - all.len()]).clone();
                if random.random_range(0..20) == 0 {
                    repeated.event_type = "other".to_owned();
                }
                repeated
            }
        });
    }
    more
}

/// What two runs over the same events must agree in.
fn content(report: &RunReport, manifest: &Manifest) -> (String, i64, i64, i64, i64, Option<i64>) {
    let Manifest { event_count, late_duplicate_count, conflict_count, as_of, .. } = manifest;
    (report.digest.clone(), report.state_rows, *event_count, *late_duplicate_count, *conflict_count, *as_of)
}

async fn newest(master: &Master, options: &RunOptions) -> Manifest {
    Manifests::new(master.store.clone(), options.view.clone()).latest().await.unwrap().unwrap()
}

/// One random history: after each step every view has the digest, the rows and the counts of a run over all events.
async fn one_history(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let (mut master, mut all, mut imported) = (Master::new(schema()), Vec::new(), Vec::new());
    let folder = tempfile::tempdir().unwrap();
    let runs: Vec<_> = VIEWS.iter().map(|view| (view.1, declare(&folder, &master, *view))).collect();
    for step in 0..random.random_range(2..7) {
        let few = random.random_range(0..3) > 0;
        let count = random.random_range(if few { 1..12 } else { 40..160 });
        let more = more_events(&mut random, &all, count);
        all.extend(more.iter().cloned());
        master.append_time_us += random.random_range(0..DAY_US);
        master.append(&more).await;
        if random.random_range(0..4) == 0 {
            let known: Vec<Event> = imported.iter().chain(&all).cloned().collect();
            let history = more_events(&mut random, &known, 20);
            master.import(&history).await;
            imported.extend(history);
        }
        if random.random_range(0..3) == 0 {
            let eager = compact::eager(&master);
            Box::pin(compact_on(&compact::Later, &CompactOptions { target_bytes: [3 << 10, 1 << 20][step % 2], ..eager }, &master.store))
                .await
                .unwrap();
        }
        for (sql, options) in &runs {
            let is_missed = random.random_range(0..4) == 0;
            if is_missed {
                continue;
            }
            let url = FakeSpeedLayer { sql, ..FakeSpeedLayer::of(&master) }.serve().await;
            let asks = random.random_range(0..3) > 0;
            let options = RunOptions { speed_layer: asks.then_some(url), ..options.clone() };
            let case = format!("seed {seed}, step {step}, view {}", options.view);
            let Ok(RunOutcome::Published(incremental)) = master.run(&options).await.inspect_err(|e| panic!("{case}: {e}")) else {
                continue;
            };
            let first = content(&incremental, &newest(&master, &options).await);
            if random.random_range(0..3) == 0 {
                let all_again = RunOptions { incremental: false, force: true, speed_layer: None, ..options.clone() };
                let full = master.publish(&all_again).await;
                assert_eq!(content(&full, &newest(&master, &options).await), first, "{case}, built upon {:?}", incremental.built_upon);
            }
        }
    }
    for (_, options) in &runs {
        let options = RunOptions { speed_layer: None, ..options.clone() };
        let incremental = match master.run(&options).await.unwrap() {
            RunOutcome::Published(report) => content(&report, &newest(&master, &options).await),
            RunOutcome::NothingToDo(_) => {
                let newest = newest(&master, &options).await;
                let report = RunReport { digest: newest.digest.clone(), state_rows: newest.row_count, ..RunReport::default() };
                content(&report, &newest)
            }
        };
        let full = master.publish(&RunOptions { incremental: false, force: true, ..options.clone() }).await;
        assert_eq!(content(&full, &newest(&master, &options).await), incremental, "seed {seed}, at the end, view {}", options.view);
    }
    // What was imported came before all else.
    imported.extend(all);
    assert_eq!(master.answers().await, oracle(&imported), "seed {seed}");
}

/// Proves over random histories that a version built upon others, in any number of steps, has the digest, the rows and the counts of
/// one computed from all events. `HISTORIES` is how many, `SEED` the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_digest_of_a_full_run() {
    let number = |name, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let first = number("SEED", 1);
    for seed in first..first + number("HISTORIES", 12) {
        Box::pin(one_history(seed)).await;
    }
}

/// Proves that a small increment reads the new events only, shares the file of the version below it, and that a second one as small
/// takes in the first.
#[tokio::test]
async fn cost_follows_what_is_new() {
    let events = random_events(3, 4_000);
    let mut master = Master::with(&events).await;
    let options = RunOptions { incremental: true, ..master.options() };
    let first = master.publish(&options).await;
    assert_eq!((first.built_upon, first.recompute_reason.as_deref()), (None, Some("first version")));
    let below: Vec<_> = master.latest().await.unwrap().files;

    let more: Vec<_> = (0..6).map(|number| event("user-1", &format!("new-{number}"), 2, 100)).collect();
    for (step, event) in more.iter().enumerate() {
        master.append(std::slice::from_ref(event)).await;
        let report = master.publish(&options).await;
        assert_eq!((report.built_upon, report.rows_read), (Some(report.version - 1), 1), "{report:?}");
        let manifest = master.latest().await.unwrap();
        assert!(below.iter().all(|file| manifest.files.contains(file)), "step {step} wrote a file anew");
        assert_eq!(manifest.files.len(), below.len() + 1, "step {step}");
    }
    let all: Vec<_> = events.into_iter().chain(more).collect();
    assert_eq!(master.answers().await, oracle(&all));

    // What was done can be told from the manifests. Nothing is new, and still a run from all events has something to judge, once.
    let last = master.latest().await.unwrap();
    let done = crate::schedule::published(&master.store, [&view()]).await.unwrap();
    assert_eq!((done.full, done.any), (crate::report::began(&first.run_id), crate::report::began(&last.run_id)));
    assert!(matches!(master.run(&options).await.unwrap(), RunOutcome::NothingToDo(_)));
    let judged = master.publish(&master.options()).await;
    assert_eq!(judged.digest, last.digest);
    assert!(matches!(master.run(&master.options()).await.unwrap(), RunOutcome::NothingToDo(_)));
}

/// Proves that a view with a limit is built upon as any other until a bucket passes the limit, and is written anew then.
#[tokio::test]
async fn a_limit_that_stands_still() {
    let mut master = Master::with(&random_events(3, 4_000)).await;
    let folder = tempfile::tempdir().unwrap();
    let options = declare(&folder, &master, VIEWS[3]);
    master.publish(&options).await;
    let rewrites = async |master: &mut Master, id: &str| {
        let below = newest(master, &options).await.files;
        master.append(&[event("user-1", id, 5, 100), event("user-1", &format!("{id} long ago"), -40, 100)]).await;
        let incremental = master.publish(&options).await;
        assert_eq!((incremental.built_upon, incremental.rows_read), (Some(incremental.version - 1), 2), "{incremental:?}");
        let manifest = newest(master, &options).await;
        let full = master.publish(&RunOptions { incremental: false, force: true, ..options.clone() }).await;
        assert_eq!(content(&incremental, &manifest), content(&full, &newest(master, &options).await), "{id}");
        !below.iter().all(|file| manifest.files.contains(file))
    };
    assert!(!rewrites(&mut master, "the same day").await);
    master.append_time_us += DAY_US;
    assert!(rewrites(&mut master, "the next day").await);
}

/// Proves that a run that cannot build upon the version before computes from all events and says why.
#[tokio::test]
async fn falls_back() {
    let mut master = Master::with(&random_events(4, 300)).await;
    let options = RunOptions { incremental: true, ..master.options() };
    master.publish(&options).await;
    master.append(&[event("user-1", "new", 2, 100)]).await;
    let damaged = master.latest().await.unwrap().files[1].path.clone();
    let mut bytes = master.store.get(&damaged.clone().into()).await.unwrap().to_vec();
    bytes[20] ^= 4;
    master.store.put_durable(&damaged.clone().into(), bytes.into()).await.unwrap();
    let report = master.publish(&options).await;
    assert_eq!(report.built_upon, None);
    assert!(report.recompute_reason.is_some_and(|reason| reason.contains(&damaged)));

    let folder = tempfile::tempdir().unwrap();
    let sql = "SELECT user_id, count(*) AS event_count, sum(amount) AS revenue FROM events GROUP BY user_id";
    let other = declare(&folder, &master, ("user_stats", sql));
    assert_eq!(master.publish(&other).await.recompute_reason.as_deref(), Some("new definition"));
}

/// Proves that a speed layer that folded the new events otherwise, or one more of a user that has none, stops an increment, with the
/// key, and that it goes through without it.
#[tokio::test]
async fn audited_against_the_speed_layer() {
    let mut master = Master::with(&random_events(6, 300)).await;
    let options = RunOptions { incremental: true, ..master.options() };
    let url = FakeSpeedLayer::of(&master).serve().await;
    master.publish(&RunOptions { speed_layer: Some(url), ..options.clone() }).await;
    let new = [event("user-1", "new", 2, 100), event("user-2", "new", 2, 100), event("user-3", "new", 2, 100)];
    master.append(&new).await;
    // Sent once more: no row counts the second, so what stands in its place at the speed layer is in no new file.
    master.append(&new[2..]).await;
    let mut lying = FakeSpeedLayer::of(&master);
    *lying.log.as_mut().unwrap()[shard_of("user-3", PARTITIONS) as usize].last_mut().unwrap() = event("user-9", "more", 2, 100);
    let url = lying.serve().await;
    let refused = master.run(&RunOptions { speed_layer: Some(url), ..options.clone() }).await.unwrap_err();
    assert!(matches!(refused, RunError::Audit { .. }) && refused.to_string().contains("user-9"), "{refused}");

    for (named, lie) in [("user-2", event("user-9", "instead", 2, 100)), ("user-1", event("user-1", "new", 2, 101))] {
        let mut lying = FakeSpeedLayer::of(&master);
        let log = &mut lying.log.as_mut().unwrap()[shard_of(named, PARTITIONS) as usize];
        let place = log.iter().position(|event| event.event_id == "new" && event.user_id == named).unwrap();
        log[place] = lie;
        let url = lying.serve().await;
        let refused = master.run(&RunOptions { speed_layer: Some(url), ..options.clone() }).await.unwrap_err();
        assert!(matches!(refused, RunError::Audit { .. }) && refused.to_string().contains(named), "{refused}");
    }
    assert_eq!(master.publish(&options).await.built_upon, Some(1));
}

/// Proves that an index of identities that misses a repeated event lets it be counted, and that the next run from all events, which is
/// compared with what was published, refuses to follow.
#[tokio::test]
async fn a_blind_index() {
    let events = random_events(8, 300);
    let mut master = Master::with(&events).await;
    let over = async |master: &Master, incremental| {
        let url = FakeSpeedLayer::of(master).serve().await;
        RunOptions { incremental, speed_layer: Some(url), ..master.options() }
    };
    master.publish(&over(&master, true).await).await;
    let repeated = events[0].clone();
    let partition = shard_of(&repeated.user_id, PARTITIONS);

    // The index of a log in which that event has another id.
    let mut other = Master::new(schema());
    for event in &master.log[partition as usize] {
        let renamed = format!("other-{}", event.event_id);
        let event_id = if event.event_id == repeated.event_id { renamed } else { event.event_id.clone() };
        other.log[partition as usize].push(Event { event_id, ..event.clone() });
    }
    other.append(&[]).await;
    other.publish(&other.options()).await;
    let boundary = master.boundary()[partition as usize];
    other.append(&[event(&repeated.user_id, "any", 2, 100)]).await;
    other.publish(&RunOptions { incremental: true, ..other.options() }).await;
    let built = identities::chain(&identities::list(&other.store).await.unwrap(), partition);
    master.append(std::slice::from_ref(&repeated)).await;
    assert_eq!(built[0].path, IdentitiesPath { partition, start: 0, end: boundary + 1 });
    for path in [built[0].path.path(), built[0].path.seal_path()] {
        master.store.put_durable(&path, other.store.get(&path).await.unwrap()).await.unwrap();
    }
    let wrong = master.publish(&over(&master, true).await).await;
    assert_eq!((wrong.built_upon, wrong.late_duplicate_count, wrong.audit_kind.as_str()), (Some(1), 0, "speed layer"));
    assert_ne!(master.answers().await, oracle(&events));
    master.append(&[event("user-1", "one more", 2, 100)]).await;
    let refused = master.run(&over(&master, false).await).await.unwrap_err();
    assert!(matches!(refused, RunError::Audit { .. }) && refused.to_string().contains(&repeated.user_id), "{refused}");
}

/// Proves that an index of identities that takes an event for a repeated one is found out by the events themselves.
#[tokio::test]
async fn a_wrong_index() {
    let mut master = Master::with(&random_events(7, 300)).await;
    let options = RunOptions { incremental: true, ..master.options() };
    master.publish(&options).await;
    let new = event("user-1", "new", 2, 100);
    let partition = shard_of("user-1", PARTITIONS);
    let boundary = master.boundary()[partition as usize];
    master.append(std::slice::from_ref(&new)).await;

    // The index of another log, say, in which the event came before.
    let other = Master::new(schema());
    let mut other = Master { store: Store::open("memory://").unwrap(), ..other };
    let mut with_it = master.log[partition as usize].clone();
    with_it.truncate(boundary as usize - 1);
    with_it.push(new);
    other.log[partition as usize] = with_it;
    other.append(&[]).await;
    other.publish(&other.options()).await;
    other.append(&[event("user-1", "any", 2, 100)]).await;
    other.publish(&RunOptions { incremental: true, ..other.options() }).await;
    let built = identities::chain(&identities::list(&other.store).await.unwrap(), partition);
    assert_eq!(built.len(), 1);
    for path in [built[0].path.path(), built[0].path.seal_path()] {
        master.store.put_durable(&path, other.store.get(&path).await.unwrap()).await.unwrap();
    }
    let refused = master.run(&options).await.unwrap_err();
    assert!(matches!(refused, RunError::Identities { .. }), "{refused}");

    for path in [built[0].path.path(), built[0].path.seal_path()] {
        master.store.delete(&path).await.unwrap();
    }
    assert_eq!(master.publish(&options).await.built_upon, Some(1));
    let IdentitiesPath { end, .. } = identities::chain(&identities::list(&master.store).await.unwrap(), partition)[0].path;
    assert_eq!(end, boundary + 1);
    let chain = identities::chain(&identities::list(&master.store).await.unwrap(), partition);
    let index = Identities::open(&master.store, &chain, None, &BlockCache::new(0)).await.unwrap();
    let first = index.first(&views::key::encode([Some("user-1"), Some("new")])).await.unwrap();
    assert_eq!(first.map(|first| first.offset), Some(boundary));
}
