use std::fs;
use std::path::Path;

use arrow::array::{AsArray, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{Decimal128Type, TimestampMicrosecondType};
use storage::paths::{ImportObject, ImportPath, ManifestPath, ViewName};
use views::decimal;
use views::schema::AttributeType;

use super::*;
use crate::definition;

const SALES: &str = "InvoiceNo,StockCode,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n\
    536365,85123A,6,2010-12-01 08:26:00,2.55,17850,United Kingdom\n\
    536365,071053,6,2010-12-01 08:26:00,3.39,17850,United Kingdom\n\
    536366,85123A,-2,2010-12-01 08:28:00,1.655,00013,France\n\
    536367,85123A,1,2010-12-01 08:34:00,9.95,,France\n";
const ROW_BY_ROW: &str = "SELECT InvoiceNo || '-' || StockCode AS event_id, CustomerID AS user_id, to_timestamp(InvoiceDate) AS event_time, \
    CASE WHEN Quantity < 0 THEN 'return' ELSE 'sale' END AS event_type, Quantity * UnitPrice AS amount, Quantity AS quantity, Country AS country FROM input";

struct Place {
    folder: tempfile::TempDir,
    store: Store,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), store: Store::open("memory://").unwrap() }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.display().to_string()
    }

    fn options(&self, inputs: Vec<String>, select: Option<&str>) -> ImportOptions {
        ImportOptions {
            inputs,
            format: None,
            mapping: select.map(|sql| Mapping::parse(sql).unwrap()),
            threads: NonZeroUsize::new(3).unwrap(),
            events: EventSchema { attributes: [("quantity".to_owned(), AttributeType::Int64)].into(), ..EventSchema::default() },
            views_dir: self.folder.path().join("views"),
            partitions: 3,
            memory_limit_bytes: 64 << 20,
            spill_dir: None,
            retry: Retry::NONE,
        }
    }

    async fn run(&self, inputs: Vec<String>, select: Option<&str>) -> ImportSummary {
        import(&self.options(inputs, select), &self.store, Arc::new(Bar::new(false))).await.unwrap()
    }

    /// Imports `text` as `a.csv` with a mapping; how it fails.
    async fn refused(&self, text: &str, select: &str) -> (u8, String) {
        let summary = self.run(vec![self.file("a.csv", text.as_bytes())], Some(select)).await;
        let code = summary.exit_code();
        let error = anyhow::Error::new(summary.files.into_iter().next().unwrap().1.unwrap_err());
        assert!(self.store.list(&storage::paths::imports_folder()).await.unwrap().is_empty(), "nothing is claimed");
        (code, format!("{error:#}"))
    }

    /// `event_id user_id time amount` of every imported row, sorted.
    async fn rows(&self) -> Vec<String> {
        let mut rows = Vec::new();
        for meta in imports::list(&self.store).await.unwrap() {
            imports::verify(&self.store, &meta).await.unwrap();
            for partition in 0..meta.partitions {
                let mut batches = imports::read_partition(&self.store, &meta, partition, None).await.unwrap();
                while let Some(batch) = batches.try_next().await.unwrap() {
                    let amounts = batch["amount"].as_primitive::<Decimal128Type>();
                    let times = batch["event_time"].as_primitive::<TimestampMicrosecondType>();
                    for row in 0..batch.num_rows() {
                        let text = |name: &str| batch[name].as_string::<i32>().value(row).to_owned();
                        let amount = decimal::format(amounts.value(row), 4);
                        rows.push(format!("{} {} {} {amount}", text("event_id"), text("user_id"), times.value(row) / 1_000_000));
                    }
                }
            }
        }
        rows.sort();
        rows
    }

    async fn letters(&self, import: i64) -> Vec<serde_json::Value> {
        let path = ImportPath { import, object: ImportObject::DeadLetters }.path();
        let text = self.store.get(&path).await.unwrap();
        std::str::from_utf8(&text).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn now(summary: &ImportSummary) -> Vec<Option<i64>> {
    let number = |file: &Result<Imported, ImportError>| match file {
        Ok(Imported::Now(meta, _)) => Some(meta.import),
        _ => None,
    };
    summary.files.iter().map(|(_, file)| number(file)).collect()
}

/// Proves that a foreign CSV becomes exact events, ids with their zeros kept, and that a row which is none is a letter of its columns.
#[tokio::test]
async fn a_mapped_file() {
    let place = Place::new();
    let text = SALES.to_owned() + "536368,cut off\n";
    let summary = place.run(vec![place.file("sales.csv", text.as_bytes())], Some(ROW_BY_ROW)).await;
    assert_eq!((summary.exit_code(), summary.rows()), (0, [5, 3, 2]), "{:?}", summary.files);
    assert!(summary.to_string().contains("refused     1 because user_id is missing"), "{summary}");
    assert_eq!(
        place.rows().await,
        ["536365-071053 17850 1291191960 20.34", "536365-85123A 17850 1291191960 15.3", "536366-85123A 00013 1291192080 -3.31"]
    );
    let letters = place.letters(1).await;
    assert_eq!(letters[0]["event"], serde_json::json!({ "line": 6 }));
    assert_eq!((letters[1]["field"].as_str(), letters[1]["event"]["amount"].as_str()), (Some("user_id"), Some("9.95")));
    assert_eq!(letters[1]["event"]["user_id"], serde_json::Value::Null);
}

/// Proves that files of events of every format are taken without a mapping, broken lines and bad rows becoming letters.
#[tokio::test(flavor = "multi_thread")]
async fn files_of_events() {
    let place = Place::new();
    let jsonl = "{\"event_id\":\"a\",\"user_id\":\"u\",\"event_time\":\"2020-01-01T00:00:00Z\",\"amount\":1.50}\n\
        broken\n{\"event_id\":\"b\",\"user_id\":\"u\",\"event_time\":\"2020-01-01T00:00:00Z\",\"amount\":\"1.23456\",\"attributes\":{\"x\":\"y\"}}\n";
    let csv = "event_id,user_id,event_time,quantity\nc,v,2020-01-02T00:00:00Z,2\nd,v,2020-01-02T00:00:00Z,many\n";
    let parquet = place.folder.path().join("e.parquet");
    let text = |value: &str| Arc::new(StringArray::from(vec![value])) as arrow::array::ArrayRef;
    let time = TimestampMicrosecondArray::from(vec![1_577_836_800_000_000]);
    let columns = [
        ("event_id", text("e")),
        ("user_id", text("w")),
        ("event_time", Arc::new(time) as _),
        ("quantity", Arc::new(Int64Array::from(vec![7])) as _),
    ];
    write_parquet(&parquet, &arrow::array::RecordBatch::try_from_iter(columns).unwrap());
    let gz = gzip(csv.as_bytes());
    let inputs = vec![place.file("a.jsonl", jsonl.as_bytes()), place.file("c.csv.gz", &gz), format!("file://{}", parquet.display())];
    let summary = place.run(inputs, None).await;
    assert_eq!((summary.exit_code(), summary.rows(), now(&summary)), (0, [6, 3, 3], vec![Some(1), Some(2), Some(3)]), "{summary}");
    assert_eq!(place.rows().await, ["a u 1577836800 1.5", "c v 1577923200 0", "e w 1577836800 0"]);
    let letters = place.letters(1).await;
    assert_eq!(letters[0]["event"], serde_json::json!({ "line": 2 }));
    assert_eq!((&letters[1]["field"], &letters[1]["event"]["attributes"]["x"]), (&"amount".into(), &"y".into()));
}

fn write_parquet(path: &Path, batch: &arrow::array::RecordBatch) {
    let mut writer = parquet::arrow::ArrowWriter::try_new(fs::File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Proves that numbers follow the order of the command whatever the files' sizes, that what is imported is found by content under any
/// name, twice in one command too, and that another mapping is another import.
#[tokio::test(flavor = "multi_thread")]
async fn by_content() {
    let place = Place::new();
    let many: String = (0..20_000).map(|i| format!("{i},85123A,1,2010-12-01 08:26:00,2.55,{i},France\n")).collect();
    let big = SALES.lines().next().unwrap().to_owned() + "\n" + &many;
    let (large, copy) = (place.file("large.csv", big.as_bytes()), place.file("copy.csv", big.as_bytes()));
    let (small, same) = (place.file("small.csv", SALES.as_bytes()), place.file("same.csv", SALES.as_bytes()));
    let summary = place.run(vec![large, copy.clone(), small], Some(ROW_BY_ROW)).await;
    assert_eq!(now(&summary), [Some(1), None, Some(2)], "{summary}");
    assert_eq!(place.rows().await.len(), 20_003);

    let again = place.run(vec![same.clone(), copy], Some(ROW_BY_ROW)).await;
    assert_eq!((now(&again), again.exit_code(), again.rows()), (vec![None, None], 0, [0; 3]));
    assert!(again.to_string().contains("0 imported, 2 already there"), "{again}");
    let other = place.run(vec![same], Some(&ROW_BY_ROW.replace("'-'", "'/'"))).await;
    assert_eq!(now(&other), [Some(3)]);
    assert_eq!(imports::list(&place.store).await.unwrap().len(), 3);
}

/// Proves that one bad file keeps no other from being imported, and what the exit code then is.
#[tokio::test]
async fn others_go_on() {
    let place = Place::new();
    let good = place.file("good.csv", b"event_id,user_id,event_time\na,u,2020-01-01T00:00:00Z\n");
    let cut = place.file("cut.csv.gz", &gzip(b"event_id,user_id,event_time\na,u,2020-01-01T00:00:00Z\n")[..20]);
    let missing = place.folder.path().join("none.csv").display().to_string();
    let summary = place.run(vec![cut, missing, good.clone()], None).await;
    assert_eq!((now(&summary), summary.exit_code()), (vec![None, None, Some(1)], 1), "{summary}");

    for (input, reason) in [("s3://b/a.csv", "https://"), ("a.txt", "ending")] {
        let summary = place.run(vec![input.to_owned(), good.clone()], None).await;
        let said = summary.files[0].1.as_ref().unwrap_err().to_string();
        assert!(summary.exit_code() == 2 && said.contains(reason), "{said}");
    }
    let foreign = place.run(vec![place.file("sales.csv", SALES.as_bytes())], None).await;
    let said = foreign.files[0].1.as_ref().unwrap_err().to_string();
    assert!(said.contains("`event_id` is missing"), "{said}");
}

/// Proves that a mapping whose ids hang on the order of rows is refused with the reason, before anything is claimed, also where the tied
/// rows read the same backwards; and that one whose ties are the same row passes.
#[tokio::test]
async fn reproducible() {
    let numbered = "SELECT Invoice || '-' || row_number() OVER (ORDER BY Invoice) AS event_id, User AS user_id, '2020-01-01T00:00:00Z' AS event_time, Price AS amount FROM input";
    let place = Place::new();
    for tied in ["1,u,5\n1,u,6\n", "1,u,5\n1,u,6\n1,u,5\n2,u,1\n", "1,u,5\n1,v,5\n"] {
        let (code, said) = place.refused(&format!("Invoice,User,Price\n{tied}"), numbered).await;
        assert!(code == 2 && said.contains("row_number() without a complete ORDER BY"), "{said}");
    }
    for fine in ["1,u,5\n1,u,5\n2,u,7\n", "1,u,5\n2,v,6\n3,w,6\n"] {
        let place = Place::new();
        let summary = place.run(vec![place.file("a.csv", format!("Invoice,User,Price\n{fine}").as_bytes())], Some(numbered)).await;
        assert_eq!((now(&summary), summary.rows()), (vec![Some(1)], [3, 3, 0]), "{summary}");
    }
    let complete = numbered.replace("ORDER BY Invoice", "PARTITION BY Invoice ORDER BY Invoice, User, Price");
    let summary = place.run(vec![place.file("b.csv", b"Invoice,User,Price\n1,u,5\n1,u,6\n1,v,5\n")], Some(&complete)).await;
    assert_eq!(now(&summary), [Some(1)], "{summary}");
    assert_eq!(place.rows().await, ["1-1 u 1577836800 5", "1-2 u 1577836800 6", "1-3 v 1577836800 5"]);
}

/// Proves what a mapping must not be, each with a sentence that says why, and that nothing is claimed then.
#[tokio::test]
async fn refusals() {
    for (sql, reason) in [
        ("DELETE FROM input", "one SELECT"),
        ("SELECT 1; SELECT 2", "one SELECT"),
        ("COPY input TO 'x.csv'", "one SELECT"),
        ("SELECT a b c FROM input", "Expected"),
    ] {
        let said = Mapping::parse(sql).unwrap_err().to_string();
        assert!(said.contains(reason), "{sql}: {said}");
    }
    let place = Place::new();
    for (sql, reason) in [
        ("SELECT 'a' AS event_id, 'u' AS user_id, now() AS event_time FROM input", "now does not give the same value"),
        ("SELECT uuid() AS event_id, 'u' AS user_id, InvoiceDate AS event_time FROM input", "uuid"),
        ("SELECT random() AS amount, 'a' AS event_id, 'u' AS user_id, InvoiceDate AS event_time FROM input", "random"),
        ("SELECT 'a' AS event_id, 'u' AS user_id, InvoiceDate AS event_time FROM other", "other"),
        ("SELECT 'a' AS event_id, 'u' AS user_id, '2020-01-01' AS event_time", "does not read the input"),
        ("SELECT 'a' AS event_id, 'u' AS user_id, InvoiceDate AS event_time FROM input, generate_series(1, 2)", "reads only input"),
        ("SELECT quantity AS event_id, 'u' AS user_id, InvoiceDate AS event_time FROM input", "Quantity"),
        ("SELECT InvoiceNo AS event_id, InvoiceDate AS event_time FROM input", "`user_id` is missing"),
        ("SELECT InvoiceNo AS event_id, 'u' AS user_id, Quantity AS event_time FROM input", "`event_time` has the type"),
        (
            "SELECT InvoiceNo AS event_id, 'u' AS user_id, InvoiceDate AS event_time, CAST(UnitPrice AS DOUBLE) * Quantity AS amount FROM input",
            "is a float",
        ),
    ] {
        let (code, said) = place.refused(SALES, sql).await;
        assert!(code == 2 && said.contains(reason), "{sql}: {code} {said}");
    }
    let (code, said) = place.refused("a,a\n1,2\n", "SELECT a AS event_id, a AS user_id, a AS event_time FROM input").await;
    assert!(code == 1 && said.contains("`a` stands twice"), "{said}");
}

/// Publishes a view over three partitions, by a manifest of format 1, which every release reads.
async fn publish(place: &Place, view: &str, sql: &str) {
    let definition = definition::stored(&views::Definition::parse(sql, &place.options(Vec::new(), None).events).unwrap());
    let manifest = format!(
        r#"{{ "format_version": 1, "view": "{view}", "version": 1, "parent": null, "run_id": "r1", "created_time": "2026-11-21T02:00:00Z",
        "log_id": "l1", "boundary": [0, 0, 0], "fingerprint": "{}", "digest": "d1", "event_count": 0, "row_count": 0,
        "late_duplicate_count": 0, "conflict_count": 0, "engine": "e", "audit": null,
        "files": [{{ "path": "x", "shard": 0, "rows": 0, "bytes": 0, "blake3": "b" }}] }}"#,
        definition.fingerprint
    );
    let view: ViewName = view.parse().unwrap();
    storage::manifest::Definitions::new(place.store.clone(), view.clone()).put(&definition).await.unwrap();
    place.store.put_durable(&ManifestPath { view, version: 1 }.path(), manifest.into()).await.unwrap();
}

/// Proves that how users are divided is taken from the newest version where there is one, and not gone on with under another count.
#[tokio::test]
async fn partitions() {
    let place = Place::new();
    let file = place.file("a.csv", b"event_id,user_id,event_time\na,u,2020-01-01T00:00:00Z\n");
    let other = ImportOptions { partitions: 5, ..place.options(vec![file.clone()], None) };
    let content = EventFile::find_as(Path::new(&file), None).unwrap().digest().await.unwrap();
    let identity = Identity { content: content.to_hex().to_string(), mapping: None, format: "csv".to_owned() };
    let terms = Terms { partitions: 3, events: other.events.clone(), views: Vec::new(), name: "a.csv".to_owned(), now_us: 5 };
    Claims::new(place.store.clone()).claim(&identity, &terms).await.unwrap();
    let summary = import(&other, &place.store, Arc::new(Bar::new(false))).await.unwrap();
    let said = summary.files[0].1.as_ref().unwrap_err().to_string();
    assert!(summary.exit_code() == 2 && said.contains("claimed for 3 partitions, and here are 5"), "{said}");

    place.run(vec![file.clone()], None).await;
    let said = import(&other, &place.store, Arc::new(Bar::new(false))).await.unwrap_err().to_string();
    assert!(said.contains("import 1 has 3 of them"), "{said}");

    publish(&place, "user_stats", views::definition::USER_STATS_SQL).await;
    let summary = import(&other, &place.store, Arc::new(Bar::new(false))).await.unwrap();
    assert!(matches!(summary.files[0].1, Ok(Imported::Already(_))), "{summary}");
}

/// Proves that a file which is not any more what was claimed is not committed.
#[tokio::test]
async fn changed_meanwhile() {
    let place = Place::new();
    let input = place.file("a.csv", b"event_id,user_id,event_time\na,u,2020-01-01T00:00:00Z\n");
    let options = place.options(vec![input.clone()], None);
    let file = EventFile::find_as(Path::new(&input), None).unwrap();
    let content = file.digest().await.unwrap();
    let job = Job {
        store: place.store.clone(),
        claims: Claims::new(place.store.clone()),
        views: Vec::new(),
        begun: Mutex::default(),
        partitions: 3,
        bar: Arc::new(Bar::new(false)),
        options: options.clone(),
    };
    let identity = Identity { content: content.to_hex().to_string(), mapping: None, format: "csv".to_owned() };
    let terms = Terms { partitions: 3, events: options.events, views: Vec::new(), name: "a.csv".to_owned(), now_us: 5 };
    let claim = job.claims.claim(&identity, &terms).await.unwrap();
    place.file("a.csv", b"event_id,user_id,event_time\nb,u,2020-01-01T00:00:00Z\n");
    let failed = Box::pin(job.write(&file, &content, Prepared::Events, &claim)).await.unwrap_err();
    assert!(matches!(failed, ImportError::Changed { .. }), "{failed}");
    assert_eq!(imports::list(&place.store).await.unwrap(), []);
}

/// Proves that an event on which a declared view fails is refused, alone and as an event that can be mended; that what decides is the views of
/// the claim; and that a view which cannot be used stops the import before anything is claimed.
#[tokio::test]
async fn tried_on_views() {
    let place = Place::new();
    let file = place.file("a.csv", b"event_id,user_id,event_time,quantity\na,u,2020-01-01T00:00:00Z,2\nb,u,2020-01-01T00:00:00Z,0\n");
    let options = place.options(vec![file.clone()], None);
    fs::create_dir(&options.views_dir).unwrap();
    let view = options.views_dir.join("tens.sql");
    fs::write(&view, "SELECT user_id, sum(10 / nothing) AS tens FROM events GROUP BY user_id").unwrap();
    let failed = import(&options, &place.store, Arc::new(Bar::new(false))).await.unwrap_err();
    assert!(failed.exit_code() == 2 && format!("{:#}", anyhow::Error::new(failed)).contains("tens.sql"));
    assert!(place.store.list(&storage::paths::imports_folder()).await.unwrap().is_empty(), "nothing is claimed");

    fs::write(&view, "SELECT user_id, count(*) AS event_count, sum(10 / quantity) AS tens FROM events GROUP BY user_id").unwrap();
    let views = trial::definitions(&options, &place.store, &[]).await.unwrap();
    let content = EventFile::find_as(Path::new(&file), None).unwrap().digest().await.unwrap();
    let identity = Identity { content: content.to_hex().to_string(), mapping: None, format: "csv".to_owned() };
    let terms = Terms { partitions: 3, events: options.events.clone(), views, name: "a.csv".to_owned(), now_us: 5 };
    Claims::new(place.store.clone()).claim(&identity, &terms).await.unwrap();
    fs::remove_file(&view).unwrap();
    let summary = place.run(vec![file], None).await;
    assert_eq!((now(&summary), summary.rows()), (vec![Some(1)], [2, 1, 1]), "{summary}");
    let letters = place.letters(1).await;
    let reason = letters[0]["reason"].as_str().unwrap();
    assert!(reason.contains("a declared view fails on it") && reason.to_lowercase().contains("divide by zero"), "{reason}");
    assert_eq!((letters[0]["event"]["event_id"].as_str(), &letters[0]["event"]["attributes"]["quantity"]), (Some("b"), &"0".into()));
}

/// Proves that published views are tried too, and that columns of another type than theirs are refused with what to do.
#[tokio::test]
async fn tried_on_published_views() {
    let place = Place::new();
    let file = place.file("a.csv", b"event_id,user_id,event_time,quantity\nb,u,2020-01-01T00:00:00Z,0\n");
    let options = place.options(vec![file], None);
    publish(&place, "tens", "SELECT user_id, count(*) AS event_count, sum(10 / quantity) AS tens FROM events GROUP BY user_id").await;
    let events = EventSchema { attributes: [("quantity".to_owned(), AttributeType::String)].into(), ..options.events.clone() };
    let failed = import(&ImportOptions { events, ..options.clone() }, &place.store, Arc::new(Bar::new(false))).await.unwrap_err();
    let said = failed.to_string();
    assert!(failed.exit_code() == 2 && said.contains("version 1 of tens") && said.contains("events.attributes.quantity"), "{said}");

    let summary = import(&options, &place.store, Arc::new(Bar::new(false))).await.unwrap();
    assert_eq!((now(&summary), summary.rows()), (vec![Some(1)], [1, 0, 1]), "{summary}");
}

/// Answers each connection to `http://127.0.0.1:…` with what `answer` makes of the path that is asked for.
fn serve_http(answer: impl Fn(&str) -> Vec<u8> + Send + 'static) -> String {
    use std::io::{BufRead, BufReader, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut lines = BufReader::new(connection.try_clone().unwrap()).lines().map(Result::unwrap);
            let first = lines.next().unwrap();
            lines.find(String::is_empty);
            connection.write_all(&answer(first.split(' ').nth(1).unwrap())).unwrap();
        }
    });
    format!("http://{address}")
}

