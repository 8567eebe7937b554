//! An answer as it is given now, counted again from the raw events.

use super::fake_speed_layer::FakeSpeedLayer;
use super::incremental::declare;
use super::*;
use crate::{Recount, recount};

const USER_TYPES: (&str, &str) =
    ("user_types", "SELECT user_id, event_type, count(*) AS event_count, sum(amount) AS revenue FROM events GROUP BY user_id, event_type");
const TYPES: (&str, &str) = ("types", "SELECT event_type, count(*) AS event_count, sum(amount) AS revenue FROM events GROUP BY event_type");

async fn recounted(options: &RunOptions, speed: FakeSpeedLayer, master: &Master, first: &str) -> Result<Recount, RunError> {
    let options = RunOptions { speed_layer: Some(speed.serve().await), ..options.clone() };
    Ok(recount(&options, &master.store, first, Arc::new(Silent)).await?.expect("there is a version"))
}

/// Count and revenue in the lines of a key, which are those of both halves and of the whole, each as it is answered and counted again;
/// nothing is a dash.
fn lines_of(recount: &Recount, key: &str) -> Vec<String> {
    let said = recount.to_string();
    let lines = said.lines().skip_while(|line| !line.starts_with(&format!("{key}  "))).take(6);
    let cells = |line: &str| {
        let cells = line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect::<Vec<_>>();
        let measures = cells.iter().skip_while(|cell| !["the version", "raw events", "the speed layer", "both"].contains(cell)).skip(1);
        measures.take(2).copied().collect::<Vec<_>>().join(" ")
    };
    lines.map(cells).collect()
}

/// Count and revenue of the events of a user, each identity once.
fn of_user(events: &[Event], user: &str) -> String {
    let days: Vec<(i64, i128)> = oracle(events).into_iter().filter(|((of, _), _)| of == user).map(|(_, day)| day).collect();
    let (count, revenue) = days.iter().fold((0, 0), |(count, revenue), day| (count + day.0, revenue + day.1));
    if days.is_empty() { "- -".to_owned() } else { format!("{count} {}.{:04}", revenue / 10_000, revenue % 10_000) }
}

/// Events of few users, none sent twice, numbered from `from` on.
fn fresh_events(from: usize, count: usize) -> Vec<Event> {
    let fresh = |i: usize| event(&format!("user-{}", i % 7), &format!("e{i}"), (i % 5) as i64, 20_000 + i as i128);
    (from..from + count).map(fresh).collect()
}

/// Proves that the figures of both halves and of the whole are those of the raw events, up to a cut beyond which more comes, with
/// imports that the version covers and without those that it does not; that somebody whom only one half knows, and who nobody knows,
/// are told; and that nothing is published.
#[tokio::test]
async fn both_halves() {
    let history = [event("user-1", "h1", 2, 70_000), event("user-3", "h2", 2, 1)];
    let old = [fresh_events(0, 80), vec![event("only-old", "o", 1, 5_000)]].concat();
    let mut master = Master::with(&old).await;
    master.import(&history).await;
    let nobody_asked = RunOptions { speed_layer: Some("http://127.0.0.1:1".into()), ..master.options() };
    assert!(recount(&nobody_asked, &master.store, "user-1", Arc::new(Silent)).await.unwrap().is_none());
    master.publish(&master.options()).await;
    let new = [fresh_events(100, 40), vec![event("only-new", "n", 1, 9_000)]].concat();
    master.append(&new).await;
    let speed = FakeSpeedLayer::of(&master);
    master.append(&fresh_events(300, 40)).await;
    master.import(&[event("user-1", "later", 2, 1)]).await;

    let (below, all) = ([history.as_slice(), &old].concat(), [history.as_slice(), &old, &new].concat());
    for user in ["user-1", "user-3", "only-old", "only-new"] {
        let found = recounted(&master.options(), speed.clone(), &master, user).await.unwrap();
        found.verdict().unwrap();
        assert_eq!((found.keys_compared, found.repeats), (1, 0), "{found}");
        let expected = [&below, &new, &all].map(|events| of_user(events, user));
        assert_eq!(lines_of(&found, user), expected.each_ref().map(|half| [half.clone(), half.clone()]).concat(), "{found}");
        assert_eq!(found.cut, speed.boundary);
    }
    let nobody = recounted(&master.options(), speed, &master, "nobody").await.unwrap();
    nobody.verdict().unwrap();
    assert!(nobody.keys_compared == 0 && nobody.to_string().contains("nothing has this key"), "{nobody}");
    assert_eq!(master.latest().await.unwrap().version, 1);
}

