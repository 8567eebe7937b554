use std::sync::Arc;

use arrow::array::{AsArray, Int64Array};
use arrow::compute::concat_batches;
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use serde_json::json;
use views::schema::{APPEND_TIME, AttributeType, CONTENT_HASH, EXTRA, OFFSET, PARTITION};
use views::{Event, EventSchema, Refusal, shard_of};

use super::*;
use crate::dead_letter::DeadLetter;
use crate::record::content_hash;
use crate::store::faulty::{CallKind, Fault, FaultyStore};

const PARTITIONS: u32 = 3;

fn memory() -> Store {
    Store::open("memory://").unwrap()
}

fn schema() -> EventSchema {
    EventSchema { attributes: [("quantity".to_owned(), AttributeType::Int64)].into(), ..EventSchema::default() }
}

fn event(i: i64) -> Event {
    Event {
        event_id: format!("e{i}"),
        user_id: format!("user-{}", i % 7),
        event_time_us: i * 1_000_000,
        event_type: "sale".to_owned(),
        amount: Some(i128::from(i) * 100),
        attributes: [("quantity".to_owned(), "2".to_owned()), ("note".to_owned(), format!("n{i}"))].into(),
    }
}

fn identity(content: &str) -> Identity {
    Identity { content: content.to_owned(), mapping: None, format: "csv".to_owned() }
}

fn terms(now_us: i64) -> Terms {
    Terms { partitions: PARTITIONS, events: schema(), views: Vec::new(), name: "a.csv".to_owned(), now_us }
}

/// Imports `content`: 20 events, and two rows that are refused.
async fn import(store: &Store, content: &str, now_us: i64) -> Result<ImportMeta, StoreError> {
    let claim = Claims::new(store.clone()).claim(&identity(content), &terms(now_us)).await?;
    if let Some(there) = committed(store, &claim).await? {
        return Ok(there);
    }
    let mut writer = Box::pin(ImportWriter::create(store, &claim)).await?;
    for i in 0..20 {
        writer.push(event(i))?;
        if i % 10 == 3 {
            writer.refuse(Refusal::new("user_id", "is missing"), json!({ "event_id": format!("bad-{i}") }))?;
        }
    }
    Box::pin(writer.commit()).await
}

async fn objects(store: &Store) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for object in store.list(&ObjectPath::ROOT).await.unwrap() {
        found.push((object.location.to_string(), store.get(&object.location).await.unwrap().to_vec()));
    }
    found
}

async fn text(store: &Store, object: ImportObject) -> String {
    String::from_utf8(store.get(&path(1, object)).await.unwrap().to_vec()).unwrap()
}

