//! A log whose attributes are given other types.

use super::*;

const SQL: &str = "SELECT user_id, count(*) AS event_count, sum(weight) AS weight FROM events GROUP BY user_id";

fn weighing(id: i64, weight: &str) -> Event {
    Event { attributes: [("weight".to_owned(), weight.to_owned())].into(), ..event(id) }
}

/// Gives the attribute a type; none takes it out.
fn declare(rig: &mut Rig, kind: Option<&str>) {
    let attributes = &mut rig.config.events.attributes;
    match kind {
        Some(kind) => drop(attributes.insert("weight".to_owned(), kind.to_owned().try_into().unwrap())),
        None => drop(attributes.remove("weight")),
    }
}

/// Proves that a server does not start with an attribute in a type that does not hold all values of a version that reads it, nor without
/// it; that it starts with one that does, and refuses what that version would take for null for as long as it is kept; and that the
/// version cannot come back once such a value was accepted.
#[tokio::test]
async fn widened_under_a_version() {
    let mut rig = rig();
    declare(&mut rig, Some("int64"));
    let layer = rig.quiet().await;
    layer.append(vec![weighing(0, "2"), weighing(1, "+3")]).await;
    let boundary = layer.realtime.cut().await.unwrap()[0];
    let narrow = Definition::parse(SQL, &rig.config.events).unwrap();
    rig.publish_as(&narrow, &layer, 1, boundary).await;
    layer.close().await;

    for kind in [Some("float64"), Some("string"), Some("decimal(20,3)"), None] {
        declare(&mut rig, kind);
        let error = rig.open().await.map(|_| ()).unwrap_err();
        let names = matches!(&error, SpeedError::ColumnType { column, stored, version: 1, .. } if column == "attributes.weight" && stored == "int64");
        assert!(names, "{kind:?}: {error}");
    }

    declare(&mut rig, Some("decimal(22,3)"));
    let layer = rig.quiet().await;
    let verdicts = layer.append(vec![weighing(2, "4"), weighing(3, "1.5"), weighing(4, "5.0")]).await;
    assert_eq!(verdicts[0], Verdict::Accepted);
    for refused in &verdicts[1..] {
        let Verdict::Refused(refusal) = refused else { panic!("{verdicts:?}") };
        assert!(refusal.field == "attributes.weight" && refusal.reason.contains("reads it as int64"), "{refusal:?}");
    }
    // With the last version that reads it so, the refusal goes.
    let wide = Definition::parse(SQL, &rig.config.events).unwrap();
    let view = ViewName::user_stats();
    for version in [2, 3] {
        let refused = layer.append(vec![weighing(10 + version, "1.5")]).await;
        assert!(matches!(refused[..], [Verdict::Refused(_)]), "{refused:?}");
        rig.publish_as(&wide, &layer, version, boundary).await;
        layer.realtime.prepare(&view, version).await.unwrap();
    }
    assert_eq!(layer.append(vec![weighing(3, "1.5")]).await, [Verdict::Accepted]);
    assert_eq!(layer.counted(boundary), 2);
    let error = layer.realtime.check_version(&view, 1).await.unwrap_err();
    assert!(matches!(&error, SpeedError::Fold { offset: 3, .. }), "{error}");

    rig.publish_as(&narrow, &layer, 4, boundary).await;
    let error = layer.realtime.prepare(&view, 4).await.unwrap_err();
    assert!(matches!(&error, SpeedError::Fold { offset: 3, reason, .. } if reason.contains("attributes.weight")), "{error}");
    layer.close().await;
}
