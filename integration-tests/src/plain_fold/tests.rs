use super::text::{date, days, money, show_money, time};
use super::*;

/// Proves that money is read exactly, in each way of writing it, and never rounded.
#[test]
fn money_is_exact() {
    for (text, unscaled) in [
        ("12.34", 123_400),
        ("-168469.6", -1_684_696_000),
        ("0.0001", 1),
        ("1e3", 10_000_000),
        ("15E-1", 15_000),
        ("2.9000000", 29_000),
        ("00", 0),
        ("99999999999999.9999", 999_999_999_999_999_999),
    ] {
        assert_eq!(money(text), Some(unscaled), "{text}");
    }
    for text in ["0.00001", "", "-", ".", "1.2.3", "NaN", "100000000000000", "1e40", "0x1"] {
        assert_eq!(money(text), None, "{text}");
    }
    assert_eq!([show_money(1_684_696_000), show_money(-5), show_money(0)], ["168,469.60", "-0.0005", "0.00"]);
}

/// Proves that times are those of the calendar, offsets and fractions included, and that no other text is a time.
#[test]
fn times() {
    assert_eq!(time("1970-01-01T00:00:00Z"), Some(0));
    assert_eq!(time("2010-12-01T08:26:00.000Z"), Some(1_291_191_960_000_000));
    assert_eq!(time("2010-12-01T09:26:00.1234567+01:00"), Some(1_291_191_960_123_456));
    assert_eq!(time("1969-12-31T23:59:59.999999Z"), Some(-1));
    for text in ["2010-12-01", "2010-02-29T00:00:00Z", "2010-12-01T24:00:00Z", "2010-12-01T00:00:00", "2010-12-01T00:00:00.Z", "yesterday"]
    {
        assert_eq!(time(text), None, "{text}");
    }
    for day in days(1890, 1, 1)..days(2210, 1, 1) {
        let (year, month, of_month) = date(day);
        assert_eq!(days(year, month, of_month), day);
    }
}

/// Proves that one event reads the same from JSON and from CSV, with quotes and line feeds in cells, and that repeated
/// identities and rows of nobody are counted apart.
#[test]
fn formats_agree() {
    let dir = tempfile::tempdir().unwrap();
    let (json, csv) = (dir.path().join("a.jsonl"), dir.path().join("a.csv"));
    let line = r#"{"event_id":"1","user_id":"a,\"b\"\nc","event_time":"2024-01-01T00:00:00Z","amount":1.50,"attributes":{"x":[1]}}"#;
    std::fs::write(
        &json,
        format!("{line}\n\n{line}\n{{\"event_id\":\"2\",\"user_id\":null,\"event_time\":\"2024-01-01T00:00:00Z\"}}\nnonsense\n"),
    )
    .unwrap();
    std::fs::write(&csv, "user_id,note,event_time,event_id,amount\r\n\"a,\"\"b\"\"\nc\",,2024-01-01T00:00:00Z,1,1.5\r\nshort,row\r\n")
        .unwrap();

    let mut fold = PlainFold::default();
    fold.add_file(&json, Part::Batch, |_| Part::Batch).unwrap();
    assert_eq!((fold.users.len(), fold.skipped, fold.repeated), (1, 2, 1));
    fold.add_file(&csv, Part::Live, |_| Part::Live).unwrap();
    assert_eq!((fold.users.len(), fold.skipped, fold.repeated), (1, 3, 2));
    let expected = Stats { count: 1, revenue: Some(15_000), first_us: Some(1_704_067_200_000_000), last_us: Some(1_704_067_200_000_000) };
    assert_eq!(fold.total().total(), expected);
}
