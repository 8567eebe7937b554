//! Real events: the published figures of *Online Retail*, sent live and imported. Skipped, with a line that says so, where the files are not there.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use batch_layer::import::{Bar, ImportOptions, Mapping, import};
use integration_tests::cluster::Cluster;
use integration_tests::plain_fold::text::money;
use merganser_proto::v1::{BatchGetUserStatsRequest, UserStats};
use speed_layer::load::{self, LoadOptions, Tally};
use storage::config::{ClientConfig, TlsConfig};
use storage::dead_letter;

/// The file in the folder shared by all working copies, if there is one.
fn find(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/online_retail").join(name);
    if !path.exists() {
        println!("skipped: there is no {}", path.display());
        return None;
    }
    Some(path)
}

async fn load(cluster: &Cluster, file: &Path) -> Tally {
    let options = LoadOptions {
        tls: TlsConfig::default(),
        client: ClientConfig::default(),
        address: cluster.speed_url(),
        files: vec![file.to_owned()],
        batch_rows: 1000,
        in_flight: 8,
        state_dir: cluster.folder().join("load"),
        progress: false,
        again: true,
    };
    load::run(options, std::future::pending()).await.unwrap().total()
}

/// Ids of all users that there may be: the data set numbers its customers so.
fn all_users() -> Vec<String> {
    (12_300..18_400).map(|id| id.to_string()).collect()
}

/// The users with events, from questions about everybody.
async fn ask(cluster: &Cluster) -> Vec<UserStats> {
    let mut found = Vec::new();
    for user_ids in all_users().chunks(1000) {
        let request = BatchGetUserStatsRequest { user_ids: user_ids.to_vec(), ..Default::default() };
        let response = cluster.stats.clone().batch_get_user_stats(request).await.unwrap().into_inner();
        assert!(response.provenance.unwrap().complete);
        found.extend(response.stats.into_iter().filter(|stats| stats.found));
    }
    found
}

fn dead_letters(cluster: &Cluster) -> u64 {
    dead_letter::read_all(&cluster.data_dir()).unwrap().map(Result::unwrap).count() as u64
}

struct Figures {
    rows: u64,
    users: usize,
    events: u64,
}

/// Loads `file`, compares the live answers with those after a batch run, restarts the speed layer, loads the file again and
/// compares again. Gives the answers, for more questions.
async fn prove(file: &Path, expected: &Figures) -> Vec<UserStats> {
    let mut cluster = Cluster::start(false, |_| ()).await.unwrap();
    let tally = load(&cluster, file).await;
    let counts = (tally.received, tally.accepted, tally.duplicate, tally.rejected);
    assert_eq!(counts, (expected.rows, expected.events, 0, expected.rows - expected.events));
    let live = ask(&cluster).await;

    let version = cluster.batch_run().await.unwrap().unwrap();
    cluster.wait_for_version(version).await.unwrap();
    let stats = ask(&cluster).await;
    assert!(live == stats, "the batch view says something else than the realtime view did");
    assert_eq!(stats.len(), expected.users);
    assert_eq!(stats.iter().map(|stats| stats.event_count).sum::<i64>(), expected.events as i64);

    assert_eq!(dead_letters(&cluster), tally.rejected, "every refused row is a letter of its own");
    cluster.stop_speed().await.unwrap();
    cluster.start_speed().await.unwrap();
    let again = load(&cluster, file).await;
    assert_eq!((again.accepted, again.duplicate, again.rejected), (0, tally.accepted, tally.rejected));
    assert_eq!(dead_letters(&cluster), tally.rejected, "the same refused row is kept once");
    assert!(ask(&cluster).await == stats, "a repeated load changed an answer");
    cluster.stop().await.unwrap();
    stats
}

fn revenue(stats: &UserStats) -> i128 {
    money(&stats.revenue).unwrap()
}

fn of(stats: &[UserStats], user: &str) -> i128 {
    revenue(stats.iter().find(|stats| stats.user_id == user).unwrap())
}

/// Proves the path on a month of real events, and that loading them twice is loading them once.
#[tokio::test(flavor = "multi_thread")]
async fn first_month() {
    let Some(file) = find("events-2010-12.jsonl.zst") else { return };
    let stats = prove(&file, &Figures { rows: 42_481, users: 948, events: 26_850 }).await;
    assert_eq!(stats.iter().map(revenue).sum::<i128>(), money("554604.02").unwrap());
}

