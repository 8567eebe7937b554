//! Layouts of the master dataset. Built from decisions, one is believed exactly if a reckoning over single offsets finds nothing wrong with it;
//! as any text under a checksum that fits, it is refused, naming the object, or says what its own JSON says again.

use futures::executor::block_on;
use serde_json::{Value, json};
use storage::master::Layout;
use storage::paths::LayoutPath;
use storage::store::{Store, StoreError};

use crate::choices::Choices;
use crate::spoil::spoil;

pub(crate) fn run(input: &[u8]) {
    match input.split_first() {
        Some((0, decisions)) => built(&mut Choices::new(decisions)),
        _ => any_text(input),
    }
}

/// What a layout says, as numbers.
struct Said {
    number: i64,
    format: i64,
    has_floor: bool,
    segments: Vec<Segment>,
    imports: Vec<Import>,
}

/// A file in the place of segments.
struct Segment {
    partition: i64,
    start: i64,
    end: i64,
    /// The layout that it was written for; 0 if it is as it was archived.
    layout: i64,
    /// End, rows, rows that have expired.
    parts: Vec<(i64, i64, i64)>,
}

/// A file in the place of what an import has in a partition.
struct Import {
    import: i64,
    partition: i64,
    layout: i64,
    rows: i64,
    expired: i64,
}

fn built(choices: &mut Choices<'_>) {
    let said = Said::written(choices);
    let mut bytes = sealed(&said.json().to_string()).expect("an object with fields");
    let as_written = bytes.clone();
    (0..choices.below(3)).for_each(|_| spoil(&mut bytes, choices));
    let believed = read(said.number, &bytes);
    if let Err(error) = &believed {
        names(error, said.number);
    }
    if bytes == as_written {
        assert_eq!(believed.is_ok(), said.can_be(), "{believed:?}: {}", said.json());
    } else {
        assert!(believed.is_err(), "a layout that was spoilt is believed");
    }
}

/// Small numbers, so that files meet; mostly in order, for what is not is refused soon.
impl Said {
    fn written(choices: &mut Choices<'_>) -> Self {
        let has_floor = choices.one_in(2);
        let format = if choices.one_in(12) { choices.below(4) as i64 } else { 1 + i64::from(has_floor) };
        let number = 1 + choices.below(3) as i64;
        let (mut segments, mut imports) = (Vec::new(), Vec::new());
        let (mut partition, mut end) = (0, 0);
        for _ in 0..choices.below(4) {
            if choices.one_in(4) {
                (partition, end) = (partition + 1, 0);
            }
            let start = if choices.one_in(8) { choices.below(6) as i64 } else { end + choices.below(3) as i64 };
            let parts = parts(choices, start, has_floor);
            end = parts.last().map_or(start, |part| part.0) + if choices.one_in(12) { 1 } else { 0 };
            segments.push(Segment { partition, start, end, layout: choices.below(3) as i64, parts });
        }
        for _ in 0..choices.below(4) {
            let (rows, expired) = (choices.below(4) as i64 - i64::from(choices.one_in(16)), choices.below(3) as i64);
            let expired = if has_floor || choices.one_in(12) { expired } else { 0 };
            let (import, partition) = (choices.below(3) as i64, choices.below(2) as i64);
            imports.push(Import { import, partition, layout: 1 + choices.below(2) as i64, rows, expired });
        }
        if choices.one_in(2) {
            imports.sort_by_key(|import| (import.import, import.partition));
        }
        Self { number, format, has_floor, segments, imports }
    }

    fn json(&self) -> Value {
        let segment = |of: &Segment| {
            let Segment { partition, start, end, layout, parts } = of;
            let written_for = if *layout == 0 { String::new() } else { format!("-{layout:020}-run") };
            let path = format!("master/events/ingest_date=2026-11-21/p{partition:04}-{start:020}-{end:020}{written_for}.parquet");
            let part = |(end, rows, expired): &(i64, i64, i64)| match expired {
                0 => json!({"end": end, "rows": rows, "last_record": "r"}),
                _ => json!({"end": end, "rows": rows, "expired": expired, "last_record": "r"}),
            };
            json!({"path": path, "bytes": 9, "blake3": "00", "log_id": "log", "parts": parts.iter().map(part).collect::<Vec<_>>()})
        };
        let import = |of: &Import| {
            let Import { import, partition, layout, rows, expired } = of;
            let path = format!("master/imports/{import:020}/p{partition:04}-{layout:020}-run.parquet");
            json!({"import": import, "partition": partition, "path": path, "rows": rows, "expired": expired, "bytes": 9, "blake3": "00"})
        };
        let mut json = json!({
            "format_version": self.format,
            "number": self.number,
            "run_id": "run",
            "segments": self.segments.iter().map(segment).collect::<Vec<_>>(),
            "imports": self.imports.iter().map(import).collect::<Vec<_>>(),
        });
        if self.has_floor {
            json["expired_before_us"] = json!(86_400_000_000_i64);
        }
        json
    }

