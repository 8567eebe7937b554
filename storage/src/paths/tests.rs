use super::*;

fn view() -> ViewName {
    "user_stats".parse().unwrap()
}

/// Proves the layout in the store, byte by byte, and that each path reads back as what wrote it.
#[test]
fn frozen_and_round_trip() {
    let run_id: Id = "20261121T020000Z-ab12".parse().unwrap();
    let day = NaiveDate::from_ymd_opt(2026, 11, 21).unwrap();

    let segment = SegmentPath { partition: 0, start: 0, end: 100_000, ingest_date: day };
    let text = "master/events/ingest_date=2026-11-21/p0000-00000000000000000000-00000000000000100000.parquet";
    assert_eq!(segment.path().as_ref(), text);
    assert_eq!(SegmentPath::parse(&segment.path()).unwrap(), segment);
    assert_eq!(segment.seal_path().as_ref(), text.replace(".parquet", ".seal.json"));
    assert_eq!(SegmentPath::parse_seal(&segment.seal_path()).unwrap(), segment);
    assert!(SegmentPath::parse(&segment.seal_path()).is_err() && SegmentPath::parse_seal(&segment.path()).is_err());

    let epoch = EpochPath { epoch: 7 };
    assert_eq!(epoch.path().as_ref(), "master/epochs/00000000000000000007.json");
    assert_eq!(EpochPath::parse(&epoch.path()).unwrap(), epoch);

    let erasure = ErasurePath { partition: 3, offset: 123 };
    assert_eq!(erasure.path().as_ref(), "master/erasures/p0003-00000000000000000123.json");
    assert_eq!(ErasurePath::parse(&erasure.path()).unwrap(), erasure);

    for (object, text) in [
        (ImportObject::Claim, "master/imports/00000000000000000003/claim.json"),
        (ImportObject::File { partition: 12 }, "master/imports/00000000000000000003/p0012.parquet"),
        (ImportObject::DeadLetters, "dead-letter/import-00000000000000000003.jsonl"),
        (ImportObject::Commit, "master/imports/00000000000000000003/import.json"),
    ] {
        let import = ImportPath { import: 3, object };
        assert_eq!(import.path().as_ref(), text);
        assert_eq!(ImportPath::parse(&import.path()).unwrap(), import);
    }

    let manifest = ManifestPath { view: view(), version: 42 };
    assert_eq!(manifest.path().as_ref(), "views/user_stats/manifests/00000000000000000042.json");
    assert_eq!(ManifestPath::parse(&manifest.path()).unwrap(), manifest);

    let file = ViewFilePath { view: view(), version: 42, run_id: run_id.clone(), part: 7 };
    assert_eq!(file.path().as_ref(), "views/user_stats/v42-20261121T020000Z-ab12/part-00007.parquet");
    assert_eq!(ViewFilePath::parse(&file.path()).unwrap(), file);

    let definition = DefinitionPath { view: view(), fingerprint: "0a1b".parse().unwrap() };
    assert_eq!(definition.path().as_ref(), "views/user_stats/definitions/0a1b.json");
    assert_eq!(DefinitionPath::parse(&definition.path()).unwrap(), definition);

    let run = RunPath { view: view(), run_id };
    assert_eq!(run.path().as_ref(), "runs/user_stats/20261121T020000Z-ab12.json");
    assert_eq!(RunPath::parse(&run.path()).unwrap(), run);

    let lease = LeasePath { view: view(), number: 3 };
    assert_eq!(lease.path().as_ref(), "runs/user_stats/lease/00000000000000000003.json");
    assert_eq!(LeasePath::parse(&lease.path()).unwrap(), lease);
    assert!(RunPath::parse(&lease.path()).is_err());
}

/// Proves that a name that is almost right is refused, not guessed.
#[test]
fn near_misses() {
    let segments = [
        "master/events/ingest_date=2026-11-21/p0000-00000000000000000005-00000000000000000005.parquet",
        "master/events/ingest_date=2026-11-21/p0000-00000000000000000000-0000000000000000001.parquet",
        "master/events/ingest_date=2026-11-21/p0000-+0000000000000000000-00000000000000000001.parquet",
        "master/events/ingest_date=2026-11-21/p0000-00000000000000000000-00000000000000000001-2.parquet",
        "master/events/ingest_date=2026-11-21/p0000-00000000000000000000-99999999999999999999.parquet",
        "master/events/ingest_date=2026-11-31/p0000-00000000000000000000-00000000000000000001.parquet",
        "master/events/p0000-00000000000000000000-00000000000000000001.parquet",
    ];
    for path in segments {
        assert!(SegmentPath::parse(&ObjectPath::parse(path).unwrap()).is_err(), "{path}");
    }
    for path in ["views/a/manifests/42.json", "views/a/manifests/00000000000000000000.json", "views/A/manifests/00000000000000000001.json"]
    {
        assert!(ManifestPath::parse(&ObjectPath::parse(path).unwrap()).is_err(), "{path}");
    }
    for path in ["runs/a/lease/3.json", "runs/a/lease/00000000000000000000.json", "runs/a/lease/+0000000000000000003.json"] {
        assert!(LeasePath::parse(&ObjectPath::parse(path).unwrap()).is_err(), "{path}");
    }
    assert!(EpochPath::parse(&ObjectPath::parse("master/epochs/7.json").unwrap()).is_err());
    for path in [
        "master/imports/3/claim.json",
        "master/imports/00000000000000000000/claim.json",
        "master/imports/00000000000000000003/p12.parquet",
        "master/imports/00000000000000000003/import.jsonl",
        "dead-letter/import-3.jsonl",
    ] {
        assert!(ImportPath::parse(&ObjectPath::parse(path).unwrap()).is_err(), "{path}");
    }
    for path in [
        "views/a/v042-r/part-00000.parquet",
        "views/a/v42/part-00000.parquet",
        "views/a/v42-r/part-0.parquet",
        "views/a/v42-r/x/part-00000.parquet",
    ] {
        assert!(ViewFilePath::parse(&ObjectPath::parse(path).unwrap()).is_err(), "{path}");
    }
}

/// Proves that no name can climb out of its folder or look like another.
#[test]
fn names() {
    for (text, fine) in [
        ("user_stats", true),
        ("0-day", true),
        (&"a".repeat(63), true),
        (&"a".repeat(64), false),
        ("", false),
        ("_a", false),
        ("-a", false),
        ("User", false),
        ("..", false),
        ("a/b", false),
        ("a%2e", false),
        ("a\0", false),
        ("а", false), // Cyrillic
    ] {
        assert_eq!(text.parse::<ViewName>().is_ok(), fine, "{text:?}");
    }
    for (text, fine) in [("Ab_1-", true), ("", false), ("a.b", false), ("a/b", false), (&"a".repeat(129), false)] {
        assert_eq!(text.parse::<Id>().is_ok(), fine, "{text:?}");
    }
}
