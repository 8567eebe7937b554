#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::sync::Arc;

use ::parquet::arrow::ArrowWriter;
use ::parquet::basic::Compression as Codec;
use ::parquet::file::properties::WriterProperties;
use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Decimal128Array, Int64Array, MapBuilder, RecordBatch, StringArray, StringBuilder, StructArray,
    TimestampNanosecondArray,
};
use arrow::datatypes::{DataType, Field};

use views::RawEvent;

use super::*;

/// The line of a row, and the event or why it is none.
type Numbered = (u64, Result<RawEvent, String>);

/// Writes `bytes` to a file called `name` and reads its rows.
fn read(name: &str, bytes: &[u8]) -> Result<Vec<Numbered>, InputError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    let rows = EventFile::find(&path)?.rows(&Position::default())?;
    rows.map(|row| row.map(|row| (row.line, row.event))).collect()
}

fn events(name: &str, bytes: &[u8]) -> Vec<RawEvent> {
    read(name, bytes).unwrap().into_iter().map(|(_, event)| event.unwrap()).collect()
}

fn reason(line: &str) -> String {
    let [(1, Err(reason))] = &read("a.jsonl", line.as_bytes()).unwrap()[..] else { panic!("{line} is an event") };
    reason.clone()
}

fn attributes(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn at(text: &str) -> Option<(i64, i32)> {
    let time = chrono::DateTime::parse_from_rfc3339(text).unwrap();
    Some((time.timestamp(), time.timestamp_subsec_nanos() as i32))
}

fn sale() -> RawEvent {
    RawEvent {
        event_id: "e1".to_owned(),
        user_id: "u1".to_owned(),
        event_time: at("2010-12-01T08:26:00Z"),
        event_type: "sale".to_owned(),
        amount: "15.30".to_owned(),
        attributes: attributes(&[("country", "Norway"), ("gift", "true"), ("quantity", "6")]),
    }
}

const SALE_JSON: &str = r#"{"event_id":"e1","user_id":"u1","event_time":"2010-12-01T08:26:00.000Z","event_type":"sale","amount":15.30,"attributes":{"country":"Norway","quantity":6,"gift":true,"note":null}}"#;
const SALE_CSV: &str = "event_id,user_id,event_time,event_type,amount,country,quantity,gift,note\n\
                        e1,u1,2010-12-01T08:26:00Z,sale,15.30,Norway,6,true,\n";

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn every_text_format_tells_the_same_event() {
    // Proves that format and compression change nothing about an event.
    for (ending, text) in [("jsonl", SALE_JSON), ("json", SALE_JSON), ("ndjson", SALE_JSON), ("csv", SALE_CSV)] {
        let plain = text.as_bytes();
        assert_eq!(events(&format!("a.{ending}"), plain), [sale()], "{ending}");
        assert_eq!(events(&format!("A.{ending}.GZ"), &gzip(plain)), [sale()], "{ending}.gz");
        let zst = zstd::encode_all(plain, 1).unwrap();
        assert_eq!(events(&format!("a.{ending}.zst"), &zst), [sale()], "{ending}.zst");
    }
}

#[test]
fn compressed_files_may_have_many_members() {
    // Proves that what `cat a.gz b.gz` makes is read to its end.
    let both = [gzip(SALE_JSON.as_bytes()), gzip(format!("\n{SALE_JSON}").as_bytes())].concat();
    assert_eq!(events("a.jsonl.gz", &both).len(), 2);
    let zst = |text: &str| zstd::encode_all(text.as_bytes(), 1).unwrap();
    let both = [zst(SALE_JSON), zst(&format!("\n{SALE_JSON}"))].concat();
    assert_eq!(events("a.jsonl.zst", &both).len(), 2);
}

#[test]
fn numbers_keep_their_digits() {
    // Proves that no number passes through a float, which would lose or add digits.
    for digits in ["0.10", "1e3", "-1.5E-2", "12345678901234567890.1234", "0.30000000000000000001", "-0", "7"] {
        let line = format!(r#"{{"amount": {digits} ,"attributes":{{"n":{digits}}}}}"#);
        let [event] = &events("a.jsonl", line.as_bytes())[..] else { panic!("one row") };
        assert_eq!((event.amount.as_str(), event.attributes["n"].as_str()), (digits, digits));
    }
}

#[test]
fn json_text_may_hold_anything() {
    // Proves that the cut between members is not misled by brackets, quotes and escapes inside texts.
    let line = r#" { "event_id" : "a\"},{:\\" , "attributes" : { "k:\"}" : "[{,\u00e9😀" , "empty" : "" } , "user_id":17850 } "#;
    let [event] = &events("a.jsonl", line.as_bytes())[..] else { panic!("one row") };
    assert_eq!(event.event_id, r#"a"},{:\"#);
    assert_eq!(event.user_id, "17850");
    assert_eq!(event.attributes, attributes(&[("k:\"}", "[{,é😀"), ("empty", "")]));
}

#[test]
fn what_is_absent_is_left_to_the_server() {
    // Proves that a row without id, user or time is still sent, so that the server can refuse and keep it.
    let rows = [r#"{"event_id":"e","user_id":null,"event_time":null,"amount":null,"attributes":null}"#, r#"{"event_id":"e"}"#];
    let expected = RawEvent { event_id: "e".to_owned(), ..RawEvent::default() };
    assert_eq!(events("a.jsonl", rows.join("\n").as_bytes()), [expected.clone(), expected.clone()]);
    assert_eq!(events("a.csv", b"event_id,user_id,event_time\ne,,\n"), [expected]);
}

#[test]
fn rows_that_are_no_events_say_why() {
    // Proves that each kind of broken row gets its own reason.
    assert_eq!(reason("{"), "not valid JSON");
    assert_eq!(reason(r#"{"event_id":"a"} {}"#), "not valid JSON");
    assert_eq!(reason("[1]"), "not a JSON object");
    assert_eq!(reason(r#"{"event_id":"a","event_id":"b"}"#), "`event_id` stands twice");
    assert_eq!(reason(r#"{"event_id":["a"]}"#), "event_id is neither text nor a number nor a boolean");
    assert_eq!(reason(r#"{"attributes":7}"#), "attributes: not a JSON object");
    assert_eq!(reason(r#"{"attributes":{"a":{}}}"#), "attributes.a is neither text nor a number nor a boolean");
    assert_eq!(reason(r#"{"event_id":"\ud800"}"#), "event_id is not valid Unicode");
    assert!(reason(r#"{"colour":"red"}"#).starts_with("unknown field `colour`"));
    for time in ["1291191960", "2010-12-01", "2010-12-01T08:26:00", "2010-13-01T08:26:00Z", "noon"] {
        assert!(reason(&format!(r#"{{"event_time":"{time}"}}"#)).contains("RFC 3339"), "{time}");
    }
}

#[test]
fn a_broken_row_costs_no_other() {
    // Proves that reading goes on behind broken rows, and that lines are numbered as an editor does.
    let long = "x".repeat(5 * 1024 * 1024);
    let text = [b"\xef\xbb\xbf" as &[u8], SALE_JSON.as_bytes(), b"\n\n  \r\n\xff\xfe\n", long.as_bytes(), b"\n{}\r\n{"].concat();
    let rows = read("a.jsonl", &text).unwrap();
    let lines: Vec<_> = rows.iter().map(|(line, event)| (*line, event.as_ref().err().map(String::as_str))).collect();
    let expected = [(1, None), (4, Some("not UTF-8")), (5, Some("the line is longer than 4 MiB")), (6, None), (7, Some("not valid JSON"))];
    assert_eq!(lines, expected);

    let csv = b"event_id,user_id,event_time\na,\"u\n1\",\nb,u\nc,\xff,\nd,u,\n";
    let rows = read("a.csv", csv).unwrap();
    let lines: Vec<_> = rows.iter().map(|(line, event)| (*line, event.as_ref().err().map(String::as_str))).collect();
    let expected = [(2, None), (4, Some("2 cells where the header has 3")), (5, Some("not UTF-8")), (6, None)];
    assert_eq!(lines, expected);
}

#[test]
fn times_are_cut_to_the_microsecond() {
    // Proves that finer digits are cut, not rounded, before 1970 too, and that offsets are taken into account.
    let cases = [
        ("2010-12-01T08:26:00.123456999Z", "2010-12-01T08:26:00.123456Z"),
        ("2010-12-01T08:26:00.1234569999999999Z", "2010-12-01T08:26:00.123456Z"),
        ("1969-12-31T23:59:59.999999999Z", "1969-12-31T23:59:59.999999Z"),
        ("2010-12-01T10:26:00+02:00", "2010-12-01T08:26:00Z"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00Z"),
    ];
    for (text, expected) in cases {
        assert_eq!(fields::time(text).ok(), at(expected), "{text}");
    }
}

#[test]
fn unusable_files_are_refused_before_a_row_is_read() {
    // Proves that a wrong ending, header or column type is told at once, by name.
    for name in ["a.txt", "a.gz", "events", "a.parquet.zst", "a.avro"] {
        assert!(matches!(read(name, b""), Err(InputError::UnknownEnding { .. })), "{name}");
    }
    let column = |result: Result<_, InputError>| match result.map(drop) {
        Err(InputError::Column { column, .. }) => column,
        other => panic!("{other:?}"),
    };
    assert_eq!(column(read("a.csv", b"event_id,event_time\n")), "user_id");
    assert_eq!(column(read("a.csv", b"event_id,user_id,event_time,x,x\n")), "x");
    let one: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let columns = [("event_id", one.clone()), ("user_id", one.clone()), ("event_time", one)];
    assert_eq!(column(read("a.parquet", &parquet_file(&columns, Codec::UNCOMPRESSED))), "event_time");
}

#[test]
fn a_file_that_breaks_off_is_an_error() {
    // Proves that a cut download is told, with the last good line, and never taken for a shorter file.
    let text = format!("{SALE_JSON}\n").repeat(20_000);
    for (name, bytes) in [("a.jsonl.gz", gzip(text.as_bytes())), ("a.jsonl.zst", zstd::encode_all(text.as_bytes(), 1).unwrap())] {
        let cut = &bytes[..bytes.len() - 9];
        let result = read(name, cut).map(|rows| rows.len());
        assert!(matches!(result, Err(InputError::Read { .. })), "{name}: {result:?}");
    }
}

#[test]
fn nothing_comes_after_an_error() {
    // Proves that a decoder which fails again each time it is asked does not make a file endless.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl.gz");
    fs::write(&path, [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    let mut rows = EventFile::find(&path).unwrap().rows(&Position::default()).unwrap();
    assert!(rows.next().unwrap().is_err());
    assert!(rows.next().is_none());
}

fn parquet_file(columns: &[(&str, ArrayRef)], codec: Codec) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter(columns.iter().cloned()).unwrap();
    let properties = WriterProperties::builder().set_compression(codec).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

#[test]
fn parquet_columns_become_fields() {
    // Proves that typed columns arrive as the text that the server parses, and that nulls are absent.
    let times = TimestampNanosecondArray::from(vec![Some(1_291_191_960_000_000_999), Some(-1), None]);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("user_id", Arc::new(Int64Array::from(vec![Some(17850), Some(2), None]))),
        ("event_id", Arc::new(StringArray::from(vec!["a", "b", "c"]))),
        ("event_time", Arc::new(times.with_timezone("Europe/Oslo"))),
        ("amount", Arc::new(Decimal128Array::from(vec![Some(-153_000), Some(1), None]).with_precision_and_scale(18, 4).unwrap())),
        ("gift", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))),
    ];
    for codec in [Codec::UNCOMPRESSED, Codec::SNAPPY, Codec::GZIP(Default::default()), Codec::ZSTD(Default::default())] {
        let rows = read("a.parquet", &parquet_file(&columns, codec)).unwrap();
        let rows: Vec<_> = rows.into_iter().map(|(row, event)| (row, event.unwrap())).collect();
        let event = |id: &str, user: &str, time, amount: &str, gift: &[(&str, &str)]| RawEvent {
            event_id: id.to_owned(),
            user_id: user.to_owned(),
            event_time: time,
            event_type: String::new(),
            amount: amount.to_owned(),
            attributes: attributes(gift),
        };
        let expected = [
            (1, event("a", "17850", at("2010-12-01T08:26:00Z"), "-15.3000", &[("gift", "true")])),
            (2, event("b", "2", at("1969-12-31T23:59:59.999999Z"), "0.0001", &[])),
            (3, event("c", "", None, "", &[("gift", "false")])),
        ];
        assert_eq!(rows, expected, "{codec:?}");
    }
}

#[test]
fn parquet_attributes_may_be_nested() {
    // Proves that a map, a struct and JSON text called `attributes` all become attributes.
    let mut map = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    map.keys().append_value("country");
    map.values().append_value("Norway");
    map.keys().append_value("note");
    map.values().append_null();
    map.append(true).unwrap();
    let country: ArrayRef = Arc::new(StringArray::from(vec!["Norway"]));
    let fields = StructArray::from(vec![(Arc::new(Field::new("country", DataType::Utf8, true)), country)]);
    let json = StringArray::from(vec![r#"{"country":"Norway"}"#]);
    let id: ArrayRef = Arc::new(StringArray::from(vec!["1"]));
    let time: ArrayRef = Arc::new(StringArray::from(vec!["2010-12-01T09:26:00+01:00"]));
    for nested in [Arc::new(map.finish()) as ArrayRef, Arc::new(fields), Arc::new(json)] {
        let columns = [("event_id", id.clone()), ("user_id", id.clone()), ("event_time", time.clone()), ("attributes", nested)];
        let [event] = &events("a.parquet", &parquet_file(&columns, Codec::UNCOMPRESSED))[..] else { panic!("one row") };
        assert_eq!(event.attributes, attributes(&[("country", "Norway")]));
        assert_eq!(event.event_time, at("2010-12-01T08:26:00Z"));
    }
}

#[test]
fn parquet_bytes_are_text_or_an_error() {
    // Proves that a column of bytes is read as text, and that bytes which are no text are never read as absent.
    let text: ArrayRef = Arc::new(StringArray::from(vec!["2010-12-01T08:26:00Z"]));
    let file = |country: &[u8]| {
        let country: ArrayRef = Arc::new(BinaryArray::from(vec![country]));
        let columns = [("event_id", text.clone()), ("user_id", text.clone()), ("event_time", text.clone()), ("country", country)];
        parquet_file(&columns, Codec::UNCOMPRESSED)
    };
    assert_eq!(events("a.parquet", &file(b"Norway"))[0].attributes, attributes(&[("country", "Norway")]));
    let result = read("a.parquet", &file(b"\xff\xfe"));
    assert!(matches!(&result, Err(InputError::Read { line: 0, .. })), "{result:?}");
}

/// The table of a file called `name`: its columns and types, and each row as text.
fn table(name: &str, bytes: &[u8]) -> (Vec<String>, Vec<String>, Vec<BrokenRow>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    let table = Table::infer(&EventFile::find(&path).unwrap()).unwrap();
    let columns = table.schema().fields().iter().map(|f| format!("{} {}", f.name(), f.data_type())).collect();
    let mut rows = Vec::new();
    for batch in table.batches(&Position::default()).unwrap() {
        let batch = batch.unwrap();
        for row in 0..batch.num_rows() {
            let cells = batch.columns().iter().map(|c| arrow::util::display::array_value_to_string(c, row).unwrap());
            rows.push(cells.collect::<Vec<_>>().join("|"));
        }
    }
    (columns, rows, table.broken)
}

/// Proves that the types of a table are those of all its rows, that no number loses a digit, a zero or its exactness, and that broken
/// rows are told apart from the others.
#[test]
fn tables() {
    let (columns, rows, broken) = table(
        "a.csv",
        b"id,code,Price,big,none,late\n1,007,2.5,9223372036854775808,,1\n-2,7,10,1,,\n0,x,-0.125,0,,2\nshort\n3,1e3,1,5,,12a\n",
    );
    assert_eq!(columns, ["id Int64", "code Utf8", "Price Decimal128(5, 3)", "big Decimal128(19, 0)", "none Null", "late Utf8"]);
    assert_eq!(rows, ["1|007|2.500|9223372036854775808||1", "-2|7|10.000|1||", "0|x|-0.125|0||2", "3|1e3|1.000|5||12a"]);
    assert_eq!(broken, [(5, "1 cells where the header has 6".to_owned())]);

    // The one cell that is no number comes after more rows than any sample has.
    let mut late = String::from("n\n");
    (0..20_000).for_each(|i| late.push_str(&format!("{i}\n")));
    assert_eq!(table("b.csv", late.as_bytes()).0, ["n Int64"]);
    let (columns, rows, _) = table("b.csv", (late + "+1\n").as_bytes());
    assert_eq!((columns, rows.len(), rows[20_000].as_str()), (vec!["n Utf8".to_owned()], 20_001, "+1"));

    let json = b"{\"a\":1,\"s\":\"2\"}\n{\"b\":true,\"a\":1.25}\nno\n{\"o\":{\"x\":[1]},\"s\":null,\"a\":3,\"m\":1}\n{\"m\":false}\n";
    let (columns, rows, broken) = table("c.jsonl", json);
    assert_eq!(columns, ["a Decimal128(3, 2)", "s Utf8", "b Boolean", "m Utf8", "o Utf8"]);
    assert_eq!(rows, ["1.00|2|||", "1.25||true||", "3.00|||1|{\"x\":[1]}", "|||false|"]);
    assert_eq!(broken, [(3, "not valid JSON".to_owned())]);
    assert_eq!(table("d.csv", b"zip\n10115\n01067\n").0, ["zip Utf8"]);
    let wide = format!("n\n{}\n0.5\n", "9".repeat(38));
    assert_eq!(table("d.csv", wide.as_bytes()).0, ["n Utf8"], "more digits than a decimal has");
}
