//! A file of any columns as a table, whose types are those of all its rows, not of a sample.
//!
//! A number keeps its digits: a column is Int64 if every value is a whole number of 64 bits, a decimal with as many digits as its
//! values need if every value is a number of at most 38 digits, and text otherwise; never a float. What a number would not give back as
//! it is written (`007`, `+5`, `1e3`) is text, and so is its whole column, say one of post codes. An empty cell of a CSV file is null.
//! A column without any value is of the type Null, which fits everywhere. Of JSON, `true` and `false` alone make a Boolean column, a
//! string is always text, and an object or a list is its JSON text. Parquet files have types already.

use std::collections::HashMap;
use std::io::BufRead;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanBuilder, Decimal128Builder, Int64Builder, NullArray, RecordBatch, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use csv::{ByteRecord, ReaderBuilder};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use views::decimal::DecimalType;

use super::error::DecodeError;
use super::jsonl::Lines;
use super::{EventFile, Format, InputError, Position, json};

/// Rows of a batch.
const BATCH_ROWS: usize = 8192;
/// Digits of the widest decimal.
const MAX_DIGITS: usize = 38;

/// A row that is none, say a line of broken JSON: its line, from 1, and why.
pub type BrokenRow = (u64, String);

/// The rows of a table, in order, some at a time.
pub type TableBatches = Box<dyn Iterator<Item = Result<RecordBatch, InputError>> + Send>;

/// A file as a table.
#[derive(Clone, Debug)]
pub struct Table {
    file: EventFile,
    schema: SchemaRef,
    /// The rows that are in no batch. They are held in memory.
    pub broken: Vec<BrokenRow>,
}

impl Table {
    /// Reads the whole file once, for the types of its columns. Blocks on the disk.
    ///
    /// # Errors
    /// A file that cannot be read, and one with two columns of the same name.
    pub fn infer(file: &EventFile) -> Result<Self, InputError> {
        let mut broken = Vec::new();
        let schema = match file.format {
            Format::Parquet => parquet(file)?.schema().clone(),
            Format::Csv | Format::JsonLines => {
                let mut rows = TextRows::open(file, &Position::default())?;
                let mut kinds: Vec<Kind> = Vec::new();
                while let Some(row) = rows.next(file)? {
                    kinds.resize_with(rows.names.len(), Kind::default);
                    match row {
                        Ok(()) => rows.cells.iter().for_each(|(column, cell)| kinds[*column].see(cell)),
                        Err(reason) => broken.push((rows.line, reason)),
                    }
                }
                kinds.resize_with(rows.names.len(), Kind::default);
                let fields = rows.names.iter().zip(&kinds).map(|(name, kind)| Field::new(name, kind.column_type(), true));
                Arc::new(Schema::new(fields.collect::<Vec<_>>()))
            }
        };
        let mut names: Vec<&String> = schema.fields().iter().map(|field| field.name()).collect();
        names.sort();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(twice) => Err(file.column_error(twice[0], "stands twice")),
            None => Ok(Self { file: file.clone(), schema, broken }),
        }
    }

    /// The columns.
    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Reads the rows, again if need be.
    ///
    /// # Errors
    /// As [`infer`](Self::infer), here and in the iterator, and a file that has changed since.
    pub fn batches(&self, position: &Position) -> Result<TableBatches, InputError> {
        let file = self.file.clone();
        if file.format == Format::Parquet {
            let builder = parquet(&file)?;
            let total_rows = builder.metadata().file_metadata().num_rows().max(1).unsigned_abs();
            let batches = builder.with_batch_size(BATCH_ROWS).build().map_err(|e| read_error(&file, 0, e.into()))?;
            let (mut rows, position) = (0, position.clone());
            return Ok(Box::new(batches.map(move |batch| {
                let batch = batch.map_err(|e| read_error(&file, rows, e.into()))?;
                rows += batch.num_rows() as u64;
                position.set((u128::from(file.size_bytes) * u128::from(rows) / u128::from(total_rows)) as u64);
                Ok(batch)
            })));
        }
        let mut rows = TextRows::open(&file, position)?;
        let schema = Arc::clone(&self.schema);
        Ok(Box::new(std::iter::from_fn(move || next_batch(&mut rows, &file, &schema).transpose())))
    }
}

fn parquet(file: &EventFile) -> Result<ParquetRecordBatchReaderBuilder<std::fs::File>, InputError> {
    ParquetRecordBatchReaderBuilder::try_new(file.open()?).map_err(|e| read_error(file, 0, e.into()))
}

