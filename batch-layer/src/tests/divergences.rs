//! Planted divergences: what the version before holds, or what the speed layer exports, is made wrong in one way, and the audit must
//! name the key and keep the version from being published.

use arrow::array::{Array, ArrayRef, Decimal128Array, Float64Array};
use arrow::datatypes::Float64Type;
use storage::batch_view::ViewWriter;
use storage::paths::{Id, ViewFilePath};

use super::fake_speed_layer::FakeSpeedLayer;
use super::*;

/// What is planted in a speed layer.
type Lie = fn(&mut FakeSpeedLayer);

const SQL: &str = "SELECT user_id, date_trunc('day', event_time) AS day, count(*) AS n, sum(amount) AS revenue, min(amount) AS least,
                          max(amount) AS most, sum(CAST(quantity AS DOUBLE)) AS weight
                   FROM events GROUP BY user_id, date_trunc('day', event_time)";
const LIMITED_SQL: &str = "-- keep: 48h
                   SELECT user_id, date_trunc('day', event_time) AS day, count(*) AS n, sum(amount) AS revenue
                   FROM events GROUP BY user_id, date_trunc('day', event_time)";
/// Columns of the states of [`SQL`].
const REVENUE: usize = 3;
const LEAST: usize = 4;
const MOST: usize = 5;
const WEIGHT: usize = 6;
/// The key that must be named.
const WATCHED: &str = "user-watched";
/// When everything is appended, in days.
const APPENDED_DAY: i64 = 5;

/// A user whose events are in another partition.
fn elsewhere() -> String {
    let mut names = (0..).map(|number| format!("elsewhere-{number}"));
    names.find(|name| partition_of(name) != partition_of(WATCHED)).unwrap()
}

fn partition_of(user: &str) -> usize {
    shard_of(user, PARTITIONS) as usize
}

/// Events up to the version before, the watched one last in its partition; those that come then, the watched ones first and last.
fn halves() -> [Vec<Event>; 2] {
    let mut events = random_events(21, 400);
    let mut later = events.split_off(200);
    events.extend([event(WATCHED, "twice", 1, 40), event(WATCHED, "twice", 1, 40), event(WATCHED, "last", 4, 30)]);
    later.insert(0, event(WATCHED, "first", 2, 500));
    let without_amount = Event { amount: None, ..event(WATCHED, "without amount", 3, 0) };
    later.extend([
        event(WATCHED, "second", 2, 1),
        event(WATCHED, "third", 2, 70),
        without_amount,
        event(WATCHED, "late", 4, 6),
        event(&elsewhere(), "late", 4, 5),
    ]);
    [events, later]
}

/// What came before the run that is audited.
#[derive(Clone, Copy)]
struct Before {
    sql: &'static str,
    /// What the version before was computed from, where that is not what there is.
    events: fn(&mut Master),
    /// What its manifest says otherwise.
    manifest: fn(Manifest) -> Manifest,
}

const HONEST: Before = Before { sql: SQL, events: |_| {}, manifest: |manifest| manifest };

/// A master dataset with a version 1 over its first half.
struct Scene {
    master: Master,
    sql: &'static str,
    _folder: tempfile::TempDir,
    options: RunOptions,
}

impl Scene {
    async fn new(before: Before) -> Self {
        let [first, later] = halves();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("watched.sql"), before.sql).unwrap();
        let mut masters = [Master::new(schema()), Master::new(schema())];
        for master in &mut masters {
            master.append_time_us = APPENDED_DAY * DAY_US;
        }
        let [mut master, mut earlier] = masters;
        let options = RunOptions { view: "watched".parse().unwrap(), views_dir: folder.path().to_owned(), ..master.options() };
        for event in &first {
            earlier.log[partition_of(&event.user_id)].push(event.clone());
        }
        (before.events)(&mut earlier);
        earlier.append(&[]).await;
        earlier.import(&[event("user-imported", "old", 1, 9)]).await;
        let speed = FakeSpeedLayer { sql: before.sql, ..FakeSpeedLayer::of(&earlier) };
        earlier.publish(&RunOptions { speed_layer: Some(speed.serve().await), ..options.clone() }).await;

