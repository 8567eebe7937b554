use storage::erasures::Erasures;
use storage::store::faulty::{CallKind, Fault, FaultyStore};

use super::*;

fn other(id: i64) -> Event {
    Event { user_id: "user-2".to_owned(), ..event(id) }
}

impl Rig {
    async fn erased(&self) -> Vec<i64> {
        Erasures::list(&self.store).await.unwrap().iter().map(|erasure| erasure.offset).collect()
    }
}

/// What the layer says of a user: how many rows of states, and the erasure.
fn said(layer: &SpeedLayer, user: &str, boundary: i64) -> (usize, Option<i64>) {
    let fingerprint = Definition::user_stats(&layer.ingest.schema).fingerprint().to_owned();
    let states = layer.realtime.states(&fingerprint, "", &[(0, boundary)].into(), &[user.to_owned()], false).unwrap();
    (states.slices.iter().map(|slice| slice.rows).sum(), states.erased.first().map(|erased| erased.offset))
}

/// Proves that an erasure takes the user out of all slices and out of the window, nobody else, that what they do afterwards counts,
/// and that all of it is so after a restart, from the log or from a version's boundary on.
#[tokio::test]
async fn at_once_and_after_a_restart() {
    let rig = rig();
    let layer = rig.quiet().await;
    layer.append(vec![event(0), event(1), other(0)]).await;
    layer.realtime.cut().await.unwrap();
    layer.append(vec![event(2)]).await;
    let erasure = layer.realtime.erase("user-1".to_owned()).await.unwrap();
    assert_eq!((erasure.partition, erasure.offset, rig.erased().await), (0, 4, vec![4]));
    assert_eq!((layer.counted(0), layer.counted(3)), (1, 0));
    assert_eq!((said(&layer, "user-1", 0), said(&layer, "user-2", 0)), ((0, Some(4)), (1, None)));
    assert_eq!(layer.append(vec![event(2), event(2)]).await, [Verdict::Accepted, Verdict::Duplicate]);
    layer.realtime.cut().await.unwrap();
    let refused = layer.realtime.check_erasable("").await.unwrap_err();
    assert!(matches!(refused, SpeedError::BadRequest(_)), "{refused:?}");

    // A user who begins like the one who was erased.
    let like = Event { user_id: "user-11".to_owned(), ..event(1) };
    layer.append(vec![like]).await;
    layer.close().await;
    let layer = rig.quiet().await;
    assert_eq!((layer.counted(0), layer.counted(3), layer.counted(6)), (3, 2, 1));
    assert_eq!((said(&layer, "user-1", 0), said(&layer, "user-1", 3), said(&layer, "user-1", 6)), ((1, Some(4)), (1, Some(4)), (0, None)));
    assert_eq!(layer.append(vec![event(2)]).await, [Verdict::Duplicate]);
    layer.close().await;

    // The record is the last that the window of two reaches back to.
    let layer = rig.quiet().await;
    layer.realtime.erase("user-11".to_owned()).await.unwrap();
    layer.close().await;
    let layer = rig.quiet().await;
    let like = Event { user_id: "user-11".to_owned(), ..event(1) };
    assert_eq!(layer.append(vec![like]).await, [Verdict::Accepted]);
    layer.close().await;
}

/// Proves that a version which is prepared later, by a definition that has other keys, folds what it is to fold.
#[tokio::test]
async fn prepared_later() {
    let rig = rig();
    let layer = rig.quiet().await;
    layer.append(vec![event(0), other(1)]).await;
    layer.realtime.cut().await.unwrap();
    layer.append(vec![event(2), other(3)]).await;
    layer.realtime.erase("user-1".to_owned()).await.unwrap();
    layer.realtime.cut().await.unwrap();
    for (version, sql, left) in [
        (1, "SELECT user_id, event_type, count(*) AS event_count, sum(amount) AS s FROM events GROUP BY user_id, event_type", 2),
        (2, "SELECT event_type, count(*) AS event_count, min(amount) AS least FROM events GROUP BY event_type", 4),
    ] {
        let definition = Definition::parse(sql, &rig.config.events).unwrap();
        rig.publish_as(&definition, &layer, version, 0).await;
        layer.realtime.prepare(&ViewName::user_stats(), version).await.unwrap();
        let visible = layer.partition().visible.read().unwrap();
        let slices = &visible.views[definition.fingerprint()];
        let outputs = slices.runs(0, None).unwrap();
        let outputs = views::fold::finish(&definition, &outputs, views::Granularity::Total).unwrap();
        let counts = outputs.column_by_name(views::definition::EVENT_COUNT_COLUMN).unwrap();
        let counts = arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(counts);
        // By other keys nobody can tell; the next run leaves them out.
        assert_eq!(counts.values().iter().sum::<i64>(), left, "{sql}");
    }
    layer.close().await;
}

