//! The input cut in two: what is loaded before the batch run, and what arrives after it.
//!
//! The last rows are live, and of the others every hundredth is held back: it arrives late, when rows with newer times have
//! long been counted. The last rows of the first part are also written to a third file, to be sent twice.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use integration_tests::plain_fold::Part;
use integration_tests::plain_fold::records::{self, RecordFile};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

/// One row of so many is held back.
const LATE_EVERY: u64 = 100;
/// Rows that are sent twice.
const RESENT_ROWS: u64 = 1000;

/// Which row is sent when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Rows of the input.
    pub(crate) rows: u64,
}

impl Plan {
    /// The first row of the live end, so that nine tenths of all rows come before the batch run.
    fn live_from(self) -> u64 {
        self.rows * 10 / 11
    }

    /// When `row` is sent, counted from 0.
    pub(crate) fn part(self, row: u64) -> Part {
        let held_back = row % LATE_EVERY == LATE_EVERY / 2;
        if row >= self.live_from() || held_back { Part::Live } else { Part::Batch }
    }

    fn sent_twice(self, row: u64) -> bool {
        self.part(row) == Part::Batch && row + RESENT_ROWS >= self.live_from()
    }

    /// Rows that go into each of the three files.
    fn targets(self, row: u64) -> [bool; 3] {
        let part = self.part(row);
        [part == Part::Batch, part == Part::Live, self.sent_twice(row)]
    }
}

/// The input in three files of its own format.
#[derive(Clone, Debug)]
pub(crate) struct Split {
    /// Which row went where.
    pub(crate) plan: Plan,
    /// Sent before the batch run.
    pub(crate) first: PathBuf,
    /// Sent after it.
    pub(crate) live: PathBuf,
    /// Rows of `first` that are sent once more.
    pub(crate) again: PathBuf,
}

/// Writes the three files into `folder`.
pub(crate) fn split(input: &Path, folder: &Path) -> Result<Split> {
    let parquet = records::is_parquet(input);
    let rows = if parquet { parquet_rows(input)? } else { text_rows(input)? };
    ensure!(rows >= 20, "{} has {rows} events, too few to cut in two", input.display());
    let plan = Plan { rows };
    let ending = records::ending(input);
    let paths = ["first", "live", "again"].map(|name| folder.join(format!("{name}.{ending}")));
    if parquet {
        split_parquet(input, plan, &paths)?
    } else {
        split_text(input, plan, &paths)?
    }
    let [first, live, again] = paths;
    Ok(Split { plan, first, live, again })
}

fn text_rows(input: &Path) -> Result<u64> {
    let mut rows = 0;
    for record in records::open(input)?.records {
        record?;
        rows += 1;
    }
    Ok(rows)
}

fn split_text(input: &Path, plan: Plan, paths: &[PathBuf; 3]) -> Result<()> {
    let RecordFile { header, records } = records::open(input)?;
    let mut files = Vec::new();
    for path in paths {
        let mut file = BufWriter::new(File::create(path)?);
        file.write_all(header.as_deref().unwrap_or_default())?;
        files.push(file);
    }
    for (row, record) in (0..).zip(records) {
        let mut record = record?;
        if !record.ends_with(b"\n") {
            record.push(b'\n');
        }
        for (file, _) in files.iter_mut().zip(plan.targets(row)).filter(|(_, wanted)| *wanted) {
            file.write_all(&record)?;
        }
    }
    files.iter_mut().try_for_each(BufWriter::flush).context("writing the parts of the input")
}

fn open_parquet(input: &Path) -> Result<(u64, ParquetRecordBatchReader)> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(input)?)?;
    let rows = builder.metadata().file_metadata().num_rows().unsigned_abs();
    Ok((rows, builder.build()?))
}

fn parquet_rows(input: &Path) -> Result<u64> {
    Ok(open_parquet(input)?.0)
}

fn split_parquet(input: &Path, plan: Plan, paths: &[PathBuf; 3]) -> Result<()> {
    let (_, batches) = open_parquet(input)?;
    let mut files = Vec::new();
    for path in paths {
        files.push(ArrowWriter::try_new(File::create(path)?, arrow::array::RecordBatchReader::schema(&batches), None)?);
    }
    let mut row = 0;
    for batch in batches {
        let batch: RecordBatch = batch?;
        let rows = row..row + batch.num_rows() as u64;
        row = rows.end;
        for (target, file) in files.iter_mut().enumerate() {
            let wanted: BooleanArray = rows.clone().map(|row| Some(plan.targets(row)[target])).collect();
            file.write(&filter_record_batch(&batch, &wanted)?)?;
        }
    }
    for file in files {
        file.close()?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, StringArray};
    use integration_tests::plain_fold::PlainFold;

    use super::*;

    const ROWS: u64 = 2500;

    fn columns() -> [(&'static str, Vec<String>); 4] {
        let column = |make: fn(u64) -> String| (0..ROWS).map(make).collect();
        [
            ("event_id", column(|row| format!("e{row}"))),
            ("user_id", column(|row| format!("user\n{}", row % 7))),
            ("event_time", column(|row| format!("2024-01-01T00:00:{:02}Z", row % 60))),
            ("amount", column(|row| format!("{row}.25"))),
        ]
    }

    fn write_csv(path: &Path) {
        let columns = columns();
        let mut text = "event_id,user_id,event_time,amount\n".to_owned();
        for row in 0..ROWS as usize {
            text += &columns.each_ref().map(|(_, cells)| format!("\"{}\"", cells[row])).join(",");
            text += "\r\n";
        }
        std::fs::write(path, text).unwrap();
    }

    fn write_parquet(path: &Path) {
        let columns = columns().map(|(name, cells)| (name, Arc::new(StringArray::from(cells)) as ArrayRef));
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }

    /// Proves that the parts together are the whole, each row once, in every format; that nine tenths come first; and that
    /// what is sent twice is all of the first part.
    #[test]
    fn parts_are_the_whole() {
        let folder = tempfile::tempdir().unwrap();
        let inputs = ["jsonl", "csv", "parquet"].map(|ending| folder.path().join(format!("input.{ending}")));
        crate::orders::write(&inputs[0], 0.002).unwrap();
        write_csv(&inputs[1]);
        write_parquet(&inputs[2]);
        for input in &inputs {
            let split = split(input, folder.path()).unwrap();
            let mut whole = PlainFold::default();
            [Part::Batch, Part::Live].iter().for_each(|part| whole.add_file(input, *part, |row| split.plan.part(row)).unwrap());
            let mut parts = PlainFold::default();
            parts.add_file(&split.first, Part::Batch, |_| Part::Batch).unwrap();
            parts.add_file(&split.live, Part::Live, |_| Part::Live).unwrap();
            assert_eq!((&parts.users, parts.skipped, parts.repeated), (&whole.users, 0, 0), "{}", input.display());
            let (total, rows) = (whole.total(), split.plan.rows);
            assert_eq!(total.total().count, rows);
            assert!((rows * 89 / 100..rows * 91 / 100).contains(&total.batch.count), "{total:?}");
            parts.add_file(&split.again, Part::Batch, |_| Part::Batch).unwrap();
            assert!(parts.repeated > 900 && parts.users == whole.users);
        }
    }
}
