use std::sync::Arc;

use arrow::array::{
    BooleanArray, Date32Array, Decimal128Array, Decimal256Array, Float32Array, Int64Array, ListArray, StringArray,
    TimestampMicrosecondArray, TimestampNanosecondArray, UInt64Array,
};
use arrow::datatypes::Int32Type;

use views::definition::{BUCKET, EVENT_COUNT_COLUMN, KEY};

use super::*;

/// Proves that each Arrow type finds its place in a `Value`, and null is a `Value` without one.
#[test]
fn values() {
    let decimal = |v| Decimal128Array::from(vec![v]).with_precision_and_scale(38, 4).unwrap();
    let wide = Decimal256Array::from(vec![i256::from_i128(-5)]).with_precision_and_scale(76, 1).unwrap();
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>([Some([Some(1), None])]);
    let cells: [(ArrayRef, Kind); 12] = [
        (Arc::new(Int64Array::from(vec![-7])), Kind::IntValue(-7)),
        (Arc::new(UInt64Array::from(vec![7])), Kind::IntValue(7)),
        (Arc::new(UInt64Array::from(vec![u64::MAX])), Kind::StringValue("18446744073709551615".into())),
        (Arc::new(Float32Array::from(vec![0.5])), Kind::DoubleValue(0.5)),
        (Arc::new(decimal(123_400)), Kind::DecimalValue("12.34".into())),
        (Arc::new(wide), Kind::DecimalValue("-0.5".into())),
        (Arc::new(BooleanArray::from(vec![true])), Kind::BoolValue(true)),
        (Arc::new(StringArray::from(vec!["a"])), Kind::StringValue("a".into())),
        (Arc::new(TimestampMicrosecondArray::from(vec![-1]).with_timezone("+00:00")), Kind::TimestampValue(timestamp(-1))),
        (Arc::new(TimestampNanosecondArray::from(vec![5_000])), Kind::TimestampValue(timestamp(5))),
        (Arc::new(Date32Array::from(vec![1])), Kind::StringValue("1970-01-02".into())),
        (Arc::new(list), Kind::StringValue("[1, ]".into())),
    ];
    for (column, expected) in cells {
        assert_eq!(value(&column, 0), Value { kind: Some(expected) }, "{}", column.data_type());
    }
    let null: ArrayRef = Arc::new(Int64Array::from(vec![None]));
    assert_eq!(value(&null, 0), Value { kind: None });
}

/// Proves that a measure which bears a field's name but not its type stays a measure, and that the events are counted anyway.
#[test]
fn fields_of_another_type() {
    let outputs = RecordBatch::try_from_iter([
        (KEY, Arc::new(StringArray::from(vec!["u"])) as ArrayRef),
        (BUCKET, Arc::new(TimestampMicrosecondArray::from(vec![None])) as ArrayRef),
        (EVENT_COUNT_COLUMN, Arc::new(Int64Array::from(vec![3])) as ArrayRef),
        ("event_count", Arc::new(StringArray::from(vec!["three"])) as ArrayRef),
        ("revenue", Arc::new(Int64Array::from(vec![5])) as ArrayRef),
    ])
    .unwrap();
    let stats = user_stats("u", &Finished { total: outputs, buckets: None });
    assert_eq!((stats.found, stats.event_count, stats.revenue.as_str()), (true, 3, ""));
    assert_eq!(stats.measures["event_count"].kind, Some(Kind::StringValue("three".into())));
    assert_eq!(stats.measures["revenue"].kind, Some(Kind::IntValue(5)));
}