        master.append(&first).await;
        master.import(&[event("user-imported", "old", 1, 9)]).await;
        for object in earlier.store.list(&"views".into()).await.unwrap() {
            let bytes = earlier.store.get(&object.location).await.unwrap();
            master.store.put_durable(&object.location, bytes).await.unwrap();
        }
        master.append(&later).await;
        let scene = Self { master, sql: before.sql, _folder: folder, options };
        scene.republish(before.manifest).await;
        scene
    }

    fn manifests(&self) -> Manifests {
        Manifests::new(self.master.store.clone(), self.options.view.clone())
    }

    /// Puts another manifest in the place of that of version 1, with its checksum.
    async fn republish(&self, change: impl FnOnce(Manifest) -> Manifest) {
        let manifest = self.manifests().read(1).await.unwrap();
        self.master.store.delete(&manifest.path()).await.unwrap();
        self.manifests().publish(&change(manifest)).await.unwrap();
    }

    /// Flips one state of version 1, in a file whose checksum is right.
    async fn flip(&self) {
        let manifest = self.manifests().read(1).await.unwrap();
        let open = OpenView::open(&self.master.store, manifest, &BlockCache::new(0)).await.unwrap();
        let shard = shard_of(WATCHED, PARTITIONS);
        let path = ViewFilePath { view: self.options.view.clone(), version: 1, run_id: id("flipped"), part: shard };
        let mut writer = ViewWriter::create(&self.master.store, &path, open.schema().clone(), shard).await.unwrap();
        for states in open.scan(shard).unwrap().try_collect::<Vec<_>>().await.unwrap() {
            writer.write(&one_more(&states)).unwrap();
        }
        let file = Box::pin(writer.finish()).await.unwrap();
        self.republish(|mut manifest| {
            manifest.files[shard as usize] = file;
            manifest
        })
        .await;
    }

    /// A run against a speed layer that lies.
    async fn run(&self, incremental: bool, lie: fn(&mut FakeSpeedLayer)) -> Result<RunOutcome, RunError> {
        let mut speed = FakeSpeedLayer { sql: self.sql, ..FakeSpeedLayer::of(&self.master) };
        lie(&mut speed);
        let options = RunOptions { incremental, speed_layer: Some(speed.serve().await), ..self.options.clone() };
        self.master.run(&options).await
    }

    /// The run found a difference at `key`, says so in its error and its report, and published nothing.
    async fn refused(&self, what: &str, key: &str, outcome: Result<RunOutcome, RunError>) {
        let error = outcome.map(|_| ()).expect_err(what);
        let RunError::Audit { run_id, differences, against } = &error else { panic!("{what}: {error}") };
        assert_eq!((error.exit_code(), against.as_str()), (1, "speed layer"), "{what}");
        let found = differences.named.iter().find(|found| found.key == key).unwrap_or_else(|| panic!("{what}: {error}"));
        assert_ne!(found.new, found.expected, "{what}");
        assert!(error.to_string().contains(&found.to_string()) || differences.keys > 10, "{what}: {error}");
        let report = self.master.store.get(&format!("runs/watched/{run_id}.json").into()).await.unwrap();
        let report: RunReport = serde_json::from_slice(&report).unwrap();
        assert_eq!((&report.differences, report.differing_keys), (&differences.named, differences.keys), "{what}");
        assert!(report.outcome.contains("nothing was published"), "{what}: {}", report.outcome);
        assert!(self.manifests().read(2).await.is_err(), "{what}");
    }
}

fn id(text: &str) -> Id {
    text.parse().unwrap()
}

fn with_column(states: &RecordBatch, column: usize, values: ArrayRef) -> RecordBatch {
    let mut columns = states.columns().to_vec();
    columns[column] = values;
    RecordBatch::try_new(states.schema(), columns).unwrap()
}

/// The watched key's revenue, ten-thousandths of one more.
fn one_more(states: &RecordBatch) -> RecordBatch {
    let revenue = states.column(REVENUE).as_primitive::<Decimal128Type>();
    let keys = states.column(0).as_string::<i32>();
    let more = keys.iter().zip(revenue).map(|(key, value)| value.map(|value| value + i128::from(key == Some(WATCHED))));
    let more = more.collect::<Decimal128Array>().with_data_type(revenue.data_type().clone());
    with_column(states, REVENUE, Arc::new(more))
}

/// All weights, times that.
fn heavier(states: &RecordBatch, times: f64) -> RecordBatch {
    let weights = states.column(WEIGHT).as_primitive::<Float64Type>();
    with_column(states, WEIGHT, Arc::new(weights.iter().map(|weight| weight.map(|weight| weight * times)).collect::<Float64Array>()))
}

fn null_as_zero(states: &RecordBatch) -> RecordBatch {
    let least = states.column(LEAST).as_primitive::<Decimal128Type>();
    let zeroed = least.iter().map(|value| value.or(Some(0))).collect::<Decimal128Array>();
    with_column(states, LEAST, Arc::new(zeroed.with_data_type(least.data_type().clone())))
}