/// Proves that every event comes back in its user's partition with its content and its place below zero, in columns asked for, and
/// that refused rows are letters.
#[tokio::test]
async fn round_trip() {
    let store = memory();
    let meta = import(&store, "aa", 5).await.unwrap();
    assert_eq!(list(&store).await.unwrap(), std::slice::from_ref(&meta));
    verify(&store, &meta).await.unwrap();
    assert_eq!((meta.received_count, meta.written_count, meta.refused_count), (22, 20, 2));
    assert_eq!((meta.first_event_time_us, meta.last_event_time_us), (Some(0), Some(19_000_000)));

    for partition in 0..PARTITIONS {
        let batches: Vec<_> = read_partition(&store, &meta, partition, None).await.unwrap().try_collect().await.unwrap();
        let expected: Vec<Event> = (0..20).map(event).filter(|e| shard_of(&e.user_id, PARTITIONS) == partition).collect();
        assert_eq!(meta.offsets(partition).count(), expected.len());
        assert!(meta.offsets(partition).all(|offset| offset < 0 && import_of(offset) == Some(1)));
        if expected.is_empty() {
            assert!(batches.is_empty() && meta.file(partition).is_none());
            continue;
        }
        let rows = concat_batches(&schema().arrow(), &batches).unwrap();
        let ids: Vec<&str> = rows["event_id"].as_string::<i32>().iter().map(Option::unwrap).collect();
        assert_eq!(ids, expected.iter().map(|e| e.event_id.as_str()).collect::<Vec<_>>());
        assert_eq!(rows[OFFSET].as_primitive::<Int64Type>().values(), &meta.offsets(partition).collect::<Vec<_>>()[..]);
        assert!(rows[PARTITION].as_primitive::<Int32Type>().values().iter().all(|p| *p == partition as i32));
        assert!(rows[APPEND_TIME].as_primitive::<TimestampMicrosecondType>().values().iter().all(|t| *t == 5));
        assert_eq!(rows["quantity"].as_primitive::<Int64Type>().value(0), 2);
        assert_eq!(rows[EXTRA].as_string::<i32>().value(0), format!("{{\"note\":\"n{}\"}}", &ids[0][1..]));
        let hashes: Int64Array = expected.iter().map(|e| content_hash(e, &schema())).collect();
        assert_eq!(rows[CONTENT_HASH].as_primitive::<Int64Type>(), &hashes);

        let wanted = [OFFSET.to_owned(), "user_id".to_owned(), "no_such".to_owned()];
        let some: Vec<_> = read_partition(&store, &meta, partition, Some(&wanted)).await.unwrap().try_collect().await.unwrap();
        assert_eq!(some[0].schema().fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>(), ["user_id", OFFSET]);
    }

    let letters = text(&store, ImportObject::DeadLetters).await;
    let letters: Vec<DeadLetter> = letters.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let expected = |id: &str| DeadLetter {
        received_time_us: 5,
        field: "user_id".to_owned(),
        reason: "is missing".to_owned(),
        event: json!({ "event_id": id }),
    };
    assert_eq!(letters, [expected("bad-3"), expected("bad-13")]);
}

/// Proves that the bytes of a claim, of a commit and of the rows never change, and that no flipped bit of either JSON goes unnoticed.
#[tokio::test]
async fn frozen_bytes() {
    let store = memory();
    let meta = import(&store, &"ab".repeat(32), 5).await.unwrap();
    let claim = format!(
        r#"{{
  "format_version": 1,
  "import": 1,
  "identity": {{
    "content": "{}",
    "mapping": null,
    "format": "csv"
  }},
  "partitions": 3,
  "events": {{
    "amount": "decimal(18,4)",
    "attributes": {{
      "quantity": "int64"
    }}
  }},
  "views": [],
  "claimed_time_us": 5,
  "name": "a.csv",
  "checksum": "03fccb86dc7fe1953f4c15eb4f002b2780dabe2da5ef2a41115db2d56e689f08"
}}
"#,
        "ab".repeat(32)
    );
    let commit = format!(
        r#"{{
  "format_version": 1,
  "import": 1,
  "identity": {{
    "content": "{}",
    "mapping": null,
    "format": "csv"
  }},
  "name": "a.csv",
  "partitions": 3,
  "claimed_time_us": 5,
  "received_count": 22,
  "written_count": 20,
  "refused_count": 2,
  "first_event_time_us": 0,
  "last_event_time_us": 19000000,
  "files": [
    {{
      "partition": 0,
      "rows": 11,
      "bytes": 3979,
      "blake3": "1114f1790b1785ad0fc25f18de6205e7cced0db2f986c056145669e67b41676c"
    }},
    {{
      "partition": 1,
      "rows": 6,
      "bytes": 3797,
      "blake3": "9374fc59647635e33bbf222916d01272f56881661e878571899e63292e0e9a76"
    }},
    {{
      "partition": 2,
      "rows": 3,
      "bytes": 3698,
      "blake3": "b6f2732fdae1c7686528ea63b5c9d85654c2ac830948c6b0c9d44956895ba63e"
    }}
  ],
  "dead_letters": {{
    "bytes": 185,
    "blake3": "58cd6960431d978da6f3e20c21515dd9e67468b08c7a075be3146de784030f40"
  }},
  "checksum": "63e387a349b3a8b1aca5cb69423ed21810466a06cbd357c8043c9a57226da3eb"
}}
"#,
        "ab".repeat(32)
    );
    assert_eq!(text(&store, ImportObject::Claim).await, claim);
    assert_eq!(text(&store, ImportObject::Commit).await, commit);

    let claim = Claims::new(store.clone()).claim(&identity(&"ab".repeat(32)), &terms(9)).await.unwrap();
    assert_eq!(committed(&store, &claim).await.unwrap(), Some(meta));
    for object in [ImportObject::Claim, ImportObject::Commit] {
        let path = path(1, object);
        let good = store.get(&path).await.unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            store.put_durable(&path, bad.into()).await.unwrap();
            let refused = match object {
                ImportObject::Claim => Claims::new(store.clone()).claim(&identity("aa"), &terms(9)).await.unwrap_err().to_string(),
                _ => list(&store).await.unwrap_err().to_string(),
            };
            assert!(refused.contains(path.as_ref()), "{refused}");
        }
        store.put_durable(&path, good).await.unwrap();
    }
}