fn read_error(file: &EventFile, line: u64, source: DecodeError) -> InputError {
    InputError::Read { file: file.path.clone(), line, source }
}

fn next_batch(rows: &mut TextRows, file: &EventFile, schema: &SchemaRef) -> Result<Option<RecordBatch>, InputError> {
    let mut builders: Vec<ColumnBuilder> = schema.fields().iter().map(|field| ColumnBuilder::new(field.data_type())).collect();
    let mut count = 0;
    while count < BATCH_ROWS
        && let Some(row) = rows.next(file)?
    {
        if row.is_err() {
            continue;
        }
        count += 1;
        for (column, cell) in &rows.cells {
            let pushed = builders.get_mut(*column).is_some_and(|builder| builder.push(cell, count));
            if !pushed {
                return Err(read_error(file, rows.line, "it has changed since it was looked at".into()));
            }
        }
    }
    let columns = builders.into_iter().map(|builder| builder.finish(count)).collect();
    let batch = RecordBatch::try_new(Arc::clone(schema), columns).expect("the builders follow the schema");
    Ok((count > 0).then_some(batch))
}

/// One value of a row.
#[derive(Clone, Debug, PartialEq)]
enum Cell {
    Text(String),
    /// In digits that a number gives back as they are.
    Number(String),
    Bool(bool),
}

impl Cell {
    fn of(text: &str) -> Self {
        if is_number(text) { Self::Number(text.to_owned()) } else { Self::Text(text.to_owned()) }
    }
}

/// `-?(0|[1-9][0-9]*)(\.[0-9]+)?`
fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    all_digits(whole) && all_digits(fraction) && (whole == "0" || !whole.starts_with('0'))
}

/// What the values of a column have been so far.
#[derive(Debug, Default)]
struct Kind {
    texts: bool,
    bools: bool,
    numbers: bool,
    /// A number was no whole number of 64 bits.
    beyond_int64: bool,
    whole_digits: usize,
    scale: usize,
}

impl Kind {
    fn see(&mut self, cell: &Cell) {
        match cell {
            Cell::Text(_) => self.texts = true,
            Cell::Bool(_) => self.bools = true,
            Cell::Number(text) => {
                self.numbers = true;
                self.beyond_int64 |= text.parse::<i64>().is_err();
                let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
                self.whole_digits = self.whole_digits.max(whole.trim_start_matches('-').len());
                self.scale = self.scale.max(fraction.len());
            }
        }
    }

    fn column_type(&self) -> DataType {
        match (self.texts, self.bools, self.numbers) {
            (false, false, false) => DataType::Null,
            (false, true, false) => DataType::Boolean,
            (false, false, true) if !self.beyond_int64 => DataType::Int64,
            (false, false, true) if self.whole_digits + self.scale <= MAX_DIGITS => {
                DataType::Decimal128((self.whole_digits + self.scale) as u8, self.scale as i8)
            }
            _ => DataType::Utf8,
        }
    }
}

enum ColumnBuilder {
    Null,
    Bool(BooleanBuilder),
    Int64(Int64Builder),
    Decimal(DecimalType, Decimal128Builder),
    Text(StringBuilder),
}

impl ColumnBuilder {
    fn new(kind: &DataType) -> Self {
        match kind {
            DataType::Null => Self::Null,
            DataType::Boolean => Self::Bool(BooleanBuilder::new()),
            DataType::Int64 => Self::Int64(Int64Builder::new()),
            DataType::Decimal128(precision, scale) => {
                let kind = DecimalType { precision: *precision, scale: *scale as u8 };
                Self::Decimal(kind, Decimal128Builder::new().with_data_type(DataType::Decimal128(*precision, *scale)))
            }
            _ => Self::Text(StringBuilder::new()),
        }
    }

    /// Puts a value into row `count`, counted from 1; rows before it that have none are null. False if it is not of the type.
    fn push(&mut self, cell: &Cell, count: usize) -> bool {
        self.fill(count - 1);
        match (self, cell) {
            (Self::Bool(b), Cell::Bool(value)) => b.append_value(*value),
            (Self::Int64(b), Cell::Number(text)) => match text.parse() {
                Ok(value) => b.append_value(value),
                Err(_) => return false,
            },
            (Self::Decimal(kind, b), Cell::Number(text)) => match kind.parse(text) {
                Ok(value) => b.append_value(value),
                Err(_) => return false,
            },
            (Self::Text(b), Cell::Text(text) | Cell::Number(text)) => b.append_value(text),
            (Self::Text(b), Cell::Bool(value)) => b.append_value(value.to_string()),
            _ => return false,
        }
        true
    }