fn swapped(states: &RecordBatch) -> RecordBatch {
    let swapped = with_column(states, LEAST, states.column(MOST).clone());
    with_column(&swapped, MOST, states.column(LEAST).clone())
}

/// Proves that where nothing is planted the version is published, from all events, upon the version before and with a limit, and that
/// floats may differ within the declared error.
#[tokio::test]
async fn control() {
    let near: fn(&mut FakeSpeedLayer) = |speed| speed.tamper = |_, states| heavier(&states, 1.0 + 1e-9);
    let limited = Before { sql: LIMITED_SQL, ..HONEST };
    for (before, incremental, lie) in
        [(HONEST, false, (|_| {}) as fn(&mut FakeSpeedLayer)), (HONEST, true, |_| {}), (HONEST, false, near), (limited, false, |_| {})]
    {
        let scene = Scene::new(before).await;
        let RunOutcome::Published(report) = scene.run(incremental, lie).await.unwrap() else { panic!("nothing to do") };
        assert_eq!((report.version, report.audit_kind.as_str(), report.audit_fallback), (2, "speed layer", None));
        assert_eq!((report.built_upon, report.differing_keys), (incremental.then_some(1), 0));
        assert!(report.keys_refolded > 0 && !report.refolded_keys.iter().any(|key| key == WATCHED));
    }
}

/// Proves that a speed layer that folded otherwise stops a run over all events and one that builds upon the version before.
#[tokio::test]
async fn in_the_speed_layer() {
    let lies: [(&str, Lie); 9] = [
        ("a state flipped", |speed| speed.tamper = |_, states| one_more(&states)),
        ("a segment read twice", |speed| speed.tamper = |definition, states| fold::merge(definition, [&states, &states]).unwrap()),
        ("a segment left out", |speed| speed.tamper = |_, states| states.slice(0, 0)),
        ("a slice from one offset too early", |speed| speed.shift = -1),
        ("a slice from one offset too late", |speed| speed.shift = 1),
        ("a key of one partition in another", |speed| {
            let (here, there) = (partition_of(WATCHED), partition_of(&elsewhere()));
            let log = speed.log.as_mut().unwrap();
            let (ours, theirs) = (log[here].pop().unwrap(), log[there].pop().unwrap());
            assert!(ours.user_id == WATCHED && theirs.user_id == elsewhere());
            log[here].push(theirs);
            log[there].push(ours);
        }),
        ("a float sum beyond its declared error", |speed| speed.tamper = |_, states| heavier(&states, 1.0 + 1e-5)),
        ("the states of two measures swapped", |speed| speed.tamper = |_, states| swapped(&states)),
        ("null taken for zero", |speed| speed.tamper = |_, states| null_as_zero(&states)),
    ];
    for (what, lie) in lies {
        for incremental in [false, true] {
            let scene = Scene::new(HONEST).await;
            let outcome = scene.run(incremental, lie).await;
            scene.refused(&format!("{what}, incremental {incremental}"), WATCHED, outcome).await;
        }
    }
}

/// Proves that a version before that was computed otherwise stops a run over all events.
#[tokio::test]
async fn in_the_version_before() {
    let scene = Scene::new(HONEST).await;
    scene.flip().await;
    scene.refused("a state flipped", WATCHED, scene.run(false, |_| {}).await).await;

    let planted: [(&str, Before, &str); 4] = [
        ("an import counted twice", Before { manifest: |manifest| Manifest { imports: vec![], ..manifest }, ..HONEST }, "user-imported"),
        (
            "a duplicate kept",
            Before {
                events: |master| {
                    let twice = |event: &&mut Event| event.user_id == WATCHED && event.event_id == "twice";
                    master.log[partition_of(WATCHED)].iter_mut().filter(twice).nth(1).unwrap().event_id = "once more".to_owned();
                },
                ..HONEST
            },
            WATCHED,
        ),
        (
            "the wrong bucket",
            Before { events: |master| master.log[partition_of(WATCHED)].last_mut().unwrap().event_time_us += DAY_US, ..HONEST },
            WATCHED,
        ),
        (
            "a limit counted from another moment",
            Before {
                sql: LIMITED_SQL,
                events: |master| master.append_time_us += 2 * DAY_US,
                manifest: |manifest| Manifest { as_of: Some(APPENDED_DAY * DAY_US), ..manifest },
            },
            WATCHED,
        ),
    ];
    for (what, before, key) in planted {
        let scene = Scene::new(before).await;
        scene.refused(what, key, scene.run(false, |_| {}).await).await;
    }
}