/// Proves the published figures of the whole year, and that loading it twice is loading it once.
#[tokio::test(flavor = "multi_thread")]
async fn whole_year() {
    let Some(file) = find("events.jsonl.zst") else { return };
    let stats = prove(&file, &Figures { rows: 541_909, users: 4_372, events: 406_829 }).await;
    assert_eq!(stats.iter().map(revenue).sum::<i128>(), money("8300065.814").unwrap());
    assert_eq!([of(&stats, "16446"), of(&stats, "14646")], [money("2.90").unwrap(), money("279489.02").unwrap()]);
    assert_eq!([of(&stats, "18102"), of(&stats, "17450")], [money("256438.49").unwrap(), money("187482.17").unwrap()]);
}

/// Columns of the original files, with the id that their rows lack.
const COLUMNS: [&str; 9] =
    ["RowId", "InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID", "Country"];
/// What the loader sends of such a row.
const MAPPING: &str = r#"SELECT "RowId" AS event_id, "CustomerID" AS user_id, to_timestamp("InvoiceDate") AS event_time,
    CASE WHEN "Quantity" < 0 THEN 'return' ELSE 'sale' END AS event_type, "Quantity" * "UnitPrice" AS amount, "InvoiceNo" AS invoice_no,
    "StockCode" AS stock_code, "Description" AS description, "Quantity" AS quantity, "UnitPrice" AS unit_price, "Country" AS country FROM input"#;
/// From here on events are sent live too.
const LIVE_FROM: &str = "2011-11-10";

/// The rows of `year` as one CSV file a day in `folder`, and those from [`LIVE_FROM`] on as they are, in the last of the paths.
fn split(year: &Path, folder: &Path) -> (Vec<PathBuf>, PathBuf) {
    let live = folder.join("live.jsonl");
    let mut live_rows = std::fs::File::create(&live).unwrap();
    let mut days: BTreeMap<String, csv::Writer<std::fs::File>> = BTreeMap::new();
    let rows = BufReader::new(zstd::Decoder::new(std::fs::File::open(year).unwrap()).unwrap());
    for line in rows.lines().map(Result::unwrap) {
        let row: serde_json::Value = serde_json::from_str(&line).unwrap();
        let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let day = text(&row["event_time"])[..10].to_owned();
        if day.as_str() >= LIVE_FROM {
            writeln!(live_rows, "{line}").unwrap();
        }
        let file = days.entry(day).or_insert_with_key(|day| {
            let mut file = csv::Writer::from_path(folder.join(format!("{day}.csv"))).unwrap();
            file.write_record(COLUMNS).unwrap();
            file
        });
        let more = &row["attributes"];
        let cells = [
            &row["event_id"],
            &more["invoice_no"],
            &more["stock_code"],
            &more["description"],
            &more["quantity"],
            &row["event_time"],
            &more["unit_price"],
            &row["user_id"],
            &more["country"],
        ];
        file.write_record(cells.map(|cell| if cell.is_null() { String::new() } else { text(cell) })).unwrap();
    }
    days.values_mut().for_each(|file| file.flush().unwrap());
    (days.keys().map(|day| folder.join(format!("{day}.csv"))).collect(), live)
}

/// Proves that the year, imported from its daily files by a mapping, its last month sent live as well, has the figures of the year sent
/// live once.
#[tokio::test(flavor = "multi_thread")]
async fn imported_by_the_day() {
    let Some(year) = find("events.jsonl.zst") else { return };
    let cluster = Cluster::start(false, |_| ()).await.unwrap();
    let folder = cluster.folder().join("days");
    std::fs::create_dir(&folder).unwrap();
    let (days, live) = split(&year, &folder);
    assert_eq!(days.len(), 305);

    let tally = load(&cluster, &live).await;
    assert!(tally.accepted > 60_000 && tally.duplicate == 0, "{tally:?}");
    let inputs = days.iter().map(|day| day.display().to_string()).collect();
    let options = ImportOptions { mapping: Some(Mapping::parse(MAPPING).unwrap()), ..cluster.import_options(inputs) };
    let summary = Box::pin(import(&options, &cluster.store(), Arc::new(Bar::new(false)))).await.unwrap();
    assert_eq!((summary.exit_code(), summary.rows()), (0, [541_909, 406_829, 135_080]), "{summary}");

    let version = cluster.batch_run().await.unwrap().unwrap();
    cluster.wait_for_version(version).await.unwrap();
    let stats = ask(&cluster).await;
    assert_eq!((stats.len(), stats.iter().map(|stats| stats.event_count).sum::<i64>()), (4_372, 406_829));
    assert_eq!(stats.iter().map(revenue).sum::<i128>(), money("8300065.814").unwrap());
    assert_eq!([of(&stats, "16446"), of(&stats, "14646")], [money("2.90").unwrap(), money("279489.02").unwrap()]);

    let again = Box::pin(import(&options, &cluster.store(), Arc::new(Bar::new(false)))).await.unwrap();
    assert_eq!((again.exit_code(), again.rows()), (0, [0; 3]), "{again}");
    cluster.stop().await.unwrap();
}