    /// Offset by offset.
    fn can_be(&self) -> bool {
        let offsets: Vec<(i64, i64)> =
            self.segments.iter().flat_map(|of| (of.start..of.end).map(|offset| (of.partition, offset))).collect();
        let parts_of_imports: Vec<(i64, i64)> = self.imports.iter().map(|of| (of.import, of.partition)).collect();
        let counts = |rows: i64, expired: i64| rows >= 0 && expired >= 0 && (expired == 0 || self.has_floor);
        let is_whole = |of: &Segment| {
            let mut due: Vec<i64> = (of.start..of.end).collect();
            for (end, rows, expired) in &of.parts {
                let inside = due.iter().filter(|offset| *offset < end).count() as i64;
                if inside == 0 || !due.contains(&(end - 1)) || !counts(*rows, *expired) || rows + expired > inside {
                    return false;
                }
                due.retain(|offset| offset >= end);
            }
            due.is_empty() && of.start < of.end && of.layout <= self.number
        };
        let is_one = |of: &Import| of.import > 0 && of.layout <= self.number && counts(of.rows, of.expired);
        self.format == 1 + i64::from(self.has_floor)
            && offsets.is_sorted_by(|a, b| a < b)
            && parts_of_imports.is_sorted_by(|a, b| a < b)
            && self.segments.iter().all(is_whole)
            && self.imports.iter().all(is_one)
    }
}

fn parts(choices: &mut Choices<'_>, start: i64, has_floor: bool) -> Vec<(i64, i64, i64)> {
    let mut parts = Vec::new();
    let mut end = start;
    for _ in 0..1 + choices.below(3) - usize::from(choices.one_in(16)) {
        let offsets = if choices.one_in(12) { choices.below(3) as i64 - 1 } else { 1 + choices.below(4) as i64 };
        end += offsets;
        let expired = if has_floor || choices.one_in(16) { choices.below(3) as i64 } else { 0 };
        let rows = if choices.one_in(8) { choices.below(6) as i64 - 1 } else { (offsets - expired).max(0) };
        parts.push((end, rows, expired));
    }
    parts
}

fn any_text(input: &[u8]) {
    let number = serde_json::from_slice::<Value>(input).ok().and_then(|json| json["number"].as_i64()).filter(|number| *number > 0);
    let number = number.unwrap_or(1);
    let text = String::from_utf8_lossy(input);
    // Without its checksum nothing is believed.
    names(&read(number, input).expect_err("a layout without a checksum is believed"), number);
    let Some(bytes) = sealed(&text) else { return };
    let layout = match read(number, &bytes) {
        Ok(layout) => layout,
        Err(error) => return names(&error, number),
    };
    assert_eq!(layout.number, number, "a layout answers to its name");
    let parts: Vec<_> = layout.imports.iter().map(|placed| (placed.import, placed.partition)).collect();
    assert!(parts.is_sorted_by(|a, b| a < b), "a part of an import has two files: {parts:?}");
    let again = serde_json::to_string(&layout).expect("it was JSON");
    assert_eq!(read(number, &sealed(&again).expect("it was an object")).expect("it was read before"), layout);
}

fn read(number: i64, bytes: &[u8]) -> Result<Layout, StoreError> {
    let store = Store::open("memory://").expect("memory is there");
    block_on(store.put_durable(&LayoutPath { number }.path(), bytes.to_vec().into())).expect("memory takes objects");
    block_on(Layout::newest(&store))
}

/// The text of an object with the checksum that stands behind its last field, as `storage` writes it.
fn sealed(text: &str) -> Option<Vec<u8>> {
    let body = text.trim_end().strip_suffix('}')?.trim_end();
    let checksum = blake3::hash(body.as_bytes()).to_hex();
    Some(format!("{body},\n  \"checksum\": \"{checksum}\"\n}}\n").into_bytes())
}

fn names(error: &StoreError, number: i64) {
    let (text, path) = (error.to_string(), LayoutPath { number }.path());
    assert!(text.contains(path.as_ref()), "{path} is not named: {text}");
}
