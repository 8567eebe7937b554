//! Two computations of one shard, compared key by key on finished values, in windows: no side is ever held whole but the delta.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::compute::{cast, filter_record_batch, sum};
use arrow::datatypes::{DataType, Float64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::{StreamExt, stream};
use storage::batch_view::{States, Windows};
use storage::store::StoreError;
use views::fold::{finish, from_bucket};
use views::{Definition, FoldError, Granularity, key};

use super::difference::{Difference, Differences};
use crate::error::RunError;
use crate::progress::{Progress, Stage};

/// What two floats may differ by, relative to the larger one. Their last digits depend on the order of adding.
const RELATIVE_ERROR: f64 = 1e-6;
/// Below this, floats are zero: what is left when large ones cancel.
const ABSOLUTE_ERROR: f64 = 1e-9;

/// How the values of an output are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// Equal to the last digit; lists as sets.
    Exact,
    /// Within the error of floats.
    Close,
    /// Both null or neither: a quantile's error depends on the data.
    Nullness,
}

/// Keys that the version before or the speed layer counts otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Touched {
    pub(crate) keys: BTreeSet<String>,
    /// Of a view by user: all keys of these users.
    pub(crate) users: BTreeSet<String>,
}

impl Touched {
    /// Keys alone.
    pub(crate) fn keys(keys: BTreeSet<String>) -> Self {
        Self { keys, users: BTreeSet::new() }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        self.users.iter().chain(self.keys.iter().filter(|key| !self.users.contains(key::first_part(key)))).map(String::as_str)
    }

    /// How many keys that are, each user counted as one.
    pub(super) fn count(&self) -> i64 {
        self.iter().count() as i64
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.users.is_empty()
    }

    fn hold(&self, key: &str) -> bool {
        self.keys.contains(key) || (!self.users.is_empty() && self.users.contains(key::first_part(key)))
    }
}

/// Which keys are compared.
pub(super) enum Keys {
    /// All but these.
    AllBut(Touched),
    /// These alone.
    Only(Touched),
    /// Those whose first column has this text.
    Beginning(String),
}

impl Keys {
    pub(super) fn all() -> Self {
        Self::AllBut(Touched::default())
    }

    /// Whether it is worth the while to leave the others out before they are folded.
    pub(super) fn are_only_some(&self) -> bool {
        !matches!(self, Self::AllBut(_))
    }

    fn are_all(&self) -> bool {
        matches!(self, Self::AllBut(none) if none.is_empty())
    }

    pub(super) fn hold(&self, key: &str) -> bool {
        match self {
            Self::AllBut(out) => !out.hold(key),
            Self::Only(keys) => keys.hold(key),
            Self::Beginning(first) => key::first_part(key) == first,
        }
    }
}

/// A comparison under way, over any number of shards.
pub(super) struct Comparison<'a> {
    definition: &'a Definition,
    rules: Vec<Rule>,
    pub(super) keys: Keys,
    /// Where the first bucket starts that the new view keeps.
    kept_from: Option<i64>,
    pub(super) keys_compared: i64,
    /// Events that the new view counts.
    pub(super) event_count: i64,
    pub(super) differences: Differences,
}

impl<'a> Comparison<'a> {
    pub(super) fn new(definition: &'a Definition, keys: Keys, kept_from: Option<i64>) -> Self {
        let kinds = definition.output_schema().fields().iter().map(|field| field.data_type());
        let exactness = definition.exact_outputs().into_iter().zip(definition.estimated_outputs());
        let rule = |((exact, estimated), kind): ((bool, bool), &DataType)| match (exact, kind.is_floating() && !estimated) {
            (true, _) => Rule::Exact,
            (false, true) => Rule::Close,
            (false, false) => Rule::Nullness,
        };
        let rules = exactness.zip(kinds).map(rule).collect();
        Self { definition, rules, keys, kept_from, keys_compared: 0, event_count: 0, differences: Differences::default() }
    }

