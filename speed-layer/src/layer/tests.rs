/// Users who are erased.
mod erasures;

use std::fs;
use std::path::PathBuf;

use storage::config::Period;
use storage::erasures::Erasures;
use storage::log::LogError;
use storage::machine::RealMachine;
use storage::manifest::{DefinitionFile, FORMAT_VERSION, Manifest, PublishOutcome, ViewFile};
use storage::master::{Layout, list_segments};
use storage::store::StoreError;
use tokio::net::TcpListener;
use views::Event;

use super::*;
use crate::ingest::WhenFull;
use crate::partition::Verdict;
use crate::trim::trim;

/// How it is.
mod status;
mod types;

/// A data folder with a log of one partition, and a store.
struct Rig {
    config: Config,
    store: Store,
    dir: tempfile::TempDir,
}

fn rig() -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.log.dir = dir.path().join("data");
    config.log.partitions = 1;
    config.log.dedup_window_rows = 2;
    config.speed_layer.poll_interval = Period::from_secs(3600);
    config.speed_layer.scrub_interval = Period::from_secs(0);
    config.events.attributes.insert("weight".to_owned(), String::from("float64").try_into().unwrap());
    Rig { config, store: Store::open("memory://").unwrap(), dir }
}

fn event(id: i64) -> Event {
    Event {
        event_id: format!("e{id}"),
        user_id: "user-1".to_owned(),
        event_time_us: id,
        event_type: ["", "sale"][id as usize % 2].to_owned(),
        amount: (id != 4).then_some(i128::from(id) * 12_500),
        attributes: [("weight".to_owned(), "1.5".to_owned()), ("note".to_owned(), format!("\"{id}\" ü"))].into(),
    }
}

impl Rig {
    async fn open(&self) -> Result<SpeedLayer, SpeedError> {
        SpeedLayer::open(Arc::new(RealMachine), self.config.clone(), self.store.clone()).await
    }

    /// Opened, with nothing going on in the background.
    async fn quiet(&self) -> SpeedLayer {
        let mut layer = self.open().await.unwrap();
        layer.background.cancel();
        while layer.tasks.join_next().await.is_some() {}
        layer
    }

    /// Three segments of three records each, all archived.
    async fn filled(&self) -> SpeedLayer {
        let layer = self.quiet().await;
        for start in [0, 3, 6] {
            layer.append((start..start + 3).map(event).collect()).await;
            layer.realtime.cut().await.unwrap();
        }
        layer
    }

    async fn publish(&self, layer: &SpeedLayer, version: i64, boundary: i64) {
        self.publish_as(&Definition::user_stats(&self.config.events), layer, version, boundary).await;
    }

    async fn publish_as(&self, definition: &Definition, layer: &SpeedLayer, version: i64, boundary: i64) {
        let view = ViewName::user_stats();
        let stored = DefinitionFile {
            format_version: FORMAT_VERSION,
            sql: definition.sql().to_owned(),
            fingerprint: definition.fingerprint().to_owned(),
            schema: serde_json::to_value(definition.schema()).unwrap(),
        };
        storage::manifest::Definitions::new(self.store.clone(), view.clone()).put(&stored).await.unwrap();
        let listed = list_segments(&self.store).await.unwrap();
        let last = listed.iter().find(|meta| meta.path.end == boundary).map(|meta| meta.seal.last_record.clone());
        let manifest = Manifest {
            format_version: FORMAT_VERSION,
            view: view.clone(),
            version,
            parent: (version > 1).then(|| version - 1),
            built_upon: None,
            run_id: format!("run-{version}"),
            created_time: String::new(),
            log_id: layer.realtime.log_id.to_string(),
            boundary: vec![boundary],
            imports: vec![],
            boundary_records: vec![last.unwrap_or_default()],
            lease: 0,
            fingerprint: definition.fingerprint().to_owned(),
            as_of: None,
            withdrawn: false,
            digest: String::new(),
            event_count: boundary,
            row_count: 0,
            late_duplicate_count: 0,
            conflict_count: 0,
            engine: String::new(),
            files: vec![ViewFile { path: "views/none".to_owned(), shard: 0, layer: 0, rows: 0, bytes: 0, blake3: String::new() }],
            audit: None,
            accepted_difference: None,
        };
        let outcome = Manifests::new(self.store.clone(), view).publish(&manifest).await.unwrap();
        assert_eq!(outcome, PublishOutcome::Published);
    }

    fn segment(&self, base: i64) -> PathBuf {
        self.config.log.dir.join(format!("log/p0000/{base:020}.log"))
    }