    fn fill(&mut self, rows: usize) {
        macro_rules! nulls {
            ($builder:expr) => {
                while arrow::array::ArrayBuilder::len($builder) < rows {
                    $builder.append_null();
                }
            };
        }
        match self {
            Self::Null => {}
            Self::Bool(b) => nulls!(b),
            Self::Int64(b) => nulls!(b),
            Self::Decimal(_, b) => nulls!(b),
            Self::Text(b) => nulls!(b),
        }
    }

    fn finish(mut self, rows: usize) -> ArrayRef {
        self.fill(rows);
        match self {
            Self::Null => Arc::new(NullArray::new(rows)),
            Self::Bool(mut b) => Arc::new(b.finish()),
            Self::Int64(mut b) => Arc::new(b.finish()),
            Self::Decimal(_, mut b) => Arc::new(b.finish()),
            Self::Text(mut b) => Arc::new(b.finish()),
        }
    }
}

type Source = Box<dyn BufRead + Send>;

/// The rows of a CSV or JSON Lines file, one at a time.
struct TextRows {
    reader: TextReader,
    /// The columns so far: those of the header, or of all objects up to here, in the order in which they bring new ones, by name.
    names: Vec<String>,
    /// The line of the last row.
    line: u64,
    /// The values of the last row that are not null, by column.
    cells: Vec<(usize, Cell)>,
}

enum TextReader {
    Csv(Box<csv::Reader<Source>>, ByteRecord),
    Json(Lines<Source>, HashMap<String, usize>),
}

impl TextRows {
    fn open(file: &EventFile, position: &Position) -> Result<Self, InputError> {
        let source = file.decompressed(position)?;
        let (reader, names) = match file.format {
            Format::Csv => {
                let mut reader = Box::new(ReaderBuilder::new().flexible(true).from_reader(source));
                let header = reader.headers().map_err(|e| read_error(file, 0, e.into()))?;
                let names = header.iter().map(|name| name.trim().to_owned()).collect();
                (TextReader::Csv(reader, ByteRecord::new()), names)
            }
            _ => (TextReader::Json(Lines::new(source), HashMap::new()), Vec::new()),
        };
        Ok(Self { reader, names, line: 0, cells: Vec::new() })
    }

    /// Goes to the next row, whose values are in `cells` unless there is a reason why not; `None` behind the last.
    fn next(&mut self, file: &EventFile) -> Result<Option<Result<(), String>>, InputError> {
        self.cells.clear();
        match &mut self.reader {
            TextReader::Csv(reader, record) => match reader.read_byte_record(record) {
                Ok(false) => Ok(None),
                Ok(true) => {
                    self.line = record.position().map_or(0, csv::Position::line);
                    Ok(Some(csv_cells(record, self.names.len(), &mut self.cells)))
                }
                Err(e) => Err(read_error(file, self.line, e.into())),
            },
            TextReader::Json(lines, columns) => {
                let row = lines.advance().map_err(|e| read_error(file, self.line, e.into()))?;
                self.line = lines.line;
                Ok(row.map(|row| row.and_then(|()| json_cells(lines.text(), columns, &mut self.names, &mut self.cells))))
            }
        }
    }
}

fn csv_cells(record: &ByteRecord, columns: usize, cells: &mut Vec<(usize, Cell)>) -> Result<(), String> {
    if record.len() != columns {
        return Err(format!("{} cells where the header has {columns}", record.len()));
    }
    for (column, bytes) in record.iter().enumerate().filter(|(_, bytes)| !bytes.is_empty()) {
        cells.push((column, Cell::of(std::str::from_utf8(bytes).map_err(|_| "not UTF-8")?)));
    }
    Ok(())
}

fn json_cells(
    text: &str,
    columns: &mut HashMap<String, usize>,
    names: &mut Vec<String>,
    cells: &mut Vec<(usize, Cell)>,
) -> Result<(), String> {
    for (name, raw) in json::members(text)? {
        let column = *columns.entry(name).or_insert_with_key(|name| {
            names.push(name.clone());
            names.len() - 1
        });
        let cell = match raw.as_bytes() {
            b"null" => continue,
            b"true" => Cell::Bool(true),
            b"false" => Cell::Bool(false),
            [b'"', ..] => match serde_json::from_str::<json::Text<'_>>(raw) {
                Ok(text) => Cell::Text(text.0.into_owned()),
                Err(_) => return Err(format!("{} is not valid Unicode", names[column])),
            },
            _ => Cell::of(raw),
        };
        cells.push((column, cell));
    }
    Ok(())
}