/// Proves that an import that dies at any put, with or without an effect, does not exist or exists whole, and that the same import
/// goes on under its number to the very bytes of one that never died.
#[tokio::test]
async fn torn_at_every_step() {
    let whole = FaultyStore::default();
    import(&Store::from_object_store(Arc::new(whole.clone())), "aa", 5).await.unwrap();
    let expected = objects(&Store::from_object_store(Arc::new(whole.clone()))).await;
    let puts = whole.calls().iter().filter(|call| call.kind == CallKind::Put).count();
    assert_eq!(puts, expected.len(), "each object is put once");

    for fault in [Fault::Before, Fault::After] {
        for dies_at in 1..=puts {
            let faulty = FaultyStore::default();
            let store = Store::from_object_store(Arc::new(faulty.clone()));
            let mut put = 0;
            faulty.plan(move |call| {
                put += usize::from(call.kind == CallKind::Put);
                match put {
                    _ if put < dies_at => None,
                    _ if put == dies_at && call.kind == CallKind::Put => Some(fault),
                    _ => Some(Fault::Before),
                }
            });
            import(&store, "aa", 5).await.unwrap_err();
            faulty.heal();
            let found = list(&store).await.unwrap();
            assert_eq!(found.len(), usize::from(fault == Fault::After && dies_at == puts), "{fault:?} {dies_at}");

            // Later, by another process, whose clock says something else: the claim decides.
            let again = import(&store, "aa", if dies_at == 1 && fault == Fault::Before { 5 } else { 99 }).await.unwrap();
            assert_eq!((again.import, list(&store).await.unwrap()), (1, vec![again]));
            assert_eq!(objects(&store).await, expected, "{fault:?} {dies_at}");
        }
    }
}

/// Proves that one content has one number however often and by whomever it is imported, that any other content, mapping or format
/// has the next one, and that a race for a number is lost without a trace.
#[tokio::test]
async fn numbers() {
    let faulty = FaultyStore::default();
    let store = Store::from_object_store(Arc::new(faulty.clone()));
    let first = import(&store, "aa", 5).await.unwrap();
    assert_eq!(import(&store, "aa", 6).await.unwrap(), first);
    let claims = Claims::new(store.clone());
    let number = async |claims: &Claims, identity: &Identity| claims.claim(identity, &terms(7)).await.unwrap().import;
    let mapped = Identity { mapping: Some("cc".to_owned()), ..identity("aa") };
    let other = Identity { format: "jsonl".to_owned(), ..identity("aa") };
    assert_eq!(number(&claims, &identity("bb")).await, 2);
    assert_eq!(number(&claims, &mapped).await, 3);
    assert_eq!(number(&claims, &other).await, 4);
    assert_eq!(number(&claims, &identity("bb")).await, 2);

    // Two look at once and see the same free number: the one that loses goes on to the next, or finds its own content there.
    for (rival, expected) in [(identity("dd"), 6), (identity("ee"), 7)] {
        let (claims, mine) = (Claims::new(store.clone()), identity("ee"));
        let free = Claims::new(store.clone()).claim(&rival, &terms(8)).await.unwrap().import;
        let hidden = path(free, ImportObject::Claim).to_string();
        let mut hide = true;
        // The rival's claim is not there yet when it is looked for.
        faulty.plan(move |call| (call.kind == CallKind::Get && call.path == hidden && std::mem::take(&mut hide)).then_some(Fault::Nothing));
        let ours = claims.claim(&mine, &terms(99)).await.unwrap().import;
        faulty.heal();
        assert_eq!(ours, if rival == mine { free } else { expected });
    }
    let committed: Vec<i64> = list(&store).await.unwrap().iter().map(|meta| meta.import).collect();
    assert_eq!(committed, [1], "claims alone are no imports");
}