/// Proves that a half that says something else is named with both values, whichever it is, and that other users are none of it.
#[tokio::test]
async fn one_half_differs() {
    let mut master = Master::with(&fresh_events(0, 70)).await;
    master.publish(&master.options()).await;
    let covered = master.boundary();
    master.append(&fresh_events(100, 70)).await;

    let mut speed = FakeSpeedLayer::of(&master);
    speed.log.as_mut().unwrap().iter_mut().flatten().filter(|e| e.event_id == "e101").for_each(|e| e.amount = Some(0));
    let wrong = fresh_events(101, 1).remove(0).user_id;
    let found = recounted(&master.options(), speed.clone(), &master, &wrong).await.unwrap();
    let lines = lines_of(&found, &wrong);
    assert!(lines[0] == lines[1] && lines[2] != lines[3] && lines[4] != lines[5], "{found}");
    let error = found.verdict().unwrap_err();
    let RunError::UnlikeNow { differences, repeats: 0, .. } = &error else { panic!("{error}") };
    assert_eq!((differences.keys, differences.named[0].key.as_str(), error.exit_code()), (1, wrong.as_str(), 1));
    let (here, there) = (&differences.named[0].new, &differences.named[0].expected);
    assert!(
        here != there && error.to_string().contains(&format!("revenue is {here} as it is answered, {there} from the raw events")),
        "{error}"
    );
    recounted(&master.options(), speed, &master, "user-0").await.unwrap().verdict().unwrap();

    // A version that says that it covers what it has not counted.
    let manifests = Manifests::new(master.store.clone(), view());
    let lies =
        Manifest { version: 2, parent: Some(1), run_id: "lies".into(), boundary: master.boundary(), ..manifests.read(1).await.unwrap() };
    manifests.publish(&lies).await.unwrap();
    let found = recounted(&master.options(), FakeSpeedLayer::of(&master), &master, "user-0").await.unwrap();
    let lines = lines_of(&found, "user-0");
    assert!(lines[0] != lines[1] && lines[2..4] == ["- -", "- -"], "{found}");
    assert!(matches!(found.verdict().unwrap_err(), RunError::UnlikeNow { version: 2, .. }), "{covered:?}");
}

/// Proves that what the speed layer counts although it was there before, in the log or in an import, is told as what it is.
#[tokio::test]
async fn repeated_since() {
    let old = [event("user-1", "a", 1, 10_000), event("user-2", "a", 1, 10_000)];
    let mut master = Master::with(&old).await;
    master.import(&[event("user-1", "i", 1, 10_000)]).await;
    master.publish(&master.options()).await;
    master.append(&[old[0].clone(), event("user-1", "i", 1, 10_000), event("user-1", "b", 1, 10_000)]).await;
    let found = recounted(&master.options(), FakeSpeedLayer::of(&master), &master, "user-1").await.unwrap();
    assert_eq!(lines_of(&found, "user-1"), ["2 2.0000", "2 2.0000", "3 3.0000", "1 1.0000", "5 5.0000", "3 3.0000"], "{found}");
    let error = found.verdict().unwrap_err().to_string();
    assert!(found.repeats == 2 && error.contains("2 events since the version repeat earlier ones"), "{error}");
    let other = recounted(&master.options(), FakeSpeedLayer::of(&master), &master, "user-2").await.unwrap();
    assert_eq!((other.repeats, other.verdict().is_ok()), (0, true));
}