    /// Compares `new` with `old ⊕ delta`. All three are in order of key and bucket.
    pub(super) async fn shard(
        &mut self,
        shard: u32,
        new: States<StoreError>,
        old: Option<States<StoreError>>,
        delta: RecordBatch,
        progress: Option<&dyn Progress>,
    ) -> Result<(), RunError> {
        let delta: States<StoreError> = stream::once(async move { Ok(delta) }).boxed();
        let mut windows = Windows::new(self.definition.state_schema(), [Some(new), old, Some(delta)].into_iter().flatten().collect());
        while let Some(window) = windows.next().await? {
            let (new, expected) = window.split_first().expect("the new view is always there");
            let events_before = self.event_count;
            self.window(new, expected).map_err(|source| RunError::Fold { partition: shard, source })?;
            if let Some(progress) = progress {
                progress.advance(Stage::Audit, (self.event_count - events_before) as u64, 0);
            }
        }
        Ok(())
    }

    /// Compares all rows of some keys.
    pub(super) fn window(&mut self, new: &RecordBatch, expected: &[RecordBatch]) -> Result<(), FoldError> {
        let new = finish(self.definition, [new], Granularity::Bucket)?;
        let expected = from_bucket(&finish(self.definition, expected, Granularity::Bucket)?, self.kept_from)?;
        let counts = new.column(2).as_any().downcast_ref::<Int64Array>().expect("the count is Int64");
        self.event_count += sum(counts).unwrap_or(0);
        let (new, expected) = (self.chosen(new)?, self.chosen(expected)?);
        self.keys_compared += distinct_keys(&new);
        self.compare(&new, &expected);
        Ok(())
    }

    fn chosen(&self, rows: RecordBatch) -> Result<RecordBatch, FoldError> {
        if self.keys.are_all() {
            return Ok(rows);
        }
        let chosen: BooleanArray = keys(&rows).iter().map(|key| key.map(|key| self.keys.hold(key))).collect();
        Ok(filter_record_batch(&rows, &chosen)?)
    }

    fn compare(&mut self, new: &RecordBatch, expected: &RecordBatch) {
        let same_rows = new.columns()[..2] == expected.columns()[..2];
        let pairs = align(new, expected);
        // A window has all rows of its keys.
        let mut differing = BTreeSet::new();
        for column in 2..new.num_columns() {
            let (a, b, rule) = (new.column(column), expected.column(column), self.rules[column]);
            if same_rows && rule == Rule::Exact && a == b {
                continue;
            }
            for pair in &pairs {
                match *pair {
                    (Some(i), Some(j)) if same(rule, a, i, b, j) => {}
                    _ => drop(differing.insert(self.differ(new, expected, *pair, column))),
                }
            }
        }
        self.differences.count(&differing);
    }

    /// Notes a difference in a column; gives its key.
    fn differ(
        &mut self,
        new_rows: &RecordBatch,
        expected_rows: &RecordBatch,
        pair: (Option<usize>, Option<usize>),
        column: usize,
    ) -> String {
        let (rows, row) = match pair {
            (Some(row), _) => (new_rows, row),
            (None, Some(row)) => (expected_rows, row),
            (None, None) => unreachable!("a pair has a side"),
        };
        let key = keys(rows).value(row);
        let bucket = rows.column(1).is_valid(row).then(|| text(rows.column(1), row));
        let name = rows.schema().field(column).name().clone();
        let value = |rows: &RecordBatch, row: Option<usize>| row.map_or_else(|| "absent".to_owned(), |row| text(rows.column(column), row));
        let (new, expected) = (value(new_rows, pair.0), value(expected_rows, pair.1));
        let is_value =
            |rows: &RecordBatch, row: Option<usize>| row.map_or("absent", |row| if rows.column(column).is_null(row) { "null" } else { "" });
        let kinds = [is_value(new_rows, pair.0), is_value(expected_rows, pair.1)];
        // What depends on the order of merging may be another at each look.
        let digested = if self.rules[column] == Rule::Exact { [new.as_str(), expected.as_str()] } else { [""; 2] };
        let of_value = [key, bucket.as_deref().unwrap_or_default(), &name, kinds[0], digested[0], kinds[1], digested[1]];
        self.differences.note(&of_value, || Difference {
            key: key::for_people(key),
            bucket: bucket.clone(),
            column: name.clone(),
            new: new.clone(),
            expected: expected.clone(),
        });
        key.to_owned()
    }
}

