//! A cell of an answer as text.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Decimal128Type, Float64Type, Int64Type, TimeUnit, TimestampMicrosecondType};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use views::decimal;

use super::words;

/// Characters of a cell that are shown.
const MAX_CHARS: usize = 300;

/// A cell, and how it is to be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) is_number: bool,
    pub(super) is_null: bool,
}

/// The cell of `column` in `row`.
pub(super) fn of(column: &ArrayRef, row: usize) -> Cell {
    let is_number = column.data_type().is_numeric();
    if column.is_null(row) {
        return Cell { text: "–".to_owned(), is_number, is_null: true };
    }
    let text = match column.data_type() {
        DataType::Int64 => words::count(column.as_primitive::<Int64Type>().value(row)),
        DataType::Float64 => float(column.as_primitive::<Float64Type>().value(row)),
        DataType::Decimal128(_, scale) => grouped(&decimal::format(column.as_primitive::<Decimal128Type>().value(row), *scale), *scale > 0),
        DataType::Utf8 => column.as_string::<i32>().value(row).to_owned(),
        DataType::Timestamp(TimeUnit::Microsecond, _) => words::moment(column.as_primitive::<TimestampMicrosecondType>().value(row)),
        _ => {
            ArrayFormatter::try_new(column, &FormatOptions::default()).map_or_else(|e| e.to_string(), |cells| cells.value(row).to_string())
        }
    };
    Cell { text: cut(&text), is_number, is_null: false }
}

/// The digits before the point in groups; behind it those that say something, and two at least where the type has any, as money has.
fn grouped(decimal: &str, has_digits: bool) -> String {
    let (whole, rest) = decimal.split_once('.').unwrap_or((decimal, ""));
    // More digits than an integer has stay as they are.
    let whole = match whole.parse::<i64>() {
        Ok(number) if number != 0 => words::count(number),
        _ => whole.replace('-', "−"),
    };
    if has_digits { format!("{whole}.{:0<2}", rest.trim_end_matches('0')) } else { whole }
}

fn float(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude != 0.0 && !(1e-4..1e15).contains(&magnitude) {
        return format!("{value:e}");
    }
    format!("{value:.4}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{BooleanArray, Decimal128Array, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray};

    use super::*;

    fn text(column: ArrayRef) -> String {
        of(&column, 0).text
    }

    /// Proves what a person reads of each type, of null, and of a text without end.
    #[test]
    fn as_read() {
        let decimal = |unscaled: i128| text(Arc::new(Decimal128Array::from(vec![unscaled]).with_precision_and_scale(38, 4).unwrap()));
        assert_eq!([12_345_678_900, -5_000, 123_450, 0, -20_000].map(decimal), ["1,234,567.89", "−0.50", "12.345", "0.00", "−2.00"]);
        assert_eq!(decimal(i128::from(i64::MAX) * 100_000_000), "92233720368547758070000.00");
        assert_eq!(text(Arc::new(Int64Array::from(vec![-1234]))), "−1,234");
        assert_eq!(text(Arc::new(Float64Array::from(vec![0.5]))), "0.5");
        assert_eq!(text(Arc::new(Float64Array::from(vec![1e20]))), "1e20");
        assert_eq!(text(Arc::new(BooleanArray::from(vec![true]))), "true");
        assert_eq!(text(Arc::new(TimestampMicrosecondArray::from(vec![0]).with_timezone("+00:00"))), "1970-01-01");
        assert_eq!(text(Arc::new(StringArray::from(vec!["é".repeat(1000)]))), format!("{}…", "é".repeat(MAX_CHARS)));
        let null: ArrayRef = Arc::new(Int64Array::from(vec![None]));
        assert_eq!(of(&null, 0), Cell { text: "–".to_owned(), is_number: true, is_null: true });
    }
}