/// Proves that a view of longer keys is counted for all keys of the user, and of no other whose id begins alike; that a view by another
/// key is counted over all partitions; and that a view which keeps some days is counted for those.
#[tokio::test]
async fn other_views() {
    let folder = tempfile::tempdir().unwrap();
    let typed = |from, count| {
        let mut events = fresh_events(from, count);
        events.extend(fresh_events(from + 5000, count).into_iter().map(|event| Event { user_id: format!("{}0", event.user_id), ..event }));
        events.iter_mut().enumerate().for_each(|(i, event)| event.event_type = ["sale", "return"][i % 2].to_owned());
        events
    };
    let mut master = Master::new(schema());
    master.append_time_us = 4 * DAY_US;
    master.append(&typed(0, 60)).await;
    let kept = (
        "kept",
        "-- keep: 48h\nSELECT user_id, date_trunc('day', event_time) AS day, count(*) AS event_count FROM events GROUP BY user_id, date_trunc('day', event_time)",
    );
    let views = [USER_TYPES, TYPES, kept];
    for declared in views {
        master.publish(&RunOptions { incremental: false, ..declare(&folder, &master, declared) }).await;
    }
    master.append(&typed(200, 60)).await;
    let all = [typed(0, 60), typed(200, 60)].concat();
    for (declared, first, keys) in [(USER_TYPES, "user-1", 2), (TYPES, "sale", 1), (kept, "user-1", 1)] {
        let speed = FakeSpeedLayer { sql: declared.1, ..FakeSpeedLayer::of(&master) };
        let found = recounted(&declare(&folder, &master, declared), speed, &master, first).await.unwrap();
        found.verdict().unwrap();
        assert_eq!(found.keys_compared, keys, "{found}");
        let counted = |of: &dyn Fn(&Event) -> bool| all.iter().filter(|event| of(event)).count();
        let expected = match declared.0 {
            "types" => counted(&|event| event.event_type == "sale"),
            "user_types" => counted(&|event| event.user_id == "user-1" && event.event_type == "sale"),
            _ => counted(&|event| event.user_id == "user-1" && event.event_time_us / DAY_US >= 2),
        };
        let key = if declared.0 == "user_types" { "user-1, sale" } else { first };
        let answer = &lines_of(&found, key)[4];
        assert_eq!(answer.split(' ').next(), Some(expected.to_string().as_str()), "{found}");
    }
}

/// Proves that nothing is left of who was erased since the version, in a view by user; that a view by another key, which counts them
/// until its next run, and a user who was erased after the cut are told to wait.
#[tokio::test]
async fn erased_since() {
    let folder = tempfile::tempdir().unwrap();
    let mut master = Master::with(&fresh_events(0, 70)).await;
    master.publish(&master.options()).await;
    let types = declare(&folder, &master, TYPES);
    master.publish(&types).await;
    master.append(&fresh_events(100, 7)).await;
    let boundary = master.boundary();
    master.append(&[erasure("user-1"), event("user-1", "again", 1, 70_000)]).await;

    let found = recounted(&master.options(), FakeSpeedLayer::of(&master), &master, "user-1").await.unwrap();
    found.verdict().unwrap();
    assert_eq!(lines_of(&found, "user-1"), ["- -", "- -", "1 7.0000", "1 7.0000", "1 7.0000", "1 7.0000"], "{found}");
    let before = FakeSpeedLayer { boundary, ..FakeSpeedLayer::of(&master) };
    let refused = recounted(&master.options(), before.clone(), &master, "user-1").await.unwrap_err();
    assert!(refused.to_string().contains("erased meanwhile; ask again"), "{refused}");
    recounted(&master.options(), before, &master, "user-2").await.unwrap().verdict().unwrap();
    let speed = FakeSpeedLayer { sql: TYPES.1, ..FakeSpeedLayer::of(&master) };
    let refused = recounted(&types, speed, &master, "null").await.unwrap_err();
    assert!(matches!(&refused, RunError::NotRecounted { version: 1, reason, .. } if reason.contains("batch-layer run")), "{refused}");
}

/// Proves that nobody compares half an answer: without a speed layer, or with one that lets go of what came after the version.
#[tokio::test]
async fn half_an_answer() {
    let mut master = Master::with(&fresh_events(0, 7)).await;
    master.publish(&master.options()).await;
    let refused = recount(&master.options(), &master.store, "user-1", Arc::new(Silent)).await.unwrap_err();
    assert!(matches!(refused, RunError::NoSpeedLayer) && refused.exit_code() == 2);
    let down = RunOptions { speed_layer: Some("http://127.0.0.1:1".into()), ..master.options() };
    let refused = recount(&down, &master.store, "user-1", Arc::new(Silent)).await.unwrap_err();
    assert!(refused.exit_code() == 4 && !refused.to_string().contains("--no-speed-layer"), "{refused}");
    master.append(&fresh_events(100, 7)).await;
    let retired = FakeSpeedLayer { log: None, ..FakeSpeedLayer::of(&master) };
    let refused = recounted(&master.options(), retired, &master, "user-1").await.unwrap_err();
    assert!(matches!(&refused, RunError::NotRecounted { reason, .. } if reason.contains("retired")), "{refused}");
}