fn keys(rows: &RecordBatch) -> &StringArray {
    rows.column(0).as_any().downcast_ref().expect("a key is Utf8")
}

fn distinct_keys(rows: &RecordBatch) -> i64 {
    let keys = keys(rows);
    (0..keys.len()).filter(|row| *row == 0 || keys.value(*row) != keys.value(row - 1)).count() as i64
}

/// Rows of one key and bucket, side by side; both batches are in order.
fn align(a: &RecordBatch, b: &RecordBatch) -> Vec<(Option<usize>, Option<usize>)> {
    let place = |rows: &RecordBatch, row: usize| {
        let buckets = rows.column(1).as_any().downcast_ref::<TimestampMicrosecondArray>().expect("a bucket is a timestamp");
        (keys(rows).value(row).to_owned(), buckets.is_valid(row).then(|| buckets.value(row)))
    };
    let (mut i, mut j) = (0, 0);
    let mut pairs = Vec::with_capacity(a.num_rows().max(b.num_rows()));
    while i < a.num_rows() || j < b.num_rows() {
        let order = match (i < a.num_rows(), j < b.num_rows()) {
            (true, true) => place(a, i).cmp(&place(b, j)),
            (true, false) => Ordering::Less,
            (false, _) => Ordering::Greater,
        };
        pairs.push((order.is_le().then_some(i), order.is_ge().then_some(j)));
        i += usize::from(order.is_le());
        j += usize::from(order.is_ge());
    }
    pairs
}

fn same(rule: Rule, a: &ArrayRef, i: usize, b: &ArrayRef, j: usize) -> bool {
    if a.is_null(i) || b.is_null(j) {
        return a.is_null(i) && b.is_null(j);
    }
    match rule {
        Rule::Nullness => true,
        Rule::Close => close(float(a, i), float(b, j)),
        Rule::Exact => match (a.as_list_opt::<i32>(), b.as_list_opt::<i32>()) {
            (Some(a), Some(b)) => elements(&a.value(i)) == elements(&b.value(j)),
            _ => a.slice(i, 1).as_ref() == b.slice(j, 1).as_ref(),
        },
    }
}

fn close(a: f64, b: f64) -> bool {
    a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= (RELATIVE_ERROR * a.abs().max(b.abs())).max(ABSOLUTE_ERROR)
}

fn float(column: &ArrayRef, row: usize) -> f64 {
    let wide = cast(&column.slice(row, 1), &DataType::Float64).expect("every float is a double");
    wide.as_primitive::<Float64Type>().value(0)
}

fn elements(list: &ArrayRef) -> Vec<String> {
    let mut texts: Vec<String> = (0..list.len()).map(|i| text(list, i)).collect();
    texts.sort_unstable();
    texts
}

/// A value for people; lists as sets.
pub(super) fn text(column: &ArrayRef, row: usize) -> String {
    if let Some(list) = column.as_list_opt::<i32>().filter(|list| list.is_valid(row)) {
        return format!("[{}]", elements(&list.value(row)).join(", "));
    }
    let options = FormatOptions::default().with_null("null");
    let formatted = ArrayFormatter::try_new(column.as_ref(), &options).and_then(|f| f.value(row).try_to_string());
    formatted.unwrap_or_else(|e| format!("({e})"))
}
