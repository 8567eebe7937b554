use super::*;

/// Proves that an attribute declared after a segment was written is read from `_extra`, null where its text is not of the type, and
/// from its column in younger segments.
#[tokio::test]
async fn a_newly_declared_attribute() {
    let mut master = Master::new(EventSchema::default());
    let with =
        |id: &str, quantity: &str| Event { attributes: [("quantity".to_owned(), quantity.to_owned())].into(), ..event("user-1", id, 0, 1) };
    master.append(&[with("a", "3"), with("b", "three"), Event { attributes: BTreeMap::new(), ..event("user-1", "c", 0, 1) }]).await;
    master.schema = schema();
    master.append(&[with("d", "40")]).await;

    let folder = tempfile::tempdir().unwrap();
    let sql = "SELECT user_id, count(*) AS event_count, sum(quantity) AS pieces, count(quantity) AS known FROM events GROUP BY user_id";
    std::fs::write(folder.path().join("user_stats.sql"), sql).unwrap();
    master.publish(&RunOptions { views_dir: folder.path().to_owned(), ..master.options() }).await;

    let definition = Definition::parse(sql, &master.schema).unwrap();
    let open = OpenView::open(&master.store, master.latest().await.unwrap(), &BlockCache::new(0)).await.unwrap();
    let states = open.rows(shard_of("user-1", PARTITIONS), "user-1").await.unwrap();
    let rows = fold::finish(&definition, &states, Granularity::Total).unwrap();
    let value = |name: &str| arrow::util::display::array_value_to_string(rows.column_by_name(name).unwrap(), 0).unwrap();
    assert_eq!((value("event_count"), value("pieces"), value("known")), ("4".to_owned(), "43".to_owned(), "2".to_owned()));
}
