//! Text files cut into records, as they stand: a line of JSON Lines, a record of CSV with its line feeds in quotes.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

/// The records of a text file in order, line ends included; empty lines are no records.
pub type Records = Box<dyn Iterator<Item = io::Result<Vec<u8>>>>;

/// A text file of events.
pub struct RecordFile {
    /// The first record of a CSV file.
    pub header: Option<Vec<u8>>,
    /// The others.
    pub records: Records,
}

/// The name's ending behind that of the compression, in lower case.
#[must_use]
pub fn ending(path: &Path) -> String {
    let name = path.to_string_lossy().to_lowercase();
    let stem = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(&name);
    stem.rsplit_once('.').map_or_else(String::new, |(_, ending)| ending.to_owned())
}

/// Whether `path` is to be read as Parquet.
#[must_use]
pub fn is_parquet(path: &Path) -> bool {
    ending(path) == "parquet"
}

/// Opens JSON Lines or CSV, plain or compressed.
///
/// # Errors
/// A file that cannot be read, or with an ending that is not known.
pub fn open(path: &Path) -> io::Result<RecordFile> {
    let quoted = match ending(path).as_str() {
        "jsonl" | "ndjson" | "json" => false,
        "csv" => true,
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{}: not .jsonl, .csv or .parquet", path.display()))),
    };
    let mut source = decompressed(path)?;
    let mut records: Records = Box::new(std::iter::from_fn(move || next_record(&mut source, quoted).transpose()));
    let header = if quoted { records.next().transpose()? } else { None };
    Ok(RecordFile { header, records })
}

fn decompressed(path: &Path) -> io::Result<Box<dyn BufRead>> {
    let file = BufReader::new(File::open(path).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?);
    Ok(match path.extension().and_then(|ending| ending.to_str()) {
        Some("gz") => Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(file))),
        Some("zst") => Box::new(BufReader::new(zstd::Decoder::with_buffer(file)?)),
        _ => Box::new(file),
    })
}

/// A line; with `quoted`, as many lines as it takes to close every quote.
fn next_record(source: &mut dyn BufRead, quoted: bool) -> io::Result<Option<Vec<u8>>> {
    let mut record = Vec::new();
    loop {
        let more = source.read_until(b'\n', &mut record)? > 0;
        let open = quoted && record.iter().filter(|byte| **byte == b'"').count() % 2 == 1;
        match (more, open) {
            (true, true) => {}
            (true, false) if record.trim_ascii().is_empty() => record.clear(),
            (false, _) if record.trim_ascii().is_empty() => return Ok(None),
            _ => return Ok(Some(record)),
        }
    }
}