    /// Flips a bit.
    fn spoil(&self, base: i64, byte: usize) -> Vec<u8> {
        let mut bytes = fs::read(self.segment(base)).unwrap();
        bytes[byte] ^= 4;
        fs::write(self.segment(base), &bytes).unwrap();
        bytes
    }

    /// A copy of the log, to be put back later.
    fn copy_log(&self) -> PathBuf {
        let copy = self.dir.path().join("copy");
        copy_folder(&self.config.log.dir, &copy);
        copy
    }

    fn put_back(&self, copy: &Path) {
        fs::remove_dir_all(&self.config.log.dir).unwrap();
        copy_folder(copy, &self.config.log.dir);
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_folder(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

impl SpeedLayer {
    fn partition(&self) -> &Partition {
        &self.ingest.partitions[0]
    }

    async fn append(&self, events: Vec<Event>) -> Vec<Verdict> {
        self.partition().place(WhenFull::Wait).await.unwrap().append(events).await.unwrap().unwrap().0
    }

    fn range(&self) -> std::ops::Range<i64> {
        self.partition().log.start()..self.partition().log.head()
    }

    /// How many events the slices from `boundary` on have counted.
    fn counted(&self, boundary: i64) -> i64 {
        let visible = self.partition().visible.read().unwrap();
        Self::counted_in(visible.views.values().next().unwrap(), boundary)
    }

    fn counted_in(slices: &crate::slices::Slices, boundary: i64) -> i64 {
        use arrow::array::AsArray;
        let runs = slices.runs(boundary, None).unwrap();
        let outputs = views::fold::finish(slices.definition(), &runs, views::Granularity::Total).unwrap();
        outputs.column(2).as_primitive::<arrow::datatypes::Int64Type>().values().iter().sum()
    }

    fn scrub(&self) -> Scrub {
        Scrub::new(Arc::clone(&self.realtime.archive), Arc::clone(&self.ingest.partitions), Arc::default())
    }
}

/// Proves that the log is trimmed below the older of the two kept versions and below the dedup window, no further, that version 0
/// keeps all of it, and that a log which does not start at 0 opens, counts, and knows its duplicates.
#[tokio::test]
async fn trims_what_nobody_needs() {
    let rig = rig();
    let layer = rig.filled().await;
    for (version, boundary, window, start) in [(0, 0, 2, 0), (1, 3, 2, 0), (2, 6, 7, 0), (2, 6, 2, 3), (3, 9, 5, 3), (3, 9, 2, 6)] {
        if layer.realtime.kept.lock().await.last().unwrap().version < version {
            rig.publish(&layer, version, boundary).await;
            layer.realtime.prepare(&ViewName::user_stats(), version).await.unwrap();
        }
        trim(&layer.realtime, window).await.unwrap();
        assert_eq!(layer.range(), start..9, "version {version}, window {window}");
    }
    assert!(!rig.segment(0).exists() && !rig.segment(3).exists() && rig.segment(6).exists());
    layer.close().await;

    let layer = rig.quiet().await;
    assert_eq!((layer.range(), layer.counted(6), layer.counted(9)), (6..9, 3, 0));
    assert_eq!(layer.append(vec![event(8), event(9)]).await, [Verdict::Duplicate, Verdict::Accepted]);
    assert_eq!(layer.realtime.cut().await.unwrap(), [10]);
    assert_eq!(list_segments(&rig.store).await.unwrap().len(), 4);

    // A version that begins below is refused, and does not keep the layer from starting.
    rig.publish(&layer, 4, 3).await;
    let refused = layer.realtime.prepare(&ViewName::user_stats(), 4).await.unwrap_err();
    assert!(matches!(refused, SpeedError::LogTrimmed { version: 4, partition: 0, boundary: 3, start: 6 }), "{refused:?}");
    layer.close().await;
    let layer = rig.quiet().await;
    let kept: Vec<i64> = layer.realtime.kept.lock().await.iter().map(|kept| kept.version).collect();
    assert_eq!(kept, [3]);
    layer.close().await;
}

/// Proves that a server trims by itself: when it starts, and when it has prepared a version.
#[tokio::test]
async fn trims_by_itself() {
    let rig = rig();
    let layer = rig.filled().await;
    for (version, boundary) in [(1, 3), (2, 6)] {
        rig.publish(&layer, version, boundary).await;
    }
    layer.close().await;
    let layer = rig.open().await.unwrap();
    let until = async |start: i64| {
        while layer.range().start != start {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), until(3)).await.expect("it does not trim at start");
    rig.publish(&layer, 3, 9).await;
    layer.realtime.prepare(&ViewName::user_stats(), 3).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), until(6)).await.expect("it does not trim after a version");
    layer.close().await;
}

/// Proves that a segment stays in the log while its Parquet file is damaged or missing, or its seal is missing or is that of
/// other records.
#[tokio::test]
async fn trims_nothing_that_is_not_safe() {
    let rig = rig();
    let layer = rig.filled().await;
    for (version, boundary) in [(1, 6), (2, 9)] {
        rig.publish(&layer, version, boundary).await;
        layer.realtime.prepare(&ViewName::user_stats(), version).await.unwrap();
    }
    let listed = list_segments(&rig.store).await.unwrap();
    let (parquet, seal) = (listed[0].path.path(), listed[0].path.seal_path());
    let whole = rig.store.get(&parquet).await.unwrap();
    let mut spoilt = whole.to_vec();
    spoilt[40] ^= 1;
    rig.store.put_durable(&parquet, spoilt.into()).await.unwrap();
    let refused = trim(&layer.realtime, 2).await.unwrap_err();
    assert!(matches!(&refused, SpeedError::Store(StoreError::Checksum { path, .. }) if *path == parquet.to_string()), "{refused:?}");
    rig.store.delete(&parquet).await.unwrap();
    assert!(matches!(trim(&layer.realtime, 2).await, Err(SpeedError::Store(StoreError::NotFound { .. }))));
    rig.store.put_durable(&parquet, whole).await.unwrap();

    let sealed = rig.store.get(&seal).await.unwrap();
    rig.store.delete(&seal).await.unwrap();
    assert!(matches!(trim(&layer.realtime, 2).await, Err(SpeedError::NotArchived { partition: 0, start: 0, end: 3 })));
    rig.store.put_durable(&seal, sealed).await.unwrap();
    let mut other = list_segments(&rig.store).await.unwrap();
    other[0].seal.last_record = "00".repeat(32);
    let partition = layer.partition();
    let refused = layer.realtime.archive.verify(partition, &(0..3), &other).await.unwrap_err();
    assert!(matches!(refused, SpeedError::OtherRecord { offset: 2, .. }), "{refused:?}");
    assert_eq!(layer.range(), 0..9);

    // Whoever was overtaken deletes nothing.
    layer.realtime.archive.verify(partition, &(0..3), &list_segments(&rig.store).await.unwrap()).await.unwrap();
    storage::master::claim_epoch(&rig.store, &layer.realtime.log_id, "another").await.unwrap();
    assert!(matches!(trim(&layer.realtime, 2).await, Err(SpeedError::Fenced { .. })));
    assert_eq!(layer.range(), 0..9);
    layer.close().await;
}

/// Proves that what was archived in three segments and lies in one file now is known after a restart, mends a damaged segment of the log,
/// lets the log go segment by segment while it is whole, and keeps it while it is damaged or another record is in the log.
#[tokio::test]
async fn segments_in_one_file() {
    let rig = rig();
    rig.filled().await.close().await;
    let segments = list_segments(&rig.store).await.unwrap();
    let mut next = Layout::default().next("run");
    let nobody = Erasures::default();
    next.place(
        storage::master::rewrite(&rig.store, &segments, &storage::master::Without::erased(&nobody), 1, &"run".parse().unwrap())
            .await
            .unwrap(),
    )
    .unwrap();
    assert!(next.publish(&rig.store).await.unwrap());
    for segment in &segments {
        rig.store.delete(&segment.path.seal_path()).await.unwrap();
        rig.store.delete(&segment.path.path()).await.unwrap();
    }
    rig.spoil(3, 100);
    let layer = rig.quiet().await;
    assert_eq!((layer.realtime.archive.edge(0).await, layer.realtime.archive.sealed_record(0).unwrap().0), (9, 9));
    layer.partition().log.verify(3..6).unwrap_or_else(|_| panic!("it was not mended"));
    for (version, boundary) in [(1, 6), (2, 9)] {
        rig.publish(&layer, version, boundary).await;
        layer.realtime.prepare(&ViewName::user_stats(), version).await.unwrap();
    }
    let listed = list_segments(&rig.store).await.unwrap();
    let whole = rig.store.get(&listed[0].file()).await.unwrap();
    rig.store.put_durable(&listed[0].file(), whole.slice(1..)).await.unwrap();
    assert!(matches!(trim(&layer.realtime, 2).await, Err(SpeedError::Store(StoreError::Corrupt { .. }))));
    rig.store.put_durable(&listed[0].file(), whole).await.unwrap();
    let mut other = next.clone();
    other.segments[0].parts[0].last_record = "00".repeat(32);
    other.number = 2;
    assert!(other.publish(&rig.store).await.unwrap());
    assert!(matches!(trim(&layer.realtime, 2).await, Err(SpeedError::OtherRecord { offset: 2, .. })));
    next.number = 3;
    assert!(next.publish(&rig.store).await.unwrap());
    trim(&layer.realtime, 2).await.unwrap();
    assert_eq!(layer.range(), 6..9);
    layer.close().await;
}

/// Proves that a log which was put back from an old copy and went on with other events, up to the same head, is refused by the
/// newest seal; without it, by the record that the manifest names, at start and when the version comes later.
#[tokio::test]
async fn a_log_that_went_another_way() {
    let rig = rig();
    let layer = rig.quiet().await;
    layer.append((0..3).map(event).collect()).await;
    layer.realtime.cut().await.unwrap();
    let copy = rig.copy_log();
    layer.append((3..6).map(event).collect()).await;
    layer.realtime.cut().await.unwrap();
    rig.publish(&layer, 1, 6).await;
    layer.close().await;

    rig.put_back(&copy);
    let elsewhere = Rig { config: rig.config.clone(), store: Store::open("memory://").unwrap(), dir: tempfile::tempdir().unwrap() };
    let layer = elsewhere.quiet().await;
    layer.append((13..16).map(event).collect()).await;
    layer.partition().roll(Duration::ZERO).await.unwrap();
    layer.close().await;

    let named = |refused: Result<(), SpeedError>, what: &str| match refused {
        Err(e @ SpeedError::OtherRecord { partition: 0, offset: 5, .. }) => {
            let text = e.to_string();
            assert!(text.starts_with(what) && text.contains("bring back the log"), "{text}");
        }
        other => panic!("{other:?}"),
    };
    named(rig.open().await.map(|_| ()), "the archived segment that ends at offset 6");
    let newest = list_segments(&rig.store).await.unwrap().pop().unwrap();
    rig.store.delete(&newest.path.seal_path()).await.unwrap();
    named(rig.open().await.map(|_| ()), "version 1");

    let manifests = rig.store.list(&"views/user_stats/manifests".into()).await.unwrap();
    let manifest = rig.store.get(&manifests[0].location).await.unwrap();
    rig.store.delete(&manifests[0].location).await.unwrap();
    let layer = rig.quiet().await;
    rig.store.put_durable(&manifests[0].location, manifest).await.unwrap();
    named(layer.realtime.prepare(&ViewName::user_stats(), 1).await, "version 1");
    layer.close().await;
}

/// Proves that a closed segment of the log that is damaged anywhere, header included, is written afresh from the archive when
/// the log is opened, byte by byte but for the epoch in its header, and that everything is counted.
#[tokio::test]
async fn mended_when_it_is_opened() {
    let rig = rig();
    rig.filled().await.close().await;
    let bytes = fs::read(rig.segment(3)).unwrap().len();
    for byte in (0..bytes).step_by(13) {
        rig.spoil(3, byte);
        let layer = rig.open().await.unwrap_or_else(|e| panic!("byte {byte}: {}", e.chain()));
        // A byte in the trailer is for the scrubber: nobody reads it to count events.
        layer.scrub().round_now().await;
        layer.partition().log.verify(3..6).unwrap_or_else(|e| panic!("byte {byte}: {e}"));
        assert_eq!((layer.range(), layer.counted(0)), (0..9, 9), "byte {byte}");
        layer.close().await;
    }
}

/// Proves that damage which cannot be mended exactly is refused and left as it is: not archived, an archive that is damaged too, or an
/// attribute whose text its column does not tell.
#[tokio::test]
async fn not_mended_by_guessing() {
    let rig = rig();
    let layer = rig.quiet().await;
    let mut odd = event(0);
    odd.attributes.insert("weight".to_owned(), "1.50".to_owned());
    layer.append(vec![odd, event(1)]).await;
    layer.realtime.cut().await.unwrap();
    layer.append(vec![event(2)]).await;
    layer.realtime.cut().await.unwrap();
    layer.append(vec![event(3)]).await;
    layer.partition().roll(Duration::ZERO).await.unwrap();
    let listed = list_segments(&rig.store).await.unwrap();
    rig.store.put_durable(&listed[1].path.path(), "none".into()).await.unwrap();
    let reasons = [(0, "record 0 cannot be had"), (3, "it is not archived")];
    for (start, reason) in reasons {
        let refused = layer.realtime.archive.restored(0, start).await.unwrap_err().to_string();
        assert!(refused.contains(reason), "{refused}");
    }
    assert!(matches!(layer.realtime.archive.restored(0, 2).await, Err(SpeedError::Store(_))));
    layer.close().await;
    for base in [0, 2, 3] {
        let spoilt = rig.spoil(base, 100);
        let refused = rig.open().await.map(|_| ()).unwrap_err();
        assert!(matches!(&refused, SpeedError::Log(LogError::Damaged { path, .. }) if *path == rig.segment(base)), "{refused:?}");
        assert_eq!(fs::read(rig.segment(base)).unwrap(), spoilt);
        rig.spoil(base, 100);
    }
}

/// Proves that the scrubber finds damage in a running server, mends the log, and complains of an archived file once.
#[tokio::test]
async fn scrubs() {
    let rig = rig();
    let layer = rig.filled().await;
    let mut scrub = layer.scrub();
    assert_eq!(scrub.round_now().await, 0);
    rig.spoil(6, 100);
    layer.partition().log.verify(6..9).unwrap_err();
    assert_eq!(scrub.round_now().await, 0);
    layer.partition().log.verify(6..9).unwrap();

    let listed = list_segments(&rig.store).await.unwrap();
    let whole = rig.store.get(&listed[1].path.path()).await.unwrap();
    rig.store.put_durable(&listed[1].path.path(), whole.slice(1..)).await.unwrap();
    assert_eq!((scrub.round_now().await, scrub.round_now().await), (1, 1));
    // The log cannot be mended from a damaged archive.
    rig.spoil(3, 100);
    assert_eq!((scrub.round_now().await, scrub.round_now().await), (2, 2));
    layer.partition().log.verify(3..6).unwrap_err();
    rig.store.put_durable(&listed[1].path.path(), whole).await.unwrap();
    assert_eq!(scrub.round_now().await, 0);
    layer.partition().log.verify(3..6).unwrap();
    layer.close().await;
}

/// Proves that the server says it is ready once its log is replayed, when its health is SERVING at once, and never if the log
/// cannot be opened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ready_when_it_has_caught_up() {
    use merganser_proto::server::Doors;
    use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
    let rig = rig();
    rig.filled().await.close().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let shutdown = CancellationToken::new();
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let run = crate::run_then(rig.config.clone(), rig.store.clone(), Doors::plain(listener), shutdown.clone(), move || {
        let _gone = ready.send(());
    });
    let server = tokio::spawn(run);
    is_ready.await.unwrap();
    let channel = tonic::transport::Endpoint::from_shared(address).unwrap().connect_lazy();
    for service in ["merganser.v1.IngestService", "merganser.v1.RealtimeViewService"] {
        let question = HealthCheckRequest { service: service.to_owned() };
        let answer = HealthClient::new(channel.clone()).check(question).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
    let second = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refused =
        crate::run_then(rig.config.clone(), rig.store.clone(), Doors::plain(second), shutdown.clone(), || panic!("it is not ready")).await;
    assert!(matches!(refused, Err(SpeedError::Log(LogError::Locked { .. }))), "{refused:?}");
    shutdown.cancel();
    server.await.unwrap().unwrap();
}

/// Proves that events which are acknowledged while the log is folded for a version are counted in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_while_a_version_is_prepared() {
    let rig = rig();
    let layer = rig.quiet().await;
    layer.append((0..20_000).map(event).collect()).await;
    let boundary = layer.realtime.cut().await.unwrap()[0];
    layer.append((20_000..40_000).map(event).collect()).await;
    // Nothing of it is folded yet.
    let sql = "SELECT user_id, count(*) AS event_count FROM events GROUP BY user_id, date_trunc('day', event_time)";
    let definition = Definition::parse(sql, &rig.config.events).unwrap();
    rig.publish_as(&definition, &layer, 1, boundary).await;
    let appends = async {
        for id in 40_000..40_200 {
            layer.append(vec![event(id)]).await;
        }
    };
    let view = ViewName::user_stats();
    let (prepared, ()) = tokio::join!(layer.realtime.prepare(&view, 1), appends);
    prepared.unwrap();
    let counted = SpeedLayer::counted_in(&layer.partition().visible.read().unwrap().views[definition.fingerprint()], boundary);
    assert_eq!(counted, layer.range().end - boundary);
    layer.close().await;
}
