use std::time::Duration;

use arrow::array::{Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use futures::{StreamExt, stream};

use super::*;

/// Rows of the given identities with their offsets; the content of each is told by its offset.
fn rows(rows: &[(&str, i64)]) -> States<StoreError> {
    let batch = RecordBatch::try_new(
        schema(),
        vec![
            Arc::new(StringArray::from_iter_values(rows.iter().map(|(key, _)| key))),
            Arc::new(TimestampMicrosecondArray::new_null(rows.len()).with_timezone("+00:00")),
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|(_, offset)| *offset))),
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|(_, offset)| offset * 10))),
        ],
    );
    stream::iter([Ok(batch.unwrap())]).boxed()
}

fn path(start: i64, end: i64) -> IdentitiesPath {
    IdentitiesPath { partition: 0, start, end }
}

async fn first(store: &Store, key: &str) -> Option<i64> {
    let chain = chain(&list(store).await.unwrap(), 0);
    let found = Identities::open(store, &chain, None, &BlockCache::new(1 << 20)).await.unwrap().first(key).await.unwrap();
    found.inspect(|first| assert_eq!(first.content_hash, first.offset * 10)).map(|first| first.offset)
}

/// Proves that the lowest offset of an identity is found, whether its files stand side by side or were made one, and that only what
/// lies inside of another is removed, after its grace.
#[tokio::test]
async fn the_lowest_offset_wins() {
    let store = Store::open("memory://").unwrap();
    assert_eq!(first(&store, "a").await, None);
    let oldest = write(&store, &path(0, 10), &[], rows(&[("a", 3), ("b", 9)])).await.unwrap();
    let middle = write(&store, &path(10, 20), &[], rows(&[("a", 10), ("c", 12)])).await.unwrap();
    let expected = [("a", Some(3)), ("b", Some(9)), ("c", Some(12)), ("d", None)];
    for (key, offset) in expected {
        assert_eq!(first(&store, key).await, offset, "{key}");
    }
    write(&store, &path(0, 30), &[oldest, middle], rows(&[("a", 21), ("b", 22), ("c", 23), ("d", 29)])).await.unwrap();
    assert_eq!(chain(&list(&store).await.unwrap(), 0).len(), 1);
    for (key, offset) in [("a", Some(3)), ("b", Some(9)), ("c", Some(12)), ("d", Some(29))] {
        assert_eq!(first(&store, key).await, offset, "{key}");
    }
    let now = SystemTime::from(list(&store).await.unwrap()[0].written);
    assert_eq!(remove_covered(&store, now - Duration::from_secs(3600)).await.unwrap(), 0);
    assert_eq!(remove_covered(&store, now + Duration::from_secs(3600)).await.unwrap(), 2);
    assert_eq!(first(&store, "d").await, Some(29));
}

/// Proves that a chain goes as far as there are adjacent files and no further, by the longest ones.
#[tokio::test]
async fn chains() {
    let store = Store::open("memory://").unwrap();
    for (start, end) in [(0, 10), (10, 20), (0, 20), (20, 30), (40, 50)] {
        write(&store, &path(start, end), &[], rows(&[("a", start)])).await.unwrap();
    }
    let ranges: Vec<_> = chain(&list(&store).await.unwrap(), 0).into_iter().map(|file| file.path.range()).collect();
    assert_eq!(ranges, [0..20, 20..30]);
    assert!(chain(&list(&store).await.unwrap(), 1).is_empty());
}

/// Proves that a file that is not as it was sealed is an error that names it, and that one without a seal is not there.
#[tokio::test]
async fn damage() {
    let store = Store::open("memory://").unwrap();
    let written = write(&store, &path(0, 10), &[], rows(&[("a", 3)])).await.unwrap();
    let mut bytes = store.get(&written.path.path()).await.unwrap().to_vec();
    bytes[10] ^= 1;
    store.put_durable(&written.path.path(), bytes.into()).await.unwrap();
    let error = Identities::open(&store, std::slice::from_ref(&written), None, &BlockCache::new(0)).await.unwrap_err();
    assert!(matches!(&error, StoreError::Checksum { path, .. } if *path == written.path.path().to_string()), "{error}");
    store.delete(&written.path.seal_path()).await.unwrap();
    assert_eq!(list(&store).await.unwrap(), []);
}