/// Proves that a segment has the rows that are rows, that its erasures are in the store before it, that one without rows is archived,
/// trimmed and kept as any other, and that a damaged segment with erasures is written afresh.
#[tokio::test]
async fn archived_restored_and_trimmed() {
    let rig = rig();
    let layer = rig.quiet().await;
    layer.append(vec![event(0), event(1)]).await;
    layer.partition().erase("user-1".to_owned()).await.unwrap();
    layer.append(vec![event(0)]).await;
    layer.partition().erase("user-1".to_owned()).await.unwrap();
    assert!(rig.erased().await.is_empty());
    layer.realtime.cut().await.unwrap();
    assert_eq!(rig.erased().await, [2, 4]);
    layer.partition().erase("user-2".to_owned()).await.unwrap();
    layer.realtime.cut().await.unwrap();
    let rows: Vec<_> = list_segments(&rig.store).await.unwrap().iter().map(|meta| (meta.path.range(), meta.seal.rows)).collect();
    assert_eq!(rows, [(0..5, 3), (5..6, 0)]);
    layer.append(vec![other(7)]).await;
    let records = |layer: &SpeedLayer| {
        let log = &layer.partition().log;
        log.read(0..7).unwrap().map(|record| record.unwrap().payload.to_vec()).collect::<Vec<_>>()
    };
    let before = records(&layer);
    layer.close().await;

    rig.spoil(0, 120);
    rig.spoil(5, 80);
    let layer = rig.quiet().await;
    assert_eq!(records(&layer), before);
    assert_eq!(layer.counted(0), 1);

    layer.realtime.cut().await.unwrap();
    for (version, boundary) in [(1, 6), (2, 7)] {
        rig.publish(&layer, version, boundary).await;
        layer.realtime.prepare(&ViewName::user_stats(), version).await.unwrap();
    }
    trim(&layer.realtime, 0).await.unwrap();
    assert_eq!(layer.range(), 6..7);
    layer.close().await;
}

/// Proves that an erasure which the store could not be told of is said to be in the log, is in answers at once, and is put when the
/// store is back: by the server that runs, and by the next one.
#[tokio::test]
async fn the_store_is_told_later() {
    let faulty = FaultyStore::default();
    let rig = Rig { store: Store::from_object_store(Arc::new(faulty.clone())), ..rig() };
    let layer = rig.open().await.unwrap();
    layer.append(vec![event(0), other(1)]).await;
    let fails = |faulty: &FaultyStore| {
        faulty.plan(|call| (call.kind == CallKind::Put && call.path.starts_with("master/erasures")).then_some(Fault::Before));
    };
    fails(&faulty);
    let untold = layer.realtime.erase("user-1".to_owned()).await.unwrap_err();
    assert!(matches!(untold, SpeedError::ErasureNotStored { partition: 0, offset: 2, .. }), "{untold:?}");
    assert_eq!((layer.counted(0), rig.erased().await), (1, vec![]));
    faulty.heal();
    let told = async |offsets: &[i64]| {
        while rig.erased().await != offsets {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), told(&[2])).await.expect("the store is never told");

    fails(&faulty);
    layer.realtime.erase("user-2".to_owned()).await.unwrap_err();
    layer.close().await;
    assert_eq!(rig.erased().await, [2]);
    faulty.heal();
    let layer = rig.open().await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), told(&[2, 3])).await.expect("a restart forgets it");
    layer.close().await;
}
