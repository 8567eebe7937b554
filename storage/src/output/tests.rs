use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Decimal128Array, StringArray, TimestampMicrosecondArray};
use arrow::compute::concat_batches;
use arrow::ipc::reader::FileReader;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::*;

fn rows(start: i64, count: i64) -> RecordBatch {
    let numbers = || start..start + count;
    let keys: ArrayRef = Arc::new(numbers().map(|i| (i % 3 != 0).then(|| format!("user-{i} ü"))).collect::<StringArray>());
    let money = numbers().map(|i| (i % 5 != 0).then_some(i128::from(i) * 12_345)).collect::<Decimal128Array>();
    let times = TimestampMicrosecondArray::from_iter_values(numbers()).with_timezone("UTC");
    let money: ArrayRef = Arc::new(money.with_precision_and_scale(38, 4).unwrap());
    RecordBatch::try_from_iter_with_nullable([("user_id", keys, true), ("revenue", money, true), ("day", Arc::new(times) as _, true)])
        .unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn write(target: &Path, replace: bool, batches: &[RecordBatch]) -> Result<u64, OutputError> {
    let schema = batches[0].schema();
    let mut file = TableFile::create(target, TableFormat::of(target)?, &schema, replace)?;
    for batch in batches {
        file.write(batch)?;
    }
    file.finish([("merganser.version".to_owned(), "7".to_owned())])
}

/// Proves that both formats give back every value in its type, and what was noted of them.
#[test]
fn there_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let batches = [rows(0, 1000), rows(1000, 0), rows(1000, 7)];
    let all = concat_batches(&batches[0].schema(), &batches).unwrap();
    let (parquet, arrow) = (folder.path().join("a.parquet"), folder.path().join("a.ARROW"));
    for target in [&parquet, &arrow] {
        let bytes = write(target, false, &batches).unwrap();
        assert_eq!(bytes, fs::metadata(target).unwrap().len());
        assert_eq!(fs::metadata(target).unwrap().permissions().mode() & 0o600, 0o600);
    }
    let read = ParquetRecordBatchReaderBuilder::try_new(File::open(&parquet).unwrap()).unwrap();
    let notes = read.metadata().file_metadata().key_value_metadata().unwrap();
    assert!(notes.iter().any(|note| note.key == "merganser.version" && note.value.as_deref() == Some("7")));
    let found: Vec<_> = read.build().unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!(concat_batches(&all.schema(), &found).unwrap(), all);
    let read = FileReader::try_new(File::open(&arrow).unwrap(), None).unwrap();
    assert_eq!(read.custom_metadata(), &HashMap::from([("merganser.version".to_owned(), "7".to_owned())]));
    let found: Vec<_> = read.collect::<Result<_, _>>().unwrap();
    assert_eq!(concat_batches(&all.schema(), &found).unwrap(), all);
}

/// Proves that a file which is not finished leaves nothing, and that one which is there stays unless it may be replaced.
#[test]
fn whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("a.parquet");
    let schema = rows(0, 1).schema();
    let mut file = TableFile::create(&target, TableFormat::Parquet, &schema, false).unwrap();
    file.write(&rows(0, 10)).unwrap();
    assert_eq!(names(folder.path()).len(), 1);
    drop(file);
    assert!(names(folder.path()).is_empty());

    let late = TableFile::create(&target, TableFormat::Parquet, &schema, false).unwrap();
    write(&target, false, &[rows(0, 10)]).unwrap();
    assert!(matches!(write(&target, false, &[rows(0, 20)]), Err(OutputError::Exists { .. })));
    assert!(matches!(late.finish([]), Err(OutputError::Exists { .. })));
    let before = fs::metadata(&target).unwrap().len();
    let after = write(&target, true, &[rows(0, 5000)]).unwrap();
    assert!(after > before);
    assert_eq!(names(folder.path()), ["a.parquet"]);
}

/// Proves that what cannot be a file of a table is refused by name, before anything is written.
#[test]
fn bad_places() {
    let folder = tempfile::tempdir().unwrap();
    let schema = rows(0, 1).schema();
    let refusal = |target: &Path| {
        let created = TableFile::create(target, TableFormat::Parquet, &schema, true);
        created.map(|_| ()).unwrap_err().to_string()
    };
    let unknown = TableFormat::of(Path::new("users.csv")).unwrap_err().to_string();
    assert!(unknown.contains("users.csv") && unknown.contains(".parquet"), "{unknown}");
    assert!(refusal(folder.path()).contains("is not a file"));
    assert!(refusal(Path::new("/dev/null")).contains("is not a file"));
    assert!(refusal(&folder.path().join("nowhere/a.parquet")).contains("cannot create"));
    assert!(names(folder.path()).is_empty());
}