/// Proves that an import is not gone on with for another number of partitions or under another type of a column, with a sentence
/// that says so, and that a column which was declared since changes nothing.
#[tokio::test]
async fn other_terms() {
    let store = memory();
    let claims = Claims::new(store.clone());
    let claim = claims.claim(&identity("aa"), &terms(5)).await.unwrap();
    let refused = async |terms: Terms| Claims::new(store.clone()).claim(&identity("aa"), &terms).await.unwrap_err().to_string();
    let attributes = |kind| EventSchema { attributes: [("quantity".to_owned(), kind)].into(), ..schema() };
    let amount = AttributeType::try_from("decimal(18,2)".to_owned()).unwrap();
    for (terms, reason) in [
        (Terms { partitions: 4, ..terms(6) }, "3 partitions, and here are 4"),
        (Terms { events: attributes(AttributeType::String), ..terms(6) }, "events.attributes.quantity"),
        (Terms { events: EventSchema { amount, ..schema() }, ..terms(6) }, "events.amount"),
    ] {
        let said = refused(terms).await;
        assert!(said.contains(reason) && said.contains("claim.json"), "{said}");
    }
    let mut more = schema();
    more.attributes.insert("item".to_owned(), AttributeType::String);
    assert_eq!(claims.claim(&identity("aa"), &Terms { events: more, ..terms(6) }).await.unwrap(), claim);
}

/// Proves that a flipped bit of a row or of a letter, a missing file and a missing claim are found, naming the object.
#[tokio::test]
async fn damaged() {
    let store = memory();
    let meta = import(&store, "aa", 5).await.unwrap();
    import(&store, "bb", 5).await.unwrap();
    for object in [ImportObject::File { partition: meta.files[0].partition }, ImportObject::DeadLetters] {
        let path = path(1, object);
        let good = store.get(&path).await.unwrap();
        for bit in (0..good.len() * 8).step_by(7) {
            let mut bad = good.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            store.put_durable(&path, bad.into()).await.unwrap();
            let found = verify(&store, &meta).await.unwrap_err().to_string();
            assert!(found.contains(path.as_ref()), "{found}");
        }
        store.delete(&path).await.unwrap();
        assert!(matches!(verify(&store, &meta).await, Err(StoreError::NotFound { path: p }) if p == path.to_string()));
        store.put_durable(&path, good).await.unwrap();
    }
    verify(&store, &meta).await.unwrap();

    let claim = path(1, ImportObject::Claim);
    store.delete(&claim).await.unwrap();
    let found = list(&store).await.unwrap_err().to_string();
    assert!(found.contains(claim.as_ref()), "{found}");
    // The number looks free; the commit that is there says that it is not.
    let found = import(&store, "cc", 5).await.unwrap_err().to_string();
    assert!(found.contains(path(1, ImportObject::Commit).as_ref()), "{found}");
}

/// Proves that offsets are below zero for every import, ascend with its number, and do not meet.
#[test]
fn offsets_below_zero() {
    assert_eq!(first_offset(1), -(1 << 62) + (1 << 32));
    for import in [1, 2, 1000, LAST_IMPORT] {
        let last = first_offset(import) + MAX_ROWS - 1;
        assert!(last < 0 && last < first_offset(import + 1));
        assert_eq!((import_of(first_offset(import)), import_of(last)), (Some(import), Some(import)));
    }
    assert_eq!(import_of(0), None);
}