fn http(status: &str, length: usize, body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n").as_bytes(), body].concat()
}

/// Proves that a URL's file is imported under its name and known again by content, and that one which cannot be had whole is not.
#[tokio::test(flavor = "multi_thread")]
async fn from_urls() {
    let place = Place::new();
    let body = gzip(b"event_id,user_id,event_time\na,u,2020-01-01T00:00:00Z\n");
    let whole = body.clone();
    let url = serve_http(move |path| match path {
        "/a.csv.gz?key=secret" => http("200 OK", whole.len(), &whole),
        "/cut.csv.gz" => http("200 OK", whole.len() + 1, &whole),
        _ => http("404 Not Found", 0, b""),
    });
    let summary = place.run(vec![format!("{url}/a.csv.gz?key=secret"), place.file("b.csv.gz", &body)], None).await;
    assert_eq!((now(&summary), summary.exit_code(), summary.rows()), (vec![Some(1), None], 0, [1, 1, 0]), "{summary}");
    assert_eq!(imports::list(&place.store).await.unwrap()[0].name, "a.csv.gz");

    for (path, code, reason) in
        [("cut.csv.gz", 1, "/cut.csv.gz cannot be fetched"), ("none.csv?key=secret", 1, "404"), ("none", 2, "ending")]
    {
        let summary = place.run(vec![format!("{url}/{path}")], None).await;
        let said = summary.files[0].1.as_ref().unwrap_err().to_string();
        assert!(summary.exit_code() == code && said.contains(reason) && !said.contains("secret"), "{said}");
    }
    assert_eq!(imports::list(&place.store).await.unwrap().len(), 1);
}
